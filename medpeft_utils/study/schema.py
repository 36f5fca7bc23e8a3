"""The schema of a record. A run is settled only if its record fits it."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Annotated, Any, Literal

from medpeft_utils.core.errors import short

SCHEMA = 1
LARGEST, DEEPEST = 1e300, 20  # of a record's numbers and nesting
COUNTS = 'trainable_parameters', 'head_parameters', 'total_parameters'
STATUSES = 'done', 'failed', 'died'
REQUIRED_SCORES = ('f1_macro',)  # a score that is added to `SCORES` later must not hide what was recorded before
SCORES = ['f1_macro', 'f1_weighted', 'f1_micro', 'accuracy', 'balanced_accuracy', 'auroc', 'calibration_error']


@cache
def _schema() -> dict[bool, type]:
    """What a record must be, as pydantic models, by whether it is done; what they do not name passes as it is."""
    from pydantic import BaseModel, ConfigDict, Field, create_model

    class Part(BaseModel):
        model_config = ConfigDict(extra='allow', strict=True, allow_inf_nan=False)

    def part(name: str, maybe: dict[Any, str] | None = None, **fields: Any) -> type:
        """A part of a record; `maybe` has types and the names of fields that have it or are not there."""
        optional = {field: (kind | None, None) for kind, names in (maybe or {}).items() for field in names.split()}
        return create_model(name, __base__=Part, **optional, **{key: (kind, ...) for key, kind in fields.items()})

    share, amount = Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0)]
    count, some = Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1, le=100_000)]
    counts, objects, names = dict[str, count], list[dict[str, Any]], list[str]
    numbers, amounts = dict[str, float | None], dict[str, amount | None]
    hexes = Annotated[str, Field(pattern=r'^[0-9a-f]{16}$')]
    name = Annotated[str, Field(pattern=r'^[^/\\\r\n\x00]{1,100}$')]
    optional_scores = {share: ' '.join({*SCORES} - {*REQUIRED_SCORES}), float: 'loss'}
    scores = part('Scores', optional_scores, **dict.fromkeys(REQUIRED_SCORES, share))
    column = part('Column', categories=names, dtype=Literal['uint8', 'uint16', 'uint32', 'uint64'], codes=str)
    packed = dict.fromkeys(('labels', 'groups', 'arg_max', 'scores'), str)
    rows = part('Rows', {dict[str, column]: 'attributes'}, n=count, classes=some, multi_label=bool, **packed)
    search = part('Search', {amount: 'seconds'}, key=hexes, edge=dict[str, str])
    data = {str: 'name label split_hash', bool: 'synthetic', counts: 'counts used', names: 'classes'}
    machine = {dict[str, str]: 'versions', str: 'device commit platform', some: 'threads'}
    metrics = {scores: 'test validation', dict[str, amounts]: 'per_class', objects: 'samples base'}
    sections = {
        'data': part('Data', data),
        'backbone': part('Backbone', {str: 'name label role family source report hash', some: 'image_size'}),
        'method': part('Method', {str: 'key label', dict[str, Any]: 'config', count: ' '.join(COUNTS)}),
        'environment': part('Environment', machine),
        'metrics': part('Metrics', metrics | {dict[str, Any]: 'real'}),
        'time': part('Time', {amount: 'total_seconds step_seconds train_images_per_second'}),
        'learning_rate': part('Rate', {amount: 'value head_value', str: 'how', search: 'search', objects: 'trials'}),
    }
    trained = {count: 'steps', some: 'batch_size', amount: 'epochs', str: 'head augmentation selection'}
    cost = part('Cost', {amount: 'forward_flops step_flops adapter_bytes total_bytes peak_memory_mb search_seconds'})
    beside = {cost: 'cost', dict[str, rows]: 'rows', list[numbers]: 'curve', part('Training', trained): 'training'}
    beside[amount] = 'peak_memory_mb best_epoch'
    error = part('Error', {str: 'message', names: 'last_lines', int: 'cell'}, type=str)
    parameters = part('Parameters', {str: 'dataset backbone method method_config', count: 'seed', share: 'fraction'})
    common = {
        **{'schema': Literal[SCHEMA], 'run': Annotated[str, Field(pattern=r'^\w{1,64}$')], 'experiment': name},
        **{'status': Literal[STATUSES], 'parameters': parameters, 'code_version': str},
    }
    others = {some: 'attempt', str: 'profile started', name: 'folder'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # 'schema' hides a method that pydantic is about to drop
        return {
            True: part('Done', others | beside, **common, **sections),
            False: part('NotDone', others, **common, error=error),
        }


def faults(record: Any) -> list[str]:
    """What keeps a record from being whole; empty for a whole one."""
    from pydantic import ValidationError

    from medpeft_utils.core.schema import faults_of

    if not isinstance(record, dict):
        return ['is no JSON object']
    try:
        _schema()[record.get('status') == 'done'].model_validate(record)
    except ValidationError as error:
        return faults_of(error)
    if record['status'] == 'done':
        metrics = record['metrics']
        if not metrics.get('test') and not any(isinstance(value, (int, float)) for value in metrics.values()):
            return ['metrics: has no metric']
    return _number_faults(record)


def _number_faults(record: dict[str, Any]) -> list[str]:
    """Refuse, at any depth, numbers that are NaN or infinite or too large, and nesting that no record has."""
    waiting: list[tuple[str, Any, int]] = [('', record, 0)]
    while waiting:
        place, value, depth = waiting.pop()
        if isinstance(value, (dict, list)):
            if depth > DEEPEST:
                return [f'{place}: is nested more than {DEEPEST} deep']
            inside = value.items() if isinstance(value, dict) else ((place, item) for item in value)
            waiting += [(key, item, depth + 1) for key, item in inside]
        elif isinstance(value, (int, float)) and not abs(value) <= LARGEST:  # NaN is not
            return [f'{place}: is {short(value)}']
    return []
