"""A short run of text to image for a learning notebook: the study's own pairs and loop, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from medpeft_utils import methods, plots
from medpeft_utils.text_image import plots as pictures
from medpeft_utils.text_image.adaptation import Settings, TextToImage
from medpeft_utils.text_image.encoding import Encoded, encode

DATASET = 'synthetic_chest_pairs'  # drawn radiographs with a sentence each
PIPELINE = 'stable_diffusion_mini'
PROMPTS = 'No acute cardiopulmonary process.', 'Large right pleural effusion.', 'Severe cardiomegaly.'
PAIRS, BATCH = 256, 16


class _Short(TextToImage):
    """A run that encodes only the pairs that it uses; `put` is how a page puts its method into the U-Net."""

    put: Callable[[nn.Module], Any] | None = None

    @cached_property
    def encoded(self) -> Encoded:
        rows = np.union1d(self.rows('train'), self.rows('validation'))
        return encode(self.pipeline, self.data.images, self.data.texts, rows, self.cache / 'encoded')

    def _apply(self, unet: nn.Module, seed: int) -> methods.Adapted:
        if self.put is None:
            return super()._apply(unet, seed)
        self.put(unet)
        method = methods.METHODS[self.settings.method]
        return methods.Adapted(unet, method, method.configure(family='unet'), 'unet', [])


class GenerationLesson:
    """One method on the U-Net of the small pipeline, trained for seconds on drawn radiographs with captions.

    Text encoder and VAE stay frozen, as in Dutt et al. 2024. The test split stays closed.

    Args:
        method: key of the method, which gives name and rate.
        put: the function of a page, which puts this method into a U-Net and leaves `requires_grad` on what is trained;
            the package's own where None.
        steps: optimizer steps of 16 pairs.
        learning_rate: 0 for the method's default on this pipeline.
    """

    def __init__(
        self,
        method: str,
        put: Callable[[nn.Module], Any] | None = None,
        steps: int = 40,
        learning_rate: float = 0.0,
    ):
        self.label, self.seconds = methods.label(method, 'unet'), 0.0
        self._settings = Settings(
            dataset=DATASET,
            backbone=PIPELINE,
            method=method,
            training_pairs=PAIRS,
            validation_pairs=64,
            batch_size=BATCH,
            steps=steps,
            evaluations=max(1, min(5, steps // 8)),
            learning_rate=learning_rate,
            sampling_steps=12,
        )
        self._put, self.run = put, self._fresh(put)

    def _fresh(self, put: Callable[[nn.Module], Any] | None) -> _Short:
        run = _Short(self._settings)
        run.put = put
        return run

    @property
    def adapted(self) -> methods.Adapted:
        """The U-Net with the method applied."""
        return self.run.adapted

    @property
    def unet(self) -> nn.Module:
        """[B, 4, 16, 16] noisy latents, [B] timesteps, [B, 77, 128] texts to the predicted noise in `.sample`."""
        return self.run.adapted.model

    def preview(self, count: int = 6) -> Figure:
        """Some training pairs."""
        return pictures.preview(self.run.data, count)

    def train(self, live: bool = True) -> None:
        """Train anew, from the untuned U-Net; the curve is drawn as it grows, unless not `live`."""
        if self.run.result is not None:
            self.run = self._fresh(self._put)
        title = f'{self.label}, {self.run.pipeline.label}'
        started = time.perf_counter()
        self.run.train(plots.LiveCurve(title, True, pictures.loss_curve) if live else None, quiet=not live)
        self.seconds = time.perf_counter() - started

    @property
    def scores(self) -> dict[str, float]:
        """Trained parameters; validation loss of the tuned and of the untuned U-Net at the same noise; seconds."""
        losses = self.run.losses()
        found = {'trained': self.adapted.count(), 'loss': losses['validation_loss']}
        return found | {'untuned': losses['base_validation_loss'], 'seconds': round(self.seconds, 1)}

    def images(self, prompts: Sequence[str] = PROMPTS, unet: nn.Module | None = None) -> np.ndarray:
        """An image for each prompt, [N, 64, 64, 3] uint8, from noise that is the same for every method."""
        return self.run.generate(prompts, seed=0, unet=(unet or self.unet).eval())

    def before_and_after(self, prompts: Sequence[str] = PROMPTS) -> Figure:
        """Images of the untuned and of the tuned U-Net, from the same noise, in columns of a prompt each."""
        return sheet({self.label: self}, prompts)


def compared(lessons: Mapping[str, GenerationLesson]) -> pd.DataFrame:
    """Train each lesson that is not trained yet, quietly; its `scores` in a row under its name."""
    for lesson in lessons.values():
        if lesson.run.result is None:
            lesson.train(live=False)
    rows = {name: lesson.scores for name, lesson in lessons.items()}
    return pd.DataFrame.from_dict(rows, orient='index').rename_axis('lesson')


def sheet(lessons: Mapping[str, GenerationLesson], prompts: Sequence[str] = PROMPTS) -> Figure:
    """Images of the untuned U-Net and of every trained one, from the same noise: a row each."""
    first = next(iter(lessons.values()))
    rows = {'before': first.images(prompts, first.run.base)}
    return pictures.sheet(rows | {name: lesson.images(prompts) for name, lesson in lessons.items()}, prompts, True)
