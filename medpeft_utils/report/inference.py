"""Intervals for scores and differences: what a test set, its patients and the seeds of training can show.

A `Sample` holds one quantity as several runs measured it: a value for each run, and its values in resamples of the test
split's groups (patients, lesions). The resamples follow from the groups alone, so two samples of one split are
paired: subtract them, and the interval of the result is that of a paired difference. `Sample.interval` then adds the
training seeds, or, over several splits, takes the variance of Nadeau and Bengio. Everything here works on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from scipy import optimize, stats

from medpeft_utils import auroc
from medpeft_utils.core.errors import BadInput

DRAWS, SEED, LEVEL, POWER = 1000, 0, 0.95, 0.8
FEWEST = 3  # seeds, or splits, below which an interval says too little of training to decide anything
AVERAGES = ('weighted', 'macro', 'micro')


# ---- resamples of the groups of a test split


@lru_cache(maxsize=32)
def _multinomial(count: int, draws: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return np.vstack([np.ones(count), drawn]).astype(np.float32)


class TestSplit:
    """The rows on which runs were tested, and the resamples of their groups that all these runs share.

    Args:
        labels: [N] classes 0..K-1, or [N, L] findings of 0 and 1.
        groups: [N] the patient or lesion of each row.
        classes: K, for [N] labels.
        draws: how many resamples.
        seed: of the resamples.
    """

    __test__ = False  # no test class, though its name begins so

    def __init__(self, labels, groups, classes: int | None = None, draws: int = DRAWS, seed: int = SEED):
        self.labels = np.asarray(labels)
        _, self.of = np.unique(np.asarray(groups), return_inverse=True)
        if len(self.labels) == 0 or len(self.labels) != len(self.of):
            raise BadInput(f'{len(self.labels)} labels for {len(self.of)} groups; a test split has as many, and some')
        self.groups = int(self.of.max()) + 1
        self.classes = classes or (int(self.labels.max()) + 1 if self.labels.ndim == 1 else self.labels.shape[1])
        self.weights = _multinomial(self.groups, draws, seed)  # [1 + draws, groups]; the first row is the split itself

    @cached_property
    def support(self) -> np.ndarray:
        """[1 + draws, K] rows of each class in each resample."""
        return self.counts(self.labels)

    def counts(self, classes: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
        """[1 + draws, K]: rows of each class [N] in each resample, of those kept [N] alone."""
        places = self.of * self.classes + classes
        table = np.bincount(places if kept is None else places[kept], minlength=self.groups * self.classes)
        counted = self.weights @ table.reshape(self.groups, self.classes).astype(np.float32)  # whole numbers: exact
        return counted.astype(float)

    def f1(self, predicted: np.ndarray, average: str = 'weighted') -> np.ndarray:
        """F1 of predicted classes [N] as [1 + draws], the split itself first; as scikit-learn's with 0 for 0/0.

        A class of which a resample has no row and no prediction is left out of its macro average.
        """
        if average not in AVERAGES:
            raise BadInput(f'unknown average of F1 {average!r}; known: {", ".join(AVERAGES)}')
        right = self.counts(self.labels, self.labels == predicted)
        if average == 'micro':
            return right.sum(1) / self.support.sum(1)
        both = self.support + self.counts(np.asarray(predicted))
        by_class = np.divide(2 * right, both, out=np.zeros_like(both), where=both > 0)
        if average == 'weighted':
            return (by_class * self.support).sum(1) / self.support.sum(1)
        counted = both > 0
        counted[0] = True  # the score itself is over all classes, as it is reported
        return by_class.sum(1) / counted.sum(1)

    def auroc_by_class(self, scores: np.ndarray) -> np.ndarray:
        """[1 + draws, K] areas of scores [N, K], one against the rest; NaN where a class has one kind of row alone."""
        labels = self.labels if self.labels.ndim == 2 else self.labels[:, None] == np.arange(self.classes)
        areas = np.full((len(self.weights), labels.shape[1]), np.nan)
        for k in np.flatnonzero(auroc.defined(labels)):
            for start in range(0, len(self.weights), 100):  # a hundred resamples at a time, for the sake of memory
                rows = slice(start, start + 100)
                areas[rows, k] = auroc.weighted(
                    labels[:, k], scores[:, k], self.weights[rows][:, self.of].astype(float)
                )
        return areas

    def auroc(self, scores: np.ndarray) -> np.ndarray:
        """The mean of `auroc_by_class` over the classes where it is defined, [1 + draws]."""
        areas = self.auroc_by_class(scores)
        known = np.isfinite(areas)
        return np.where(known, areas, 0).sum(1) / np.maximum(known.sum(1), 1)


# ---- samples and intervals


@dataclass(frozen=True)
class Interval:
    """A value with its interval of 95 %; NaN where there is none.

    `over` says what was drawn: 'patients and seeds', 'patients', 'seeds', 'splits' or ''. `variances` are those of
    groups and of seeds (of the mean), for what would narrow the interval.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    error: float = math.nan
    over: str = ''
    groups: int = 0
    seeds: int = 0
    splits: int = 1
    variances: tuple[float, float] = (math.nan, math.nan)

    @property
    def known(self) -> bool:
        return not math.isnan(self.low)

    @property
    def decides(self) -> bool:
        """Whether training randomness is in it: three seeds, or three splits, at least."""
        return self.known and max(self.seeds, self.splits) >= FEWEST

    @property
    def detectable(self) -> bool:
        """Whether it excludes zero."""
        return self.known and not self.low <= 0 <= self.high

    @property
    def smallest(self) -> float:
        """The difference that would be detected in four of five such studies."""
        return (self.high - self.low) / 2 + stats.norm.ppf(POWER) * self.error

    def minus(self, by: float) -> Interval:
        """The same, so much lower."""
        return replace(self, value=self.value - by, low=self.low - by, high=self.high - by)

    def text(self, scale: float = 100.0, signed: bool = True, digits: int = 1) -> str:
        """The value and its interval, such as '+3.4 [+1.4, +5.4]'."""
        form = f'{{:{"+" if signed else ""}.{digits}f}}'
        text = form.format(scale * self.value)
        return f'{text} [{form.format(scale * self.low)}, {form.format(scale * self.high)}]' if self.known else text


