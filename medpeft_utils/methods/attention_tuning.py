"""Attention tuning: the attention layers are trained, on a ViT the position embedding too."""

from __future__ import annotations

from typing import Any

from torch import nn

from medpeft_utils.methods.base import SelectiveMethod, parameters_where, register
from medpeft_utils.methods.unet import in_attention


@register
class AttentionTuning(SelectiveMethod):
    """Train every parameter with `.attn.` or `attention` in its name, and `pos_embed` (Dutt et al. 2024, Listing 3).

    Touvron et al. 2022, arXiv:2203.09795, train the position embedding as well; the patch embedding stays frozen.
    On a U-Net every parameter with `attentions` in its name (Listing 7, headed 'Bias Tuning'): the whole transformer of
    a block, its feed-forward part and projections too.
    """

    key = 'attention_tuning'
    labels = {'vit': 'Attention Tuning', 'unet': 'Attention'}
    order = 50
    paper = 'Touvron et al. 2022, Three Things Everyone Should Know About Vision Transformers, arXiv:2203.09795'
    summary = 'Fine-tuning the attention layers, which is enough to adapt ViTs to different classification tasks.'
    by_family = {
        'unet': {
            'paper': 'Dutt et al. 2024, Listing 7, arXiv:2305.08252; after Moon et al. 2022',
            'summary': 'Fine-tuning the transformer blocks of a diffusion U-Net: self-, cross-attention, feed-forward.',
        }
    }
    learning_rate = {'vit': 1e-4, 'unet': 1e-5}
    learning_rate_source = 'that of full fine-tuning: a third of all weights are trained, whole matrices among them'
    needs = 'parameters with .attn. (on a U-Net: attentions) in their names'

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        if family == 'unet':
            return parameters_where(model, lambda name, module, leaf: in_attention(name))
        attention = parameters_where(model, lambda name, module, leaf: '.attn.' in name or 'attention' in name)
        position = parameters_where(model, lambda name, module, leaf: name == 'pos_embed')
        return attention and attention + position

    def left_out(self, model: nn.Module, targets: list[str], family: str, config: Any) -> list[str]:
        """The attention that pools the tokens before the head (SigLIP, CLIP's ResNets): it is new in every task."""
        return parameters_where(model, lambda name, module, leaf: 'attn_pool' in name and name not in targets)
