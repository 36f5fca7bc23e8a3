"""LoRA against full fine-tuning on chest-radiograph models: what this family needs beside `Classification`.

Lian et al. 2024, arXiv:2401.12215, and its code (github.com/RL4M/MED-PEFT). Taken over: LoRA on the q and v parts of
every qkv with alpha 32 and dropout 0.1, the final norm and the head trained with it; binary cross-entropy; AdamW with
layer-wise rates or SGD with momentum 0.9 and one rate; stochastic depth; warm-up in epochs; selection by the mean
validation AUROC. Differs: q and v each have a dropout of their own (one for both there); cosine decay to 0 (there
with warm restarts, never reached); this project's augmentation, without RandAugment and random erasing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from medpeft_utils import auroc, backbones
from medpeft_utils.backbones.small import SMALL_BACKBONES
from medpeft_utils.core.errors import BadInput, UnknownName
from medpeft_utils.training.classification import SPLITS, Classification, Settings
from medpeft_utils.training.config import TrainingConfig
from medpeft_utils.training.objective import MULTI_LABEL, SINGLE_LABEL, Objective
from medpeft_utils.training.run import BODY

OPTIMIZERS = ('adamw', 'sgd')
RATE_KINDS = {'absolute': None, 'per 256 images': 256}
# Peak rates of SGD where none is given: full fine-tuning of MRM with 1 % of the labels, and the commonest of LoRA, in
# the authors' scripts and table.
SGD_RATES = {'full_ft': 0.01, 'lora': 0.01}
LORA = {'alpha': 32.0, 'dropout': 0.1, 'parts': 'qv', 'train_final_norm': True}


@dataclass(frozen=True)
class RadiographSettings(Settings):
    """The parameters of the radiograph notebook; their help stands there, beside their defaults."""

    head: str = 'tied'
    rank: int = 8
    optimizer: str = 'adamw'
    momentum: float = 0.9
    weight_decay: float = 0.05
    layer_decay: float = 0.65
    drop_path: float = 0.1
    warmup_epochs: float = 5.0
    learning_rate_kind: str = 'absolute'

    def check(self) -> None:
        """Raise BadInput, UnknownName or DoesNotFit for the first setting that cannot be used; nothing is loaded."""
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName('optimizer', self.optimizer, OPTIMIZERS)
        if self.learning_rate_kind not in RATE_KINDS:
            raise UnknownName('kind of learning rate', self.learning_rate_kind, RATE_KINDS)
        if self.rank < 1:
            raise BadInput(f'rank={self.rank}: give 1 or more, such as 4, 8, 16 or 32')
        if not 0 < self.layer_decay <= 1:
            raise BadInput(f'layer_decay={self.layer_decay}: give a factor above 0 and up to 1 (1: one rate for all)')
        for name in ('drop_path', 'momentum'):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f'{name}={getattr(self, name)}: give a number from 0 to below 1')
        for name in ('weight_decay', 'warmup_epochs'):
            if getattr(self, name) < 0:
                raise BadInput(f'{name}={getattr(self, name)}: give 0 or more')
        super().check()

    def config(self) -> dict:
        """The method's own settings: for LoRA the rank and what the paper fixes, then what the JSON says."""
        own = {'rank': self.rank} | LORA if self.method == 'lora' else {}
        return own | super().config()


def mean_scale(layer_decay: float, depth: int) -> float:
    """Layer-wise rates over that of the head, on average over embedding, `depth` blocks and head: 0.2 for 0.65 and 12.

    A documented rate is meant for all layers. As the head's, with a decay of 0.65, it leaves the middle of 12 blocks
    a thirteenth of it, which hundreds of epochs make up for, as the authors train, and tens of steps do not.
    """
    return sum(layer_decay**k for k in range(depth + 2)) / (depth + 2)


