"""Classification metrics from stored probabilities.

The paper reports "F1" and does not say which average, so we compute macro, weighted and micro.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
)

from medpeft_utils import auroc
from medpeft_utils.core.errors import BadInput

AVERAGES = ('macro', 'weighted', 'micro')


def _check(labels: np.ndarray, probabilities: np.ndarray) -> None:
    if len(labels) == 0 or len(labels) != len(probabilities):
        raise BadInput(
            f'{len(labels)} labels for {len(probabilities)} rows of probabilities; give one label for each row'
        )
    if not np.isfinite(probabilities).all():
        raise BadInput('probabilities hold NaN or infinity, so the model diverged; lower the learning rate')


def auroc_by_class(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """One-against-the-rest AUROC of every class [K]; NaN where a class has no positive or no negative row."""
    return auroc.by_finding(labels[:, None] == np.arange(probabilities.shape[1]), probabilities)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: mean |accuracy - confidence| over equal-width bins of confidence, in 0..1.

    Guo et al. 2017, arXiv:1706.04599, Eq. 3.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(correct[which == b].mean() - confidence[which == b].mean()) * (which == b).mean() for b in set(which)]
    return float(sum(gaps))


def evaluate(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """All scores of one split.

    Args:
        labels: [N] int, 0..K-1.
        probabilities: [N, K], rows that sum to 1.
    Returns:
        f1_macro, f1_weighted, f1_micro, accuracy, balanced_accuracy (mean recall over the classes that occur), auroc
        (mean over the classes for which it is defined; NaN if there are none), calibration_error, all in 0..1; and loss
        in nats.
    Raises:
        BadInput: no rows, unequal lengths, or NaN.
    """
    _check(labels, probabilities)
    classes = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    matrix = confusion_matrix(labels, predicted, labels=classes)
    occurs = matrix.sum(axis=1) > 0
    areas = auroc_by_class(labels, probabilities)
    scores = {
        f'f1_{average}': f1_score(labels, predicted, labels=classes, average=average, zero_division=0)
        for average in AVERAGES
    }
    scores['accuracy'] = accuracy_score(labels, predicted)
    scores['balanced_accuracy'] = (np.diag(matrix)[occurs] / matrix.sum(axis=1)[occurs]).mean()
    scores['auroc'] = np.nanmean(areas) if np.isfinite(areas).any() else np.nan
    scores['calibration_error'] = calibration_error(labels, probabilities)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='The y_prob values do not sum to one')  # float32 rounding
        scores['loss'] = log_loss(labels, probabilities.astype(np.float64), labels=classes)
    return {name: float(value) for name, value in scores.items()}


def per_class(labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1, support and one-against-the-rest AUROC of every class, by its name."""
    _check(labels, probabilities)
    numbers = np.arange(len(classes))
    scores = precision_recall_fscore_support(labels, probabilities.argmax(axis=1), labels=numbers, zero_division=0)
    columns = dict(zip(('precision', 'recall', 'f1', 'support'), scores, strict=True))
    columns['auroc'] = auroc_by_class(labels, probabilities)
    return {name: {score: column[k].item() for score, column in columns.items()} for k, name in enumerate(classes)}
