"""Read weights from a file and put them into a network, whatever public format they are in.

Formats: timm (safetensors or a state dict), MAE (He et al. 2022: `model`, with or without decoder), CLIP (Radford et
al. 2021: `visual.*`), and anything timm's own filter knows. A file is never unpickled beyond plain tensors.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from medpeft_utils.errors import BadInput, DoesNotFit

# Parts that only pre-training needs; `mask_token` also makes timm take an MAE file for a DINOv2 one.
PRETRAINING_ONLY = ('decoder_', 'mask_token', 'decoder.')


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


def _convert(model: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names and sizes of `model`: prefixes off, CLIP's names changed, position embeddings resized."""
    from timm.models import vision_transformer

    state = {name.removeprefix('module.'): value.float() for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.startswith(PRETRAINING_ONLY)}
    if isinstance(model, vision_transformer.VisionTransformer):
        return vision_transformer.checkpoint_filter_fn(state, model)
    return state


def fill(model: nn.Module, state: dict[str, torch.Tensor], name: str, path: Path) -> tuple[str, ...]:
    """Load `state` into `model`, all but the head; the names that were left over.

    Raises:
        DoesNotFit: something of the network is missing from the file, or has another shape.
    """
    from medpeft_utils.backbones import head_names

    own, head = model.state_dict(), set(head_names(model))
    given = {key: value for key, value in _convert(model, state).items() if key not in head}
    wanted = [key for key in own if key not in head and not key.endswith('num_batches_tracked')]
    missing = [key for key in wanted if key not in given]
    wrong = [key for key in wanted if key in given and given[key].shape != own[key].shape]
    if missing or wrong:
        first = (
            missing[0] if missing else f'{wrong[0]} is {tuple(given[wrong[0]].shape)}, not {tuple(own[wrong[0]].shape)}'
        )
        raise DoesNotFit(
            f'{path}: does not fit backbone {name!r}: {len(missing)} tensors missing, {len(wrong)} of another shape '
            f'(first: {first})'
        )
    model.load_state_dict({key: value for key, value in given.items() if key in own}, strict=False)
    return tuple(sorted(key for key in given if key not in own))
