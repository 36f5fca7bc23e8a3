"""LoRA: a low-rank update of the attention's projections, through the peft library."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from medpeft_utils.methods.base import (
    APART,
    PEFT_RATE,
    Method,
    attention_layers,
    attentions,
    modules_of_type,
    modules_where,
    option,
    register,
    replace_module,
)
from medpeft_utils.methods.unet import attention_linears

ADAPTER = 'default'  # peft's name for the only adapter that a layer has here
FINAL_NORMS = 'norm.', 'fc_norm.', 'conv_norm_out.'  # of timm's ViTs and of diffusers' U-Nets


@dataclass(frozen=True)
class LoRAConfig:
    """Hyper-parameters of LoRA."""

    rank: int = option(
        16,
        'r, the rank of the update; 4 on a U-Net',
        'the rank that gives the counts of Dutt et al. 2024, Table 6 (U-Net: Table 4; it is that of diffusers too)',
        minimum=1,
    )
    alpha: float = option(
        16.0,
        'the update is scaled by alpha / rank; 4 on a U-Net',
        'Hu et al. 2022, Sec. 4.1: alpha is set to the first rank tried; Lian et al. 2024 use 32',
        minimum=1e-6,  # at 0 nothing would ever be trained
    )
    dropout: float = option(
        0.0,
        "on the adapter's input",
        "peft's default; Lian et al. 2024 use 0.1; 0 also saves a pass",
        minimum=0,
        below=1,
    )
    parts: str = option(
        'qkv',
        "what is updated: on a ViT the fused qkv as one matrix, or 'qv': its q and v as two (as many parameters); on a "
        "U-Net each matrix apart. 'qkvo', the U-Net's default: the output projection too",
        "qkv: timm's layer as it is; qv: Hu et al. 2022, Sec. 7.1, and Lian et al. 2024, arXiv:2401.12215; qkvo: the "
        'training scripts of diffusers, and the count of Dutt et al. 2024, Table 4',
        choices=('qkv', 'qv', 'qkvo'),
    )
    start: str = option(
        'kaiming',
        "A starts at Kaiming uniform, or 'gaussian': at N(0, 1 / rank); B at zero",
        "kaiming: the code of Hu et al. and peft's default; gaussian: diffusers' own LoRA layers of 2023, whose "
        'example has the rate of 1e-4',
        choices=('kaiming', 'gaussian'),
    )
    train_final_norm: bool = option(
        False,
        "train the norm before the head (on a U-Net before the output's convolution) too",
        'Lian et al. 2024, arXiv:2401.12215, train fc_norm',
    )


class SplitQKV(nn.Module):
    """Split the fused qkv layer into three, which allows q and v to be adapted without k.

    Args:
        qkv: the Linear of [B, N, D] to [B, N, 3 D']; its weights are shared, not copied.
    """

    def __init__(self, qkv: nn.Linear):
        super().__init__()
        width = qkv.out_features // 3
        for index, part in enumerate('qkv'):
            linear = nn.Linear(qkv.in_features, width, bias=qkv.bias is not None, device='meta')
            rows = slice(index * width, (index + 1) * width)
            linear.weight = nn.Parameter(qkv.weight.detach()[rows])
            if qkv.bias is not None:
                linear.bias = nn.Parameter(qkv.bias.detach()[rows])
            setattr(self, part, linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, D] to [B, N, 3 D']."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)

    def merged(self) -> nn.Linear:
        """The fused layer again, once q and v are plain layers."""
        parts = (self.q, self.k, self.v)
        bias = self.k.bias is not None
        qkv = nn.Linear(self.k.in_features, 3 * self.k.out_features, bias=bias, device='meta')
        qkv.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
        if bias:
            qkv.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
        return qkv


class FoldedUpdate(torch.autograd.Function):
    """W0 x + b + s B A x by the one product (W0 + s B A) x + b, for frozen W0 and b.

    Differentiating the folded weights would cost a product as large as full fine-tuning's. Instead, with g the result's
    gradient, that of B is s g^T (A x) and that of A is s (g B)^T x, as they are without folding: thin products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """[..., I] to [..., O]; weight [O, I], bias [O], a [r, I], b [O, r]."""
        folded = torch.addmm(weight, b, a, alpha=scaling)  # [O, I], small beside the features
        ctx.save_for_backward(x, folded, a, b)
        ctx.scaling = scaling
        return F.linear(x, folded, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of x, a and b."""
        x, folded, a, b = ctx.saved_tensors
        rows, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])  # [N, I], [N, O]
        of_x = (g @ folded).view_as(x) if ctx.needs_input_grad[0] else None
        of_a = (g @ (b * ctx.scaling)).T @ rows
        of_b = g.T @ (rows @ (a * ctx.scaling).T)
        return of_x, None, None, of_a, of_b, None


@cache
def folded_linear() -> type[nn.Module]:
    """peft's layer with the update folded into the weights at every call (`FoldedUpdate`), where that is faster.

    A function: importing this file must not import peft.
    """
    from peft.tuners.lora import Linear

    class FoldedLinear(Linear):
        def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            """[..., I] to [..., O]."""
            if args or kwargs or not _folds(self, x):
                return super().forward(x, *args, **kwargs)
            a, b, base = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight, self.base_layer
            return FoldedUpdate.apply(x, base.weight, base.bias, a, b, self.scaling[ADAPTER])

    return FoldedLinear


def _folds(layer: Any, x: torch.Tensor) -> bool:
    """Whether folding is exact and faster: plain LoRA in float32 on a CPU, without dropout, for many tokens."""
    base, dropout = layer.base_layer, layer.lora_dropout[ADAPTER]
    if x.device.type != 'cpu' or not x.dtype == base.weight.dtype == torch.float32:
        return False
    if torch.is_autocast_enabled('cpu') or torch.compiler.is_compiling():
        return False
    # a variant of peft (DoRA and the like), a bias of the update or another adapter computes something else
    plain = not (layer.lora_variant or layer.lora_bias.get(ADAPTER)) and list(layer.active_adapters) == [ADAPTER]
    trained = any(parameter.requires_grad for parameter in base.parameters())
    dropped = isinstance(dropout, nn.Dropout) and dropout.training
    few = x.numel() < base.weight.numel() or hasattr(base, 'changed_in_place')
    return plain and not (layer.merged or layer.disable_adapters or trained or dropped or few)


@register
class LoRA(Method):
    """W0 + alpha / r * B A in every block's attention (Hu et al. 2022, arXiv:2106.09685; Dutt et al. 2024, Eq. 1).

    On a U-Net in every attention, self and cross. Of rank 8 on q and v alone the count would be the same as that of the
    default there, rank 4 on q, k, v and the output.

    A starts at Kaiming uniform, B at zero (peft's defaults and those of Hu et al.'s code). `inference_mode` stays off:
    with it peft freezes the adapters. On a CPU in float32 the forward of peft is replaced by one with the update folded
    into the weights (`FoldedUpdate`): the same up to rounding, without the passes over [B, N, 3 D] of the other.
    """

    key = 'lora'
    labels = {'vit': 'LoRA', 'unet': 'LoRA', 'cnn': 'LoRA'}
    order = 70
    kind = 'additive'
    paper = 'Hu et al. 2022, LoRA, arXiv:2106.09685'
    summary = 'Training injected rank decomposition matrices in transformers, on par with or above full fine-tuning.'
    by_family = {
        'cnn': {
            'paper': 'Yeh et al. 2024, Navigating Text-To-Image Customization: LyCORIS, arXiv:2309.14859',
            'summary': 'Training a convolution of few channels and a 1x1 convolution beside every convolution (LoCon).',
        }
    }
    learning_rate = {'vit': 1e-3, 'unet': 1e-4, 'cnn': 1e-3}
    learning_rate_source = f'{PEFT_RATE}; U-Net: also that of the LoRA example of diffusers'
    needs = (
        'convolutions (on a CNN), Linear layers as qkv or as q, k and v in the attention of its blocks (on a ViT), '
        'to_q, to_k, to_v, to_out (on a U-Net)'
    )
    family_defaults = {'unet': {'rank': 4, 'alpha': 4.0, 'parts': 'qkvo'}}
    letters = {'lora_A': ('A', True), 'lora_B': ('B', True)}
    Config = LoRAConfig

    def targets(self, model: nn.Module, family: str, config: LoRAConfig) -> list[str]:
        return adapted_layers(model, family, config.parts)

    def left_out(self, model: nn.Module, targets: list[str], family: str, config: LoRAConfig) -> list[str]:
        return unadapted_layers(model, targets, family)

    def attach(self, model: nn.Module, targets: list[str], family: str, config: LoRAConfig) -> list[str]:
        if family == 'vit' and config.parts == 'qv':
            targets = split_qkv(model, targets, 'qv')
        trained = inject(model, self.peft_config(config, targets))
        if config.train_final_norm:
            trained += [name for name, _ in model.named_parameters() if name.startswith(FINAL_NORMS)]
        return trained

    def peft_config(self, config: LoRAConfig, targets: list[str]) -> Any:
        """The config of peft's for these layers."""
        from peft import LoraConfig as PeftConfig

        return PeftConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            init_lora_weights='gaussian' if config.start == 'gaussian' else True,
            target_modules=targets,
        )

    def merge(self, model: nn.Module, config: LoRAConfig) -> None:
        merge_layers(model)


def adapted_layers(model: nn.Module, family: str, parts: str) -> list[str]:
    """The names of the layers that low-rank and related updates are added to.

    On a ViT the projections of every attention (`parts`: 'qkv', 'qv' or 'qkvo'; a fused layer is named once), on a
    U-Net those that the letters stand for, on a CNN every convolution but the first, which sees the pixels, and those
    of several groups.
    """
    if family == 'unet':
        return attention_linears(model, parts)
    if family == 'cnn':
        convolutions = modules_where(model, lambda name, module: type(module) is nn.Conv2d)[1:]
        return [name for name in convolutions if model.get_submodule(name).groups == 1]
    return attention_layers(model, parts)


def unadapted_layers(model: nn.Module, targets: list[str], family: str) -> list[str]:
    """Attentions whose projections are of another kind (on a ViT), convolutions of several groups (on a CNN)."""
    if family == 'vit':
        return [name for name, _ in attentions(model) if not any(layer.startswith(f'{name}.') for layer in targets)]
    first = modules_where(model, lambda name, module: isinstance(module, nn.Conv2d))[:1] if family == 'cnn' else []
    known = {*targets, *first}
    convolutions = modules_where(model, lambda name, module: isinstance(module, nn.Conv2d) and name not in known)
    return convolutions if family == 'cnn' else []


def split_qkv(model: nn.Module, targets: list[str], parts: str) -> list[str]:
    """Put `SplitQKV` in the place of every fused layer among the targets.

    Returns:
        The names, with those of the parts in place of each fused layer; of separate layers only those of the parts.
    """
    names, apart = [], {layer: letter for layers in APART for letter, layer in layers.items()}
    for name in targets:
        leaf = name.rpartition('.')[2]
        if leaf == 'qkv':
            replace_module(model, name, SplitQKV(model.get_submodule(name)))
            names += [f'{name}.{part}' for part in parts]
        elif apart.get(leaf, parts) in parts:
            names.append(name)
    return names


def inject(model: nn.Module, settings: Any) -> list[str]:
    """Put peft's layers over those that the settings' `target_modules` names, in place.

    The names must be full ones: peft would match `proj` in the patch embedding as well as in the attention.

    Returns:
        The names of the parameters that peft trains.
    """
    from peft import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.lora import Linear, LoraLayer
    from peft.tuners.tuners_utils import cast_adapter_dtype

    own = {name for name, _ in model.named_parameters()}
    # not `inject_adapter_in_model`, which refuses tuners that share tensors between layers
    PEFT_TYPE_TO_TUNER_MAPPING[settings.peft_type](model, settings, ADAPTER)
    cast_adapter_dtype(model, ADAPTER)  # to float32, before a layer is asked below
    for _, layer in modules_of_type(model, LoraLayer):
        if type(layer) is Linear:
            layer.__class__ = folded_linear()  # the same layer, with another forward
        # Under autocast peft would take half-precision features to float32, and autocast back again.
        layer.cast_input_dtype_enabled = layer.get_base_layer().weight.dtype != layer.lora_A[ADAPTER].weight.dtype
    return [name for name, p in model.named_parameters() if name not in own and '.base_layer.' not in name]


def merge_layers(model: nn.Module) -> None:
    """Fold peft's layers into plain ones, in place, and leave nothing of peft on the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in modules_of_type(model, BaseTunerLayer):
        layer.merge(safe_merge=True)
        replace_module(model, name, layer.get_base_layer())
    for name, split in modules_of_type(model, SplitQKV):
        replace_module(model, name, split.merged())
    vars(model).pop('peft_config', None)
