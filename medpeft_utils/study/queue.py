"""Which run is next: the order in which one of many runners on a folder tries them, and what fits beside others."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

from medpeft_utils.core.shared import Lease
from medpeft_utils.study.grid import Run
from medpeft_utils.study.machine import free_memory, graphics_cards
from medpeft_utils.study.paths import StudyFolder
from medpeft_utils.study.progress import alike

MOST_MISSES = 20  # runs found taken by others before a runner pauses
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 20.0  # seconds, doubled from pause to pause
AUTO = 0  # jobs: as many as fit
BESIDE_MB = 700.0  # of a card, for every process: CUDA's context and the libraries' own memory
MARGIN = 1.1  # a peak may be higher with other images in a batch, and freed memory is in pieces


class Queue:
    """Runs that may be to do, and the leases by which runners share them out.

    Every runner goes through the same order. One that finds a run taken skips ahead, each time up to twice as
    far: the thousandth worker finds a free run after about ten looks instead of a thousand. It returns to the skipped
    runs in the end, and pauses if nothing is free.
    """

    def __init__(self, runs: Iterable[Run], folder: StudyFolder):
        self.folder = folder
        self.runs = {run.hash: run for run in in_order(list(runs))}
        self._leases: dict[str, Lease] = {}  # each remembers since when it has seen another owner's file stand still
        self._missed, self._pause, self.look_at = False, FIRST_PAUSE, 0.0

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
        if time.monotonic() < self.look_at:
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
            self.look_at = time.monotonic() + self._pause
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


class Room:
    """Where a run may start: on which card, or in this machine's memory.

    What a run needs at its peak is known from records of runs alike: on a card its allocator's peak and what a process
    takes beside it, else the whole process. A run of which nothing is known runs alone, and tells by its record.

    Args:
        jobs: runs at a time, or AUTO.
        cards: their numbers; one run sees one card. Empty for a machine without.
        memory: free MB of each card, or of the machine; None where it cannot be found out: one run at a time there.
        most: runs at a time, whatever fits.
    """

    def __init__(self, jobs: int, cards: list[str], memory: list[float | None], most: int = 1):
        self.jobs, self.cards, self.memory, self.most = jobs, cards, memory, jobs or most
        self.peaks: dict[tuple, float] = {}

    @classmethod
    def here(cls, jobs: int, most: int) -> Room:
        """This machine's, as free as it is now."""
        cards = graphics_cards()
        memory = free_memory(cards) if jobs == AUTO else [None] * max(1, len(cards))
        return cls(jobs, cards, memory, max(1, most))

    def note(self, record: dict[str, Any]) -> None:
        """Learn from a record; one of another kind of device says nothing."""
        with contextlib.suppress(TypeError, LookupError, AttributeError):  # of a file that holds other things
            peak, device = float(record['peak_memory_mb']), record['environment']['device']
            if bool(self.cards) != ('cpu' in device.lower()):
                for key in alike(record['experiment'], record['parameters']):
                    self.peaks[key] = max(peak, self.peaks.get(key, 0.0))

    def needed(self, run: Run) -> float | None:
        """MB that a run takes at its peak, or None."""
        keys = alike(run.experiment, run.parameters)
        peak = next((self.peaks[key] for key in keys if key in self.peaks), None)
        return None if peak is None else MARGIN * peak + (BESIDE_MB if self.cards else 0.0)

    def place_for(self, run: Run, active: Iterable[tuple[Run, int]]) -> int | None:
        """The place (a position in `memory`) with most room for a run beside those that are active; None: not now."""
        active = list(active)
        if len(active) >= self.most:
            return None
        taken = Counter(place for _, place in active)
        places = sorted(range(len(self.memory)), key=lambda place: taken[place])
        if self.jobs != AUTO:
            return places[0]
        for place in places:
            beside, room = [one for one, at in active if at == place], self.memory[place]
            needed = [self.needed(one) for one in (run, *beside)]
            if not beside or (room is not None and None not in needed and sum(needed) <= room):
                return place
        return None
