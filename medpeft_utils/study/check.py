"""Before the first run starts: everything that is wrong with a grid, listed at once, and the data packed."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from medpeft_utils.core.code import imported
from medpeft_utils.core.errors import BadInput, MedpeftError, short
from medpeft_utils.core.files import write_json
from medpeft_utils.study.grid import Grid, Run, key_of, known
from medpeft_utils.study.identity import NO_DEFAULT, ExperimentNotebook
from medpeft_utils.study.paths import StudyFolder

# A grid names these itself: to run a default meant for stepping through by hand would be a silent mistake.
REQUIRED = 'dataset', 'backbone', 'method'


def check(grid: Grid, runs: Iterable[Run]) -> None:
    """Raise BadInput with every fault of a grid and of those of its runs that are asked for."""
    counts, seen = Counter(dict.fromkeys(grid.faults, 1)), {}
    for run in runs:
        counts.update(_faults_of(run, grid.notebooks.get(run.experiment), seen))
    if counts:
        lines = [f'  {fault}' + (f' ({count} runs)' if count > 1 else '') for fault, count in counts.items()]
        raise BadInput('\n'.join([f'{grid.path} is refused, nothing was started:', *lines]))


def _faults_of(run: Run, notebook: ExperimentNotebook | None, seen: dict[tuple, list[str]]) -> list[str]:
    """What is wrong with one run, each fault a line; `seen` has the faults of runs like it."""
    if notebook is None:
        return [f'{run.experiment}: not available yet; leave it out, as by --only experiment=NAME']
    names, faults = notebook.parameters, []
    if 'record_folder' not in names:
        faults.append('its parameters cell has no record_folder: str')
    for name in run.parameters:
        if name not in names:
            faults.append(f'unknown parameter {short(name)}; the notebook has {", ".join(names)}')
    for name, parameter in names.items():
        if (name in REQUIRED or parameter.default is NO_DEFAULT) and name not in run.given:
            faults.append(f'missing parameter {name!r}')
    if not faults:  # runs that differ in the seed alone are checked once: a thousand in a moment
        shared = notebook.path, repr([item for item in run.parameters.items() if item[0] != 'seed'])
        if shared not in seen:
            seen[shared] = _settings_faults(run.parameters, notebook)
        faults = seen[shared]
    return [f'{run.experiment}: {fault}' for fault in faults]


def _settings_faults(parameters: dict[str, Any], notebook: ExperimentNotebook) -> list[str]:
    """An unknown dataset, or what the settings that the notebook makes of its parameters would refuse."""
    from medpeft_utils.text_image import adaptation, names
    from medpeft_utils.training import classification

    try:
        if 'dataset' in parameters:
            _dataset(parameters['dataset'])
        if cls := _settings_class(notebook.code):
            getattr(cls, 'planned', cls.of)(parameters)  # weights may be fetched later
        elif parameters.keys() >= {*REQUIRED}:  # it makes none: its names are checked, and nothing else
            named = {name: value for name, value in parameters.items() if name in (*REQUIRED, 'method_config')}
            usual = adaptation if names.is_pipeline(parameters['backbone']) else classification
            usual.Settings.planned(named)
    except MedpeftError as error:
        return [str(error)]
    return []


@cache
def _settings_class(code: str) -> type | None:
    """The class of settings that a notebook makes of its parameters, if it does."""
    for name in sorted(imported(code)):
        module, _, attribute = name.rpartition('.')
        if attribute.endswith('Settings') and f'{attribute}.of(' in code:
            return getattr(importlib.import_module(module), attribute, None)
    return None


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


def prepare(
    runs: Iterable[Run], folder: StudyFolder, data_root: Path | None, say: Callable[[str], None]
) -> dict[str, str]:
    """Read, check and pack the data of runs, and note their splits in the study's folder.

    Raises:
        BadInput: with every dataset that cannot be had, and why.
    """
    runs, wanted = list(runs), {}
    for run in runs:
        if (key := key_of(run.parameters)) is not None:
            given = with_data_root(run.parameters, data_root)
            size = given.get('image_size') or given.get('backbone')
            wanted[key, given.get('data_folder'), size] = given
    splits, faults = known(folder), _missing_weights(runs)
    for (key, *_), given in wanted.items():
        try:
            splits[key] = _split_of(given)
        except MedpeftError as error:
            faults[str(error)] = None
    if faults:
        lines = ['nothing was started, since data or weights are missing:', *(f'  {fault}' for fault in faults)]
        raise BadInput('\n'.join(lines))
    if wanted:
        write_json(folder.splits, splits)
        say(f'data: {len(wanted)} packed')
    return splits


def _missing_weights(runs: Iterable[Run]) -> dict[str, None]:
    """What is wrong with the weights that runs name; looked for before images are decoded, not read."""
    from medpeft_utils import backbones
    from medpeft_utils.text_image import names

    faults = {}
    for name, weights in {(run.parameters.get('backbone'), run.parameters.get('weights')) for run in runs}:
        if name and weights and not names.is_pipeline(name):
            try:
                backbones.weights_path(name, weights)
            except MedpeftError as error:
                faults[str(error)] = None
    return faults


def _split_of(given: dict[str, Any]) -> str:
    """Load the data of a run, which packs them; the hash of their split."""
    from medpeft_utils import backbones, data
    from medpeft_utils.data.cards import packed_pairs
    from medpeft_utils.text_image import names
    from medpeft_utils.training.classification import stored_size

    dataset, backbone, size, pairs = (
        given.get(name) for name in ('dataset', 'backbone', 'image_size', 'training_pairs')
    )
    more: dict[str, Any] = {'with_texts': pairs is not None, 'folds': given.get('folds', 0)}
    if pairs is None:
        more['image_size'] = stored_size(size or backbones.image_size_of(backbone))
    else:
        more['image_size'] = size or names.image_size_of(backbone)
        more['train_pairs'] = packed_pairs(dataset, pairs)
    folder = given.get('data_folder') or None
    return data.load(dataset, folder=folder, split_seed=given['split_seed'], **more).split_hash


def with_data_root(parameters: dict[str, Any], root: Path | None) -> dict[str, Any]:
    """The parameters with `data_folder` found below `root`: by its own name, or where it has none by the dataset."""
    if root is None or 'data_folder' not in parameters:
        return parameters
    place = root / (parameters['data_folder'] or str(parameters.get('dataset')))
    wanted = bool(parameters['data_folder']) or place.is_dir()
    return {**parameters, 'data_folder': str(place.resolve())} if wanted else parameters
