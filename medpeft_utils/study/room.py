"""How many runs at a time: a number that is asked for, or as many as fit in memory (`--jobs auto`).

What a run needs at its peak is known from records of runs alike: on a card its allocator's peak and what a process
takes beside it, else the whole process. A run of which nothing is known runs alone, and tells by its record.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

from medpeft_utils.study.grid import Run
from medpeft_utils.study.machine import free_memory, graphics_cards
from medpeft_utils.study.progress import alike

AUTO = 0  # jobs: as many as fit
BESIDE_MB = 700.0  # of a card, for every process: CUDA's context and the libraries' own memory
MARGIN = 1.1  # a peak may be higher with other images in a batch, and freed memory is in pieces


class Room:
    """Where a run may start: on which card, or in this machine's memory.

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
                for key in alike('memory', record['experiment'], record['parameters'])[:3]:
                    self.peaks[key] = max(peak, self.peaks.get(key, 0.0))

    def needed(self, run: Run) -> float | None:
        """MB that a run takes at its peak, or None."""
        keys = alike('memory', run.experiment, run.parameters)[:3]
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
        return next(
            (place for place in places if self._fits(run, [one for one, at in active if at == place], place)), None
        )

    def _fits(self, run: Run, beside: list[Run], place: int) -> bool:
        if not beside:
            return True
        needed, room = [self.needed(one) for one in (run, *beside)], self.memory[place]
        return room is not None and None not in needed and sum(needed) <= room
