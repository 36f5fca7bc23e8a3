"""Which method, and how surely: the decision of a comparison from what its runs measured.

The method is chosen on validation and reported on test, so its score is not the luck of the winner. Every other
method is subtracted from it on the same test images (paired bootstrap over patients and seeds, `report/inference.py`);
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

SCORE = 'macro F1'
FEW_TEST = 5  # test images of a class below which no choice is supported
WORSE, BETTER, UNDETECTED, UNDECIDED = 'worse', 'better', 'no detectable difference', 'too few seeds to decide'


def number(value: float) -> str:
    """A score in two digits, or in up to four where two would hide on which side of 0 it lies."""
    digits = next((few for few in (2, 3) if round(value, few)), 4 if value else 2)
    text = f'{value:.{digits}f}'
    return (text.replace('-0', '0') if float(text) == 0 else text).replace('-', '−')


def spread(found: Interval) -> str:
    """A score or a difference with its interval, where one is known: '0.03 [0.01, 0.05]'."""
    return number(found.value) + (f' [{number(found.low)}, {number(found.high)}]' if found.known else '')


def negative(found: Interval) -> Interval:
    """The same difference the other way round."""
    return replace(found, value=-found.value, low=-found.high, high=-found.low)


def times(ratio: float, of: str) -> str:
    """A ratio in words: 'a quarter of the bytes', '1.4 times the step time'."""
    for value, words in ((1.0, 'the same'), (0.5, 'half the'), (1 / 3, 'a third of the'), (0.25, 'a quarter of the')):
        if abs(ratio - value) <= 0.05 * value:
            return f'{words} {of}'
    if ratio < 0.001:
        return f'under 0.1 % of the {of}'
    if ratio < 1:
        return f'{100 * ratio:.{1 if ratio < 0.01 else 0}f} % of the {of}'
    return f'{ratio:,.{1 if ratio < 10 else 0}f} times the {of}'


def size_of(count: int | None) -> str:
    """Bytes in words: '3.4 MB'; '' where unknown."""
    if count is None:
        return ''
    value, unit = (count / 1e6, 'MB') if count >= 1e6 else (count / 1e3, 'kB')
    return f'{value:,.{1 if value < 10 else 0}f} {unit}'


@dataclass(frozen=True)
class Candidate:
    """A method on a backbone, as its runs measured it.

    Args:
        label: how it is called.
        validation: mean score on validation over its runs.
        test: its score on the test split; samples of one comparison share the resamples of that split.
        adapter_bytes: what has to be stored of it for each task; None where unknown.
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
        """The cheaper of two candidates has the lower one: the bytes to store, then the time of a step."""
        return self.adapter_bytes or float('inf'), self.step_seconds or float('inf')

    def costs(self, than: Candidate) -> list[str]:
        """Its costs as multiples of another's, as far as both are known: ['a quarter of the bytes', ...]."""
        pairs = (
            (self.adapter_bytes, than.adapter_bytes, 'bytes'),
            (self.step_seconds, than.step_seconds, 'step time'),
        )
        return [times(own / other, of) for own, other, of in pairs if own and other]


@dataclass(frozen=True)
class Relation:
    """How another candidate stands to the one chosen on validation: `lead` is the chosen one's score minus its own."""

    other: Candidate
    lead: Interval

    @property
    def verdict(self) -> str:
        if not self.lead.decides:
            return UNDECIDED
        if not self.lead.detectable:
            return UNDETECTED
        return WORSE if self.lead.value > 0 else BETTER


