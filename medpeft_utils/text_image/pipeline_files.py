"""A pipeline's folder in the layout of diffusers, of which nothing is taken at its word.

Every JSON is checked against a schema before a library sees it, code that a file names is never run, and weights are
those of the file: a tensor that is missing, of another shape, of whole numbers or not finite is a fault. (By themselves
the libraries ask on standard input whether to run such code, and fill what is missing at random.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from medpeft_utils.core.errors import BadInput, DoesNotFit, short
from medpeft_utils.core.files import parse_json
from medpeft_utils.core.schema import checked

if TYPE_CHECKING:
    import torch

INDEX = 'model_index.json'
# component: the class that reads it (None: any scheduler of diffusers), and its weights file
COMPONENTS = {
    'tokenizer': ('CLIPTokenizer', None),
    'text_encoder': ('CLIPTextModel', 'model.safetensors'),
    'vae': ('AutoencoderKL', 'diffusion_pytorch_model.safetensors'),
    'unet': ('UNet2DConditionModel', 'diffusion_pytorch_model.safetensors'),
    'scheduler': (None, None),
}
LIBRARIES = 'diffusers', 'transformers'
CODE = 'auto_map', 'custom_pipeline', 'custom_pipelines', 'trust_remote_code'  # keys that name code of others
PICKLES = '.bin', '.pt', '.pth', '.ckpt'
PREDICTIONS = 'epsilon', 'v_prediction'
FLOATS = 'F16', 'BF16', 'F32', 'F64'
MOST_BYTES = 64 * 2**20  # of a JSON file; vocabularies take a few MB
LARGEST = 10**7  # of a number in a configuration; vocabularies have 49,408 entries, schedules 1,000 steps
ONCE_MORE = 'fetch the pipeline again'


# ---- what the files must be


@cache
def _schemas() -> dict[str, type]:
    """The schema of each kind of file; what it does not name passes as it is, if it is plain and finite."""
    from pydantic import BaseModel, ConfigDict, Field, create_model

    class Open(BaseModel):
        model_config = ConfigDict(extra='allow', strict=True, allow_inf_nan=False)

    width = Annotated[int, Field(ge=1, le=16_384)]
    widths = Annotated[list[width], Field(min_length=1, max_length=8)]
    few = Annotated[int, Field(ge=1, le=64)]
    side = Annotated[int, Field(ge=1, le=4096)]
    blocks = Annotated[list[str], Field(min_length=1, max_length=8)]
    share = Annotated[float, Field(gt=0, lt=1)]
    unet = create_model(
        *('UNet',),
        __base__=Open,
        block_out_channels=(widths, ...),
        cross_attention_dim=(width, ...),
        down_block_types=(blocks | None, None),
        up_block_types=(blocks | None, None),
        in_channels=(few, 4),
        out_channels=(few, 4),
        layers_per_block=(few | Annotated[list[few], Field(max_length=8)], 2),
        sample_size=(side | None, 64),
    )
    vae = create_model(
        *('VAE',),
        __base__=Open,
        block_out_channels=(widths, ...),
        latent_channels=(few, 4),
        layers_per_block=(few, 1),
        scaling_factor=(Annotated[float, Field(gt=0, le=1000)], 0.18215),
    )
    text = create_model(
        *('TextEncoder',),
        __base__=Open,
        hidden_size=(width, 512),
        intermediate_size=(Annotated[int, Field(ge=1, le=65_536)], 2048),
        num_hidden_layers=(Annotated[int, Field(ge=1, le=128)], 12),
        num_attention_heads=(Annotated[int, Field(ge=1, le=256)], 8),
        max_position_embeddings=(Annotated[int, Field(ge=3, le=4096)], 77),
        vocab_size=(Annotated[int, Field(ge=3, le=1_000_000)], 49_408),
    )
    scheduler = create_model(
        *('Scheduler',),
        __base__=Open,
        class_name=(str, Field(alias='_class_name')),
        num_train_timesteps=(Annotated[int, Field(ge=1, le=100_000)], 1000),
        prediction_type=(str, 'epsilon'),
        beta_start=(share, 0.0001),
        beta_end=(share, 0.02),
    )
    return {'unet': unet, 'vae': vae, 'text_encoder': text, 'scheduler': scheduler, 'tokenizer': Open}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a pipeline's JSON file, plain and finite. Raises BadInput."""
    if not os.path.isfile(path):
        raise BadInput(f'{path} is missing; {ONCE_MORE}')
    if os.path.getsize(path) > MOST_BYTES:
        raise BadInput(f'{path}: {os.path.getsize(path):,} bytes are too many for a configuration; {ONCE_MORE}')
    try:
        content = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise BadInput(f'{path}: not JSON ({short(str(error), 100)}); {ONCE_MORE}') from None
    if not isinstance(content, dict):
        raise BadInput(f'{path}: holds {short(content)}, not an object; {ONCE_MORE}')
    for key, value in _leaves(content):
        if key in CODE and value:
            raise BadInput(
                f'{path}: names code of its own ({key}: {short(value)}), which is never run; give a pipeline of the '
                'classes of diffusers and transformers'
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f'{path}: {key} is {value}; give a finite number')
    return content


