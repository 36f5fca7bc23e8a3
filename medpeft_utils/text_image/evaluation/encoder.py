"""The encoder of the domain: a small network that learns the findings of the training split, and whose features FID is
taken on. No weights need to be fetched for it, and it knows what differs between radiographs, which a network of
photographs need not (Inception's features were learned on ImageNet).

It is trained once for a set, from a seed, on training pairs only, and kept by a hash of what it learned from. Distances
on its features compare runs that share it, and are not on the scale of those on Inception's.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from medpeft_utils.core.shared import once
from medpeft_utils.data import Dataset
from medpeft_utils.methods.adapted import seeded
from medpeft_utils.text_image.evaluation.targets import Targets, targets_of

SIDE = 64  # px; larger and smaller images are resized
EMBEDDED = 64
MOST_PAIRS = 10_000
BLOCK = 250
KINDS = 2  # bumped where the architecture or its training changes


@dataclass(frozen=True)
class Schedule:
    """How the encoder is trained: steps of AdamW on shifted, brightened images, the rate in one cycle."""

    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    shift: int = 4  # px, at most
    seed: int = 0


def resized(x: torch.Tensor) -> torch.Tensor:
    """[N, 3, H, W] to [N, 3, 64, 64], antialiased."""
    if x.shape[-2:] == (SIDE, SIDE):
        return x
    return F.interpolate(x, (SIDE, SIDE), mode='bilinear', antialias=True, align_corners=False)


class Encoder(nn.Module):
    """Four strided convolutions, an embedding and a linear head on it.

    Its features are the embedding (64), which sees places, since a finding is on a side and in a zone, and the mean
    activations of the first two stages (16 and 32), which see texture: by the embedding alone white noise would be
    hardly further from radiographs than radiographs without findings are.

    Args:
        labels: how many labels the head tells apart.
    """

    num_features = EMBEDDED + 16 + 32

    def __init__(self, labels: int):
        super().__init__()
        widths = (3, 16, 32, 64, 128)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.GELU())
            for before, after in itertools.pairwise(widths)
        )
        self.embedding = nn.Linear(widths[-1] * (SIDE // 16) ** 2, EMBEDDED)
        self.head = nn.Linear(EMBEDDED, labels)
        self.register_buffer('mean', torch.zeros(self.num_features))
        self.register_buffer('std', torch.ones(self.num_features))

    def raw(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] uint8 or 0..255 to [N, 112], before standardisation."""
        x, texture = resized(images.float()) / 127.5 - 1, []
        for stage in self.stages:
            x = stage(x)
            texture.append(x.mean(dim=(2, 3)))
        return torch.cat([self.embedding(x.flatten(1)), *texture[:2]], dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] uint8 to features [N, 112], of mean 0 and deviation 1 over the training images."""
        return (self.raw(images) - self.mean) / self.std

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """[N, 112] features of `forward` to [N, L] logits of the labels."""
        return self.head(F.gelu((features * self.std + self.mean)[:, :EMBEDDED]))


def encoder_rows(pairs: Dataset, most: int = MOST_PAIRS) -> np.ndarray:
    """Training rows that the encoder learns from: whole patients, the same in any larger part of the set."""
    return pairs.train_pairs(min(most, len(pairs.rows('train'))), seed=0)


def key_of(pairs: Dataset, rows: np.ndarray, targets: Targets, schedule: Schedule) -> str:
    """Hash, 16 hex, of what an encoder is trained on and how: splits, labels, 200 of the images, schedule."""
    digest = hashlib.sha256(f'{KINDS} {pairs.split_hash} {pairs.images.shape[1:]} {asdict(schedule)}'.encode())
    digest.update(repr((targets.kind, targets.names)).encode() + targets.values[rows].tobytes() + rows.tobytes())
    digest.update(np.ascontiguousarray(pairs.images[rows[:: max(1, len(rows) // 200)]]).tobytes())
    return digest.hexdigest()[:16]


def _augmented(images: np.ndarray, draw: np.random.Generator, shift: int) -> torch.Tensor:
    """[B, S, S, 3] uint8 to [B, 3, 64, 64] in 0..255, moved by some pixels, with another contrast and brightness."""
    x = resized(torch.from_numpy(images).permute(0, 3, 1, 2).float())  # [B, 3, 64, 64]
    x = F.pad(x, (shift,) * 4, mode='replicate')
    places = draw.integers(0, 2 * shift + 1, (len(x), 2))
    x = torch.stack([one[:, top : top + SIDE, left : left + SIDE] for one, (top, left) in zip(x, places, strict=True)])
    contrast, bright = (torch.from_numpy(draw.normal(0, s, (len(x), 1, 1, 1))).float() for s in (0.1, 10.0))
    return ((x - 127.5) * (1 + contrast) + 127.5 + bright).clamp(0, 255)


def train(pairs: Dataset, rows: np.ndarray, targets: Targets, schedule: Schedule, device: torch.device) -> Encoder:
    """An encoder trained on `rows` to tell their labels; unknown ones count nothing. One seed gives one encoder."""
    draw = np.random.default_rng(schedule.seed)
    with seeded(schedule.seed):
        model = Encoder(len(targets.names)).to(device)
    settings = {'lr': schedule.learning_rate, 'weight_decay': schedule.weight_decay}
    optimizer = torch.optim.AdamW(model.parameters(), **settings)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.learning_rate, total_steps=schedule.steps)
    model.train()
    for _ in range(schedule.steps):
        batch = np.sort(draw.choice(rows, min(schedule.batch_size, len(rows)), replace=False))
        labels = torch.from_numpy(targets.values[batch]).to(device)
        logits = model.logits(model(_augmented(pairs.images[batch], draw, schedule.shift).to(device)))
        known = labels >= 0
        losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).float(), reduction='none')
        loss = (losses * known).sum() / known.sum().clamp(min=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
    model.eval()
    features = torch.from_numpy(encode(model, pairs.images, rows))
    model.mean.copy_(features.mean(dim=0))
    model.std.copy_(features.std(dim=0).clamp(min=1e-3))
    return model


@torch.no_grad()
def encode(model: nn.Module, images: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Features [N, D] float32 of images [N, S, S, 3] uint8, or of some rows of them, by a network of uint8 images."""
    rows = np.arange(len(images)) if rows is None else rows
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(rows), BLOCK):
        x = torch.from_numpy(np.array(images[rows[start : start + BLOCK]])).permute(0, 3, 1, 2)  # [B, 3, S, S]
        parts.append(model(x.to(device)).float().cpu())
    return torch.cat(parts).numpy()


