"""Evidence for or against a statement: a mean with its interval over seeds, and the verdict that it gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from medpeft_utils.report.scores import interval

REPRODUCED, CONSISTENT, NOT, UNANSWERED = 'reproduced', 'consistent', 'not reproduced', 'cannot be answered'


@dataclass(frozen=True)
class Evidence:
    """A quantity that the paper claims to be above zero: its mean and 95 % t interval over seeds.

    `low` and `high` are NaN below three seeds. `scale` and `unit` are for printing.
    """

    what: str
    mean: float
    low: float
    high: float
    seeds: int
    blocks: int = 1
    scale: float = 100.0
    unit: str = 'points'

    @property
    def side(self) -> str:
        """'for' or 'against' where the interval lies wholly above or below zero, else 'open'."""
        if self.low > 0:
            return 'for'
        return 'against' if self.high < 0 else 'open'

    def __str__(self) -> str:
        text = f'{self.what}: {self.scale * self.mean:+.1f}'
        if not math.isnan(self.low):
            text += f' [{self.scale * self.low:+.1f}, {self.scale * self.high:+.1f}]'
        seeds = f'{self.seeds} seed{"s" if self.seeds != 1 else ""}' if self.seeds else 'as printed'
        blocks = f', {self.blocks} blocks' if self.blocks > 1 else ''
        return f'{text} {self.unit} ({seeds}{blocks})'


def pooled(what: str, values: pd.DataFrame, column: str = 'gain', printed: bool = False, **how) -> Evidence | None:
    """Evidence from values by block and seed: each seed's mean over blocks, then mean and interval over seeds.

    Args:
        what: what the quantity is.
        values: columns seed, the column named, and those that make a block (all others). Only seeds that every block
            has count for the interval; where there is none, the mean is that of the blocks' means.
        column: the quantity.
        printed: the values are the paper's, with no seeds behind them.
    Returns:
        None where there are no values.
    """
    if values.empty:
        return None
    keys = [name for name in values.columns if name not in ('seed', column)]
    table = (
        values.pivot_table(index='seed', columns=keys, values=column) if keys else values.set_index('seed')[[column]]
    )
    whole = table.dropna().mean(axis=1)
    mean = whole.mean() if len(whole) else table.mean().mean()
    return Evidence(what, float(mean), *interval(whole), 0 if printed else len(whole), table.shape[1], **how)


def judge(parts: Sequence[Evidence]) -> str:
    """The verdict on a claim of which every part should be above zero.

    reproduced: every part's interval lies above zero.
    consistent: no part's interval lies below zero and the mean over parts is above it, but some interval includes zero,
        or there are fewer than three seeds.
    not reproduced: some part's interval lies below zero, or the mean over parts is zero or less.
    cannot be answered: there is no part.
    """
    if not parts:
        return UNANSWERED
    sides = [part.side for part in parts]
    if all(side == 'for' for side in sides):
        return REPRODUCED
    mean = sum(part.mean for part in parts) / len(parts)
    return NOT if 'against' in sides or mean <= 0 else CONSISTENT
