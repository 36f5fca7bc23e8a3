"""One run of the classification study, step by step: what the experiment notebooks call.

`Settings` are the notebook's parameters. `Classification` holds the data, the backbone and the method of one run; its
methods are the notebook's sections, in their order.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from medpeft_utils import backbones, methods
from medpeft_utils.core.code import Code
from medpeft_utils.core.errors import BadInput, UnknownName
from medpeft_utils.core.packed import pack, unpack
from medpeft_utils.core.shared import once
from medpeft_utils.training import probe
from medpeft_utils.training.augment import NONE, Augmentation
from medpeft_utils.training.batches import Classifying, ImageBatches, View, predict
from medpeft_utils.training.config import TrainingConfig
from medpeft_utils.training.loop import Fit, fit, peak_memory_mb
from medpeft_utils.training.objective import SINGLE_LABEL, Objective
from medpeft_utils.training.precision import Precision, choose
from medpeft_utils.training.run import BODY, HEAD, SEARCH_SEED, BaseSettings, Run, digest

AUGMENTATIONS = {
    'standard': Augmentation(),
    'rotations': Augmentation(flip=0.5, vertical_flip=0.5, rotate=180.0),
    'none': NONE,
}
HEADS = ('tied', 'own', 'probe')
SPLITS = ('train', 'validation', 'test')
PROBE = 'linear_probing'  # the method that is no training
# The centre of the search for the head's own rate, and its default: the same for every method, before the backbone's
# factor. Ten times the documented rate of full fine-tuning, where it lies in the common recipes for fresh heads.
HEAD_RATE = 1e-3


@dataclass(frozen=True)
class Settings(BaseSettings):
    """The parameters of an experiment notebook; their help stands there, beside their defaults."""

    fraction: float = 1.0
    folds: int = 0
    batch_size: int = 64
    epochs: int = 20
    min_steps: int = 60
    max_steps: int = 60
    evaluations: int = 6
    head: str = 'own'
    head_learning_rate: float = 0.0
    search_fraction: float = 0.0
    class_weighting: bool = False
    augmentation: str = 'standard'
    probe_copies: int = 0

    POSITIVE: ClassVar[tuple[str, ...]] = ('batch_size', 'epochs', 'min_steps', 'max_steps', 'evaluations')
    NOT_NEGATIVE: ClassVar[tuple[str, ...]] = (
        *BaseSettings.NOT_NEGATIVE,
        'head_learning_rate',
        'folds',
        'probe_copies',
    )

    @property
    def family(self) -> str:
        return backbones.family_of(self.backbone)

    def check(self) -> None:
        """Raise BadInput, UnknownName or DoesNotFit for the first setting that cannot be used; nothing is loaded."""
        if not 0 < self.fraction <= 1 or not 0 <= self.search_fraction <= 1:
            raise BadInput(f'fraction={self.fraction}, search_fraction={self.search_fraction}: give shares in (0, 1]')
        if self.augmentation not in AUGMENTATIONS:
            raise UnknownName('augmentation', self.augmentation, AUGMENTATIONS)
        if self.head not in HEADS:
            raise UnknownName('head', self.head, HEADS)
        if self.head == 'tied' and self.head_learning_rate:
            raise BadInput(f"head_learning_rate={self.head_learning_rate} with head='tied': give 0, or head='own'")
        if self.folds == 1:
            raise BadInput(f'folds={self.folds}: give 0 for the usual split, or a number of folds from 2')
        super().check()
        backbones.check_image_size(self.backbone, self.image_size)
        methods.check_fit(self.method, self.backbone, json.dumps(self.config(), sort_keys=True), self.batch_size)
        if self.min_steps > self.max_steps:
            raise BadInput(f'min_steps={self.min_steps} is above max_steps={self.max_steps}')

    def require_weights(self) -> None:
        """Raise BadInput where the weights are not there; nothing is read."""
        super().require_weights()
        backbones.weights_path(self.backbone, self.weights)


class Classification(Run):
    """One backbone, one method, one dataset; `adapted` is the model that is trained and evaluated.

    Args:
        settings: the run's parameters.
        cache: folder for what many runs share (packed images, features, timings); the data cache where None.
    """

    settings: Settings
    objective: Objective = SINGLE_LABEL
    started_by: str = ''  # how a GPU was given the work of a step

    def __init__(self, settings: Settings, cache: Path | None = None):
        from medpeft_utils import data

        super().__init__(settings, cache)
        self.image_size = settings.image_size or backbones.image_size_of(settings.backbone)
        self.data = data.load(
            settings.dataset,
            folder=settings.data_folder or None,
            image_size=stored_size(self.image_size),
            split_seed=settings.split_seed,
            cache=self.cache,
            folds=settings.folds,
            with_texts=False,
        )
        self.probabilities: dict[str, np.ndarray] = {}

    @cached_property
    def backbone(self) -> backbones.Backbone:
        return self._load_backbone(self.settings.seed)

    @cached_property
    def adapted(self) -> methods.Adapted:
        return self._apply(self.backbone, self.settings.seed)

    @property
    def notes(self) -> list[str]:
        """Warnings: test images that the backbone was trained on, and parts that the method leaves untouched."""
        passed, named = self.adapted.left_out, ', '.join(self.adapted.left_out[:3])
        by = f'{self.settings.method} leaves {len(passed)} parts of its kind untouched: {named}' if passed else ''
        return [line for line in (backbones.warning(self.settings.backbone, self.settings.dataset), by) if line]

    @cached_property
    def precision(self) -> Precision:
        """The fastest way to compute for this backbone on this device, measured once (`training/precision.py`)."""
        s, size = self.settings, self.image_size
        return choose(
            *(s.backbone, lambda: backbones.build(s.backbone, len(self.data.classes), size), self.backbone.family),
            *(size, s.batch_size, self.device, self.cache / 'precision'),
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

    def batches(self, rows: np.ndarray) -> ImageBatches:
        """Images of `rows` as this backbone's input."""
        return ImageBatches(self.data.images, self.data.labels, rows, len(self.data.classes), self.view)

    def _features_key(self, copies: int) -> str:
        described = {
            'backbone': self.backbone.hash,
            'images': '/'.join(Path(self.data.images.filename).parts[-2:]),  # names dataset, size and source hash
            'size': self.image_size,
            'precision': str(self.precision),
            'device': self.device.type,
            'copies': f'{copies} {self.settings.augmentation}' if copies else '',
        }
        return digest(described)

    def _features(self, copies: int = 0) -> np.ndarray:
        """Of the whole dataset, [N, D], computed once; with `copies`, of augmented images."""

        def model() -> nn.Module:
            return self.precision.prepare(self._load_backbone(self.settings.seed).model.to(self.device))

        key = self._features_key(copies)
        return probe.shared(model, self.data.images, self.view, key, self.cache / 'features', copies)

    def _probe(self, rows: np.ndarray) -> dict[str, Any]:
        """The converged linear probe of some training rows (`probe.converge`), computed once for all runs on them."""
        s, labels, held_out, classes = self.settings, self.data.labels, self.rows('validation'), len(self.data.classes)

        def compute() -> dict[str, Any]:
            features = self._features(s.probe_copies)
            found = probe.converge(
                *((features[rows], labels[rows]), (self._features()[held_out], labels[held_out])),
                *(classes, self.objective, s.class_weighting, self.device),
            )
            return found | {name: pack(found[name]) for name in ('weight', 'bias')}

        described = {
            'features': [self._features_key(s.probe_copies), self._features_key(0)],
            'rows': [rows.tolist(), held_out.tolist(), self.data.split_hash],
            'weighted': s.class_weighting,
            'code': Code.now().version(asdict(s), [probe.__name__]),
        }
        found = once(self.cache / 'probes' / f'{digest(described)}.json', compute)
        shapes = {'weight': (classes, -1), 'bias': (classes,)}
        return found | {name: unpack(found[name], np.float64, shape) for name, shape in shapes.items()}

    @property
    def augmentation(self) -> str:
        """What is done to training images, in words."""
        if self.settings.method != PROBE:
            return self.settings.augmentation
        copies = self.settings.probe_copies
        return f'features averaged over {copies} copies: {self.settings.augmentation}' if copies else 'none'

    def training_config(self, rates: dict[str, float], seed: int | None = None) -> TrainingConfig:
        s = self.settings
        return TrainingConfig(
            learning_rate=rates[BODY],
            head_learning_rate=rates.get(HEAD, 0.0),
            epochs=s.epochs,
            min_steps=s.min_steps,
            max_steps=s.max_steps,
            batch_size=s.batch_size,
            evaluations=s.evaluations,
            weight_decay=methods.METHODS[s.method].weight_decay,
            seed=s.seed if seed is None else seed,
        )

    def centres(self) -> dict[str, float]:
        """The method's documented rate and the head's, times what the backbone asks for (small ones want more)."""
        factor, own = backbones.learning_rate_factor(self.settings.backbone), self.settings.head != 'tied'
        rate = methods.METHODS[self.settings.method].learning_rate[self.backbone.family]
        return {BODY: rate * factor} | ({HEAD: HEAD_RATE * factor} if own else {})

    def choose_learning_rate(self, folder: Path | None = None) -> dict:
        """As in `Run`; linear probing converges and needs none, nor a search."""
        if self.settings.method != PROBE:
            return super().choose_learning_rate(folder)
        nothing = dict.fromkeys(('value', 'head_value', 'edge', 'centre', 'head_centre'))
        self.learning_rate = nothing | {'how': 'converged', 'trials': []}
        return self.learning_rate

    def identity(self) -> dict[str, Any]:
        weights = 'random' if self.settings.weights == 'random' else self.backbone.hash  # random ones have the seed's
        return {'backbone_hash': weights, 'data': self.data.split_hash}

    def _searched(self) -> dict[str, Any]:
        share = self.settings.search_fraction or self.settings.fraction
        return super()._searched() | {'fraction': share, 'search_fraction': 0}

    @cached_property
    def _search_rows(self) -> np.ndarray:
        return self.rows('train', self.settings.search_fraction or self.settings.fraction, seed=SEARCH_SEED)

    @cached_property
    def _search_batches(self) -> tuple[ImageBatches, ImageBatches]:
        return self.batches(self._search_rows), self.batches(self.rows('validation'))

    @cached_property
    def _search_probe(self) -> dict[str, Any]:
        return self._probe(self._search_rows)

    @cached_property
    def _search_backbone(self) -> backbones.Backbone:
        return self._load_backbone(SEARCH_SEED)

    def trial(self, rates: dict[str, float], report: Callable[[dict], None], checkpoint: Path | None = None) -> Fit:
        untouched = self._search_backbone
        adapted = self._apply(replace(untouched, model=copy.deepcopy(untouched.model)), SEARCH_SEED)
        if self.settings.head == 'probe':
            probe.place(adapted.model, self._search_probe['weight'], self._search_probe['bias'])
        task = Classifying(adapted, *self._search_batches, self.objective, self.settings.class_weighting)
        return fit(task, self.training_config(rates, SEARCH_SEED), report, True, checkpoint)

    def score(self, row: dict) -> float:
        return float(np.nan_to_num(row[f'validation_{self.objective.selection}'], nan=-1.0))

    def train(
        self, report: Callable[[dict], None] | None = None, quiet: bool = False, checkpoint: Path | None = None
    ) -> Fit:
        """Train at the chosen learning rates; the model is left in the state that validation selected.

        Args:
            report: called with every new row of the curve.
            quiet: no progress bar.
            checkpoint: a file that a killed training goes on from (`loop.fit`).
        """
        rows = self.rows('train')
        if self.settings.method == PROBE:
            self.result = self._train_probe(rows, report)
            return self.result
        config = self.training_config(self.rates)
        if self.settings.head == 'probe':
            found = self._probe(rows)
            probe.place(self.adapted.model, found['weight'], found['bias'])
        parts = self.batches(rows), self.batches(self.rows('validation'))
        task = Classifying(self.adapted, *parts, self.objective, self.settings.class_weighting)
        self.result = fit(task, config, report, quiet, checkpoint)
        self.started_by = task.started_by
        return self.result

    def _train_probe(self, rows: np.ndarray, report: Callable[[dict], None] | None) -> Fit:
        if not self.learning_rate:
            self.choose_learning_rate()
        found = self._probe(rows)
        probe.place(self.adapted.model, found['weight'], found['bias'])
        self.learning_rate |= {'C': found['C'], 'edge': found['edge'] and f'C {found["edge"]}'}
        for row in found['curve'] if report else ():
            report(row)
        spent = found['seconds'] / max(1, sum(row['epoch'] for row in found['curve']))
        validation = predict(self.adapted, self.batches(self.rows('validation')), self.objective)
        passes = found['iterations']
        how = {'step_seconds': spent, 'images_per_second': len(rows) / spent, 'steps': passes, 'epochs': passes}
        how |= {'energy': {'energy_joules': None, 'energy_of': 'not measured: runs share features and probe'}}
        return Fit(
            found['curve'], found['best'], validation=validation, peak_memory_mb=peak_memory_mb(self.device), **how
        )

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
    """Side at which images are packed for an input of `image_size` px: slightly larger to keep crops sharp."""
    return 64 if image_size <= 64 else -(-image_size * 8 // (7 * 32)) * 32
