"""Records: one JSON a run, written last and by a rename. They, and nothing else, say what is done.

In an experiment notebook:

    context = records.start(parameters, experiment='vit')
    ...
    context.finish(**parts)
"""

from __future__ import annotations

import json
import logging
import numbers
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.files import plain, read_json, write_bytes, write_json
from medpeft_utils.study.context import RunContext, start
from medpeft_utils.study.identity import code_version, same_code, without_places
from medpeft_utils.study.places import StudyFolder, experiments_folder

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    'COLUMNS',
    'RunContext',
    'adopt',
    'collect',
    'current',
    'faults',
    'load',
    'read',
    'read_all',
    'start',
    'write',
]

log = logging.getLogger(__name__)
SCHEMA = 1
STATUSES = 'done', 'failed', 'died'
ALWAYS = 'schema', 'run', 'status', 'experiment', 'parameters', 'code_version'
WHEN_DONE = 'data', 'backbone', 'method', 'learning_rate', 'metrics', 'time', 'environment'
SCORES = ['f1_macro', 'f1_weighted', 'f1_micro', 'accuracy', 'balanced_accuracy', 'auroc', 'calibration_error']
AS_THEY_ARE = 'run', 'status', 'profile', 'experiment', 'code_version', 'peak_memory_mb'
COUNTS = 'trainable_parameters', 'head_parameters', 'total_parameters'
COLUMNS = [
    *('run', 'status', 'profile', 'experiment', 'dataset', 'dataset_label', 'synthetic'),
    *('backbone', 'backbone_label', 'encoder_role', 'family', 'method', 'method_label'),
    *('fraction', 'train_images', 'seed', 'learning_rate', *COUNTS, *SCORES),
    *('total_seconds', 'step_seconds', 'peak_memory_mb', 'code_version'),
]


def faults(record: Any) -> list[str]:
    """What keeps a record from being whole; empty for a whole one."""
    if not isinstance(record, dict):
        return ['is no JSON object']
    found = [f'has no {key!r}' for key in ALWAYS if key not in record]
    if found:
        return found
    if record['schema'] != SCHEMA:
        found.append(f'has schema {record["schema"]!r}, not {SCHEMA}')
    if record['status'] not in STATUSES:
        found.append(f'has status {record["status"]!r}, not one of {", ".join(STATUSES)}')
    if record['status'] != 'done':
        return found if record.get('error') else [*found, f'has status {record["status"]!r} and no error']
    found += [f'has no {key!r}' for key in WHEN_DONE if not isinstance(record.get(key), dict)]
    return found or _metric_faults(record['metrics'])


def _metric_faults(metrics: dict[str, Any]) -> list[str]:
    """A classification has every score of the test split; another task at least one number."""
    if 'test' in metrics:
        return [f'has no test {name}' for name in SCORES if name not in metrics['test']]
    return [] if any(isinstance(value, numbers.Number) for value in metrics.values()) else ['has no metric']


def write(record: dict[str, Any], folder: Path | str) -> Path:
    """Write a whole record into a run's folder, by a rename, and wait until it is on the disk.

    Raises:
        BadInput: the record is not whole; the message says what it lacks.
        StorageFault: the disk is full or the folder read-only.
    """
    record = plain({'schema': SCHEMA, **record})
    if found := faults(record):
        raise BadInput(f'a record of {record.get("experiment")} {"; ".join(found)}; nothing was written')
    path = Path(folder) / 'record.json'
    write_json(path, record)
    return path


def read(path: Path | str) -> dict[str, Any] | None:
    """A run's record from its file or its folder; None where there is none, or none that is whole."""
    path = Path(path)
    record = read_json(path / 'record.json' if path.is_dir() else path)
    return record if record is not None and not faults(record) else None


def read_all(source: Path | str) -> Iterator[dict[str, Any]]:
    """Every whole record of a study's folder (results/<profile>) or of a records.jsonl."""
    source = Path(source)
    if source.is_file():
        found = (json.loads(line) for line in source.read_text().splitlines() if line.strip())
    elif source.is_dir():
        found = (read_json(path) for path in sorted(source.glob('runs/*/record.json')))
    else:
        raise BadInput(f"{source} is neither a study's folder nor a records.jsonl; start one by `medpeft run`")
    yield from (record for record in found if not faults(record))


def is_stale(record: dict[str, Any]) -> bool:
    """Whether the code that decides a result has changed since; only what is here can be compared."""
    notebook = experiments_folder() / f'{record["experiment"]}.ipynb'
    version = code_version(notebook if notebook.is_file() else None, record['parameters'])
    return not same_code(record['code_version'], version)


