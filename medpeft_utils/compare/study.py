"""The study of a comparison: one folder for each dataset, known by its path and its content, to which commands add.

compare.yaml is the grid of all that was ever asked for. plans.json, written by the command, keeps how long the training
of each budget is: a second command trains what it adds by the same settings.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medpeft_utils.core.files import write_bytes
from medpeft_utils.core.hashing import json_digest
from medpeft_utils.study.check import check
from medpeft_utils.study.grid import Grid, Run, identified, known, load_grid
from medpeft_utils.study.identity import without_places
from medpeft_utils.study.paths import StudyFolder

GRID, PAGE = 'compare.yaml', 'answer'  # the page is answer.html and answer.md
IDENTITY = ['image', 'label', 'group', 'sha256']  # columns of the manifest that make the data what they are


def profile_of(dataset: str, data: Any) -> str:
    """The study's name: the data's own, and eight digits of where they lie and what they are.

    Args:
        dataset: a name, or the resolved path of a folder or CSV file.
        data: as loaded.
    """
    stem = re.sub(r'[^A-Za-z0-9]+', '-', Path(dataset).stem).strip('-')[:40] or 'images'
    columns = data.manifest[[name for name in IDENTITY if name in data.manifest]]
    return f'compare-{stem}-{json_digest([dataset, columns.astype(str).to_numpy().tolist()], length=8)}'


@dataclass(frozen=True)
class Wanted:
    """What a command asks to be trained: every method with every seed, by the same settings."""

    notebook: str
    methods: tuple[str, ...]
    seeds: int
    parameters: dict[str, Any]
    fractions: tuple[float, ...] = (1.0,)

    def entries(self) -> list[dict[str, Any]]:
        """An experiment of a grid for each method and share of the training images."""
        entries = []
        for fraction in self.fractions:
            share = {} if fraction == 1.0 else {'fraction': fraction, 'search_fraction': 1.0}
            for method in self.methods:
                parameters = {**self.parameters, 'method': method, **share}
                axes = {'seed': list(range(self.seeds))}
                entries.append({'notebook': self.notebook, 'parameters': parameters, 'axes': axes})
        return entries


def add(folder: StudyFolder, title: str, wanted: Iterable[Wanted]) -> tuple[Grid, list[Run], list[Run]]:
    """Add what is wanted to the study's grid.

    Returns:
        The grid, all of its runs, and those that are wanted, as far as their data's split is known.
    Raises:
        BadInput: what is wanted cannot be run; the study's grid is as before.
    """
    path = folder.root / GRID
    entries = [entry for one in wanted for entry in one.entries()]
    before = yaml.safe_load(path.read_text())['experiments'] if path.is_file() else []
    with tempfile.TemporaryDirectory() as apart:  # what is refused must not stay in the study's grid
        asked = _load(Path(apart) / GRID, folder, title, entries)
        asked.path = Path(f'the comparison of {title}')  # as messages call it
        check(asked, asked.runs)
    grid = _load(path, folder, title, _merged([*before, *entries]))
    if grid.faults:  # of entries that an older version has written
        grid = _load(path, folder, title, entries)
    runs = identified(grid.runs, known(folder))
    return grid, runs, [run for run in runs if any(_is_of(run, entry) for entry in entries)]


def _load(path: Path, folder: StudyFolder, title: str, entries: list[dict[str, Any]]) -> Grid:
    content = {'profile': folder.root.name, 'title': title, 'experiments': entries}
    write_bytes(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
    return load_grid(path)


def _is_of(run: Run, entry: dict[str, Any]) -> bool:
    given = {name: value for name, value in run.given.items() if name != 'seed'}
    same = run.experiment == entry['notebook'] and given == without_places(entry['parameters'])
    return same and run.given['seed'] in entry['axes']['seed']


def _merged(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries that differ in their seeds alone made one, with the seeds of both."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        one = found.setdefault(json_digest([entry['notebook'], entry['parameters']]), entry)
        seeds = sorted({*one['axes']['seed'], *entry['axes']['seed']})
        one['axes'] = {'seed': seeds}
    return list(found.values())
