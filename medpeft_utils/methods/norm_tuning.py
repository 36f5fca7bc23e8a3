"""Norm tuning: the weight and bias of every GroupNorm and LayerNorm of a U-Net are trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from medpeft_utils.methods.base import SelectiveMethod, parameters_where, register
from medpeft_utils.methods.unet import is_norm


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
