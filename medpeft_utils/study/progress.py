"""What a running study shows: counts, and the time left from times measured."""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TextIO

from medpeft_utils.study.grid import Run
from medpeft_utils.study.identity import without_places

FEATURES = 'dataset', 'backbone', 'method', 'fraction'
ALIKE = 4  # keys of `_keys` by which an earlier study is asked


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

    @property
    def settled(self) -> int:
        return self.done + self.failed + self.died


class Times:
    """Seconds that runs took, and what that says of others: of those most alike, by experiment, data, backbone, method.

    The first run of a search pays for it, and is expected to take longer. Where nothing alike was measured here, the
    records of an earlier study say how runs compare, and those measured say how this machine compares.

    Args:
        earlier: seconds of an earlier study's runs (`earlier_times`).
    """

    def __init__(self, earlier: dict[tuple, float] | None = None) -> None:
        self.earlier = earlier or {}
        self._sums: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0])
        self._here, self._there = 0.0, 0.0
        self.searched: set[str] = set()

    def add(self, run: Run, seconds: float | None, search_seconds: float | None = None) -> None:
        """Note a run that is done; `search_seconds` of its group's search, whichever run did it."""
        if seconds is None:
            return
        search = min(search_seconds or 0.0, seconds) if run.group not in self.searched else 0.0
        self.searched.add(run.group)
        for kind, spent in (('run', seconds - search), *([('search', search)] if search else [])):
            for key in _keys(kind, run.experiment, run.parameters):
                self._sums[key][0] += spent
                self._sums[key][1] += 1
        if earlier := self._of_earlier(run):
            self._here, self._there = self._here + seconds - search, self._there + earlier

    def _of_earlier(self, run: Run) -> float | None:
        keys = _keys('run', run.experiment, run.parameters)[:ALIKE]
        return next((self.earlier[key] for key in keys if key in self.earlier), None)

    def _like(self, run: Run) -> float | None:
        """Seconds of the runs most alike, be they of this study or, scaled to this machine, of the earlier one."""
        scale = self._here / self._there if self._there else 0.0
        keys = _keys('run', run.experiment, run.parameters)
        for key in keys[:ALIKE]:
            if seconds := self._mean(key) or scale * self.earlier.get(key, 0.0):
                return seconds
        return next((mean for mean in map(self._mean, keys[ALIKE:]) if mean), None)

    def expected(self, run: Run) -> float | None:
        """Seconds that a run will take; None where nothing was measured."""
        like = self._like(run)
        if like is None or run.group in self.searched or not run.searches:
            return like
        searches = (self._mean(key) for key in _keys('search', run.experiment, run.parameters))
        return like + (next((mean for mean in searches if mean), None) or 0.0)

    def _mean(self, key: tuple) -> float | None:
        total, count = self._sums.get(key, (0.0, 0))
        return total / count if count else None

    def left(self, waiting: Iterable[Run], running: Iterable[tuple[Run, float]], jobs: int) -> float | None:
        """Seconds until all is done; `running` pairs a run with the seconds it has had."""
        groups, rest = set(), []
        for run, had in [*((run, 0.0) for run in waiting), *running]:
            seconds = self.expected(run)
            if seconds is None:
                return None
            if run.group in groups and run.group not in self.searched:  # of several of one search, one pays for it
                self.searched.add(run.group)
                seconds = self.expected(run)
                self.searched.discard(run.group)
            groups.add(run.group)
            rest.append(max(0.0, seconds - had))
        return max(sum(rest) / max(1, min(jobs, len(rest))), max(rest, default=0.0))


def alike(kind: str, experiment: str, parameters: dict[str, Any]) -> list[tuple]:
    """Keys under which runs are alike, from all that tells to nothing: each leaves out one feature more."""
    dataset, backbone, method, fraction = (parameters.get(name) for name in FEATURES)
    return [
        (kind, experiment, backbone, method, dataset, fraction),
        (kind, experiment, backbone, method, dataset),
        (kind, experiment, backbone, method),
        (kind, experiment, backbone),
        (kind, backbone),
        (kind,),
    ]


def _keys(kind: str, experiment: str, parameters: dict[str, Any]) -> list[tuple]:
    """Keys under which runs take alike long: before those of `alike` all parameters but the seed."""
    whole = sorted((name, str(value)) for name, value in without_places(parameters).items() if name != 'seed')
    return [(kind, experiment, *whole), *alike(kind, experiment, parameters)]


def earlier_times(records: Iterable[dict[str, Any]]) -> dict[tuple, float]:
    """Seconds of the runs of an earlier study, the median over what is alike."""
    seconds = defaultdict(list)
    for record in records:
        with contextlib.suppress(TypeError, LookupError, AttributeError):  # only a guess hangs on it
            spent = float(record['time']['total_seconds'])
            for key in _keys('run', record['experiment'], record['parameters'])[:ALIKE]:
                seconds[key].append(spent)
    return {key: statistics.median(spent) for key, spent in seconds.items()}


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
    """A bar on a terminal; elsewhere a line for every run that ended."""

    def __init__(self, title: str, stream: TextIO | None = None):
        from tqdm import tqdm

        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        layout = '{desc}: {n_fmt}/{total_fmt} |{bar:24}| {postfix}'
        self.bar = tqdm(desc=title, file=self.stream, bar_format=layout, disable=not self.live, dynamic_ncols=True)

    def show(self, counts: Counts, seconds: float | None) -> None:
        self.bar.total, self.bar.n = counts.settled + counts.running + counts.left, counts.settled
        shown = [f'{number} {name}' for name, number in vars(counts).items() if number and name not in ('done', 'left')]
        self.bar.set_postfix_str(' · '.join([*shown, f'{duration(seconds)} to go']))

    def ended(self, text: str, counts: Counts, seconds: float | None, notable: bool) -> None:
        """Tell of a run that ended; on a terminal only of what is notable, since the bar shows the rest."""
        if not self.live:
            total = counts.settled + counts.running + counts.left
            self.say(f'[{counts.settled}/{total}] {text} · {duration(seconds)} to go')
        elif notable:
            self.say(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.bar.write(text, file=self.stream)
        self.stream.flush()

    def close(self) -> None:
        self.bar.close()
