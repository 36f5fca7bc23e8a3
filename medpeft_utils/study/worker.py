"""One run in its own process: a notebook executed by papermill, and an account of how that ended.

The account (`outcome.json`) is a message to the runner; what counts as done is the record alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medpeft_utils.core.files import STORAGE_ERRORS, StorageFault, storage, write_json
from medpeft_utils.core.leases import process_mark
from medpeft_utils.study.processes import adopt_orphans, die_with

OUTCOME, LOG, NOTEBOOK = 'outcome.json', 'kernel.log', 'notebook.ipynb'
SOCKETS = 'medpeft-'
STORAGE_EXIT = 74  # sysexits.h: an error in input or output
LAST_LINES = 12
COLOURS = re.compile(r'\x1b\[[0-9;]*m')


def execute(job: dict[str, Any], forked: bool) -> int:
    """Execute a job's notebook; the exit code for this process.

    Args:
        job: notebook, folder, parameters, threads, cwd (all as the runner wrote them).
        forked: this process was forked from one that has everything imported, and forks its kernel in turn.
    """
    folder = Path(job['folder'])
    adopt_orphans()
    kernel = None
    if forked:
        from medpeft_utils.study.kernel import use_forked_kernel

        kernel = use_forked_kernel(job['threads'])
    try:
        outcome = _run_notebook(job, folder)
        if kernel and outcome['kind'] == 'died':
            outcome['error']['message'] += describe_end(kernel.wait())
        write_json(folder / OUTCOME, outcome, durable=False)
    except StorageFault as fault:
        with contextlib.suppress(OSError):
            write_json(folder / OUTCOME, _ended('storage', 'StorageFault', str(fault)), durable=False)
        return STORAGE_EXIT
    return 0


def _run_notebook(job: dict[str, Any], folder: Path) -> dict[str, Any]:
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
        return _ended('died', 'KernelDied', f'the kernel died in cell {_last_cell(folder / NOTEBOOK)}')
    except RuntimeError as error:  # jupyter_client: the kernel ended before it answered
        return _ended('died', 'KernelDied', f'the kernel did not start: {error}')
    return _ended(
        'finished', 'NoRecord', 'the notebook ended without a record: sys.exit in a cell, or no cell wrote one'
    )


@contextlib.contextmanager
def own_sockets() -> Iterator[Any]:
    """Unix sockets in a folder of this run's own: no port that two kernels could both take, nothing left behind."""
    from traitlets.config import Config

    config, folder = Config(), tempfile.mkdtemp(prefix=f'{SOCKETS}{os.getpid()}-')
    os.environ['JUPYTER_RUNTIME_DIR'] = folder
    config.KernelManager.connection_file = str(Path(folder) / 'connection.json')
    if os.name == 'posix':
        config.KernelManager.transport = 'ipc'
        config.KernelManager.ip = str(Path(folder) / 'k')
    try:
        yield config
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_sockets(older_than: float = 86400.0) -> None:
    """Remove the socket folders of runs that were killed, once they are a day old."""
    for folder in Path(tempfile.gettempdir()).glob(f'{SOCKETS}[0-9]*-*'):
        pid = int(folder.name.removeprefix(SOCKETS).partition('-')[0])
        with contextlib.suppress(FileNotFoundError):  # another runner removes it, too
            if time.time() - folder.stat().st_mtime > older_than and process_mark(pid) is None:
                shutil.rmtree(folder, ignore_errors=True)


def _ended(kind: str, error_type: str, message: str, lines: list[str] | None = None) -> dict[str, Any]:
    return {'kind': kind, 'error': {'type': error_type, 'message': message, 'last_lines': lines or []}}


def _cell_failed(error: Any) -> dict[str, Any]:
    """The account of an exception in a cell; a full or read-only disk is the study's fault, not the run's."""
    lines = [COLOURS.sub('', line) for part in error.traceback for line in part.splitlines()]
    number = re.match(r'\[Errno (\d+)\]', error.evalue)
    full = error.ename == 'StorageFault' or (number and int(number[1]) in STORAGE_ERRORS)
    if full:
        raise StorageFault(error.evalue)
    outcome = _ended('failed', error.ename, COLOURS.sub('', error.evalue), lines[-LAST_LINES:])
    outcome['error']['cell'] = error.cell_index
    return outcome


def _last_cell(notebook: Path) -> str:
    """Which cell was running, from the notebook as papermill last saved it."""
    try:
        cells = json.loads(notebook.read_text())['cells']
    except (OSError, ValueError):
        return '?'
    running = [n for n, cell in enumerate(cells) if cell['metadata'].get('papermill', {}).get('start_time')]
    return str(running[-1]) if running else '?'


def describe_end(code: int | None) -> str:
    """How a process ended, in words that go on a message."""
    if code is None or code == 0:
        return ''
    if code == -9:
        return ' (killed by signal 9: by hand, or for lack of memory)'
    return f' (killed by signal {-code})' if code < 0 else f' (exit code {code})'


def redirect_output(folder: Path) -> None:
    """Let whatever this process and its children print go to the run's log."""
    handle = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)


def main() -> int:
    """`python -m medpeft_utils.study.worker JOB.json PARENT`: a run with a plain kernel, where forking is no option."""
    job = json.loads(Path(sys.argv[1]).read_text())
    die_with(int(sys.argv[2]))
    redirect_output(Path(job['folder']))
    return execute(job, forked=False)


if __name__ == '__main__':
    sys.exit(main())
