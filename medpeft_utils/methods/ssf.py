"""Scaling and shifting of features (SSF) after the operations of a frozen backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from medpeft_utils.methods.base import (
    BATCH_NORM,
    Method,
    is_any_norm,
    modules_of_type,
    modules_where,
    option,
    register,
    replace_module,
)

NORMS = (BATCH_NORM, nn.GroupNorm, nn.LayerNorm)
SMALLEST_SCALE = 1e-2  # dividing by less would lose the digits of the features


@dataclass(frozen=True)
class SSFConfig:
    """Hyper-parameters of SSF."""

    start: str = option(
        'identity',
        "scale and shift start at (1, 0), or 'normal': at N(1, 0.02) and N(0, 0.02)",
        "this project's: the base model at the start; the code of Lian et al. starts at 'normal'",
        choices=('identity', 'normal'),
    )


class ScaledNorm(nn.Module):
    """A normalisation layer, then y = scale * x + shift.

    Lian et al. 2022, arXiv:2210.08823, Eq. 2. Scale and shift are folded into the layer's own affine parameters at
    every call, which gives the same without another pass over the features or a copy of them kept for the backward.
    """

    def __init__(self, base: nn.Module, config: SSFConfig):
        super().__init__()
        self.base = base
        self.scale, self.shift = _scale_and_shift(base.weight, base.weight.shape, config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape that the layer takes, to the same shape."""
        base, affine = self.base, self.affine()
        if type(base) is nn.LayerNorm:  # the same, faster: there are two in every block
            return F.layer_norm(x, base.normalized_shape, affine['weight'], affine['bias'], base.eps)
        return functional_call(base, affine, (x,))

    def affine(self) -> dict[str, torch.Tensor]:
        """Weight and bias of the normalisation with scale and shift folded in."""
        return {
            'weight': self.base.weight * self.scale,
            'bias': torch.addcmul(self.shift, self.base.bias, self.scale),
        }

    def merged(self) -> nn.Module:
        for name, value in self.affine().items():
            getattr(self.base, name).copy_(value)
        return self.base


