"""Batches of one split on the training device: images with augmentation, or features computed once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from medpeft_utils.data.reading import take
from medpeft_utils.training.augment import Augmentation, augment, normalise, resize
from medpeft_utils.training.precision import Precision


class Batches:
    """Rows of a split in batches. `labels` on the CPU, `classes` K, `device` where batches lie.

    Labels are [N] int64, or [N, K] uint8 of 0 and 1 where an image may have several.
    """

    labels: np.ndarray
    classes: int
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Endless batches (x, labels) in fresh order every pass; the last, smaller one of a pass is left out."""
        while True:
            order = torch.randperm(len(self), generator=generator).numpy()
            for start in range(0, len(order) - batch_size + 1, batch_size):
                rows = order[start : start + batch_size]
                labels = torch.from_numpy(self.labels[rows]).to(self.device, non_blocking=True)
                yield self._augmented(rows, generator), labels

    def in_order(self, batch_size: int = 128) -> Iterator[torch.Tensor]:
        """Every row once, in order, not augmented."""
        for start in range(0, len(self), batch_size):
            yield self._plain(np.arange(start, min(start + batch_size, len(self))))

    def logits(self, adapted, x: torch.Tensor) -> torch.Tensor:
        """[B, K] logits of a batch that this object gave."""
        raise NotImplementedError

    def _augmented(self, rows: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        raise NotImplementedError

    def _plain(self, rows: np.ndarray) -> torch.Tensor:
        raise NotImplementedError


@dataclass
class View:
    """How images become input: size in pixels, normalisation, augmentation, number format."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    precision: Precision
    device: torch.device


class ImageBatches(Batches):
    """Images of some rows of a dataset.

    Args:
        images: [M, S, S, 3] uint8, memory-mapped or not; the rows are read once and kept (12 KB an image of 64 px).
        labels: [M] int64, or [M, K] uint8.
        rows: [N] which of them.
        classes: K.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, classes: int, view: View):
        self.labels, self.classes, self.device, self.view = np.asarray(labels[rows]), classes, view.device, view
        self._images = torch.from_numpy(take(images, rows))
        self._mean = torch.tensor(view.mean, device=view.device)
        self._std = torch.tensor(view.std, device=view.device)

    def _augmented(self, rows: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        images, view = self._images[rows].to(self.device), self.view
        x = augment(images, view.image_size, self._mean, self._std, view.augmentation, generator)
        return view.precision.images(x)

    def _plain(self, rows: np.ndarray) -> torch.Tensor:
        x = normalise(self._images[rows].to(self.device), self._mean, self._std)
        return self.view.precision.images(resize(x, self.view.image_size))

    def logits(self, adapted, x: torch.Tensor) -> torch.Tensor:
        with self.view.precision.autocast(self.device):
            return adapted.model(x)


class FeatureBatches(Batches):
    """Features [N, D] of some rows, computed once by a frozen backbone; only the head runs."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, classes: int, device: torch.device):
        self.labels, self.classes, self.device = np.asarray(labels), classes, device
        self._features = torch.from_numpy(np.array(features)).to(device)

    def _plain(self, rows: np.ndarray) -> torch.Tensor:
        return self._features[torch.from_numpy(rows).to(self.device)]

    def _augmented(self, rows: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        return self._plain(rows)

    def logits(self, adapted, x: torch.Tensor) -> torch.Tensor:
        return adapted.model.get_classifier()(x)