def _leaves(content: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """(key, value) of everything in JSON, at any depth."""
    waiting = [(key, content)]
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, dict):
            waiting += [(str(name), item) for name, item in value.items()]
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]


def config_of(folder: Path, part: str) -> dict[str, Any]:
    """The configuration of a component. Raises BadInput for what its schema does not allow."""
    path = (
        folder
        / part
        / {'tokenizer': 'tokenizer_config.json', 'scheduler': 'scheduler_config.json'}.get(part, 'config.json')
    )
    content = read_json(path)
    large = {key: value for key, value in _leaves(content) if isinstance(value, int) and abs(value) > LARGEST}
    if large and part != 'tokenizer':  # which may say 10^30 for "any length"
        key, value = next(iter(large.items()))
        raise BadInput(f'{path}: {key} is {short(value)}; a network of such a size cannot be built')
    checked(_schemas()[part], content, str(path))
    return content


def check(folder: Path) -> None:
    """Raise BadInput or DoesNotFit for the first thing that keeps a folder from being a usable pipeline."""
    if not os.path.isfile(folder / INDEX):
        raise BadInput(f'{folder}: no pipeline, since it has no {INDEX}; give a folder in the layout of diffusers')
    index = read_json(folder / INDEX)
    parts = {name: value for name, value in index.items() if isinstance(value, list) and any(value)}
    if 'unet' not in parts:
        raise DoesNotFit(
            f'{folder}: a pipeline without a U-Net (its parts: {short(", ".join(parts) or "none")}); the methods train '
            'a U-Net, so give one of the kind of Stable Diffusion v1.5'
        )
    for name, (kind, file) in COMPONENTS.items():
        if name not in parts or not (folder / name).is_dir():
            raise BadInput(f'{folder}: its {name} is missing; {ONCE_MORE}')
        _check_class(folder, name, kind, parts[name])
        if file and not os.path.isfile(folder / name / file):
            raise BadInput(f'{folder / name}: {_no_weights(folder / name, file)}')
    kind = config_of(folder, 'unet').get('_class_name')
    if kind != 'UNet2DConditionModel':
        raise DoesNotFit(f'{folder / "unet"}: is a {short(kind)}; the methods train a UNet2DConditionModel')
    for path in sorted(folder.glob('*/*.json')):
        if path.parent.name in COMPONENTS:
            read_json(path)
    for name in COMPONENTS:
        config_of(folder, name)


def _check_class(folder: Path, name: str, kind: str | None, named: list) -> None:
    """Raise where the index names another class than the one that reads a component, or code of others."""
    library, class_name = (*named, None, None)[:2]
    if len(named) != 2 or library not in LIBRARIES or not isinstance(class_name, str):
        raise BadInput(
            f'{folder / INDEX}: its {name} is {short(named)}, which is code of its own and is never run; give a '
            'pipeline of the classes of diffusers and transformers'
        )
    if kind and class_name.removesuffix('Fast') != kind:
        raise DoesNotFit(
            f'{folder / INDEX}: its {name} is a {short(class_name)}; {kind} is read, as of Stable Diffusion v1.5'
        )


def _no_weights(folder: Path, wanted: str) -> str:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        return (
            f'{pickles[0]} is a pickle, which can run code and is not opened; convert it to {wanted} where you trust it'
        )
    return f'no {wanted}; {ONCE_MORE}'


# ---- reading them


def read_parts(folder: Path) -> dict[str, Any]:
    """The components of a pipeline by name, in float32 on the CPU, of a folder in which `check` found nothing wrong.

    Raises:
        BadInput: weights or configurations that cannot be used.
        DoesNotFit: parts that do not fit each other, or a U-Net that predicts something else.
    """
    import diffusers
    import transformers

    config = config_of(folder, 'scheduler')
    kind = getattr(diffusers, config['_class_name'], None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise BadInput(f'{folder / "scheduler"}: {short(config["_class_name"])} is no scheduler of diffusers')
    if config.get('prediction_type', 'epsilon') not in PREDICTIONS:
        raise DoesNotFit(
            f'{folder}: its U-Net predicts {short(config["prediction_type"])}; the training serves '
            f'{", ".join(PREDICTIONS)}'
        )
    with _faults_of(folder / 'tokenizer'), _without_bars():
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / 'tokenizer', local_files_only=True)
    parts: dict[str, Any] = {'tokenizer': tokenizer}
    for name, library in (('text_encoder', transformers), ('vae', diffusers), ('unet', diffusers)):
        kind_of_part, file = COMPONENTS[name]
        parts[name] = _network(getattr(library, kind_of_part), folder / name, file)
    with _faults_of(folder / 'scheduler'):
        parts['scheduler'] = kind.from_config(config)
    _fit_each_other(parts, folder)
    return parts


