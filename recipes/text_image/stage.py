"""The stages of the text-to-image recipe: their schedule, and what is decayed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from recipes import stage
from recipes.stage import StageConfig, read_curve

__all__ = ['Schedule', 'Stage', 'read_curve']


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns.

    Args:
        steps: optimizer steps.
        batch: images a step.
        learning_rate: the highest.
        warmup: steps in which the rate rises linearly.
        cooldown: share of the steps, at the end, in which it falls along half a cosine; 1 for all after the warm-up.
            Before that it stays, so a training can be made longer without starting over (Hägele et al. 2024,
            arXiv:2405.18392).
        weight_decay: AdamW's, on matrices and kernels only.
        seed: of initialisation, order and noise.
        held_out_share: share of every class that is never trained on.
    """

    steps: int
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: int = 100
    cooldown: float = 1.0
    weight_decay: float = 0.01
    seed: int = 0
    held_out_share: float = 0.02

    def rate(self, step: int) -> float:
        """Learning rate at `step`, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        start = max(self.warmup, round(self.steps * (1 - self.cooldown)))
        share = max(0, step - start) / max(1, self.steps - start)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class _Config(StageConfig):
    """The loop's configuration, with the rates of a schedule."""

    schedule: Schedule = field(kw_only=True)

    def rate(self, step: int, steps: int) -> float:
        return self.schedule.rate(step)


class Stage(stage.Stage):
    """One stage of the recipe; a subclass has the networks, the loss of some rows and the held-out score.

    Args:
        schedule: how long, how fast; what another one made is refused.
        networks: by name; all of their parameters are trained.
        train_rows, held_out_rows: of the images.
        folder: checkpoint, curve and, once it is finished, the weights.
    """

    score_name = 'held-out loss'

    def __init__(self, schedule: Schedule, networks: dict[str, nn.Module], train_rows, held_out_rows, folder, device):
        self.schedule, self.networks, s = schedule, nn.ModuleDict(networks), schedule
        config = _Config(
            learning_rate=s.learning_rate,
            min_steps=s.steps,
            max_steps=s.steps,
            batch_size=s.batch,
            weight_decay=s.weight_decay,
            clip=1.0,
            seed=s.seed,
            schedule=s,
        )
        super().__init__(self.networks, config, asdict(s), train_rows, held_out_rows, folder, device)

    def optimizer(self, config: StageConfig) -> torch.optim.Optimizer:
        """AdamW; embeddings are not decayed either."""
        embeddings = {id(p) for m in self.networks.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        decay = [p for p in self.networks.parameters() if p.ndim > 1 and id(p) not in embeddings]
        rest = [p for p in self.networks.parameters() if p.ndim <= 1 or id(p) in embeddings]
        groups = [{'params': decay, 'weight_decay': config.weight_decay}, {'params': rest, 'weight_decay': 0.0}]
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
