"""One run of the classification study, step by step: what the experiment notebooks call.

`Settings` are the notebook's parameters. `Classification` holds the data, the backbone and the method of one run; its
methods are the notebook's sections, in their order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from medpeft_utils import backbones, methods
from medpeft_utils.core.errors import BadInput, DoesNotFit, UnknownName
from medpeft_utils.training import features
from medpeft_utils.training.augment import NONE, Augmentation
from medpeft_utils.training.batches import Batches, FeatureBatches, ImageBatches, View
from medpeft_utils.training.loop import Fit, Protocol, fit, predict
from medpeft_utils.training.objective import SINGLE_LABEL, Objective
from medpeft_utils.training.precision import Precision, choose
from medpeft_utils.training.search import search

AUGMENTATIONS = {
    'standard': Augmentation(),
    'rotations': Augmentation(flip=0.5, vertical_flip=0.5, rotate=180.0),
    'none': NONE,
}
SPLITS = ('train', 'validation', 'test')
SEARCH_SEED = 1_000_003  # no run of a study trains with it


@dataclass(frozen=True)
class Settings:
    """The parameters of an experiment notebook; their help stands there, beside their defaults."""

    dataset: str
    backbone: str
    method: str
    data_folder: str = ''
    weights: str = 'pretrained'
    method_config: str = '{}'
    fraction: float = 1.0
    seed: int = 0
    split_seed: int = 0
    image_size: int = 0
    batch_size: int = 64
    epochs: int = 20
    min_steps: int = 100
    max_steps: int = 300
    checks: int = 10
    learning_rate: float = 0.0
    search_trials: int = 0
    search_fraction: float = 0.0
    class_weighting: bool = False
    augmentation: str = 'standard'
    save_adapter: bool = False
    record_folder: str = ''

    @classmethod
    def of(cls, parameters: dict) -> Settings:
        """The settings among a notebook's variables. Raises BadInput where one cannot be used."""
        settings = cls(**{f.name: parameters[f.name] for f in fields(cls) if f.name in parameters})
        settings.check()
        return settings

    def check(self) -> None:
        """Raise BadInput, UnknownName or DoesNotFit for the first setting that cannot be used; nothing is loaded."""
        if not 0 < self.fraction <= 1 or not 0 <= self.search_fraction <= 1:
            raise BadInput(f'fraction={self.fraction}, search_fraction={self.search_fraction}: give shares in (0, 1]')
        for name in ('batch_size', 'epochs', 'min_steps', 'max_steps', 'checks'):
            if getattr(self, name) < 1:
                raise BadInput(f'{name}={getattr(self, name)}: give 1 or more')
        if self.min_steps > self.max_steps:
            raise BadInput(f'min_steps={self.min_steps} is above max_steps={self.max_steps}')
        if self.learning_rate < 0:
            raise BadInput(f'learning_rate={self.learning_rate}: give 0 (default or search) or a positive rate')
        if self.augmentation not in AUGMENTATIONS:
            raise UnknownName('augmentation', self.augmentation, AUGMENTATIONS)
        family = backbones.family_of(self.backbone)
        if family not in methods.METHODS[self.method].families:
            fitting = ', '.join(methods.names(family))
            raise DoesNotFit(
                f'method {self.method!r} does not fit backbone {self.backbone!r} ({family}); fit: {fitting}'
            )
        methods.METHODS[self.method].configure(self.config())

    def config(self) -> dict:
        """The method's own settings, from JSON."""
        try:
            return json.loads(self.method_config)
        except json.JSONDecodeError as error:
            raise BadInput(f'method_config={self.method_config!r}: not JSON ({error})') from error


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def default_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


