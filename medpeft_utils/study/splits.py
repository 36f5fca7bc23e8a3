"""The data's split as a part of a run's identity, and the data packed once before the first run needs them.

Synthetic data follow from the code, which is in the identity already; any other dataset may change on disk.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from medpeft_utils.core.errors import BadInput, MedpeftError
from medpeft_utils.core.files import read_json, write_json
from medpeft_utils.study.grid import Run
from medpeft_utils.study.identity import run_hash
from medpeft_utils.study.paths import StudyFolder


def key_of(parameters: dict[str, Any]) -> str | None:
    """Names a split: dataset, split seed, folds, number of image-text pairs; None where the code alone decides."""
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
    return [_with_split(run, splits.get(key_of(run.parameters) or '')) for run in runs]


def _with_split(run: Run, split: str | None) -> Run:
    if split is None:
        return run
    identity = run_hash(run.experiment, run.parameters, run.code, split)
    return dataclasses.replace(run, hash=identity, split=split)


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
            wanted.setdefault((key, *_arguments(run.parameters, data_root)), run)
    splits, faults = known(folder), _missing_weights(runs)
    for key, *arguments in wanted:
        try:
            splits[key] = _split_of(*arguments)
        except MedpeftError as error:
            faults[str(error)] = None
    if faults:
        raise BadInput(
            '\n'.join(['nothing was started, since data or weights are missing:', *(f'  {fault}' for fault in faults)])
        )
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


def _arguments(parameters: dict[str, Any], data_root: Path | None) -> tuple[str, str, int, str, int, int | None, int]:
    folder = with_data_root(parameters, data_root).get('data_folder', '')
    backbone, size, pairs = (parameters.get(name) for name in ('backbone', 'image_size', 'training_pairs'))
    named = '' if size else backbone or ''
    return parameters['dataset'], folder, parameters['split_seed'], named, size or 0, pairs, parameters.get('folds', 0)


def _split_of(
    dataset: str, folder: str, split_seed: int, backbone: str, size: int, pairs: int | None, folds: int
) -> str:
    from medpeft_utils import backbones, data
    from medpeft_utils.data.cards import packed_pairs
    from medpeft_utils.text_image import names
    from medpeft_utils.training.classification import stored_size

    more: dict[str, Any] = {'with_texts': pairs is not None, 'folds': folds}
    if pairs is None:
        side = stored_size(size or backbones.image_size_of(backbone))
    else:
        side, more['train_pairs'] = size or names.image_size_of(backbone), packed_pairs(dataset, pairs)
    return data.load(dataset, folder=folder or None, image_size=side, split_seed=split_seed, **more).split_hash


def with_data_root(parameters: dict[str, Any], root: Path | None) -> dict[str, Any]:
    """The parameters with `data_folder` found below `root`: by its own name, or where it has none by the dataset."""
    if root is None or 'data_folder' not in parameters:
        return parameters
    place = root / (parameters['data_folder'] or str(parameters.get('dataset')))
    wanted = bool(parameters['data_folder']) or place.is_dir()
    return {**parameters, 'data_folder': str(place.resolve())} if wanted else parameters
