"""Where a study stands: the state of every run, as its record and its lease tell; and the stream of what happens.

results/<profile>/events.jsonl has a JSON object a line for other tools (`medpeft events --help`). Every runner on the
folder adds to it, each line by one write. It decides nothing: what is done is what has a record.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.shared import is_taken
from medpeft_utils.study import records
from medpeft_utils.study.grid import Grid, Run
from medpeft_utils.study.identity import run_hash
from medpeft_utils.study.paths import StudyFolder
from medpeft_utils.study.worker import NOTEBOOK

STATES = 'done', 'failed', 'died', 'running', 'stale', 'left', 'not available yet'
LOOK_SECONDS = 0.5
BARS = ' ▁▂▃▄▅▆▇█'


@dataclass(frozen=True)
class State:
    """A run and where it stands; `record`, without its rows and curve, is a stale one's old record too."""

    run: Run
    state: str
    record: dict[str, Any] | None


def states(runs: Iterable[Run], folder: StudyFolder) -> list[State]:
    """Where every run stands. A run that only older code has done is stale: it is to be done again."""
    entries, older = [], None
    for run in runs:
        record = records.read(folder.record(run.hash))
        if record is not None:
            slim = {name: part for name, part in record.items() if name not in ('rows', 'curve')}
            entries.append(State(run, record['status'], slim))
        elif run.notebook is None:
            entries.append(State(run, 'not available yet', None))
        elif is_taken(folder.lease(run.hash)):
            entries.append(State(run, 'running', None))
        else:
            if older is None:  # records by what they would be called whatever the code
                every = records.read_all(folder.root) if folder.runs.is_dir() else ()
                done = (one for one in every if one['status'] == 'done')
                older = {run_hash(one['experiment'], one['parameters'], ''): one for one in done}
            entries.append(State(run, 'stale' if run.key in older else 'left', older.get(run.key)))
    return entries


def count_table(entries: list[State]) -> list[str]:
    """A line a family with the number of its runs in every state, and their sum."""
    families = list(dict.fromkeys(state.run.family for state in entries))
    shown = [name for name in STATES if name in ('done', 'left') or any(s.state == name for s in entries)]
    rows = [['family', 'runs', *shown]]
    for family in [*families, 'all']:
        inside = [state for state in entries if family in ('all', state.run.family)]
        numbers = [sum(state.state == name for state in inside) for name in shown]
        rows.append([family, str(len(inside)), *(str(number) if number else '·' for number in numbers)])
    return aligned(rows)


