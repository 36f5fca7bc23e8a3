"""Pre-train one small backbone, so that it can be killed at any moment and go on.

`Recipe` is everything that decides the result. A checkpoint (encoder, optimizer, step, random states) is written every
few minutes by a rename; the curve is a JSON line every `report_every` steps. `medpeft_utils/pretraining/publish.py`
turns the last one into shipped weights and their card.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from tqdm.auto import tqdm

from medpeft_utils.backbones.small import SMALL_BACKBONES
from medpeft_utils.core.errors import DoesNotFit
from medpeft_utils.training.augment import Augmentation, augment, normalise, resize
from recipes.backbones.grow import deepen
from recipes.backbones.objectives import OBJECTIVES
from recipes.backbones.source import NaturalImages

MEAN = STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Recipe:
    """How one backbone is pre-trained.

    Args:
        backbone: a name of `SMALL_BACKBONES`.
        objective: 'supervised', 'masked', 'image_text' or 'masked_record'.
        passes: how often every training image is seen.
        batch: images a step.
        learning_rate: peak of the cosine schedule; AdamW with betas (0.9, 0.95) for the masked ones, else (0.9, 0.999).
        weight_decay: on matrices and kernels only.
        warmup_share: share of the steps in which the learning rate rises linearly.
        smallest_crop: smallest share of an image that a training crop keeps.
        grown_from: file of a ViT of the same width and of the same depth or less to begin from (`grow.py`), or '':
            published weights, or another pre-training's `checkpoint.pt`, which has the head too.
        seed: of initialisation, order, augmentation and masks.
        held_out_share: share of every class that is never trained on.
        split_seed: which images these are. A pre-training that begins from another one should hold out the same, else
            its score is over images that the other one was trained on.
    """

    backbone: str
    objective: str = 'supervised'
    passes: float = 8
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.08
    smallest_crop: float = 0.35
    grown_from: str = ''
    seed: int = 0
    held_out_share: float = 0.05
    split_seed: int = 0
    bf16: bool = True
    report_every: int = field(default=50, repr=False)
    checkpoint_seconds: float = field(default=120, repr=False)


def _rate(recipe: Recipe, step: int, steps: int) -> float:
    warmup = max(1, round(recipe.warmup_share * steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _build(recipe: Recipe, captions: list[str]) -> nn.Module:
    torch.manual_seed(recipe.seed)
    objective = OBJECTIVES[recipe.objective](recipe.backbone, captions)
    if recipe.grown_from:
        state = _encoder_of(Path(recipe.grown_from))
        shallow = 1 + max(int(name.split('.')[1]) for name in state if name.startswith('blocks.'))
        deep = SMALL_BACKBONES[recipe.backbone].architecture['depth']
        missing, unknown = objective.encoder.load_state_dict(deepen(state, shallow, deep), strict=False)
        if unknown or any(not name.startswith('head.') for name in missing):  # a published file has no head
            raise DoesNotFit(f'{recipe.grown_from} cannot become {recipe.backbone}: {unknown or missing} do not fit')
    for block in getattr(objective.encoder, 'blocks', []):
        block.attn.fused_attn = torch.cuda.is_available()  # the CPU's fused backward is twice as slow
    return objective


def _encoder_of(path: Path) -> dict[str, torch.Tensor]:
    """An encoder's tensors in float32: from published weights, or with its head from a pre-training's checkpoint.

    An `fc_norm` is left out: pre-training normalises every token.
    """
    if path.suffix == '.safetensors':
        state = load_file(path)
    else:
        objective = torch.load(path, map_location='cpu', weights_only=True)['objective']
        state = {name.removeprefix('encoder.'): t for name, t in objective.items() if name.startswith('encoder.')}
    return {name: tensor.float() for name, tensor in state.items() if not name.startswith('fc_norm.')}


def _optimizer(recipe: Recipe, objective: nn.Module) -> torch.optim.AdamW:
    decay = [p for p in objective.parameters() if p.ndim > 1]
    rest = [p for p in objective.parameters() if p.ndim <= 1]
    betas = (0.9, 0.95) if recipe.objective.startswith('masked') else (0.9, 0.999)
    groups = [{'params': decay, 'weight_decay': recipe.weight_decay}, {'params': rest, 'weight_decay': 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, fused=True)


def _write(path: Path, content: dict) -> None:
    partial = path.with_suffix('.partial')
    torch.save(content, partial)
    os.replace(partial, path)


class Pretraining:
    """One pre-training in one folder: `train()` runs it to the end, from wherever an earlier call stopped."""

    def __init__(self, recipe: Recipe, source: NaturalImages, folder: str | os.PathLike, device: str = 'cpu'):
        self.recipe, self.source, self.folder = recipe, source, Path(folder)
        self.device = torch.device(device)
        self.train_rows, self.held_out_rows = source.split(recipe.held_out_share, recipe.split_seed)
        self.steps = max(1, int(recipe.passes * len(self.train_rows) / recipe.batch))
        self.objective = _build(recipe, source.captions).to(self.device)
        self.optimizer = _optimizer(recipe, self.objective)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.mean, self.std = torch.tensor(MEAN, device=self.device), torch.tensor(STD, device=self.device)
        self.size = SMALL_BACKBONES[recipe.backbone].image_size
        self.policy = Augmentation(scale=(recipe.smallest_crop, 1.0), ratio=4 / 3, brightness=0.2, contrast=0.2)
        if SMALL_BACKBONES[recipe.backbone].family == 'cnn':
            self.objective.to(memory_format=torch.channels_last)
        self.step, self.seconds = 0, 0.0
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    def _resume(self) -> None:
        path = self.folder / 'checkpoint.pt'
        if not path.exists():
            return
        saved = torch.load(path, map_location=self.device, weights_only=True)
        if saved['recipe'] != json.dumps(asdict(self.recipe), sort_keys=True):
            raise ValueError(f'{path}: made by another recipe; give another folder or delete it')
        self.objective.load_state_dict(saved['objective'])
        self.optimizer.load_state_dict(saved['optimizer'])
        self.generator.set_state(saved['generator'].cpu())
        self.step, self.seconds = saved['step'], saved['seconds']

    def save(self) -> None:
        content = {
            'recipe': json.dumps(asdict(self.recipe), sort_keys=True),
            'objective': self.objective.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'generator': self.generator.get_state(),
            'step': self.step,
            'seconds': self.seconds,
        }
        _write(self.folder / 'checkpoint.pt', content)

    def _rows(self, step: int) -> np.ndarray:
        """The images of a step: a fresh order every pass, a function of seed and step alone."""
        n, batch = len(self.train_rows), self.recipe.batch
        per_pass = n // batch
        order = np.random.default_rng([self.recipe.seed, step // per_pass]).permutation(n)
        start = step % per_pass * batch
        return np.sort(self.train_rows[order[start : start + batch]])

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16)

    def _one_step(self) -> float:
        rows = self._rows(self.step)
        images = torch.from_numpy(self.source.images[rows]).to(self.device)
        labels = torch.from_numpy(self.source.labels[rows]).to(self.device)
        x = augment(images, self.size, self.mean, self.std, self.policy, self.generator)
        for group in self.optimizer.param_groups:
            group['lr'] = _rate(self.recipe, self.step, self.steps)
        with self._autocast():
            loss = self.objective(x, labels, self.generator)
        loss.backward()
        nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def score(self, batch: int = 250) -> float:
        """The objective's own score over the held-out images."""
        self.objective.eval()
        scores = []
        for rows in np.array_split(np.sort(self.held_out_rows), max(1, len(self.held_out_rows) // batch)):
            x = normalise(torch.from_numpy(self.source.images[rows]).to(self.device), self.mean, self.std)
            labels = torch.from_numpy(self.source.labels[rows]).to(self.device)
            with self._autocast():
                scores.append(self.objective.score(resize(x, self.size), labels).float().cpu())
        self.objective.train()
        return torch.cat(scores).mean().item()

    def _log(self, **values: float) -> None:
        with (self.folder / 'curve.jsonl').open('a') as file:
            file.write(
                json.dumps({'step': self.step, 'of': self.steps, 'seconds': round(self.seconds, 1)} | values) + '\n'
            )

    def train(self) -> float:
        """Run to the last step; the held-out score. Raises FloatingPointError where the loss is not finite."""
        started, saved, per_pass = (
            time.monotonic() - self.seconds,
            time.monotonic(),
            len(self.train_rows) // self.recipe.batch,
        )
        self.objective.train()
        losses: list[float] = []
        bar = tqdm(total=self.steps, initial=self.step, desc=self.recipe.backbone, unit=' steps', mininterval=10)
        while self.step < self.steps:
            losses.append(self._one_step())
            bar.update()
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f'{self.recipe.backbone}: loss {losses[-1]} at step {self.step}; lower the learning rate'
                )
            self.seconds = time.monotonic() - started
            if len(losses) == self.recipe.report_every or self.step == self.steps:
                self._log(loss=float(np.mean(losses)), learning_rate=_rate(self.recipe, self.step, self.steps))
                losses = []
            if self.step % per_pass == 0 or self.step == self.steps:
                score = self.score()
                bar.set_postfix({self.objective.score_name: f'{score:.3f}'})
                self._log(score=score)
            if time.monotonic() - saved > self.recipe.checkpoint_seconds or self.step == self.steps:
                self.save()
                saved = time.monotonic()
        bar.close()
        return self.score()
