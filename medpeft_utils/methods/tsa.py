"""Task-specific adapters (TSA): a 1x1 convolution beside convolutions of the residual blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from medpeft_utils.methods.base import Method, modules_of_type, modules_where, option, register, replace_module

BLOCK = re.compile('Block|Bottle|Residual|Separable|DenseLayer')  # in the names of timm's classes
UNITS = ('ConvNormAct', 'ConvNorm')  # whose convolution is called `conv`
SHORTCUTS = ('downsample', 'shortcut')


@dataclass(frozen=True)
class TSAConfig:
    """Hyper-parameters of TSA."""

    convolutions: str = option(
        'every',
        'which direct convolutions of a block get an adapter: every one, or those with a 3x3 kernel',
        'Dutt et al. 2024, Listing 4 (10.6M in ResNet-50); the code of Li et al. takes 3x3 only (1.26M)',
        choices=('every', '3x3'),
    )
    initial_scale: float = option(
        1e-4,
        'adapters start at this times the identity matrix; 0 gives the base model at the start',
        "the code of Li et al. (reset() of resnet_tsa, with tsa_init 'eye'); its constructor leaves ones",
        minimum=0,
    )


class AdaptedConv(nn.Module):
    """A frozen convolution with an adapter in parallel: f(h) + r(h).

    Li et al. 2022, arXiv:2107.00358; Dutt et al. 2024, Eq. 2. r is a 1x1 convolution of the same stride. Where f has a
    1x1 kernel too, the two kernels are added before the one convolution, which gives the same at half the cost.
    """

    def __init__(self, base: nn.Conv2d, initial_scale: float):
        super().__init__()
        self.base = base
        out_channels, in_channels = base.weight.shape[:2]  # in_channels of a group
        eye = torch.eye(out_channels, in_channels, device=base.weight.device, dtype=base.weight.dtype)
        self.alpha = nn.Parameter(initial_scale * eye[:, :, None, None])  # [O, I, 1, 1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, I, H, W] to [B, O, H', W']."""
        base = self.base
        if base.kernel_size == (1, 1):
            weight = base.weight + self.alpha
            return F.conv2d(x, weight, base.bias, base.stride, base.padding, base.dilation, base.groups)
        return base(x) + F.conv2d(x, self.alpha, stride=base.stride, groups=base.groups)

    def merged(self) -> nn.Conv2d:
        """The one convolution that does the same: the adapter is added at the centre of the kernel."""
        height, width = self.base.kernel_size
        self.base.weight[:, :, height // 2, width // 2] += self.alpha[:, :, 0, 0]
        return self.base


@register
class TSA(Method):
    """Residual adapters in matrix form beside the convolutions of the residual blocks.

    Differs from Li et al. 2022: no alignment layer before the classifier and BatchNorm in training mode, as in
    Listing 4 of Dutt et al. 2024; their few-shot episodes are replaced by ordinary training.
    """

    key = 'tsa'
    labels = {'cnn': 'TSA'}
    order = 30
    kind = 'additive'
    paper = 'Li et al. 2022, Cross-domain Few-shot Learning with Task-specific Adapters, arXiv:2107.00358'
    summary = 'Cross-domain few-shot learning by inserting learnable modules.'
    learning_rate = {'cnn': 1e-3}
    identity_at_start = False  # initial_scale is 1e-4, not 0
    count_variants = {
        'TSA (matrix; 3x3 convolutions only as in the original code)': {'convolutions': '3x3'},
        'TSA (matrix; every direct convolution of a block)': {'convolutions': 'every'},
    }
    letters = {'alpha': ('α', True)}
    needs = 'residual blocks that hold Conv2d layers with odd kernels'
    Config = TSAConfig

    def targets(self, model: nn.Module, family: str, config: TSAConfig) -> list[str]:
        direct = _direct_convolutions(model)
        return modules_where(model, lambda name, module: name in direct and _takes_adapter(module, config))

    def left_out(self, model: nn.Module, targets: list[str], family: str, config: TSAConfig) -> list[str]:
        """Convolutions with larger kernels inside the blocks: split channels, other paddings, even kernels."""
        blocks = tuple(f'{name}.' for name, block in model.named_modules() if BLOCK.search(type(block).__name__))
        return modules_where(model, lambda name, module: name.startswith(blocks) and _is_wide(module, name, targets))

    def attach(self, model: nn.Module, targets: list[str], family: str, config: TSAConfig) -> list[str]:
        for name in targets:
            replace_module(model, name, AdaptedConv(model.get_submodule(name), config.initial_scale))
        return [f'{name}.alpha' for name in targets]

    def merge(self, model: nn.Module, config: TSAConfig) -> None:
        for name, module in modules_of_type(model, AdaptedConv):
            replace_module(model, name, module.merged())


def _direct_convolutions(model: nn.Module) -> set[str]:
    """The convolutions that are direct parts of a block, such as layer1.0.conv2, or of its conv-norm-activation units.

    Not the projection of the shortcut, which is one level deeper, nor squeeze-and-excitation or a split of channels.
    """
    names = set()
    for prefix, block in model.named_modules():
        if not BLOCK.search(type(block).__name__):
            continue
        for leaf, child in block.named_children():
            if isinstance(child, nn.Conv2d):
                names.add(f'{prefix}.{leaf}')
            elif type(child).__name__ in UNITS and leaf not in SHORTCUTS:
                names.add(f'{prefix}.{leaf}.conv')
    return names


def _is_wide(module: nn.Module, name: str, targets: list[str]) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) and name not in targets


def _takes_adapter(module: nn.Module, config: TSAConfig) -> bool:
    """A plain convolution whose output lies where that of a 1x1 convolution of the same stride lies."""
    if type(module) is not nn.Conv2d or isinstance(module.padding, str):
        return False
    kernels = zip(module.kernel_size, module.padding, module.dilation, strict=True)
    aligned = all(kernel % 2 and padding == dilation * (kernel // 2) for kernel, padding, dilation in kernels)
    return aligned and (config.convolutions == 'every' or module.kernel_size == (3, 3))
