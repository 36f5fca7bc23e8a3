"""Linear probing: only the head is trained, on features of the frozen backbone."""

from __future__ import annotations

from typing import Any

from torch import nn

from medpeft_utils.methods.base import SelectiveMethod, head_names, register


@register
class LinearProbing(SelectiveMethod):
    """Train the head alone.

    BatchNorm stays in evaluation mode: the features of an image never change and are computed only once.
    """

    key = 'linear_probing'
    labels = {'cnn': 'Linear Probing', 'vit': 'Linear Probing'}
    order = 20
    kind = 'baseline'
    paper = 'baseline of Dutt et al. 2024, Parameter-Efficient Fine-Tuning for Medical Image Analysis, arXiv:2305.08252'
    summary = 'Training a linear classifier on the features of the frozen network.'
    learning_rate = {'cnn': 1e-2, 'vit': 1e-2}
    learning_rate_source = 'a convex problem over few parameters bears a large rate; Dutt et al. 2024 print none'
    updates_batchnorm = False
    needs = 'a classification head'

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        return head_names(model)
