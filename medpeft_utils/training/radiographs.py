"""LoRA against full fine-tuning on chest-radiograph models: what this family needs beside `Classification`.

Lian et al. 2024, arXiv:2401.12215, and its code (github.com/RL4M/MED-PEFT). Taken over: LoRA on the q and v parts of
every qkv with alpha 32 and dropout 0.1, the final norm and the head trained with it; binary cross-entropy; AdamW with
layer-wise rates or SGD with momentum 0.9 and one rate; stochastic depth; warm-up in epochs; selection by the mean
validation AUROC. Differs: q and v each have a dropout of their own (one for both there); cosine decay to 0 (there
with warm restarts, never reached); this project's augmentation, without RandAugment and random erasing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from medpeft_utils import auroc, backbones
from medpeft_utils.backbones.small import SMALL_BACKBONES
from medpeft_utils.core.errors import BadInput, UnknownName
from medpeft_utils.training.classification import SPLITS, Classification, Settings
from medpeft_utils.training.loop import Protocol
from medpeft_utils.training.multi_label import MULTI_LABEL
from medpeft_utils.training.objective import SINGLE_LABEL, Objective

OPTIMIZERS = ('adamw', 'sgd')
RATE_KINDS = {'absolute': None, 'per 256 images': 256}
# Peak rates of SGD where none is given: full fine-tuning of MRM with 1 % of the labels, and the commonest of LoRA, in
# the authors' scripts and table.
SGD_RATES = {'full_ft': 0.01, 'lora': 0.01}
LORA = {'alpha': 32.0, 'dropout': 0.1, 'parts': 'qv', 'train_final_norm': True}


@dataclass(frozen=True)
class RadiographSettings(Settings):
    """The parameters of the radiograph notebook; their help stands there, beside their defaults."""

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


@dataclass(frozen=True)
class RadiographProtocol(Protocol):
    """The protocol with SGD as a choice, and with learning rates that fall from the head to the input.

    Args:
        optimizer_name: 'adamw', or 'sgd' with one rate for all layers, as in the authors' code.
        momentum: of SGD.
        layer_decay: AdamW's rate of a layer over that of the next one (ELECTRA, BEiT, MAE); 1 for one rate.
    """

    optimizer_name: str = 'adamw'
    momentum: float = 0.9
    layer_decay: float = 1.0

    def optimizer(self, adapted) -> torch.optim.Optimizer:
        """SGD decays every weight; AdamW, as in MAE's code, no vector, class token or position embedding."""
        trainable = adapted.trainable()
        if self.optimizer_name == 'sgd':
            how = {'momentum': self.momentum, 'weight_decay': self.weight_decay}
            return torch.optim.SGD(list(trainable.values()), lr=self.learning_rate, **how)
        spared = set(getattr(adapted.model, 'no_weight_decay', set)())
        depth = len(getattr(adapted.model, 'blocks', ()))
        groups: dict[tuple[int, float], list] = {}
        for name, parameter in trainable.items():
            decay = 0.0 if parameter.ndim <= 1 or name in spared else self.weight_decay
            groups.setdefault((layer_of(name, depth), decay), []).append(parameter)
        described = [
            {'params': members, 'weight_decay': decay, 'scale': self.layer_decay ** (depth + 1 - layer)}
            for (layer, decay), members in groups.items()
        ]
        return torch.optim.AdamW(described, lr=self.learning_rate, fused=True)


def layer_of(name: str, depth: int) -> int:
    """The layer of a ViT's parameter: 0 for what comes before the blocks, 1 to `depth`, `depth` + 1 for norm and head.

    As `param_groups_lrd` of MAE (He et al. 2022, arXiv:2111.06377). An adapter counts to the block that it sits in.
    """
    if name in ('cls_token', 'pos_embed', 'reg_token') or name.startswith(('patch_embed', 'norm_pre')):
        return 0
    return int(name.split('.')[1]) + 1 if name.startswith('blocks.') else depth + 1


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

    def protocol(self, learning_rate: float, seed: int | None = None) -> RadiographProtocol:
        """The training protocol at a learning rate; warm-up is a share of the steps, as it is of the epochs."""
        s = self.settings
        own = {'weight_decay': s.weight_decay, 'warmup_share': min(1.0, s.warmup_epochs / s.epochs)}
        own |= {'optimizer_name': s.optimizer, 'momentum': s.momentum, 'layer_decay': s.layer_decay}
        return RadiographProtocol(**(asdict(super().protocol(learning_rate, seed)) | own))

    def default_learning_rate(self) -> float:
        """AdamW: the method's documented rate; SGD: the authors' for it. Both times what the backbone asks for.

        On shipped backbones AdamW's is over `mean_scale` too, so that the average layer has the documented rate.
        """
        s = self.settings
        if s.optimizer == 'adamw':
            rate, depth = super().default_learning_rate(), len(getattr(self.backbone.model, 'blocks', ()))
            return rate / mean_scale(s.layer_decay, depth) if s.backbone in SMALL_BACKBONES else rate
        if s.method not in SGD_RATES:
            known = ', '.join(SGD_RATES)
            raise BadInput(f'learning_rate=0 with SGD and method {s.method!r}: give a rate; there are for {known}')
        return SGD_RATES[s.method] * backbones.learning_rate_factor(s.backbone)

    def choose_learning_rate(self, folder: Path | None = None, quiet: bool = True) -> dict:
        """As in `Classification`; a given rate may be for so many images a step, of which the batch has a share."""
        chosen = super().choose_learning_rate(folder, quiet)
        unit = RATE_KINDS[self.settings.learning_rate_kind]
        if chosen['how'] == 'given' and unit:
            value = self.settings.learning_rate * self.settings.batch_size / unit
            self.learning_rate = chosen | {'value': value, 'kind': self.settings.learning_rate_kind}
        return self.learning_rate

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
