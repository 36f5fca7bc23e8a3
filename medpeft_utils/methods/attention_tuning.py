"""Attention tuning: the attention layers and the position embedding are trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from medpeft_utils.methods.base import SelectiveMethod, parameters_where, register


@register
class AttentionTuning(SelectiveMethod):
    """Train every parameter with `.attn.` or `attention` in its name, and `pos_embed` (Dutt et al. 2024, Listing 3).

    Touvron et al. 2022, arXiv:2203.09795, train the position embedding as well; the patch embedding stays frozen.
    """

    key = 'attention_tuning'
    labels = {'vit': 'Attention Tuning'}
    order = 50
    paper = 'Touvron et al. 2022, Three Things Everyone Should Know About Vision Transformers, arXiv:2203.09795'
    summary = 'Fine-tuning the attention layers, which is enough to adapt ViTs to different classification tasks.'
    learning_rate = {'vit': 1e-4}
    learning_rate_source = 'that of full fine-tuning: a third of all weights are trained, whole matrices among them'
    needs = 'parameters with .attn. in their names'

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        attention = parameters_where(model, lambda name, module, leaf: '.attn.' in name or 'attention' in name)
        position = parameters_where(model, lambda name, module, leaf: name == 'pos_embed')
        return attention and attention + position
