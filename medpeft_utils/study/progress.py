"""What a running study shows: counts, and the time left from times measured."""

from __future__ import annotations

import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

from medpeft_utils.study.grid import Run


@dataclass
class Counts:
    """How many runs of a study are in which state."""

    done: int = 0
    failed: int = 0
    died: int = 0
    running: int = 0
    left: int = 0

    def __str__(self) -> str:
        return ' · '.join(f'{number} {name}' for name, number in vars(self).items())


class Times:
    """Seconds that runs took, and what that says of others: of the same experiment, backbone and method if there are
    such, else of the same backbone, else of any."""

    def __init__(self) -> None:
        self._sums: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0])

    @staticmethod
    def _keys(run: Run) -> list[tuple]:
        backbone, method = run.parameters.get('backbone'), run.parameters.get('method')
        return [(run.experiment, backbone, method), (backbone,), ()]

    def add(self, run: Run, seconds: float | None) -> None:
        if seconds is None:
            return
        for key in self._keys(run):
            self._sums[key][0] += seconds
            self._sums[key][1] += 1

    def expected(self, run: Run) -> float | None:
        """Mean seconds of the runs most alike; None where nothing was measured."""
        known = (self._sums[key] for key in self._keys(run) if key in self._sums)
        return next((total / count for total, count in known), None)

    def left(self, waiting: Iterable[Run], running: Iterable[tuple[Run, float]], jobs: int) -> float | None:
        """Seconds until all is done; `running` pairs a run with the seconds it has had."""
        rest = [self.expected(run) for run in waiting]
        rest += [max(0.0, wanted - had) if (wanted := self.expected(run)) is not None else None for run, had in running]
        return None if None in rest else sum(rest) / max(1, min(jobs, len(rest)))


def duration(seconds: float | None) -> str:
    """'3 s', '12 min', '4 h 10 min', '2 d 3 h'; '?' where it is not known."""
    if seconds is None:
        return '?'
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f'{seconds:.0f} s'
    if minutes < 90:
        return f'{minutes} min'
    return f'{minutes // 60} h {minutes % 60} min' if hours < 36 else f'{hours // 24} d {hours % 24} h'


class Progress:
    """One line that is rewritten on a terminal; elsewhere a line for every run that ended."""

    def __init__(self, title: str, stream: TextIO | None = None):
        self.title, self.stream = title, stream or sys.stdout
        self.live = self.stream.isatty()

    def show(self, counts: Counts, seconds: float | None) -> None:
        if self.live:
            self._write(f'\r{self._fit(self.line(counts, seconds))}')

    def line(self, counts: Counts, seconds: float | None) -> str:
        return f'{self.title}: {counts} · {duration(seconds)} to go'

    def ended(self, text: str, counts: Counts, seconds: float | None, notable: bool) -> None:
        """Tell of a run that ended; on a terminal only of what is notable, since the counts show the rest."""
        if not self.live:
            settled = counts.done + counts.failed + counts.died
            total = settled + counts.running + counts.left
            self._write(f'[{settled}/{total}] {text} · {duration(seconds)} to go\n')
        elif notable:
            self.say(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._write(f'\r{self._fit("")}\r{text}\n' if self.live else f'{text}\n')

    def close(self) -> None:
        if self.live:
            self._write('\n')

    def _fit(self, text: str) -> str:
        width = shutil.get_terminal_size().columns - 1
        return text[:width].ljust(width)

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