@torch.no_grad()
def probabilities(model: Encoder, features: np.ndarray) -> np.ndarray:
    """[N, L] probability of each label from features [N, 112]."""
    return model.logits(torch.from_numpy(features).to(model.mean.device)).sigmoid().cpu().numpy()


def hash_of(model: nn.Module) -> str:
    """16 hex over all weights: distances on features compare where it is the same."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    save_file(tensors, partial)
    os.replace(partial, path)


def trained_once(
    pairs: Dataset, folder: Path, schedule: Schedule | None = None, device: torch.device | str = 'cpu'
) -> tuple[Encoder, Targets]:
    """The set's encoder, trained by whichever process comes first and read by the others, with its labels.

    Args:
        pairs: the whole set: runs that load different parts of it would be judged by different encoders where these
            hold fewer than 10,000 training pairs.
        folder: where it is kept, as <key>.safetensors.
        schedule: how it is trained.
        device: where it is trained and used.
    Raises:
        BadInput: the set has neither findings nor words that tell its texts apart.
    """
    schedule, folder, device = schedule or Schedule(), Path(folder), torch.device(device)
    rows = encoder_rows(pairs)
    targets = targets_of(pairs, rows)
    key = key_of(pairs, rows, targets, schedule)
    path = folder / f'{key}.safetensors'

    def compute() -> dict:
        folder.mkdir(parents=True, exist_ok=True)
        _write(train(pairs, rows, targets, schedule, device).state_dict(), path)
        return {'file': path.name, 'labels': list(targets.names), 'kind': targets.kind, 'training_images': len(rows)}

    once(folder / f'{key}.json', compute)
    model = Encoder(len(targets.names))
    model.load_state_dict(load_file(path))
    return model.to(device).eval(), targets


def features_once(model: Encoder, pairs: Dataset, split: str, folder: Path) -> np.ndarray:
    """Features [n, 112] of all images of a split in the order of `pairs.rows(split)`, computed once and kept."""
    rows, folder = pairs.rows(split), Path(folder)
    sample = np.ascontiguousarray(pairs.images[rows[:: max(1, len(rows) // 200)]]).tobytes()
    key = hashlib.sha256(f'{hash_of(model)} {pairs.split_hash} {pairs.image_size}'.encode() + rows.tobytes() + sample)
    path = folder / f'{split}_{key.hexdigest()[:16]}.safetensors'

    def compute() -> dict:
        folder.mkdir(parents=True, exist_ok=True)
        _write({'features': torch.from_numpy(encode(model, pairs.images, rows))}, path)
        return {'file': path.name, 'images': len(rows)}

    once(path.with_suffix('.json'), compute)
    return load_file(path)['features'].numpy()
