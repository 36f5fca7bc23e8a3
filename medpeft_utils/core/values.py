"""One check of the values that users give, whoever gives them: a notebook by hand, papermill, a grid, an option."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import Any, TypeVar

from medpeft_utils.core.errors import BadInput, short
from medpeft_utils.core.files import parse_json

NUMBER = re.compile(r'[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?')
UNWRITABLE = re.compile('[\0\ud800-\udfff]')  # ends a path; half a character
WHOLE = re.compile(r'[+-]?\d{1,18}')
LARGEST = 2**63 - 1  # of torch's integers
LARGEST_FLOAT = 1e300
LARGEST_SEED = 2**32 - 1  # of numpy's seeds
LONGEST = 4096
# The largest that a number of this name can mean; beyond it is a slip, found here and not by a full memory.
MOST = {
    **dict.fromkeys(('learning_rate', 'head_learning_rate', 'weight_decay', 'guidance_scale'), 100),
    **dict.fromkeys(('folds', 'probe_copies', 'sampling_steps', 'sampling_seeds'), 1000),
    **dict.fromkeys(('image_size', 'micro_batch', 'search_trials'), 4096),
    **dict.fromkeys(('batch_size', 'epochs', 'warmup_epochs', 'evaluations', 'test_images'), 100_000),
    **dict.fromkeys(('min_steps', 'max_steps', 'steps', 'training_pairs', 'validation_pairs'), 10_000_000),
}
TYPES = {'str': str, 'int': int, 'float': float, 'bool': bool, 'list': list, 'dict': dict}
Settings = TypeVar('Settings')


def typed(name: str, kind: str, value: Any) -> Any:
    """A value in the type that its parameter has: 1e-3 written as text becomes a number, 'false' a truth value.

    Args:
        name: of the parameter; seeds must not be negative.
        kind: a key of `TYPES`.
    Raises:
        BadInput: it cannot be one; NaN and infinity are no numbers here.
    """
    found = _READERS.get(kind, _plain)(kind, value)
    if found is None:
        given = value if isinstance(value, (int, float)) and not isinstance(value, bool) else short(value)
        raise BadInput(f'{name} = {given} is a {type(value).__name__}, and must be {_WANTED.get(kind, f"a {kind}")}')
    if kind == 'int' and (name == 'seed' or name.endswith('_seed')) and not 0 <= found <= LARGEST_SEED:
        raise BadInput(f'{name} = {found}: give a seed from 0 to {LARGEST_SEED}')
    if kind in ('int', 'float') and abs(found) > MOST.get(name, LARGEST_FLOAT):
        raise BadInput(f'{name} = {found}: give a number of a size up to {MOST[name]:,}')
    return found


def _whole(kind: str, value: Any) -> int | None:
    if isinstance(value, str) and WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > LARGEST or value != value:
        return None
    return int(value) if int(value) == value else None


def _number(kind: str, value: Any) -> float | None:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or abs(value) > LARGEST_FLOAT
        or not math.isfinite(value)
    ):
        return None
    return float(value)


def _truth(kind: str, value: Any) -> bool | None:
    if isinstance(value, str):
        return {'true': True, 'false': False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _plain(kind: str, value: Any) -> Any:
    if kind == 'str' and isinstance(value, str) and (len(value) > LONGEST or UNWRITABLE.search(value)):
        return None
    return value if isinstance(value, TYPES[kind]) else None


_READERS = {'int': _whole, 'float': _number, 'bool': _truth}
_WANTED = {
    'int': 'a whole number (int)',
    'float': 'a finite number (float)',
    'bool': 'true or false (bool)',
    'str': f'text (str) of at most {LONGEST} whole characters',
}


def settings_of(cls: type[Settings], parameters: dict[str, Any]) -> Settings:
    """A dataclass of settings from those of the given variables that it knows, each `typed`.

    Raises:
        BadInput: with every value that cannot be used, and every one that is missing.
    """
    values, faults = {}, []
    for field in fields(cls):
        if field.name in parameters:
            try:
                values[field.name] = typed(field.name, str(field.type), parameters[field.name])
            except BadInput as fault:
                faults.append(str(fault))
    if faults:
        raise BadInput('; '.join(faults))
    try:
        return cls(**values)
    except TypeError as error:
        raise BadInput(f'{cls.__name__}: {error}') from error


def parse_config(text: str) -> dict[str, Any]:
    """A method's own settings, from JSON. Raises BadInput if it is not a JSON object."""
    try:
        config = parse_json(text)
    except ValueError as error:
        raise BadInput(
            f'method_config={short(text)}: not JSON ({error}); give an object, such as {{"rank": 8}}'
        ) from None
    if not isinstance(config, dict):
        raise BadInput(f'method_config={short(text)} is not an object; give one, such as {{"rank": 8}}')
    if bad := [name for name, value in config.items() if isinstance(value, float) and not math.isfinite(value)]:
        raise BadInput(f'method_config={short(text)}: {bad[0]} is not a finite number')
    return config
