"""Read weights from a file in any public format and put them into a network.

Formats: timm (safetensors or a state dict), MAE (He et al. 2022: `model`, with or without decoder, as CXR-MAE and
RETFound have it; MRM's has a report decoder too), CLIP (Radford et al. 2021: `visual.*`), open_clip around timm
(`visual.trunk.*`: BiomedCLIP), transformers (`foreign.py`), and anything timm's own filter knows. A file is never
unpickled beyond tensors, plain values and `argparse.Namespace`, in which MAE's code keeps its options.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from medpeft_utils.backbones.foreign import from_transformers, take_epsilon
from medpeft_utils.backbones.names import split_name
from medpeft_utils.core.errors import BadInput, DoesNotFit, short
from medpeft_utils.core.files import read_tensors, require_numbers

# Parts that only pre-training needs; `mask_token` also makes timm take an MAE file for a DINOv2 one.
TRUNK = 'visual.trunk.'  # open_clip's prefix of a timm network
PRETRAINING_ONLY = ('decoder_', 'mask_token', 'decoder.')
# What only a network for fine-tuning has: it starts at 1 and 0 where a file lacks it.
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
    if not os.path.isfile(path):
        raise BadInput(f'{short(str(path), 200)}: no such weights file; give a .safetensors, .pth, .pt or .bin file')
    safe = path.suffix == '.safetensors'
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = read_tensors(path)[1] if safe else torch.load(path, map_location='cpu', weights_only=True)
        return {name: _checked(tensor, name, path) for name, tensor in _unwrap(content, path).items()}
    except BadInput as error:
        raise error if str(path) in str(error) else BadInput(f'{path}: {error}') from error
    except pickle.UnpicklingError as error:
        message = f'{path}: holds more than tensors and is not opened, since a pickle can run code'
        raise BadInput(f'{message}; convert it to safetensors where you trust it') from error
    except Exception as error:  # a damaged or hostile file makes its reader raise anything
        kind = 'safetensors' if safe else 'weights'
        reason = short(' '.join(str(error).split()), 200)
        raise BadInput(f'{path}: not a whole {kind} file ({reason}); fetch it again') from error


def _checked(tensor: torch.Tensor, name: str, path: Path) -> torch.Tensor:
    """A tensor in float32, or as it is where it holds counts or places. Raises BadInput for what is no weight."""
    require_numbers(tensor, name, path)
    if tensor.is_floating_point():
        return tensor.float()
    if name.endswith(('.weight', '.bias')):
        raise BadInput(f'{path}: {name} holds {tensor.dtype}, not weights; give them in half or full precision')
    return tensor


def _unwrap(content: object, path: Path) -> dict[str, torch.Tensor]:
    """The state dict inside training checkpoints that keep it under a key."""
    for key in ('model', 'state_dict', 'model_state_dict'):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    named = content.items() if isinstance(content, dict) else ()
    state = {
        name: value
        for name, value in named
        if isinstance(name, str) and name.isprintable() and isinstance(value, torch.Tensor)
    }
    if not state:
        raise BadInput(f'{path}: holds no state dict (names to tensors)')
    return state


def _is_for_pretraining(name: str) -> bool:
    return name.removeprefix('module.').startswith(PRETRAINING_ONLY)


def _convert(
    model: nn.Module, state: dict[str, torch.Tensor], name: str, path: Path
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The names and sizes of `model` and what was left: prefixes off, others' names changed, positions resized."""
    state = {key.removeprefix('module.'): value for key, value in state.items()}
    left = [key for key in state if _is_for_pretraining(key)]
    state = {key: value for key, value in state.items() if not _is_for_pretraining(key)}
    if any(key.startswith(TRUNK) for key in state):
        left += [key for key in state if not key.startswith(TRUNK)]
        state = {key.removeprefix(TRUNK): value for key, value in state.items() if key.startswith(TRUNK)}
    rename = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', lambda state, model: state)
    try:
        state, others = from_transformers(state, model)
        return rename(state, model), left + others
    except Exception as error:  # timm's filters take a file at its word
        reason = short(' '.join(str(error).split()), 200)
        raise DoesNotFit(f'{path}: does not fit backbone {name!r} ({type(error).__name__}: {reason})') from error


def _add_biases(model: nn.Module, given: dict[str, torch.Tensor]) -> None:
    """Give a bias to layers without one for which the file has one, as of a network that SSF was merged into."""
    for name, layer in list(model.named_modules()):
        bias = given.get(f'{name}.bias')
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is None and bias is not None:
            if bias.shape != layer.weight.shape[:1]:
                continue
            layer.bias = nn.Parameter(torch.zeros_like(bias, device=layer.weight.device))
            attention = model.get_submodule(name.rpartition('.')[0])
            if hasattr(attention, 'qkv_bias_separate'):
                attention.qkv_bias_separate = True


def _require_patches(model: nn.Module, state: dict[str, torch.Tensor], name: str, path: Path) -> None:
    """Raise DoesNotFit for patches of another size, which timm's filter would resample silently."""
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
    wrong = [key for key in own if key in given and given[key].shape != own[key].shape]
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
    """Load `state` into `model` except for the head; return what was left over and what is newly initialised.

    The `norm` of a masked autoencoder's file has no place in a network with `fc_norm`, which starts from
    scratch, as in the fine-tuning code of He et al. 2022.

    Raises:
        DoesNotFit: something of the network is missing from the file, or has another shape.
    """
    from medpeft_utils.backbones import head_names

    _require_patches(model, state, name, path)
    converted, left = _convert(model, state, name, path)
    head = set(head_names(model))
    given = {key: value for key, value in converted.items() if key not in head}
    own = model.state_dict()
    wanted = [key for key in own if key not in head and not key.endswith('num_batches_tracked')]
    fresh = tuple(key for key in wanted if key.startswith(FINE_TUNING_ONLY) and key not in given)
    misfits = _misfits(own, given, [key for key in wanted if key not in fresh], split_name(name)[1] is not None)
    if misfits:
        raise DoesNotFit(f'{path}: does not fit backbone {name!r}: {misfits}')
    _add_biases(model, given)
    own = model.state_dict()
    for key in own.keys() & given.keys():
        if own[key].is_floating_point() != given[key].is_floating_point():
            raise BadInput(f'{path}: {key} holds {given[key].dtype}, and must hold {own[key].dtype}')
    model.load_state_dict({key: value for key, value in given.items() if key in own}, strict=False)
    take_epsilon(model, path)
    return Filling(tuple(sorted({*left, *(key for key in given if key not in own)})), fresh)
