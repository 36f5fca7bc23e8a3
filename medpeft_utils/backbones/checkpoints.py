"""Read weights from a file and put them into a network, whatever public format they are in.

Formats: timm (safetensors or a state dict), MAE (He et al. 2022: `model`, with or without decoder, as CXR-MAE has it;
MRM's has a report decoder too), CLIP (Radford et al. 2021: `visual.*`), and anything timm's own filter knows. A file is
never unpickled beyond tensors, plain values and `argparse.Namespace`, in which MAE's code keeps its options.
"""

from __future__ import annotations

import argparse
import pickle
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from medpeft_utils.backbones.names import split_name
from medpeft_utils.core.errors import BadInput, DoesNotFit

# Parts that only pre-training needs; `mask_token` also makes timm take an MAE file for a DINOv2 one.
PRETRAINING_ONLY = ('decoder_', 'mask_token', 'decoder.')
# What a network that is fine-tuned has and one that is pre-trained has not: it starts at 1 and 0 where a file lacks it.
FINE_TUNING_ONLY = ('fc_norm.',)


@dataclass(frozen=True)
class Filling:
    """What became of a weights file: names in it that were `left_over`, and parameters of the network left `fresh`."""

    left_over: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


def grouped(names: Iterable[str]) -> str:
    """Parameter names by the parts they belong to: 'decoder_blocks (48), mask_token'."""
    parts = Counter(name.split('.')[0] for name in names)
    return ', '.join(f'{part} ({count})' if count > 1 else part for part, count in sorted(parts.items()))


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file by name, on the CPU.

    Raises:
        BadInput: no such file, cut short, of an unknown kind, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f'{path}: no such weights file; give a .safetensors, .pth, .pt or .bin file')
    if path.suffix == '.safetensors':
        try:
            return load_file(path)
        except SafetensorError as error:
            raise BadInput(f'{path}: not a whole safetensors file ({error}); fetch it again') from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        message = f'{path}: holds more than tensors and is not opened, since a pickle can run code'
        raise BadInput(f'{message}; convert it to safetensors where you trust it') from error
    except (RuntimeError, EOFError, OSError) as error:
        raise BadInput(f'{path}: not a whole weights file ({error}); fetch it again') from error
    return _unwrap(content, path)


def _unwrap(content: object, path: Path) -> dict[str, torch.Tensor]:
    """The state dict inside training checkpoints that keep it under a key."""
    for key in ('model', 'state_dict', 'model_state_dict'):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        raise BadInput(f'{path}: holds no state dict (names to tensors)')
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _is_for_pretraining(name: str) -> bool:
    return name.removeprefix('module.').startswith(PRETRAINING_ONLY)


def _convert(model: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names and sizes of `model`: prefixes off, CLIP's names changed, position embeddings resized."""
    from timm.models import vision_transformer

    state = {name.removeprefix('module.'): value.float() for name, value in state.items()}
    state = {name: value for name, value in state.items() if not _is_for_pretraining(name)}
    if isinstance(model, vision_transformer.VisionTransformer):
        return vision_transformer.checkpoint_filter_fn(state, model)
    return state


def _require_patches(model: nn.Module, state: dict[str, torch.Tensor], name: str, path: Path) -> None:
    """Raise DoesNotFit for patches of another size, which timm's filter would resample without a word."""
    own = model.state_dict().get('patch_embed.proj.weight')
    given = state.get('patch_embed.proj.weight', state.get('module.patch_embed.proj.weight'))
    if own is not None and given is not None and given.ndim == 4 and given.shape[2:] != own.shape[2:]:
        raise DoesNotFit(
            f'{path}: has patches of {given.shape[-1]} px, backbone {name!r} has {own.shape[-1]} px; name a backbone '
            'with the patches of the file'
        )


def _misfits(own: dict[str, torch.Tensor], given: dict[str, torch.Tensor], wanted: list[str], cut: bool) -> str:
    """What of the network is missing from the file, has another shape there, or goes deeper; '' where nothing is."""
    missing = [key for key in wanted if key not in given]
    wrong = [key for key in wanted if key in given and given[key].shape != own[key].shape]
    deeper = [key for key in given if key.startswith('blocks.') and key not in own and not cut]
    if not (missing or wrong or deeper):
        return ''
    first = next(iter(missing or wrong or deeper))
    if wrong and not missing:
        first += f' is {tuple(given[first].shape)}, not {tuple(own[first].shape)}'
    return (
        f'{len(missing)} tensors missing, {len(wrong)} of another shape, {len(deeper)} of blocks that it has not '
        f'(first: {first})'
    )


def fill(model: nn.Module, state: dict[str, torch.Tensor], name: str, path: Path) -> Filling:
    """Load `state` into `model`, all but the head; what was left over and what starts anew.

    The `norm` of a masked autoencoder's file has no place in a network with `fc_norm`, which starts anew, as in the
    fine-tuning code of He et al. 2022.

    Raises:
        DoesNotFit: something of the network is missing from the file, or has another shape.
    """
    from medpeft_utils.backbones import head_names

    _require_patches(model, state, name, path)
    own, head = model.state_dict(), set(head_names(model))
    given = {key: value for key, value in _convert(model, state).items() if key not in head}
    wanted = [key for key in own if key not in head and not key.endswith('num_batches_tracked')]
    fresh = tuple(key for key in wanted if key.startswith(FINE_TUNING_ONLY) and key not in given)
    misfits = _misfits(own, given, [key for key in wanted if key not in fresh], split_name(name)[1] is not None)
    if misfits:
        raise DoesNotFit(f'{path}: does not fit backbone {name!r}: {misfits}')
    model.load_state_dict({key: value for key, value in given.items() if key in own}, strict=False)
    left = {key for key in given if key not in own} | {key for key in state if _is_for_pretraining(key)}
    return Filling(tuple(sorted(left)), fresh)