class Radiographs(Classification):
    """One backbone, one method, one set of radiographs. Findings are multi-label; other datasets work as they do."""

    settings: RadiographSettings

    def __init__(self, settings: RadiographSettings, cache: Path | None = None):
        super().__init__(settings, cache)
        self.objective: Objective = MULTI_LABEL if self.data.card.multi_label else SINGLE_LABEL

    def _load_backbone(self, seed: int) -> backbones.Backbone:
        s = self.settings
        size, depth = self.image_size, {'drop_path': s.drop_path} if s.drop_path else {}
        backbone = backbones.load(s.backbone, len(self.data.classes), size, weights=s.weights, seed=seed, **depth)
        backbone.image_size = self.image_size
        return backbone

    def training_config(self, rates: dict[str, float], seed: int | None = None) -> TrainingConfig:
        """As in `Classification`, with the paper's options; warm-up is a share of the steps, as it is of the epochs."""
        s = self.settings
        own = {'weight_decay': s.weight_decay, 'warmup_fraction': min(1.0, s.warmup_epochs / s.epochs)}
        own |= {'optimizer_name': s.optimizer, 'momentum': s.momentum, 'layer_decay': s.layer_decay}
        return replace(super().training_config(rates, seed), **own)

    def centres(self) -> dict[str, float]:
        """AdamW: the method's documented rate; SGD: the authors' for it. Both times what the backbone asks for.

        On shipped backbones AdamW's is also divided by `mean_scale`, which gives the average layer the documented rate.
        """
        s, centres = self.settings, super().centres()
        if s.optimizer == 'sgd':
            if s.method not in SGD_RATES and not s.learning_rate:
                known = ', '.join(SGD_RATES)
                raise BadInput(f'learning_rate=0 with SGD and method {s.method!r}: give a rate; there are for {known}')
            centres[BODY] = SGD_RATES.get(s.method, s.learning_rate) * backbones.learning_rate_factor(s.backbone)
        elif s.backbone in SMALL_BACKBONES:
            centres[BODY] /= mean_scale(s.layer_decay, len(getattr(self.backbone.model, 'blocks', ())))
        return centres

    def given_rates(self) -> dict[str, float]:
        """As in `Run`; a given rate may be for so many images a step, of which the batch has a share."""
        given, unit = super().given_rates(), RATE_KINDS[self.settings.learning_rate_kind]
        return {name: rate * self.settings.batch_size / unit for name, rate in given.items()} if unit else given

    @cached_property
    def undefined(self) -> dict[str, list[str]]:
        """By split, the findings that all or none of its images have: their AUROC is left out there."""
        if self.objective is SINGLE_LABEL:
            return {split: [] for split in SPLITS}
        names = np.asarray(self.data.classes)
        return {split: names[~auroc.defined(self.data.labels[self.rows(split)])].tolist() for split in SPLITS}

    def evaluate(self) -> dict:
        """As in `Classification`, and for findings the bootstrap of the mean test AUROC over patients.

        Adds to the test scores 'auroc_low' and 'auroc_high' (95 %), and 'bootstrap': the draws, which pair the runs of
        one test split (`auroc.bootstrap`), and what was drawn.
        """
        scores = super().evaluate()
        if self.objective is SINGLE_LABEL:
            return scores
        rows = self.rows('test')
        draws = auroc.bootstrap(self.data.labels[rows], self.probabilities['test'], self.data.groups[rows])
        low, high = auroc.quantiles(draws)
        scores['test'] |= {'auroc_low': low, 'auroc_high': high}
        about = {'seed': auroc.SEED, 'patients': len(np.unique(self.data.groups[rows])), 'images': len(rows)}
        return scores | {'bootstrap': {**about, 'auroc': np.round(draws, 5).tolist()}}

    def about_data(self) -> dict:
        """What the record says of the data beside what every record says."""
        train = self.rows('train')
        positives = self.data.labels[train].sum(axis=0, dtype=int).tolist() if self.data.card.multi_label else []
        patients = {split: len(np.unique(self.data.groups[self.rows(split)])) for split in SPLITS}
        return {'undefined': self.undefined, 'patients': patients, 'train_positives': positives}