@contextmanager
def _faults_of(place: Path) -> Iterator[None]:
    """Turn whatever a library raises over a file into one message: it is the file's fault, of any kind."""
    try:
        yield
    except (BadInput, DoesNotFit):
        raise
    except Exception as error:
        message = ' '.join(str(error).split())
        raise BadInput(
            f'{place}: cannot be read ({type(error).__name__}: {short(message, 200)}); {ONCE_MORE}'
        ) from error


def _network(kind: type, folder: Path, file: str) -> torch.nn.Module:
    """A network with the weights of its file, all of them and no others. Raises BadInput."""
    import torch
    from safetensors import safe_open

    with _faults_of(folder / file), safe_open(folder / file, framework='pt') as opened:
        for name in opened.keys():  # noqa: SIM118 (not a dict)
            dtype = opened.get_slice(name).get_dtype()
            if dtype not in FLOATS and not name.endswith('position_ids'):
                raise BadInput(f'{folder / file}: tensor {name!r} is of {dtype}, not of real numbers; {ONCE_MORE}')
    with _faults_of(folder / file), _without_bars():
        how = {'use_safetensors': True, 'local_files_only': True, 'torch_dtype': torch.float32}
        network, loading = kind.from_pretrained(folder, output_loading_info=True, **how)
    if missing := sorted(loading['missing_keys']):
        raise BadInput(f'{folder / file}: has no tensor {missing[0]!r}{_more(missing)}; {ONCE_MORE}')
    if unknown := sorted(name for name in loading['unexpected_keys'] if not name.endswith('position_ids')):
        raise BadInput(
            f'{folder / file}: has a tensor {unknown[0]!r}{_more(unknown)} that is none of a {kind.__name__}'
        )
    if loading.get('mismatched_keys'):
        raise BadInput(f'{folder / file}: tensors of another shape ({short(next(iter(loading["mismatched_keys"])))})')
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise BadInput(f'{folder / file}: tensor {name!r} holds NaN or infinity; {ONCE_MORE}')
    return network


def _more(names: list[str]) -> str:
    return f' and {len(names) - 1} more' if len(names) > 1 else ''


def _fit_each_other(parts: dict[str, Any], folder: Path) -> None:
    """Raise DoesNotFit where widths differ, BadInput where the smallest picture cannot be drawn."""
    import torch

    text, vae, unet = (parts[name].config for name in ('text_encoder', 'vae', 'unet'))
    for what, one, other in (
        ("latents of the VAE and the U-Net's input", vae.latent_channels, unet.in_channels),
        ("the U-Net's input and its output", unet.in_channels, unet.out_channels),
        ('texts of the text encoder and of the U-Net', text.hidden_size, unet.cross_attention_dim),
    ):
        if one != other:
            raise DoesNotFit(f'{folder}: {what} do not fit: {one} and {other} wide')
    if len(parts['tokenizer']) > text.vocab_size:
        raise DoesNotFit(
            f'{folder}: a tokenizer of {len(parts["tokenizer"]):,} tokens for {text.vocab_size:,} of the text'
        )
    with _faults_of(folder), torch.no_grad():
        length = min(int(parts['tokenizer'].model_max_length), text.max_position_embeddings)
        how = {'padding': 'max_length', 'truncation': True, 'max_length': length, 'return_tensors': 'pt'}
        texts = parts['text_encoder'].eval()(parts['tokenizer'](['a b'], **how).input_ids)[0]
        side = 2 ** (len(unet.block_out_channels) - 1)
        latents = torch.zeros(1, unet.in_channels, side, side)
        predicted = parts['unet'].eval()(latents, torch.zeros(1), encoder_hidden_states=texts).sample
        picture = parts['vae'].eval().decode(predicted).sample
        parts['vae'].encode(picture)
        parts['scheduler'].set_timesteps(2)
        if predicted.shape != latents.shape or not torch.isfinite(picture).all():
            raise BadInput(f'{folder}: what it draws is no picture; {ONCE_MORE}')


@contextmanager
def _without_bars() -> Iterator[None]:
    """Silence the progress bar that transformers shows for reading a file of megabytes."""
    from transformers.utils import logging as theirs

    shown = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            theirs.enable_progress_bar()
