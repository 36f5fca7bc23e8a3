"""Which method, and how surely: the decision of a comparison from what its runs measured.

The method is chosen on validation and reported on test, so its score is not the luck of the winner. Every other
one is subtracted from it on the same test images (paired bootstrap over patients and seeds, `report/inference.py`);
the intervals of these differences hold together. Nothing here reads a file.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import stats

from medpeft_utils.core.errors import BadInput
from medpeft_utils.report.inference import FEWEST, LEVEL, SEED, Interval, Sample

WORSE, BETTER, UNDETECTED = 'worse', 'better', 'no difference is detectable'


def number(value: float, signed: bool = False) -> str:
    """A score in two digits, or in as many, up to four, as show on which side of 0 it lies."""
    digits = next((few for few in (2, 3) if round(value, few)), 4 if value else 2)
    text = f'{value:{"+" if signed else ""}.{digits}f}'
    return (text.replace('-0', '0') if float(text) == 0 else text).replace('-', '−')


def spread(found: Interval) -> str:
    """A score or a difference with its interval, where one is known: '0.03 [0.01, 0.05]'."""
    return number(found.value) + (f' [{number(found.low)}, {number(found.high)}]' if found.known else '')


def negative(found: Interval) -> Interval:
    """The same difference the other way round."""
    return replace(found, value=-found.value, low=-found.high, high=-found.low)


@dataclass(frozen=True)
class Candidate:
    """A method on a backbone, as its runs measured it.

    Args:
        label: how it is called.
        validation: mean score on validation over its runs.
        test: its score on the test split; samples of one comparison share the resamples of that split.
        adapter_bytes: what has to be kept of it for each task; None where unknown.
        step_seconds: of one training step; None where unknown.
    """

    label: str
    validation: float
    test: Sample
    adapter_bytes: int | None = None
    step_seconds: float | None = None

    @cached_property
    def score(self) -> Interval:
        found = self.test.interval()
        return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0)) if found.known else found

    @property
    def expense(self) -> tuple[float, float]:
        """By which the cheaper of two is found: the bytes to keep, then the time of a step."""
        return self.adapter_bytes or float('inf'), self.step_seconds or float('inf')


@dataclass(frozen=True)
class Relation:
    """How another candidate stands to the one chosen on validation: `lead` is the chosen one's score minus its own."""

    other: Candidate
    lead: Interval

    @property
    def verdict(self) -> str:
        if not (self.lead.decides and self.lead.detectable):
            return UNDETECTED
        return WORSE if self.lead.value > 0 else BETTER


@dataclass(frozen=True)
class Answer:
    """What a comparison says.

    Args:
        chosen: the candidate with the highest score on validation; the cheaper one of equals.
        relations: of the others to it, the highest test score first.
        over_constant: the chosen one's score minus that of always answering the commonest class.
    """

    chosen: Candidate
    relations: tuple[Relation, ...]
    over_constant: Interval

    def of(self, verdict: str) -> list[Candidate]:
        return [relation.other for relation in self.relations if relation.verdict == verdict]

    @property
    def alike(self) -> list[Candidate]:
        """The chosen one and those from which no difference is detectable, the cheapest first."""
        return sorted([self.chosen, *self.of(UNDETECTED)], key=lambda one: one.expense)

    @property
    def cheapest(self) -> Candidate:
        """Of those in `alike`."""
        return self.alike[0]

    @property
    def obstacle(self) -> str:
        """Why no choice is supported; '' where one is."""
        runs = max(self.chosen.score.seeds, self.chosen.score.splits)
        if not self.relations:
            return 'there is one method only'
        if runs < FEWEST:
            return f'{runs} seed{"s" if runs > 1 else ""} cannot show how much training varies; {FEWEST} or more can'
        if not (self.over_constant.detectable and self.over_constant.value > 0):
            return f'{self.chosen.label} is not detectably better than always answering the commonest class'
        if better := self.of(BETTER):
            return f'validation chose {self.chosen.label}, and on the test split {_listed(better)} did better'
        if not self.of(WORSE):
            return 'no difference is detectable between these methods'
        return ''

    @property
    def choice(self) -> Candidate | None:
        """The cheapest of those from which no difference is detectable; None where no choice is supported."""
        return None if self.obstacle else self.cheapest

    @property
    def best(self) -> bool:
        """Whether the chosen one is detectably better than each of the others."""
        return not self.obstacle and len(self.of(WORSE)) == len(self.relations)

    @property
    def cheaper(self) -> list[tuple[Candidate, float]]:
        """Those of `alike` that cost less than the chosen one, each with the most that may be lost by it, the end of
        its interval: the least loss first, and none that costs as much as one before it."""
        leads = [(r.other, max(r.lead.high, 0.0)) for r in self.relations if r.verdict == UNDETECTED]
        found: list[tuple[Candidate, float]] = []
        for one, loss in sorted(leads, key=lambda lead: (lead[1], lead[0].expense)):
            if one.expense < min((self.chosen, *(other for other, _ in found)), key=lambda c: c.expense).expense:
                found.append((one, loss))
        return found

    @property
    def smallest(self) -> float | None:
        """The difference that a test like this one would detect four times in five; the median over the others."""
        known = [relation.lead.smallest for relation in self.relations if relation.lead.decides]
        return statistics.median(known) if known else None

    def recommendation(self) -> str:
        """One or two sentences on what to take."""
        if self.obstacle:
            cheapest = ''
            if len(self.alike) > 1 and not self.of(BETTER) and self.cheapest.adapter_bytes:
                cheapest = f' The cheapest is {self.cheapest.label}.'
            return f'No choice is supported: {self.obstacle}.{cheapest}'
        if self.best:
            return f'Take {self.chosen.label}: it is the best of these methods on this test split.'
        if self.choice is self.chosen:
            others = _listed(self.of(UNDETECTED), 'or')
            return (
                f'Take {self.chosen.label}: no difference from {others} is detectable, and it is the cheapest of them.'
            )
        (first, loss), *others = self.cheaper
        choices = [f'{first.label} if a loss of up to {number(loss)} is of no consequence']
        choices += [f'{one.label} if one of up to {number(loss)} is' for one, loss in others[-1:]]
        they = 'it costs' if not others else 'they cost'
        return (
            f'Take {", ".join(choices)}, else {self.chosen.label}: {they} less, and no difference from '
            f'{self.chosen.label} is detectable.'
        )


