"""Convpass: a convolutional bypass beside the attention and the MLP of every transformer block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from medpeft_utils.methods.base import Method, option, register, transformer_blocks


@dataclass(frozen=True)
class ConvpassConfig:
    """Hyper-parameters of Convpass."""

    width: int = option(8, 'h, channels of the bypass', 'Jie and Deng 2022, Sec. 4.1', minimum=1)
    scale: float = option(1.0, 's, the factor of the bypass', 'the middle of 0.01 to 100, which their code searches')
    dropout: float = option(
        0.0,
        'before the last layer',
        "this project's: no method here drops out; their code has 0.1",
        minimum=0,
        below=1,
    )


class ConvolutionalBypass(nn.Module):
    """1x1, 3x3 and 1x1 convolution with QuickGELU between them, over the patches as an image.

    Jie and Deng 2022, arXiv:2207.07039, Eq. 5. The class token, and each register, is an image of one pixel. The 3x3
    kernel starts at the identity and the last layer at zero, and so the bypass does.

    Args:
        like: the block's own weights have its dtype and device.
        features: D.
        grid: rows and columns of patches.
        prefix: tokens before the patches.
    """

    def __init__(self, like: torch.Tensor, features: int, grid: tuple[int, int], prefix: int, config: ConvpassConfig):
        super().__init__()
        place = {'device': like.device, 'dtype': like.dtype}
        self.down = nn.Linear(features, config.width, **place)
        self.conv = nn.Conv2d(config.width, config.width, 3, padding=1, **place)
        self.up = nn.Linear(config.width, features, **place)
        self.grid, self.prefix, self.dropout = grid, prefix, config.dropout
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.dirac_(self.conv.weight)
        for zero in (self.down.bias, self.conv.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, D] to [B, N, D], N = prefix + rows * columns."""
        hidden = _quick_gelu(self.down(x)).transpose(1, 2)  # [B, h, N]
        single, patches = hidden[..., : self.prefix], hidden[..., self.prefix :].unflatten(-1, self.grid)
        parts = [self.conv(patches).flatten(2)]  # [B, h, rows * columns]
        if self.prefix:  # of a single pixel the padded kernel sees the centre only
            centre, bias = self.conv.weight[..., 1, 1], self.conv.bias[:, None]
            parts.insert(0, centre.to(single.dtype) @ single + bias.to(single.dtype))
        hidden = _quick_gelu(torch.cat(parts, dim=-1)).transpose(1, 2)  # [B, N, h]
        return self.up(F.dropout(hidden, self.dropout, self.training))


def _quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


class Bypassed(nn.Module):
    """A branch of a block with its layer scale, and a bypass that sees the branch's input: scale(f(x)) + s g(x).

    The block's own layer scale moves in here, since the bypass is not scaled by it.
    """

    def __init__(self, layer: nn.Module, layer_scale: nn.Module, bypass: nn.Module, scale: float):
        super().__init__()
        self.layer, self.layer_scale, self.bypass, self.scale = layer, layer_scale, bypass, scale

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """[B, N, D] to [B, N, D]; further arguments are the branch's."""
        return torch.add(self.layer_scale(self.layer(x, *args, **kwargs)), self.bypass(x), alpha=self.scale)


@register
class Convpass(Method):
    """A bypass beside the attention and one beside the MLP of every block, both on the normalised features.

    Jie and Deng 2022, arXiv:2207.07039. Differs where a block has drop path: that drops both branches at once here.
    """

    key = 'convpass'
    labels = {'vit': 'Convpass'}
    order = 350
    kind = 'additive'
    paper = 'Jie and Deng 2022, Convolutional Bypasses Are Better Vision Transformer Adapters, arXiv:2207.07039'
    summary = 'Adding small convolutions over the grid of patches beside the attention and the MLP of every block.'
    learning_rate = {'vit': 1e-3}
    learning_rate_source = 'the code of Jie and Deng 2022 (AdamW, 1e-3)'
    mergeable = False  # activations stand between its layers
    letters = {'bypass.down': ('down', True), 'bypass.conv': ('3×3', True), 'bypass.up': ('up', True)}
    needs = 'the blocks of a VisionTransformer over a fixed grid of patches'
    Config = ConvpassConfig

    def targets(self, model: nn.Module, family: str, config: ConvpassConfig) -> list[str]:
        return [name for name, _ in transformer_blocks(model)] if getattr(model, 'patch_embed', None) else []

    def attach(self, model: nn.Module, targets: list[str], family: str, config: ConvpassConfig) -> list[str]:
        grid, prefix = tuple(model.patch_embed.grid_size), model.num_prefix_tokens
        for name in targets:
            block = model.get_submodule(name)
            like = block.attn.proj.weight
            for branch, scale in (('attn', 'ls1'), ('mlp', 'ls2')):
                bypass = ConvolutionalBypass(like, len(like), grid, prefix, config)
                wrapped = Bypassed(getattr(block, branch), getattr(block, scale), bypass, config.scale)
                setattr(block, branch, wrapped)
                setattr(block, scale, nn.Identity())
        return [name for name, _ in model.named_parameters() if '.bypass.' in name]
