"""The one training loop of the study: every method, backbone, dataset and task goes through it.

AdamW, linear warm-up and cosine decay; the loss and the scores are the task's `Objective`. The validation split alone
selects the state that is kept. The test split is not seen here.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm.auto import tqdm

from medpeft_utils.core.errors import MedpeftError
from medpeft_utils.methods.adapted import seeded
from medpeft_utils.training.batches import Batches
from medpeft_utils.training.objective import SINGLE_LABEL, Objective


class Diverged(MedpeftError, FloatingPointError):
    """The loss is not finite."""


@dataclass(frozen=True)
class Protocol:
    """How long and how a model is trained; the same for every method.

    The paper states batch 512, AdamW and a searched learning rate; all else is ours, since it is not stated.

    Args:
        learning_rate: peak of the schedule.
        epochs: passes over the training images, within the two bounds on steps.
        min_steps, max_steps: bounds on optimizer steps, so that a small split is not trained for a handful of steps.
        batch_size: images a step (all of them where there are fewer).
        weight_decay: AdamW's, on matrices and kernels only; 0 where a method's paper has none.
        warmup_share: share of the steps in which the learning rate rises linearly.
        checks: how often the validation split is scored.
        class_weighting: weigh the loss by inverse class frequency (mean weight 1).
        seed: order, augmentation and, where a network has it, dropout.
    """

    learning_rate: float
    epochs: int = 20
    min_steps: int = 100
    max_steps: int = 300
    batch_size: int = 64
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    checks: int = 10
    class_weighting: bool = False
    seed: int = 0

    def steps(self, images: int) -> int:
        """Optimizer steps for a training split of `images`."""
        per_epoch = max(1, images // min(self.batch_size, images))
        return max(self.min_steps, min(self.epochs * per_epoch, self.max_steps))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate at `step` of `steps`, counted from 0."""
        warmup = max(1, round(self.warmup_share * steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    def optimizer(self, adapted) -> torch.optim.Optimizer:
        """The optimizer of what an adapted model trains. A group's 'scale', if it has one, multiplies its rate."""
        parameters = list(adapted.trainable().values())
        groups = [
            {'params': [p for p in parameters if p.ndim > 1], 'weight_decay': self.weight_decay},
            {'params': [p for p in parameters if p.ndim <= 1], 'weight_decay': 0.0},
        ]
        return torch.optim.AdamW([group for group in groups if group['params']], lr=self.learning_rate, fused=True)


@dataclass
class Fit:
    """What training gave: the curve (a row a check), the selected check, and what it cost."""

    curve: list[dict] = field(default_factory=list)
    best: int = 0
    step_seconds: float = 0.0
    images_per_second: float = 0.0
    peak_memory_mb: float = 0.0
    validation: np.ndarray | None = None  # [N, K] probabilities at the selected check


def _snapshot(adapted) -> dict[str, torch.Tensor]:
    """Copies of all that training moves: trainable parameters and buffers."""
    moving = dict(adapted.trainable()) | dict(adapted.model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in moving.items()}


@torch.no_grad()
def _restore(adapted, saved: dict[str, torch.Tensor]) -> None:
    moving = dict(adapted.trainable()) | dict(adapted.model.named_buffers())
    for name, tensor in saved.items():
        moving[name].copy_(tensor)


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB: of the GPU's allocator, or of this process."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == 'darwin' else peak / 2**10  # bytes there, KiB elsewhere


@torch.no_grad()
def predict(adapted, batches: Batches, objective: Objective = SINGLE_LABEL) -> np.ndarray:
    """Class probabilities [N, K] float32 for every row of `batches`, in its order, without augmentation."""
    adapted.train(False)
    parts = [objective.probabilities(batches.logits(adapted, x).float()).cpu() for x in batches.in_order()]
    return torch.cat(parts).numpy()


def fit(
    adapted,
    train: Batches,
    validation: Batches,
    protocol: Protocol,
    report: Callable[[dict], None] | None = None,
    quiet: bool = False,
    objective: Objective = SINGLE_LABEL,
) -> Fit:
    """Train, and leave the model in the state that the validation split selected.

    What a network draws itself (dropout, stochastic depth) follows the protocol's seed.

    Args:
        adapted: a model with a method applied (`medpeft_utils.methods.apply`).
        train, validation: images, or features computed once.
        report: called with every new row of the curve, for a live plot.
        quiet: no progress bar.
        objective: loss, probabilities and scores of the task.
    Raises:
        Diverged: the loss is NaN or infinite.
    """
    with seeded(protocol.seed):
        return _fit(adapted, train, validation, protocol, report, quiet, objective)


def _fit(adapted, train: Batches, validation: Batches, protocol: Protocol, report, quiet: bool, objective) -> Fit:
    steps, result = protocol.steps(len(train)), Fit()
    check_at = {round(step) for step in np.linspace(0, steps, min(protocol.checks, steps) + 1)[1:]}
    batch_size = min(protocol.batch_size, len(train))
    take_step = _stepper(adapted, train, protocol, objective, steps, batch_size)
    losses, seconds, best_score, best_state = [], [], (-math.inf, -math.inf), None
    adapted.train()
    for step in tqdm(range(steps), desc='training', unit=' steps', disable=quiet, mininterval=1):
        started = time.perf_counter()
        losses.append(take_step(step))
        seconds.append(time.perf_counter() - started)
        if step + 1 not in check_at:
            continue
        probabilities = predict(adapted, validation, objective)
        adapted.train()
        scores = objective.evaluate(validation.labels, probabilities)
        row = {'step': step + 1, 'epoch': round((step + 1) * batch_size / len(train), 3)}
        row |= {'train_loss': float(np.mean(losses))}
        row |= {f'validation_{name}': scores[name] for name in objective.shown}
        result.curve.append(row)
        losses, selecting = [], scores[objective.selection]
        score = (-math.inf if math.isnan(selecting) else selecting, -scores['loss'])
        if score > best_score:
            best_score, best_state = score, _snapshot(adapted)
            result.best, result.validation = len(result.curve) - 1, probabilities
        if report:
            report(row)
    _restore(adapted, best_state)
    result.step_seconds = float(np.median(seconds))
    result.images_per_second = steps * batch_size / sum(seconds)
    result.peak_memory_mb = peak_memory_mb(train.device)
    return result


def _stepper(
    adapted, train: Batches, protocol: Protocol, objective: Objective, steps: int, batch_size: int
) -> Callable[[int], float]:
    """A function that takes one optimizer step and gives its loss."""
    optimizer = protocol.optimizer(adapted)
    stream = train.shuffled(batch_size, torch.Generator().manual_seed(protocol.seed))
    criterion = objective.criterion(train.labels, train.classes, protocol.class_weighting, train.device)

    def take_step(step: int) -> float:
        for group in optimizer.param_groups:
            group['lr'] = protocol.rate(step, steps) * group.get('scale', 1.0)
        x, labels = next(stream)
        loss = criterion(train.logits(adapted, x).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        if not math.isfinite(value):
            rate = protocol.learning_rate
            raise Diverged(f'loss is {value} at step {step + 1} of {steps}; lower learning_rate (now {rate:g})')
        return value

    return take_step