def _listed(candidates: Sequence[Candidate], word: str = 'and') -> str:
    names = [one.label for one in candidates]
    return f' {word} '.join(filter(None, [', '.join(names[:-1]), names[-1]]))


def decide(candidates: Sequence[Candidate], constant: Sample) -> Answer:
    """Compare candidates on one test split.

    Args:
        candidates: with the same resamples of the same test split.
        constant: the score of always answering the commonest training class, for the same runs.
    Raises:
        BadInput: no candidate.
    """
    if not candidates:
        raise BadInput('no method has a finished run; there is nothing to compare')
    chosen = min(candidates, key=lambda one: (-one.validation, one.expense))
    others = sorted((one for one in candidates if one is not chosen), key=lambda one: -one.score.value)
    leads = simultaneous([chosen.test - one.test for one in others])
    relations = tuple(Relation(one, lead) for one, lead in zip(others, leads, strict=True))
    return Answer(chosen, relations, (chosen.test - constant).interval())


def simultaneous(differences: Sequence[Sample], level: float = LEVEL) -> list[Interval]:
    """Intervals of differences on one test split that all hold together in `level` of such studies.

    Symmetric, by the largest of the standardised differences in each resample of the patients (max-t, Westfall and
    Young 1993). The variance over seeds is hard to know from three of them: a difference gets its own estimate or the
    mean over all differences, whichever is larger, with the degrees of freedom of that mean by Satterthwaite 1946.
    Several splits, or records without rows: each by `Sample.interval` with Bonferroni's level.
    """
    if not differences:
        return []
    if any(one.draws is None or len({split for split, _ in one.keys}) != 1 for one in differences):
        return [one.interval(1 - (1 - level) / len(differences)) for one in differences]
    parts = [_parts(one) for one in differences]
    own = np.array([of_seeds for _, of_seeds in parts])
    of_seeds = np.maximum(own, own.mean())
    fewest = min(len(one.values) for one in differences)
    degrees = (fewest - 1) * own.sum() ** 2 / (own**2).sum() if own.any() else 1
    student = np.random.default_rng(SEED + 2).standard_t(degrees, size=(len(parts), parts[0][0].size))
    errors = np.array([math.sqrt(drawn.var() + seeds) for (drawn, _), seeds in zip(parts, of_seeds, strict=True)])
    moved = np.stack([drawn for drawn, _ in parts]) + np.sqrt(of_seeds)[:, None] * student  # [differences, draws]
    safe = np.where(errors > 0, errors, 1.0)
    reach = float(np.quantile(np.abs(moved / safe[:, None]).max(axis=0), level)) * errors
    return [
        Interval(
            *(value := float(one.values.mean()), value - half, value + half, float(error)),
            *('patients and seeds' if len(one.values) > 1 else 'patients', one.groups, len(one.values)),
            variances=(float(drawn.var()), float(seeds)),
        )
        for one, (drawn, _), half, error, seeds in zip(differences, parts, reach, errors, of_seeds, strict=True)
    ]


def _parts(one: Sample) -> tuple[np.ndarray, float]:
    """[draws] of what the patients move in the mean of a difference, about 0, and its variance over the seeds.

    Widened for few patients, and without what resamples of the patients already move between seeds, as in
    `Sample.interval`.
    """
    count, over_groups = len(one.values), one.draws.mean(axis=0)
    degrees = max(one.groups - 1, 1)
    wider = math.sqrt(one.groups / degrees) * stats.t.ppf(0.975, degrees) / stats.norm.ppf(0.975)
    if count < 2:
        return wider * (over_groups - over_groups.mean()), 0.0
    noise = (one.draws - over_groups).var(axis=1).sum() / (count - 1)
    return wider * (over_groups - over_groups.mean()), max(float(one.values.var(ddof=1) - noise), 0.0) / count


# ---- would more data help?


@dataclass(frozen=True)
class Growth:
    """The scores of one method over shares of the training images, and what the last step of them gained."""

    label: str
    scores: dict[float, Interval]
    images: dict[float, int]
    gain: Interval

    def sentence(self) -> str:
        """Whether more training images would help, as far as the last step of the shares says."""
        few, all_of_them = sorted(self.images)[-2:]
        step = f'{self.label}: from {self.images[few]:,} to {self.images[all_of_them]:,} training images'
        if not self.gain.known:
            return f'{step} {number(self.gain.value, signed=True)}; no interval with so few runs.'
        if not (self.gain.decides and self.gain.detectable):
            return f'{step} no gain is detectable ({spread(self.gain)}).'
        if self.gain.value < 0:
            return f'{step} the score fell by {spread(negative(self.gain))}.'
        return f'{step} the score rose by {spread(self.gain)}; more images are likely to help.'


def growth(label: str, samples: Mapping[float, Sample], images: Mapping[float, int]) -> Growth:
    """From the samples of one method by share of the training images; two shares at least."""
    shares = sorted(samples)
    gain = (samples[shares[-1]] - samples[shares[-2]]).interval()
    return Growth(label, {share: samples[share].interval() for share in shares}, dict(images), gain)
