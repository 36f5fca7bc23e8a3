"""What a study of many workers asks of a shared folder: `python -m benchmarks.workers --workers 1000 --runs 3000`.

A simulation on a clock of its own. Each worker goes through the runs by the study's own queue. First the accesses of
every operation on the folder are counted, with real leases and records. One file server then answers all workers, so
many accesses a second at most, each after the latency of a network. No SLURM, no card.
"""

from __future__ import annotations

import heapq
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.many import ROWS
from medpeft_utils.core import shared
from medpeft_utils.study import queue, records
from medpeft_utils.study.grid import Run
from medpeft_utils.study.paths import StudyFolder

# What Python tells of each access (`sys.audit`); `os.stat` and `os.fsync`, of which it tells nothing, are wrapped.
ACCESSES = {'open', 'os.remove', 'os.rename', 'os.mkdir', 'os.utime', 'os.link', 'os.chmod', 'os.listdir', 'os.scandir'}


def study_of(number: int) -> list[Run]:
    """Runs as of a grid: none of them is ever trained."""
    parameters = [{'dataset': 'd', 'backbone': 'b', 'method': str(k % 10), 'seed': k // 10} for k in range(number)]
    return [Run(f'{k:016x}', 'toy', 'toy', given, given, 'none.none', None) for k, given in enumerate(parameters)]


def record_of(run: Run, folder: Path) -> None:
    sections = {key: {} for key in ('data', 'backbone', 'method', 'environment')}
    records.write(
        {
            **{'run': run.hash, 'status': 'done', 'experiment': 'toy', 'parameters': run.parameters, **sections},
            **{'code_version': 'none.none', 'learning_rate': {'value': 0.1}, 'time': {'total_seconds': 1.0}},
            **{'metrics': {'test': dict.fromkeys(records.SCORES, 0.5)}, 'rows': {'test': ROWS}},
        },
        folder,
    )


def counted_accesses() -> Counter:
    """Accesses to the study's folder of each operation, by doing it once."""
    with tempfile.TemporaryDirectory() as place:
        folder, (first, second) = StudyFolder(Path(place) / 'study'), study_of(2)
        mine, other = (shared.Lease(folder.lease(first.hash)) for _ in range(2))
        beating = shared.Lease(folder.lease(second.hash), patience=3)  # touched every second
        record_of(second, folder.run(second.hash))
        found, count = Counter(), _counter(str(folder.root))
        operations: dict[str, Callable[[], Any]] = {
            'look in vain': lambda: records.read(folder.record(first.hash)),
            'read': lambda: records.read(folder.record(second.hash)),
            'take': mine.take,
            'miss': other.take,
            'held': mine.is_held,
            'write': lambda: record_of(first, folder.run(first.hash)),
            'release': mine.release,
        }
        for name, operation in operations.items():
            before = count()
            operation()
            found[name] = count() - before
        beating.take()
        before = count()
        time.sleep(2.5)
        found['beat'] = (count() - before) // 2
        beating.release()
    return found


def _counter(root: str) -> Callable[[], int]:
    """Counts accesses below `root` from now on; what it returns tells how many there were."""
    number = 0

    def note(path: object) -> None:
        nonlocal number
        number += isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(root)

    def wrapped(function: Callable) -> Callable:
        def call(path: Any, *rest: Any, **more: Any) -> Any:
            note(os.readlink(f'/proc/self/fd/{path}') if isinstance(path, int) else path)
            return function(path, *rest, **more)

        return call

    sys.addaudithook(lambda event, given: note(given[0]) if event in ACCESSES and given else None)
    for name in ('stat', 'lstat', 'fsync'):
        setattr(os, name, wrapped(getattr(os, name)))
    return lambda: number


class Simulation:
    """Workers on one folder, and its server.

    Args:
        runs: of the study.
        workers: their number.
        seconds: that a run takes, a tenth more or less.
        latency: seconds of an access.
        rate: accesses a second that the server answers at most; leases that are touched every ten seconds take a part.
        costs: `counted_accesses`.
    """

    def __init__(self, runs: list[Run], workers: int, seconds: float, latency: float, rate: float, costs: Counter):
        self.runs, self.workers, self.seconds, self.latency, self.costs = runs, workers, seconds, latency, costs
        self.each = 1 / (rate - workers * costs['beat'] / shared.BEAT_SECONDS)
        self.now, self.free_at = 0.0, 0.0
        self.accesses, self.taken, self.recorded = Counter(), set(), set()
        self.done, self.waits = 0, []

    def monotonic(self) -> float:
        """In place of the module `time`."""
        return self.now

    def asked(self, operation: str) -> float:
        """Seconds that an operation on the folder takes now."""
        number = self.costs[operation]
        self.accesses[operation] += number
        self.free_at = max(self.now, self.free_at) + number * self.each
        return self.free_at - self.now + number * self.latency

    def worker(self, folder: StudyFolder) -> Iterator[float]:
        """What a runner does on the folder, as the seconds that each step takes."""
        left, free_since = queue.Queue(self.runs, folder), self.now
        while left:
            lease = None
            for run in left.candidates(set()):
                known = run.hash in self.recorded
                yield self.asked('read' if known else 'look in vain')
                if known:
                    left.remove(run)
                    continue
                lease = left.take(run)
                yield self.asked('take' if lease else 'miss')
                if lease:
                    break
            if lease is None:
                yield max(0.2, left.look_at - self.now)
                continue
            if run.hash not in self.recorded:
                self.waits.append(self.now - free_since)
                yield self.asked('look in vain') + self.seconds * random.uniform(0.9, 1.1)
                yield self.asked('held') + self.asked('write')
                self.done += 1
                self.recorded.add(run.hash)
            lease.release()
            yield self.asked('release')
            free_since = self.now

    def lease(self, path: Path) -> SimulatedLease:
        return SimulatedLease(path.name, self.taken)

    def go(self) -> float:
        """Seconds until all is done."""
        queue.time, queue.Lease = self, self.lease
        crew = [(random.uniform(0, 1), k, self.worker(StudyFolder(Path('study')))) for k in range(self.workers)]
        heapq.heapify(crew)
        while len(self.recorded) < len(self.runs):
            self.now, number, worker = heapq.heappop(crew)
            if (seconds := next(worker, None)) is not None:
                heapq.heappush(crew, (self.now + seconds, number, worker))
        return self.now


class SimulatedLease:
    """A lease of a worker that never ends."""

    def __init__(self, name: str, taken: set[str]):
        self.name, self.taken = name, taken

    def take(self) -> bool:
        free = self.name not in self.taken
        self.taken.add(self.name)
        return free

    def release(self) -> None:
        self.taken.remove(self.name)


@click.command(help=__doc__)
@click.option('--workers', default=100, show_default=True)
@click.option('--runs', default=300, show_default=True)
@click.option('--seconds', default=600.0, show_default=True, help='That a run takes.')
@click.option('--latency', default=1.0, show_default=True, help='Milliseconds of an access.')
@click.option('--rate', default=5000.0, show_default=True, help='Accesses a second that the server answers.')
def main(workers: int, runs: int, seconds: float, latency: float, rate: float) -> None:
    costs = counted_accesses()
    random.seed(0)
    simulation = Simulation(study_of(runs), workers, seconds, latency / 1000, rate, costs)
    spent, accesses = simulation.go(), simulation.accesses
    waits, ideal = sorted(simulation.waits), seconds * -(-runs // workers)
    print('accesses of an operation: ' + ', '.join(f'{name} {number}' for name, number in costs.items()))
    print(f'{workers} workers, {runs} runs of {seconds:g} s, {simulation.done - runs} done twice')
    print(f'{spent:.0f} s, at best {ideal:.0f} s')
    print(f'to find and take a run: median {waits[len(waits) // 2]:.2f} s, 95 % {waits[int(0.95 * len(waits))]:.2f} s')
    print(f'accesses: {accesses.total() / runs:.0f} a run, {accesses.total() / spent:.0f} a second of {rate:.0f}')
    print(', '.join(f'{name} {count / runs:.0f}' for name, count in accesses.most_common()))


if __name__ == '__main__':
    main()
