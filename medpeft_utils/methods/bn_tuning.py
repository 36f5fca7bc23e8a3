"""BatchNorm tuning: the weight and bias of every BatchNorm are trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from medpeft_utils.methods.base import BATCH_NORM, SelectiveMethod, parameters_where, register


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
