"""A short run for a learning notebook: the study's own data, methods and loop, on synthetic images, in seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from medpeft_utils import plots
from medpeft_utils.plots import INK, MUTED, PALETTE
from medpeft_utils.training.batches import predict
from medpeft_utils.training.classification import Classification, Settings

DATASET = 'synthetic_ham10000'  # seven kinds of drawn skin lesions, 1,875 to train on
STEPS, BATCH = 60, 32
SHOWN = 7  # images in `before_and_after`: one of each class


class Lesson:
    """One method on one small backbone, trained for seconds. The test split stays closed; validation is shown.

    Args:
        method: key of the method.
        backbone: a shipped backbone.
        config: the method's options.
        steps: optimizer steps of 32 images.
        learning_rate: 0 for the method's default on this backbone.
        fraction: share of the training images.
        dataset: a synthetic one.
        seed: of head, adapters and order.
    """

    def __init__(
        self,
        method: str,
        backbone: str = 'vit_base_mini',
        config: Mapping[str, Any] | None = None,
        steps: int = STEPS,
        learning_rate: float = 0.0,
        fraction: float = 1.0,
        dataset: str = DATASET,
        seed: int = 0,
    ):
        settings = Settings(
            dataset=dataset,
            backbone=backbone,
            method=method,
            method_config=json.dumps(dict(config or {})),
            fraction=fraction,
            seed=seed,
            batch_size=BATCH,
            min_steps=steps,
            max_steps=steps,
            evaluations=max(1, min(6, steps // 10)),
            learning_rate=learning_rate,
            head='tied',  # one rate: whoever turns it turns all there is
        )
        self.run = Classification(settings)
        self.seconds = 0.0
        self._before: np.ndarray | None = None

    @property
    def adapted(self):
        """The network with the method applied."""
        return self.run.adapted

    @property
    def model(self):
        """The network itself: [B, 3, S, S] normalised images to [B, K] logits."""
        return self.run.adapted.model

    @property
    def label(self) -> str:
        from medpeft_utils import methods

        return methods.label(self.run.settings.method, self.run.backbone.family)

    def preview(self, per_class: int = 4) -> Figure:
        """Some training images of every class."""
        return plots.preview(self.run.data, per_class)

    def images(self, count: int = 8):
        """Validation images as the network takes them, [B, 3, S, S]."""
        return next(self._validation.in_order(count))

    @property
    def _validation(self):
        from medpeft_utils.training.batches import ImageBatches

        data, rows = self.run.data, self.run.rows('validation')
        return ImageBatches(data.images, data.labels, rows, len(data.classes), self.run.view)

    def train(self, live: bool = True) -> pd.DataFrame | None:
        """Train, with the curve drawn as it grows; keeps what the untrained network predicts for comparison.

        Returns:
            The curve, a row a check, where not `live`.
        """
        self._before = predict(self.adapted, self._validation)
        report = plots.LiveCurve(f'{self.label}, {self.run.backbone.label}', True) if live else None
        started = time.perf_counter()
        fit = self.run.train(report, quiet=not live)
        self.seconds = time.perf_counter() - started
        return None if live else pd.DataFrame(fit.curve)

    @property
    def scores(self) -> dict[str, float]:
        """What came out, on validation: trained parameters (head left out), macro-F1, loss in nats, seconds."""
        best = self.run.result.curve[self.run.result.best]
        scores = {'trained': self.adapted.count(), 'f1_macro': best['validation_f1_macro']}
        return scores | {'loss': best['validation_loss'], 'seconds': self.seconds}

    def memory_mb(self) -> float:
        """What a training step of 32 images holds, in MB: values kept for the backward pass, gradients, AdamW's state.

        The weights themselves, which every method has, are left out. Counted, not measured: the same on all machines.
        """
        import torch
        from torch.nn import functional as F

        kept = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        self.adapted.train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = F.cross_entropy(self.model(self.images(BATCH)), torch.zeros(BATCH, dtype=torch.long))
        for parameter in self.model.parameters():
            kept.pop(parameter.untyped_storage().data_ptr(), None)
        del loss
        return (sum(kept.values()) + 3 * 4 * self.adapted.count(head=True)) / 2**20  # gradient and two moments

    def before_and_after(self, seed: int = 0) -> Figure:
        """A validation image of each class, and the probability of every class before training and after."""
        data, rows = self.run.data, self.run.rows('validation')
        draw = np.random.default_rng(seed)
        chosen = [draw.choice(np.flatnonzero(data.labels[rows] == k)) for k in range(len(data.classes))][:SHOWN]
        after = self.run.result.validation
        figure, axes = plt.subplots(2, len(chosen), figsize=(1.32 * len(chosen), 2.9), height_ratios=(1, 1.15))
        for column, row in zip(axes.T, chosen, strict=True):
            truth = data.labels[rows[row]]
            column[0].imshow(data.images[rows[row]])
            column[0].set_axis_off()
            column[0].set_title(plots.shorten(data.classes[truth], 22), fontsize=6)
            _bars(column[1], self._before[row], after[row], truth)
        axes[1, 0].set_yticks(range(len(data.classes)), [plots.shorten(name) for name in data.classes], fontsize=5.5)
        handles = axes[1, 0].get_legend_handles_labels()
        figure.legend(*handles, ncols=2, frameon=False, fontsize=7, loc='lower left')
        figure.tight_layout(rect=(0, 0.05, 1, 1))
        return plots.finish(figure, True)


def _bars(axis, before: np.ndarray, after: np.ndarray, truth: int) -> None:
    """Probabilities of the classes; the true one has a frame."""
    places = np.arange(len(before))
    axis.barh(places - 0.2, before, 0.38, color='#bdbdbd', label='before training')
    axis.barh(places + 0.2, after, 0.38, color=PALETTE[1], label='after')
    axis.axhspan(truth - 0.45, truth + 0.45, fill=False, edgecolor=INK, lw=0.8)
    axis.set(xlim=(0, 1), ylim=(len(before) - 0.4, -0.6), xticks=(0, 1), yticks=())
    axis.tick_params(labelsize=6, length=2)
    sns.despine(ax=axis)


def compared(lessons: Mapping[str, Lesson]) -> pd.DataFrame:
    """Train each lesson that is not trained yet, quietly; its `scores` in a row under its name."""
    rows = {}
    for name, lesson in lessons.items():
        if lesson.run.result is None:
            lesson.train(live=False)
        rows[name] = lesson.scores
    return pd.DataFrame.from_dict(rows, orient='index').rename_axis('lesson')


def knob(table: pd.DataFrame, name: str) -> Figure:
    """What turning one knob does: loss and macro-F1 on validation, and trained parameters, over its settings.

    Args:
        table: of `compared`, a row for each setting.
        name: of the knob, under the axes.
    """
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.5))
    places = np.arange(len(table))
    panels = [('loss', 'validation loss (nats)', PALETTE[0]), ('f1_macro', 'validation macro-F1', PALETTE[2])]
    panels += [('trained', 'trained parameters', PALETTE[1])]
    for axis, (column, label, color) in zip(axes, panels, strict=True):
        axis.plot(places, table[column], color=color, marker='o', ms=5, lw=1.2)
        axis.set_xticks(places, [str(setting) for setting in table.index], fontsize=7)
        axis.set(xlabel=name, ylabel=label, xlim=(-0.4, len(table) - 0.6))
        axis.margins(y=0.2)
        axis.tick_params(axis='y', labelsize=7)
    axes[2].set_ylim(bottom=0)
    axes[0].text(0, 1.04, 'one seed, seconds of training', transform=axes[0].transAxes, fontsize=7, color=MUTED)
    sns.despine(figure)
    figure.tight_layout()
    return plots.finish(figure, True)


def versions(names: Sequence[str] = ('torch', 'timm', 'peft', 'medpeft')) -> str:
    """The versions that the outputs below came from, in a line."""
    import platform
    from importlib.metadata import version

    return f'Python {platform.python_version()}, ' + ', '.join(f'{name} {version(name)}' for name in names)
