"""Every method written plainly, as a script of an afternoon would have it: timm's network, peft's LoRA, plain modules.

These are what the package's own methods are timed against, and, given the same weights, what they must equal.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

HEADS = ('head.', 'fc.')


class Modulated(nn.Module):
    """x * scale + shift after a layer, as `ssf_ada` in the code of Lian et al. 2022 (arXiv:2210.08823)."""

    def __init__(self, base: nn.Module, width: int):
        super().__init__()
        self.base = base
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., D], or [B, D, H, W] where the layer gives a feature map."""
        x = self.base(x)
        if x.dim() == 4 and not isinstance(self.base, nn.Linear | nn.LayerNorm):
            return x * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)
        return x * self.scale + self.shift


class ParallelConvolution(nn.Module):
    """A convolution and a 1x1 one beside it, as `conv_tsa` in the code of Li et al. 2022 (arXiv:2107.00358)."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv
        out, channels = conv.weight.shape[:2]
        self.alpha = nn.Parameter(1e-4 * torch.eye(out, channels)[:, :, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, I, H, W] to [B, O, H', W']."""
        return self.conv(x) + F.conv2d(x, self.alpha, stride=self.conv.stride)


class AdaptedBlock(nn.Module):
    """A transformer block with an adapter beside its MLP, as in the code of Chen et al. 2022 (arXiv:2205.13535)."""

    def __init__(self, block: nn.Module, bottleneck: int = 6, scale: float = 0.1):
        super().__init__()
        self.block, self.scale = block, scale
        width = block.attn.proj.out_features
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor, **_: object) -> torch.Tensor:
        """[B, N, D] to [B, N, D]."""
        x = x + self.block.attn(self.block.norm1(x))
        adapted = self.up(F.relu(self.down(x))) * self.scale
        return x + self.block.mlp(self.block.norm2(x)) + adapted


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition('.')
    setattr(model.get_submodule(parent), leaf, module)


def _ssf(model: nn.Module, family: str) -> Callable[[str], bool]:
    kinds = nn.BatchNorm2d if family == 'cnn' else (nn.Linear, nn.LayerNorm)
    for name, module in list(model.named_modules()):
        if not f'{name}.'.startswith(HEADS) and (isinstance(module, kinds) or name == 'patch_embed.proj'):
            _replace(model, name, Modulated(module, len(module.weight)))
    return lambda name: name.endswith(('.scale', '.shift'))


def _tsa(model: nn.Module, family: str) -> Callable[[str], bool]:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and name.startswith('layer') and name.count('.') == 2:
            _replace(model, name, ParallelConvolution(module))
    return lambda name: name.endswith('.alpha')


def _adaptformer(model: nn.Module, family: str) -> Callable[[str], bool]:
    model.blocks = nn.Sequential(*(AdaptedBlock(block) for block in model.blocks))
    return lambda name: '.down.' in name or '.up.' in name


def _of_norms(kinds: type | tuple) -> Callable[[nn.Module, str], Callable[[str], bool]]:
    def rule(model: nn.Module, family: str) -> Callable[[str], bool]:
        norms = tuple(f'{name}.' for name, module in model.named_modules() if isinstance(module, kinds))
        return lambda name: name.startswith(norms)

    return rule


# key of a method: changes the network and gives the rule by which parameters are trained, the head apart
PLAIN: dict[str, Callable[[nn.Module, str], Callable[[str], bool]]] = {
    'full_ft': lambda model, family: lambda name: True,
    'linear_probing': lambda model, family: lambda name: False,
    'attention_tuning': lambda model, family: lambda name: '.attn.' in name or name == 'pos_embed',
    'bias_tuning': lambda model, family: lambda name: name.endswith('.bias'),
    'bn_tuning': _of_norms(nn.BatchNorm2d),
    'layernorm_tuning': _of_norms(nn.LayerNorm),
    'ssf': _ssf,
    'tsa': _tsa,
    'adaptformer': _adaptformer,
}


def plain_model(model: nn.Module, key: str, family: str) -> nn.Module:
    """The network with a method written plainly; what is not trained is frozen.

    Raises KeyError for a method that has no plain form here (`has_plain`).
    """
    if key == 'lora':
        from peft import LoraConfig, get_peft_model

        convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
        layers, head = (['qkv'], 'head') if family == 'vit' else (convolutions[1:], 'fc')
        return get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules=layers, modules_to_save=[head]))
    trained = PLAIN[key](model, family)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained(name) or name.startswith(HEADS))
    return model


def has_plain(key: str) -> bool:
    """Whether the method is written plainly here; where not, the package's own module takes its place."""
    return key == 'lora' or key in PLAIN
