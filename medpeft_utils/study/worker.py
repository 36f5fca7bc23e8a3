"""One run in its own process: a notebook executed by papermill, and an account of how that ended (`Outcome`).

The account is a message to the runner; what counts as done is the record alone.
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
from pathlib import Path
from typing import Any

from medpeft_utils.core.files import STORAGE_ERRORS, StorageFault, storage
from medpeft_utils.study.outcomes import LOG, LOG_LINES, Outcome, describe_end
from medpeft_utils.study.processes import ask_children_to_end, end_descendants, end_with, process_mark, process_space

NOTEBOOK = 'notebook.ipynb'
SOCKETS = 'medpeft-'
STORAGE_EXIT = 74  # sysexits.h: an error in input or output
COLOURS = re.compile(r'\x1b\[[0-9;]*m')


def be_worker(job: dict[str, Any], forked: bool) -> None:
    """A run's process, from its beginning to its end; it does not return.

    Args:
        job: run, notebook, folder, parameters, threads, cwd, environment (all as the runner wrote them).
        forked: this process was forked from one that has everything imported, and forks its kernel in turn.
    """
    code = 1
    try:
        end_with(os.getppid(), told=ask_children_to_end)
        os.setsid()
        redirect_output(Path(job['folder']))
        os.environ.update(job['environment'])
        code = execute(job, forked)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        end_descendants()
        os._exit(code)


def execute(job: dict[str, Any], forked: bool) -> int:
    """Execute a job's notebook; the exit code for this process."""
    folder, kernel = Path(job['folder']), None
    if forked:
        from medpeft_utils.study.kernel import use_forked_kernel

        kernel = use_forked_kernel(job['threads'])
    try:
        outcome = _run_notebook(job, folder)
        if kernel and outcome.status == 'died':
            outcome.message += describe_end(kernel.wait())
        end_descendants()  # so that their time is known
        outcome.cpu_seconds = _cpu_seconds()
        outcome.write(folder)
    except StorageFault as fault:
        with contextlib.suppress(OSError):
            Outcome('storage', 'StorageFault', str(fault)).write(folder)
        return STORAGE_EXIT
    return 0


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return round(sum(part.ru_utime + part.ru_stime for part in used), 3)


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
    """A new folder for sockets, named after the process that owns it and the namespace in which its id counts."""
    return Path(tempfile.mkdtemp(prefix=f'{SOCKETS}{process_space()}-{os.getpid()}-'))


def remove_left_sockets() -> None:
    """Remove the socket folders of processes that were killed. Those of another process namespace stay."""
    ours = f'{SOCKETS}{process_space()}-'
    for folder in Path(tempfile.gettempdir()).glob(f'{ours}[0-9]*-*'):
        pid = folder.name.removeprefix(ours).partition('-')[0]
        if pid.isdigit() and process_mark(int(pid)) is None:
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


def redirect_output(folder: Path) -> None:
    """Let whatever this process and its children print go to the run's log."""
    handle = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
