"""Backbones: a name or a file becomes a network with its input size and normalisation.

`load` serves the small backbones that the package ships, any timm network by its timm name, the chest-radiograph
networks of Lian et al. 2024 from a local file, and weights in a local file for any of them. Published weights come from
the folder `MEDPEFT_WEIGHTS` or from the local hub cache (`medpeft backbones fetch NAME` fills it). Nothing is
downloaded here.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from medpeft_utils.backbones import foreign
from medpeft_utils.backbones.names import (
    family_of,
    is_shipped,
    label_of,
    learning_rate_factor,
    require_known,
    role_of,
    split_name,
    structure_of,
)
from medpeft_utils.backbones.published import published, warning
from medpeft_utils.backbones.radiograph import RADIOGRAPH_BACKBONES
from medpeft_utils.backbones.small import SMALL_BACKBONES
from medpeft_utils.core.errors import BadInput, DoesNotFit, short

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    'Backbone',
    'build',
    'family_of',
    'head_names',
    'image_size_of',
    'is_shipped',
    'label_of',
    'learning_rate_factor',
    'load',
    'published',
    'role_of',
    'structure_of',
    'warning',
    'weights_hash',
    'weights_path',
]


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
        fresh: parameters, apart from the head's, that are missing from the weights file and newly initialised.
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
        """One line: which tensors of the weights file were used or left over, and what was newly initialised."""
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
    import torch

    base, depth = split_name(name)
    require_known(base)
    more = {'drop_path_rate': drop_path} if drop_path else {}
    if depth is not None:
        with torch.device('meta'):
            whole = build(base)
        if structure_of(whole) != 'vit' or not hasattr(whole, 'blocks'):
            raise DoesNotFit(
                f'backbone {name!r}: only a transformer with one row of blocks can be cut after {depth} of them'
            )
        if not 1 <= depth <= len(whole.blocks):
            blocks = len(whole.blocks)
            raise BadInput(f'backbone {name!r} has {blocks} blocks; {depth} cannot be kept, 1 to {blocks} can')
        more['depth'] = depth
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if base in SMALL_BACKBONES:
            model = SMALL_BACKBONES[base].build(num_classes, image_size, in_channels, **more)
        elif base in RADIOGRAPH_BACKBONES:
            model = RADIOGRAPH_BACKBONES[base].build(num_classes, image_size, in_chans=in_channels, **more)
        else:
            model = _build_with_timm(name, image_size, num_classes=num_classes, in_chans=in_channels, **more)
    _open_branches(model)
    return model


def _build_with_timm(name: str, image_size: int | None, **arguments) -> nn.Module:
    """timm's network; a transformer gets its image size if it takes one."""
    import timm

    base, _ = split_name(name)
    create = foreign.create if foreign.is_foreign(base) else partial(timm.create_model, pretrained=False)
    if image_size is None or family_of(name) != 'vit':
        return create(base, **arguments)
    try:
        return create(base, img_size=image_size, **arguments)
    except TypeError:  # timm's word for an argument that the network does not know
        return create(base, **arguments)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise DoesNotFit(f'backbone {name!r} cannot take {image_size} px ({error}); leave image_size out') from error


def _open_branches(model: nn.Module) -> None:
    """Set to 1 the BatchNorm weights that timm starts at 0 (`zero_init_last`), for networks without published weights.

    A residual branch that ends in 0 passes no gradient back. With random weights, and a method that freezes this
    weight, nothing that is trained inside the branch would ever move.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        weight = module.weight if isinstance(module, _BatchNorm) else None
        if weight is not None and not weight.is_meta and not weight.any():
            weight.data.fill_(1.0)


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
        name: a shipped name, one of the radiograph networks (`medpeft backbones list`), a timm name, with or without a
            tag, `hf-hub:owner/name` or `local-dir:FOLDER` (`foreign.py`); `NAME:K` for its first K transformer blocks
            alone (the final norm is kept).
        num_classes: outputs of the head, which is always initialised from `seed`.
        image_size: side of the input; the network's own where None. Position embeddings are resized to it.
        weights: 'pretrained' (shipped, in the folder `MEDPEFT_WEIGHTS`, or the local hub cache), 'random', or a
            .safetensors/.pth/.pt/.bin file in the format of timm, transformers, MAE (with or without decoder and
            report decoder), CLIP or open_clip.
        drop_path: rate of stochastic depth in the last block (`build`).
    Raises:
        UnknownName: no such backbone.
        BadInput: the weights are missing or unreadable.
        DoesNotFit: the weights are of another architecture, or size or channels do not fit.
    """
    from medpeft_utils.backbones.checkpoints import Filling, fill, read_state

    _check_input(name, image_size, in_channels, weights)
    filling, source, state = Filling(), f'random weights (seed {seed})', None
    path = weights_path(name, weights)
    if path is not None:
        state, source = read_state(path), _describe(name, path)  # first, since building a large network takes seconds
    model = build(name, num_classes, image_size, in_channels, seed, drop_path)
    _check_patches(name, model, image_size)
    if state is not None:
        filling = fill(model, state, name=name, path=path)
    size, mean, std = _input_of(name, model, image_size)
    family, digest = family_of(name), weights_hash(model)
    return Backbone(model, name, family, size, in_channels, mean, std, source, digest, filling.left_over, filling.fresh)


