"""One run of the text-to-image study, step by step: what its experiment notebook calls.

`Settings` are the notebook's parameters. `TextToImage` holds the pairs, the pipeline and the method of one run; its
methods are the notebook's sections, in their order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medpeft_utils import data, methods
from medpeft_utils.core.errors import BadInput, DoesNotFit, UnknownName
from medpeft_utils.core.values import parse_config, settings_of
from medpeft_utils.data.cache import cache_root
from medpeft_utils.data.cards import packed_pairs
from medpeft_utils.text_image import computing, pipeline
from medpeft_utils.text_image.encoding import Encoded, encode
from medpeft_utils.text_image.pipeline import Cut, Pipeline
from medpeft_utils.text_image.sampling import latent_shape, sample
from medpeft_utils.text_image.training import Denoising, EncodedPairs, Training, validation_loss
from medpeft_utils.training.loop import Fit, TrainingConfig
from medpeft_utils.training.precision import Precision
from medpeft_utils.training.search import search

SEARCH_SEED = 1_000_003  # no run of a study trains with it


@dataclass(frozen=True)
class Settings:
    """The parameters of the experiment notebook; their help stands there, beside their defaults."""

    dataset: str
    backbone: str
    method: str
    data_folder: str = ''
    training_pairs: int = 0
    validation_pairs: int = 128
    split_seed: int = 0
    weights: str = 'pretrained'
    image_size: int = 0
    method_config: str = '{}'
    seed: int = 0
    batch_size: int = 32
    micro_batch: int = 0
    steps: int = 100
    evaluations: int = 4
    learning_rate: float = 0.0
    search_trials: int = 0
    prompt_dropout: float = 0.1
    precision: str = 'auto'
    gradient_checkpointing: bool = False
    guidance_scale: float = 4.0
    sampling_steps: int = 75
    sampling_seeds: int = 4
    test_images: int = 0
    controls: bool = False
    save_adapter: bool = False
    record_folder: str = ''

    @classmethod
    def of(cls, parameters: dict) -> Settings:
        """The settings among a notebook's variables. Raises BadInput where one cannot be used."""
        settings = settings_of(cls, parameters)
        settings.check()
        return settings

    def check(self) -> None:
        """Raise BadInput, UnknownName or DoesNotFit for the first setting that cannot be used; nothing is loaded."""
        for name in ('batch_size', 'steps', 'evaluations', 'sampling_steps', 'sampling_seeds'):
            if getattr(self, name) < 1:
                raise BadInput(f'{name}={getattr(self, name)}: give 1 or more')
        for name in ('training_pairs', 'validation_pairs', 'micro_batch', 'test_images', 'learning_rate'):
            if getattr(self, name) < 0:
                raise BadInput(f'{name}={getattr(self, name)}: give 0 or more')
        if not 0 <= self.prompt_dropout < 1:
            raise BadInput(f'prompt_dropout={self.prompt_dropout}: give a share from 0 to below 1')
        if self.precision not in computing.WAYS:
            raise UnknownName('precision', self.precision, tuple(computing.WAYS))
        family, method = pipeline.family_of(self.backbone), methods.METHODS[self.method]
        if family not in method.families:
            fitting = ', '.join(methods.names(family))
            raise DoesNotFit(
                f'method {self.method!r} does not fit pipeline {self.backbone!r} ({family}); fit: {fitting}'
            )
        method.configure(self.config(), family)

    def config(self) -> dict:
        """The method's own settings, from JSON."""
        return parse_config(self.method_config)


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class TextToImage:
    """One pipeline, one method, one set of pairs; `adapted` is the U-Net that is trained, all else is frozen.

    Args:
        settings: the run's parameters.
        cache: folder for what many runs share (packed images, latents, embeddings); the data cache where None.
    """

    def __init__(self, settings: Settings, cache: Path | None = None):
        settings.check()
        self.settings, self.cache = settings, cache_root(cache)
        self.device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self.image_size = settings.image_size or pipeline.image_size_of(settings.backbone)
        self.data = data.load(
            settings.dataset,
            with_texts=True,
            folder=settings.data_folder or None,
            image_size=self.image_size,
            split_seed=settings.split_seed,
            train_pairs=packed_pairs(settings.dataset, settings.training_pairs),
            cache=self.cache,
        )
        self.learning_rate: dict = {}
        self.result: Fit | None = None

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
        """The untuned U-Net, loaded anew; it computes as the tuned one does."""
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
        """How the U-Net computes: what the settings say, and what they leave open as is fastest on this device."""
        s = self.settings
        how = self.image_size, s.micro_batch or s.batch_size, self.cache / 'precision'
        return computing.choose(s.precision, self.pipeline, lambda: self._load().unet, *how)

    def rows(self, split: str) -> np.ndarray:
        """Rows of a split that this run uses.

        Of training the run's nested subset; of validation `validation_pairs`, spread evenly and the same for every run;
        of test all.
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
        """What the tokenizer cuts of the texts of this run, with a warning where that is anything."""
        return self.pipeline.cut([text for split in ('train', 'validation', 'test') for text in self.prompts(split)])

    @cached_property
    def encoded(self) -> Encoded:
        """Latents and embeddings of all training pairs and of the validation pairs, shared by the runs of a study."""
        rows = np.union1d(self.data.rows('train'), self.rows('validation'))
        return encode(self.pipeline, self.data.images, self.data.texts, rows, self.cache / 'encoded')

    def pairs(self, split: str) -> EncodedPairs:
        """The encoded pairs of `rows(split)`; of training or validation."""
        return EncodedPairs(self.encoded, self.rows(split), self.device)

    @property
    def denoising(self) -> Denoising:
        s = self.settings
        how = {'micro_batch': s.micro_batch, 'gradient_checkpointing': s.gradient_checkpointing}
        shift = pipeline.timestep_shift(s.backbone)
        return Denoising(self.pipeline.noising, s.prompt_dropout, shift, precision=self.precision, **how)

    def protocol(self, learning_rate: float, seed: int | None = None) -> TrainingConfig:
        """The training protocol of this run at a learning rate."""
        s = self.settings
        return TrainingConfig(
            learning_rate=learning_rate,
            min_steps=s.steps,
            max_steps=s.steps,
            batch_size=s.batch_size,
            evaluations=s.evaluations,
            seed=s.seed if seed is None else seed,
        )

    def default_learning_rate(self) -> float:
        """The method's documented rate, times what the pipeline asks for (the mini wants larger rates)."""
        rate = methods.METHODS[self.settings.method].learning_rate['unet']
        return rate * pipeline.learning_rate_factor(self.settings.backbone)

    def choose_learning_rate(self, folder: Path | None = None) -> dict:
        """The learning rate to train with: given, searched for the lowest validation loss, or the method's default.

        A search does not depend on the run's seed: runs that differ in the seed alone share one, kept in `folder`.
        Sets and returns `learning_rate`: {value, how, trials}; the score of a trial is the loss, negative.
        """
        from medpeft_utils.core.shared import once

        s = self.settings
        if s.learning_rate > 0:
            self.learning_rate = {'value': s.learning_rate, 'how': 'given', 'trials': []}
        elif s.search_trials == 0:
            self.learning_rate = {'value': self.default_learning_rate(), 'how': 'default', 'trials': []}
        else:
            path = Path(folder or self.cache / 'searches') / f'{self._search_key()}.json'
            found = once(path, self._search)
            value = found['values']['learning_rate']
            self.learning_rate = {'value': value, 'how': 'searched', 'trials': found['trials']}
        return self.learning_rate

    def _search_key(self) -> str:
        from medpeft_utils.core.code import Code

        left_out = ('seed', 'record_folder', 'data_folder', 'learning_rate', 'save_adapter', 'guidance_scale')
        left_out += ('sampling_steps', 'sampling_seeds', 'test_images', 'controls')
        parameters = {name: value for name, value in asdict(self.settings).items() if name not in left_out}
        code = Code.now().version(asdict(self.settings), [type(self).__module__])
        known = {'pipeline': self.pipeline.hash, 'data': self.data.split_hash, 'precision': str(self.precision)}
        return _digest(parameters | known | {'code': code})

    def _search(self) -> dict:
        rows = self.data.train_pairs(self.settings.training_pairs, seed=SEARCH_SEED)
        train = EncodedPairs(self.encoded, rows, self.device)
        validation = self.pairs('validation')

        def score_at(rates: dict[str, float], tell) -> float:
            adapted = self._apply(self._load().unet, SEARCH_SEED)
            protocol = self.protocol(rates['learning_rate'], SEARCH_SEED)
            result = Training(adapted, train, validation, protocol, self.denoising).run(quiet=True)
            return -result.curve[result.best]['validation_loss']

        return search(
            score_at, {'learning_rate': self.default_learning_rate()}, self.settings.search_trials, seed=SEARCH_SEED
        )

    def train(
        self, report: Callable[[dict], None] | None = None, checkpoint: Path | None = None, quiet: bool = False
    ) -> Fit:
        """Train at the chosen learning rate; the U-Net is left in the state that validation selected.

        Args:
            report: called with every new row of the curve.
            checkpoint: where a killed training goes on from; `forget` removes it.
            quiet: no progress bar.
        """
        if not self.learning_rate:
            self.choose_learning_rate()
        protocol = self.protocol(self.learning_rate['value'])
        pairs = self.pairs('train'), self.pairs('validation')
        for part in (self.pipeline.vae, self.pipeline.text_encoder):
            part.to('cpu')  # their work is done; `generate` brings them back
        self.result = Training(self.adapted, *pairs, protocol, self.denoising, checkpoint).run(report, quiet)
        return self.result

    def losses(self) -> dict[str, float]:
        """Validation loss of the tuned U-Net, and of the untuned one, at the same noise."""
        curve = self.result.curve
        return {'validation_loss': curve[self.result.best]['validation_loss']} | {
            'base_validation_loss': curve[0]['validation_loss']
        }

    def validation_loss(self) -> float:
        """The loss over the validation pairs as the U-Net is now."""
        return validation_loss(self.adapted, self.pairs('validation'), self.denoising)

    def sampler(self) -> nn.Module:
        """The tuned U-Net for sampling: merged where the method adds to it and can be merged, which is faster."""
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
        """Images [N, S, S, 3] uint8 of prompts, by the settings' guidance and steps where none are given.

        Args:
            prompts: '' for none.
            seed: of the starting noise, which is the same for every method.
            unet: `sampler()` where None; `base` for the untuned one.
            more: as for `sampling.sample`.
        """
        s, pipe = self.settings, self.pipeline.to(self.device)
        guidance = s.guidance_scale if guidance_scale is None else guidance_scale
        how = {'guidance_scale': guidance, 'steps': steps or s.sampling_steps, 'image_size': self.image_size}
        how |= {'precision': self.precision}
        return sample(pipe, self.sampler() if unet is None else unet, prompts, seed, **how | more)


def forget(checkpoint: Path) -> None:
    """Remove a checkpoint, once the record of its run is written."""
    Path(checkpoint).unlink(missing_ok=True)
