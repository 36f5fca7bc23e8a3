"""Metrics against hand-computed values and scikit-learn's definitions."""

from __future__ import annotations

import numpy as np
import pytest

from medpeft_utils.core.errors import BadInput
from medpeft_utils.metrics import calibration_error, evaluate, per_class


def one_hot(predicted: list[int], classes: int, confidence: float = 1.0) -> np.ndarray:
    rest = (1 - confidence) / (classes - 1)
    return np.where(np.eye(classes)[predicted] == 1, confidence, rest)


def test_f1_averages_by_hand():
    # class 0: tp 2, fp 1, fn 1 -> 2/3; class 1: tp 1, fp 1, fn 1 -> 1/2; class 2: tp 0 -> 0
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), [0, 0, 1, 1, 2, 0]
    scores = evaluate(labels, one_hot(predicted, 3, 0.9))
    assert scores['f1_macro'] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert scores['f1_weighted'] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2 + 1 * 0) / 6)
    assert scores['f1_micro'] == pytest.approx(3 / 6) == scores['accuracy']
    assert scores['balanced_accuracy'] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_always_the_largest_class_gives_the_scores_named_in_the_paper_notes():
    # HAM10000: 6,705 of 10,015 images are naevi; weighted F1 0.54 and micro F1 0.67
    counts = [327, 514, 1099, 115, 1113, 6705, 142]
    labels = np.repeat(np.arange(7), counts)
    scores = evaluate(labels, one_hot([5] * len(labels), 7, 0.99))
    assert round(scores['f1_weighted'], 2) == 0.54
    assert round(scores['f1_micro'], 2) == 0.67


def test_auroc_leaves_out_classes_that_do_not_occur():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1]])
    assert evaluate(labels, probabilities)['auroc'] == 1.0
    table = per_class(labels, probabilities, ['a', 'b', 'c'])
    assert np.isnan(table['c']['auroc'])
    assert table['c']['support'] == 0


def test_calibration_error_by_hand():
    labels = np.zeros(4, dtype=int)
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])  # confidence 0.9, accuracy 0.75
    assert calibration_error(labels, probabilities) == pytest.approx(0.15)
    assert calibration_error(labels, one_hot([0] * 4, 2)) == 0.0


def test_calibration_error_equals_torchmetrics():
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(5), size=200)
    labels = generator.integers(0, 5, 200)
    other = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(labels), num_classes=5, n_bins=15)
    assert calibration_error(labels, probabilities) == pytest.approx(other.item(), abs=1e-6)


@pytest.mark.parametrize('probabilities', [np.zeros((0, 3)), np.full((2, 3), np.nan), np.ones((3, 3)) / 3])
def test_what_cannot_be_scored_is_refused(probabilities):
    with pytest.raises(BadInput):
        evaluate(np.zeros(min(len(probabilities), 2), dtype=int), probabilities)