@dataclass(frozen=True)
class Sample:
    """One quantity as several runs measured it.

    Args:
        keys: the (split, seed) of each run, each once.
        values: [R].
        draws: [R, draws] over resamples of the groups, the same for all quantities of a split; None where records
            hold no rows.
        groups: in the test split.
        ratio: test images over training images, for the variance over splits.
    """

    keys: tuple[tuple, ...]
    values: np.ndarray
    draws: np.ndarray | None = None
    groups: int = 0
    ratio: float = 0.25

    @classmethod
    def of_runs(cls, runs: Mapping[tuple, np.ndarray], groups: int, ratio: float = 0.25) -> Sample:
        """From what `TestSplit.f1` or `.auroc` gives for each (split, seed): [1 + draws], the split itself first."""
        table = np.stack(list(runs.values())).astype(float)
        return cls(tuple(runs), table[:, 0], table[:, 1:], groups, ratio)

    def _at(self, keys: Sequence[tuple]) -> Sample:
        places = [self.keys.index(key) for key in keys]
        return Sample(
            tuple(keys),
            self.values[places],
            None if self.draws is None else self.draws[places],
            self.groups,
            self.ratio,
        )

    def __sub__(self, other: Sample) -> Sample:
        return combine([self, other], [1, -1])

    def interval(self, level: float = LEVEL) -> Interval:
        """The mean over runs with its interval.

        Several splits: Student's t with the variance of Nadeau and Bengio 2003 (Machine Learning 52:239-281, Eq. 12),
        (1/J + test/train) times that over the J splits' means. One split with draws: the percentile interval of draws
        of groups and seeds together, the seeds' part by Student's t, because a resample of three seeds has only ten
        outcomes. One split without draws: Student's t over seeds.
        """
        if not len(self.values):
            return Interval(math.nan)
        splits = list(dict.fromkeys(split for split, _ in self.keys))
        seeds = len({seed for _, seed in self.keys})
        if len(splits) > 1:
            of = np.array([splits.index(split) for split, _ in self.keys])
            means = np.array([self.values[of == place].mean() for place in range(len(splits))])
            return _nadeau_bengio(means, self.ratio, seeds, self.groups, level)
        if self.draws is None:
            return _student(self.values, level)
        return _bootstrapped(self.values, self.draws, self.groups, level)

    def drawn(self) -> np.ndarray:
        """[draws] of the mean, over groups and seeds together; one split with draws alone."""
        return _drawn(self.values, self.draws, self.groups, jointly=True)[0]


