"""How runs end that leave no record of their own, and which of them are done again."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medpeft_utils.core.files import read_json
from medpeft_utils.core.leases import is_alive, is_here
from medpeft_utils.study.context import PLAN
from medpeft_utils.study.grid import Run
from medpeft_utils.study.processes import kill
from medpeft_utils.study.worker import LOG, describe_end

# May pass at a second try, as when other runs needed the memory; any other exception in a cell comes again.
PASSING = {'MemoryError', 'OutOfMemoryError', 'KernelDied', 'WorkerDied'}
NO_MEMORY = re.compile(r"can(no|')t allocate memory", re.IGNORECASE)  # torch on a CPU, and the operating system
TRIES = 2
LOG_LINES = 12


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


def overdue(limit: float) -> dict[str, Any]:
    """The account of a run that was ended since it took too long."""
    message = f'not finished after {limit:g} s; the limit is --time-limit'
    return {'kind': 'failed', 'error': {'type': 'TimeLimit', 'message': message}}


def failure(
    folder: Path, run: Run, attempt: int, outcome: dict[str, Any] | None, code: int, seconds: float
) -> dict[str, Any]:
    """The record of a run that left none.

    Args:
        folder: the run's.
        outcome: its own account, None where its process was killed before it could give one.
        code: exit code of its process, negative for a signal.
        seconds: how long it lasted.
    """
    if outcome is None:
        message = f'the process of the run ended{describe_end(code)}'
        outcome = {'kind': 'died', 'error': {'type': 'WorkerDied', 'message': message}}
    error = outcome['error']
    plan = read_json(folder / PLAN) or {}
    return {
        **{key: plan.get(key) for key in ('profile', 'family', 'started')},
        'parameters': plan.get('parameters', run.parameters),
        'run': run.hash,
        'status': 'died' if outcome['kind'] == 'died' else 'failed',
        'experiment': run.experiment,
        'code_version': run.code,
        'attempt': attempt,
        'ended': stamp(),
        'time': {'total_seconds': round(seconds, 3)},
        'error': {**error, 'last_lines': error.get('last_lines') or last_lines(folder / LOG)},
    }


def last_lines(log: Path) -> list[str]:
    """The end of what a run's process printed."""
    return log.read_text(errors='replace').splitlines()[-LOG_LINES:] if log.is_file() else []


def end_worker(holder: dict[str, Any] | None, patience: float = 10.0) -> None:
    """End the process in which a claim's former owner executed the run, and wait until it is gone."""
    if not holder or not is_here(holder) or 'worker' not in holder:
        return
    worker = {'pid': holder['worker'], 'began': holder['worker_began']}
    deadline = time.monotonic() + patience
    while is_alive(worker) and time.monotonic() < deadline:
        kill(worker['pid'], group=True)
        time.sleep(0.02)


def stamp() -> str:
    """Now, as events and records write it."""
    return datetime.now(UTC).isoformat(timespec='milliseconds')
