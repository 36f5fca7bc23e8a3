"""LayerNorm tuning: the weight and bias of every LayerNorm are trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from medpeft_utils.methods.base import SelectiveMethod, is_any_norm, parameters_where, register


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
