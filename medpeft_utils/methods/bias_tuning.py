"""Bias tuning (on CNNs and U-Nets) and BitFit (on ViTs): every bias is trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from medpeft_utils.methods.base import SelectiveMethod, parameters_where, register


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
