"""Grids: a short YAML file that describes all runs of a study.

    profile: demo                       # results/<profile>; letters, digits, - and _
    title: The study on synthetic images
    defaults: {epochs: 5, seed: 0}      # parameters of every run that its notebook knows
    preload: [torch, timm, peft]        # optional: modules that runs find imported; the usual ones where left out
    experiments:
      - notebook: vit                   # notebooks/experiments/vit.ipynb
        family: vit                     # under which `medpeft status` counts the runs; the notebook where left out
        title: Tables 3 and 5
        figures: [table3, table5]       # optional: drawn as soon as all runs of the family have ended
        parameters: {epochs: 8}         # of every run of this experiment, over `defaults`
        axes:                           # one run for every combination
          dataset: [synthetic_breastus, synthetic_ham10000]
          model:                        # a value may be several parameters at once; then the axis' name is only a name
            - {backbone: vit_base_mini, method: lora}
            - {backbone: vit_base_mini, method: ssf, learning_rate: 0.01}
          seed: [0, 1, 2]
        exclude:                        # leaves out the runs that have all of these values
          - {dataset: synthetic_ham10000, seed: 2}
        include:                        # single runs beside the combinations
          - {dataset: synthetic_smdg, backbone: vit_base_mini, method: lora, seed: 0}

What a run does not name has the default of its notebook's `parameters` cell. A grid may name a notebook that does not
exist yet: its runs are counted as not available.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any

import yaml

from medpeft_utils.core.code import Code
from medpeft_utils.core.errors import BadInput, short
from medpeft_utils.core.files import read_json
from medpeft_utils.core.schema import checked, parse_yaml
from medpeft_utils.study.identity import (
    NO_DEFAULT,
    ExperimentNotebook,
    code_version,
    read_notebook,
    run_hash,
    without_places,
)
from medpeft_utils.study.paths import StudyFolder, experiments_folder

TOP = {'profile', 'title', 'defaults', 'preload', 'experiments', 'notebooks'}
MOST_RUNS = 20_000
MOST_VALUES = 12  # in a message
INSIDE = {'notebook', 'family', 'title', 'figures', 'parameters', 'axes', 'include', 'exclude'}


@dataclass(frozen=True)
class Run:
    """One notebook with all of its parameters.

    Args:
        hash: identity, 16 hex digits (`identity.run_hash`).
        experiment: the notebook's stem.
        family: under which the run is counted.
        given: the parameters that the grid names, its defaults among them.
        parameters: all of them, but where the record goes.
        code: version of the code that decides the result.
        notebook: None where it does not exist yet.
    """

    hash: str
    experiment: str
    family: str
    given: dict[str, Any]
    parameters: dict[str, Any]
    code: str
    notebook: Path | None
    split: str | None = None

    @cached_property
    def key(self) -> str:
        """The same for runs of different code: what shows that a record is stale."""
        return run_hash(self.experiment, self.parameters, '')

    @cached_property
    def group(self) -> str:
        """The same for runs that share a search: the seed has no part in it, nor `fraction` if it has its own."""
        shared = {**self.parameters, 'seed': None}
        if shared.get('search_fraction'):
            shared['fraction'] = shared['search_fraction']
        return run_hash(self.experiment, shared, '')

    @property
    def searches(self) -> bool:
        """Whether the runs of its group search for a learning rate, once for all of them."""
        return bool(self.parameters.get('search_trials'))

    @cached_property
    def label(self) -> str:
        """A short name: experiment, then the parameters in which runs differ."""
        shown = [name for name in ('dataset', 'backbone', 'method', 'fraction', 'seed') if name in self.given]
        shown = shown if 'method' in shown else list(self.given)
        named = {'seed', 'fraction'}
        parts = (f'{name}={self.given[name]}' if name in named else str(self.given[name]) for name in shown)
        return ' '.join([self.experiment, *parts])

    def has(self, where: dict[str, str]) -> bool:
        """Whether the run has these values: of 'experiment', 'family', 'run' (a beginning) or of parameters."""
        return all(
            (name == 'run' and self.hash.startswith(wanted))
            or str(self.value(name)) == wanted
            or self.value(name) == _value(name, wanted)
            for name, wanted in where.items()
        )

    def value(self, name: str) -> Any:
        """Of 'experiment', 'family', 'run' or a parameter; None where it has none."""
        about = {'experiment': self.experiment, 'family': self.family, 'run': self.hash}
        return about[name] if name in about else self.parameters.get(name)


@cache
def _value(name: str, text: str) -> Any:
    """What a value of --only is in a grid."""
    return parse_yaml(text, f'--only {name}={text}') if text else ''


@dataclass
class Grid:
    """A grid file read and expanded; `faults` holds what is wrong with the file itself."""

    path: Path
    content: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    notebooks: dict[str, ExperimentNotebook] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    code: Code = field(default_factory=Code.now, repr=False)

    @property
    def profile(self) -> str:
        return self.content.get('profile') or self.path.stem

    @property
    def title(self) -> str:
        return self.content.get('title') or self.profile

    @property
    def preload(self) -> list[str] | None:
        return self.content.get('preload')

    @property
    def figures(self) -> dict[str, list[str]]:
        """Names of the figures and tables that can be drawn once a family's runs have ended, by family."""
        found: dict[str, list[str]] = {}
        for entry in self.content['experiments']:
            found.setdefault(str(entry.get('family', entry['notebook'])), []).extend(entry.get('figures') or [])
        return {family: names for family, names in found.items() if names}


