"""Ranks under a stated tie rule: the paper's two rules on its printed cells, one on unrounded scores of a study."""

from __future__ import annotations

import pandas as pd

from medpeft_utils.core.errors import BadInput

TIES = {'dense': '1, 2, 2, 3', 'average': '1, 2.5, 2.5, 4'}
DECIMALS = 2  # scores are ranked as printed, because the paper's ranks come out exactly from its printed cells


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
