"""Bias, norm and attention tuning of a U-Net at once."""

from __future__ import annotations

from typing import Any

from torch import nn

from medpeft_utils.methods.base import SelectiveMethod, parameters_where, register
from medpeft_utils.methods.unet import biases_and_norms, in_attention


@register
class BiasNormAttentionTuning(SelectiveMethod):
    """Train every bias, every norm and every parameter with `attentions` in its name.

    Dutt et al. 2024, Table 4: the union of Listings 5 to 7; see `norm_tuning` and `attention_tuning`.
    """

    key = 'bias_norm_attention_tuning'
    labels = {'unet': 'Bias+Norm+Attention'}
    order = 64
    paper = 'Dutt et al. 2024, Listings 5 to 7, arXiv:2305.08252'
    summary = 'Fine-tuning the biases, the normalisation layers and the transformer blocks of a diffusion U-Net.'
    learning_rate = {'unet': 1e-5}
    learning_rate_source = 'that of full fine-tuning: a third of all weights are trained, whole matrices among them'
    needs = 'parameters with attentions in their names'

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        attention = parameters_where(model, lambda name, module, leaf: in_attention(name))
        known = set(attention)
        return attention and attention + [name for name in biases_and_norms(model) if name not in known]
