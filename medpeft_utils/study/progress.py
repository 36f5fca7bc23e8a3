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
from medpeft_utils.study.identity import run_hash


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

    @property
    def all(self) -> int:
        return self.settled + self.running + self.left


class Times:
    """Seconds that runs took, and what that says of others: those of the same backbone and method.

    The first run of a search pays for it, and is expected to take longer. Where nothing alike was measured here, the
    records of an earlier study say how runs compare, and those measured say how this machine compares. Of a method that
    neither has seen nothing is expected: a fine-tuning may take a hundred times as long as linear probing.

    Args:
        earlier: seconds of an earlier study's runs and searches (`earlier_times`).
    """

    def __init__(self, earlier: dict[tuple, float] | None = None) -> None:
        self.earlier = earlier or {}
        self.measured: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0])  # seconds of all, and their number
        self.searched: set[str] = set()
        self._keys: dict[str, list[tuple]] = {}
        self._compared = [0.0, 0.0]  # seconds here and there, of runs that both have
        self._searches = [0.0, 0.0]  # seconds of searches, and of the runs that made them

    def add(self, run: Run, seconds: float | None, search_seconds: float | None = None) -> None:
        """Note a run that is done; `search_seconds` of its group's search, whichever run did it."""
        if seconds is None:
            return
        search = (search_seconds or 0.0) if run.group not in self.searched else 0.0
        seconds -= search if search <= seconds else 0.0  # else another run did it
        self.searched.add(run.group)
        keys = self._keys_of(run)
        for kind, spent in (('run', seconds), *([('search', search)] if search else [])):
            for key in keys:
                total, number = self.measured[kind, *key]
                self.measured[kind, *key] = [total + spent, number + 1]
        if search:
            self._searches = [self._searches[0] + search, self._searches[1] + seconds]
        if earlier := next((self.earlier['run', *key] for key in keys if ('run', *key) in self.earlier), None):
            self._compared = [self._compared[0] + seconds, self._compared[1] + earlier]

    def _keys_of(self, run: Run) -> list[tuple]:
        if run.hash not in self._keys:
            self._keys[run.hash] = alike(run.experiment, run.parameters)
        return self._keys[run.hash]

    def _like(self, kind: str, run: Run) -> float | None:
        """Seconds of what is most alike, be it of this study or, scaled to this machine, of the earlier one."""
        here, there = self._compared
        for key in self._keys_of(run):
            if (kind, *key) in self.measured:
                total, number = self.measured[kind, *key]
                return total / number
            if there and (kind, *key) in self.earlier:
                return here / there * self.earlier[kind, *key]
        return None

    def expected(self, run: Run, searched: bool | None = None) -> float | None:
        """Seconds that a run will take; None where nothing alike was measured.

        Args:
            searched: whether the search of its group is done; where None, as far as is known.
        """
        seconds = self._like('run', run)
        if seconds is None or not run.searches or (run.group in self.searched if searched is None else searched):
            return seconds
        search, runs = self._searches
        return seconds + (self._like('search', run) or (seconds * search / runs if runs else 0.0))

    def left(self, waiting: Iterable[Run], running: Iterable[tuple[Run, float]], jobs: int) -> TimeLeft:
        """What is left to do; `running` pairs a run with the seconds it has had."""
        searched, rest, unknown = set(self.searched), [], 0
        for run, had in [*running, *((run, 0.0) for run in waiting)]:
            seconds = self.expected(run, run.group in searched)
            searched.add(run.group)  # of several of one search, one pays for it
            if seconds is None:
                unknown += 1
            else:
                rest.append(max(0.0, seconds - had))
        return TimeLeft(max(sum(rest) / max(1, min(jobs, len(rest))), max(rest, default=0.0)), unknown)


@dataclass(frozen=True)
class TimeLeft:
    """Seconds of the runs of which something alike was measured, and the number of the others."""

    seconds: float = 0.0
    unknown: int = 0

    def __str__(self) -> str:
        if not self.unknown:
            return f'{duration(self.seconds)} to go'
        runs = f'{self.unknown} run{"s" * (self.unknown > 1)} of a kind not timed yet'
        return f'{duration(self.seconds)} to go, and {runs}' if self.seconds else runs


def alike(experiment: str, parameters: dict[str, Any]) -> list[tuple]:
    """Keys under which runs are alike, from most to least: by all but the seed, then each by a feature fewer."""
    features = [parameters.get(name) for name in ('backbone', 'method', 'dataset', 'fraction')]
    whole = run_hash(experiment, {**parameters, 'seed': None}, '')
    return [(whole,), *((experiment, *features[:number]) for number in (4, 3, 2))]


def earlier_times(records: Iterable[dict[str, Any]]) -> dict[tuple, float]:
    """Seconds of the runs and searches of an earlier study, the median over what is alike."""
    seconds = defaultdict(list)
    for record in records:
        with contextlib.suppress(TypeError, LookupError, AttributeError):  # only a guess hangs on it
            spent = {'run': record['time']['total_seconds'], 'search': (record.get('cost') or {}).get('search_seconds')}
            for key in alike(record['experiment'], record['parameters']):
                for kind, value in spent.items():
                    seconds[kind, *key] += [float(value)] if value else []
    return {key: statistics.median(spent) for key, spent in seconds.items() if spent}


def duration(seconds: float) -> str:
    """'3 s', '12 min', '4 h 10 min', '2 d 3 h'."""
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

    def show(self, counts: Counts, left: TimeLeft) -> None:
        self.bar.total, self.bar.n = counts.all, counts.settled
        shown = [f'{number} {name}' for name, number in vars(counts).items() if number and name not in ('done', 'left')]
        self.bar.set_postfix_str(' · '.join([*shown, str(left)]))

    def ended(self, text: str, counts: Counts, left: TimeLeft, notable: bool) -> None:
        """Tell of a run that ended; on a terminal only of what is notable, since the bar shows the rest."""
        if not self.live:
            first, line, more = text.partition('\n')
            self.say(f'[{counts.settled}/{counts.all}] {first} · {left}{line}{more}')
        elif notable:
            self.say(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.bar.write(text, file=self.stream)
        self.stream.flush()

    def close(self) -> None:
        self.bar.close()
