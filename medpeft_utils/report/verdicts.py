"""Verdicts on claims: reproduced, contradicted, undecided with what would decide it, or not run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medpeft_utils.report.inference import FEWEST, Interval

CONSEQUENCE = 0.02  # the smallest difference of a score (0..1) that is of consequence, declared before the runs
REPRODUCED, CONTRADICTED, UNDECIDED, NOT_RUN = 'reproduced', 'contradicted', 'undecided', 'not run'
VERDICTS = (REPRODUCED, CONTRADICTED, UNDECIDED, NOT_RUN)


@dataclass(frozen=True)
class Part:
    """One part of a claim: a quantity that should be above zero; None where it was not run.

    `scale`, `unit` and `digits` are for printing; `consequence` is in the quantity's own unit.
    """

    what: str
    found: Interval | None
    scale: float = 100.0
    unit: str = 'points'
    consequence: float = CONSEQUENCE
    digits: int = 1

    @property
    def verdict(self) -> str:
        """Reproduced: the interval lies above zero. Contradicted: it lies below what is of consequence. Fewer than
        three seeds and splits decide nothing, however narrow the interval is."""
        if self.found is None or math.isnan(self.found.value):
            return NOT_RUN
        if not self.found.decides:
            return UNDECIDED
        if self.found.low > 0:
            return REPRODUCED
        return CONTRADICTED if self.found.high < self.consequence else UNDECIDED

    def __str__(self) -> str:
        if self.verdict == NOT_RUN:
            return f'{self.what}: not run'
        return f'{self.what}: {self.found.text(self.scale, digits=self.digits)} {self.unit} ({about(self.found)})'

    @property
    def needs(self) -> str:
        """What would decide it, in words."""
        found = self.found
        if found is None or not found.decides:
            have = 0 if found is None else max(found.seeds, found.splits)
            return f'at least {FEWEST} seeds or splits (there {"is" if have == 1 else "are"} {have})'
        half, target = (found.high - found.low) / 2, max(abs(found.value), self.consequence)
        more = max(half / target, 1.0) ** 2
        of_groups, of_seeds = found.variances
        if found.over == 'data sets':
            return f'more data sets or larger ones: an interval {math.sqrt(more):.1f} times as narrow'
        if found.over == 'patients and seeds' and of_seeds > of_groups:
            return f'about {math.ceil(more * found.seeds):,} seeds'
        if found.groups:
            times = math.ceil(10 * more) / 10
            return (
                f'about {times:g} times the {found.groups:,} test patients' if times > 1 else 'somewhat more patients'
            )
        return f'about {math.ceil(more * max(found.seeds, found.splits)):,} seeds'


def about(found: Interval) -> str:
    """What an interval is over, in words: '3 seeds, 412 patients'."""
    if found.over == 'data sets':
        return f'at least {found.seeds} seeds or splits each, {found.groups:,} patients'
    words = [f'{found.splits} splits'] if found.splits > 1 else []
    if found.seeds:
        words.append(f'{found.seeds} seed{"s" if found.seeds > 1 else ""}')
    if found.over == 'patients' or found.over == 'patients and seeds':
        words.append(f'{found.groups:,} patients')
    if found.over == 'seeds':
        words.append('patients not drawn')
    return ', '.join(words) or 'as printed'


def judge(parts: Sequence[Part]) -> str:
    """The verdict on a claim, each part of which must hold.

    One part contradicted contradicts it; all reproduced reproduce it; a part that was not run leaves it undecided, and
    where no part was run the claim was not run.
    """
    found = [part.verdict for part in parts]
    if CONTRADICTED in found:
        return CONTRADICTED
    if not found or set(found) == {NOT_RUN}:
        return NOT_RUN
    return REPRODUCED if set(found) == {REPRODUCED} else UNDECIDED
