"""Intervals hold what they promise, by simulation; differences that are there are found, and others are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, roc_auc_score

from medpeft_utils import auroc
from medpeft_utils.core.errors import BadInput
from medpeft_utils.report import claims, crossover, inference
from medpeft_utils.report.claims import CONTRADICTED, NOT_RUN, REPRODUCED, UNDECIDED, Part, judge
from medpeft_utils.report.inference import Interval, Sample, TestSplit, combine, random_effects

CLASSES, PRIOR = 3, np.array([0.6, 0.3, 0.1])


def patients(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, patients of one to eight images, and how hard each image is (patients differ)."""
    sizes = random.integers(1, 9, size=count)
    groups = np.repeat(np.arange(count), sizes)
    labels = random.choice(CLASSES, p=PRIOR, size=count)[groups]  # a patient's images share their class
    return labels, groups, 0.8 * random.standard_normal(count)[groups]


def answers(random: np.random.Generator, labels: np.ndarray, hard: np.ndarray, skill: float) -> np.ndarray:
    """Predicted classes: right with a chance that falls with hardness, wrong ones by chance."""
    right = random.random(len(labels)) < 1 / (1 + np.exp(-(skill + hard)))
    return np.where(right, labels, (labels + random.integers(1, CLASSES, len(labels))) % CLASSES)


def study(random, skills: dict[str, float], count: int, seeds: int = 3, spread: float = 0.1) -> dict[str, Sample]:
    """Each method's weighted F1 in a study of so many patients, its skill moved a little by each training seed."""
    labels, groups, hard = patients(random, count)
    split, samples = TestSplit(labels, groups, CLASSES, draws=400), {}
    for method, skill in skills.items():
        runs = {}
        for seed in range(seeds):
            predicted = answers(random, labels, hard, skill + spread * random.standard_normal())
            runs[0, seed] = split.f1(predicted)
        samples[method] = Sample.of_runs(runs, split.groups)
    return samples


def truth(skill: float, spread: float) -> float:
    """The mean over seeds of F1 on unlimited patients."""
    random = np.random.default_rng(99)
    labels, _, hard = patients(random, 60_000)
    skills = skill + spread * stats.norm.ppf((np.arange(9) + 0.5) / 9)
    return float(np.mean([f1_score(labels, answers(random, labels, hard, s), average='weighted') for s in skills]))


# ---- coverage by simulation


@pytest.mark.parametrize(('spread', 'seeds'), [(0.02, 5), (0.3, 3)])
def test_intervals_of_scores_and_differences_hold_the_truth(spread: float, seeds: int):
    random = np.random.default_rng(1)
    skills = {'a': 1.0, 'b': 0.7}
    true = {method: truth(skill, spread) for method, skill in skills.items()}
    held = np.zeros((500, 2), dtype=bool)
    for number in range(500):
        found = study(random, skills, 120, seeds, spread)
        one, apart = found['a'].interval(), (found['a'] - found['b']).interval()
        held[number] = one.low <= true['a'] <= one.high, apart.low <= true['a'] - true['b'] <= apart.high
    assert ((held.mean(axis=0) >= 0.93) & (held.mean(axis=0) <= 0.97)).all(), held.mean(axis=0)


def test_two_copies_of_one_method_are_not_detectable():
    random = np.random.default_rng(2)
    found = [study(random, {'a': 1.0, 'b': 1.0}, count=200) for _ in range(100)]
    assert sum(not (pair['a'] - pair['b']).interval().detectable for pair in found) >= 95


def test_ten_points_are_found_on_two_thousand_images():
    random = np.random.default_rng(3)
    found = [study(random, {'a': 1.0, 'b': 0.45}, count=445, spread=0.05) for _ in range(100)]  # 4.5 images each
    apart = [(pair['a'] - pair['b']).interval() for pair in found]
    assert np.mean([one.value for one in apart]) == pytest.approx(0.10, abs=0.015)
    assert sum(one.low > 0 for one in apart) >= 95


def test_the_bootstrap_s_error_is_delong_s_where_images_are_patients():
    random = np.random.default_rng(4)
    labels = (random.random(400) < 0.3).astype(int)
    scores = np.stack([labels + random.normal(0, s, 400) for s in (1.0, 1.3)])
    split = TestSplit(labels[:, None], np.arange(400), draws=4000)
    found = [split.auroc(one[:, None]) for one in scores]
    _, covariance = auroc.delong(labels, scores)
    assert found[0][1:].std() == pytest.approx(math.sqrt(covariance[0, 0]), rel=0.05)
    apart = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert (found[0] - found[1])[1:].std() == pytest.approx(apart, rel=0.05)


