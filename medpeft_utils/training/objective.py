"""What a classification asks of training: loss, probabilities, scores, and the score that selects."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score

from medpeft_utils import auroc, metrics
from medpeft_utils.core.errors import BadInput
from medpeft_utils.metrics import AVERAGES

BINS = 15  # of the calibration error of findings
Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """Inverse class frequencies [K], mean 1 over the training images; 0 for a class without any."""
    counts = np.bincount(labels, minlength=classes)
    weights = np.where(counts > 0, len(labels) / (max(1, (counts > 0).sum()) * np.maximum(counts, 1)), 0)
    return torch.tensor(weights, dtype=torch.float32)


class Objective:
    """One class an image: cross-entropy, softmax, selection by macro-F1.

    A task of another kind overrides what differs (`MultiLabel`).

    Attributes:
        selection: the validation score that selects the state; the lower loss decides between equal ones.
        shown: the scores of a check that a curve holds.
    """

    selection: ClassVar[str] = 'f1_macro'
    shown: ClassVar[tuple[str, ...]] = ('loss', 'f1_macro', 'f1_weighted', 'accuracy', 'auroc')

    def criterion(self, labels: np.ndarray, classes: int, weighted: bool, device: torch.device) -> Criterion:
        """The loss of logits [B, K] and labels of a batch.

        Args:
            labels: of the training images; what weights are made of.
            classes: K.
            weighted: weigh by inverse class frequency (mean weight 1).
            device: where batches lie.
        """
        if not weighted:
            return F.cross_entropy
        weights = class_weights(labels, classes).to(device)
        return lambda logits, truth: F.cross_entropy(logits, truth, weight=weights.to(logits.dtype))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """[N, K] logits to [N, K] probabilities."""
        return logits.softmax(dim=1)

    def evaluate(self, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
        """Every summary of one split (`metrics.evaluate`)."""
        return metrics.evaluate(labels, probabilities)

    def per_class(self, labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> dict[str, dict]:
        """The scores of every class by its name (`metrics.per_class`)."""
        return metrics.per_class(labels, probabilities, classes)

    def truth(self, labels: np.ndarray, classes: list[str]) -> dict[str, list]:
        """The labels of some rows as columns of the table of predictions."""
        return {'label': [classes[k] for k in labels]}


SINGLE_LABEL = Objective()


def positive_weights(labels: np.ndarray) -> torch.Tensor:
    """[N, L] labels to [L]: images without over images with each finding; 1 for a finding that none or all have."""
    positives = labels.sum(axis=0, dtype=float)
    known = auroc.defined(labels)
    return torch.tensor(np.where(known, (len(labels) - positives) / np.maximum(positives, 1), 1), dtype=torch.float32)


class MultiLabel(Objective):
    """Findings of 0 and 1: binary cross-entropy on logits, sigmoid, selection by the mean AUROC.

    As in Lian et al. 2024, arXiv:2401.12215 (code: BCEWithLogitsLoss, the state of the best mean validation AUROC).
    Differs: a finding that all or none of a split's images have is left out of that split's mean, where the original
    stops. If that is true of every finding, the loss alone selects.
    """

    selection: ClassVar[str] = 'auroc'
    shown: ClassVar[tuple[str, ...]] = ('loss', 'auroc', 'f1_macro', 'f1_weighted', 'accuracy')

    def criterion(self, labels: np.ndarray, classes: int, weighted: bool, device: torch.device) -> Criterion:
        """Mean over images and findings; weighted: positives count as much as negatives, by finding."""
        weights = positive_weights(labels).to(device) if weighted else torch.ones(classes, device=device)

        def criterion(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
            weight = weights.to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), pos_weight=weight)

        return criterion

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """[N, L] logits to [N, L] probabilities, each finding by itself."""
        return logits.sigmoid()

    def evaluate(self, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
        """Every summary of one split.

        Args:
            labels: [N, L] of 0 and 1.
            probabilities: [N, L].
        Returns:
            auroc (mean over the findings that are defined; NaN if none is), auroc_findings (how many those are),
            f1_macro, f1_weighted, f1_micro, accuracy and balanced_accuracy at probability 0.5 (means over findings),
            calibration_error (mean over findings) and loss (nats, mean over images and findings).
        Raises:
            BadInput: no rows, unequal shapes, or NaN.
        """
        _check(labels, probabilities)
        said, true = probabilities >= 0.5, labels.astype(bool)
        areas, known = auroc.by_finding(labels, probabilities), auroc.defined(labels)
        scores = _f1(true, said)
        scores['accuracy'] = (said == true).mean()
        hits = [
            (said & true).sum(0) / np.maximum(true.sum(0), 1),
            (~said & ~true).sum(0) / np.maximum((~true).sum(0), 1),
        ]
        scores['balanced_accuracy'] = np.mean(hits, axis=0)[known].mean() if known.any() else np.nan
        scores['auroc'] = areas[known].mean() if known.any() else np.nan
        scores['auroc_findings'] = known.sum()
        scores['calibration_error'] = np.mean(
            [_calibration(t, p) for t, p in zip(true.T, probabilities.T, strict=True)]
        )
        p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
        scores['loss'] = -np.where(true, np.log(p), np.log1p(-p)).mean()
        return {name: float(value) for name, value in scores.items()}

    def per_class(self, labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> dict[str, dict]:
        """Positives ('support'), AUROC with DeLong's 95 % interval, and F1 at 0.5, of every finding by its name."""
        _check(labels, probabilities)
        known, found = auroc.defined(labels), {}
        for k, name in enumerate(classes):
            area = auroc.delong_interval(labels[:, k], probabilities[:, k]) if known[k] else (np.nan,) * 3
            row = dict(zip(('auroc', 'auroc_low', 'auroc_high'), area, strict=True))
            f1 = f1_score(labels[:, k], probabilities[:, k] >= 0.5, zero_division=0)
            found[name] = {'support': int(labels[:, k].sum()), **row, 'f1': float(f1)}
        return found

    def truth(self, labels: np.ndarray, classes: list[str]) -> dict[str, list]:
        """A column of 0 and 1 a finding: y_<finding>."""
        return {f'y_{name}': labels[:, k].tolist() for k, name in enumerate(classes)}


MULTI_LABEL = MultiLabel()


def _check(labels: np.ndarray, probabilities: np.ndarray) -> None:
    if len(labels) == 0 or labels.shape != probabilities.shape:
        raise BadInput(f'labels {labels.shape} for probabilities {probabilities.shape}; need the same shape, and rows')
    if not np.isfinite(probabilities).all():
        raise BadInput('probabilities hold NaN or infinity: the model diverged; lower the learning rate')


def _f1(true: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """F1 over findings, [N, L] bool; of one finding its own, since its averages are the same."""
    if true.shape[1] == 1:
        return dict.fromkeys(
            (f'f1_{average}' for average in AVERAGES), f1_score(true[:, 0], said[:, 0], zero_division=0)
        )
    return {f'f1_{average}': f1_score(true, said, average=average, zero_division=0) for average in AVERAGES}


def _calibration(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean |share of positives - probability| over equal-width bins of probability, in 0..1."""
    which = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    inside = [which == number for number in np.unique(which)]
    return sum(abs(labels[rows].mean() - probabilities[rows].mean()) * rows.mean() for rows in inside)
