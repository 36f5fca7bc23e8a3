"""How runs end that leave no record of their own, and which of them are done again."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medpeft_utils.core.files import read_json, write_json

OUTCOME, LOG, PLAN = 'outcome.json', 'kernel.log', 'run.json'
# May pass at a second try, as when other runs needed the memory; any other exception in a cell comes again.
PASSING = {'MemoryError', 'OutOfMemoryError', 'KernelDied', 'WorkerDied'}
NO_MEMORY = re.compile(r"can(no|')t allocate memory", re.IGNORECASE)  # torch on a CPU, and the operating system
TRIES = 2
LOG_LINES = 12


@dataclass
class Outcome:
    """How a run's process ended, by its own account or by that of the runner.

    Args:
        status: of the record that it becomes, 'failed' or 'died'; 'storage' for what no record can be written of, and
            'finished' where the notebook came to its end, which a record has to prove.
        type: of the error, a class name.
        message: in words.
        cell: which raised it, where it is known.
        last_lines: of what the run printed.
        cpu_seconds: of the run's process and its kernel.
    """

    status: str
    type: str
    message: str
    cell: int | None = None
    last_lines: list[str] = field(default_factory=list)
    cpu_seconds: float | None = None

    def write(self, folder: Path) -> None:
        """Leave it for the runner."""
        write_json(folder / OUTCOME, asdict(self), durable=False)

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """What a run's process has left; None where it was killed before."""
        content = read_json(folder / OUTCOME)
        return cls(**content) if content else None


def is_wanted(record: dict[str, Any] | None, again: int | None = None) -> bool:
    """Whether a run with this record is to be done: it has none, or one that a second try may better.

    Args:
        record: what is recorded of the run.
        again: the failed attempt that the user wants replaced, if any.
    """
    if record is None:
        return True
    if record['status'] == 'done':
        return False
    attempt = record.get('attempt', 1)
    return again == attempt or (_may_pass(record) and attempt < TRIES)


def _may_pass(record: dict[str, Any]) -> bool:
    error = record['error']
    named = error.get('type') in PASSING or NO_MEMORY.search(error.get('message') or '') is not None
    return record['status'] == 'died' or named


def overdue(limit: float) -> Outcome:
    """Of a run that was ended since it took too long."""
    return Outcome('failed', 'TimeLimit', f'not finished after {limit:g} s; the limit is --time-limit')


def killed(code: int) -> Outcome:
    """Of a run whose process was gone before it could give an account. `code`: its exit code, negative for a signal."""
    return Outcome('died', 'WorkerDied', f'the process of the run ended{describe_end(code)}')


def failure(folder: Path, outcome: Outcome, **about: Any) -> dict[str, Any]:
    """The record of a run that left none.

    Args:
        folder: the attempt's.
        outcome: how it ended.
        about: run, experiment, code_version, attempt, parameters, time.
    """
    plan = read_json(folder / PLAN) or {}
    lines = outcome.last_lines or last_lines(folder / LOG)
    error = {'type': outcome.type, 'message': outcome.message, 'last_lines': lines}
    return {
        **{key: plan.get(key) for key in ('profile', 'family', 'started')},
        **about,
        'parameters': plan.get('parameters', about['parameters']),
        'status': 'died' if outcome.status == 'died' else 'failed',
        'folder': folder.name,
        'ended': stamp(),
        'error': error if outcome.cell is None else {**error, 'cell': outcome.cell},
    }


def last_lines(log: Path) -> list[str]:
    """The end of what a run's process printed."""
    return log.read_text(errors='replace').splitlines()[-LOG_LINES:] if log.is_file() else []


def describe_end(code: int | None) -> str:
    """How a process ended, in words that go on a message."""
    if code is None or code == 0:
        return ''
    if code == -9:
        return ' (killed by signal 9: by hand, or for lack of memory)'
    return f' (killed by signal {-code})' if code < 0 else f' (exit code {code})'


def stamp() -> str:
    """Now, as events and records write it."""
    return datetime.now(UTC).isoformat(timespec='milliseconds')