def test_the_variance_over_overlapping_splits_holds_the_truth():
    random, held = np.random.default_rng(5), 0
    for _ in range(500):  # five folds: test rows of their own, training rows shared, which correlates their values
        shared, own = 0.02 * random.standard_normal(), 0.03 * random.standard_normal(5)
        sample = Sample(tuple((fold, 0) for fold in range(5)), 0.1 + 0.8 * shared + own, ratio=0.25)
        found = sample.interval()
        held += found.low <= 0.1 <= found.high
    assert 0.93 <= held / 500 <= 0.99  # the correction is known to be a little wide


def test_crossovers_hold_the_truth_and_none_is_an_answer():
    random, sizes, held, none = np.random.default_rng(6), (0.05, 0.1, 0.2, 0.5, 1.0), 0, 0
    for _ in range(300):
        labels, groups, hard = patients(random, 250)
        split = TestSplit(labels, groups, CLASSES, draws=400)
        gains, flat = {}, {}
        for size in sizes:
            runs = {'full': {}, 'method': {}, 'copy': {}}
            for seed in range(3):
                skills = {'full': 1.0, 'method': 1.0 - 0.45 * math.log2(size / 0.2), 'copy': 1.0}
                for name, skill in skills.items():
                    predicted = answers(random, labels, hard, skill + 0.05 * random.standard_normal())
                    runs[name][0, seed] = split.f1(predicted)
            sample = {name: Sample.of_runs(one, split.groups) for name, one in runs.items()}
            gains[size], flat[size] = sample['method'] - sample['full'], sample['copy'] - sample['full']
        found = crossover.estimate(gains)
        held += found.low <= 0.2 <= found.high
        none += not crossover.estimate(flat).detectable
    assert 0.92 <= held / 300 <= 0.98, held
    assert none / 300 >= 0.95, none


# ---- the arithmetic


def test_scores_are_scikit_learn_s_on_the_split_and_on_a_resample():
    random = np.random.default_rng(0)
    labels, groups, hard = patients(random, 60)
    predicted, split = answers(random, labels, hard, 0.5), TestSplit(labels, groups, CLASSES)
    times = split.weights[7].astype(int)[groups]
    for average in inference.AVERAGES:
        found = split.f1(predicted, average)
        assert found[0] == pytest.approx(f1_score(labels, predicted, average=average), abs=1e-12)
        again = f1_score(np.repeat(labels, times), np.repeat(predicted, times), average=average)
        assert found[7] == pytest.approx(again, abs=1e-12)
    scores = random.random((len(labels), CLASSES)).round(2)  # ties
    areas = split.auroc_by_class(scores)
    for k in range(CLASSES):
        assert areas[0, k] == pytest.approx(roc_auc_score(labels == k, scores[:, k]), abs=1e-12)
        again = roc_auc_score(np.repeat(labels == k, times), np.repeat(scores[:, k], times))
        assert areas[7, k] == pytest.approx(again, abs=1e-12)


def test_a_class_that_never_occurs_counts_zero_in_the_score_as_reported():
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])
    split = TestSplit(labels, np.arange(4), classes=3)
    assert split.f1(predicted, 'macro')[0] == pytest.approx(
        f1_score(labels, predicted, labels=[0, 1, 2], average='macro', zero_division=0)
    )


def test_bad_rows_are_refused():
    with pytest.raises(BadInput, match='3 labels for 2 groups'):
        TestSplit([0, 1, 1], [1, 2])
    with pytest.raises(BadInput, match='unknown average'):
        TestSplit([0, 1], [1, 2]).f1(np.array([0, 1]), 'binary')


def test_pairs_are_of_the_same_seeds_and_resamples():
    draws = np.random.default_rng(0).normal(0.7, 0.1, (3, 50))
    one = Sample(((0, 0), (0, 1), (0, 2)), draws.mean(1), draws, 40)
    other = Sample(((0, 2), (0, 1)), one.values[[2, 1]] - 0.05, draws[[2, 1]] - 0.05, 40)
    apart = one - other
    assert apart.keys == ((0, 1), (0, 2)) and apart.values == pytest.approx([0.05, 0.05])
    found = apart.interval()
    assert (found.low, found.high) == pytest.approx((0.05, 0.05))  # nothing but the constant differs
    assert combine([one, one], [0.5, 0.5]).values == pytest.approx(one.values)


def test_records_without_rows_have_intervals_over_seeds_alone():
    sample = Sample(tuple((0, s) for s in range(3)), np.array([0.6, 0.7, 0.8]))
    found = sample.interval()
    assert found.high - 0.7 == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-4)
    assert found.over == 'seeds' and 'patients not drawn' in claims.about(found)
    assert not Sample(((0, 0), (0, 1)), np.array([0.6, 0.7])).interval().known
    assert math.isnan(Sample((), np.array([])).interval().value)


