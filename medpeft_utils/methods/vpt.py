"""Visual prompt tuning (VPT): trained tokens beside those of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from medpeft_utils.methods.base import Method, option, register, transformer_blocks


@dataclass(frozen=True)
class VPTConfig:
    """Hyper-parameters of VPT."""

    tokens: int = option(
        10, 'prompts (before each block that has them)', 'Jia et al. 2022, Sec. 4, search 1 to 200', minimum=1
    )
    dropout: float = option(
        0.0, 'on the prompts', "this project's: no method here drops out; Jia et al. use 0.1", minimum=0, below=1
    )


class Prompts(nn.Module):
    """Trained tokens [P, D].

    Args:
        shape: (P, D).
        place: how many of the network's own tokens (class, registers) stand before them.
        bound: they start at uniform(-bound, bound).
        dropout: on them, in training.
    """

    def __init__(self, shape: tuple[int, int], place: int, bound: float, dropout: float, like: torch.Tensor):
        super().__init__()
        self.tokens = nn.Parameter(like.new_empty(shape).uniform_(-bound, bound))
        self.place, self.dropout = place, dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, D] to [B, N + P, D]."""
        tokens = F.dropout(self.tokens, self.dropout, self.training).to(x.dtype).expand(len(x), -1, -1)
        return torch.cat([x[:, : self.place], tokens, x[:, self.place :]], dim=1)


def _insert(block: nn.Module, inputs: tuple) -> tuple:
    return block.prompts(inputs[0]), *inputs[1:]


def _remove(block: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    """[B, N + P, D] to [B, N, D]."""
    place, count = block.prompted
    return torch.cat([output[:, :place], output[:, place + count :]], dim=1)


class VisualPrompts(Method):
    """Prompts [P, D] between the class token and the patches.

    Jia et al. 2022, arXiv:2203.12119, Eq. 4 to 7. The prompts of a block are taken out behind it, which for the deep
    form is what replacing them by the next block's does, and keeps them out of a pooled mean. They are put in and taken
    out by hooks, which leave the names of the blocks as they are.

    Differs: no projection of the prompts (`PROJECT` of their code, off for ViTs of supervised pre-training).
    """

    kind = 'additive'
    paper = 'Jia et al. 2022, Visual Prompt Tuning, arXiv:2203.12119'
    learning_rate = {'vit': 5e-3}
    learning_rate_source = "Jia et al. 2022 search SGD's rate from 0.05 to 50, far above those of weights; AdamW: SSF's"
    mergeable = False  # tokens are no weights
    identity_at_start = False  # the network's tokens attend to the prompts
    letters = {'prompts': ('prompts', False)}
    needs = 'the blocks of a VisionTransformer, with one class or patch token at least'
    Config = VPTConfig
    deep: ClassVar[bool]

    def targets(self, model: nn.Module, family: str, config: VPTConfig) -> list[str]:
        names = [name for name, _ in transformer_blocks(model)]
        return names if self.deep else names[:1]

    def attach(self, model: nn.Module, targets: list[str], family: str, config: VPTConfig) -> list[str]:
        last = targets[-1] if self.deep else [name for name, _ in transformer_blocks(model)][-1]
        width, patch = model.embed_dim, math.prod(model.patch_embed.patch_size)
        bound = math.sqrt(6 / (3 * patch + width))  # Xavier's, of the patch embedding (their code)
        like = next(model.parameters())
        for name in targets:
            block = model.get_submodule(name)
            shape, place = (config.tokens, width), model.num_prefix_tokens
            block.prompts = Prompts(shape, place, bound, config.dropout, like)
            block.register_forward_pre_hook(_insert)
        for name in targets if self.deep else [last]:
            block = model.get_submodule(name)
            block.prompted = (model.num_prefix_tokens, config.tokens)
            block.register_forward_hook(_remove)
        return [f'{name}.prompts.tokens' for name in targets]


@register
class VPTShallow(VisualPrompts):
    """Prompts before the first block alone, which all blocks carry on."""

    key = 'vpt_shallow'
    labels = {'vit': 'VPT (shallow)'}
    order = 320
    summary = 'Training a few tokens that are added to those of the image before the first block.'
    deep = False


@register
class VPTDeep(VisualPrompts):
    """Prompts of its own before every block."""

    key = 'vpt_deep'
    labels = {'vit': 'VPT (deep)'}
    order = 330
    summary = 'Training a few tokens that are added to those of the image before every block.'
    deep = True
