"""Training of a diffusion U-Net by a method of the registry, on latents and text embeddings that are computed already.

It uses the loop of all tasks (`training/loop.py`). A batch has two inputs and noise in place of labels, the score is a
loss at fixed noise, and a step may pass through the network in parts.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from medpeft_utils.methods.adapted import Adapted
from medpeft_utils.text_image.encoding import Encoded
from medpeft_utils.training.loop import Diverged, Evaluation, Task
from medpeft_utils.training.precision import PLAIN, Precision

VALIDATION_SEED = 1_000_003  # of the noise and timesteps of every evaluation of every run
CLIP = 1.0  # norm of the gradient, as in the training scripts of diffusers


def timesteps(count: int, of: int, shift: float, generator: torch.Generator) -> torch.Tensor:
    """[count] timesteps in 0..of - 1, drawn evenly and then shifted towards much noise.

    Esser et al. 2024, arXiv:2403.03206, Eq. 23: t' = shift t / (1 + (shift - 1) t), of t in 0..1; 1 is no shift.
    """
    t = torch.rand(count, generator=generator)
    return (of * shift * t / (1 + (shift - 1) * t)).long().clamp(max=of - 1)


@dataclass(frozen=True)
class Denoising:
    """How a U-Net learns the noise.

    Args:
        noising: diffusers' scheduler that adds it (`Pipeline.noising`).
        prompt_dropout: fraction of the pairs that lose their text, which guidance needs.
        timestep_shift: of `timesteps`, in training; what the pipeline was trained with.
        micro_batch: pairs that go through the network at a time; the gradient is that of the whole batch. 0: all.
        gradient_checkpointing: the backward pass computes activations again; none are kept.
        precision: number format.
    """

    noising: object
    prompt_dropout: float = 0.1
    timestep_shift: float = 1.0
    micro_batch: int = 0
    gradient_checkpointing: bool = False
    precision: Precision = PLAIN

    def target(self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """What the U-Net is to predict: the noise, or the velocity (Salimans and Ho 2022, arXiv:2202.00512)."""
        kind = self.noising.config.prediction_type
        return self.noising.get_velocity(latents, noise, times) if kind == 'v_prediction' else noise

    def loss(self, model: nn.Module, latents, texts, noise, times) -> torch.Tensor:
        """Mean squared error of the prediction for every pair, [B].

        Ho et al. 2020, arXiv:2006.11239, Eq. 14, in the VAE's latents (Rombach et al. 2022, arXiv:2112.10752, Eq. 3).
        """
        noisy = self.noising.add_noise(latents, noise, times)
        with self.precision.autocast(latents.device):
            predicted = model(noisy, times, encoder_hidden_states=texts).sample
        return F.mse_loss(predicted.float(), self.target(latents, noise, times), reduction='none').mean(dim=(1, 2, 3))


class EncodedPairs:
    """Encoded pairs of one split, fetched by position.

    Args:
        encoded: latents and text embeddings.
        rows: [N] which rows of the set; they must be encoded.
        device: where batches go.
    """

    def __init__(self, encoded: Encoded, rows: np.ndarray, device: torch.device):
        self.encoded, self.device = encoded, device
        self._at = encoded.positions(rows)

    def __len__(self) -> int:
        return len(self._at)

    def fetch(self, chosen: np.ndarray, without_text: np.ndarray | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [B, C, h, w] and texts [B, T, D], float32; the empty prompt where `without_text` [B] is true."""
        at = self._at[chosen]
        numbers = self.encoded.text_of[at]
        if without_text is not None:
            numbers = np.where(without_text, 0, numbers)
        latents, texts = self.encoded.latents[at], self.encoded.texts[numbers]
        return tuple(torch.from_numpy(np.array(x)).to(self.device).float() for x in (latents, texts))


@torch.no_grad()
def validation_loss(adapted: Adapted, pairs: EncodedPairs, denoising: Denoising, batch_size: int = 64) -> float:
    """Mean loss over a split, each pair with its text at one timestep; noise and timesteps are always the same.

    The timesteps are spread evenly over the pairs, which removes most of the chance from a small split.
    """
    adapted.eval()
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    spread = (torch.randperm(len(pairs), generator=generator) + 0.5) / len(pairs)
    times = (spread * denoising.noising.config.num_train_timesteps).long()
    losses = []
    for start in range(0, len(pairs), batch_size):
        latents, texts = pairs.fetch(np.arange(start, min(start + batch_size, len(pairs))))
        noise = torch.randn(latents.shape, generator=generator).to(pairs.device)
        at = times[start : start + batch_size].to(pairs.device)
        losses.append(denoising.loss(adapted.model, latents, texts, noise, at).cpu())
    adapted.train()
    return torch.cat(losses).mean().item()


class DenoisingTask(Task):
    """Predict what was added to the latents of `train`; the lowest loss over `validation` selects.

    Args:
        adapted: a U-Net with a method applied, on its device.
        train, validation: encoded pairs.
        denoising: loss, precision, memory.
    """

    def __init__(self, adapted: Adapted, train: EncodedPairs, validation: EncodedPairs, denoising: Denoising):
        super().__init__(adapted, len(train), train.device)
        self.train, self.validation, self.denoising = train, validation, denoising
        if denoising.gradient_checkpointing:
            adapted.model.enable_gradient_checkpointing()

    def batch(self, rows: np.ndarray, generator: torch.Generator) -> tuple:
        """Positions of pairs [B], which of them go without their text [B], timesteps [B], noise [B, C, h, w]."""
        dropped = (torch.rand(len(rows), generator=generator) < self.denoising.prompt_dropout).numpy()
        of, shift = self.denoising.noising.config.num_train_timesteps, self.denoising.timestep_shift
        times = timesteps(len(rows), of, shift, generator)
        return rows, dropped, times, torch.randn(len(rows), *self.train.encoded.latents.shape[1:], generator=generator)

    def loss(self, batch: tuple, count: int = 0) -> torch.Tensor:
        """Sum of the loss over the pairs, over `count`, the size of the whole batch; over their own number where 0."""
        rows, dropped, times, noise = batch
        inputs = *self.train.fetch(rows, dropped), noise.to(self.device), times.to(self.device)
        return self.denoising.loss(self.adapted.model, *inputs).sum() / (count or len(rows))

    def backward(self, batch: tuple) -> torch.Tensor:
        """The gradient of the whole batch, in parts of `micro_batch` pairs."""
        count, total = len(batch[0]), torch.zeros((), device=self.device)
        part = self.denoising.micro_batch or count
        for start in range(0, count, part):
            loss = self.loss(tuple(each[start : start + part] for each in batch), count)
            loss.backward()
            total += loss.detach()
        return total

    def evaluate(self) -> Evaluation:
        """The loss over the validation pairs. Raises Diverged where it is not finite."""
        loss = validation_loss(self.adapted, self.validation, self.denoising)
        if not math.isfinite(loss):
            raise Diverged(f'validation loss is {loss}; lower learning_rate')
        return Evaluation((-loss,), {'validation_loss': loss})

    def moving(self) -> dict[str, torch.Tensor]:
        """The trained parameters; training changes no other state of a U-Net."""
        return dict(self.adapted.trainable())

    def described(self) -> dict[str, Any]:
        """What a checkpoint must have in common with this training."""
        denoising = {'dropout': self.denoising.prompt_dropout, 'shift': self.denoising.timestep_shift}
        return denoising | {'method': self.adapted.method.key, 'config': asdict(self.adapted.config)}
