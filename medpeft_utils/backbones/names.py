"""Names of backbones: what a name stands for, its label in figures, a cut of its depth, and its family.

A name is a shipped one, one of the radiograph networks, a timm name with or without a tag, or a folder's
(`foreign.py`). `NAME:K` is the same network cut after its first K transformer blocks, the final norm and the head kept:
`vit_small_patch14_dinov2:6`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from medpeft_utils.backbones.foreign import check_built, folder_of, is_foreign
from medpeft_utils.backbones.radiograph import RADIOGRAPH_BACKBONES
from medpeft_utils.backbones.small import LEARNING_RATE_FACTOR, SMALL_BACKBONES
from medpeft_utils.core.errors import UnknownName

if TYPE_CHECKING:
    from torch import nn

LISTING = 'medpeft backbones list'
# What a network stands for in the paper's tables, or how it is called in the field; the first match counts.
ROLES = (
    (r'^resnet50', 'ResNet50'),
    (r'^vit_base.*cxr_mae', 'CXR-MAE'),
    (r'^vit_base.*mrm', 'MRM'),
    (r'^vit_base.*mae', 'ViT-Base MAE'),
    (r'^vit_base.*clip', 'ViT-Base CLIP'),
    (r'^vit_small.*dinov2', 'ViT-Small DINOv2'),
    (r'^vit_base.*dinov2', 'ViT-Base DINOv2'),
    (r'^vit_large.*dinov2', 'ViT-Large DINOv2'),
    (r'^vit_base', 'ViT-Base'),
    (r'^vit_large', 'ViT-Large'),
    (r'^vit_huge', 'ViT-Huge'),
    (r'^(tf_)?efficientnet_lite0', 'EfficientNet-Lite0'),
    (r'^(tf_)?efficientnet_lite1', 'EfficientNet-Lite1'),
    (r'^(tf_)?efficientnet_lite2', 'EfficientNet-Lite2'),
)
# How timm calls the attention of a block, and what projects the queries there.
ATTENTIONS = ('attn', 'self_attn', 'attention', 'token_mixer')
PROJECTIONS = ('qkv', 'q', 'q_proj', 'qk', 'query')


def split_name(name: str) -> tuple[str, int | None]:
    """The name of the whole network, and how many blocks are kept: ('vit_base_mini', 6) of 'vit_base_mini:6'."""
    cut = re.fullmatch(r'(.+):([0-9]{1,4})', name)
    return (cut[1], int(cut[2])) if cut else (name, None)


def is_shipped(name: str) -> bool:
    """Whether the package ships the network, whole or cut."""
    return split_name(name)[0] in SMALL_BACKBONES


def role_of(name: str) -> str:
    """The paper's name of the encoder that `name` stands for, such as 'ViT-Base'; `name` itself where there is none."""
    base, depth = split_name(name)
    base = base.rstrip('/').rpartition('/')[2] if is_foreign(base) else base
    role = next((role for pattern, role in ROLES if re.match(pattern, base)), base)
    return f'{role}, {depth} blocks' if depth else role


def label_of(name: str) -> str:
    """How figures call a backbone: the paper's name, marked as mini where it is a shipped one."""
    return f'{role_of(name)} (mini)' if is_shipped(name) else role_of(name)


def learning_rate_factor(name: str) -> float:
    """By how much a method's default learning rate is multiplied on this backbone; 1 for published ones."""
    return LEARNING_RATE_FACTOR if is_shipped(name) else 1.0


def require_known(name: str) -> None:
    """Raise UnknownName where a name is neither shipped, nor a radiograph network's, nor timm's."""
    import timm

    if is_foreign(name):
        folder_of(name)
        return
    known = [*SMALL_BACKBONES, *RADIOGRAPH_BACKBONES]
    if name in known:
        return
    architecture = name.split('.')[0]
    if not timm.is_model(architecture):
        raise UnknownName('backbone', name, [*known, *timm.list_models()], LISTING)
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        raise UnknownName('backbone', name, timm.list_pretrained(f'{architecture}.*'), LISTING) from None


@cache
def family_of(name: str) -> str:
    """'vit' for a transformer of tokens, else 'cnn'.

    Raises:
        UnknownName: neither shipped nor a timm name.
        DoesNotFit: a cut of the depth of a network that has no such blocks.
    """
    base, depth = split_name(name)
    if base in SMALL_BACKBONES and depth is None:
        return SMALL_BACKBONES[base].family
    import torch

    from medpeft_utils.backbones import build

    require_known(base)
    with torch.device('meta'):
        model = build(name)
    if is_foreign(base):
        check_built(base, model)
    return structure_of(model)


def structure_of(model: nn.Module) -> str:
    """'vit' where most weights lie in blocks of attention over tokens (by Linear layers) and an MLP, else 'cnn'.

    ViTs, DINOv2 and DINOv3, BEiT, EVA-02, Swin and ViTs behind a convolutional stem are 'vit'; ResNets with some
    attention (BoTNet, CLIP's pooling) and blocks whose token mixer is a convolution (ConvNeXt, FastViT) are 'cnn'.
    """
    inside = {
        id(parameter): parameter.numel()
        for module in model.modules()
        if attention_of(module)
        for parameter in module.parameters()
    }
    return 'vit' if 2 * sum(inside.values()) > sum(p.numel() for p in model.parameters()) else 'cnn'


def attention_of(block: nn.Module) -> str | None:
    """The name, in a block, of its attention over tokens; None for what is no transformer's block.

    A block has an attention with Linear projections, and an MLP.
    """
    from torch.nn import Linear

    children = dict(block.named_children())
    name = next((name for name in ATTENTIONS if name in children), None)
    if name is None or not ({'mlp', 'ffn'} & children.keys()):
        return None
    linear = any(isinstance(getattr(children[name], part, None), Linear) for part in PROJECTIONS)
    return name if linear else None
