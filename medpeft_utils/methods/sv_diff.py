"""SV-Diff: the singular values of every weight matrix are shifted, the singular vectors stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from medpeft_utils.methods.base import Method, modules_of_type, modules_where, register
from medpeft_utils.methods.decomposition import Decomposition, decomposed
from medpeft_utils.methods.unet import is_norm


class SpectralShift(nn.Module):
    """W_delta = U diag(relu(sigma + delta)) V^T of a weight W = U diag(sigma) V^T.

    Han et al. 2023, arXiv:2303.11305, Eq. 3; Dutt et al. 2024, Eq. 5 and 6. Computed as W plus the change, which is the
    same and exactly W where delta is zero. Only delta [K] is trained, and only it is saved.

    Args:
        parts: of the weight as a matrix [M, N]: U [M, K], sigma [K], V^T [K, N], with K the smaller of M and N.
    """

    def __init__(self, parts: Decomposition):
        super().__init__()
        self.register_buffer('left', parts.left, persistent=False)
        self.register_buffer('sigma', parts.sigma, persistent=False)
        self.register_buffer('right', parts.right, persistent=False)
        self.delta = nn.Parameter(torch.zeros_like(parts.sigma))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight, of any shape whose first dimension is M, to the shifted one of the same shape."""
        change = F.relu(self.sigma + self.delta) - self.sigma  # [K]
        update = (self.left * change) @ self.right  # [M, N]
        return weight + update.view_as(weight).to(weight.dtype)


@register
class SVDiff(Method):
    """A trained shift for each singular value of every Linear and convolution, and one for each norm's weight.

    Han et al. 2023, arXiv:2303.11305. A kernel is the matrix [C_out, C_in * h * w]; a norm's weight is a matrix of one
    row, whose only singular value is its length, as in the public code (mkshing/svdiff-pytorch), by which the count of
    Dutt et al. 2024, Table 4, comes out. Biases and embeddings stay frozen.

    Differs: one learning rate for all, the public code trains the norms' shifts at 1e-6. No Cut-Mix-Unmix and no prior
    preservation, which are for learning single subjects. Decomposed in double precision, in which machines agree on the
    singular vectors, and once for a backbone where `apply` and `load` get a cache folder (`decomposition.py`).
    Sampling from a merged model saves the product of the factors at every step.
    """

    key = 'sv_diff'
    labels = {'unet': 'SV-Diff'}
    order = 110
    kind = 'additive'
    paper = 'Han et al. 2023, SVDiff, arXiv:2303.11305'
    summary = 'Fine-tuning singular values of weight matrices, an efficient adapter for text-to-image models.'
    learning_rate = {'unet': 1e-3}
    learning_rate_source = 'the public code (1e-3); Han et al. 2023: about a thousand times that of full fine-tuning'
    letters = {'delta': ('δ', False)}
    needs = 'Linear, Conv2d, GroupNorm or LayerNorm layers with a weight'
    uses_cache = True

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        return modules_where(model, lambda name, module: _has_spectrum(module))

    def attach(
        self, model: nn.Module, targets: list[str], family: str, config: Any, cache: str | Path | None = None
    ) -> list[str]:
        weights = {name: model.get_submodule(name).weight.detach() for name in targets}
        for name, parts in decomposed(weights, cache):
            # unsafe skips a trial product of the factors: the shape is that of the weight by construction
            parametrize.register_parametrization(model.get_submodule(name), 'weight', SpectralShift(parts), unsafe=True)
        return [f'{name}.parametrizations.weight.0.delta' for name in targets]

    def merge(self, model: nn.Module, config: Any) -> None:
        for _, module in modules_of_type(model, nn.Module):
            if parametrize.is_parametrized(module, 'weight'):
                weight = module.weight
                # by hand: torch's removal changes the class, which a copy shares with the model that it was copied from
                module.__class__ = parametrize.type_before_parametrizations(module)
                del module.parametrizations
                module.weight = nn.Parameter(weight)


def _has_spectrum(module: nn.Module) -> bool:
    kinds = isinstance(module, (nn.Linear, nn.Conv2d)) or is_norm(module)
    return kinds and getattr(module, 'weight', None) is not None