class Classification:
    """One backbone, one method, one dataset; `adapted` is the model that is trained and evaluated.

    Args:
        settings: the run's parameters.
        cache: folder for what many runs share (packed images, features, timings); the data cache where None.
    """

    objective: Objective = SINGLE_LABEL

    def __init__(self, settings: Settings, cache: Path | None = None):
        from medpeft_utils import data

        settings.check()
        self.settings, self.device = settings, default_device()
        self.cache = Path(cache) if cache else data.cache_root()
        self.image_size = settings.image_size or backbones.image_size_of(settings.backbone)
        self.data = data.load(
            settings.dataset,
            folder=settings.data_folder or None,
            image_size=stored_size(self.image_size),
            split_seed=settings.split_seed,
            cache=self.cache,
        )
        self.learning_rate: dict = {}
        self.result: Fit | None = None
        self.probabilities: dict[str, np.ndarray] = {}

    @cached_property
    def backbone(self) -> backbones.Backbone:
        return self._load_backbone(self.settings.seed)

    @cached_property
    def adapted(self) -> methods.Adapted:
        return self._apply(self.backbone, self.settings.seed)

    @cached_property
    def precision(self) -> Precision:
        """The fastest way to compute for this backbone on this device, measured once (`training/precision.py`)."""
        name, family = self.settings.backbone, self.backbone.family
        probe = backbones.build(name, len(self.data.classes), self.image_size).to(self.device)
        return choose(
            name, probe, family, self.image_size, self.settings.batch_size, self.device, self.cache / 'precision'
        )

    def _load_backbone(self, seed: int) -> backbones.Backbone:
        size = self.image_size if backbones.family_of(self.settings.backbone) == 'vit' else None
        backbone = backbones.load(
            self.settings.backbone, len(self.data.classes), size, weights=self.settings.weights, seed=seed
        )
        backbone.image_size = self.image_size
        return backbone

    def _apply(self, backbone: backbones.Backbone, seed: int) -> methods.Adapted:
        adapted = methods.apply(
            backbone.model, self.settings.method, backbone.family, self.settings.config(), seed=seed
        )
        adapted.model.to(self.device)
        self.precision.prepare(adapted.model)
        return adapted

    @property
    def view(self) -> View:
        """How the dataset's images become this backbone's input."""
        policy = AUGMENTATIONS[self.settings.augmentation]
        b = self.backbone
        return View(self.image_size, b.mean, b.std, policy, self.precision, self.device)

    def rows(self, split: str, fraction: float | None = None, seed: int | None = None) -> np.ndarray:
        """Row numbers of a split; of the training split the run's nested, stratified share."""
        if split != 'train':
            return self.data.rows(split)
        chosen = self.settings.seed if seed is None else seed
        return self.data.train_rows(self.settings.fraction if fraction is None else fraction, seed=chosen)

    def batches(self, rows: np.ndarray) -> Batches:
        """Images of `rows`; for linear probing their features, computed once for the whole dataset."""
        classes = len(self.data.classes)
        if self.settings.method != 'linear_probing':
            return ImageBatches(self.data.images, self.data.labels, rows, classes, self.view)
        everything = self._features
        return FeatureBatches(everything[rows], self.data.labels[rows], classes, self.device)

    @cached_property
    def _features(self) -> np.ndarray:
        model = self.precision.prepare(self._load_backbone(self.settings.seed).model.to(self.device))
        described = {
            'backbone': self.backbone.hash,
            'images': '/'.join(Path(self.data.images.filename).parts[-2:]),  # names dataset, size and source hash
            'size': self.image_size,
            'precision': str(self.precision),
            'device': self.device.type,
        }
        return features.shared(model, self.data.images, self.view, _digest(described), self.cache / 'features')

    def protocol(self, learning_rate: float, seed: int | None = None) -> Protocol:
        """The training protocol of this run at a learning rate."""
        s = self.settings
        return Protocol(
            learning_rate=learning_rate,
            epochs=s.epochs,
            min_steps=s.min_steps,
            max_steps=s.max_steps,
            batch_size=s.batch_size,
            checks=s.checks,
            class_weighting=s.class_weighting,
            seed=s.seed if seed is None else seed,
        )

    def default_learning_rate(self) -> float:
        """The method's documented rate, times what the backbone asks for (small ones want larger rates)."""
        rate = methods.METHODS[self.settings.method].learning_rate[self.backbone.family]
        return rate * backbones.learning_rate_factor(self.settings.backbone)

    def choose_learning_rate(self, folder: Path | None = None, quiet: bool = True) -> dict:
        """The learning rate to train with: given, searched on validation, or the method's default.

        A search does not depend on the run's seed: runs that differ in the seed alone share one, kept in `folder`.
        Sets and returns `learning_rate`: {value, how, trials}.
        """
        from medpeft_utils.core.shared import once

        s = self.settings
        if s.learning_rate > 0:
            self.learning_rate = {'value': s.learning_rate, 'how': 'given', 'trials': []}
        elif s.search_trials == 0:
            self.learning_rate = {'value': self.default_learning_rate(), 'how': 'default', 'trials': []}
        else:
            path = Path(folder or self.cache / 'searches') / f'{self._search_key()}.json'
            found = once(path, lambda: self._search(quiet))
            self.learning_rate = {'value': found['value'], 'how': 'searched', 'trials': found['trials']}
        return self.learning_rate

    def _search_key(self) -> str:
        from medpeft_utils.core.code import Code

        left_out = ('seed', 'record_folder', 'data_folder', 'learning_rate', 'save_adapter')
        parameters = {k: v for k, v in asdict(self.settings).items() if k not in left_out}
        parameters['fraction'] = self.settings.search_fraction or self.settings.fraction
        weights = 'random' if self.settings.weights == 'random' else self.backbone.hash  # random ones have the seed's
        described = {
            'backbone_hash': weights,
            'data': self.data.split_hash,
            'code': Code.now().version(asdict(self.settings), [type(self).__module__]),
        }
        return _digest(parameters | described | {'search_fraction': 0, 'precision': str(self.precision)})

    def _search(self, quiet: bool) -> dict:
        fraction = self.settings.search_fraction or self.settings.fraction
        train = self.batches(self.rows('train', fraction, seed=SEARCH_SEED))
        validation = self.batches(self.rows('validation'))

        def score_at(rate: float) -> float:
            adapted = self._apply(self._load_backbone(SEARCH_SEED), SEARCH_SEED)
            protocol = self.protocol(rate, SEARCH_SEED)
            result = fit(adapted, train, validation, protocol, quiet=quiet, objective=self.objective)
            return result.curve[result.best][f'validation_{self.objective.selection}']

        return search(score_at, self.default_learning_rate(), self.settings.search_trials, seed=SEARCH_SEED)

    def train(self, report: Callable[[dict], None] | None = None, quiet: bool = False) -> Fit:
        """Train at the chosen learning rate; the model is left in the state that validation selected."""
        if not self.learning_rate:
            self.choose_learning_rate()
        train, validation = self.batches(self.rows('train')), self.batches(self.rows('validation'))
        protocol = self.protocol(self.learning_rate['value'])
        self.result = fit(self.adapted, train, validation, protocol, report, quiet, self.objective)
        return self.result

    def evaluate(self) -> dict:
        """Read the test split, once; metrics of validation and test, and of every class on test."""
        if self.probabilities:
            raise BadInput('the test split was read already in this run; it is read once')
        test = self.batches(self.rows('test'))
        predicted = predict(self.adapted, test, self.objective)
        self.probabilities = {'validation': self.result.validation, 'test': predicted}
        labels = {split: self.data.labels[self.rows(split)] for split in self.probabilities}
        scores = {split: self.objective.evaluate(labels[split], p) for split, p in self.probabilities.items()}
        by_class = self.objective.per_class(labels['test'], predicted, list(self.data.classes))
        return scores | {'per_class': by_class}


def stored_size(image_size: int) -> int:
    """Side at which images are packed for an input of `image_size` px: a little more, so that crops stay sharp."""
    return 64 if image_size <= 64 else -(-image_size * 8 // (7 * 32)) * 32
