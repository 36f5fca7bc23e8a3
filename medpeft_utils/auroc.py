"""Areas under ROC curves of findings that an image has or lacks, with their uncertainty.

DeLong's variance for one area, and a bootstrap over patients for the mean over findings. Models that are tested on the
same images get the same resamples, so stored values of two models can be compared.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats
from sklearn.metrics import roc_auc_score

DRAWS = 400
BLOCK = 50  # resamples at a time, to save memory
SEED = 0


def defined(labels: np.ndarray) -> np.ndarray:
    """[N, L] labels of 0 and 1 to [L] bool: the findings that some images have and others lack."""
    positives = labels.sum(axis=0, dtype=int)
    return (positives > 0) & (positives < len(labels))


def by_finding(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """AUROC of every finding [L], NaN where it is not `defined`, from labels and scores [N, L]."""
    areas = np.full(labels.shape[1], np.nan)
    for k in np.flatnonzero(defined(labels)):
        areas[k] = roc_auc_score(labels[:, k], scores[:, k])
    return areas


def delong(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas of several scores of the same images, and their covariance.

    DeLong, DeLong, Clarke-Pearson 1988, Biometrics 44:837-845, by the midranks of Sun and Xu 2014, IEEE SPL
    21:1389-1393, Eqs. 3 to 7. It takes images as independent; `bootstrap` does not.

    Args:
        labels: [N] of 0 and 1, some of each.
        scores: [K, N] of K models.
    Returns:
        Areas [K] and their covariance [K, K] (NaN with fewer than two images of a kind).
    """
    positive = np.asarray(labels).astype(bool)
    scores = np.atleast_2d(np.asarray(scores, dtype=float))
    m, n = int(positive.sum()), int((~positive).sum())
    above, below = scores[:, positive], scores[:, ~positive]
    ranks = stats.rankdata(np.concatenate([above, below], axis=1), axis=1)  # [K, m + n]
    v10 = (ranks[:, :m] - stats.rankdata(above, axis=1)) / n  # [K, m], share of negatives below each positive
    v01 = 1 - (ranks[:, m:] - stats.rankdata(below, axis=1)) / m  # [K, n]
    areas = v10.mean(axis=1)
    if min(m, n) < 2:
        return areas, np.full((len(scores),) * 2, np.nan)
    return areas, np.atleast_2d(np.cov(v10)) / m + np.atleast_2d(np.cov(v01)) / n


def delong_interval(labels: np.ndarray, scores: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Area of one score [N] with DeLong's normal interval, within 0..1; (area, NaN, NaN) with too few images."""
    (area,), ((variance,),) = delong(labels, scores)
    half = stats.norm.ppf((1 + level) / 2) * math.sqrt(variance) if variance >= 0 else math.nan
    return float(area), float(np.maximum(area - half, 0)), float(np.minimum(area + half, 1))  # NaN stays NaN


def resamples(groups: np.ndarray, draws: int = DRAWS, seed: int = SEED, among: np.ndarray | None = None) -> np.ndarray:
    """[R, N] how often each image is in each of R bootstrap resamples of patients, each with all images.

    Two sets of images of the same patients get the same resamples, which makes their values paired.

    Args:
        groups: [N] the patient of each image.
        draws: R.
        seed: of the resamples.
        among: the patients to draw from; those of `groups` where None.
    """
    names = np.unique(groups if among is None else among)
    times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return times[:, np.searchsorted(names, groups)]


def bootstrap(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, draws: int = DRAWS, seed: int = SEED
) -> np.ndarray:
    """Mean AUROC over findings in resamples of the patients.

    Two models tested on the same images get the same resamples (`resamples`), and their difference is paired.

    Args:
        labels, scores: [N, L].
        groups: [N] the patient of each image.
        draws: how many resamples.
    Returns:
        [draws] means over the findings that a resample has with and without; NaN where it has none.
    """
    times = resamples(groups, draws, seed)
    findings = np.flatnonzero(defined(labels))
    areas = np.full((len(findings), draws), np.nan)
    for row, k in enumerate(findings):
        for start in range(0, draws, BLOCK):
            weights = times[start : start + BLOCK].astype(float)  # [block, N]
            areas[row, start : start + BLOCK] = weighted(labels[:, k], scores[:, k], weights)
    known = np.isfinite(areas)
    return np.where(known.any(axis=0), np.where(known, areas, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1), np.nan)


def weighted(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC of one finding for each row of weights [R, N]; NaN where one kind has no weight. Ties count half."""
    order = np.argsort(scores, kind='stable')
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])  # where a new score begins
    positive = labels[order].astype(bool)
    weights = weights[:, order]
    above = np.add.reduceat(np.where(positive, weights, 0), starts, axis=1)  # [R, distinct scores]
    below = np.add.reduceat(np.where(positive, 0, weights), starts, axis=1)
    pairs = above.sum(axis=1) * below.sum(axis=1)
    won = (above * (below.cumsum(axis=1) - below / 2)).sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def quantiles(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap draws; (NaN, NaN) where none is finite."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    return tuple(float(q) for q in np.quantile(values, [(1 - level) / 2, (1 + level) / 2]))