def current(folder: Path | str) -> Callable[[dict[str, Any]], bool]:
    """Tells the records of a study's folder that count from those of older code, other data or other parameters.

    What counts is what the folder's grid.yaml asks for; where there is none, what today's code made.
    """
    from medpeft_utils.study.grid import load_grid
    from medpeft_utils.study.splits import identified, known

    study = StudyFolder(Path(folder))
    if not study.grid.is_file():
        return lambda record: not is_stale(record)
    planned = {run.hash for run in identified(load_grid(study.grid).runs, known(study))}
    return lambda record: record['run'] in planned


def load(source: Path | str, stale: bool = False, status: str | None = 'done') -> pd.DataFrame:
    """Records as a table, one row a run.

    Args:
        source: results/<profile>, or a records.jsonl as `collect` writes it.
        stale: keep records that do not count any more (`current`); a column 'stale' tells them apart. From a folder
            they are left out otherwise, with a warning; a records.jsonl is taken as it is.
        status: only records of this status; None for all.
    Returns:
        The columns `COLUMNS`, and 'stale'. What a record does not hold is missing there.
    """
    import pandas as pd

    source, rows, left_out = Path(source), [], 0
    counts = (lambda record: True) if source.is_file() else current(source)
    for record in read_all(source):
        if status is not None and record['status'] != status:
            continue
        old = not counts(record)
        if old and not stale:
            left_out += 1
            continue
        rows.append({**row(record), 'stale': old})
    if left_out:
        log.warning(
            '%d records in %s are left out: of older code, other data or parameters that its grid does not ask for',
            *(left_out, source),
        )
    return pd.DataFrame(rows, columns=[*COLUMNS, 'stale'])


def row(record: dict[str, Any]) -> dict[str, Any]:
    """One record as a flat row with the keys `COLUMNS`."""
    parameters = record['parameters']
    parts = {key: record.get(key) or {} for key in WHEN_DONE}
    data, backbone, method, test = parts['data'], parts['backbone'], parts['method'], parts['metrics'].get('test') or {}
    return {
        **{key: record.get(key) for key in AS_THEY_ARE},
        'dataset': data.get('name', parameters.get('dataset')),
        'dataset_label': data.get('label'),
        'synthetic': data.get('synthetic'),
        'train_images': (data.get('used') or data.get('counts') or {}).get('train'),
        'backbone': backbone.get('name', parameters.get('backbone')),
        'backbone_label': backbone.get('label'),
        'encoder_role': backbone.get('role'),
        'family': backbone.get('family'),
        'method': method.get('key', parameters.get('method')),
        'method_label': method.get('label'),
        'fraction': parameters.get('fraction'),
        'seed': parameters.get('seed'),
        'learning_rate': parts['learning_rate'].get('value'),
        **{name: method.get(name) for name in COUNTS},
        **{name: test.get(name) for name in SCORES},
        **{name: parts['time'].get(name) for name in ('total_seconds', 'step_seconds')},
    }


def collect(folder: Path | str, path: Path | str | None = None) -> Path:
    """Write all records of a study that count (`current`) into one file, a line each.

    A profile whose records.jsonl is kept can be rendered again without its results. Where data lay on this machine is
    left out, since the file is meant to be shared.

    Args:
        folder: results/<profile>.
        path: the file; <folder>/records.jsonl by default.
    """
    path = Path(path or Path(folder) / 'records.jsonl')
    counts = current(folder)
    kept = [
        record | {'parameters': without_places(record['parameters'])} for record in read_all(folder) if counts(record)
    ]
    lines = [json.dumps(record, ensure_ascii=False) for record in kept]
    write_bytes(path, '\n'.join([*lines, '']).encode() if lines else b'')
    return path


def adopt(source: Path | str, runs: Iterable[str], folder: Path | str) -> int:
    """Take finished runs of a kept records.jsonl into a study's folder, so that they are not done again.

    Args:
        source: a file as `collect` writes it.
        runs: identities of the study's runs; a record of any other run (older code, other data) is left out.
        folder: results/<profile>; a record that is there already stays.
    Returns:
        How many were taken.
    Raises:
        BadInput: no such file.
    """
    if not Path(source).is_file():
        raise BadInput(f'{source}: no such file of records; `medpeft report` writes figures/PROFILE/records.jsonl')
    study, planned, taken = StudyFolder(Path(folder)), set(runs), 0
    for record in read_all(source):
        if record['status'] == 'done' and record['run'] in planned and read(study.record(record['run'])) is None:
            write(record, study.run(record['run']))
            taken += 1
    return taken