def aligned(rows: list[list[str]], left: int = 1) -> list[str]:
    """Rows as text in columns: the first `left` to the left, numbers to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]) if rows else 0)]
    columns = list(enumerate(widths))
    return ['  '.join(f'{row[k]:{"<" if k < left else ">"}{width}}' for k, width in columns).rstrip() for row in rows]


def failure_lines(entries: list[State], lines: int = 4) -> list[str]:
    """Every failed and died run with its error and the last lines of its output."""
    text = []
    for state in entries:
        if state.state not in ('failed', 'died'):
            continue
        error = state.record['error']
        where = f', cell {error["cell"]}' if error.get('cell') is not None else ''
        text.append(f'{state.run.hash}  {state.state}  {state.run.label}')
        text.append(f'    {error["type"]}: {error["message"]}{where}')
        text += [f'    | {line}' for line in (error.get('last_lines') or [])[-lines:]]
    return text


def run_lines(entries: list[State]) -> list[str]:
    """A line a run: its hash, its state, what it is, and its score where there is one."""
    rows = []
    for state in entries:
        test = ((state.record or {}).get('metrics') or {}).get('test') or {}
        score = f'{test["f1_macro"]:.3f}' if state.state == 'done' and test.get('f1_macro') is not None else ''
        rows.append([state.run.hash, state.state, state.run.label, score])
    return aligned(rows, left=3) if rows else []


def as_json(grid: Grid, entries: list[State]) -> dict[str, Any]:
    """The same for other tools."""
    runs = [
        {'run': run.hash, 'state': state.state, 'experiment': run.experiment, 'family': run.family, 'given': run.given}
        for state in entries
        for run in [state.run]
    ]
    return {'profile': grid.profile, 'title': grid.title, 'runs': runs}


def find_run(beginning: str, results: Path) -> Path:
    """The folder of the run whose hash begins so. Raises BadInput unless there is exactly one."""
    folders = sorted(results.glob(f'*/runs/{beginning}*')) if beginning.isalnum() else []
    if len(folders) != 1:
        what = f'{len(folders)} runs begin' if folders else 'no run begins'
        raise BadInput(f'{what} with {beginning!r} in {results}; `medpeft status GRID --list` names them')
    return folders[0]


def describe(folder: Path) -> list[str]:
    """All about one run: parameters, metrics, curve, error, and where its notebook is."""
    record = records.read(folder)
    if record is None:
        raise BadInput(f'{folder} holds no record: the run has not finished; `medpeft status` tells if it is running')
    stale = ', stale: made by older code' if records.is_stale(record) else ''
    text = [f'run {record["run"]}  {record["status"]}{stale}', f'{record.get("profile")} · {record["experiment"]}', '']
    text += aligned([[name, str(value)] for name, value in record['parameters'].items()], left=2)
    if record['status'] != 'done':
        error = record['error']
        text += ['', f'{error["type"]}: {error["message"]}', *(f'  | {line}' for line in error.get('last_lines') or [])]
    else:
        text += ['', *_outcome_lines(record)]
    notebook = folder / (record.get('folder') or '') / NOTEBOOK
    return [*text, '', f'notebook  {notebook}', f'record    {folder / "record.json"}']


def _outcome_lines(record: dict[str, Any]) -> list[str]:
    data, backbone, method, rate = (record[key] for key in ('data', 'backbone', 'method', 'learning_rate'))
    text = [
        f'data           {data.get("label")}, {data.get("counts")}, split {data.get("split_hash")}',
        f'backbone       {backbone.get("label")}, {backbone.get("source")}',
        f'method         {method.get("label")}, {method.get("trainable_parameters")} trainable parameters',
        f'learning rate  {rate.get("value")} ({rate.get("how")})',
        f'time           {record["time"].get("total_seconds")} s, commit {record["environment"].get("commit")}',
        '',
    ]
    splits = {name: part for name, part in record['metrics'].items() if name in ('validation', 'test')}
    for name, value in (record['metrics'] if not splits else {}).items():
        text.append(f'{name}  {value}')
    if splits:
        scores = list(splits['test'] if 'test' in splits else next(iter(splits.values())))
        rows = [['', *splits], *([score, *(_number(part.get(score)) for part in splits.values())] for score in scores)]
        text += aligned(rows)
    if curve := record.get('curve'):
        text += ['', 'curve', *_curve_lines(curve)]
    return text


def _number(value: Any) -> str:
    return f'{value:.4f}' if isinstance(value, float) else '' if value is None else str(value)


def _curve_lines(curve: list[dict[str, Any]]) -> list[str]:
    """A bar an entry for every number that changes in training."""
    names = [name for name in curve[0] if name not in ('epoch', 'step')]
    rows = []
    for name in names:
        values = [point[name] for point in curve if isinstance(point.get(name), (int, float))]
        if values:
            low, high = min(values), max(values)
            bars = ''.join(BARS[1 + round((value - low) / (high - low or 1) * (len(BARS) - 2))] for value in values)
            rows.append([name, bars, f'{values[0]:.4f} to {values[-1]:.4f}'])
    return aligned(rows, left=2) if rows else []


def stream_events(path: Path, follow: bool = False) -> Iterator[str]:
    """The lines of an events file, whole ones only; with `follow` also those to come, for ever."""
    place, pending = 0, b''
    while True:
        if path.is_file():
            with path.open('rb') as file:
                file.seek(place)
                chunk = file.read()
            place += len(chunk)
            *lines, pending = (pending + chunk).split(b'\n')
            yield from (line.decode() for line in lines)
        if not follow:
            return
        time.sleep(LOOK_SECONDS)


def find_events(profile: str, results: Path, follow: bool) -> Path:
    """The events of a study; with `follow` also of one that is not begun yet. Raises BadInput where there are none."""
    path = StudyFolder(results / profile).events
    if not follow and not path.is_file():
        there = ', '.join(sorted(path.parent.name for path in results.glob(f'*/{path.name}'))) or 'none'
        raise BadInput(f'no events of {profile!r} in {results} (there: {there}); medpeft run {profile}, or --follow')
    return path
