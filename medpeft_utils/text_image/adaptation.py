"""One run of the text-to-image study, step by step, as its experiment notebook calls it.

`Settings` are the notebook's parameters. `TextToImage` holds the pairs, the pipeline and the method of one run; its
methods follow the notebook's sections.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from medpeft_utils import data, methods
from medpeft_utils.core.errors import BadInput, UnknownName, short
from medpeft_utils.data.cards import packed_pairs
from medpeft_utils.text_image import computing, names, pipeline
from medpeft_utils.text_image.encoding import Encoded, encode
from medpeft_utils.text_image.pipeline import Cut, Pipeline
from medpeft_utils.text_image.sampling import latent_shape, sample
from medpeft_utils.text_image.training import CLIP, Denoising, DenoisingTask, EncodedPairs
from medpeft_utils.training.config import TrainingConfig
from medpeft_utils.training.loop import Fit, fit
from medpeft_utils.training.precision import Precision
from medpeft_utils.training.run import BODY, SEARCH_SEED, BaseSettings, Run


@dataclass(frozen=True)
class Settings(BaseSettings):
    """The parameters of the experiment notebook, which explains each beside its default."""

    training_pairs: int = 0
    validation_pairs: int = 128
    batch_size: int = 32
    micro_batch: int = 0
    steps: int = 60
    evaluations: int = 3
    prompt_dropout: float = 0.1
    precision: str = 'auto'
    gradient_checkpointing: bool = False
    guidance_scale: float = 4.0
    sampling_steps: int = 20
    sampling_seeds: int = 1
    test_images: int = 200
    controls: bool = False

    POSITIVE: ClassVar[tuple[str, ...]] = ('batch_size', 'steps', 'evaluations', 'sampling_steps', 'sampling_seeds')
    NOT_NEGATIVE: ClassVar[tuple[str, ...]] = (
        *BaseSettings.NOT_NEGATIVE,
        *('training_pairs', 'validation_pairs', 'micro_batch', 'test_images'),
    )

    @property
    def family(self) -> str:
        return names.family_of(self.backbone)

    def check(self) -> None:
        """Raise BadInput, UnknownName or DoesNotFit for the first setting that cannot be used; nothing is loaded."""
        if not 0 <= self.prompt_dropout < 1:
            raise BadInput(f'prompt_dropout={self.prompt_dropout}: give a fraction from 0 to below 1')
        if not math.isfinite(self.guidance_scale):
            raise BadInput(f'guidance_scale={self.guidance_scale}: give a number, such as 4; 1 is no guidance')
        if self.precision not in computing.WAYS:
            raise UnknownName('precision', self.precision, tuple(computing.WAYS))
        super().check()

    def require_weights(self) -> None:
        """Raise BadInput where the weights are not there; nothing is read."""
        if self.weights not in ('pretrained', 'random') and not os.path.isdir(self.weights):
            raise BadInput(f"weights={short(self.weights)}: give 'pretrained', 'random', or a folder that is there")


class TextToImage(Run):
    """One pipeline, one method, one set of pairs. Training changes the U-Net (`adapted`) alone.

    Args:
        settings: the run's parameters.
        cache: folder for what many runs share (packed images, latents, embeddings); the data cache where None.
    """

    settings: Settings
    has_head = False
    NOT_SEARCHED = (*Run.NOT_SEARCHED, 'guidance_scale', 'sampling_steps', 'sampling_seeds', 'test_images', 'controls')

    def __init__(self, settings: Settings, cache: Path | None = None):
        super().__init__(settings, cache)
        self.image_size = settings.image_size or names.image_size_of(settings.backbone)
        self.data = data.load(
            settings.dataset,
            folder=settings.data_folder or None,
            image_size=self.image_size,
            split_seed=settings.split_seed,
            with_texts=True,
            train_pairs=packed_pairs(settings.dataset, settings.training_pairs),
            cache=self.cache,
        )

    @cached_property
    def pipeline(self) -> Pipeline:
        """The pipeline on this run's device; `adapted` changes its U-Net."""
        pipe = self._load()
        latent_shape(pipe, self.image_size)
        return pipe

    def _load(self) -> Pipeline:
        pipe = pipeline.load(self.settings.backbone, self.settings.weights, seed=self.settings.seed)
        return pipe.to(self.device)

    @cached_property
    def base(self) -> nn.Module:
        """The untuned U-Net, from a second loading; it computes as the tuned one does."""
        return computing.prepare(self._load().unet, self.precision)

    @cached_property
    def adapted(self) -> methods.Adapted:
        return self._apply(self.pipeline.unet, self.settings.seed)

    def _apply(self, unet: nn.Module, seed: int) -> methods.Adapted:
        s = self.settings
        adapted = methods.apply(unet, s.method, 'unet', s.config(), seed=seed, cache=self.cache / 'decompositions')
        computing.prepare(adapted.model.to(self.device), self.precision)
        return adapted

    @cached_property
    def precision(self) -> Precision:
        """How the U-Net computes: as the settings say; what they leave open, in the fastest way on this device."""
        s = self.settings
        how = self.image_size, s.micro_batch or s.batch_size, self.cache / 'precision'
        return computing.choose(s.precision, self.pipeline, lambda: self._load().unet, *how)

    def rows(self, split: str) -> np.ndarray:
        """Rows of a split that this run uses.

        The nested subset of the training split; `validation_pairs` of the validation split, spread evenly and the same
        for every run; the whole test split.
        """
        s = self.settings
        if split == 'train':
            return self.data.train_pairs(s.training_pairs, seed=s.seed)
        rows = self.data.rows(split)
        if split != 'validation' or not 0 < s.validation_pairs < len(rows):
            return rows
        return rows[np.linspace(0, len(rows) - 1, s.validation_pairs).round().astype(int)]

    def prompts(self, split: str) -> list[str]:
        """The texts of `rows(split)`."""
        return [self.data.texts[row] for row in self.rows(split)]

    @cached_property
    def cut(self) -> Cut:
        """What the tokenizer cuts of the texts of this run, with a warning where it cuts any."""
        return self.pipeline.cut([text for split in ('train', 'validation', 'test') for text in self.prompts(split)])

    @cached_property
    def encoded(self) -> Encoded:
        """Latents and embeddings of all training pairs and of the validation pairs, shared by the runs of a study."""
        rows = np.union1d(self.data.rows('train'), self.rows('validation'))
        return encode(self.pipeline, self.data.images, self.data.texts, rows, self.cache / 'encoded')

    def pairs(self, split: str) -> EncodedPairs:
        """The encoded pairs of `rows(split)`, of training or validation."""
        return EncodedPairs(self.encoded, self.rows(split), self.device)

    @property
    def denoising(self) -> Denoising:
        s = self.settings
        how = {'micro_batch': s.micro_batch, 'gradient_checkpointing': s.gradient_checkpointing}
        shift = names.known(s.backbone).timestep_shift
        return Denoising(self.pipeline.noising, s.prompt_dropout, shift, precision=self.precision, **how)

    def training_config(self, rates: dict[str, float], seed: int | None = None) -> TrainingConfig:
        """How this run is trained at a learning rate."""
        s = self.settings
        return TrainingConfig(
            learning_rate=rates[BODY],
            min_steps=s.steps,
            max_steps=s.steps,
            batch_size=s.batch_size,
            evaluations=s.evaluations,
            evaluate_first=True,
            clip=CLIP,
            seed=s.seed if seed is None else seed,
        )

    def centres(self) -> dict[str, float]:
        """The method's documented rate times the pipeline's factor (the mini needs larger rates)."""
        rate = methods.METHODS[self.settings.method].learning_rate['unet']
        return {BODY: rate * names.known(self.settings.backbone).rate_factor}

    def identity(self) -> dict[str, Any]:
        """What a search depends on, besides the parameters."""
        return {'pipeline': self.pipeline.hash, 'data': self.data.split_hash}

    def score(self, row: dict) -> float:
        """The negative validation loss."""
        return -row['validation_loss']

    def trial(self, rates: dict[str, float], report: Callable[[dict], None], checkpoint: Path | None = None) -> Fit:
        """Train a new U-Net, on pairs in an order that no run of a study has."""
        adapted = self._apply(self._load().unet, SEARCH_SEED)
        rows = self.data.train_pairs(self.settings.training_pairs, seed=SEARCH_SEED)
        train = EncodedPairs(self.encoded, rows, self.device)
        task = DenoisingTask(adapted, train, self.pairs('validation'), self.denoising)
        return fit(task, self.training_config(rates, SEARCH_SEED), report, True, checkpoint)

    def train(
        self, report: Callable[[dict], None] | None = None, checkpoint: Path | None = None, quiet: bool = False
    ) -> Fit:
        """Train at the chosen learning rate; afterwards the U-Net is in the state that validation selected.

        Args:
            report: called with every new row of the curve; the first, at step 0, describes the untuned U-Net.
            checkpoint: a file from which a killed training continues (`loop.fit`).
            quiet: no progress bar.
        """
        config = self.training_config(self.rates)
        task = DenoisingTask(self.adapted, self.pairs('train'), self.pairs('validation'), self.denoising)
        for part in (self.pipeline.vae, self.pipeline.text_encoder):
            part.to('cpu')  # they have done their work; `generate` moves them back
        self.result = fit(task, config, report, quiet, checkpoint)
        return self.result

    def losses(self) -> dict[str, float]:
        """Validation loss of the tuned U-Net and of the untuned one, at the same noise."""
        tuned, untuned = (self.result.curve[row]['validation_loss'] for row in (self.result.best, 0))
        return {'validation_loss': tuned, 'base_validation_loss': untuned}

    def sampler(self) -> nn.Module:
        """The tuned U-Net for sampling, merged where an additive method can be, which is faster."""
        method = self.adapted.method
        merged = self.adapted.merge() if method.mergeable and method.kind == 'additive' else self.adapted.model
        return merged.eval()

    def generate(
        self,
        prompts: Sequence[str],
        seed: int = 0,
        guidance_scale: float | None = None,
        steps: int | None = None,
        unet: nn.Module | None = None,
        **more,
    ) -> np.ndarray:
        """Images [N, S, S, 3] uint8 of prompts, with the settings' guidance and steps where none are given.

        Args:
            prompts: '' for none.
            seed: of the starting noise, which is the same for every method.
            unet: `sampler()` where None; `base` for the untuned one.
            more: arguments of `sampling.sample`.
        """
        s, pipe = self.settings, self.pipeline.to(self.device)
        guidance = s.guidance_scale if guidance_scale is None else guidance_scale
        how = {'guidance_scale': guidance, 'steps': steps or s.sampling_steps, 'image_size': self.image_size}
        how |= {'precision': self.precision}
        return sample(pipe, self.sampler() if unet is None else unet, prompts, seed, **how | more)
