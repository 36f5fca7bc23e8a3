"""The one training loop of the study: every method, backbone, dataset and task goes through it.

`fit` trains a `Task`: an object that offers batches, a loss, validation scores and what is trained. It knows nothing
else of the task. Linear warm-up, then cosine decay. The validation split alone selects the state that is kept; the test
split is not seen here. A training that is killed goes on from its checkpoint, on a CPU to the same bits; one that is
told to end (SIGTERM) writes it first.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from tqdm.auto import tqdm

from medpeft_utils.core.errors import BadInput, MedpeftError
from medpeft_utils.core.files import write_tensors
from medpeft_utils.core.signals import deferred
from medpeft_utils.methods.adapted import seeded
from medpeft_utils.training.config import TrainingConfig
from medpeft_utils.training.energy import Energy

CHECKPOINT = 'checkpoint.safetensors'
CHECKPOINT_SECONDS = 120.0


class Diverged(MedpeftError, FloatingPointError):
    """The loss is not finite."""


class Ended(MedpeftError):
    """The training was told to end; its checkpoint is written."""


@dataclass
class Evaluation:
    """What a task says of the validation split.

    Args:
        score: compared in order; the highest selects. NaN counts as the lowest.
        row: what the curve shows.
        outputs: what is kept of the selected state, such as its predictions.
    """

    score: tuple[float, ...]
    row: dict[str, float]
    outputs: np.ndarray | None = None


class Task:
    """What `fit` trains; a subclass offers `batch`, `loss` and `evaluate`, and overrides what else differs.

    Args:
        adapted: the model: `model`, `train(mode)`, `trainable()` (`methods.Adapted`).
        items: how many training items there are.
        device: where batches lie.
    """

    def __init__(self, adapted, items: int, device: torch.device):
        self.adapted, self.items, self.device = adapted, items, device
        self.replays = False  # `backward` overwrites gradients in place: the loop does not clear them

    def batch(self, rows: np.ndarray, generator: torch.Generator) -> Any:
        """The training items of these positions, in whatever form `loss` takes.

        Args:
            rows: [B] positions, 0 to `items` - 1.
            generator: on the CPU; all that is drawn at random must come from it.
        """
        raise NotImplementedError

    def loss(self, batch: Any) -> torch.Tensor:
        """The mean loss of a batch, differentiable."""
        raise NotImplementedError

    def evaluate(self) -> Evaluation:
        """Score the validation split. The model may be left in either mode."""
        raise NotImplementedError

    def backward(self, batch: Any) -> torch.Tensor:
        """Add the gradients of a batch; its mean loss, on the device and detached. For a batch that goes in parts."""
        loss = self.loss(batch)
        loss.backward()
        return loss.detach()

    def optimizer(self, config: TrainingConfig) -> torch.optim.Optimizer:
        """The optimizer; each group may have a 'scale' of its rate."""
        return config.optimizer(self.adapted)

    def moving(self) -> dict[str, torch.Tensor]:
        """All that training moves, by name: what a best state and a checkpoint hold."""
        return dict(self.adapted.trainable()) | dict(self.adapted.model.named_buffers())

    def described(self) -> dict[str, Any]:
        """What a checkpoint must agree in, beside the config; plain JSON."""
        return {}


class WholeNetwork:
    """A network of which every parameter is trained, in the form in which a `Task` takes a model."""

    def __init__(self, model: nn.Module):
        self.model = model

    def train(self, mode: bool = True) -> None:
        """Training or evaluation mode."""
        self.model.train(mode)

    def trainable(self) -> dict[str, nn.Parameter]:
        """All parameters by name."""
        return dict(self.model.named_parameters())


@dataclass
class Fit:
    """What training gave: the curve (a row an evaluation), the selected one, and what it cost."""

    curve: list[dict] = field(default_factory=list)
    best: int = 0
    step_seconds: float = 0.0
    images_per_second: float = 0.0
    peak_memory_mb: float = 0.0
    validation: np.ndarray | None = None  # the task's outputs at the selected evaluation
    steps: int = 0
    epochs: float = 0.0
    energy: dict[str, Any] = field(default_factory=dict)  # of this training, or why it was not measured


def fit(
    task: Task,
    config: TrainingConfig,
    report: Callable[[dict], None] | None = None,
    quiet: bool = False,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Fit:
    """Train, and leave the model in the state that the validation split selected.

    On a GPU no step waits for it: the loss is read, and looked at for NaN, at the evaluations. What a network draws
    itself (dropout, stochastic depth) follows the config's seed.

    Args:
        task: what is trained.
        config: how.
        report: called with every new row of the curve; what it raises ends the training.
        quiet: no progress bar.
        checkpoint, checkpoint_seconds: a file that a killed training goes on from, and how often it is written.
    Raises: Ended at SIGTERM, Diverged at a NaN or infinite loss, BadInput for a checkpoint of another training.
    """
    steps, size = config.steps(task.items), min(config.batch_size, task.items)
    evaluated_at = config.evaluated_at(steps)
    with deferred(signal.SIGTERM, bool(checkpoint)) as told, seeded(config.seed):
        state = _State(task, config)
        state.resume(checkpoint)
        if config.evaluate_first and state.step == 0:
            state.evaluate(size, report)
        task.adapted.train()
        started, written = time.perf_counter(), time.monotonic()
        bar = range(state.step, steps)
        for step in tqdm(bar, desc='training', unit=' steps', disable=quiet, mininterval=1, initial=state.step):
            for group in state.optimizer.param_groups:
                group['lr'] = config.rate(step, steps) * group.get('scale', 1.0)
            batch = task.batch(rows_of(task.items, size, step, config.seed), state.generator)
            state.loss += task.backward(batch)
            if config.clip:
                nn.utils.clip_grad_norm_(state.parameters, config.clip)
            state.optimizer.step()
            if not task.replays:
                state.optimizer.zero_grad(set_to_none=True)
            state.step, state.since = step + 1, state.since + 1
            state.energy.tick()
            if state.step in evaluated_at:
                state.read_loss(steps)  # waits for the device
                state.spent.append((state.seconds + time.perf_counter() - started) / state.since)
                state.evaluate(size, report)
                state.seconds, started = 0.0, time.perf_counter()
            if checkpoint and (told or time.monotonic() - written >= checkpoint_seconds):
                state.seconds += time.perf_counter() - started
                state.save(checkpoint)
                started, written = time.perf_counter(), time.monotonic()
                if told:
                    raise Ended(f'told to end after step {state.step} of {steps}; {checkpoint} goes on from there')
        state.put(state.best_tensors)
    spent = float(np.mean(state.spent))
    return Fit(
        *(state.curve, state.best, float(np.median(state.spent)), size / spent, peak_memory_mb(task.device)),
        *(state.best_outputs, steps, round(steps * size / task.items, 3), state.energy.spent()),
    )


def rows_of(items: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Positions [B] of a step's batch: a fresh order every pass, its last, smaller batch left out; by seed and step."""
    per_pass = max(1, items // batch_size)
    start = step % per_pass * batch_size
    return _order(items, seed, step // per_pass)[start : start + batch_size]


@lru_cache(maxsize=4)
def _order(items: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(items)


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB: of the GPU's allocator, or of this process."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == 'darwin' else peak / 2**10  # bytes there, KiB elsewhere


class _State:
    """All that a training is in its middle; what a checkpoint holds."""

    PLAIN = ('step', 'since', 'seconds', 'spent', 'curve', 'best', 'best_score')

    def __init__(self, task: Task, config: TrainingConfig):
        self.task, self.config = task, config
        if task.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(task.device)
        self.optimizer = task.optimizer(config)
        self.parameters = [p for group in self.optimizer.param_groups for p in group['params']]
        self.generator = torch.Generator().manual_seed(config.seed)
        self.loss = torch.zeros((), device=task.device)  # summed since the last evaluation
        self.step, self.since, self.seconds, self.mean_loss = 0, 0, 0.0, None
        self.spent: list[float] = []  # seconds of a step, by stretch between evaluations
        self.curve: list[dict] = []
        self.best, self.best_score = 0, None
        self.best_tensors: dict[str, torch.Tensor] = {}
        self.best_outputs: np.ndarray | None = None
        self.energy = Energy(task.device)

    def read_loss(self, steps: int) -> None:
        """The mean loss since the last evaluation, or Diverged."""
        self.mean_loss = self.loss.item() / self.since
        if not math.isfinite(self.mean_loss):
            where = f'between steps {self.step - self.since + 1} and {self.step} of {steps}'
            rate = f'lower learning_rate (now {self.config.learning_rate:g})'
            raise Diverged(f'loss is {self.mean_loss} {where}; {rate}')

    def evaluate(self, batch_size: int, report: Callable[[dict], None] | None) -> None:
        """Score the validation split, add a row to the curve, and keep the state where it is the best yet."""
        found = self.task.evaluate()
        row = {'step': self.step, 'epoch': round(self.step * batch_size / self.task.items, 3)}
        self.curve.append(row | {'train_loss': self.mean_loss} | found.row)
        score = [-math.inf if math.isnan(value) else value for value in found.score]
        if self.step and (self.best_score is None or score > self.best_score):
            self.best, self.best_score, self.best_outputs = len(self.curve) - 1, score, found.outputs
            self.best_tensors = {name: tensor.detach().clone() for name, tensor in self.task.moving().items()}
        self.loss, self.since = torch.zeros_like(self.loss), 0
        if report:
            report(self.curve[-1])
        self.task.adapted.train()

    @torch.no_grad()
    def put(self, saved: dict[str, torch.Tensor]) -> None:
        """Set all that training moves."""
        moving = self.task.moving()
        for name, tensor in saved.items():
            moving[name].copy_(tensor)

    def _described(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self.config) | {'items': self.task.items} | self.task.described()))

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all: tensors, and the rest as JSON in its metadata."""
        tensors = {f'now/{name}': tensor for name, tensor in self.task.moving().items()}
        tensors |= {f'best/{name}': tensor for name, tensor in self.best_tensors.items()}
        tensors |= {'loss': self.loss, 'generator': self.generator.get_state(), 'global': torch.get_rng_state()}
        if self.best_outputs is not None:
            tensors['outputs'] = torch.from_numpy(np.asarray(self.best_outputs))
        if torch.cuda.is_available():
            tensors |= {f'cuda/{i}': state for i, state in enumerate(torch.cuda.get_rng_state_all())}
        optimizer, plain = self.optimizer.state_dict(), {}
        for index, values in optimizer['state'].items():
            for key, value in values.items():
                if torch.is_tensor(value):
                    tensors[f'optimizer/{index}/{key}'] = value
                else:
                    plain[f'{index}/{key}'] = value
        about = {'training': self._described(), 'optimizer': plain} | {name: getattr(self, name) for name in self.PLAIN}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_tensors(path, tensors, {'state': json.dumps(about)})

    def resume(self, path: Path | None) -> None:
        """Resume from a checkpoint, or start from the beginning if it is missing or incomplete."""
        if path is None or not Path(path).is_file():
            return
        try:
            with safe_open(path, framework='pt') as file:
                about = json.loads(file.metadata()['state'])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, KeyError, TypeError, ValueError):
            return
        if about['training'] != self._described():
            raise BadInput(f'{path} is the checkpoint of a training with other settings; delete it to begin anew')

        def below(prefix: str) -> dict[str, torch.Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        for name in self.PLAIN:
            setattr(self, name, about[name])
        self.energy.why = 'a part of the training was done by another process'
        self.put(below('now/'))
        self.best_tensors = {name: tensor.to(self.task.device) for name, tensor in below('best/').items()}
        self.best_outputs = tensors['outputs'].numpy() if 'outputs' in tensors else None
        self.loss = tensors['loss'].to(self.task.device)
        values: dict[int, dict[str, Any]] = {}
        for name, value in {**about['optimizer'], **below('optimizer/')}.items():
            index, key = name.split('/')
            values.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {'state': values})
        for parameter, kept in self.optimizer.state.items():
            for key, value in kept.items():  # fused AdamW goes through memory in its order: both must be laid out alike
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    kept[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        self.generator.set_state(tensors['generator'])
        torch.set_rng_state(tensors['global'])
        if torch.cuda.is_available() and (states := below('cuda/')):
            torch.cuda.set_rng_state_all([states[str(i)] for i in range(len(states))])
