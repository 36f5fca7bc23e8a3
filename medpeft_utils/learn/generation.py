"""A short run of text to image for a learning notebook: the study's own pairs, methods and loop, in seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from medpeft_utils import plots
from medpeft_utils.text_image import plots as pictures
from medpeft_utils.text_image.adaptation import Settings, TextToImage
from medpeft_utils.text_image.encoding import Encoded, encode

DATASET = 'synthetic_chest_pairs'  # drawn radiographs with a sentence each
PIPELINE = 'stable_diffusion_mini'
PROMPTS = 'No acute cardiopulmonary process.', 'Large right pleural effusion.', 'Severe cardiomegaly.'
PAIRS, BATCH = 256, 16


class _Short(TextToImage):
    """A run that encodes only the pairs that it uses: a study shares all of them, a lesson is alone."""

    @cached_property
    def encoded(self) -> Encoded:
        rows = np.union1d(self.rows('train'), self.rows('validation'))
        return encode(self.pipeline, self.data.images, self.data.texts, rows, self.cache / 'encoded')


class GenerationLesson:
    """One method on the U-Net of the small pipeline, trained for seconds on drawn radiographs with captions.

    Text encoder and VAE stay frozen, as in Dutt et al. 2024. The test split stays closed.

    Args:
        method: key of the method.
        config: the method's options.
        steps: optimizer steps of 16 pairs.
        learning_rate: 0 for the method's default on this pipeline.
        weights: of the pipeline: 'pretrained' or 'random'.
        seed: of adapters, order and noise.
    """

    def __init__(
        self,
        method: str,
        config: Mapping[str, Any] | None = None,
        steps: int = 40,
        learning_rate: float = 0.0,
        weights: str = 'pretrained',
        seed: int = 0,
    ):
        settings = Settings(
            dataset=DATASET,
            backbone=PIPELINE,
            method=method,
            method_config=json.dumps(dict(config or {})),
            training_pairs=PAIRS,
            validation_pairs=64,
            weights=weights,
            seed=seed,
            batch_size=BATCH,
            steps=steps,
            evaluations=max(1, min(5, steps // 8)),
            learning_rate=learning_rate,
            sampling_steps=12,
        )
        self.run = _Short(settings)
        self.seconds = 0.0

    @property
    def adapted(self):
        """The U-Net with the method applied."""
        return self.run.adapted

    @property
    def unet(self):
        """[B, 4, 16, 16] noisy latents, [B] timesteps, [B, 77, 128] texts to the predicted noise in `.sample`."""
        return self.run.adapted.model

    @property
    def label(self) -> str:
        from medpeft_utils import methods

        return methods.label(self.run.settings.method, 'unet')

    def preview(self, count: int = 6) -> Figure:
        """Some training pairs."""
        return pictures.preview(self.run.data, count)

    def train(self, live: bool = True) -> pd.DataFrame | None:
        """Train, with the curve drawn as it grows.

        Returns:
            The curve, a row a check, where not `live`.
        """
        title = f'{self.label}, {self.run.pipeline.label}'
        report = plots.LiveCurve(title, True, pictures.loss_curve) if live else None
        started = time.perf_counter()
        fit = self.run.train(report, quiet=not live)
        self.seconds = time.perf_counter() - started
        return None if live else pd.DataFrame(fit.curve)

    @property
    def scores(self) -> dict[str, float]:
        """Trained parameters; validation loss of the tuned and of the untuned U-Net at the same noise; seconds."""
        losses = self.run.losses()
        found = {'trained': self.adapted.count(), 'loss': losses['validation_loss']}
        return found | {'untuned': losses['base_validation_loss'], 'seconds': self.seconds}

    def images(self, prompts: Sequence[str] = PROMPTS, unet=None) -> np.ndarray:
        """An image for each prompt, [N, 64, 64, 3] uint8, from noise that is the same for every method."""
        return self.run.generate(prompts, seed=0, unet=unet)

    def before_and_after(self, prompts: Sequence[str] = PROMPTS) -> Figure:
        """Images of the untuned and of the tuned U-Net, from the same noise, in columns of a prompt each."""
        rows = {'before': self.images(prompts, self.run.base), self.label: self.images(prompts)}
        return pictures.sheet(rows, prompts, True)


def compared(lessons: Mapping[str, GenerationLesson]) -> pd.DataFrame:
    """Train each lesson that is not trained yet, quietly; its `scores` in a row under its name."""
    rows = {}
    for name, lesson in lessons.items():
        if lesson.run.result is None:
            lesson.train(live=False)
        rows[name] = lesson.scores
    return pd.DataFrame.from_dict(rows, orient='index').rename_axis('lesson')


def sheet(lessons: Mapping[str, GenerationLesson], prompts: Sequence[str] = PROMPTS) -> Figure:
    """Images of the untuned U-Net and of every trained one, from the same noise: a row each."""
    first = next(iter(lessons.values()))
    rows = {'before': first.images(prompts, first.run.base)}
    return pictures.sheet(rows | {name: lesson.images(prompts) for name, lesson in lessons.items()}, prompts, True)
