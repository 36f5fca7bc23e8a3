"""Where full fine-tuning overtakes a method as the training data grow (Figure 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

DRAWS = 2000


def locate(fractions: Sequence[float], gains: Sequence[float]) -> float:
    """The data size above which full fine-tuning stays better: the last change of sign of the gain from plus to minus.

    Linear in the gain between two neighbouring sizes and in the logarithm of the size. A gain of exactly zero between
    plus and minus is the crossover itself.

    Args:
        fractions: increasing sizes, in any unit.
        gains: score of the method less that of full fine-tuning at each size; NaN where missing.
    Returns:
        The size; inf where the method is still better at the largest size, 0 where it is better at none; NaN for fewer
        than two sizes.
    """
    points = [(x, gain) for x, gain in zip(fractions, gains, strict=True) if not math.isnan(gain)]
    signed = [i for i, (_, gain) in enumerate(points) if gain != 0]
    if len(points) < 2 or not signed:
        return math.nan
    if points[signed[-1]][1] > 0:
        return math.inf
    better = [i for i in signed if points[i][1] > 0]
    if not better:
        return 0.0
    (x0, gain0), (x1, gain1) = points[better[-1]], points[better[-1] + 1]
    return float(x0 * (x1 / x0) ** (gain0 / (gain0 - gain1)))


@dataclass(frozen=True)
class Crossover:
    """A crossover with its uncertainty; sizes are fractions of the training images, 0 and inf lie outside what was run.

    `estimate` is of the means over seeds, `median`, `low` and `high` are of the bootstrap (NaN below three seeds).
    """

    estimate: float
    median: float
    low: float
    high: float
    seeds: int
    smallest: float
    largest: float

    def text(self, value: float) -> str:
        """A size in words: '51 %', '> 100 %' where it lies above the largest size run, '< 1 %' below the smallest."""
        if math.isnan(value):
            return '-'
        if math.isinf(value):
            return f'> {self.largest:.0%}'.replace('%', ' %')
        if value == 0:
            return f'< {self.smallest:.0%}'.replace('%', ' %')
        return f'{100 * value:.{0 if value >= 0.095 else 1}f} %'

    def __str__(self) -> str:
        text = self.text(self.estimate)
        if self.estimate == 0:
            text = f'none ({text}: full FT better throughout)'
        elif math.isinf(self.estimate):
            text = f'none ({text}: still better with all images run)'
        if math.isnan(self.low):
            return text
        return f'{text}; median {self.text(self.median)}, 95 % {self.text(self.low)} to {self.text(self.high)}'


def estimate(gains: pd.DataFrame, generator: np.random.Generator, draws: int = DRAWS) -> Crossover:
    """The crossover of one method on one encoder and data set, with a bootstrap over seeds.

    A seed is drawn with all its sizes (its subsets are nested), and the same draw serves both methods, whose gains are
    paired. With three seeds there are ten different draws: the interval is coarse, and rather too narrow than too wide.

    Args:
        gains: columns fraction, seed, gain, as from `scores.gains`.
        generator: draws the seeds.
        draws: how many draws.
    """
    table = gains.pivot_table(index='seed', columns='fraction', values='gain').sort_index(axis=1)  # [seeds, sizes]
    fractions, values = table.columns.to_numpy(dtype=float), table.to_numpy()
    ends = {'smallest': float(fractions[0]), 'largest': float(fractions[-1])} if len(fractions) else {}
    if not ends:
        return Crossover(math.nan, math.nan, math.nan, math.nan, 0, math.nan, math.nan)
    whole = locate(fractions, np.nanmean(values, axis=0))
    if len(values) < 3:
        return Crossover(whole, math.nan, math.nan, math.nan, len(values), **ends)
    drawn = [_draw(fractions, values, generator) for _ in range(draws)]
    # Sizes outside what was run are 0 or inf: only quantiles that are one of the draws make sense.
    low, median, high = np.quantile(drawn, [0.025, 0.5, 0.975], method='inverted_cdf')
    return Crossover(whole, float(median), float(low), float(high), len(values), **ends)


def _draw(fractions: np.ndarray, values: np.ndarray, generator: np.random.Generator) -> float:
    chosen = values[generator.integers(len(values), size=len(values))]  # [seeds, sizes]
    present = ~np.isnan(chosen).all(axis=0)
    return locate(fractions[present], np.nanmean(chosen[:, present], axis=0))
