"""AdaptFormer: a bottleneck beside the MLP of every transformer block."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from medpeft_utils.methods.base import Method, attentions, option, pre_norm_blocks, register


@dataclass(frozen=True)
class AdaptFormerConfig:
    """Hyper-parameters of AdaptFormer."""

    bottleneck: int = option(
        6,
        'width of the adapter',
        'the width that gives the counts of Dutt et al. 2024, Table 6; Chen et al. use 64',
        minimum=1,
    )
    scale: float = option(0.1, 's of Eq. 4', 'Chen et al. 2022, Sec. 4 and code (ffn_adapter_scalar)')
    layer_norm: bool = option(
        False,
        "normalise the adapter's input",
        'the code of Chen et al. does not (and the counts of Table 6 come out without); Eq. 3 of Dutt et al. does',
    )
    dropout: float = option(
        0.0,
        'after the ReLU',
        "this project's: no method here drops out; the code of Chen et al. has 0.1",
        minimum=0,
        below=1,
    )


class Adapter(nn.Module):
    """ReLU(LN(x) W_down) W_up, biases included (Dutt et al. 2024, Eq. 3). Starts at zero because W_up does."""

    def __init__(self, width: int, config: AdaptFormerConfig, like: torch.Tensor):
        super().__init__()
        place = {'device': like.device, 'dtype': like.dtype}
        self.norm = nn.LayerNorm(width, **place) if config.layer_norm else nn.Identity()
        self.down = nn.Linear(width, config.bottleneck, **place)
        self.up = nn.Linear(config.bottleneck, width, **place)
        self.dropout = config.dropout
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, D] to [B, N, D]."""
        hidden = F.relu(self.down(self.norm(x)))  # [B, N, bottleneck]
        return self.up(F.dropout(hidden, self.dropout, self.training))


class AdaptMLP(nn.Module):
    """The MLP branch of a block and the adapter in parallel: MLP(LN(x)) + s * adapter(x).

    Chen et al. 2022, arXiv:2205.13535; Dutt et al. 2024, Eq. 4, whose residual + x the block adds itself. It holds the
    block's second norm and layer scale (`ls2`, or `gamma_2` of BEiT and EVA-02) because the adapter sees neither.
    Differs where a block has drop path: that drops both branches here, the MLP's alone in the original.
    """

    def __init__(self, block: nn.Module, config: AdaptFormerConfig):
        super().__init__()
        self.norm2, self.mlp, self.ls2 = block.norm2, block.mlp, getattr(block, 'ls2', nn.Identity())
        self.gamma_2 = getattr(block, 'gamma_2', None)
        weight = block.attn.proj.weight
        self.adapter = Adapter(weight.shape[0], config, weight)
        self.scale = config.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, D] to [B, N, D]."""
        y = self.ls2(self.mlp(self.norm2(x)))
        y = y if self.gamma_2 is None else self.gamma_2 * y
        return torch.add(y, self.adapter(x), alpha=self.scale)


@register
class AdaptFormer(Method):
    """AdaptMLP in the place of every block's MLP."""

    key = 'adaptformer'
    labels = {'vit': 'AdaptFormer'}
    order = 90
    kind = 'additive'
    paper = 'Chen et al. 2022, AdaptFormer, arXiv:2205.13535'
    summary = 'Adding lightweight modules, which increases the transferability of a ViT to image and video tasks.'
    learning_rate = {'vit': 1e-3}
    weight_decay = 0.0  # Chen et al. 2022, Appendix, and code
    mergeable = False  # the ReLU stands between its two matrices
    letters = {'adapter.norm': ('LN', True), 'adapter.down': ('down', True), 'adapter.up': ('up', True)}
    needs = 'blocks that normalise before their MLP (ViT, DINOv2 and DINOv3, EVA-02, BEiT, Swin)'
    Config = AdaptFormerConfig

    def targets(self, model: nn.Module, family: str, config: AdaptFormerConfig) -> list[str]:
        return [name for name, _ in pre_norm_blocks(model)]

    def left_out(self, model: nn.Module, targets: list[str], family: str, config: AdaptFormerConfig) -> list[str]:
        """The attentions of blocks of another build."""
        return [name for name, _ in attentions(model) if name.rpartition('.')[0] not in targets]

    def attach(self, model: nn.Module, targets: list[str], family: str, config: AdaptFormerConfig) -> list[str]:
        for name in targets:
            block = model.get_submodule(name)
            block.mlp = AdaptMLP(block, config)
            block.norm2, block.ls2 = nn.Identity(), nn.Identity()
            if block.mlp.gamma_2 is not None:
                del block.gamma_2
                block.gamma_2 = 1.0  # the block multiplies by it
        return [name for name, _ in model.named_parameters() if '.mlp.adapter.' in name]
