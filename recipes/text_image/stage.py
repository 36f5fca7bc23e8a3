"""A training in a folder that can be killed at any moment and goes on to the same weights, by the study's own loop."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.files import read_json, write_json, write_tensors
from medpeft_utils.training.loop import CHECKPOINT, Evaluation, Task, TrainingConfig, WholeNetwork, fit

FINISHED, CURVE = 'finished.safetensors', 'curve.json'
SCORED_EVERY = 500  # steps


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns.

    Args:
        steps: optimizer steps.
        batch: images a step.
        learning_rate: the highest.
        warmup: steps in which the rate rises linearly.
        cooldown: share of the steps, at the end, in which it falls along half a cosine; 1 for all after the warm-up.
            Before that it stays, so that a training can be made longer without beginning anew (Hägele et al. 2024,
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
class _Config(TrainingConfig):
    """The loop's configuration, with the rates of a schedule."""

    schedule: Schedule = field(kw_only=True)

    def rate(self, step: int, steps: int) -> float:
        return self.schedule.rate(step)


class Stage(Task):
    """One stage of the recipe; a subclass has the networks, the loss of some rows and the held-out score.

    Args:
        schedule: how long, how fast; what another one made is refused.
        networks: by name; all of their parameters are trained.
        train_rows, held_out_rows: of the images.
        folder: checkpoint, curve and, once it is finished, the weights.
    """

    score_name = 'held-out loss'

    def __init__(self, schedule: Schedule, networks: dict[str, nn.Module], train_rows, held_out_rows, folder, device):
        self.networks = nn.ModuleDict(networks).to(torch.device(device))
        super().__init__(WholeNetwork(self.networks), len(train_rows), torch.device(device))
        self.schedule, self.folder = schedule, Path(folder)
        self.train_rows, self.held_out_rows = train_rows, held_out_rows
        self.generator = torch.Generator().manual_seed(schedule.seed)
        self.step, self.seconds = 0, 0.0
        self.folder.mkdir(parents=True, exist_ok=True)
        self._read_finished()

    def score(self) -> float:
        """The score over the held-out rows; the same at every call."""
        raise NotImplementedError

    def batch(self, rows: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Rows of the images, in ascending order; the loss draws its noise from `self.generator`."""
        self.generator = generator
        return np.sort(self.train_rows[rows])

    def evaluate(self) -> Evaluation:
        """The held-out score. The last state is kept, and not the best: the rate has fallen to zero there."""
        return Evaluation((time.time(),), {'score': self.score()})

    def optimizer(self, config: TrainingConfig) -> torch.optim.Optimizer:
        """AdamW; embeddings are not decayed either."""
        embeddings = {id(p) for m in self.networks.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        decay = [p for p in self.networks.parameters() if p.ndim > 1 and id(p) not in embeddings]
        rest = [p for p in self.networks.parameters() if p.ndim <= 1 or id(p) in embeddings]
        groups = [{'params': decay, 'weight_decay': config.weight_decay}, {'params': rest, 'weight_decay': 0.0}]
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)

    def train(self, checkpoint_seconds: float = 60) -> float:
        """Run to the last step from wherever an earlier call stopped; the held-out score. Raises Diverged."""
        if self.step < self.schedule.steps:
            s, started = self.schedule, time.monotonic()
            config = _Config(
                learning_rate=s.learning_rate,
                min_steps=s.steps,
                max_steps=s.steps,
                batch_size=s.batch,
                weight_decay=s.weight_decay,
                evaluations=max(1, s.steps // SCORED_EVERY),
                clip=1.0,
                seed=s.seed,
                schedule=s,
            )
            self.networks.train()
            result = fit(self, config, checkpoint=self.folder / CHECKPOINT, checkpoint_seconds=checkpoint_seconds)
            self.step, self.seconds = result.steps, max(result.step_seconds * s.steps, time.monotonic() - started)
            write_json(self.folder / CURVE, [{'loss': row.pop('train_loss')} | row for row in result.curve])
            state = {name: tensor.cpu().contiguous() for name, tensor in self.networks.state_dict().items()}
            about = {'schedule': self._described(), 'seconds': str(self.seconds)}
            write_tensors(self.folder / FINISHED, state, about)
        return self.score()

    def _described(self) -> str:
        return json.dumps(asdict(self.schedule), sort_keys=True)

    def _read_finished(self) -> None:
        """Take up what an earlier call has trained to the end. Raises BadInput where that was another recipe."""
        path = self.folder / FINISHED
        if not os.path.isfile(path):
            return
        with safe_open(path, framework='pt') as file:
            about = file.metadata()
            if about['schedule'] != self._described():
                raise BadInput(f'{path}: made by another recipe; give another folder or delete it')
            self.networks.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        self.step, self.seconds = self.schedule.steps, float(about['seconds'])


def read_curve(folder: Path) -> list[dict]:
    """The rows of a finished stage's curve."""
    return read_json(Path(folder) / CURVE) or []