def test_over_splits_the_variance_is_that_of_nadeau_and_bengio():
    values = np.array([0.60, 0.64, 0.70, 0.66, 0.65])
    found = Sample(tuple((fold, fold) for fold in range(5)), values, ratio=0.25).interval()
    error = math.sqrt((1 / 5 + 0.25) * values.var(ddof=1))
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 4) * error)
    assert (found.splits, found.over) == (5, 'splits')


def test_the_smallest_difference_is_found_in_four_of_five_studies():
    random = np.random.default_rng(8)
    error = 0.01
    interval = Interval(0, -1.96 * error, 1.96 * error, error)
    values = random.normal(interval.smallest, error, 4000)
    assert (values - 1.96 * error > 0).mean() == pytest.approx(0.8, abs=0.02)


def test_random_effects_are_those_of_the_formulas():
    # equal errors and no spread between sets: the plain mean, tau 0
    same = [Interval(v, v - 0.02, v + 0.02, 0.01, 'splits', 100, 1, 5) for v in (0.010, 0.012, 0.014)]
    found = random_effects(same)
    assert found.mean.value == pytest.approx(0.012) and found.tau == 0
    # a wide spread: Paule and Mandel's tau solves sum w (y - mean)^2 = k - 1
    wide = [Interval(v, v - 0.02, v + 0.02, e) for v, e in ((0.0, 0.01), (0.1, 0.02), (0.3, 0.01))]
    found = random_effects(wide)
    weights = 1 / (np.array([0.01, 0.02, 0.01]) ** 2 + found.tau**2)
    values = np.array([0.0, 0.1, 0.3])
    mean = (weights * values).sum() / weights.sum()
    assert (weights * (values - mean) ** 2).sum() == pytest.approx(2, abs=1e-12)
    assert found.prediction[0] < found.mean.low and found.sets == 3
    mixed = [
        Interval(v, v - 0.02, v + 0.02, 0.01, 'splits', 80, s, j)
        for v, s, j in ((0.01, 1, 5), (0.02, 3, 1), (0.0, 5, 5))
    ]
    assert random_effects(mixed).mean.decides and random_effects(mixed).mean.groups == 240
    assert not random_effects([*mixed, Interval(0.01, 0, 0.02, 0.01, 'patients', 80, 1)]).mean.decides
    assert math.isnan(random_effects(wide[:2]).prediction[0]) and random_effects(wide[:1]).mean is wide[0]


@pytest.mark.parametrize('seeds', [2, 3, 5])
def test_the_seeds_part_is_student_s(seeds: int):
    values = np.array([0.60, 0.64, 0.70, 0.66, 0.65])[:seeds]
    half = stats.t.ppf(0.975, seeds - 1) * values.std(ddof=1) / math.sqrt(seeds)
    residuals = inference.multipliers(seeds, 1000) @ (values - values.mean())
    low, high = np.quantile(residuals, [0.025, 0.975])
    assert -low == pytest.approx(high) and high == pytest.approx(half, rel=0.15)
    sample = Sample(tuple((0, s) for s in range(seeds)), values, np.repeat(values[:, None], 1000, axis=1), 500)
    assert sample.interval().high - values.mean() == pytest.approx(half, rel=0.03)


# ---- verdicts


def interval(low: float, high: float, seeds: int = 3) -> Interval:
    return Interval((low + high) / 2, low, high, (high - low) / 4, 'patients and seeds', 400, seeds, 1, (1e-4, 1e-6))


def test_each_part_of_a_claim_must_hold():
    good, bad, open_ = (Part('x', interval(*ends)) for ends in ((0.01, 0.05), (-0.05, -0.01), (-0.03, 0.05)))
    assert judge([good, good]) == REPRODUCED
    assert judge([good, open_]) == judge([good, Part('x', None)]) == UNDECIDED
    assert judge([good, bad]) == CONTRADICTED  # a mean over parts never saves it
    assert judge([Part('x', None)]) == judge([]) == NOT_RUN
    assert Part('x', interval(-0.01, 0.015)).verdict == CONTRADICTED  # nothing of consequence is left
    assert 'times the 400 test patients' in open_.needs


def test_fewer_seeds_never_make_a_verdict_kinder():
    assert Part('x', interval(0.01, 0.05, seeds=1)).verdict == UNDECIDED
    assert Part('x', interval(-0.05, -0.01, seeds=2)).verdict == UNDECIDED
    assert 'at least 3 seeds' in Part('x', interval(0.01, 0.05, seeds=2)).needs
    assert Part('x', Interval(0.3)).verdict == UNDECIDED