def combine(samples: Sequence[Sample], weights: Sequence[float]) -> Sample:
    """A weighted sum of quantities of the same test split, over the runs (split, seed) that all of them have."""
    keys = [key for key in samples[0].keys if all(key in one.keys for one in samples)]
    found = [one._at(keys) for one in samples]
    values = sum((w * one.values for w, one in zip(weights, found, strict=True)), np.zeros(len(keys)))
    draws = None
    if keys and all(one.draws is not None for one in found):
        draws = sum(w * one.draws for w, one in zip(weights, found, strict=True))
    return Sample(tuple(keys), values, draws, found[0].groups, found[0].ratio)


def _student(values: np.ndarray, level: float) -> Interval:
    count, mean = len(values), float(values.mean())
    if count < FEWEST:
        return Interval(mean, over='', seeds=count)
    error = float(values.std(ddof=1) / math.sqrt(count))
    half = stats.t.ppf((1 + level) / 2, count - 1) * error
    return Interval(mean, mean - half, mean + half, error, 'seeds', 0, count, 1, (math.nan, error**2))


def _nadeau_bengio(means: np.ndarray, ratio: float, seeds: int, groups: int, level: float) -> Interval:
    count, mean = len(means), float(means.mean())
    error = math.sqrt((1 / count + ratio) * means.var(ddof=1))
    half = stats.t.ppf((1 + level) / 2, count - 1) * error
    return Interval(mean, mean - half, mean + half, error, 'splits', groups, seeds, count)


@lru_cache(maxsize=32)
def multipliers(seeds: int, draws: int) -> np.ndarray:
    """[draws, seeds] weights that sum to zero: with them the mean of residuals is drawn by Student's t of seeds - 1."""
    generator, half = np.random.default_rng(SEED + 1), (draws + 1) // 2
    levels = (np.arange(half) + 0.5) / half  # quantiles in random order: a thousand draws of t must not be lopsided
    if seeds == 2:
        normal = stats.norm.ppf(generator.permutation(levels))[:, None] * np.array([1, -1]) / math.sqrt(2)
    else:
        normal = generator.standard_normal((half, seeds))
        normal -= normal.mean(axis=1, keepdims=True)
    drawn = normal / np.sqrt(seeds * stats.chi2.ppf(generator.permutation(levels), seeds - 1))[:, None]
    return np.concatenate([drawn, -drawn])[:draws]


@lru_cache(maxsize=32)
def _student_draws(degrees: int, draws: int) -> np.ndarray:
    """[draws] of Student's t: its own quantiles in random order, so a thousand draws are not lopsided."""
    levels = (np.arange(draws) + 0.5) / draws
    return stats.t.ppf(np.random.default_rng(SEED + 2).permutation(levels), degrees)


