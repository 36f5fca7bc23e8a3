"""The process from which runs are forked: it imports what they need, once, and runs nothing itself.

It reads orders from its standard input, {"start": job} and {"kill": run}, and reports on its standard output,
{"ready": seconds}, {"started": run, "pid": id} and {"ended": run, "code": exit code}, a JSON line each. It ends when
its input does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import medpeft_utils
from medpeft_utils.core.code import Code
from medpeft_utils.study import worker
from medpeft_utils.study.processes import adopt_orphans, children, die_with, kill

# What executes a notebook.
ENGINE = [
    'papermill',
    'nbclient',
    'jupyter_client',
    'ipykernel.kernelapp',
    'ipykernel.ipkernel',
    'IPython.core.pylabtools',
]
REAP_SECONDS = 0.02


def preload(names: list[str]) -> list[str]:
    """Import modules, of medpeft_utils all; the faults of those that could not be."""
    faults = []
    for name in [*ENGINE, *names, *(_package_modules() if 'medpeft_utils' in names else [])]:
        try:
            importlib.import_module(name)
        except Exception as error:  # not fatal here: the notebook that needs it fails by it, and its record says so
            faults.append(f'{name}: {type(error).__name__}: {error}')
    if 'medpeft_utils' in names:
        Code.now()  # read here once: in every run that asks what decides its results it would take 1.5 s
    return faults


def _package_modules() -> list[str]:
    """Everything that a notebook may import from the package, so that code edited meanwhile does not reach a run."""
    found = pkgutil.walk_packages(medpeft_utils.__path__, 'medpeft_utils.', onerror=lambda name: None)
    skipped = ('medpeft_utils.cli',)
    return [module.name for module in found if not module.name.startswith(skipped)]


class Zygote:
    """Forks a process for every run, and sees to it that none of its children is left when it has ended."""

    def __init__(self, orders: int, reports: int):
        self.orders, self.reports = orders, reports
        self.running: dict[int, str] = {}
        self.pending = b''

    def report(self, **content: Any) -> None:
        os.write(self.reports, json.dumps(content).encode() + b'\n')

    def serve(self) -> None:
        """Follow orders until there are none to come."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.orders, selectors.EVENT_READ)
            while True:
                if selector.select(REAP_SECONDS if self.running else None):
                    chunk = os.read(self.orders, 1 << 16)
                    if not chunk:
                        break
                    self._follow(chunk)
                self._reap()
        self.running.clear()
        self._end_orphans()

    def _follow(self, chunk: bytes) -> None:
        *lines, self.pending = (self.pending + chunk).split(b'\n')
        for line in lines:
            order = json.loads(line)
            if 'start' in order:
                self._start(order['start'])
            for pid in [pid for pid, run in self.running.items() if run == order.get('kill')]:
                kill(pid)

    def _start(self, job: dict[str, Any]) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(self.orders)
            os.close(self.reports)
            _be_worker(job, parent)
        self.running[pid] = job['run']
        self.report(started=job['run'], pid=pid)

    def _reap(self) -> None:
        ended = {}
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, used = os.wait4(-1, os.WNOHANG)
                if not pid:
                    break
                if pid in self.running:
                    seconds = round(used.ru_utime + used.ru_stime, 3)
                    ended[self.running.pop(pid)] = os.waitstatus_to_exitcode(status), seconds
        if ended:
            self._end_orphans()
        for run, (code, seconds) in ended.items():
            self.report(ended=run, code=code, cpu_seconds=seconds)

    def _end_orphans(self) -> None:
        """Kill what a run left behind, its kernel above all, before its place is taken by another.

        Orphans of a run become children of its process, and when that ends, of this one (`adopt_orphans`).
        """
        while orphans := [pid for pid in children() if pid not in self.running]:
            for pid in orphans:
                kill(pid)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def _be_worker(job: dict[str, Any], parent: int) -> None:
    """The forked child's life: never returns into the zygote's loop."""
    code = 1
    try:
        die_with(parent)
        os.setsid()  # a Ctrl-C at the terminal is the runner's to handle
        worker.redirect_output(Path(job['folder']))
        os.environ.update(job['environment'])
        code = worker.execute(job, forked=True)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """`python -m medpeft_utils.study.zygote PARENT MODULE...`, started by the runner."""
    began = time.monotonic()
    die_with(int(sys.argv[1]))
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reports = os.dup(1)
    os.dup2(2, 1)  # what an import prints is no report
    faults = preload(sys.argv[2:])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a kernel expects it; this one has its own session
    gc.collect()
    gc.freeze()  # keeps the pages that are shared with the runs untouched
    zygote = Zygote(0, reports)
    zygote.report(ready=round(time.monotonic() - began, 2), faults=faults, tasks=len(os.listdir('/proc/self/task')))
    zygote.serve()


if __name__ == '__main__':
    main()
