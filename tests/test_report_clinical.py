"""Clinical numbers equal scikit-learn's and their formulas; gaps between subgroups keep their promise by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from medpeft_utils.report import clinical
from medpeft_utils.report.inference import TestSplit


def case(seed: int, count: int = 400, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y = (random.random(count) < 0.3).astype(int)
    p = special.expit(random.normal(1.5 * y - 1, 1.2))
    return y, p.round(2) if ties else p


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('ties', [False, True])
def test_numbers_are_scikit_learn_s(seed: int, ties: bool):
    y, p = case(seed, ties=ties)
    split = TestSplit(y[:, None], np.arange(len(y)))
    assert clinical.average_precision(y, p) == pytest.approx(average_precision_score(y, p), abs=1e-12)
    assert clinical.drawn_auroc(split, y, p)[0] == pytest.approx(roc_auc_score(y, p), abs=1e-6)
    assert clinical.drawn_brier(split, y, p)[0] == pytest.approx(brier_score_loss(y, p), abs=1e-6)


@pytest.mark.parametrize('seed', range(3))
def test_the_calibration_line_is_that_of_a_logistic_regression(seed: int):
    y, p = case(seed)
    slope, intercept = clinical.calibration_line(y, p)
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(special.logit(p)[:, None], y)
    assert slope == pytest.approx(fitted.coef_[0, 0], abs=1e-4)
    assert special.expit(special.logit(p) + intercept).mean() == pytest.approx(y.mean(), abs=1e-9)
    assert all(map(math.isnan, clinical.calibration_line(np.ones(5), np.full(5, 0.5))))


@pytest.mark.parametrize('wanted', [0.9, 0.95])
def test_thresholds_reach_what_is_wanted_and_no_more(wanted: float):
    y, p = case(1)
    at = clinical.threshold_at_specificity(y, p, wanted)
    sensitivity, specificity = clinical.at_threshold(y, p, at)
    false, true, _ = roc_curve(y, p, drop_intermediate=False)
    assert specificity >= wanted and sensitivity == pytest.approx(true[1 - false >= wanted].max())
    at = clinical.threshold_at_sensitivity(y, p, wanted)
    sensitivity, specificity = clinical.at_threshold(y, p, at)
    assert sensitivity >= wanted and specificity == pytest.approx(1 - false[true >= wanted].min())


def test_bins_of_equal_mass_and_net_benefit_are_their_formulas():
    y, p = case(2, 301)
    counts = np.bincount(clinical.equal_mass(p))
    assert len(counts) == 15 and set(counts) == {20, 21}
    split = TestSplit(y[:, None], np.arange(len(y)))
    expected = sum(
        abs(y[rows].mean() - p[rows].mean()) * len(rows) for rows in np.array_split(np.argsort(p), 15)
    ) / len(y)
    assert clinical.drawn_calibration_error(split, y, p)[0] == pytest.approx(expected, abs=1e-6)
    at = np.array([0.1, 0.4])
    everyone = clinical.net_benefit(y, np.ones(len(y)), at)  # dcurves' "treat all"
    assert everyone == pytest.approx(y.mean() - (1 - y.mean()) * at / (1 - at))
    assert clinical.drawn_net_benefit(split, y, p, at)[0] == pytest.approx(clinical.net_benefit(y, p, at), abs=1e-6)


def test_a_temperature_undoes_overconfidence():
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 3))
    p = special.softmax(logits, axis=1)
    labels = (p.cumsum(axis=1) > random.random((4000, 1))).argmax(axis=1)
    sharp = special.softmax(3 * logits, axis=1)
    odds = special.logit(np.clip(sharp, 1e-12, 1 - 1e-12))
    found = clinical.temperature(labels, odds)
    assert found == pytest.approx(3, rel=0.06)
    assert clinical.class_probabilities(odds, False, found) == pytest.approx(p, abs=0.03)


def test_the_linear_bootstrap_of_auroc_has_the_exact_one_s_spread():
    y, p = case(3, 600)
    groups = np.repeat(np.arange(200), 3)
    split = TestSplit(y[:, None], groups, draws=2000)
    exact, linear = split.auroc(p[:, None]), clinical.drawn_auroc(split, y, p)
    assert linear[1:].std() == pytest.approx(exact[1:].std(), rel=0.05)
    assert np.corrcoef(linear[1:], exact[1:])[0, 1] > 0.99
