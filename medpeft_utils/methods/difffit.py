"""DiffFit: biases, norms, and scale factors on the branches of every transformer block of a diffusion U-Net."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medpeft_utils.methods.base import Method, register
from medpeft_utils.methods.unet import ATTENTION_LAYERS, attention_blocks, biases_and_norms


@register
class DiffFit(Method):
    """Train every bias, every norm, and a scale gamma on the output of parts of every transformer block.

    Xie et al. 2023, arXiv:2304.06648: y = gamma * block(x), gamma starting at 1, for the parts of DiT's blocks. On a
    U-Net as in the public port to Stable Diffusion (mkshing/DiffFit-pytorch), whose rule is Listing 8 of Dutt et al.
    2024 and whose sites give the count of their Table 4: a gamma for each channel at eleven sites of a block, which are
    the q, k, v and output projections of both attentions, both attentions as a whole, and the feed-forward part. That
    of an attention and that of its output projection scale the same features.

    Differs: `y_embed` of the listing, DiT's class embedding, has no counterpart in a text-to-image U-Net; a projection
    whose width is not the block's (the port would fail) has a gamma of its own width.
    """

    key = 'difffit'
    labels = {'unet': 'DiffFit'}
    order = 120
    kind = 'additive'
    paper = 'Xie et al. 2023, DiffFit, arXiv:2304.06648'
    summary = 'Fine-tuning only the bias terms, the norms and newly added scaling factors in specific layers.'
    learning_rate = {'unet': 1e-3}
    learning_rate_source = 'Xie et al. 2023: ten times the rate of pre-training; the port to Stable Diffusion: 1e-3'
    letters = {'gamma': ('γ', False)}
    needs = "transformer blocks (diffusers' BasicTransformerBlock)"

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        return [f'{name}.{site}' for name, block in attention_blocks(model) for site in _sites(block)]

    def attach(self, model: nn.Module, targets: list[str], family: str, config: Any) -> list[str]:
        selected = biases_and_norms(model)
        for name in targets:
            module = model.get_submodule(name)
            weight = _output_layer(module).weight
            module.gamma = nn.Parameter(weight.new_ones(weight.shape[0]))
            module.gamma_hook = module.register_forward_hook(_scale)
        return selected + [f'{name}.gamma' for name in targets]

    def merge(self, model: nn.Module, config: Any) -> None:
        for module in model.modules():
            if 'gamma_hook' not in vars(module):
                continue
            layer = _output_layer(module)
            layer.weight.mul_(module.gamma[:, None])
            if layer.bias is not None:
                layer.bias.mul_(module.gamma)
            module.gamma_hook.remove()
            del module.gamma, module.gamma_hook


def _sites(block: nn.Module) -> list[str]:
    """The names, in a block, of the modules whose output is scaled."""
    attentions = [name for name in ('attn1', 'attn2') if getattr(block, name, None) is not None]
    layers = [f'{name}.{layer}' for name in attentions for layer in ATTENTION_LAYERS.values()]
    return [*layers, *attentions, 'ff']


def _output_layer(module: nn.Module) -> nn.Linear:
    """The Linear whose output is that of an attention or feed-forward part, or the Linear itself."""
    if isinstance(module, nn.Linear):
        return module
    if hasattr(module, 'to_out'):
        return module.to_out[0]
    return [layer for layer in module.net if isinstance(layer, nn.Linear)][-1]


def _scale(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    """A hook rather than a wrapper: the U-Net keeps its modules and names. [B, N, D] to [B, N, D]."""
    return output * module.gamma.to(output.dtype)  # under autocast the parameter is in float32, the features are not
