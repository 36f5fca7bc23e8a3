"""The encoder of the domain: a small network that learns the findings of a set; KID and FID are taken on its features.

It needs no download, and it knows what differs between radiographs; a network of photographs need not (Inception
learned its features on ImageNet). One encoder for each set is trained from a seed, on training pairs only, and kept
under a hash of what it learned from. A fifth of the training patients is held out: their loss selects the state, and
real test images are compared with theirs, which the encoder cannot know by heart. Distances compare between runs that
share an encoder.

Papers report distances on Inception v3. We use it where its weights are on this machine and never fetch them. The
network must be the port from TensorFlow (pt_inception-2015-12-05) that torch-fidelity builds; torchvision's Inception
v3 has other weights and gives other numbers.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.files import write_tensors
from medpeft_utils.core.hashing import digest, tensors_digest
from medpeft_utils.core.shared import once
from medpeft_utils.data import Dataset
from medpeft_utils.methods.adapted import seeded
from medpeft_utils.text_image.evaluation.adherence import Labels, labels_of, pooled
from medpeft_utils.training.config import TrainingConfig
from medpeft_utils.training.loop import Evaluation, Task, WholeNetwork, fit

SIDE = 64  # px; larger and smaller images are resized
EMBEDDED = 64
MOST_PAIRS = 10_000
HELD_OUT = 0.2  # of the training patients
BLOCK = 250
KINDS = 3  # bumped where the architecture or its training changes


@dataclass(frozen=True)
class Schedule(TrainingConfig):
    """How the encoder is trained: AdamW on augmented images, and the best of some evaluations is kept.

    A small set gets fewer steps: 400 steps are 80 passes over 320 images, which a network of this size learns by heart.

    Args:
        dropout: of the features that the head sees.
    """

    learning_rate: float = 3e-3
    epochs: int = 40
    min_steps: int = 1
    max_steps: int = 400
    weight_decay: float = 0.3
    warmup_fraction: float = 0.3
    evaluations: int = 16
    dropout: float = 0.3


def resized(x: torch.Tensor) -> torch.Tensor:
    """[N, 3, H, W] to [N, 3, 64, 64], antialiased."""
    if x.shape[-2:] == (SIDE, SIDE):
        return x
    return F.interpolate(x, (SIDE, SIDE), mode='bilinear', antialias=True, align_corners=False)


class Encoder(nn.Module):
    """Four strided convolutions, an embedding and a linear head on it.

    Its features are the embedding (64), which knows places, since a finding has a side and a zone, and the mean
    activations of the first two stages (16 and 32), which know texture. On the embedding alone, white noise would lie
    hardly further from radiographs than radiographs without findings do.

    Args:
        labels: how many labels the head predicts.
        dropout: of the features that the head sees, in training.
    """

    num_features = EMBEDDED + 16 + 32

    def __init__(self, labels: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = dropout
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
        embedding = (features * self.std + self.mean)[:, :EMBEDDED]
        return self.head(F.dropout(F.gelu(embedding), self.dropout, self.training))


def encoder_rows(pairs: Dataset, most: int = MOST_PAIRS) -> tuple[np.ndarray, np.ndarray]:
    """Training rows that the encoder learns from, and rows of other patients that select its state.

    The rows stay the same when the set grows. With fewer than five patients both are all rows.
    """
    rows = pairs.train_pairs(min(most, len(pairs.rows('train'))), seed=0)
    patients = np.unique(pairs.groups[rows])
    if len(patients) < 1 / HELD_OUT:
        return rows, rows
    chosen = np.random.default_rng(0).permutation(patients)[: round(HELD_OUT * len(patients))]
    held_out = np.isin(pairs.groups[rows], chosen)
    return rows[~held_out], rows[held_out]


def key_of(pairs: Dataset, rows: np.ndarray, labels: Labels, schedule: Schedule) -> str:
    """16 hex digits over what an encoder learns from, and how: split, labels, 200 of the images, schedule."""
    described = f'{KINDS} {pairs.split_hash} {pairs.images.shape[1:]} {asdict(schedule)} {(labels.kind, labels.names)}'
    some = np.ascontiguousarray(pairs.images[rows[:: max(1, len(rows) // 200)]])
    return digest(described, labels.values[rows].tobytes(), rows.tobytes(), some.tobytes())


def augmented(images: np.ndarray, generator: torch.Generator) -> torch.Tensor:
    """[B, S, S, 3] uint8 to [B, 3, 64, 64] in 0..255: rotated, scaled, moved, in other contrast and brightness.

    Never mirrored, since a finding has a side.
    """
    x = resized(torch.from_numpy(images).permute(0, 3, 1, 2).float())  # [B, 3, 64, 64]
    angle, scale, right, down, contrast, bright = 2 * torch.rand(6, len(x), generator=generator) - 1  # [B] each, -1..1
    angle, scale = angle * 0.17, 1 + 0.15 * scale  # 10 degrees, 15 %
    turn = torch.stack([scale * angle.cos(), -scale * angle.sin(), 0.12 * right], dim=1)
    turn = torch.stack([turn, torch.stack([scale * angle.sin(), scale * angle.cos(), 0.12 * down], dim=1)], dim=1)
    grid = F.affine_grid(turn, list(x.shape), align_corners=False)  # [B, 64, 64, 2] of [B, 2, 3]
    x = F.grid_sample(x, grid, padding_mode='border', align_corners=False)
    contrast, bright = (1 + 0.3 * contrast).view(-1, 1, 1, 1), (30 * bright).view(-1, 1, 1, 1)
    return ((x - 127.5) * contrast + 127.5 + bright).clamp(0, 255)


class Recognition(Task):
    """Learn the labels of radiographs, without the unknown ones; the lowest loss on `held_out` selects."""

    def __init__(self, model: Encoder, pairs: Dataset, rows: np.ndarray, held_out: np.ndarray, labels: Labels):
        super().__init__(WholeNetwork(model), len(rows), model.mean.device)
        self.model, self.pairs, self.rows, self.held_out, self.labels = model, pairs, rows, held_out, labels

    def batch(self, rows: np.ndarray, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented images [B, 3, 64, 64], labels [B, L]."""
        at = np.sort(self.rows[rows])
        x = augmented(np.ascontiguousarray(self.pairs.images[at]), generator)
        return x.to(self.device), torch.from_numpy(self.labels.values[at]).to(self.device)

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Binary cross-entropy, mean over the labels that are known."""
        return _known_loss(self.model.logits(self.model(batch[0])), batch[1])

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Loss and pooled AUROC over the patients held out."""
        self.model.eval()
        features = torch.from_numpy(encode(self.model, self.pairs.images, self.held_out)).to(self.device)
        logits, values = self.model.logits(features).cpu(), self.labels.values[self.held_out]
        loss = _known_loss(logits, torch.from_numpy(values)).item()
        area = pooled(values, logits.numpy(), np.ones((1, len(values))))[0]
        return Evaluation((-loss,), {'validation_loss': loss, 'validation_auroc': float(area)})


