"""A short training for the learning notebooks: drawn skin lesions, one loop, three seeds, the head alone beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from medpeft_utils import backbones, methods, plots
from medpeft_utils.data import synthetic
from medpeft_utils.data.cache import cache_root
from medpeft_utils.data.synthetic.layout import block
from medpeft_utils.plots import INK, PALETTE
from medpeft_utils.training import probe
from medpeft_utils.training.objective import SINGLE_LABEL
from medpeft_utils.training.precision import PLAIN, Precision, choose

KIND = 'ham10000'  # seven kinds of lesions; here as many of every kind, so that macro F1 does not hang on three images
NAMES = (
    'actinic keratosis',
    'carcinoma',
    'benign keratosis',
    'dermatofibroma',
    'melanoma',
    'naevus',
    'vascular lesion',
)
BLOCKS, PER_CLASS = 24, 640  # of so many blocks of the generator the first 640 images of each class are drawn
TRAIN, VALIDATION = 1500, 400  # images; the other 2,580 are the test split
STEPS, BATCH, SEEDS, HEAD_RATE = 200, 32, (0, 1, 2), 1e-3
MIME, DRAWS = 'application/vnd.medpeft.result+json', 1000


def _rows(seed: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """The first rows of each class in the generator's layout, and the lesion that each shows."""
    drawn = np.concatenate([block(synthetic.modality(KIND), seed, number) for number in range(BLOCKS)])
    rows = np.concatenate([np.flatnonzero(drawn[:, 0] == k)[:per_class] for k in range(len(NAMES))])
    return rows, drawn[rows, 1]


@lru_cache(maxsize=1)
def lesions() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pictures [N, 64, 64, 3] uint8 and labels [N] of 'train', 'validation' and 'test'; a lesion is in one of them."""
    chosen, groups = _rows(0, PER_CLASS)
    shuffled = np.random.default_rng(0).permutation(groups.max() + 1)  # a lesion's images stay together
    chosen = chosen[np.argsort(shuffled[groups], kind='stable')]
    pictures, labels, _ = synthetic.generate(KIND, indices=chosen)
    ends = TRAIN, TRAIN + VALIDATION
    parts = zip(np.split(pictures, ends), np.split(labels, ends), strict=True)
    return dict(zip(('train', 'validation', 'test'), parts, strict=True))


def preview(per_class: int = 2) -> Figure:
    """Some training images of every class."""
    pictures, labels = lesions()['train']
    figure, axes = plt.subplots(per_class, len(NAMES), figsize=(9, 1.3 * per_class + 0.2), squeeze=False)
    for k, name in enumerate(NAMES):
        for axis, row in zip(axes[:, k], np.flatnonzero(labels == k), strict=False):
            axis.imshow(pictures[row])
            axis.set_axis_off()
        axes[0, k].set_title(name, fontsize=8)
    figure.tight_layout()
    return plots.finish(figure, True)


def macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean of the F1 of all classes."""
    return float(f1_score(labels, probabilities.argmax(1), average='macro', zero_division=0))


