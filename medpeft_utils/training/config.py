"""How long and how a model is trained: steps, rates, what decays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

# Parameters that no weight decay shrinks, besides vectors and what the network itself names (`no_weight_decay`).
NOT_DECAYED = ('pos_embed', 'cls_token', 'reg_token', 'dist_token')


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how a model is trained; the same for every method.

    The paper states batch 512, AdamW and a searched learning rate; all else is ours, since it is not stated.

    Args:
        learning_rate: peak of the schedule.
        head_learning_rate: peak of the head's; 0 for that of the body.
        epochs: passes over the training items, within the two bounds on steps.
        min_steps, max_steps: bounds on optimizer steps: without them a small split would get only a handful.
        batch_size: items a step (all of them where there are fewer).
        weight_decay: AdamW's, on matrices and kernels only: on no vector, class token or position embedding.
        warmup_fraction: part of the steps in which the learning rate rises linearly.
        evaluations: how often the validation split is scored.
        evaluate_first: score the untrained model too; that row of the curve is shown and not selected.
        clip: largest norm of the gradient; 0 for no limit.
        seed: order, augmentation and, where a network has it, dropout.
        optimizer_name: 'adamw', or 'sgd', which decays every weight.
        momentum: of SGD.
        layer_decay: AdamW's rate of a layer over that of the next one (ELECTRA, BEiT, MAE); 1 for one rate.
    """

    learning_rate: float
    head_learning_rate: float = 0.0
    epochs: int = 20
    min_steps: int = 60
    max_steps: int = 60
    batch_size: int = 64
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    evaluations: int = 6
    evaluate_first: bool = False
    clip: float = 0.0
    seed: int = 0
    optimizer_name: str = 'adamw'
    momentum: float = 0.9
    layer_decay: float = 1.0

    def steps(self, items: int) -> int:
        """Optimizer steps for a training split of `items`."""
        per_epoch = max(1, items // min(self.batch_size, items))
        return max(self.min_steps, min(self.epochs * per_epoch, self.max_steps))

    def evaluated_at(self, steps: int) -> set[int]:
        """After which of `steps` the validation split is scored; the last is among them."""
        return {round(step) for step in np.linspace(0, steps, min(self.evaluations, steps) + 1)[1:]}

    def rate(self, step: int, steps: int) -> float:
        """Learning rate at `step` of `steps`, counted from 0."""
        warmup = max(1, round(self.warmup_fraction * steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    def optimizer(self, adapted) -> torch.optim.Optimizer:
        """The optimizer of what an adapted model trains; a group's 'scale' multiplies the rate of the schedule."""
        model, adam = adapted.model, self.optimizer_name == 'adamw'
        spared = set(getattr(model, 'no_weight_decay', set)())
        head, depth = set(getattr(adapted, 'head_names', ())), len(getattr(model, 'blocks', ()))
        head_scale = (self.head_learning_rate or self.learning_rate) / self.learning_rate
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in adapted.trainable().items():
            undecayed = parameter.ndim <= 1 or name in spared or name.endswith(NOT_DECAYED)
            scale = head_scale if name in head else 1.0
            if adam and self.layer_decay != 1:
                scale *= self.layer_decay ** (depth + 1 - layer_of(name, depth))
            groups.setdefault((scale, 0.0 if adam and undecayed else self.weight_decay), []).append(parameter)
        described = [{'params': p, 'weight_decay': decay, 'scale': scale} for (scale, decay), p in groups.items()]
        if adam:
            return torch.optim.AdamW(described, lr=self.learning_rate, fused=True)
        return torch.optim.SGD(described, lr=self.learning_rate, momentum=self.momentum)


def layer_of(name: str, depth: int) -> int:
    """The layer of a ViT's parameter: 0 for what comes before the blocks, 1 to `depth`, `depth` + 1 for norm and head.

    As `param_groups_lrd` of MAE (He et al. 2022, arXiv:2111.06377). An adapter counts to the block that it sits in.
    """
    if name in ('cls_token', 'pos_embed', 'reg_token') or name.startswith(('patch_embed', 'norm_pre')):
        return 0
    return int(name.split('.')[1]) + 1 if name.startswith('blocks.') else depth + 1
