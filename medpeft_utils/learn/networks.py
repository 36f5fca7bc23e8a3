"""The real networks of the paper without weights, with a method applied: what drawings and counts are read from."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from medpeft_utils.core.errors import UnknownName

if TYPE_CHECKING:
    from torch import nn

    from medpeft_utils.methods import Adapted

REAL = {'cnn': 'resnet50', 'vit': 'vit_base_patch16_224', 'unet': 'stable-diffusion-v1-5'}
LABELS = {'cnn': 'ResNet-50', 'vit': 'ViT-Base', 'unet': "Stable Diffusion's U-Net"}
CLASSES = 7  # of the head that is drawn and counted beside: as many as HAM10000 has


def real(family: str) -> nn.Module:
    """ResNet-50, ViT-Base or the U-Net of Stable Diffusion v1.5, its parameters without storage. Raises UnknownName."""
    import torch

    from medpeft_utils import backbones
    from medpeft_utils.methods import unet

    if family not in REAL:
        raise UnknownName('family', family, REAL)
    with torch.device('meta'):
        return unet.build(unet.STABLE_DIFFUSION_V1_5) if family == 'unet' else backbones.build(REAL[family], CLASSES)


@lru_cache(maxsize=64)
def _adapted(method: str, family: str, config: str) -> Adapted:
    from medpeft_utils import methods

    return methods.apply(real(family), method, family, json.loads(config))


def adapted(method: str, family: str, config: dict[str, Any] | None = None) -> Adapted:
    """A real network with a method applied, its parameters without storage; the same object at every call."""
    return _adapted(method, family, json.dumps(config or {}, sort_keys=True))


@lru_cache(maxsize=3)
def parameter_names(family: str) -> dict[str, tuple[int, ...]]:
    """Name to shape of every parameter of the network as it is published."""
    return {name: tuple(parameter.shape) for name, parameter in real(family).named_parameters()}