@cache
def _schema() -> type:
    """The shape of a grid file, as a pydantic model; unknown keys are faults that `load_grid` lists with the others."""
    from pydantic import BaseModel, ConfigDict, Field

    class Part(BaseModel):
        model_config = ConfigDict(extra='allow', strict=True)

    Named = dict[str, Any]
    Line = Annotated[str, Field(min_length=1, max_length=300, pattern=r'^[^\r\n\x00]+$')]

    class Experiment(Part):
        notebook: Annotated[str, Field(min_length=1, max_length=100, pattern=r'^[^/\\\x00]+$')]
        family: Line | None = None
        title: Line | None = None
        figures: list[Line] | None = None
        parameters: Named | None = None
        axes: dict[str, list[Any]] | None = None
        include: list[Named] | None = None
        exclude: list[Named] | None = None

    class Content(Part):
        profile: str | None = None
        title: Line | None = None
        defaults: Named | None = None
        preload: list[str] | None = None
        notebooks: str | None = None
        experiments: Annotated[list[Experiment], Field(min_length=1)]

    return Content


def load_grid(path: Path, settings: dict[str, Any] | None = None, profile: str = '') -> Grid:
    """Read a grid file and expand it.

    Args:
        path: the YAML file.
        settings: parameters set for every run, over whatever the file says (an axis of that name goes).
        profile: another profile than the file's.
    Raises:
        BadInput: the file is no grid at all. Faults within it are collected in `Grid.faults` and by `check`.
    """
    content = parse_yaml(path.read_bytes(), str(path))
    checked(_schema(), content, f'{path} is not a grid')
    content = _with_settings(content, settings or {}, profile)
    count = sum(_count(entry) for entry in content['experiments'])
    if count > MOST_RUNS:
        raise BadInput(f'{path} describes {count:,} runs; a grid has at most {MOST_RUNS:,}: split it')
    grid = Grid(path, content)
    grid.faults += [
        f'unknown key {short(key)}; a grid has {", ".join(sorted(TOP))}' for key in content if key not in TOP
    ]
    if not re.fullmatch(r'[\w-]{1,100}', grid.profile):
        grid.faults.append(f'profile {short(grid.profile)}: use up to 100 letters, digits, - and _')
    for entry in content['experiments']:
        _read_experiment(grid, entry)
    return grid


def _with_settings(content: dict[str, Any], settings: dict[str, Any], profile: str) -> dict[str, Any]:
    """The content with the settings over whatever it says, in axes of several parameters and in single runs too."""

    def rest(given: Any) -> Any:
        return {name: given[name] for name in given if name not in settings} if isinstance(given, dict) else given

    experiments = []
    for entry in content['experiments']:
        rules = (
            rule
            for rule in entry.get('exclude') or []
            if all(settings.get(name, rule[name]) == rule[name] for name in rule)
        )
        changed = {
            'parameters': {**(entry.get('parameters') or {}), **settings},
            'axes': {
                k: [rest(one) for one in axis] for k, axis in (entry.get('axes') or {}).items() if k not in settings
            },
            'include': [rest(extra) for extra in entry.get('include') or []],
            'exclude': [rest(rule) for rule in rules],
        }
        experiments.append({**entry, **changed} if settings else entry)
    return {**content, **({'profile': profile} if profile else {}), 'experiments': experiments}


def _count(entry: dict[str, Any]) -> int:
    """How many runs an experiment of a grid describes, before any is made."""
    return math.prod(len(axis) for axis in (entry.get('axes') or {}).values()) + len(entry.get('include') or [])


def _read_experiment(grid: Grid, entry: dict[str, Any]) -> None:
    name = entry['notebook']
    known = ', '.join(sorted(INSIDE))
    grid.faults += [f'{name}: unknown key {short(key)}; known: {known}' for key in entry if key not in INSIDE]
    for axis, values in (entry.get('axes') or {}).items():
        if not values:
            grid.faults.append(f'{name}: axis {short(axis)} is empty; give a list of values')
            return
    for rule in entry.get('exclude') or []:
        hits = [_has(given, rule) for given in _crossed(entry)]
        if not any(hits):
            grid.faults.append(f'{name}: exclude {short(rule)} leaves out no run; is a name or a value in it misspelt?')
        elif all(hits):
            grid.faults.append(f'{name}: exclude {short(rule)} leaves out every run of the axes; take them out instead')
    notebook = _notebook(grid, name)
    defaults = grid.content.get('defaults') or {}
    if notebook:  # a grid serves several notebooks; what only one of them knows is no fault in the others
        defaults = {key: value for key, value in defaults.items() if key in notebook.parameters}
    seen = set()
    for given in combinations(entry):
        try:
            run = _run(entry, {**defaults, **given}, notebook, grid.code)
        except BadInput as fault:
            grid.faults.append(f'{name}: {fault}')
            continue
        if run.hash not in seen:
            seen.add(run.hash)
            grid.runs.append(run)


