"""One run in its own process: a notebook executed by papermill, and an account of how that ended (`Outcome`).

The account is a message to the runner, which makes a record of it where the run has left none.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medpeft_utils.core.files import STORAGE_ERRORS, StorageFault, read_json, storage, write_json
from medpeft_utils.study.processes import LINUX, end_descendants, end_with, is_alive

NOTEBOOK, OUTCOME, LOG, PLAN = 'notebook.ipynb', 'outcome.json', 'kernel.log', 'run.json'
# Names socket folders; a process id means one process within one namespace, as in a container.
SOCKETS = f'medpeft-{Path("/proc/self/ns/pid").stat().st_ino if LINUX else 0:x}-'
STORAGE_EXIT = 74  # sysexits.h: an error in input or output
COLOURS = re.compile(r'\x1b\[[0-9;]*m')
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

    def record(self, folder: Path, **about: Any) -> dict[str, Any]:
        """The record of a run that left none.

        Args:
            folder: the attempt's.
            about: run, experiment, code_version, attempt, parameters, time.
        """
        plan, log = read_json(folder / PLAN) or {}, folder / LOG
        printed = log.read_text(errors='replace').splitlines() if log.is_file() else []
        error = {'type': self.type, 'message': self.message, 'last_lines': self.last_lines or printed[-LOG_LINES:]}
        return {
            **{key: plan.get(key) for key in ('profile', 'family', 'started')},
            **about,
            'parameters': plan.get('parameters', about['parameters']),
            'status': 'died' if self.status == 'died' else 'failed',
            'folder': folder.name,
            'ended': stamp(),
            'error': error if self.cell is None else {**error, 'cell': self.cell},
        }


def stamp() -> str:
    """Now, as events and records write it."""
    return datetime.now(UTC).isoformat(timespec='milliseconds')


def described(code: int | None) -> str:
    """How a process ended, in words that go on a message. `code`: its exit code, negative for a signal."""
    if code == -9:
        return ' (killed by signal 9: by hand, or for lack of memory)'
    if code:
        return f' (killed by signal {-code})' if code < 0 else f' (exit code {code})'
    return ''


def be_worker(job: dict[str, Any], forked: bool) -> None:
    """A run's process, from its beginning to its end; it does not return.

    Args:
        job: run, notebook, folder, parameters, threads, cwd, environment (all as the runner wrote them).
        forked: this process was forked from one that has everything imported, and forks its kernel in turn.
    """
    code = 1
    try:
        end_with(os.getppid(), told=_ask_children_to_end)
        os.setsid()
        handle = os.open(Path(job['folder']) / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):  # what this process and its children print
            os.dup2(handle, stream)
        os.environ.update(job['environment'])
        code = execute(job, forked)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        end_descendants()
        os._exit(code)


def _ask_children_to_end() -> None:
    """A training writes its checkpoint first."""
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            child.terminate()


def execute(job: dict[str, Any], forked: bool) -> int:
    """Execute a job's notebook; the exit code for this process."""
    folder, kernel = Path(job['folder']), None
    if forked:
        from medpeft_utils.study.kernel import use_forked_kernel

        kernel = use_forked_kernel(job['threads'])
    try:
        outcome = _run_notebook(job, folder)
        if kernel and outcome.status == 'died':
            outcome.message += described(kernel.wait())
        end_descendants()  # before their CPU time is read
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        outcome.cpu_seconds = round(sum(part.ru_utime + part.ru_stime for part in used), 3)
        outcome.write(folder)
    except StorageFault as fault:
        with contextlib.suppress(OSError):
            Outcome('storage', 'StorageFault', str(fault)).write(folder)
        return STORAGE_EXIT
    return 0


def _run_notebook(job: dict[str, Any], folder: Path) -> Outcome:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        with own_sockets() as config, storage(folder):
            papermill.execute_notebook(
                job['notebook'],
                folder / NOTEBOOK,
                parameters=job['parameters'],
                kernel_name='python3',
                language='python',
                cwd=job['cwd'],
                progress_bar=False,
                start_timeout=120,
                autosave_cell_every=60,
                shutdown_kernel='immediate',  # the record is on the disk; what is left needs no goodbye
                config=config,
            )
    except PapermillExecutionError as error:
        return _cell_failed(error)
    except DeadKernelError:
        return Outcome('died', 'KernelDied', f'the kernel died in cell {_last_cell(folder / NOTEBOOK)}')
    except RuntimeError as error:  # jupyter_client: the kernel ended before it answered
        return Outcome('died', 'KernelDied', f'the kernel did not start: {error}')
    return Outcome('finished', 'NoRecord', 'the notebook ended without a record: sys.exit, or no cell wrote one')


@contextlib.contextmanager
def own_sockets() -> Iterator[Any]:
    """Unix sockets in a folder of this run's own: no port that two kernels could both take, nothing left behind."""
    from traitlets.config import Config

    config, folder = Config(), socket_folder()
    os.environ['JUPYTER_RUNTIME_DIR'] = str(folder)
    config.KernelManager.connection_file = str(folder / 'connection.json')
    if os.name == 'posix':
        config.KernelManager.transport = 'ipc'
        config.KernelManager.ip = str(folder / 'k')
    try:
        yield config
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def socket_folder() -> Path:
    """A new folder for sockets, named after the process that owns it."""
    return Path(tempfile.mkdtemp(prefix=f'{SOCKETS}{os.getpid()}-'))


def remove_left_sockets() -> None:
    """Remove the socket folders of processes that were killed. Those of another process namespace stay."""
    for folder in Path(tempfile.gettempdir()).glob(f'{SOCKETS}[0-9]*-*'):
        pid = folder.name.removeprefix(SOCKETS).partition('-')[0]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _cell_failed(error: Any) -> Outcome:
    """The account of an exception in a cell; a full or read-only disk is the study's fault, not the run's."""
    lines = [COLOURS.sub('', line) for part in error.traceback for line in part.splitlines()]
    number = re.match(r'\[Errno (\d+)\]', error.evalue)
    if error.ename == 'StorageFault' or (number and int(number[1]) in STORAGE_ERRORS):
        raise StorageFault(error.evalue)
    message = COLOURS.sub('', error.evalue)
    return Outcome('failed', error.ename, message, cell=error.cell_index, last_lines=lines[-LOG_LINES:])


def _last_cell(notebook: Path) -> str:
    """Which cell was running, from the notebook as papermill last saved it."""
    try:
        cells = json.loads(notebook.read_text())['cells']
    except (OSError, ValueError):
        return '?'
    running = [n for n, cell in enumerate(cells) if cell['metadata'].get('papermill', {}).get('start_time')]
    return str(running[-1]) if running else '?'
