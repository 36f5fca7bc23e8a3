"""The processes in which runs are executed, as the runner sees them: started, ended, killed.

`ForkedPool` forks them from one that has everything imported (Linux); `PlainPool` starts each anew (anywhere).
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medpeft_utils.core.errors import MedpeftError
from medpeft_utils.core.files import write_json
from medpeft_utils.study.processes import LINUX, kill, thread_variables

BACKEND = 'module://matplotlib_inline.backend_inline'
MOST_RESTARTS = 3
# What the notebooks use, imported once; a module that is not installed is left out.
USUAL = [
    *('numpy', 'pandas', 'pyarrow.parquet', 'sklearn.metrics', 'PIL.Image', 'optuna', 'tqdm.auto'),
    *('matplotlib.pyplot', 'matplotlib_inline.backend_inline', 'seaborn'),
    *('torch', 'torch.utils.data', 'torchvision', 'safetensors.torch', 'timm', 'peft', 'medpeft_utils'),
]


@dataclass
class Event:
    """What a pool has to tell: kind 'ready', 'started' or 'ended'.

    Args:
        run: which run; '' for 'ready'.
        details: of 'ready' seconds and faults; of 'started' the pid; of 'ended' the exit code, negative for a signal,
            and the CPU seconds where they are known.
    """

    kind: str
    run: str = ''
    details: dict[str, Any] = field(default_factory=dict)


class PoolDied(MedpeftError):
    """The process from which runs are forked keeps ending."""


def child_environment(threads: int) -> dict[str, str]:
    """The environment of runs: threads, figures within the notebook, and no look at a graphics card before a fork."""
    return {
        **os.environ,
        **thread_variables(threads),
        'MPLBACKEND': BACKEND,
        'PYTORCH_NVML_BASED_CUDA_CHECK': '1',
        'PYDEVD_DISABLE_FILE_VALIDATION': '1',
        'PYTHONPATH': os.pathsep.join(path for path in [_package_parent(), os.environ.get('PYTHONPATH', '')] if path),
    }


def _package_parent() -> str:
    return str(Path(__file__).resolve().parents[2])


class ForkedPool:
    """Runs forked from a process that has their modules imported.

    Args:
        threads: of every run.
        modules: what is imported beforehand; the usual ones where None.
    """

    def __init__(self, threads: int, modules: list[str] | None = None):
        self.threads, self.modules = threads, USUAL if modules is None else modules
        self.running: set[str] = set()
        self.restarts = 0
        self._begin()

    def _begin(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._pending = b''
        command = [sys.executable, '-m', 'medpeft_utils.study.zygote', str(os.getpid()), *self.modules]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=child_environment(self.threads),
            start_new_session=True,
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.process.stdout, selectors.EVENT_READ)

    def start(self, job: dict[str, Any]) -> None:
        self.running.add(job['run'])
        self._order({'start': job})

    def kill(self, run: str) -> None:
        self._order({'kill': run})

    def _order(self, order: dict[str, Any]) -> None:
        try:
            self.process.stdin.write(json.dumps(order).encode() + b'\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # it has died; `wait` notices, and tells of every run that went with it

    def wait(self, seconds: float) -> list[Event]:
        """What has happened, as soon as something has, at most after `seconds`."""
        if not self._selector.select(seconds):
            return []
        chunk = os.read(self.process.stdout.fileno(), 1 << 16)
        if not chunk:
            return self._died()
        *lines, self._pending = (self._pending + chunk).split(b'\n')
        return [self._event(json.loads(line)) for line in lines]

    def _event(self, report: dict[str, Any]) -> Event:
        kind = next(iter(report))
        if kind == 'ready':
            return Event('ready', details=report)
        if kind == 'ended':
            self.running.discard(report['ended'])
            self.restarts = 0
        return Event(kind, report[kind], report)

    def _died(self) -> list[Event]:
        """All runs went with it, since they die with their parent; begin anew, but not for ever."""
        code = self.process.wait()
        self._selector.close()
        self.restarts += 1
        if self.restarts > MOST_RESTARTS:
            self._said.seek(0)
            last = self._said.read().decode(errors='replace')[-2000:]
            raise PoolDied(f'the process that starts runs ended {self.restarts} times (code {code}); it said: {last}')
        ended = [Event('ended', run, {'code': code}) for run in self.running]
        self.running.clear()
        self._begin()
        return ended

    def close(self) -> None:
        """End it with all that runs, and return when all are gone."""
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            kill(self.process.pid)
            self.process.wait()
        self.process.stdout.close()
        self._selector.close()


class PlainPool:
    """Runs in processes started anew, each with a kernel started anew: slower by the imports, at home everywhere."""

    def __init__(self, threads: int):
        self.threads = threads
        self.processes: dict[str, subprocess.Popen] = {}
        self._events = [Event('ready', details={'ready': 0.0, 'faults': []})]

    def start(self, job: dict[str, Any]) -> None:
        path = Path(job['folder']) / 'job.json'
        write_json(path, job, durable=False)
        command = [sys.executable, '-m', 'medpeft_utils.study.worker', str(path), str(os.getpid())]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env={**child_environment(self.threads), **job['environment']},
            start_new_session=True,
        )
        self.processes[job['run']] = process
        self._events.append(Event('started', job['run'], {'pid': process.pid}))

    def kill(self, run: str) -> None:
        if run in self.processes:
            self._kill_tree(self.processes[run])

    @staticmethod
    def _kill_tree(process: subprocess.Popen) -> None:
        """The process with its kernel, which has a session of its own."""
        import psutil

        try:
            family = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        process.kill()
        for member in family:
            kill(member.pid)

    def wait(self, seconds: float) -> list[Event]:
        deadline = time.monotonic() + seconds
        while True:
            events, self._events = self._events, []
            for run, process in list(self.processes.items()):
                if process.poll() is not None:
                    del self.processes[run]
                    if hasattr(os, 'killpg'):
                        kill(process.pid, group=True)
                    events.append(Event('ended', run, {'code': process.returncode}))
            if events or time.monotonic() >= deadline:
                return events
            time.sleep(0.05)

    def close(self) -> None:
        for process in self.processes.values():
            self._kill_tree(process)
            process.wait()


def open_pool(threads: int, modules: list[str] | None, plain: bool) -> ForkedPool | PlainPool:
    """The fast pool where it is safe: forking a process that has much imported is, on Linux."""
    return PlainPool(threads) if plain or not LINUX else ForkedPool(threads, modules)