def _notebook(grid: Grid, name: str) -> ExperimentNotebook | None:
    if name not in grid.notebooks:
        folders = [grid.path.parent / '..' / 'experiments', experiments_folder(grid.path.parent), experiments_folder()]
        if grid.content.get('notebooks'):
            folders.insert(0, grid.path.parent / grid.content['notebooks'])
        found = next((path for path in (folder / f'{name}.ipynb' for folder in folders) if os.path.isfile(path)), None)
        if found is None:
            return None
        grid.notebooks[name] = read_notebook(found.resolve())
    return grid.notebooks[name]


def combinations(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parameters that an experiment of a grid names, run by run."""
    if entry.get('axes') or not entry.get('include'):
        excluded = entry.get('exclude') or []
        yield from (given for given in _crossed(entry) if not any(_has(given, rule) for rule in excluded))
    for extra in entry.get('include') or []:
        yield {**(entry.get('parameters') or {}), **extra}


def _crossed(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the axes, over the parameters of all."""
    axes = entry.get('axes') or {}
    for values in itertools.product(*axes.values()):
        given = dict(entry.get('parameters') or {})
        for name, value in zip(axes, values, strict=True):
            given |= value if isinstance(value, dict) else {name: value}
        yield given


def _has(given: dict[str, Any], rule: dict[str, Any]) -> bool:
    return all(name in given and given[name] == value for name, value in rule.items())


def _run(entry: dict[str, Any], given: dict[str, Any], notebook: ExperimentNotebook | None, code: Code) -> Run:
    known = notebook.parameters if notebook else {}
    parameters = {name: known[name].default for name in known if known[name].default is not NO_DEFAULT}
    parameters |= {name: known[name].cast(value) if name in known else value for name, value in given.items()}
    parameters.pop('record_folder', None)
    experiment = entry['notebook']
    version = code_version(notebook.path, parameters, code) if notebook else 'none'
    return Run(
        hash=run_hash(experiment, parameters, version),
        experiment=experiment,
        family=entry.get('family') or experiment,
        given=without_places(given),
        parameters=parameters,
        code=version,
        notebook=notebook.path if notebook else None,
    )


def key_of(parameters: dict[str, Any]) -> str | None:
    """Names a split: dataset, split seed, folds, number of image-text pairs; None where the code alone decides.

    Synthetic data follow from the code, which is in the identity already; any other dataset may change on disk.
    """
    dataset = parameters.get('dataset')
    if not dataset or 'split_seed' not in parameters or str(dataset).startswith('synthetic_'):
        return None
    pairs = [parameters['training_pairs']] if 'training_pairs' in parameters else []
    folds = [{'folds': parameters['folds']}] if parameters.get('folds') else []
    return json.dumps([dataset, parameters['split_seed'], *pairs, *folds])


def known(folder: StudyFolder) -> dict[str, str]:
    """The splits that a study has been run with, as far as data were available."""
    return read_json(folder.splits) or {}


def identified(runs: Iterable[Run], splits: dict[str, str]) -> list[Run]:
    """The runs with the hash of their data's split in their identity, where it is known."""
    found = []
    for run in runs:
        if split := splits.get(key_of(run.parameters) or ''):
            identity = run_hash(run.experiment, run.parameters, run.code, split)
            run = dataclasses.replace(run, hash=identity, split=split)
        found.append(run)
    return found


def selected(runs: list[Run], only: dict[str, str]) -> list[Run]:
    """The runs that have the values of `only`. Raises BadInput where a name is none of theirs, or no run is left."""
    names = {'experiment', 'family', 'run'}.union(*(run.parameters for run in runs))
    for name, value in only.items():
        if name not in names:
            raise BadInput(f'{name!r} cannot select runs; these can: {", ".join(sorted(names))}')
        if runs and not any(run.has({name: value}) for run in runs):
            there = sorted({short(str(run.value(name)), 30) for run in runs})
            raise BadInput(f'no run has {name} = {short(value)}; there are: {", ".join(there[:MOST_VALUES])}')
    found = [run for run in runs if run.has(only)]
    if runs and not found:
        raise BadInput(f'no run has {" and ".join(f"{name} = {short(value)}" for name, value in only.items())} at once')
    return found


def dump(grid: Grid, path: Path) -> str:
    """The grid as text for `path`; it names the folder of its notebooks, and can be read from there."""
    folders = {str(notebook.path.parent) for notebook in grid.notebooks.values()}
    content = dict(grid.content)
    if len(folders) == 1:
        content['notebooks'] = folders.pop()
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
