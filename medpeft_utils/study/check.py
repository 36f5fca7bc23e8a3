"""Everything that can be wrong with a grid, found before its first run starts and told all at once."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from medpeft_utils.core.code import imported
from medpeft_utils.core.errors import BadInput, DoesNotFit, MedpeftError
from medpeft_utils.core.values import parse_config
from medpeft_utils.study.grid import Grid, Run
from medpeft_utils.study.notebook import NO_DEFAULT, ExperimentNotebook

# A grid names these itself: to run a default meant for stepping through by hand would be a silent mistake.
REQUIRED = 'dataset', 'backbone', 'method'


def check(grid: Grid, runs: Iterable[Run]) -> None:
    """Raise BadInput with every fault of a grid and of those of its runs that are asked for."""
    found: dict[str, int] = dict.fromkeys(grid.faults, 0)
    for run in runs:
        for fault in faults_of(run, grid.notebooks.get(run.experiment)):
            found[fault] = found.get(fault, 0) + 1
    if not found:
        return
    lines = [f'  {fault}' + (f' ({count} runs)' if count > 1 else '') for fault, count in found.items()]
    raise BadInput('\n'.join([f'{grid.path} is refused, nothing was started:', *lines]))


def faults_of(run: Run, notebook: ExperimentNotebook | None) -> list[str]:
    """What is wrong with one run, each fault a line."""
    if notebook is None:
        return [f'{run.experiment}: not available yet; leave it out, as by --only experiment=NAME']
    known, faults = notebook.parameters, []
    if 'record_folder' not in known:
        faults.append(f'{run.experiment}: its parameters cell has no record_folder: str')
    for name in run.parameters:
        if name not in known:
            faults.append(f'{run.experiment}: unknown parameter {name!r}; the notebook has {", ".join(known)}')
    for name, parameter in known.items():
        needed = name in REQUIRED or parameter.default is NO_DEFAULT
        if needed and name not in run.given:
            faults.append(f'{run.experiment}: missing parameter {name!r}')
    return faults or [f'{run.experiment}: {fault}' for fault in _names(run) or _settings_faults(run, notebook)]


def _settings_faults(run: Run, notebook: ExperimentNotebook) -> list[str]:
    """What the notebook's own settings would refuse in its first cells."""
    cls = _settings_class(notebook.code)
    if cls is None:
        return []
    shared = tuple((name, value) for name, value in run.parameters.items() if name != 'seed')
    return _settings_fault(cls, repr(shared), tuple(run.parameters.items()))


_SETTINGS_SEEN: dict[tuple, list[str]] = {}


def _settings_fault(cls: type, shared: str, parameters: tuple) -> list[str]:
    """Runs that differ in the seed alone are checked once: a thousand of them in a moment."""
    if (cls, shared) not in _SETTINGS_SEEN:
        _SETTINGS_SEEN[cls, shared] = _fault(cls.of, dict(parameters))
    return _SETTINGS_SEEN[cls, shared]


@cache
def _settings_class(code: str) -> type | None:
    """The class of settings that a notebook makes of its parameters, if it does."""
    for name in sorted(imported(code)):
        module, _, attribute = name.rpartition('.')
        if attribute.endswith('Settings') and f'{attribute}.of(' in code:
            return getattr(importlib.import_module(module), attribute, None)
    return None


def _names(run: Run) -> list[str]:
    """Unknown datasets, backbones and methods, methods that do not fit their backbone, and unusable method settings."""
    faults, parameters = [], run.parameters
    for name, look in (('dataset', _dataset), ('backbone', _family), ('method', _method)):
        if name in parameters:
            faults += _fault(look, parameters[name])
    if not faults and {'backbone', 'method'} <= parameters.keys():
        faults += _fault(_fit, parameters['method'], parameters['backbone'])
        config = parameters.get('method_config', '{}')
        faults += _fault(_config, parameters['method'], config, _family(parameters['backbone']))
    return faults


def _fault(look: Callable[..., None], *arguments: str) -> list[str]:
    try:
        look(*arguments)
    except MedpeftError as error:
        return [str(error)]
    return []


@cache
def _dataset(name: str) -> None:
    """A name with a card, or a folder or CSV file of one's own."""
    from medpeft_utils.data import CARDS

    try:
        there = Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a home of nobody, half characters
        raise BadInput(f'dataset {name[:60]!r} cannot be looked up: {error}') from None
    if not there:
        CARDS[name]


@cache
def _family(name: str) -> str:
    from medpeft_utils import backbones
    from medpeft_utils.text_image import pipeline

    return 'unet' if pipeline.is_pipeline(name) else backbones.family_of(name)


@cache
def _method(name: str) -> None:
    from medpeft_utils import methods

    methods.METHODS[name]


@cache
def _fit(method: str, backbone: str) -> None:
    from medpeft_utils import methods

    family = _family(backbone)
    if family not in methods.METHODS[method].families:
        fitting = ', '.join(methods.names(family))
        raise DoesNotFit(f'method {method!r} does not fit backbone {backbone!r} ({family}); these do: {fitting}')


@cache
def _config(method: str, config: str, family: str) -> None:
    from medpeft_utils import methods

    methods.METHODS[method].configure(parse_config(config), family)
