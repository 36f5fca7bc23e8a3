"""Pre-train one small backbone; killed at any moment, it goes on from its checkpoint.

`Recipe` is everything that decides the result; `publish.py` turns what is finished into shipped weights and their card.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from medpeft_utils.backbones.small import SMALL_BACKBONES
from medpeft_utils.core.errors import DoesNotFit
from medpeft_utils.training.augment import Augmentation, augment, normalise, resize
from recipes.backbones.objectives import OBJECTIVES
from recipes.backbones.source import NaturalImages
from recipes.stage import Stage, StageConfig

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
        grown_from: file of a ViT of the same width and of the same depth or less to begin from (`deepen`), or '':
            published weights, or another pre-training's `finished.safetensors`, which has the head too.
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
    """An encoder's tensors in float32: from published weights, or with its head from a finished pre-training.

    An `fc_norm` is left out: pre-training normalises every token.
    """
    state = load_file(path)
    if any(name.startswith('encoder.') for name in state):
        state = {name.removeprefix('encoder.'): t for name, t in state.items() if name.startswith('encoder.')}
    return {name: tensor.float() for name, tensor in state.items() if not name.startswith('fc_norm.')}


def block_plan(shallow: int, deep: int) -> list[tuple[int, bool]]:
    """For every block of the deep network: the block that it copies, and whether it is new (an identity)."""
    sources = [i * shallow // deep for i in range(deep)]
    return [(source, i > 0 and sources[i - 1] == source) for i, source in enumerate(sources)]


def deepen(state: dict[str, torch.Tensor], shallow: int, deep: int) -> dict[str, torch.Tensor]:
    """The state of a ViT with `deep` blocks that computes the same function as `state`, which has `shallow`.

    Net2DeeperNet (Chen, Goodfellow and Shlens 2016, arXiv:1511.05641), in the residual form: a new block is a copy of
    its predecessor with output projections of zero. It passes its input on unchanged and learns from there.
    """
    grown = {name: tensor.clone() for name, tensor in state.items() if not name.startswith('blocks.')}
    for i, (source, new) in enumerate(block_plan(shallow, deep)):
        prefix = f'blocks.{source}.'
        for name, tensor in state.items():
            if name.startswith(prefix):
                silent = new and name.removeprefix(prefix).startswith(('attn.proj.', 'mlp.fc2.'))
                grown[f'blocks.{i}.' + name.removeprefix(prefix)] = (
                    torch.zeros_like(tensor) if silent else tensor.clone()
                )
    return grown


class Pretraining(Stage):
    """One pre-training in one folder: `train()` runs it to the end, from wherever an earlier call stopped."""

    def __init__(self, recipe: Recipe, source: NaturalImages, folder: str | os.PathLike, device: str = 'cpu'):
        self.recipe, self.source, small = recipe, source, SMALL_BACKBONES[recipe.backbone]
        rows = source.split(recipe.held_out_share, recipe.split_seed)
        steps = max(1, int(recipe.passes * len(rows[0]) / recipe.batch))
        self.objective = _build(recipe, source.captions)
        if small.family == 'cnn':
            self.objective.to(memory_format=torch.channels_last)
        self.mean, self.std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)
        self.size = small.image_size
        self.policy = Augmentation(scale=(recipe.smallest_crop, 1.0), ratio=4 / 3, brightness=0.2, contrast=0.2)
        config = StageConfig(
            learning_rate=recipe.learning_rate,
            min_steps=steps,
            max_steps=steps,
            batch_size=recipe.batch,
            weight_decay=recipe.weight_decay,
            warmup_fraction=recipe.warmup_share,
            scored_every=max(1, len(rows[0]) // recipe.batch),
            clip=1.0,
            seed=recipe.seed,
        )
        super().__init__(self.objective, config, asdict(recipe), *rows, folder, device)

    def optimizer(self, config: StageConfig) -> torch.optim.Optimizer:
        """AdamW; betas as MAE has them where patches are masked."""
        decay = [p for p in self.objective.parameters() if p.ndim > 1]
        rest = [p for p in self.objective.parameters() if p.ndim <= 1]
        betas = (0.9, 0.95) if self.recipe.objective.startswith('masked') else (0.9, 0.999)
        groups = [{'params': decay, 'weight_decay': config.weight_decay}, {'params': rest, 'weight_decay': 0.0}]
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)

    def batch(self, rows: np.ndarray, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented images [B, 3, S, S] and their labels [B]."""
        at = super().batch(rows, generator)
        images = torch.from_numpy(self.source.images[at]).to(self.device)
        x = augment(images, self.size, self.mean, self.std, self.policy, generator)
        return x, torch.from_numpy(self.source.labels[at]).to(self.device)

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16)

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The objective's."""
        with self._autocast():
            return self.objective(*batch, self.generator)

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
