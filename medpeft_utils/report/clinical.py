"""Clinical numbers of one finding against the rest, from labels and probabilities; thresholds come from validation."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special, stats

from medpeft_utils.report.inference import TestSplit

BINS = 15
SMALLEST = 1e-12  # a probability nearer to 0 or 1 is taken for it


def class_probabilities(odds: np.ndarray, several: bool, temperature: float = 1.0) -> np.ndarray:
    """Probabilities [N, K] from the log-odds that a record keeps.

    Args:
        odds: [N, K] log-odds of each class against the rest.
        several: whether an image may show several findings (a sigmoid each), or one class (a softmax).
        temperature: divides the logits, 1 for the network as it is.
    """
    odds = odds.astype(float)
    if several:
        return special.expit(odds / temperature)
    return special.softmax(-np.logaddexp(0, -odds) / temperature, axis=1)  # log p is -log(1 + e^-odds)


def temperature(labels: np.ndarray, odds: np.ndarray) -> float:
    """The temperature with the least log loss on these rows, of validation (Guo et al. 2017, arXiv:1706.04599)."""
    several = labels.ndim > 1

    def loss(log: float) -> float:
        p = np.clip(class_probabilities(odds, several, math.exp(log)), SMALLEST, 1 - SMALLEST)
        if several:
            return float(-(labels * np.log(p) + (1 - labels) * np.log1p(-p)).mean())
        return float(-np.log(p[np.arange(len(labels)), labels]).mean())

    return math.exp(optimize.minimize_scalar(loss, bounds=(-3, 3), method='bounded').x)


# ---- one finding: y [N] of 0 and 1, p [N]


def average_precision(y: np.ndarray, p: np.ndarray) -> float:
    """Area under the precision-recall curve, as scikit-learn's average precision; NaN without a positive."""
    order = np.argsort(-p, kind='stable')
    last = np.flatnonzero(np.r_[np.diff(p[order]) != 0, True])  # a threshold a distinct score
    found = np.cumsum(y[order])[last]
    if not len(found) or found[-1] == 0:
        return math.nan
    recall, precision = found / found[-1], found / (last + 1)
    return float((np.diff(np.r_[0, recall]) * precision).sum())


def threshold_at_specificity(y: np.ndarray, p: np.ndarray, specificity: float) -> float:
    """The lowest threshold at which so many of the negatives lie below it (an image is positive at or above it)."""
    negatives = np.sort(p[y == 0])
    if not len(negatives):
        return math.nan
    place = math.ceil(specificity * len(negatives) - 1e-9)
    if place >= len(negatives) or place == 0:
        return float(np.nextafter(negatives[-1], np.inf)) if place else float(negatives[0])
    return float(np.nextafter(negatives[place - 1], np.inf))


def threshold_at_sensitivity(y: np.ndarray, p: np.ndarray, sensitivity: float) -> float:
    """The highest threshold at which so many of the positives lie at or above it."""
    positives = np.sort(p[y == 1])[::-1]
    if not len(positives):
        return math.nan
    return float(positives[max(math.ceil(sensitivity * len(positives) - 1e-9), 1) - 1])