def _known_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    known = labels >= 0
    losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).float(), reduction='none')
    return (losses * known).sum() / known.sum().clamp(min=1)


def train(
    pairs: Dataset, rows: tuple[np.ndarray, np.ndarray], labels: Labels, schedule: Schedule, device: torch.device
) -> tuple[Encoder, dict]:
    """Train an encoder on the first rows and select its state on the second. The same seed gives the same encoder.

    Returns:
        The encoder; and training_images, held_out_images, training_auroc, held_out_auroc (pooled over the labels; if
        the first is far above the second, it knows its images by heart), steps, best_step, curve.
    """
    with seeded(schedule.seed):
        model = Encoder(len(labels.names), schedule.dropout).to(device)
    result = fit(Recognition(model, pairs, *rows, labels), schedule, quiet=True)
    model.eval()
    features = torch.from_numpy(encode(model, pairs.images, rows[0])).to(device)
    about = {'training_images': len(rows[0]), 'held_out_images': len(rows[1])}
    for name, split_rows in zip(('training_auroc', 'held_out_auroc'), rows, strict=True):
        seen = probabilities(model, encode(model, pairs.images, split_rows))
        about[name] = round(float(pooled(labels.values[split_rows], seen, np.ones((1, len(split_rows))))[0]), 4)
    model.mean.copy_(features.mean(dim=0))
    model.std.copy_(features.std(dim=0).clamp(min=1e-3))
    return model, about | {'steps': result.steps, 'best_step': result.curve[result.best]['step'], 'curve': result.curve}


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


