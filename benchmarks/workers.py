"""What a study of many workers asks of a shared folder: `python -m benchmarks.workers --workers 1000 --runs 3000`.

A thread a worker takes runs from the folder as `medpeft run` does: the same queue, leases and records; in place of
training it sleeps. Every access to the folder takes the time of a network file system, and one server answers them all,
so many a second at most. No SLURM, no card; some minutes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import click

from benchmarks.many import ROWS
from medpeft_utils.core.leases import is_held
from medpeft_utils.study import records
from medpeft_utils.study.grid import Run
from medpeft_utils.study.paths import StudyFolder
from medpeft_utils.study.queue import Queue

# What Python tells of each access (`sys.audit`); `os.stat` and `os.fsync`, of which it tells nothing, are wrapped.
ACCESSES = {'open', 'os.remove', 'os.rename', 'os.mkdir', 'os.utime', 'os.link', 'os.chmod', 'os.listdir', 'os.scandir'}


class Server:
    """A file server with one queue: each access below `root` waits for its turn, then for the way there and back.

    Args:
        root: of the study.
        latency: seconds of an access.
        rate: accesses a second that the server answers at most.
    """

    def __init__(self, root: Path, latency: float, rate: float):
        self.root, self.latency, self.seconds_each = str(root), latency, 1 / rate
        self.lock, self.free_at, self.counts, self.waited = threading.Lock(), 0.0, Counter(), 0.0
        sys.addaudithook(self.hook)
        for name in ('stat', 'lstat', 'fsync'):
            setattr(os, name, self.wrapped(name, getattr(os, name)))

    def hook(self, event: str, arguments: tuple) -> None:
        if event in ACCESSES and arguments and self.is_ours(arguments[0]):
            self.access(event)

    def is_ours(self, path: object) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.root)

    def wrapped(self, name: str, function):
        def call(path, *rest, **more):
            if self.is_ours(path) or (name == 'fsync' and self.is_ours(os.readlink(f'/proc/self/fd/{path}'))):
                self.access(f'os.{name}')
            return function(path, *rest, **more)

        return call

    def access(self, event: str) -> None:
        with self.lock:
            now = time.monotonic()
            self.free_at = max(now, self.free_at) + self.seconds_each
            self.counts[event] += 1
            wait = self.free_at - now
            self.waited += wait
        time.sleep(wait + self.latency)


def study_of(number: int) -> list[Run]:
    """Runs as of a grid: none of them is ever trained."""
    parameters = [{'dataset': 'd', 'backbone': 'b', 'method': str(k % 10), 'seed': k // 10} for k in range(number)]
    return [Run(f'{k:016x}', 'toy', 'toy', given, given, 'none.none', None) for k, given in enumerate(parameters)]


def record_of(run: Run, folder: Path) -> None:
    scores = dict.fromkeys(records.SCORES, 0.5)
    sections = {key: {} for key in ('data', 'backbone', 'method', 'environment')}
    records.write(
        {
            **{'run': run.hash, 'status': 'done', 'experiment': 'toy', 'parameters': run.parameters, **sections},
            **{'code_version': 'none.none', 'learning_rate': {'value': 0.1}, 'metrics': {'test': scores}},
            **{'time': {'total_seconds': 1.0}, 'rows': {'test': ROWS}},
        },
        folder,
    )


class Worker(threading.Thread):
    """Does what a runner does on the folder; `idle` is the time that it spent on finding runs and writing records."""

    def __init__(self, runs: list[Run], folder: StudyFolder, seconds: float, until: threading.Event):
        super().__init__(daemon=True)
        self.folder, self.seconds, self.until = folder, seconds, until
        self.queue, self.done, self.waits = Queue(runs, folder), [], []

    def run(self) -> None:
        freed = time.monotonic()
        while self.queue and not self.until.is_set():
            if self.step(freed):
                freed = time.monotonic()
            else:
                time.sleep(0.2)

    def step(self, freed: float) -> bool:
        for run in self.queue.candidates(set()):
            if records.read(self.folder.record(run.hash)):
                self.queue.remove(run)
            elif lease := self.queue.take(run):
                if records.read(self.folder.record(run.hash)) is None:
                    self.waits.append(time.monotonic() - freed)
                    time.sleep(self.seconds)
                    assert is_held(lease.path, lease.token), 'a lease was lost'
                    record_of(run, self.folder.run(run.hash))
                    self.done.append(run.hash)
                lease.release()
                return True
        return False


@click.command(help=__doc__)
@click.option('--workers', default=100, show_default=True)
@click.option('--runs', default=300, show_default=True)
@click.option('--seconds', default=60.0, show_default=True, help='That a run takes.')
@click.option('--latency', default=1.0, show_default=True, help='Milliseconds of an access.')
@click.option('--rate', default=5000.0, show_default=True, help='Accesses a second that the server answers.')
def main(workers: int, runs: int, seconds: float, latency: float, rate: float) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder, planned = StudyFolder(Path(place) / 'study'), study_of(runs)
        server, end = Server(folder.root, latency / 1000, rate), threading.Event()
        crew = [Worker(planned, folder, seconds, end) for _ in range(workers)]
        began, cpu = time.monotonic(), time.process_time()
        for worker in crew:
            worker.start()
        while (done := sum(len(worker.done) for worker in crew)) < runs and any(w.is_alive() for w in crew):
            time.sleep(0.5)
        spent, accesses = time.monotonic() - began, server.counts.total()
        doubled = done - len({run for worker in crew for run in worker.done})
        waits = sorted(wait for worker in crew for wait in worker.waits)
        end.set()
    ideal = seconds * -(-runs // workers)
    print(
        f'{workers} workers, {done} runs of {seconds:g} s, {doubled} done twice: {spent:.0f} s, at best {ideal:.0f} s'
    )
    print(f'CPU of all of them: {time.process_time() - cpu:.0f} s')
    print(f'to find and take a run: median {waits[len(waits) // 2]:.2f} s, 95 % {waits[int(0.95 * len(waits))]:.2f} s')
    print(f'accesses: {accesses / runs:.0f} a run, {accesses / spent:.0f} a second of at most {rate:.0f}')
    print(', '.join(f'{name} {count / runs:.1f}' for name, count in server.counts.most_common(4)))


if __name__ == '__main__':
    main()
