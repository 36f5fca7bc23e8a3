"""Images of a split on the training device, and the classification task that the training loop trains on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from medpeft_utils.data.packing import take
from medpeft_utils.training.augment import Augmentation, augment, normalise, resize
from medpeft_utils.training.graphed import GraphedLoss
from medpeft_utils.training.loop import Evaluation, Task
from medpeft_utils.training.objective import SINGLE_LABEL, Objective
from medpeft_utils.training.precision import Precision

ON_DEVICE = 4 << 30  # bytes of images that may lie on a GPU; larger splits stay in memory


@dataclass
class View:
    """How images become input: size in pixels, normalisation, augmentation, number format."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    precision: Precision
    device: torch.device


class ImageBatches:
    """Images of some rows of a dataset, in batches.

    Args:
        images: [M, S, S, 3] uint8, memory-mapped or not; the rows are read once and kept (12 KB an image of 64 px), on
            the GPU where there is one.
        labels: [M] int64, or [M, K] uint8 of 0 and 1 where an image may have several.
        rows: [N] which of them.
        classes: K.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, classes: int, view: View):
        self.labels, self.classes, self.device, self.view = np.asarray(labels[rows]), classes, view.device, view
        kept = torch.from_numpy(take(images, rows))
        self._images = kept.to(view.device) if kept.numel() <= ON_DEVICE else kept
        self._labels = torch.from_numpy(self.labels).to(view.device)
        self._mean = torch.tensor(view.mean, device=view.device)
        self._std = torch.tensor(view.std, device=view.device)

    def __len__(self) -> int:
        return len(self.labels)

    def augmented(self, rows: np.ndarray, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Input [B, 3, S, S] and labels of the images at these positions, augmented by what the generator draws."""
        at, view = torch.from_numpy(rows), self.view
        x = augment(self._fetch(at), view.image_size, self._mean, self._std, view.augmentation, generator)
        return view.precision.images(x), self._labels[at.to(self.device, non_blocking=True)]

    def in_order(self, batch_size: int = 128) -> Iterator[torch.Tensor]:
        """Every image once, in order, not augmented, as input [B, 3, S, S]."""
        for at in torch.arange(len(self)).split(batch_size):
            x = normalise(self._fetch(at), self._mean, self._std)
            yield self.view.precision.images(resize(x, self.view.image_size))

    def _fetch(self, at: torch.Tensor) -> torch.Tensor:
        at = at.to(self._images.device, non_blocking=True)
        return self._images[at].to(self.device, non_blocking=True)

    def logits(self, adapted, x: torch.Tensor) -> torch.Tensor:
        """[B, K] float32 logits of a batch that this object gave."""
        with self.view.precision.autocast(self.device):
            return adapted.model(x).float()


@torch.no_grad()
def predict(adapted, batches: ImageBatches, objective: Objective = SINGLE_LABEL) -> np.ndarray:
    """Class probabilities [N, K] float32 for every row of `batches`, in its order, without augmentation."""
    adapted.train(False)
    return torch.cat([objective.probabilities(batches.logits(adapted, x)) for x in batches.in_order()]).cpu().numpy()


class Classifying(Task):
    """Images into classes, or findings, by an adapted network.

    Args:
        adapted: a model with a method applied (`medpeft_utils.methods.apply`).
        train, validation: their images.
        objective: loss, probabilities and scores of the task.
        weighted: weigh the loss by inverse class frequency (mean weight 1).
    """

    def __init__(
        self,
        adapted,
        train: ImageBatches,
        validation: ImageBatches,
        objective: Objective = SINGLE_LABEL,
        weighted: bool = False,
    ):
        super().__init__(adapted, len(train), train.device)
        self.train, self.validation, self.objective = train, validation, objective
        self.criterion = objective.criterion(train.labels, train.classes, weighted, train.device)
        self._graph: GraphedLoss | bool | None = None  # None: not tried yet
        self.started_by = 'one kernel at a time'  # or 'CUDA graph': how a GPU is given the work of a step

    def batch(self, rows: np.ndarray, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return self.train.augmented(rows, generator)

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, labels = batch
        return self.criterion(self.train.logits(self.adapted, x), labels)

    def backward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """As in `Task`; on a GPU by a CUDA graph, where forward and backward can be captured (`graphed.py`)."""
        if self.device.type != 'cuda':
            return super().backward(batch)
        if self._graph is None:
            try:
                self._graph, self.replays = GraphedLoss(lambda *b: self.loss(b), self.adapted.model, *batch), True
                self.started_by = 'CUDA graph'
            except RuntimeError as error:  # a step that waits for the device, or solves on it, cannot be captured
                torch.cuda.synchronize(self.device)
                self.adapted.model.zero_grad(set_to_none=True)
                self._graph = False
                self.started_by += f' ({str(error).splitlines()[0]})'
        return self._graph(*batch).detach() if self._graph else super().backward(batch)

    def evaluate(self) -> Evaluation:
        """By the objective's score of selection, then by the lower loss."""
        probabilities = predict(self.adapted, self.validation, self.objective)
        scores = self.objective.evaluate(self.validation.labels, probabilities)
        row = {f'validation_{name}': scores[name] for name in self.objective.shown}
        return Evaluation((scores[self.objective.selection], -scores['loss']), row, probabilities)
