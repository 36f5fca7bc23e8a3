"""Tiny diffusion U-Nets, what they take, and every method's count on a U-Net as a formula of its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from medpeft_utils.methods.unet import build

TEXT_WIDTH, TOKENS, POOLED, TIME_IDS = 12, 5, 7, 6
SIZE = {'sample_size': 8, 'block_out_channels': (16, 32), 'layers_per_block': 1, 'norm_num_groups': 8}
SIZE |= {'in_channels': 4, 'out_channels': 4, 'cross_attention_dim': TEXT_WIDTH}
UNETS: dict[str, dict[str, Any]] = {
    # as Stable Diffusion v1.5: no attention in the deepest block, projections by convolution
    'unet': SIZE
    | {
        'down_block_types': ('CrossAttnDownBlock2D', 'DownBlock2D'),
        'up_block_types': ('UpBlock2D', 'CrossAttnUpBlock2D'),
        'attention_head_dim': 4,
    },
    # as Stable Diffusion XL: none in the shallowest, several transformer blocks in a row, linear projections, an
    # embedding of the pooled text and the image's size
    'unet_xl': SIZE
    | {
        'down_block_types': ('DownBlock2D', 'CrossAttnDownBlock2D'),
        'up_block_types': ('CrossAttnUpBlock2D', 'UpBlock2D'),
        'attention_head_dim': (2, 4),
        'transformer_layers_per_block': (1, 2),
        'use_linear_projection': True,
        'addition_embed_type': 'text_time',
        'addition_time_embed_dim': 8,
        'projection_class_embeddings_input_dim': TIME_IDS * 8 + POOLED,
    },
}


def unet(name: str) -> nn.Module:
    return build(UNETS[name])


def is_unet(model: nn.Module) -> bool:
    return type(model).__name__ == 'UNet2DConditionModel'


def predict(model: nn.Module, seed: int = 1, dtype: torch.dtype | None = None) -> torch.Tensor:
    """What the U-Net predicts for four random noisy latents, at four timesteps, with four random texts."""
    generator = torch.Generator().manual_seed(seed)
    latents, texts = (
        torch.randn(4, 4, 8, 8, generator=generator),
        torch.randn(4, TOKENS, TEXT_WIDTH, generator=generator),
    )
    added = {
        'text_embeds': torch.randn(4, POOLED, generator=generator),
        'time_ids': torch.full((4, TIME_IDS), 64.0),
    }
    steps = torch.tensor([1, 250, 500, 999])
    dtype = dtype or next(model.parameters()).dtype
    return model(latents.to(dtype), steps, texts.to(dtype), added_cond_kwargs=added).sample


class Layer(NamedTuple):
    """A layer with a weight: `inputs` counts a kernel's places too; those of a norm are 0."""

    outputs: int
    inputs: int
    bias: bool = True
    inside: str = ''  # 'transformer': anywhere in it; 'q', 'k', 'v', 'o': these projections


def conv(outputs: int, inputs: int, kernel: int = 3) -> Layer:
    return Layer(outputs, inputs * kernel**2)


def unet_layers(config: dict[str, Any]) -> Iterator[Layer]:
    """Every layer of the U-Net of Rombach et al. 2022 (Ho et al. 2020 with transformers), from its configuration."""
    widths, depth = config['block_out_channels'], config['layers_per_block']
    first, last, time = widths[0], len(widths) - 1, 4 * widths[0]
    layers_of = config.get('transformer_layers_per_block', (1,) * len(widths))
    yield from (Layer(time, first), Layer(time, time), conv(first, config['in_channels']))
    if 'projection_class_embeddings_input_dim' in config:
        yield from (Layer(time, config['projection_class_embeddings_input_dim']), Layer(time, time))

    def stage(inputs: list[int], i: int, kind: str) -> Iterator[Layer]:
        for width in inputs:
            yield from residual(widths[i], width, time)
            if 'CrossAttn' in kind:
                yield from transformer(widths[i], config['cross_attention_dim'], layers_of[i])

    skips = [first]
    for i, kind in enumerate(config['down_block_types']):
        yield from stage([skips[-1]] + [widths[i]] * (depth - 1), i, kind)
        skips += [widths[i]] * depth
        if i < last:
            yield conv(widths[i], widths[i])
            skips.append(widths[i])
    yield from residual(widths[-1], widths[-1], time)
    yield from transformer(widths[-1], config['cross_attention_dim'], layers_of[-1])
    yield from residual(widths[-1], widths[-1], time)
    width = widths[-1]
    for i, kind in zip(range(last, -1, -1), config['up_block_types'], strict=True):
        before = [width] + [widths[i]] * depth
        yield from stage([other + skips.pop() for other in before], i, kind)
        width = widths[i]
        if i > 0:
            yield conv(width, width)
    yield from (Layer(first, 0), conv(config['out_channels'], first))


def residual(outputs: int, inputs: int, time: int) -> Iterator[Layer]:
    yield from (Layer(inputs, 0), conv(outputs, inputs), Layer(outputs, time))
    yield from (Layer(outputs, 0), conv(outputs, outputs))
    if inputs != outputs:
        yield conv(outputs, inputs, 1)


def transformer(width: int, text: int, count: int) -> Iterator[Layer]:
    inside = 'transformer'
    yield from (Layer(width, 0, True, inside), Layer(width, width, True, inside))
    for _ in range(count):
        for source in (width, text):
            yield Layer(width, 0, True, inside)
            yield from (Layer(width, width, False, 'q'), Layer(width, source, False, 'k'))
            yield from (Layer(width, source, False, 'v'), Layer(width, width, True, 'o'))
        yield Layer(width, 0, True, inside)
        yield from (Layer(8 * width, width, True, inside), Layer(width, 4 * width, True, inside))  # GEGLU halves
    yield Layer(width, width, True, inside)


def unet_counts(config: dict[str, Any], options: Any) -> dict[str, int]:
    """Trained parameters by method; `options` are those of LoRA, anything for the others."""
    layers = list(unet_layers(config))
    norms = [layer for layer in layers if not layer.inputs]
    attention = [layer for layer in layers if layer.inside]
    outer = [layer for layer in layers if not layer.inside]
    chosen = [layer for layer in layers if layer.inside in {*getattr(options, 'parts', '')}]
    biases, weights = _biases(layers), sum(norm.outputs for norm in norms)
    blocks = sum(layer.outputs for layer in layers if layer.inside == 'o') // 2  # two output projections a block
    final = 2 * config['block_out_channels'][0] if getattr(options, 'train_final_norm', False) else 0
    return {
        'full_ft': _all(layers),
        'attention_tuning': _all(attention),
        'bias_tuning': biases,
        'norm_tuning': 2 * weights,
        'bias_norm_attention_tuning': _all(attention)
        + _biases(outer)
        + sum(layer.outputs for layer in outer if not layer.inputs),
        'lora': getattr(options, 'rank', 0) * sum(layer.outputs + layer.inputs for layer in chosen) + final,
        'sv_diff': sum(min(layer.outputs, layer.inputs) or 1 for layer in layers),
        'difffit': biases + weights + 11 * blocks,
    }


def _all(layers: list[Layer]) -> int:
    return sum(layer.outputs * (layer.inputs or 1) for layer in layers) + _biases(layers)


def _biases(layers: list[Layer]) -> int:
    return sum(layer.outputs for layer in layers if layer.bias)
