"""`medpeft verify`: do published numbers hold on this machine? Some kept records are checked and run again.

Without a run: a record's identity follows from its parameters, code and split, and its scores from the predictions that
it keeps; a record in which one of them was changed fails. With one: the same notebook, parameters and data give scores
within a tolerance, to the last bit where machine and code are the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import yaml

from medpeft_utils.core.errors import BadInput
from medpeft_utils.study import records
from medpeft_utils.study.commands import RESULTS, execute, run_options
from medpeft_utils.study.grid import Grid, identified, known, load_grid
from medpeft_utils.study.identity import run_hash, same_code
from medpeft_utils.study.paths import StudyFolder, experiments_folder

TOLERANCE = 0.02
ROUNDING = 1e-6
AVERAGES = 'macro', 'weighted'


@dataclass
class Verdict:
    """What came of one record.

    Args:
        record: the kept one.
        holds: whether it does.
        message: in words.
        difference: the largest between a kept score and its repetition; None where nothing was run again.
    """

    record: dict[str, Any]
    holds: bool
    message: str
    difference: float | None = None

    def __str__(self) -> str:
        parameters = self.record['parameters']
        names = ('dataset', 'backbone', 'method', 'fraction', 'seed')
        what = ' '.join(str(parameters[name]) for name in names if name in parameters)
        return f'{"holds" if self.holds else "FAILS"}  {self.record["experiment"]} {what}: {self.message}'


def tampered(record: dict[str, Any]) -> str:
    """How a record contradicts itself, or ''."""
    if not records.is_itself(record):
        return f'its identity {record["run"]} is not that of its parameters, code and split: one of them was changed'
    for split in ('validation', 'test'):
        kept = record['metrics'].get(split) or {}
        try:
            scores = _scores_of_rows(record, split)
        except BadInput as fault:
            return f'its predictions of {split} are spoilt: {fault}'
        for name, value in scores.items():
            if isinstance(kept.get(name), (int, float)) and abs(kept[name] - value) > ROUNDING:
                return f'its {split} {name} is {kept[name]:.4f}, but its predictions give {value:.4f}: one was changed'
    return ''


def _scores_of_rows(record: dict[str, Any], split: str) -> dict[str, float]:
    """Scores that follow from the predictions in a record; empty where it keeps none, or several findings a row."""
    from sklearn.metrics import accuracy_score, f1_score

    from medpeft_utils.training import rows

    if split not in (record.get('rows') or {}):
        return {}
    labels, _, predicted, _ = rows.read(record, split)
    several = labels.ndim > 1  # of each finding, whether it is there
    number = 2 if several else record['rows'][split]['classes']
    highest = max(labels.max(initial=0), predicted.max(initial=0))
    if highest >= number:
        raise BadInput(f'a label is {highest}, of {number} classes')
    if several:
        return {}
    classes = list(range(number))
    f1 = {f'f1_{how}': f1_score(labels, predicted, labels=classes, average=how, zero_division=0) for how in AVERAGES}
    return {**f1, 'accuracy': accuracy_score(labels, predicted)}


def sample(kept: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """`number` records, spread over experiments, families and methods; the same ones for the same records."""
    turns: dict[tuple, int] = {}
    places = []
    for record in sorted(kept, key=lambda record: hashlib.sha256(record['run'].encode()).digest()):
        experiment = record['experiment'], record['backbone'].get('family')
        cell = *experiment, record['method'].get('key')
        turns[experiment], turns[cell] = turns.get(experiment, -1) + 1, turns.get(cell, -1) + 1
        places.append((turns[cell], turns[experiment], len(places), record))
    return [record for *_, record in sorted(places, key=lambda place: place[:3])[:number]]


def compare(kept: dict[str, Any], again: dict[str, Any] | None, tolerance: float) -> Verdict:
    """A record beside its repetition; None where that failed."""
    if again is None or again['status'] != 'done':
        error = f': {again["error"]["type"]}: {again["error"]["message"]}' if again else ''
        return Verdict(kept, False, f'its repetition did not end{error}')
    one, other = kept['data'].get('split_hash'), again['data'].get('split_hash')
    if one and other and one != other:
        return Verdict(kept, False, f'the data here are split otherwise ({other}, kept {one})')
    pairs = list(_paired(kept['metrics'], again['metrics']))
    if not pairs:
        return Verdict(kept, False, 'no score is in both')
    largest, name = max((abs(a - b) if math.isfinite(a - b) else math.inf, name) for name, a, b in pairs)
    code = '' if same_code(kept['code_version'], again['code_version']) else '; the code has changed since'
    if largest == 0:
        return Verdict(kept, True, f'{len(pairs)} scores are equal to the last bit{code}', 0.0)
    message = f'{name} differs by {largest:.4f}, the most of {len(pairs)} scores; {tolerance:g} is allowed{code}'
    return Verdict(kept, largest <= tolerance, message, largest)


def _paired(kept: Any, again: Any, name: str = '') -> Iterator[tuple[str, float, float]]:
    """Scores that both have, whatever their depth: name, kept, repeated."""
    if isinstance(kept, dict) and isinstance(again, dict):
        for key in kept.keys() & again.keys() - {'per_class'}:
            yield from _paired(kept[key], again[key], f'{name} {key}'.strip())
    elif all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (kept, again)):
        yield name, float(kept), float(again)


def grid_of(chosen: list[dict[str, Any]], folder: StudyFolder) -> Grid:
    """The grid of the chosen records, with what their notebooks know by now. Raises BadInput for a lost notebook."""
    experiments = []
    for record in chosen:
        if not (experiments_folder() / f'{record["experiment"]}.ipynb').is_file():
            raise BadInput(f'no notebook {record["experiment"]} in {experiments_folder()}; run this in the checkout')
        experiments.append({'notebook': record['experiment'], 'parameters': record['parameters']})
    folder.root.mkdir(parents=True, exist_ok=True)
    path = folder.root / 'verify.yaml'
    content = {'profile': folder.root.name, 'title': 'Records run again', 'experiments': experiments}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_grid(path)


@click.command()
@click.argument('source', metavar='RECORDS', type=click.Path(exists=True, path_type=Path))
@click.option(
    '--sample', 'number', default=5, show_default=True, type=click.IntRange(0), help='Number of runs to repeat.'
)
@click.option(
    '--tolerance',
    default=TOLERANCE,
    show_default=True,
    type=click.FloatRange(0, 1),
    help='Largest difference of every score.',
)
@run_options
@RESULTS
@click.pass_context
def verify(context: click.Context, source: Path, number: int, tolerance: float, results: Path, **options: Any) -> None:
    """Check RECORDS (a records.jsonl or a study's folder) and repeat some of their runs on this machine.

    Every record is checked against itself; a sample over experiments, families and methods is run again, and its
    scores must agree within the tolerance. The exit status is 1 if any does not.
    """
    done = [record for record in records.read_all(source) if record['status'] == 'done']
    if not done:
        raise BadInput(f'{source} holds no finished record; nothing can be verified')
    changed = [Verdict(record, False, fault) for record in done if (fault := tampered(record))]
    click.echo(f'{source}: {len(done)} records; {len(changed)} contradict themselves')
    chosen = sample(done, number)
    verdicts = changed + (_run_again(chosen, results, tolerance, options) if chosen else [])
    click.echo('\n'.join(map(str, verdicts)))
    failed = sum(not verdict.holds for verdict in verdicts)
    click.echo(f'{len(verdicts) - failed} hold, {failed} fail, within {tolerance:g} of each score')
    context.exit(1 if failed else 0)


def _run_again(chosen: list[dict[str, Any]], results: Path, tolerance: float, options: dict[str, Any]) -> list[Verdict]:
    folder = StudyFolder(results / f'verify-{datetime.now(UTC):%Y%m%d-%H%M%S}')
    grid = grid_of(chosen, folder)
    try:
        execute(grid, identified(grid.runs, known(folder)), folder, retry=False, **options)
    except SystemExit:
        click.echo('not all of them ended')
    ended = {run.key: records.read(folder.record(run.hash)) for run in identified(grid.runs, known(folder))}
    keys = [_key_now(record, grid) for record in chosen]
    return [compare(record, ended.get(key), tolerance) for record, key in zip(chosen, keys, strict=True)]


def _key_now(record: dict[str, Any], grid: Grid) -> str:
    """What tells the run of a kept record in the grid: its parameters, with today's defaults for new ones."""
    known_now = grid.notebooks[record['experiment']].parameters
    defaults = {name: parameter.default for name, parameter in known_now.items() if name != 'record_folder'}
    given = {name: known_now[name].cast(value) for name, value in record['parameters'].items() if name in known_now}
    return run_hash(record['experiment'], defaults | given, '')