def trained_once(
    pairs: Dataset, folder: Path, schedule: Schedule | None = None, device: torch.device | str = 'cpu'
) -> tuple[Encoder, Labels, dict]:
    """The set's encoder with its labels: the first process trains it and all others read it.

    Args:
        pairs: the whole set; an encoder of a part of it may be another one.
        folder: where it is kept, as <key>.safetensors.
        schedule: how it is trained.
        device: where it is trained and used.
    Returns:
        The encoder, the labels, and what `train` says of it.
    Raises:
        BadInput: the set has no findings, and no words that some texts have and others lack.
    """
    schedule, folder, device = schedule or Schedule(), Path(folder), torch.device(device)
    rows = encoder_rows(pairs)
    labels = labels_of(pairs, np.union1d(*rows))
    path = folder / f'{key_of(pairs, np.union1d(*rows), labels, schedule)}.safetensors'

    def compute() -> dict:
        model, about = train(pairs, rows, labels, schedule, device)
        write_tensors(path, model.state_dict())
        return about

    about = once(path.with_suffix('.json'), compute)
    model = Encoder(len(labels.names), schedule.dropout)
    model.load_state_dict(load_file(path))
    return model.to(device).eval(), labels, about


def features_once(model: Encoder, pairs: Dataset, split: str, folder: Path) -> np.ndarray:
    """Features [n, 112] of a split's images in the order of `pairs.rows(split)`, computed once and kept."""
    rows = pairs.rows(split)
    some = np.ascontiguousarray(pairs.images[rows[:: max(1, len(rows) // 200)]])
    named = f'{tensors_digest(model.state_dict())} {pairs.split_hash} {pairs.image_size}'
    path = Path(folder) / f'{split}_{digest(named, rows.tobytes(), some.tobytes())}.safetensors'

    def compute() -> dict:
        write_tensors(path, {'features': torch.from_numpy(encode(model, pairs.images, rows))})
        return {'file': path.name, 'images': len(rows)}

    once(path.with_suffix('.json'), compute)
    return load_file(path)['features'].numpy()


# ---- Inception

FILE = 'weights-inception-2015-12-05-6726825d.pth'
SOURCE = f'https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}'


class Inception(nn.Module):
    """Uint8 images [N, 3, H, W] to the 2,048 features before Inception's classifier; resized to 299 px inside.

    Args:
        network: torchmetrics' NoTrainInceptionV3.
    """

    num_features = 2048

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] uint8 to [N, 2048]."""
        return self.network(images).reshape(len(images), -1)


def load_inception(path: str | os.PathLike) -> Inception:
    """Inception v3 from a weights file on this machine.

    Raises:
        BadInput: there is no such file, it holds something else, or torch-fidelity is not installed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise BadInput(f"{path}: no such file; download Inception's weights once from {SOURCE}")
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        # torch-fidelity unpickles anything, so refuse a file that holds more than tensors first.
        torch.load(path, map_location='meta', weights_only=True)
        network = NoTrainInceptionV3('inception-v3-compat', ['2048'], str(path))
    except ModuleNotFoundError as error:
        raise BadInput('FID on Inception needs the package torch-fidelity: pip install torch-fidelity') from error
    except Exception as error:  # torch raises many kinds
        raise BadInput(f'{path}: not the weights of Inception v3 ({error}); take {SOURCE}') from error
    return Inception(network).eval()
