"""A training in a folder that can be killed at any moment and goes on to the same weights, by the study's own loop.

A checkpoint is written every few minutes; once the last step is done the weights (`finished.safetensors`) and the curve
(`curve.json`) take its place.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.files import read_json, write_json, write_tensors
from medpeft_utils.training.config import TrainingConfig
from medpeft_utils.training.loop import CHECKPOINT, Evaluation, Task, WholeNetwork, fit

FINISHED, CURVE = 'finished.safetensors', 'curve.json'


@dataclass(frozen=True)
class StageConfig(TrainingConfig):
    """A training of a fixed number of steps, scored at regular ones.

    Args:
        scored_every: steps between two scores; the last step is scored too.
    """

    scored_every: int = 500

    def evaluated_at(self, steps: int) -> set[int]:
        """After which of `steps` the held-out images are scored."""
        return {*range(self.scored_every, steps + 1, self.scored_every), steps}


class Stage(Task):
    """A training of a whole network; a subclass has the loss of some rows and the held-out score.

    Args:
        network: all of its parameters are trained.
        config: how; `seed` is of order and noise.
        recipe: what decides the result, plain JSON; what another one has begun or made is refused.
        train_rows, held_out_rows: of the images.
        folder: of checkpoint, curve and weights.
        device: where it is trained.
    """

    def __init__(
        self, network: nn.Module, config: StageConfig, recipe: dict, train_rows, held_out_rows, folder, device
    ):
        device = torch.device(device)
        self.network = network.to(device)
        super().__init__(WholeNetwork(self.network), len(train_rows), device)
        self.config, self.about, self.folder = config, json.dumps(recipe, sort_keys=True), Path(folder)
        self.train_rows, self.held_out_rows = train_rows, held_out_rows
        self.generator = torch.Generator().manual_seed(config.seed)
        self.steps, self.step, self.seconds = config.steps(len(train_rows)), 0, 0.0
        self.folder.mkdir(parents=True, exist_ok=True)
        self._read_finished()

    def score(self) -> float:
        """The score over the held-out rows; the same at every call."""
        raise NotImplementedError

    def batch(self, rows: np.ndarray, generator: torch.Generator) -> Any:
        """Rows of the images in ascending order; what the loss draws, it draws from `self.generator`."""
        self.generator = generator
        return np.sort(self.train_rows[rows])

    def evaluate(self) -> Evaluation:
        """The held-out score. The last state is kept, and not the best: the rate has fallen to zero there."""
        return Evaluation((time.time(),), {'score': self.score()})

    def described(self) -> dict[str, Any]:
        """What a checkpoint must agree in."""
        return {'recipe': self.about}

    def train(self, checkpoint_seconds: float = 60) -> float:
        """Run to the last step from wherever an earlier call stopped; the held-out score. Raises Diverged."""
        if self.step < self.steps:
            started, path = time.monotonic(), self.folder / CHECKPOINT
            self.network.train()
            result = fit(self, self.config, checkpoint=path, checkpoint_seconds=checkpoint_seconds)
            self.step, self.seconds = result.steps, max(result.step_seconds * self.steps, time.monotonic() - started)
            write_json(self.folder / CURVE, [{'loss': row.pop('train_loss')} | row for row in result.curve])
            state = {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}
            write_tensors(self.folder / FINISHED, state, {'stage': self.about, 'seconds': str(self.seconds)})
            path.unlink(missing_ok=True)
        return self.score()

    def _read_finished(self) -> None:
        """Take up what an earlier call has trained to the end. Raises BadInput where that was another recipe."""
        found = read_finished(self.folder)
        if found is None:
            return
        about, state = found
        if about['stage'] != self.about:
            raise BadInput(f'{self.folder / FINISHED}: made by another recipe; give another folder or delete it')
        self.network.load_state_dict(state)
        self.step, self.seconds = self.steps, float(about['seconds'])


def read_finished(folder: Path | str) -> tuple[dict[str, str], dict[str, torch.Tensor]] | None:
    """What a finished stage says of itself (`stage`: its recipe as JSON, `seconds`), and its tensors; None before."""
    path = Path(folder) / FINISHED
    if not os.path.isfile(path):
        return None
    with safe_open(path, framework='pt') as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def read_curve(folder: Path) -> list[dict]:
    """The rows of a finished stage's curve: step, loss since the row before, held-out score."""
    return read_json(Path(folder) / CURVE) or []
