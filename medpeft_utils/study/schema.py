"""What a record must be: a whole one is a run that is settled, any other is none."""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Annotated, Any, Literal

SCHEMA = 1
STATUSES = 'done', 'failed', 'died'
REQUIRED_SCORES = ('f1_macro',)  # a score that is added to `SCORES` later must not hide what was recorded before
SCORES = ['f1_macro', 'f1_weighted', 'f1_micro', 'accuracy', 'balanced_accuracy', 'auroc', 'calibration_error']


@cache
def _schema() -> type:
    """What a record must be, as a pydantic model; sections and scores beyond these pass as they are."""
    from pydantic import BaseModel, ConfigDict, Field, create_model

    class Part(BaseModel):
        model_config = ConfigDict(extra='allow', strict=True, allow_inf_nan=False)

    score = Annotated[float, Field(ge=0, le=1)]
    required = dict.fromkeys(REQUIRED_SCORES, (score, ...))
    optional = {name: (score | None, None) for name in SCORES if name not in REQUIRED_SCORES}
    scores = create_model('Scores', __base__=Part, **required, **optional)
    seconds = (Annotated[float, Field(ge=0)] | None, None)
    metrics = create_model('Metrics', __base__=Part, test=(scores | None, None), validation=(scores | None, None))
    spent = create_model('Time', __base__=Part, total_seconds=seconds, step_seconds=seconds)
    rates = Annotated[float, Field(ge=0)] | None, None
    key = Annotated[str, Field(pattern=r'^[0-9a-f]{16}$')]
    search = create_model('Search', __base__=Part, key=(key, ...), edge=(dict[str, str], ...), seconds=seconds)
    searched = {'search': (search | None, None), 'trials': (list[dict[str, Any]], [])}
    rate = create_model('Rate', __base__=Part, value=rates, head_value=rates, **searched)
    error = create_model(
        'Error', __base__=Part, type=(str, ...), message=(str, ''), last_lines=(list[str] | None, None)
    )
    common = {
        **{'schema': (Literal[SCHEMA], ...), 'run': (Annotated[str, Field(pattern=r'^\w{1,64}$')], ...)},
        **{'status': (Literal[STATUSES], ...), 'experiment': (str, ...), 'parameters': (dict[str, Any], ...)},
        **{'code_version': (str, ...), 'attempt': (int, 1)},
    }
    sections = dict.fromkeys(('data', 'backbone', 'method', 'environment'), (dict[str, Any], ...))
    done = {**sections, 'metrics': (metrics, ...), 'time': (spent, ...), 'learning_rate': (rate, ...)}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # 'schema' hides a method that pydantic is about to drop
        return {
            True: create_model('Done', __base__=Part, **common, **done),
            False: create_model('NotDone', __base__=Part, **common, error=(error, ...)),
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
    return [] if record['status'] != 'done' else _metric_faults(record['metrics'])


def _metric_faults(metrics: dict[str, Any]) -> list[str]:
    """Whatever a task measures, it is at least one number, and none that is infinite or no number."""
    wrong = [name for name, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)]
    if wrong:
        return [f'metrics.{name}: is {metrics[name]}' for name in wrong]
    numbers_there = any(isinstance(value, (int, float)) for value in metrics.values())
    return [] if metrics.get('test') or numbers_there else ['metrics: has no metric']
