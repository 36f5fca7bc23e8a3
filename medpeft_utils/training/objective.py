"""What a task asks of the one training loop: its loss, its probabilities, its scores, and the score that selects."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from medpeft_utils import metrics

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """Inverse class frequencies [K], mean 1 over the training images; 0 for a class without any."""
    counts = np.bincount(labels, minlength=classes)
    weights = np.where(counts > 0, len(labels) / (max(1, (counts > 0).sum()) * np.maximum(counts, 1)), 0)
    return torch.tensor(weights, dtype=torch.float32)


class Objective:
    """One class an image: cross-entropy, softmax, selection by macro-F1.

    A task of another kind overrides what differs (`training/multi_label.py`).

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
        weights = class_weights(labels, classes).to(device) if weighted else None
        return lambda logits, truth: F.cross_entropy(logits, truth, weight=weights)

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
