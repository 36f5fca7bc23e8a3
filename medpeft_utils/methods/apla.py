"""APLA: the output projection of every attention is trained, or a random part of its rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from medpeft_utils.methods.base import (
    Method,
    attentions,
    modules_of_type,
    option,
    register,
    replace_module,
)


@dataclass(frozen=True)
class APLAConfig:
    """Hyper-parameters of APLA."""

    columns: int = option(
        0,
        'how many output features of each projection are trained; 0 for all',
        'Sorkhei et al. 2025, Sec. 3: all, or a random subset whose size they search (their code: 8 and 128)',
        minimum=0,
    )
    subset_seed: int = option(0, 'of the random subset', "this project's: a file can be loaded again", minimum=0)


class PartlyTrained(nn.Module):
    """A frozen Linear of which some output features have weights of their own: rows of W [O, I], entries of b [O]."""

    def __init__(self, base: nn.Linear, rows: torch.Tensor):
        super().__init__()
        self.base = base
        self.register_buffer('rows', rows.to(base.weight.device), persistent=False)
        self.weight = nn.Parameter(base.weight.detach()[rows].clone())
        self.bias = None if base.bias is None else nn.Parameter(base.bias.detach()[rows].clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., I] to [..., O]."""
        tuned = F.linear(x, self.weight, self.bias)  # [..., columns]
        y = self.base(x)
        return y.index_copy(-1, self.rows, tuned.to(y.dtype))

    def merged(self) -> nn.Linear:
        """The plain layer with the trained rows in their places."""
        self.base.weight[self.rows] = self.weight.to(self.base.weight.dtype)
        if self.bias is not None:
            self.base.bias[self.rows] = self.bias.to(self.base.bias.dtype)
        return self.base


@register
class APLA(Method):
    """Train W_O and its bias in every attention, or some of their output features, chosen at random once.

    Sorkhei et al. 2025, arXiv:2503.11335. Differs: their random features are drawn for each layer from the global
    generator; here from `subset_seed`, which makes a saved file fit when it is loaded.
    """

    key = 'apla'
    labels = {'vit': 'APLA'}
    order = 340
    kind = 'selective'
    paper = 'Sorkhei et al. 2025, APLA: A Simple Adaptation Method for Vision Transformers, arXiv:2503.11335'
    summary = 'Fine-tuning the projection behind each attention, or a random part of its output features.'
    learning_rate = {'vit': 1e-4}
    learning_rate_source = 'that of full fine-tuning: whole matrices are trained (their parameter files: 3e-5 to 5e-4)'
    needs = 'a Linear as attn.proj in its blocks'
    Config = APLAConfig

    def targets(self, model: nn.Module, family: str, config: APLAConfig) -> list[str]:
        named = attentions(model)
        return [f'{name}.proj' for name, attention in named if type(getattr(attention, 'proj', None)) is nn.Linear]

    def attach(self, model: nn.Module, targets: list[str], family: str, config: APLAConfig) -> list[str]:
        if config.columns:
            generator = torch.Generator().manual_seed(config.subset_seed)
            for name in targets:
                base = model.get_submodule(name)
                rows = torch.randperm(base.out_features, generator=generator, device='cpu')[: config.columns]
                replace_module(model, name, PartlyTrained(base, rows))
        parameters = dict(model.named_parameters())
        return [f'{name}.{leaf}' for name in targets for leaf in ('weight', 'bias') if f'{name}.{leaf}' in parameters]

    def merge(self, model: nn.Module, config: APLAConfig) -> None:
        for name, module in modules_of_type(model, PartlyTrained):
            replace_module(model, name, module.merged())
