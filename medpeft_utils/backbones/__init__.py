"""Backbones: a name or a file becomes a network with its input size and normalisation.

`load` serves the small backbones that the package ships, any timm ResNet-like CNN or ViT by its timm name (from the
local hub cache; `medpeft backbones fetch NAME` fills it), the chest-radiograph networks of Lian et al. 2024 from a
local file, and weights in a local file for any of them. Nothing is downloaded here.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medpeft_utils.backbones.radiograph import RADIOGRAPH_BACKBONES
from medpeft_utils.backbones.small import LEARNING_RATE_FACTOR, SMALL_BACKBONES
from medpeft_utils.core.errors import BadInput, DoesNotFit, UnknownName

if TYPE_CHECKING:
    from torch import nn

# What a network stands for in the paper's tables, by its name; the first match counts.
ROLES = (
    (r'^resnet50', 'ResNet50'),
    (r'^vit_base.*cxr_mae', 'CXR-MAE'),
    (r'^vit_base.*mrm', 'MRM'),
    (r'^vit_base.*mae', 'ViT-Base MAE'),
    (r'^vit_base.*clip', 'ViT-Base CLIP'),
    (r'^vit_base', 'ViT-Base'),
    (r'^vit_large', 'ViT-Large'),
    (r'^vit_huge', 'ViT-Huge'),
)
# timm modules whose networks have the parts that the methods of a family need.
FAMILY_OF_MODULE = {
    'resnet': 'cnn',
    'resnest': 'cnn',
    'res2net': 'cnn',
    'sknet': 'cnn',
    'vision_transformer': 'vit',
    'deit': 'vit',
}
LISTING = 'medpeft backbones list'


@dataclass
class Backbone:
    """A network ready for a method.

    Args:
        model: [B, C, S, S] images to [B, K] logits.
        name: the name that `load` was given.
        family: 'cnn' or 'vit'.
        image_size: S, in pixels.
        mean, std: of pixel values in 0..1, per channel.
        source: where the weights come from, in words.
        hash: 16 hex digits over the weights without the head; a saved adapter names it.
        left_over: names in the weights file that the network has no place for, parts for pre-training among them.
        fresh: parameters of the network, the head's apart, that the weights file does not hold and that start anew.
    """

    model: nn.Module
    name: str
    family: str
    image_size: int
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    hash: str
    left_over: tuple[str, ...] = field(default=())
    fresh: tuple[str, ...] = field(default=())

    @property
    def report(self) -> str:
        """What of the weights file was used, what was left, and what starts anew, in a line."""
        from medpeft_utils.backbones.checkpoints import grouped

        started = {*head_names(self.model), *self.fresh} if not self.source.startswith('random') else set()
        used = len(self.model.state_dict()) - len(started)
        if not started:
            return f'{self.source}: all {used} tensors'
        left = grouped(self.left_over) or 'nothing'
        return f'{self.source}: {used} tensors used; left over: {left}; starting anew: {grouped(started)}'

    @property
    def role(self) -> str:
        """The encoder of the paper that this one stands for, or its own name."""
        return role_of(self.name)

    @property
    def label(self) -> str:
        return label_of(self.name)


def role_of(name: str) -> str:
    """The paper's name of the encoder that `name` stands for, such as 'ViT-Base'; `name` itself where there is none."""
    return next((role for pattern, role in ROLES if re.match(pattern, name)), name)


def label_of(name: str) -> str:
    """How figures call a backbone: the paper's name, marked as mini where it is a shipped one."""
    return f'{role_of(name)} (mini)' if name in SMALL_BACKBONES else role_of(name)


def learning_rate_factor(name: str) -> float:
    """By how much a method's default learning rate is multiplied on this backbone; 1 for published ones."""
    return LEARNING_RATE_FACTOR if name in SMALL_BACKBONES else 1.0


def family_of(name: str) -> str:
    """'cnn' or 'vit'.

    Raises:
        UnknownName: neither shipped nor a timm name.
        DoesNotFit: a timm network of another kind.
    """
    if name in SMALL_BACKBONES:
        return SMALL_BACKBONES[name].family
    if name in RADIOGRAPH_BACKBONES:
        return 'vit'
    import timm

    base = name.split('.')[0]
    if not timm.is_model(base):
        raise UnknownName('backbone', name, [*SMALL_BACKBONES, *RADIOGRAPH_BACKBONES, *timm.list_models()], LISTING)
    module = timm.models.model_entrypoint(base).__module__.rsplit('.', 1)[-1]
    if module not in FAMILY_OF_MODULE:
        fitting = ', '.join(sorted(FAMILY_OF_MODULE))
        raise DoesNotFit(f'backbone {name!r} is of timm.models.{module}; the methods serve {fitting}')
    return FAMILY_OF_MODULE[module]


def build(
    name: str,
    num_classes: int = 0,
    image_size: int | None = None,
    in_channels: int = 3,
    seed: int = 0,
    drop_path: float = 0.0,
) -> nn.Module:
    """The network with random weights: [B, C, S, S] to [B, num_classes] ([B, D] pooled features for 0 classes).

    `drop_path` is the rate of stochastic depth (Huang et al. 2016, arXiv:1603.09382) in the last block; it rises to it
    linearly from 0 in the first, and acts in training mode only.
    """
    import timm
    import torch

    family = family_of(name)
    more = {'drop_path_rate': drop_path} if drop_path else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in SMALL_BACKBONES:
            return SMALL_BACKBONES[name].build(num_classes, image_size, in_channels, **more)
        more |= {'in_chans': in_channels}
        if name in RADIOGRAPH_BACKBONES:
            return RADIOGRAPH_BACKBONES[name].build(num_classes, image_size, **more)
        size = {'img_size': image_size} if family == 'vit' and image_size else {}
        return timm.create_model(name, pretrained=False, num_classes=num_classes, **size, **more)