def _check_input(name: str, image_size: int | None, in_channels: int, weights: str) -> None:
    family_of(name)  # an unknown name gets its error
    if in_channels != 3 and weights != 'random':
        raise DoesNotFit(f'backbone {name!r} has weights for 3 channels, not {in_channels}; the loaders give RGB')
    if image_size is not None:
        check_image_size(name, image_size)


def _check_patches(name: str, model: nn.Module, image_size: int | None) -> None:
    """timm cuts off what the patches do not cover; every image would silently lose its rim."""
    patch = getattr(getattr(model, 'patch_embed', None), 'patch_size', None) or 1
    _require_multiple(name, patch[0] if isinstance(patch, tuple | list) else patch, image_size)


@cache
def check_image_size(name: str, image_size: int) -> None:
    """Raise DoesNotFit where a network cannot take images of `image_size` px: patches, windows or a fixed grid.

    A shipped network's patches tell; any other goes once through images without values (on the meta device).
    """
    import torch

    if not image_size:
        return
    if family_of(name) == 'cnn' and image_size < 32:
        raise DoesNotFit(f'backbone {name!r} shrinks an image 32 times; {image_size} px are too few; give 32 or more')
    if small := SMALL_BACKBONES.get(split_name(name)[0]):
        _require_multiple(name, small.architecture.get('patch_size', 1), image_size)
        return
    if (named := re.search(r'patch(\d+)', name)) and not foreign.is_foreign(name):
        _require_multiple(name, int(named[1]), image_size)
    with torch.device('meta'), torch.inference_mode():
        model = build(name, 2, image_size).eval()
        try:
            model(torch.empty(1, 3, image_size, image_size))
        except (RuntimeError, AssertionError, ValueError) as error:
            usual = foreign.input_of(name, model)[0]
            reason = str(error).split('\n')[0][:120]
            raise DoesNotFit(f'backbone {name!r} cannot take {image_size} px ({reason}); {usual} px fit') from error


def _require_multiple(name: str, patch: int, image_size: int | None) -> None:
    if image_size and image_size % patch:
        nearest = max(1, round(image_size / patch)) * patch
        raise DoesNotFit(
            f'backbone {name!r} has patches of {patch} px; {image_size} px is not a multiple of that, {nearest} px is'
        )


def weights_path(name: str, weights: str = 'pretrained') -> Path | None:
    """The file that `load` would read; None for random weights.

    Raises BadInput where it is not there, with what to do; nothing is read, so a grid can be checked by it.
    """
    from medpeft_utils.backbones.hub import cached, in_folder

    base, _ = split_name(name)
    if weights == 'random':
        return None
    if weights != 'pretrained':
        if not os.path.isfile(weights):
            raise BadInput(f'{short(weights, 200)}: no such weights file; give a .safetensors, .pth, .pt or .bin file')
        return Path(weights)
    if foreign.is_foreign(base):
        return foreign.weights_of(base)
    if base not in SMALL_BACKBONES:
        return in_folder(base) or cached(base)
    path = SMALL_BACKBONES[base].weights
    if not path.exists():
        raise BadInput(f'{path}: the shipped weights of {base!r} are missing; install the package again')
    return path


def _describe(name: str, path: Path) -> str:
    base, _ = split_name(name)
    if base in SMALL_BACKBONES and path == SMALL_BACKBONES[base].weights:
        return 'shipped weights'
    return f'weights file {path.name}'


def _input_of(name: str, model: nn.Module, image_size: int | None) -> tuple[int, tuple, tuple]:
    """Input size and normalisation; shipped ones are normalised by 0.5, as they were trained."""
    base, _ = split_name(name)
    if base in SMALL_BACKBONES:
        return image_size or SMALL_BACKBONES[base].image_size, (0.5,) * 3, (0.5,) * 3
    if base in RADIOGRAPH_BACKBONES:
        known = RADIOGRAPH_BACKBONES[base]
        return image_size or 224, (known.mean,) * 3, (known.std,) * 3
    usual, mean, std = foreign.input_of(name, model)
    return image_size or usual, mean, std


def image_size_of(name: str) -> int:
    """The side of the input that a backbone was trained with, in pixels."""
    base, _ = split_name(name)
    if base in SMALL_BACKBONES:
        return SMALL_BACKBONES[base].image_size
    import timm

    require_known(base)  # an unknown name gets its error
    if base in RADIOGRAPH_BACKBONES:
        return 224
    if foreign.is_foreign(base):
        import torch

        with torch.device('meta'):
            return foreign.input_of(name, build(base))[0]
    config = timm.get_pretrained_cfg(base)
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
