"""Where full fine-tuning overtakes a method as the training data grow (Figure 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medpeft_utils.report.inference import DRAWS, FEWEST, Sample, multipliers


def locate(fractions: Sequence[float], gains: Sequence[float]) -> float:
    """The data size above which full fine-tuning stays better: the last change of sign of the gain from plus to minus.

    Linear in the gain between two neighbouring sizes and in the logarithm of the size. A gain of exactly zero between
    plus and minus is the crossover itself.

    Args:
        fractions: increasing sizes, in any unit.
        gains: score of the method minus that of full fine-tuning at each size; NaN where missing.
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
    """Where full fine-tuning overtakes: an estimate and its interval; sizes are fractions of the training images.

    0 and inf lie outside what was run: full fine-tuning is ahead throughout, or the method still is. `inside` is the
    share of draws that have a crossover between the smallest and the largest size.
    """

    estimate: float
    low: float
    high: float
    inside: float
    smallest: float
    largest: float
    over: str = ''
    seeds: int = 0

    @property
    def detectable(self) -> bool:
        """Whether the whole interval lies within what was run."""
        return not math.isnan(self.low) and self.smallest <= self.low and self.high <= self.largest

    def words(self, value: float) -> str:
        """A size in words: '51 %', '> 100 %' above the largest size that was run, '< 1 %' below the smallest."""
        if math.isnan(value):
            return '-'
        if math.isinf(value):
            return f'> {100 * self.largest:g} %'
        return f'< {100 * self.smallest:g} %' if value == 0 else f'{100 * value:.{0 if value >= 0.095 else 1}f} %'

    def __str__(self) -> str:
        if math.isnan(self.estimate):
            return 'none: fewer than two sizes were run'
        none = {0.0: 'none: full FT ahead at every size', math.inf: 'none: still ahead with all images'}
        text = none.get(self.estimate, self.words(self.estimate))
        if math.isnan(self.low):
            return f'{text}; no interval'
        text = f'{text}; 95 % {self.words(self.low)} to {self.words(self.high)}'
        return text if self.detectable or self.estimate in none else f'none detectable ({text})'


def estimate(gains: Mapping[float, Sample]) -> Crossover:
    """The crossover of one method, drawn over groups and seeds together where records hold rows, else over seeds.

    A draw moves all sizes together: the groups of the test split are the same, and a seed is drawn with all its sizes,
    whose subsets are nested.

    Args:
        gains: fraction of the training images to the method's score minus that of full fine-tuning.
    """
    fractions = sorted(fraction for fraction in gains if len(gains[fraction].values))
    if len(fractions) < 2:
        return Crossover(math.nan, math.nan, math.nan, math.nan, *((fractions * 2)[:2] or (math.nan, math.nan)))
    ends = fractions[0], fractions[-1]
    samples = [gains[fraction] for fraction in fractions]
    place = locate(fractions, [one.values.mean() for one in samples])
    seeds = min(len(one.values) for one in samples)
    rows = all(one.draws is not None for one in samples) and len({key[0] for one in samples for key in one.keys}) == 1
    if rows:
        drawn = np.stack([one.drawn() for one in samples], axis=1)  # [draws, sizes]
    elif seeds >= FEWEST:
        means = [(one.values.mean(), one.values) for one in samples]
        drawn = np.stack([m + multipliers(seeds, DRAWS) @ (v[:seeds] - v[:seeds].mean()) for m, v in means], axis=1)
    else:
        return Crossover(place, math.nan, math.nan, math.nan, *ends, '', seeds)
    places = np.array([locate(fractions, draw) for draw in drawn])
    # Sizes outside what was run are 0 or inf: only quantiles that are one of the draws make sense.
    low, high = np.quantile(places, [0.025, 0.975], method='inverted_cdf')
    inside = float(((places > 0) & np.isfinite(places)).mean())
    over = ('patients and seeds' if seeds > 1 else 'patients') if rows else 'seeds'
    return Crossover(place, float(low), float(high), inside, *ends, over, seeds)
