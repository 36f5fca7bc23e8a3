"""Everything that can be wrong with a grid, found before its first run starts and listed all at once."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from medpeft_utils.core.code import imported
from medpeft_utils.core.errors import BadInput, MedpeftError, short
from medpeft_utils.study.grid import Grid, Run
from medpeft_utils.study.notebook import NO_DEFAULT, ExperimentNotebook

# A grid names these itself: to run a default meant for stepping through by hand would be a silent mistake.
REQUIRED = 'dataset', 'backbone', 'method'


def check(grid: Grid, runs: Iterable[Run]) -> None:
    """Raise BadInput with every fault of a grid and of those of its runs that are asked for."""
    counts: dict[str, int] = dict.fromkeys(grid.faults, 0)
    for run in runs:
        for fault in faults_of(run, grid.notebooks.get(run.experiment)):
            counts[fault] = counts.get(fault, 0) + 1
    if not counts:
        return
    lines = [f'  {fault}' + (f' ({count} runs)' if count > 1 else '') for fault, count in counts.items()]
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
            faults.append(f'{run.experiment}: unknown parameter {short(name)}; the notebook has {", ".join(known)}')
    for name, parameter in known.items():
        needed = name in REQUIRED or parameter.default is NO_DEFAULT
        if needed and name not in run.given:
            faults.append(f'{run.experiment}: missing parameter {name!r}')
    return faults or [f'{run.experiment}: {fault}' for fault in _settings_faults(run, notebook)]


def _settings_faults(run: Run, notebook: ExperimentNotebook) -> list[str]:
    """An unknown dataset, and what the settings that the notebook makes of its parameters would refuse."""
    faults, parameters = [], run.parameters
    if 'dataset' in parameters:
        faults += _fault(_dataset, parameters['dataset'])
    cls = _settings_class(notebook.code)
    if cls is None and parameters.keys() >= {*REQUIRED}:  # it makes none: its names are checked, and nothing else
        cls = _usual_settings(parameters['backbone'])
        parameters = {name: value for name, value in parameters.items() if name in (*REQUIRED, 'method_config')}
    if faults or cls is None:
        return faults
    shared = repr([item for item in parameters.items() if item[0] != 'seed'])
    if (cls, shared) not in _SEEN:  # runs that differ in the seed alone are checked once: a thousand in a moment
        _SEEN[cls, shared] = _fault(cls.of, parameters)
    return _SEEN[cls, shared]


_SEEN: dict[tuple, list[str]] = {}


@cache
def _settings_class(code: str) -> type | None:
    """The class of settings that a notebook makes of its parameters, if it does."""
    for name in sorted(imported(code)):
        module, _, attribute = name.rpartition('.')
        if attribute.endswith('Settings') and f'{attribute}.of(' in code:
            return getattr(importlib.import_module(module), attribute, None)
    return None


@cache
def _usual_settings(backbone: str) -> type:
    from medpeft_utils.text_image import adaptation, names
    from medpeft_utils.training import classification

    return (adaptation if names.is_pipeline(backbone) else classification).Settings


def _fault(look: Callable[..., Any], given: Any) -> list[str]:
    try:
        look(given)
    except MedpeftError as error:
        return [str(error)]
    return []


@cache
def _dataset(name: str) -> None:
    """A name with a card, or a folder or CSV file of your own."""
    if not name.strip():
        raise BadInput("dataset = '': name one (medpeft data list), or a folder or CSV file")
    from medpeft_utils.data import CARDS

    try:
        there = Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a home of nobody, half characters
        raise BadInput(f'dataset {short(name)} cannot be looked up: {error}') from None
    if not there:
        CARDS[name]