def _drawn(
    values: np.ndarray, draws: np.ndarray, groups: int, jointly: bool = False
) -> tuple[np.ndarray, float, float]:
    """[draws] of the mean over groups and seeds, and its variances over groups and over seeds.

    Args:
        jointly: the seeds' part moves as other quantities of the same seeds do (`multipliers`), for crossovers.
    """
    count, mean = len(values), values.mean()
    over_groups = draws.mean(axis=0)
    degrees = max(groups - 1, 1)
    wider = math.sqrt(groups / degrees) * stats.t.ppf(0.975, degrees) / stats.norm.ppf(0.975)
    of_groups, of_seeds = over_groups.var(), 0.0
    if count == 1:
        return mean + wider * (over_groups - mean), float(of_groups), 0.0
    # Seeds differ on these very rows already, by what each of them gets wrong: that is part of the spread over seeds,
    # and is taken out of the groups' part, or it would count twice.
    twice = (draws - over_groups).var(axis=1).sum() / (count - 1) / count
    left = max(of_groups - twice, 0.0)
    shrunk = math.sqrt(left / of_groups) if of_groups > 0 else 0.0
    of_seeds = values.var(ddof=1) / count
    if jointly:
        moved = multipliers(count, draws.shape[1]) @ (values - mean)
    else:
        moved = math.sqrt(of_seeds) * _student_draws(count - 1, draws.shape[1])
    return mean + wider * shrunk * (over_groups - mean) + moved, float(left), float(of_seeds)


def _bootstrapped(values: np.ndarray, draws: np.ndarray, groups: int, level: float) -> Interval:
    drawn, of_groups, of_seeds = _drawn(values, draws, groups)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    count = len(values)
    over = 'patients and seeds' if count > 1 else 'patients'
    error = math.sqrt(of_groups + of_seeds)
    return Interval(float(values.mean()), float(low), float(high), error, over, groups, count, 1, (of_groups, of_seeds))


# ---- over several data sets


@dataclass(frozen=True)
class Pooled:
    """A random-effects mean over data sets, the interval in which a further data set's difference is expected, and the
    spread between data sets (tau)."""

    mean: Interval
    prediction: tuple[float, float]
    tau: float
    sets: int

    def text(self, scale: float = 100.0) -> str:
        text = f'{self.mean.text(scale)} over {self.sets} data sets'
        if math.isnan(self.prediction[0]):
            return text
        return text + f'; a further data set: {scale * self.prediction[0]:+.1f} to {scale * self.prediction[1]:+.1f}'


def random_effects(parts: Sequence[Interval], level: float = LEVEL) -> Pooled:
    """The mean of independent differences that may differ truly between data sets.

    Tau by Paule and Mandel 1982; the interval by Hartung and Knapp 2001 (t of k - 1 degrees, never narrower than with
    fixed weights); the prediction interval by Higgins, Thompson, Spiegelhalter 2009 (t of k - 2; NaN below three sets).
    A single part is returned as it is.
    """
    parts = [part for part in parts if part.known]
    if not parts:
        return Pooled(Interval(math.nan), (math.nan, math.nan), math.nan, 0)
    if len(parts) == 1:
        return Pooled(parts[0], (math.nan, math.nan), math.nan, 1)
    values, errors = np.array([p.value for p in parts]), np.array([max(p.error, 1e-9) for p in parts])
    count = len(values)

    def excess(tau2: float) -> float:
        weights = 1 / (errors**2 + tau2)
        mean = (weights * values).sum() / weights.sum()
        return (weights * (values - mean) ** 2).sum() - (count - 1)

    tau2 = 0.0
    if excess(0.0) > 0:
        tau2 = optimize.brentq(excess, 0.0, values.var() * count + (errors**2).max() * count + 1e-12)
    weights = 1 / (errors**2 + tau2)
    mean = float((weights * values).sum() / weights.sum())
    scaled = (weights * (values - mean) ** 2).sum() / (count - 1)
    error = math.sqrt(max(scaled, 1.0) / weights.sum())
    half = stats.t.ppf((1 + level) / 2, count - 1) * error
    fewest = min(max(p.seeds, p.splits) for p in parts)
    found = Interval(mean, mean - half, mean + half, error, 'data sets', sum(p.groups for p in parts), fewest)
    reach = math.nan
    if count > 2:
        reach = stats.t.ppf((1 + level) / 2, count - 2) * math.sqrt(tau2 + 1 / weights.sum())
    return Pooled(found, (mean - reach, mean + reach), math.sqrt(tau2), count)
