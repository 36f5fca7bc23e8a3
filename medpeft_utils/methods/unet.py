"""The parts of a diffusion U-Net that the methods work on, and the architecture of Stable Diffusion v1.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from medpeft_utils.methods.base import modules_where, parameters_where

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

# unet/config.json of the published weights; what is not named is diffusers' default.
STABLE_DIFFUSION_V1_5 = {
    'sample_size': 64,
    'in_channels': 4,
    'out_channels': 4,
    'down_block_types': ('CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'),
    'up_block_types': ('UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'),
    'block_out_channels': (320, 640, 1280, 1280),
    'layers_per_block': 2,
    'norm_num_groups': 32,
    'cross_attention_dim': 768,
    'attention_head_dim': 8,
}
# The letters of LoRA's option `parts` to the layers of diffusers' Attention.
ATTENTION_LAYERS = {'q': 'to_q', 'k': 'to_k', 'v': 'to_v', 'o': 'to_out.0'}


def build(config: dict[str, Any]) -> UNet2DConditionModel:
    """A U-Net of diffusers with random weights from the global generator; under `torch.device('meta')` with none.

    It takes [B, C, H, W] noisy latents, [B] timesteps and [B, T, D] text embeddings; `.sample` of what it gives is
    [B, C, H, W].
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**config)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a GroupNorm or a LayerNorm."""
    return isinstance(module, (nn.GroupNorm, nn.LayerNorm))


def in_attention(name: str) -> bool:
    """Whether a parameter of that name is in the transformer of a block (Dutt et al. 2024, Listing 7)."""
    return 'attentions' in name


def biases_and_norms(model: nn.Module) -> list[str]:
    """The names of every bias and of the weights of every norm."""
    return parameters_where(model, lambda name, module, leaf: leaf == 'bias' or is_norm(module))


def attention_linears(model: nn.Module, parts: str) -> list[str]:
    """The names of the Linear layers of every attention that the letters stand for: q, k, v, o (output)."""
    layers = tuple(ATTENTION_LAYERS[part] for part in parts)
    return modules_where(model, lambda name, module: type(module) is nn.Linear and _ends_with(name, layers))


def _ends_with(name: str, layers: tuple[str, ...]) -> bool:
    return any(f'.{name}'.endswith(f'.{layer}') for layer in layers)


def attention_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of every transformer block of the U-Net: self-attention, cross-attention, feed-forward."""
    from diffusers.models.attention import BasicTransformerBlock

    return [(name, module) for name, module in model.named_modules() if isinstance(module, BasicTransformerBlock)]
