"""A training in a folder that can be killed at any moment and goes on to the same weights."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from medpeft_utils.core.errors import BadInput
from medpeft_utils.training.loop import Diverged

CHECKPOINT = 'checkpoint.pt'
CURVE = 'curve.jsonl'


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


class Stage:
    """One stage of the recipe; a subclass has the networks, the loss of some rows and the held-out score.

    Args:
        schedule: how long, how fast; a checkpoint made by another one is refused.
        networks: by name; all of their parameters are trained.
        train_rows, held_out_rows: of the images.
        folder: checkpoint and curve.
    """

    score_name = 'held-out loss'

    def __init__(self, schedule: Schedule, networks: dict[str, nn.Module], train_rows, held_out_rows, folder, device):
        self.schedule, self.folder, self.device = schedule, Path(folder), torch.device(device)
        self.networks = nn.ModuleDict(networks).to(self.device)
        self.train_rows, self.held_out_rows = train_rows, held_out_rows
        self.optimizer = self._optimizer()
        self.generator = torch.Generator().manual_seed(schedule.seed)
        self.step, self.seconds = 0, 0.0
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    def loss(self, rows: np.ndarray) -> torch.Tensor:
        """The loss of some training rows, a scalar; noise from `self.generator`."""
        raise NotImplementedError

    def score(self) -> float:
        """The score over the held-out rows; the same at every call."""
        raise NotImplementedError

    def _optimizer(self) -> torch.optim.Optimizer:
        embeddings = {id(p) for m in self.networks.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        decay = [p for p in self.networks.parameters() if p.ndim > 1 and id(p) not in embeddings]
        rest = [p for p in self.networks.parameters() if p.ndim <= 1 or id(p) in embeddings]
        groups = [{'params': decay, 'weight_decay': self.schedule.weight_decay}, {'params': rest, 'weight_decay': 0.0}]
        return torch.optim.AdamW(groups, lr=self.schedule.learning_rate, betas=(0.9, 0.99), fused=True)

    def _described(self) -> str:
        return json.dumps(asdict(self.schedule), sort_keys=True)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        saved = torch.load(path, map_location=self.device, weights_only=True)
        if saved['schedule'] != self._described():
            raise BadInput(f'{path}: made by another recipe; give another folder or delete it')
        self.networks.load_state_dict(saved['networks'])
        self.optimizer.load_state_dict(saved['optimizer'])
        self.generator.set_state(saved['generator'].cpu())
        self.step, self.seconds = saved['step'], saved['seconds']

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        content = {
            'schedule': self._described(),
            'networks': self.networks.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'generator': self.generator.get_state(),
            'step': self.step,
            'seconds': self.seconds,
        }
        partial = self.folder / f'{CHECKPOINT}.partial'
        torch.save(content, partial)
        os.replace(partial, self.folder / CHECKPOINT)

    def rows(self, step: int) -> np.ndarray:
        """The training rows of a step: a fresh order every pass, a function of seed and step alone."""
        count, batch = len(self.train_rows), min(self.schedule.batch, len(self.train_rows))
        per_pass = count // batch
        order = np.random.default_rng([self.schedule.seed, step // per_pass]).permutation(count)
        start = step % per_pass * batch
        return np.sort(self.train_rows[order[start : start + batch]])

    def _log(self, **values: float) -> None:
        row = {'step': self.step, 'of': self.schedule.steps, 'seconds': round(self.seconds, 1)} | values
        with (self.folder / CURVE).open('a') as file:
            file.write(json.dumps(row) + '\n')

    def _one_step(self) -> float:
        for group in self.optimizer.param_groups:
            group['lr'] = self.schedule.rate(self.step)
        loss = self.loss(self.rows(self.step))
        loss.backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def train(self, report_every: int = 50, score_every: int = 500, save_seconds: float = 60) -> float:
        """Run to the last step from wherever an earlier call stopped; the held-out score. Raises Diverged."""
        started, saved = time.monotonic() - self.seconds, time.monotonic()
        losses: list[float] = []
        self.networks.train()
        bar = tqdm(
            total=self.schedule.steps, initial=self.step, desc=type(self).__name__, unit=' steps', mininterval=20
        )
        while self.step < self.schedule.steps:
            losses.append(self._one_step())
            bar.update()
            if not math.isfinite(losses[-1]):
                raise Diverged(f'{self.folder}: loss {losses[-1]} at step {self.step}; lower the learning rate')
            self.seconds, last = time.monotonic() - started, self.step == self.schedule.steps
            if len(losses) == report_every or last:
                self._log(loss=float(np.mean(losses)), learning_rate=self.schedule.rate(self.step))
                losses = []
            if self.step % score_every == 0 or last:
                self._log(score=self.score())
            if time.monotonic() - saved > save_seconds or last:
                self.save()
                saved = time.monotonic()
        bar.close()
        return self.score()


def read_curve(folder: Path) -> list[dict]:
    """The rows of a stage's curve by step; of a repeated step the last one counts."""
    merged: dict[int, dict] = {}
    for line in (Path(folder) / CURVE).read_text().splitlines():
        row = json.loads(line)
        merged[row['step']] = merged.get(row['step'], {}) | row
    return [merged[step] for step in sorted(merged)]
