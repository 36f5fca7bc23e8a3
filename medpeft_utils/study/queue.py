"""The runs that are left, in the order in which one of many runners on a folder tries them."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterable, Iterator

from medpeft_utils.core.leases import Lease
from medpeft_utils.study.grid import Run
from medpeft_utils.study.paths import StudyFolder

MOST_MISSES = 20  # leases of others that a runner comes upon before it pauses
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 20.0  # seconds, doubled from pause to pause


class Queue:
    """Runs that may be to do, and the leases by which runners share them out.

    Every runner goes through the same order. One that comes upon a run of another skips ahead, each time up to twice as
    far, hence the thousandth worker finds a free run after some ten looks instead of a thousand; what was skipped is
    looked at in the end. Where nothing is free it pauses.
    """

    def __init__(self, runs: Iterable[Run], folder: StudyFolder):
        self.folder = folder
        self.runs = {run.hash: run for run in in_order(list(runs))}
        self._leases: dict[str, Lease] = {}  # each remembers since when it has seen another owner's file stand still
        self._missed, self._pause, self._look_at = False, FIRST_PAUSE, 0.0

    def __len__(self) -> int:
        return len(self.runs)

    def add(self, run: Run) -> None:
        """A run that is to be done after all."""
        self.runs[run.hash] = run

    def remove(self, run: Run) -> None:
        """A run that is settled."""
        del self.runs[run.hash]
        self._leases.pop(run.hash, None)

    def candidates(self, busy: set[str]) -> Iterator[Run]:
        """Runs to try, until `take` or `remove` have what is wanted; none while it pauses.

        Args:
            busy: groups of runs that this runner does. Runs of one search wait for one another: others come first.
        """
        if time.monotonic() < self._look_at:
            return
        in_turn = sorted(
            self.runs.values(), key=lambda run: run.group in busy and bool(run.parameters.get('search_trials'))
        )
        waiting, skipped, misses, reach = deque(in_turn), deque(), 0, 1
        while waiting:
            self._missed = False
            yield waiting.popleft()
            if self._missed:
                misses, reach = misses + 1, 2 * reach
                if misses == MOST_MISSES:
                    break
                for _ in range(min(len(waiting), random.randrange(reach))):
                    skipped.append(waiting.popleft())
            if not waiting:
                waiting, skipped, reach = skipped, deque(), 1
        if misses:
            self._look_at = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def take(self, run: Run) -> Lease | None:
        """The lease of a candidate, which leaves the queue; None where another runner has it."""
        lease = self._leases.setdefault(run.hash, Lease(self.folder.lease(run.hash)))
        self._missed = not lease.take()
        if self._missed:
            return None
        self.remove(run)
        self._pause = FIRST_PAUSE
        return lease


def in_order(runs: list[Run]) -> list[Run]:
    """The first seed of everything, then the second, and so on: runs that share a search are apart, and a study that is
    stopped early has a bit of everything. A grid without searches is run in the order of its file, and the figures of
    its first entries can be drawn first."""
    if not any(run.searches for run in runs):
        return list(runs)
    seen: dict[str, int] = {}
    turns = []
    for run in runs:
        turns.append(seen.get(run.group, 0))
        seen[run.group] = turns[-1] + 1
    return [run for _, run in sorted(zip(turns, runs, strict=True), key=lambda pair: pair[0])]
