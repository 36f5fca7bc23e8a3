"""The processes in which runs are executed, as the runner sees them: started, ended, killed.

They come from `multiprocessing`: forked from a server that has everything imported (Linux), or newly started.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import connection, resource_tracker, util
from pathlib import Path
from typing import Any

from medpeft_utils.core.errors import MedpeftError
from medpeft_utils.core.files import read_json
from medpeft_utils.study import fork_server, worker
from medpeft_utils.study.machine import thread_variables
from medpeft_utils.study.processes import LINUX, adopt_orphans, children, end_descendants, kill

BACKEND = 'module://matplotlib_inline.backend_inline'
MOST_RESTARTS = 3
# What the notebooks use, imported once; a module that is not installed is left out.
USUAL = [
    *('numpy', 'pandas', 'pyarrow.parquet', 'sklearn.metrics', 'PIL.Image', 'optuna', 'tqdm.auto'),
    *('matplotlib.pyplot', 'matplotlib_inline.backend_inline', 'seaborn'),
    *('torch', 'torch.utils.data', 'torchvision', 'safetensors.torch', 'timm', 'peft', 'medpeft_utils'),
]


class PoolDied(MedpeftError):
    """The process from which runs are forked keeps ending."""


@contextlib.contextmanager
def _environment(**given: str) -> Iterator[None]:
    """Environment variables for what is started within."""
    before = dict(os.environ)
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Pool:
    """Processes of runs.

    Args:
        threads: of every run.
        modules: what is imported before a run is forked; the usual ones where None.
        plain: start a new process and kernel for every run: slower by the imports, but works everywhere.
    """

    def __init__(self, threads: int, modules: list[str] | None = None, plain: bool = False):
        self.forked = LINUX and not plain
        self.modules = USUAL if modules is None else modules
        self.context = multiprocessing.get_context('forkserver' if self.forked else 'spawn')
        if self.forked:
            self.context.set_forkserver_preload([fork_server.__name__])
        self.processes: dict[str, multiprocessing.Process] = {}
        self.folder = worker.socket_folder()
        # After the finalizer of `multiprocessing` (-100), which wants to remove its sockets in that folder itself.
        util.Finalize(None, shutil.rmtree, args=(self.folder, True), exitpriority=-200)
        above = str(Path(__file__).resolve().parents[2])
        self._environment = {  # threads, figures within the notebook, and no look at a graphics card before a fork
            **thread_variables(threads),
            'MPLBACKEND': BACKEND,
            'PYTORCH_NVML_BASED_CUDA_CHECK': '1',
            'PYDEVD_DISABLE_FILE_VALIDATION': '1',
            'PYTHONPATH': os.pathsep.join(filter(None, (above, os.environ.get('PYTHONPATH')))),
        }
        self._others = set(children())  # of whoever uses this pool; not ours to end
        adopt_orphans()
        with _environment(PYTHONWARNINGS='ignore:resource_tracker'):  # of semaphores of kernels, which it removes
            resource_tracker.ensure_running()

    def start(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """Start a run's process.

        Returns:
            The report of a fork server that has just got ready (seconds, imports that failed); else None.
        Raises:
            PoolDied: the fork server ends again and again.
        """
        for _ in range(MOST_RESTARTS):
            process = self.context.Process(target=worker.be_worker, args=(job, self.forked), name=job['run'])
            try:
                with self._inherited():
                    process.start()
                break
            except (EOFError, ConnectionError, FileNotFoundError):  # it died just now; the next start replaces it
                time.sleep(0.1)
        else:
            log = self.folder / fork_server.OUTPUT
            last = log.read_text(errors='replace')[-2000:] if log.is_file() else ''
            raise PoolDied(f'the process that starts runs ended {MOST_RESTARTS} times; it said: {last}')
        self.processes[job['run']] = process
        report = read_json(self.folder / fork_server.REPORT)
        with contextlib.suppress(OSError):
            (self.folder / fork_server.REPORT).unlink()
        return report

    @contextlib.contextmanager
    def _inherited(self) -> Iterator[None]:
        """The environment that children get, and the folder in which `multiprocessing` puts its sockets."""
        orders = {'parent': os.getpid(), 'modules': self.modules, 'folder': str(self.folder)}
        given = {fork_server.ORDERS: json.dumps(orders)} if self.forked else {}
        usual, tempfile.tempdir = tempfile.tempdir, str(self.folder)
        try:
            with _environment(**self._environment, **given):
                yield
        finally:
            tempfile.tempdir = usual

    def ask_to_end(self) -> None:
        """Let all runs put down what they do, as a training can; `wait` reports them as ended."""
        for process in self.processes.values():
            process.terminate()

    def spare(self, pid: int | None) -> None:
        """Leave a process alone that its user has started beside the runs."""
        self._others |= {pid} - {None}

    def kill(self, run: str) -> None:
        """End a run's process with its kernel; `wait` reports it as ended."""
        import psutil

        if run in self.processes:
            members = []
            with contextlib.suppress(psutil.NoSuchProcess):
                members = psutil.Process(self.processes[run].pid).children(recursive=True)
            self.processes[run].kill()
            for member in members:
                kill(member.pid)

    def wait(self, seconds: float) -> dict[str, int]:
        """Runs that have ended, with exit codes (negative for a signal): once one has, or none after `seconds`."""
        if not self.processes:
            time.sleep(seconds)
        runs = {process.sentinel: run for run, process in self.processes.items()}
        ended = {runs[sentinel]: self.processes.pop(runs[sentinel]) for sentinel in connection.wait([*runs], seconds)}
        for process in ended.values():
            process.join()
        if ended:
            self._end_orphans()
        return {run: process.exitcode for run, process in ended.items()}

    def _end_orphans(self) -> None:
        """Kill what a run left behind that was killed itself, before its place is taken by another.

        Orphans of a run become children of its process, when that ends of the fork server, and then of this process.
        """
        if not LINUX:
            return
        workers = {process.pid for process in self.processes.values()}
        servers = {pid for pid in children() if _is_of_multiprocessing(pid)}
        end_descendants(spared=workers | servers | self._others)
        for orphan in (pid for server in servers for pid in children(server) if pid not in workers):
            kill(orphan)

    def close(self) -> None:
        """End all that runs, and return when it is gone. The fork server ends with this process."""
        for run in self.processes:
            self.kill(run)
        for process in self.processes.values():
            process.join(10)
        self._end_orphans()
        self.processes.clear()


def _is_of_multiprocessing(pid: int) -> bool:
    """Whether a process is the fork server or the tracker that `multiprocessing` starts beside it."""
    try:
        return b'from multiprocessing.' in Path(f'/proc/{pid}/cmdline').read_bytes()
    except OSError:
        return False
