"""Records: one JSON a run, written last and by a rename. They, and nothing else, say what is done.

In an experiment notebook:

    context = records.start(parameters, experiment='vit')
    ...
    context.finish(**parts)
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpeft_utils.core import shared
from medpeft_utils.core.errors import BadInput, MedpeftError
from medpeft_utils.core.files import check_writable, parse_json, plain, read_json, write_bytes, write_json
from medpeft_utils.study.identity import code_version, run_hash, same_code, without_places
from medpeft_utils.study.machine import commit, environment
from medpeft_utils.study.paths import StudyFolder, experiments_folder, project_root
from medpeft_utils.study.schema import COUNTS, SCHEMA, SCORES, faults
from medpeft_utils.study.worker import PLAN

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
SECTIONS = 'data', 'backbone', 'method', 'learning_rate', 'metrics', 'time', 'environment'
ABOUT = 'run', 'profile', 'experiment', 'parameters', 'code_version', 'attempt'
AS_THEY_ARE = 'run', 'status', 'profile', 'experiment', 'code_version', 'peak_memory_mb'
COLUMNS = [
    *('run', 'status', 'profile', 'experiment', 'dataset', 'dataset_label', 'synthetic'),
    *('backbone', 'backbone_label', 'encoder_role', 'family', 'method', 'method_label'),
    *('fraction', 'train_images', 'seed', 'learning_rate', *COUNTS, *SCORES),
    *('total_seconds', 'step_seconds', 'peak_memory_mb', 'code_version'),
]


class LostLease(MedpeftError):
    """A run that another runner does meanwhile; what it found here is not recorded, since it is recorded there."""


@dataclass
class RunContext:
    """A run that has begun. `finish` writes its record; without it the run did not happen.

    Args:
        about: what its record begins with: run (identity, 16 hex digits), profile of the study ('by_hand' outside of
            one), experiment, parameters, code_version, attempt (more than 1 where earlier ones died or failed).
        folder: of this attempt: what the run writes beside its record (predictions, adapter).
        searches: folder of what runs share; see `core.shared.once`.
        environment: versions, platform, device, threads, and the commit of the code where there is one.
        lease: path and token of the lease under which a runner executes it; None by hand.
    """

    about: dict[str, Any]
    folder: Path
    searches: Path
    environment: dict[str, Any]
    lease: dict[str, str] | None = None
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock: float = field(default_factory=time.monotonic)

    @property
    def run(self) -> str:
        return self.about['run']

    def finish(self, **parts: Any) -> Path:
        """Write the record, whole or not at all; the path of its file.

        Args:
            parts: data, backbone, method, learning_rate, metrics, curve, best_epoch, time, peak_memory_mb, predictions.
                `environment` is added to what is known already; time's `total_seconds` is measured where not given.
        Raises:
            BadInput: a part is missing.
            LostLease: another runner does this run meanwhile.
            StorageFault: the disk is full or the folder read-only.
        """
        spent = {'total_seconds': round(time.monotonic() - self.clock, 3)}
        started = self.began.isoformat(timespec='seconds')
        begun = {'run': self.run, 'status': 'done', **self.about, 'started': started}
        parts['time'] = {**spent, **parts.get('time', {})}
        parts['environment'] = {**self.environment, **parts.get('environment', {})}
        if self.lease is None:
            return write({**begun, **parts}, self.folder)
        if not shared.is_held(**self.lease):
            reason = 'was taken over by another runner while this one stood still; it goes on there'
            raise LostLease(f'run {self.run} {reason}')
        return write({**begun, 'folder': self.folder.name, **parts}, self.folder.parent)


def start(parameters: dict[str, Any], experiment: str) -> RunContext:
    """Begin a run. Raises at once where its record could not be written later.

    Args:
        parameters: the notebook's parameters, `record_folder` among them; '' there for stepping through by hand, whose
            record goes to results/by_hand.
        experiment: the notebook's stem.
    Raises:
        BadInput: `record_folder` is the folder of another run.
        StorageFault: the folder cannot be written.
    """
    folder = parameters.get('record_folder') or ''
    plan = read_json(Path(folder) / PLAN) if folder else None
    parameters = plain({name: value for name, value in parameters.items() if name != 'record_folder'})
    context = _planned(plan, parameters, Path(folder)) if plan else _by_hand(parameters, experiment, folder)
    check_writable(context.folder)
    return context


def _planned(plan: dict[str, Any], parameters: dict[str, Any], folder: Path) -> RunContext:
    """The runner's own account of the run, provided the notebook indeed got those parameters."""
    planned, given = without_places(plan['parameters']), without_places(parameters)
    wrong = [name for name in planned if name in given and given[name] != planned[name]]
    if wrong:
        differing = ', '.join(f'{name} {given[name]!r} instead of {planned[name]!r}' for name in wrong)
        raise BadInput(f'{folder} is the folder of another run: {differing}; give another record_folder')
    return RunContext(
        about={name: plan[name] for name in ABOUT},
        folder=folder,
        searches=folder.parents[2] / 'searches',
        environment={**environment(), 'commit': plan.get('commit')},
        lease=plan.get('lease'),
    )