@dataclass(frozen=True)
class Answer:
    """What a comparison says.

    Args:
        chosen: the candidate with the highest score on validation; the cheaper one of equals.
        relations: of the others to it, the highest test score first.
        over_constant: the chosen one's score minus that of always answering the commonest class.
        few: what makes the test split too small to compare on it; '' where nothing does.
    """

    chosen: Candidate
    relations: tuple[Relation, ...]
    over_constant: Interval
    few: str = ''

    @property
    def candidates(self) -> list[Candidate]:
        """All of them, the chosen one first."""
        return [self.chosen, *(relation.other for relation in self.relations)]

    def of(self, verdict: str) -> list[Candidate]:
        return [relation.other for relation in self.relations if relation.verdict == verdict]

    @property
    def cheapest(self) -> Candidate:
        """Of the chosen one and those without a detectable difference from it."""
        return min([self.chosen, *self.of(UNDETECTED)], key=lambda one: one.expense)

    @property
    def obstacle(self) -> str:
        """Why no choice is supported; '' where one is."""
        runs = max(self.chosen.score.seeds, self.chosen.score.splits)
        if not self.relations:
            return 'only one method was run'
        if self.few:
            return self.few
        if runs < FEWEST:
            return f'{runs} seed{"s" if runs > 1 else ""} cannot show how much training varies; use {FEWEST} or more'
        if not (self.over_constant.detectable and self.over_constant.value > 0):
            return f'{self.chosen.label} is not detectably better than always answering the commonest class'
        if better := self.of(BETTER):
            return f'{self.chosen.label} was chosen on validation, but {_listed(better)} did better on the test split'
        if len(self.of(UNDECIDED)) == len(self.relations):
            return f'too few runs of {_listed(self.of(UNDECIDED))} have finished'
        if not self.of(WORSE):
            return 'no difference between these methods is detectable on this test split'
        return ''

    @property
    def choice(self) -> Candidate | None:
        """The cheapest of those without a detectable difference; None where no choice is supported."""
        return None if self.obstacle else self.cheapest

    @property
    def best(self) -> bool:
        """Whether the chosen one is detectably better than each of the others."""
        return not self.obstacle and len(self.of(WORSE)) == len(self.relations)

    @property
    def cheaper(self) -> list[tuple[Candidate, float]]:
        """The candidates without a detectable difference that cost less than the chosen one, each with the most that
        its choice may lose, the end of its interval: the least loss first, and each cheaper than those before it."""
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
        """What to use, and why; or why no choice is supported."""
        chosen, alike = self.chosen, self.of(UNDETECTED)
        if self.obstacle:
            saving = ''
            if alike and not self.of(BETTER) and (size := self.cheapest.adapter_bytes):
                saving = f' {self.cheapest.label} takes the least space to store ({size_of(size)}).'
            return f'No choice is supported: {self.obstacle}.{saving}'
        if self.best:
            return f'Use {chosen.label}: it is the best of these methods on this test split.'
        left = f' Too few runs of {_listed(undecided)} have finished.' if (undecided := self.of(UNDECIDED)) else ''
        if not alike:
            return f'Use {chosen.label}: it is detectably better than {_listed(self.of(WORSE))}.{left}'
        if not self.cheaper:
            saving = f'{chosen.label} takes the least space to store ({size_of(chosen.adapter_bytes)})'
            saving = _saving(chosen, alike[0]) if len(alike) == 1 else saving
            return f'Use {chosen.label}: no difference from {_listed(alike, "or")} is detectable, and {saving}.{left}'
        (first, loss), *others = self.cheaper
        choices = [f'{first.label} if losing up to {number(loss)} in {SCORE} does not matter']
        choices += [f'{one.label} if losing up to {number(loss)} does not' for one, loss in others[-1:]]
        savings = ' and '.join(_saving(one, chosen) for one, _ in [self.cheaper[0], *others[-1:]])
        return (
            f'Use {", ".join(choices)}, and {chosen.label} otherwise: no difference from {chosen.label} is detectable, '
            f'and {savings}.{left}'
        )


def _listed(candidates: Sequence[Candidate], word: str = 'and') -> str:
    names = [one.label for one in candidates]
    return f' {word} '.join(filter(None, [', '.join(names[:-1]), names[-1]]))


def _saving(one: Candidate, other: Candidate) -> str:
    """What the cheaper one saves: 'SSF stores a quarter of the bytes of LoRA (24 kB instead of 96 kB)'."""
    if not (one.adapter_bytes and other.adapter_bytes) or one.adapter_bytes == other.adapter_bytes:
        return f'{one.label} costs less'
    sizes = f'{size_of(one.adapter_bytes)} instead of {size_of(other.adapter_bytes)}'
    return f'{one.label} stores {one.costs(other)[0]} of {other.label} ({sizes})'


def too_few(counts: Mapping[str, int]) -> str:
    """Why no choice is supported by a test split with so many images of each class; '' where one is."""
    rarest = min(counts, key=counts.get)
    if counts[rarest] >= FEW_TEST:
        return ''
    images = f'{counts[rarest]} image{"s" if counts[rarest] != 1 else ""}'
    return f'the test split has only {images} of class {rarest!r}, and a choice needs {FEW_TEST} of each class'


def decide(candidates: Sequence[Candidate], constant: Sample, few: str = '') -> Answer:
    """Compare candidates on one test split.

    Args:
        candidates: with the same resamples of the same test split.
        constant: the score of always answering the commonest training class, for the same runs.
        few: as in `Answer`.
    Raises:
        BadInput: no candidate.
    """
    if not candidates:
        raise BadInput('no method has a finished run; there is nothing to compare')
    chosen = min(candidates, key=lambda one: (-one.validation, one.expense))
    others = sorted((one for one in candidates if one is not chosen), key=lambda one: -one.score.value)
    leads = simultaneous([chosen.test - one.test for one in others])
    relations = tuple(Relation(one, lead) for one, lead in zip(others, leads, strict=True))
    return Answer(chosen, relations, (chosen.test - constant).interval(), few)


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
    """The scores of one method by number of training images, and what the last step of these numbers gained."""

    label: str
    scores: dict[int, Interval]
    gain: Interval

    def sentence(self) -> str:
        """Whether more training images would help, as far as the last step says."""
        few, most = sorted(self.scores)[-2:]
        step = f'{self.label}: from {few:,} to {most:,} training images'
        if not self.gain.decides:
            return f'{step}, {SCORE} changed by {spread(self.gain)}; {UNDECIDED}.'
        if not self.gain.detectable:
            return f'{step}, no gain in {SCORE} is detectable ({spread(self.gain)}).'
        if self.gain.value < 0:
            return f'{step}, {SCORE} fell by {spread(negative(self.gain))}.'
        return f'{step}, {SCORE} rose by {spread(self.gain)}; more images are likely to help.'


def growth(label: str, samples: Mapping[int, Sample]) -> Growth:
    """From the samples of one method by number of training images; two numbers at least."""
    *_, few, most = counts = sorted(samples)
    scores = {images: samples[images].interval() for images in counts}
    return Growth(label, scores, (samples[most] - samples[few]).interval())
