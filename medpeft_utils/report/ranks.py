"""Ranks under a stated tie rule, and the tests that compare many methods over many data sets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from medpeft_utils.core.errors import BadInput

TIES = {'dense': '1, 2, 2, 3', 'average': '1, 2.5, 2.5, 4'}
DECIMALS = 2  # scores are ranked as printed, because the paper's ranks come out exactly from its printed cells
FEWEST_BLOCKS = 3


def as_printed(values: pd.Series, decimals: int = DECIMALS) -> pd.Series:
    """Numbers as they are printed, so that what looks equal is equal: rounding as text does, not as NumPy."""
    return values.map(lambda value: float(f'{value:.{decimals}f}'))


def rank(scores: pd.DataFrame, ties: str, decimals: int | None = DECIMALS) -> pd.DataFrame:
    """Rank the methods of each row, 1 for the highest score.

    Args:
        scores: a row for each block (data set, or data set and encoder), a column a method.
        ties: 'dense' (1, 2, 2, 3), as in the paper's Table 2, or 'average' (1, 2.5, 2.5, 4), as in its Table 3.
        decimals: scores that agree in so many decimals are tied; None compares them unrounded.
    Returns:
        The same shape; NaN where there is no score.
    """
    if ties not in TIES:
        raise BadInput(f'unknown tie rule {ties!r}; known: {", ".join(TIES)}')
    rounded = scores if decimals is None else scores.apply(as_printed, decimals=decimals)
    return rounded.rank(axis=1, ascending=False, method=ties)


def average_rank(scores: pd.DataFrame, ties: str, decimals: int | None = DECIMALS) -> pd.Series:
    """The mean over rows of `rank`, by method. Rows must be complete: ranks among fewer methods cannot be averaged."""
    if scores.isna().any(axis=None):
        raise BadInput('a rank over methods of which some have no score; leave the incomplete data sets out first')
    return rank(scores, ties, decimals).mean()


@dataclass(frozen=True)
class Friedman:
    """The Friedman test that all methods are equal: chi-squared statistic, its p, and how much it was taken over."""

    statistic: float
    p: float
    blocks: int
    methods: int

    def __str__(self) -> str:
        p = f'p = {self.p:.3f}' if self.p >= 0.001 else 'p < 0.001'
        return f'Friedman χ²({self.methods - 1}) = {self.statistic:.1f}, {p} over {self.blocks} blocks'


def friedman(scores: pd.DataFrame) -> Friedman | None:
    """Friedman's test over complete rows, scores unrounded; None below three blocks or three methods."""
    if len(scores) < FEWEST_BLOCKS or scores.shape[1] < 3:
        return None
    statistic, p = stats.friedmanchisquare(*(scores[method] for method in scores))
    return Friedman(float(statistic), float(p), len(scores), scores.shape[1])


def critical_difference(methods: int, blocks: int, level: float = 0.05) -> float:
    """The Nemenyi critical difference of average ranks (Demšar 2006, JMLR 7, section 3.2.2)."""
    q = stats.studentized_range.ppf(1 - level, methods, math.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * blocks)))


def wilcoxon_holm(scores: pd.DataFrame) -> pd.DataFrame | None:
    """p of the Wilcoxon signed-rank test for every pair of methods, adjusted by Holm; None below three blocks.

    Differences of zero are shared out (Pratt). With few blocks no p can be small: below six none reaches 0.05.
    """
    if len(scores) < FEWEST_BLOCKS or scores.shape[1] < 3:
        return None
    import scikit_posthocs

    values = scores.T.to_numpy()
    p = scikit_posthocs.posthoc_wilcoxon(values, zero_method='zsplit', p_adjust='holm')
    return pd.DataFrame(p.to_numpy(), index=scores.columns, columns=scores.columns)