def _by_hand(parameters: dict[str, Any], experiment: str, folder: str) -> RunContext:
    notebook = experiments_folder() / f'{experiment}.ipynb'
    version = code_version(notebook if notebook.is_file() else None, parameters)
    run, root = run_hash(experiment, parameters, version), project_root() / 'results' / 'by_hand'
    return RunContext(
        about=dict(zip(ABOUT, (run, 'by_hand', experiment, parameters, version, 1), strict=True)),
        folder=Path(folder) if folder else root / 'runs' / run,
        searches=root / 'searches',
        environment={**environment(), 'commit': commit()},
    )


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
    """A run's record from its file or its folder; None if it is missing or incomplete."""
    path = Path(path)
    record = read_json(path if path.suffix == '.json' else path / 'record.json')
    return record if record is not None and not faults(record) else None


def read_all(source: Path | str) -> Iterator[dict[str, Any]]:
    """Every whole record of a study's folder (results/<profile>) or of a records.jsonl.

    What is not whole is left out, counted, and told by a warning at the end. Raises BadInput where there is neither, or
    where a file has lines and not one of them is a record.
    """
    source, left_out, whole = Path(source), Counter(), 0
    for content in contents(source):
        wrong = [content] if isinstance(content, str) else faults(content)
        if wrong:
            left_out[wrong[0]] += 1
        else:
            whole += 1
            yield content
    if left_out and not whole and source.is_file():
        raise BadInput(f'{source} holds no record: {next(iter(left_out))}; `medpeft report` writes such files')
    if left_out:
        reasons = '; '.join(f'{number} times {reason}' for reason, number in left_out.most_common(3))
        log.warning(
            '%d of %d records in %s are left out: %s', left_out.total(), left_out.total() + whole, source, reasons
        )


def contents(source: Path) -> Iterator[Any]:
    """The content of every record's file or line; where that is no JSON, why."""
    if source.is_file():
        with source.open('rb') as file:
            for line in file:
                if line.strip():
                    try:
                        yield parse_json(line)
                    except ValueError as error:
                        yield f'is no JSON ({str(error)[:60]})'
    elif source.is_dir():
        for path in sorted(source.glob('runs/*/record.json')):
            content = read_json(path)
            yield 'is cut off or no JSON' if content is None else content
    else:
        raise BadInput(f"{source} is neither a study's folder nor a records.jsonl; start one by `medpeft run`")


def is_itself(record: dict[str, Any]) -> bool:
    """Whether a finished record's identity is that of its experiment, parameters, code and split."""
    given = record['experiment'], record['parameters'], record['code_version']
    return record['run'] in (run_hash(*given), run_hash(*given, record['data'].get('split_hash')))


def is_stale(record: dict[str, Any]) -> bool:
    """Whether the code that decides a result has changed since; only what is here can be compared."""
    notebook = experiments_folder() / f'{record["experiment"]}.ipynb'
    version = code_version(notebook if notebook.is_file() else None, record['parameters'])
    return not same_code(record['code_version'], version)


def current(folder: Path | str) -> Callable[[dict[str, Any]], bool]:
    """Tells the records of a study's folder that count from those of older code, other data or other parameters.

    What counts is what the folder's grid.yaml asks for; where there is none, what today's code made.
    """
    from medpeft_utils.study.grid import identified, known, load_grid

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
    parts = {key: record.get(key) or {} for key in SECTIONS}
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
    """Take finished runs and searches of a kept records.jsonl into a study's folder, where no one does them again.

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
        if record['status'] == 'done' and not is_itself(record):
            log.warning('%s: record %s was changed and is left out; `medpeft verify` says more', source, record['run'])
            continue
        if record['status'] == 'done' and record['run'] in planned and read(study.record(record['run'])) is None:
            write(record, study.run(record['run']))
            taken += 1
        _adopt_search(record.get('learning_rate') or {}, study.searches)
    return taken


def _adopt_search(rate: dict[str, Any], folder: Path) -> None:
    """Write what a record tells of its search where runs of other seeds look for it (`training.run.Run`)."""
    search, trials = rate.get('search'), rate.get('trials')
    if not search or not trials or (path := folder / f'{search["key"]}.json').is_file():
        return
    chosen = {'learning_rate': rate.get('value'), 'head_learning_rate': rate.get('head_value')}
    values = {name: value for name, value in chosen.items() if name in trials[0]}
    rest = {name: value for name, value in search.items() if name != 'key'}
    write_json(path, {'values': values, 'trials': trials} | rest)
