"""Training of a diffusion U-Net by a method of the registry, on latents and text embeddings computed before.

It takes the `TrainingConfig` of the classification study (AdamW, warm-up and cosine, order by the seed) and has a loop
of its own: here a batch is two inputs and noise without labels, the score is a loss at fixed noise, a step may go
through the network in parts, and a training of days must go on in its middle after a kill.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from medpeft_utils.core.errors import BadInput
from medpeft_utils.methods.adapted import Adapted, seeded
from medpeft_utils.text_image.encoding import Encoded
from medpeft_utils.training.loop import Diverged, Fit, TrainingConfig, peak_memory_mb
from medpeft_utils.training.precision import PLAIN, Precision

VALIDATION_SEED = 1_000_003  # of the noise and timesteps of every check of every run
CLIP = 1.0  # norm of the gradient, as in the training scripts of diffusers


def timesteps(count: int, of: int, shift: float, generator: torch.Generator) -> torch.Tensor:
    """[count] timesteps in 0..of - 1, drawn evenly and then shifted towards much noise.

    Esser et al. 2024, arXiv:2403.03206, Eq. 23: t' = shift t / (1 + (shift - 1) t), of t in 0..1; 1 is no shift.
    """
    t = torch.rand(count, generator=generator)
    return (of * shift * t / (1 + (shift - 1) * t)).long().clamp(max=of - 1)


@dataclass(frozen=True)
class Denoising:
    """How the noise is learned.

    Args:
        noising: diffusers' scheduler that adds it (`Pipeline.noising`).
        prompt_dropout: share of the pairs whose text is left empty, so that sampling can be guided.
        timestep_shift: of `timesteps`, in training; what the pipeline was trained with.
        micro_batch: pairs that go through the network at a time; the gradient is that of the whole batch. 0: all.
        gradient_checkpointing: activations are computed again in the backward pass instead of being kept.
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

    def rows_of(self, step: int, batch_size: int, seed: int) -> np.ndarray:
        """Positions of a step's batch: a fresh order every pass, its last smaller batch left out; of seed and step."""
        per_pass = max(1, len(self) // batch_size)
        order = np.random.default_rng([seed, step // per_pass]).permutation(len(self))
        start = step % per_pass * batch_size
        return order[start : start + batch_size]


@torch.no_grad()
def validation_loss(adapted: Adapted, pairs: EncodedPairs, denoising: Denoising, batch_size: int = 64) -> float:
    """Mean loss over a split, each pair with its text at one timestep; noise and timesteps are always the same.

    The timesteps are spread evenly over the pairs, which takes most of the chance out of a small split.
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


@dataclass
class State:
    """All that a training is in its middle; what `checkpoint` holds beside optimizer, parameters and generators."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    curve: list[dict] = field(default_factory=list)
    best: int = 0
    best_parameters: dict[str, torch.Tensor] = field(default_factory=dict)


class Training:
    """One training of one adapted U-Net; `run` takes it to the end, from wherever `checkpoint` stands.

    Args:
        adapted: a U-Net with a method applied, on its device.
        train, validation: encoded pairs.
        protocol: learning rate, steps, batch, checks, seed.
        denoising: loss, precision, memory.
        checkpoint: a file written at every check and every `checkpoint_seconds`; None for none. It holds tensors and
            plain values only, and is read as such.
    Raises:
        BadInput: the checkpoint is of another training.
    """

    checkpoint_seconds = 300.0

    def __init__(
        self,
        adapted: Adapted,
        train: EncodedPairs,
        validation: EncodedPairs,
        protocol: TrainingConfig,
        denoising: Denoising,
        checkpoint: Path | None = None,
    ):
        self.adapted, self.train, self.validation = adapted, train, validation
        self.protocol, self.denoising = protocol, denoising
        self.checkpoint = Path(checkpoint) if checkpoint else None
        self.steps, self.batch_size = protocol.steps(len(train)), min(protocol.batch_size, len(train))
        self.optimizer = protocol.optimizer(adapted)
        self.generator = torch.Generator().manual_seed(protocol.seed)
        self.state = State()
        if denoising.gradient_checkpointing:
            adapted.model.enable_gradient_checkpointing()

    def run(self, report: Callable[[dict], None] | None = None, quiet: bool = False) -> Fit:
        """Train, and leave the model in the state of the lowest validation loss.

        The first row of the curve, at step 0, is the untuned model's; it is shown and not selected.

        Args:
            report: called with every new row of the curve.
            quiet: no progress bar.
        Raises:
            Diverged: the loss is NaN or infinite.
        """
        with seeded(self.protocol.seed):  # dropout, where a method has it
            self._resume()
            self._loop(report, quiet)
        self._put(self.state.best_parameters)
        seconds = self.state.seconds
        rate = len(seconds) * self.batch_size / sum(seconds)
        memory = peak_memory_mb(self.train.device)
        return Fit(self.state.curve, self.state.best, float(np.median(seconds)), rate, memory)

    def _loop(self, report: Callable[[dict], None] | None, quiet: bool) -> None:
        state, written = self.state, time.monotonic()
        checks = {round(step) for step in np.linspace(0, self.steps, min(self.protocol.evaluations, self.steps) + 1)}
        if state.step == 0:
            self._check(report)
        self.adapted.train()
        bar = tqdm(total=self.steps, initial=state.step, desc='training', unit=' steps', disable=quiet, mininterval=1)
        while state.step < self.steps:
            started = time.perf_counter()
            state.losses.append(self._one_step())
            state.seconds.append(time.perf_counter() - started)
            state.step += 1
            bar.update()
            checked = state.step in checks
            if checked:
                self._check(report)
            if checked or time.monotonic() - written > self.checkpoint_seconds:
                self._save()
                written = time.monotonic()
        bar.close()

    def _one_step(self) -> float:
        """One optimizer step over a batch, in parts of `micro_batch`; the mean loss."""
        step, device = self.state.step, self.train.device
        for group in self.optimizer.param_groups:
            group['lr'] = self.protocol.rate(step, self.steps) * group.get('scale', 1.0)
        chosen = self.train.rows_of(step, self.batch_size, self.protocol.seed)
        draw, count = self.generator, len(chosen)
        dropped = (torch.rand(count, generator=draw) < self.denoising.prompt_dropout).numpy()
        of, shift = self.denoising.noising.config.num_train_timesteps, self.denoising.timestep_shift
        times = timesteps(count, of, shift, draw)
        noise = torch.randn(count, *self.train.encoded.latents.shape[1:], generator=draw)
        part, total = self.denoising.micro_batch or count, 0.0
        for start in range(0, count, part):
            own = slice(start, start + part)
            latents, texts = self.train.fetch(chosen[own], dropped[own])
            inputs = latents, texts, noise[own].to(device), times[own].to(device)
            loss = self.denoising.loss(self.adapted.model, *inputs).sum() / count
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            rate = self.protocol.learning_rate
            raise Diverged(f'loss is {total} at step {step + 1} of {self.steps}; lower learning_rate (now {rate:g})')
        nn.utils.clip_grad_norm_(list(self.adapted.trainable().values()), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _check(self, report: Callable[[dict], None] | None) -> None:
        """Score the validation pairs, add a row to the curve, and keep the parameters where they are the best yet."""
        state = self.state
        loss = validation_loss(self.adapted, self.validation, self.denoising)
        if not math.isfinite(loss):
            rate = self.protocol.learning_rate
            raise Diverged(f'validation loss is {loss} at step {state.step}; lower learning_rate (now {rate:g})')
        row = {'step': state.step, 'epoch': round(state.step * self.batch_size / len(self.train), 3)}
        row |= {'train_loss': float(np.mean(state.losses)) if state.losses else None, 'validation_loss': loss}
        state.curve.append(row)
        state.losses = []
        if state.step and (not state.best_parameters or loss < state.curve[state.best]['validation_loss']):
            state.best, state.best_parameters = len(state.curve) - 1, self._parameters()
        if report:
            report(row)

    def _parameters(self) -> dict[str, torch.Tensor]:
        """Copies on the CPU of all that is trained; a U-Net has no other state that training moves."""
        return {name: parameter.detach().to('cpu', copy=True) for name, parameter in self.adapted.trainable().items()}

    @torch.no_grad()
    def _put(self, saved: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.adapted.trainable().items():
            parameter.copy_(saved[name])

    def _described(self) -> dict:
        """What a checkpoint must agree in with this training."""
        kept = {'method': self.adapted.method.key, 'steps': self.steps, 'pairs': len(self.train)}
        denoising = {'dropout': self.denoising.prompt_dropout, 'shift': self.denoising.timestep_shift}
        kept |= asdict(self.protocol) | denoising | {'config': str(self.adapted.config)}
        return kept

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        content = vars(self.state) | {
            'training': self._described(),
            'parameters': self._parameters(),
            'optimizer': self.optimizer.state_dict(),
            'generator': self.generator.get_state(),
            'global': torch.get_rng_state(),
            'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_name(f'{self.checkpoint.name}.{os.getpid()}.partial')
        torch.save(content, partial)
        os.replace(partial, self.checkpoint)

    def _resume(self) -> None:
        if self.checkpoint is None or not self.checkpoint.is_file():
            return
        saved = torch.load(self.checkpoint, map_location='cpu', weights_only=True)
        if saved.pop('training') != self._described():
            raise BadInput(f'{self.checkpoint}: of a training with other settings; delete it to begin anew')
        self._put(saved.pop('parameters'))
        self.optimizer.load_state_dict(saved.pop('optimizer'))
        self.generator.set_state(saved.pop('generator'))
        torch.set_rng_state(saved.pop('global'))
        if (cuda := saved.pop('cuda')) and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(cuda)
        self.state = State(**saved)