class Task:
    """The images as one backbone takes them, and the head alone, fitted to its optimum on the frozen features.

    `images[split]` is [N, 3, S, S], `labels[split]` [N], and `head_alone[split]` holds probabilities [N, K].
    """

    def __init__(self, backbone: str):
        self.backbone, start = backbone, backbones.load(backbone, num_classes=len(NAMES))
        self.family, self.size, self.mean, self.std = start.family, start.image_size, start.mean, start.std
        self.labels = {split: torch.from_numpy(labels).long() for split, (_, labels) in lesions().items()}
        self.images = {split: self.as_input(pictures) for split, (pictures, _) in lesions().items()}
        how = start.family, self.size, BATCH, torch.device('cpu'), cache_root() / 'precision'
        self.precision = choose(backbone, lambda: start.model, *how)
        features = {split: self._features(start.model, images) for split, images in self.images.items()}
        fitted = [(features[split], self.labels[split]) for split in ('train', 'validation')]
        head = probe.converge(*fitted, len(NAMES), SINGLE_LABEL)
        self.head = head['weight'], head['bias']
        logits = {split: torch.from_numpy(x @ self.head[0].T + self.head[1]) for split, x in features.items()}
        self.head_alone = {split: x.softmax(1).numpy() for split, x in logits.items()}

    def as_input(self, pictures: np.ndarray) -> torch.Tensor:
        """[N, 64, 64, 3] uint8 to [N, 3, S, S] normalised."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return probe.resize(probe.normalise(torch.from_numpy(pictures), mean, std), self.size)

    @torch.no_grad()
    def _features(self, model: nn.Module, images: torch.Tensor) -> np.ndarray:
        """[N, 3, S, S] to what the head is given, [N, D]."""
        model.eval()
        parts = [model.forward_head(model.forward_features(part), pre_logits=True) for part in images.split(250)]
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def predict(self, model: nn.Module, images: torch.Tensor) -> np.ndarray:
        """[N, 3, S, S] to probabilities [N, K]."""
        model.eval()
        with self.precision.autocast(images.device):
            logits = torch.cat([model(self.precision.images(part)) for part in images.split(250)])
        return logits.float().softmax(1).numpy()

    def network(self) -> nn.Module:
        """The pre-trained network with the fitted head, nothing of it frozen."""
        model = backbones.load(self.backbone, num_classes=len(NAMES)).model
        probe.place(model, *self.head)
        return self.precision.prepare(model)

    def score(self, split: str, probabilities: np.ndarray | None = None) -> float:
        """Macro F1 on a split; of the head alone where no probabilities are given."""
        return macro_f1(self.labels[split], self.head_alone[split] if probabilities is None else probabilities)


task = lru_cache(maxsize=2)(Task)


def fit(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    steps: int,
    rate: float,
    seed: int = 0,
    precision: Precision = PLAIN,
    after: Callable[[int], None] = lambda step: None,
) -> None:
    """Train what has `requires_grad`, the head at a rate of its own: the loop that page 1 writes out.

    AdamW without decay; the rates rise over a tenth of the steps and fall along a cosine; images are mirrored at
    random. A BatchNorm of which nothing is trained stays in evaluation mode.

    Args:
        images, labels: [N, 3, S, S] and [N].
        precision: how the forward pass computes; see `training/precision.py`.
        after: called with the number of each step, from 1.
    """
    head = set(model.get_classifier().parameters())
    body = [p for p in model.parameters() if p.requires_grad and p not in head]
    optimizer = torch.optim.AdamW(
        [{'params': body, 'lr': rate}, {'params': list(head), 'lr': HEAD_RATE}], weight_decay=0
    )
    shape = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min(1, 10 * (t + 1) / steps) * (1 + math.cos(math.pi * t / steps)) / 2
    )
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and not any(p.requires_grad for p in module.parameters()):
                module.eval()
        rows = torch.randint(len(images), (BATCH,), generator=draw)
        mirrored = torch.rand(BATCH, 1, 1, 1, generator=draw) < 0.5
        x = torch.where(mirrored, images[rows].flip(3), images[rows])  # [B, 3, S, S]
        with precision.autocast(x.device):
            logits = model(precision.images(x))
        loss = F.cross_entropy(logits.float(), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shape.step()
        after(step + 1)


@dataclass(frozen=True)
class Result:
    """Macro F1 on the test images.

    Args:
        method, backbone: names.
        trained: parameters, the head left out.
        steps, rate: of the training.
        cpu_seconds, seconds: of all seeds, as measured.
        head_alone: of the head fitted on frozen features.
        seeds: of the method, with each seed.
        low, high: of the mean difference, 95 %, over test images and seeds drawn together.
    """

    method: str
    backbone: str
    trained: int
    steps: int
    rate: float
    cpu_seconds: float
    seconds: float
    head_alone: float
    seeds: Sequence[float]
    low: float
    high: float

    @property
    def gain(self) -> float:
        return float(np.mean(self.seeds)) - self.head_alone

    def __str__(self) -> str:
        seeds = ', '.join(f'{score:.3f}' for score in self.seeds)
        better = 'above zero' if self.low > 0 else 'below zero' if self.high < 0 else 'zero is within it'
        return (
            f'{self.method}: macro F1 {np.mean(self.seeds):.3f} on the test images (seeds {seeds})\n'
            f'Head alone: {self.head_alone:.3f}\n'
            f'Difference: {self.gain:+.3f}, 95 % interval [{self.low:+.3f}, {self.high:+.3f}] ({better})\n'
            f'{self.trained:,} parameters trained besides the head; {self.steps} steps at a rate of {self.rate:g}; '
            f'{self.cpu_seconds:.0f} CPU seconds ({self.seconds:.0f} s by the clock) for {len(self.seeds)} seeds'
        )

    def _repr_mimebundle_(self, **_) -> dict[str, Any]:
        return {'text/plain': str(self), MIME: asdict(self)}


def _interval(labels: np.ndarray, head: np.ndarray, seeds: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % interval of the mean macro F1 of `seeds` minus that of `head`; each is probabilities [N, K]."""
    truth, predicted = (
        np.eye(head.shape[1])[labels],
        np.stack([np.eye(head.shape[1])[p.argmax(1)] for p in (head, *seeds)]),
    )
    draw, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        weight = np.bincount(draw.integers(len(labels), size=len(labels)), minlength=len(labels))[:, None]
        hits, all_of = (weight * truth * predicted).sum(1), (weight * (truth + predicted)).sum(1)  # [1 + seeds, K]
        scores = (2 * hits / np.maximum(all_of, 1)).mean(1)
        found.append(scores[draw.integers(1, len(scores), size=len(seeds))].mean() - scores[0])
    return tuple(np.quantile(found, (0.025, 0.975)))


