"""How many runs at a time: a number that is asked for, or as many as fit in memory (`--jobs auto`).

What a run needs at its peak is known from records of runs alike: on a card its allocator's peak and what a process
takes beside it, else the whole process. A run of which nothing is known runs alone, and tells by its record.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medpeft_utils.study.grid import Run
from medpeft_utils.study.processes import cores, graphics_cards
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
        memory = _free_memory(cards) if jobs == AUTO else [None] * max(1, len(cards))
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


def _free_memory(cards: list[str]) -> list[float | None]:
    """Free MB of each card, asked of nvidia-smi since a process that is forked later must not load the driver; where
    there is no card, of this machine, a SLURM job or a container."""
    return [_of_card(card) for card in cards] if cards else [_of_machine()]


def _of_card(card: str) -> float | None:
    ask = ['nvidia-smi', f'--id={card}', '--query-gpu=memory.free', '--format=csv,noheader,nounits']
    try:
        return float(subprocess.run(ask, capture_output=True, text=True, timeout=60, check=True).stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _of_machine() -> float:
    import psutil

    limits = [psutil.virtual_memory().available / 2**20]
    for name, times in (('SLURM_MEM_PER_NODE', 1), ('SLURM_MEM_PER_CPU', cores())):
        with contextlib.suppress(KeyError, ValueError):
            limits.append(float(os.environ[name]) * times)
    with contextlib.suppress(OSError, ValueError):  # of a container; 'max' is no number
        group = Path('/sys/fs/cgroup')
        limits.append((int((group / 'memory.max').read_text()) - int((group / 'memory.current').read_text())) / 2**20)
    return min(limit for limit in limits if limit > 0)
