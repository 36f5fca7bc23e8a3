"""Full fine-tuning: every parameter is trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from medpeft_utils.methods.base import SelectiveMethod, parameters_where, register


@register
class FullFineTuning(SelectiveMethod):
    """Train everything; the baseline that the others are measured against."""

    key = 'full_ft'
    labels = {'cnn': 'Full FT', 'vit': 'Full FT', 'unet': 'Full FT'}
    order = 10
    kind = 'baseline'
    paper = 'baseline of Dutt et al. 2024, Parameter-Efficient Fine-Tuning for Medical Image Analysis, arXiv:2305.08252'
    summary = 'Training all parameters of the pre-trained network.'
    learning_rate = {'cnn': 1e-4, 'vit': 1e-4, 'unet': 1e-5}
    learning_rate_source = (
        'usual for AdamW from pre-trained weights (U-Net: the text-to-image example of diffusers); Dutt et al. 2024 '
        'search it and print none'
    )
    needs = 'parameters'

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        return parameters_where(model, lambda name, module, leaf: True)