class Lesson:
    """A method on one small backbone, trained in seconds with each of three seeds, from the fitted head.

    Args:
        method: the function of a page, which puts the method into a network and leaves `requires_grad` on what is
            trained, or the key of a method of the package. The head is always trained.
        rate: peak learning rate of what is trained in the network.
        backbone: a shipped one.
        steps: optimizer steps of 32 images.
        label: in pictures.
        config: options of a method of the package.
    """

    def __init__(
        self,
        method: Callable[[nn.Module], Any] | str,
        rate: float,
        backbone: str = 'vit_base_mini',
        steps: int = STEPS,
        label: str = '',
        config: Mapping[str, Any] | None = None,
    ):
        self.task, self.method, self.rate, self.steps, self.config = task(backbone), method, rate, steps, config
        self.label = label or (methods.label(method, self.task.family) if isinstance(method, str) else method.__name__)
        self.model = self.fresh(SEEDS[0])  # of the first seed
        self.found: list[dict[str, np.ndarray]] = []  # a seed each: split to probabilities [N, K]
        self.cpu_seconds = self.seconds = 0.0

    def fresh(self, seed: int) -> nn.Module:
        """The pre-trained network with the method in it, nothing trained yet."""
        model = self.task.network()
        torch.manual_seed(seed)
        if isinstance(self.method, str):
            return methods.apply(model, self.method, self.task.family, dict(self.config or {}), seed=seed).model
        self.method(model)
        model.get_classifier().requires_grad_(True)
        return model

    @property
    def trained(self) -> int:
        """Trained parameters, the head left out."""
        head = set(self.model.get_classifier().parameters())
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad and p not in head)

    def train(self, live: bool = True) -> None:
        """Train every seed anew; the validation curves are drawn as they grow, unless not `live`."""
        self.found, curves, handle = [], [], _display() if live else None
        clock, cpu, images, labels = time.perf_counter(), time.process_time(), self.task.images, self.task.labels
        for seed in SEEDS:
            model, curve = self.fresh(seed), [(0, self.task.score('validation'))]
            curves.append(curve)

            def after(step: int, model=model, curve=curve) -> None:
                if live and step % (self.steps // 4) == 0:
                    curve.append((step, self.task.score('validation', self.task.predict(model, images['validation']))))
                    handle.update(self._curves(curves))

            fit(model, images['train'], labels['train'], self.steps, self.rate, seed, self.task.precision, after)
            self.found.append({split: self.task.predict(model, images[split]) for split in ('validation', 'test')})
            self.model = model if seed == SEEDS[0] else self.model
        self.seconds, self.cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu

    def _curves(self, curves: Sequence[Sequence[tuple[int, float]]]) -> Figure:
        figure, axis = plt.subplots(figsize=(6, 2.6))
        for number, curve in enumerate(curves):
            axis.plot(
                *zip(*curve, strict=True), color=PALETTE[number], marker='o', ms=3, lw=1.2, label=f'seed {number}'
            )
        axis.set(xlabel='step', ylabel='validation macro F1', xlim=(0, self.steps), title=self.label)
        axis.legend(frameon=False, fontsize=7, loc='upper left', bbox_to_anchor=(1, 1))
        return _with_head_alone(figure, axis, self.task)

    @property
    def scores(self) -> list[float]:
        """Macro F1 on validation, of every seed."""
        return [self.task.score('validation', found['validation']) for found in self.found]

    def result(self) -> Result:
        """Macro F1 on the test images beside the head alone; read once, after all choices."""
        head, found = self.task.head_alone['test'], [found['test'] for found in self.found]
        scores = [self.task.score('test', each) for each in found]
        cost = self.trained, self.steps, self.rate, self.cpu_seconds, self.seconds
        low, high = _interval(self.task.labels['test'].numpy(), head, found)
        return Result(self.label, self.task.backbone, *cost, self.task.score('test'), scores, low, high)

    def on_new_images(self, seed: int = 1) -> Figure:
        """New lesions, one of each class: probabilities of the head alone and of the trained network."""
        pictures, *_ = synthetic.generate(KIND, seed=seed, indices=_rows(seed, 1)[0])
        x, places = self.task.as_input(pictures), np.arange(len(NAMES))
        bars = {'head alone': self.task.predict(self.task.network(), x), self.label: self.task.predict(self.model, x)}
        figure, axes = plt.subplots(2, len(NAMES), figsize=(9.4, 3.1), height_ratios=(1, 1.15))
        for k, (picture, axis) in enumerate(axes.T):
            picture.imshow(pictures[k])
            picture.set_axis_off()
            picture.set_title(NAMES[k], fontsize=7)
            for shift, color, (label, p) in zip((-0.2, 0.2), ('#bdbdbd', PALETTE[1]), bars.items(), strict=True):
                axis.barh(places + shift, p[k], 0.38, color=color, label=label)
            axis.axhspan(k - 0.45, k + 0.45, fill=False, edgecolor=INK, lw=0.8)
            axis.set(xlim=(0, 1), ylim=(len(NAMES) - 0.4, -0.6), xticks=(0, 1), yticks=())
            axis.tick_params(labelsize=6, length=2)
            sns.despine(ax=axis)
        axes[1, 0].set_yticks(places, NAMES, fontsize=6)
        figure.legend(*axes[1, 0].get_legend_handles_labels(), ncols=2, frameon=False, fontsize=7, loc='lower left')
        figure.tight_layout(rect=(0, 0.05, 1, 1))
        return plots.finish(figure, True)


def knob(lessons: Mapping[Any, Lesson], name: str, ordered: bool = True) -> Figure:
    """What turning one knob does on validation: a point for each seed, the head alone as a dashed line.

    Args:
        lessons: by setting; those that are not trained yet are, with a bar of progress.
        name: of the knob, under the axis.
        ordered: join the means by a line; not for categories.
    """
    for lesson in tqdm(lessons.values(), desc=name):
        if not lesson.found:
            lesson.train(live=False)
    figure, axis = plt.subplots(figsize=(6, 2.8))
    for place, lesson in enumerate(lessons.values()):
        axis.plot([place] * len(SEEDS), lesson.scores, 'o', color=PALETTE[0], ms=5, alpha=0.6)
    if ordered:
        axis.plot([np.mean(lesson.scores) for lesson in lessons.values()], color=PALETTE[0], lw=1)
    ticks = [f'{setting}\n{lesson.trained:,} trained' for setting, lesson in lessons.items()]
    axis.set_xticks(range(len(ticks)), ticks, fontsize=8)
    axis.set(xlabel=name, ylabel='validation macro F1', xlim=(-0.5, len(ticks) - 0.5))
    return _with_head_alone(figure, axis, lesson.task)


def _with_head_alone(figure: Figure, axis, shown: Task) -> Figure:
    axis.axhline(shown.score('validation'), color=INK, ls='--', lw=1)
    place = (0.99, shown.score('validation'))
    axis.text(*place, 'head alone', transform=axis.get_yaxis_transform(), ha='right', va='bottom', fontsize=8)
    axis.margins(y=0.15)
    sns.despine(figure)
    figure.tight_layout()
    return plots.finish(figure, True)


def _display():
    from IPython.display import display

    return display(None, display_id=True)


def results(folder: str | Path = '.') -> pd.DataFrame:
    """The results in the outputs of a folder's learning notebooks, a row each."""
    found = []
    for path in sorted(Path(folder).glob('[0-9]*.ipynb')):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get('outputs', ()):
                if kept := output.get('data', {}).get(MIME):
                    found.append({'page': path.stem} | kept | {'gain': Result(**kept).gain})
    return pd.DataFrame(found)


def versions(names: Sequence[str] = ('torch', 'timm', 'peft', 'medpeft')) -> str:
    """The versions that the outputs below came from, in a line."""
    import platform
    from importlib.metadata import version

    return f'Python {platform.python_version()}, ' + ', '.join(f'{name} {version(name)}' for name in names)