class FoldedLinear(torch.autograd.Function):
    """scale * (W x + b) + shift by the one product (scale W) x + (scale b + shift), for frozen W and b, on a CPU.

    Differentiating the folded weights would cost a product as large as full fine-tuning's. Instead, with z the result
    and g its gradient, the gradient of the shift is sum(g), and that of the scale, sum(g y) with y = (z - shift) /
    scale, is (sum(g z) - shift sum(g)) / scale: no pass over the features but these two sums, no copy of y kept.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
    ) -> torch.Tensor:
        """[..., I] to [..., O]; weight [O, I], the others [O]. No scale may be zero."""
        folded = weight * scale[:, None]  # [O, I], small beside the features
        z = F.linear(x, folded, torch.addcmul(shift, bias, scale))
        ctx.save_for_backward(z, folded, scale, shift)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of x, scale and shift."""
        z, folded, scale, shift = ctx.saved_tensors
        rows = g.reshape(-1, g.shape[-1])  # [N, O]
        products, of_shift = _sums(rows, z.view_as(rows))
        of_x = (rows @ folded).view(*g.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        return of_x, None, None, (products - shift * of_shift) / scale, of_shift


def _sums(g: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """sum(g z) and sum(g) over the rows of [N, O], in one pass.

    That is what a LayerNorm computes for its weight and bias when its mean is 0 and its deviation 1.
    """
    mean, deviation, ones = g.new_zeros(len(g), 1), g.new_ones(len(g), 1), g.new_ones(g.shape[1])
    backward, wanted = torch.ops.aten.native_layer_norm_backward, [False, True, True]
    return backward(g, z, [g.shape[1]], mean, deviation, ones, ones, wanted)[1:]


class ScaledOutput(nn.Module):
    """A Linear or Conv2d, then y = scale * x + shift.

    Lian et al. 2022, arXiv:2210.08823, Eq. 2. On a CPU in float32 folded into a Linear's product (`FoldedLinear`); else
    one fused multiply-add in the precision of the features.
    """

    def __init__(self, base: nn.Linear | nn.Conv2d, config: SSFConfig):
        super().__init__()
        self.base = base
        self.scale, self.shift = _scale_and_shift(base.weight, base.weight.shape[:1], config)
        self.view = (-1, 1, 1) if isinstance(base, nn.Conv2d) else (-1,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, I] tokens to [B, N, D], or [B, I, H, W] to [B, D, H', W']."""
        if self._folds(x):
            bias = torch.zeros_like(self.shift) if self.base.bias is None else self.base.bias
            return FoldedLinear.apply(x, self.base.weight, bias, self.scale, self.shift)
        y = self.base(x)
        # Under autocast addcmul would take everything to float32 because the parameters are.
        return torch.addcmul(self.shift.to(y.dtype).view(self.view), y, self.scale.to(y.dtype).view(self.view))

    def _folds(self, x: torch.Tensor) -> bool:
        """Whether folding is exact and faster: in float32 on a CPU, for many tokens, with no scale near zero."""
        base = self.base
        if type(base) is not nn.Linear or x.device.type != 'cpu' or not x.dtype == base.weight.dtype == torch.float32:
            return False
        few = x.numel() < base.weight.numel()  # a copy of the weights then costs more than another pass
        if few or torch.is_autocast_enabled('cpu') or torch.compiler.is_compiling():
            return False
        frozen = not (hasattr(base, 'changed_in_place') or any(p.requires_grad for p in base.parameters()))
        return frozen and bool(self.scale.detach().abs().amin() > SMALLEST_SCALE)

    def merged(self) -> nn.Module:
        """The base with scaled weights; one that had no bias gets the shift as its bias."""
        base = self.base
        base.weight.mul_(self.scale.view(-1, *[1] * (base.weight.dim() - 1)))
        if base.bias is None:
            base.bias = nn.Parameter(self.shift.clone().to(base.weight.dtype))
        else:
            base.bias.mul_(self.scale).add_(self.shift)
        return base


@register
class SSF(Method):
    """Scale and shift after operations of the frozen backbone.

    On a ViT (Swin and others too) after every Linear and LayerNorm and after the patch projection. On a CNN after every
    BatchNorm (or GroupNorm): after the convolutions before them the count would be the same, but in training BatchNorm
    undoes any scale and shift of its input. On a CNN without them (ConvNeXt) after every convolution, Linear and
    LayerNorm, as in the code of Lian et al. Biases of q and v that BEiT and EVA-02 keep beside their Linear are added
    behind scale and shift.
    """

    key = 'ssf'
    labels = {'cnn': 'SSF', 'vit': 'SSF'}
    order = 80
    kind = 'additive'
    paper = 'Lian et al. 2022, Scaling & Shifting Your Features, arXiv:2210.08823'
    summary = 'Adapting a pre-trained model to downstream datasets by parameters that modulate the extracted features.'
    learning_rate = {'cnn': 1e-3, 'vit': 5e-3}
    learning_rate_source = 'ViT: scripts of Lian et al. (1e-2 and 5e-3, AdamW); CNN: Dutt et al. 2024, Appendix B'
    letters = {'scale': ('γ', False), 'shift': ('β', False)}
    needs = 'normalisation layers with weight and bias, Linear layers or convolutions'
    Config = SSFConfig

    def targets(self, model: nn.Module, family: str, config: SSFConfig) -> list[str]:
        if _has_only_norms_scaled(model, family):
            return modules_where(model, lambda name, module: _is_affine(module, (BATCH_NORM, nn.GroupNorm)))
        batch_norm = any(isinstance(module, BATCH_NORM) for module in model.modules())  # undoes what a convolution does
        return modules_where(model, lambda name, module: _is_operation(module, convolutions=not batch_norm))

    def left_out(self, model: nn.Module, targets: list[str], family: str, config: SSFConfig) -> list[str]:
        """Norms without a bias (RMSNorm), and on a ViT or ConvNeXt the convolutions of other kinds."""
        kinds = () if _has_only_norms_scaled(model, family) else (nn.Linear, nn.Conv2d)
        return modules_where(
            model,
            lambda name, module: (is_any_norm(module) or isinstance(module, kinds)) and name not in targets,
        )

    def attach(self, model: nn.Module, targets: list[str], family: str, config: SSFConfig) -> list[str]:
        for name in targets:
            base = model.get_submodule(name)
            wrapper = ScaledNorm if isinstance(base, NORMS) else ScaledOutput
            replace_module(model, name, wrapper(base, config))
        return [f'{name}.{leaf}' for name in targets for leaf in ('scale', 'shift')]

    def merge(self, model: nn.Module, config: SSFConfig) -> None:
        for name, module in modules_of_type(model, (ScaledNorm, ScaledOutput)):
            replace_module(model, name, module.merged())


def _scale_and_shift(like: torch.Tensor, shape: torch.Size, config: SSFConfig) -> tuple[nn.Parameter, nn.Parameter]:
    scale, shift = like.new_ones(shape), like.new_zeros(shape)
    if config.start == 'normal':
        nn.init.normal_(scale, mean=1.0, std=0.02)
        nn.init.normal_(shift, std=0.02)
    return nn.Parameter(scale), nn.Parameter(shift)


def _is_affine(module: nn.Module, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(module, kinds) and module.weight is not None and module.bias is not None


def _has_only_norms_scaled(model: nn.Module, family: str) -> bool:
    """Whether it is a CNN with BatchNorm or GroupNorm."""
    return family == 'cnn' and any(_is_affine(module, (BATCH_NORM, nn.GroupNorm)) for module in model.modules())


def _is_operation(module: nn.Module, convolutions: bool) -> bool:
    if type(module) is nn.Conv2d:
        return convolutions
    # torch's MultiheadAttention reads the weights of its Linear of a kind of its own
    linear = isinstance(module, nn.Linear) and type(module).__name__ != 'NonDynamicallyQuantizableLinear'
    return linear or _is_affine(module, NORMS)