def load(
    name: str,
    num_classes: int,
    image_size: int | None = None,
    weights: str = 'pretrained',
    in_channels: int = 3,
    seed: int = 0,
    drop_path: float = 0.0,
) -> Backbone:
    """A backbone with its weights and a fresh head.

    Args:
        name: a shipped name, one of the radiograph networks (`medpeft backbones list`), or a timm name, with or
            without a tag.
        num_classes: outputs of the head, which is always initialised anew from `seed`.
        image_size: side of the input; the network's own where None. Position embeddings are resized to it.
        weights: 'pretrained' (shipped, or the local hub cache), 'random', or a .safetensors/.pth/.pt/.bin file in the
            format of timm, MAE (with or without decoder and report decoder) or CLIP.
        drop_path: rate of stochastic depth in the last block (`build`).
    Raises:
        UnknownName: no such backbone.
        BadInput: the weights are missing or unreadable.
        DoesNotFit: the weights are of another architecture, or size or channels do not fit.
    """
    from medpeft_utils.backbones.checkpoints import Filling, fill, read_state

    _check_input(name, image_size, in_channels, weights)
    filling, source, state = Filling(), f'random weights (seed {seed})', None
    if weights != 'random':
        path = _find_weights(name) if weights == 'pretrained' else Path(weights)
        state, source = read_state(path), _describe(name, path)  # first, since building a large network takes seconds
    model = build(name, num_classes, image_size, in_channels, seed, drop_path)
    _check_patches(name, model, image_size)
    if state is not None:
        filling = fill(model, state, name=name, path=path)
    size, mean, std = _input_of(name, model, image_size)
    family, digest = family_of(name), weights_hash(model)
    return Backbone(model, name, family, size, in_channels, mean, std, source, digest, filling.left_over, filling.fresh)


def _check_input(name: str, image_size: int | None, in_channels: int, weights: str) -> None:
    family = family_of(name)
    if in_channels != 3 and weights != 'random':
        raise DoesNotFit(f'backbone {name!r} has weights for 3 channels, not {in_channels}; the loaders give RGB')
    if family == 'cnn' and image_size is not None and image_size < 32:
        raise DoesNotFit(f'backbone {name!r} shrinks an image 32 times; {image_size} px are too few')


def _check_patches(name: str, model: nn.Module, image_size: int | None) -> None:
    """timm cuts what the patches do not cover; that would lose the rim of every image silently."""
    patch = model.patch_embed.patch_size[0] if hasattr(model, 'patch_embed') else 1
    if image_size and image_size % patch:
        nearest = max(1, round(image_size / patch)) * patch
        raise DoesNotFit(
            f'backbone {name!r} has patches of {patch} px; {image_size} px is no multiple, {nearest} px is'
        )


def _find_weights(name: str) -> Path:
    if name in SMALL_BACKBONES:
        path = SMALL_BACKBONES[name].weights
        if not path.exists():
            raise BadInput(f'{path}: the shipped weights of {name!r} are missing; install the package again')
        return path
    from medpeft_utils.backbones.hub import cached

    return cached(name)


def _describe(name: str, path: Path) -> str:
    if name in SMALL_BACKBONES and path == SMALL_BACKBONES[name].weights:
        return 'shipped weights'
    return f'weights file {path.name}'


def _input_of(name: str, model: nn.Module, image_size: int | None) -> tuple[int, tuple, tuple]:
    """Input size and normalisation; shipped ones are normalised by 0.5, as they were trained."""
    if name in SMALL_BACKBONES:
        return image_size or SMALL_BACKBONES[name].image_size, (0.5,) * 3, (0.5,) * 3
    if name in RADIOGRAPH_BACKBONES:
        known = RADIOGRAPH_BACKBONES[name]
        return image_size or 224, (known.mean,) * 3, (known.std,) * 3
    config = model.pretrained_cfg
    return image_size or config['input_size'][-1], tuple(config['mean']), tuple(config['std'])


def image_size_of(name: str) -> int:
    """The side of the input that a backbone was trained with, in pixels."""
    if name in SMALL_BACKBONES:
        return SMALL_BACKBONES[name].image_size
    import timm

    family_of(name)  # an unknown name gets its error
    if name in RADIOGRAPH_BACKBONES:
        return 224
    config = timm.get_pretrained_cfg(name)
    return config.input_size[-1] if config else 224


def head_names(model: nn.Module) -> list[str]:
    """Names of the classifier's parameters, such as ['head.weight', 'head.bias']; none for a network without one."""
    if not hasattr(model, 'get_classifier'):
        return []
    classifier = model.get_classifier()
    heads = classifier if isinstance(classifier, tuple | list) else (classifier,)  # a distilled network has two
    own = {id(parameter) for head in heads for parameter in head.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]


def weights_hash(model: nn.Module) -> str:
    """16 hex digits of SHA-256 over every parameter and buffer but the head's, by name."""
    digest, head = hashlib.sha256(), set(head_names(model))
    for name, tensor in sorted(model.state_dict().items()):
        if name not in head:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
