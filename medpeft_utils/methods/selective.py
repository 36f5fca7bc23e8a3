"""Full fine-tuning, linear probing, and the methods that train a kind of the backbone's own parameters by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from medpeft_utils.methods.base import (
    BATCH_NORM,
    SelectiveMethod,
    head_names,
    is_any_norm,
    parameters_where,
    register,
)
from medpeft_utils.methods.unet import biases_and_norms, in_attention, is_norm

BASELINE = 'baseline of Dutt et al. 2024, Parameter-Efficient Fine-Tuning for Medical Image Analysis, arXiv:2305.08252'
WHOLE_MATRICES = 'that of full fine-tuning: a third of all weights are trained, whole matrices among them'


@register
class FullFineTuning(SelectiveMethod):
    """Train everything: the baseline of the comparison."""

    key = 'full_ft'
    labels = {'cnn': 'Full FT', 'vit': 'Full FT', 'unet': 'Full FT'}
    order = 10
    kind = 'baseline'
    paper = BASELINE
    summary = 'Training all parameters of the pre-trained network.'
    learning_rate = {'cnn': 1e-4, 'vit': 1e-4, 'unet': 1e-5}
    learning_rate_source = (
        'usual for AdamW from pre-trained weights (U-Net: the text-to-image example of diffusers); Dutt et al. 2024 '
        'search it and print none'
    )
    needs = 'parameters'

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        return parameters_where(model, lambda name, module, leaf: True)


@register
class LinearProbing(SelectiveMethod):
    """Train the head alone.

    BatchNorm stays in evaluation mode: the features of an image never change and are computed once.
    """

    key = 'linear_probing'
    labels = {'cnn': 'Linear Probing', 'vit': 'Linear Probing'}
    order = 20
    kind = 'baseline'
    paper = BASELINE
    summary = 'Training a linear classifier on the features of the frozen network.'
    learning_rate = {'cnn': 1e-2, 'vit': 1e-2}
    learning_rate_source = 'a convex problem over few parameters allows a large rate; Dutt et al. 2024 print none'
    updates_batchnorm = False
    needs = 'a classification head'

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        return head_names(model)


@register
class BiasTuning(SelectiveMethod):
    """Train every parameter named `bias` (Dutt et al. 2024, Listings 2 and 6).

    Cai et al. 2020, arXiv:2007.11622, and Ben Zaken et al. 2022, arXiv:2106.10199. Differs: TinyTL's light residual
    modules are left out, as in the listing. In a ResNet the biases are those of BatchNorm.
    """

    key = 'bias_tuning'
    labels = {'cnn': 'Bias Tuning', 'vit': 'BitFit', 'unet': 'Bias'}
    order = 60
    paper = 'Cai et al. 2020, TinyTL, arXiv:2007.11622'
    summary = 'Training only biases, after the TinyTL framework for parameter-efficient on-device learning.'
    by_family = {
        'vit': {
            'paper': 'Ben Zaken et al. 2022, BitFit, arXiv:2106.10199',
            'summary': 'Fine-tuning the bias terms of a transformer, competitive with or better than full fine-tuning.',
        },
        'unet': {
            'paper': 'Dutt et al. 2024, Listing 6, arXiv:2305.08252',
            'summary': 'Fine-tuning the bias terms of a diffusion U-Net.',
        },
    }
    learning_rate = {'cnn': 1e-3, 'vit': 1e-3, 'unet': 1e-4}
    needs = 'parameters named bias outside the head'

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        return parameters_where(model, lambda name, module, leaf: leaf == 'bias')


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
    learning_rate_source = WHOLE_MATRICES
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


@register
class BatchNormTuning(SelectiveMethod):
    """Train the affine parameters of the normalisation layers (Dutt et al. 2024, Listing 1: BatchNorm and GroupNorm).

    Frankle et al. 2020, arXiv:2003.00152. Differs: they train BatchNorm in a network of random weights; here, as in
    Dutt et al., the weights are pre-trained.
    """

    key = 'bn_tuning'
    labels = {'cnn': 'BN Tuning'}
    order = 40
    paper = 'Frankle et al. 2020, Training BatchNorm and Only BatchNorm, arXiv:2003.00152'
    summary = 'Training only BatchNorm layers, which leads to high performance in CNNs even over random weights.'
    learning_rate = {'cnn': 1e-3}
    needs = 'BatchNorm or GroupNorm layers with a weight and a bias'

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        return parameters_where(model, lambda name, module, leaf: isinstance(module, (BATCH_NORM, nn.GroupNorm)))


@register
class LayerNormTuning(SelectiveMethod):
    """Train the affine parameters of every LayerNorm.

    Basu et al. 2023, arXiv:2304.01917. Differs: their variant with an additional attention scale is left out.
    """

    key = 'layernorm_tuning'
    labels = {'vit': 'LayerNorm Tuning'}
    order = 100
    paper = 'Basu et al. 2023, Strong Baselines for Parameter Efficient Few-Shot Fine-tuning, arXiv:2304.01917'
    summary = 'Fine-tuning LayerNorm parameters, a strong baseline for few-shot adaptation.'
    learning_rate = {'vit': 1e-3}
    needs = 'LayerNorm layers with a weight and a bias'

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        return parameters_where(model, lambda name, module, leaf: isinstance(module, nn.LayerNorm))

    def left_out(self, model: nn.Module, targets: list[str], family: str, config: Any) -> list[str]:
        """Norms of other kinds, such as RMSNorm."""
        return parameters_where(model, lambda name, module, leaf: is_any_norm(module) and name not in targets)


@register
class NormTuning(SelectiveMethod):
    """Train the affine parameters of every GroupNorm and LayerNorm.

    Dutt et al. 2024, Listing 5, ask for `norm` in a parameter's name, which in Stable Diffusion names the same
    parameters. Differs on U-Nets with adaptive norms: the Linear in them, which such a name covers too, stays frozen.
    """

    key = 'norm_tuning'
    labels = {'unet': 'Norm'}
    order = 62
    paper = 'Dutt et al. 2024, Listing 5, arXiv:2305.08252'
    summary = 'Fine-tuning the normalisation layers of a diffusion U-Net.'
    learning_rate = {'unet': 1e-4}
    needs = 'GroupNorm or LayerNorm layers with a weight and a bias'

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        return parameters_where(model, lambda name, module, leaf: is_norm(module))


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
    learning_rate_source = WHOLE_MATRICES
    needs = 'parameters with attentions in their names'

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        attention = parameters_where(model, lambda name, module, leaf: in_attention(name))
        known = set(attention)
        return attention and attention + [name for name in biases_and_norms(model) if name not in known]