def calibration_line(y: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    """Calibration slope, and intercept with the slope held at 1 (Van Calster et al. 2019, BMC Medicine 17:230).

    A logistic regression of y on the log-odds of p. Ideal: 1 and 0. NaN with one kind of row alone.
    """
    if len(np.unique(y)) < 2:
        return math.nan, math.nan
    x = special.logit(np.clip(p, 1e-6, 1 - 1e-6))
    slope = _logistic(np.column_stack([x, np.ones_like(x)]), y, np.zeros_like(x))[0]
    return float(slope), float(_logistic(np.ones((len(x), 1)), y, x)[0])


def _logistic(design: np.ndarray, y: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Coefficients of a logistic regression by Newton's method; NaN where the kinds are separated."""
    beta = np.zeros(design.shape[1])
    for _ in range(100):
        mean = special.expit(design @ beta + offset)
        information = design.T @ (design * (mean * (1 - mean))[:, None])
        try:
            step = np.linalg.solve(information, design.T @ (y - mean))
        except np.linalg.LinAlgError:
            return np.full(len(beta), math.nan)
        beta = beta + step
        if np.abs(step).max() < 1e-10:
            return beta
        if np.abs(beta).max() > 1e4:
            break
    return np.full(len(beta), math.nan)


def equal_mass(p: np.ndarray, bins: int = BINS) -> np.ndarray:
    """[N] the bin of each row, of bins with as many rows each (to one), by rising p."""
    which = np.empty(len(p), dtype=int)
    for number, rows in enumerate(np.array_split(np.argsort(p, kind='stable'), min(bins, len(p)))):
        which[rows] = number
    return which


# ---- the same in every resample of the groups


def _sums(split: TestSplit, values: np.ndarray) -> np.ndarray:
    """[1 + draws, ...] sums of values [N, ...] over the rows of each resample."""
    flat = np.zeros((split.groups, values[0].size))
    np.add.at(flat, split.of, values.reshape(len(values), -1))
    drawn = (split.weights @ flat.astype(np.float32)).astype(float)  # resamples in single precision, for speed
    drawn[0] = flat.sum(axis=0)  # the split itself in double
    return drawn.reshape(len(split.weights), *values.shape[1:])


def drawn_auroc(split: TestSplit, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """[1 + draws] AUROC by DeLong's placements, summed over groups: linear in a resample's weights, and so fast."""
    m, n = int(y.sum()), int(len(y) - y.sum())
    if not m or not n:
        return np.full(len(split.weights), math.nan)
    ranks = stats.rankdata(p)
    placement = np.empty(len(p))
    placement[y == 1] = (ranks[y == 1] - stats.rankdata(p[y == 1])) / n
    placement[y == 0] = 1 - (ranks[y == 0] - stats.rankdata(p[y == 0])) / m
    area = placement[y == 1].mean()
    influence = np.where(y == 1, (placement - area) / m, (placement - area) / n)
    return area + _sums(split, influence)


def drawn_brier(split: TestSplit, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """[1 + draws] Brier score, the mean of (p - y)²."""
    return _sums(split, (p - y) ** 2) / _sums(split, np.ones(len(y)))


def drawn_calibration_error(split: TestSplit, y: np.ndarray, p: np.ndarray, bins: int = BINS) -> np.ndarray:
    """[1 + draws] expected calibration error over bins of equal mass; a resample keeps the split's own bins."""
    which = equal_mass(p, bins)
    inside = which[:, None] == np.arange(which.max() + 1)
    gaps = np.abs(_sums(split, inside * (p - y)[:, None]))
    return gaps.sum(axis=1) / _sums(split, np.ones(len(y)))


def drawn_rates(split: TestSplit, y: np.ndarray, p: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """[1 + draws] sensitivity and specificity at a threshold."""
    above = p >= threshold
    parts = np.column_stack([above & (y == 1), y == 1, ~above & (y == 0), y == 0]).astype(float)
    sums = _sums(split, parts)
    with np.errstate(invalid='ignore', divide='ignore'):
        return sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]


def drawn_net_benefit(split: TestSplit, y: np.ndarray, p: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """[1 + draws, thresholds] net benefit (Vickers and Elkin 2006): TP/n - FP/n * t / (1 - t)."""
    above = p[:, None] >= thresholds
    true, false = _sums(split, above * (y == 1)[:, None]), _sums(split, above * (y == 0)[:, None])
    return (true - false * thresholds / (1 - thresholds)) / _sums(split, np.ones(len(y)))[:, None]


def drawn_reliability(split: TestSplit, y: np.ndarray, p: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """[1 + draws, bins] share of positives among rows with p in each bin between edges; NaN for an empty bin."""
    which = np.clip(np.searchsorted(edges, p, side='right') - 1, 0, len(edges) - 2)
    inside = which[:, None] == np.arange(len(edges) - 1)
    with np.errstate(invalid='ignore', divide='ignore'):
        return _sums(split, inside * y[:, None]) / _sums(split, inside.astype(float))
