"""A pipeline's folder in the layout of diffusers, checked before any library reads it.

Every JSON file must follow a schema, and code that a file names is never run. All weights come from the file: a tensor
that is missing, has another shape, holds whole numbers or is not finite is an error. (Left alone, the libraries ask on
standard input whether to run such code, and fill in missing tensors at random.)
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
from medpeft_utils.core.files import parse_json, require_numbers
from medpeft_utils.core.schema import checked

if TYPE_CHECKING:
    import torch

INDEX = 'model_index.json'
# component: the class that reads it (None: any scheduler of diffusers), its configuration, and its weights file
COMPONENTS = {
    'tokenizer': ('CLIPTokenizer', 'tokenizer_config.json', None),
    'text_encoder': ('CLIPTextModel', 'config.json', 'model.safetensors'),
    'vae': ('AutoencoderKL', 'config.json', 'diffusion_pytorch_model.safetensors'),
    'unet': ('UNet2DConditionModel', 'config.json', 'diffusion_pytorch_model.safetensors'),
    'scheduler': (None, 'scheduler_config.json', None),
}
LIBRARIES = 'diffusers', 'transformers'
ATTENTION = 'attn_implementation', '_attn_implementation', '_attn_implementation_internal'
# Keys that name code of others; an attention may be a kernel on the hub.
CODE = 'auto_map', 'custom_pipeline', 'custom_pipelines', 'trust_remote_code', *ATTENTION
PICKLES = '.bin', '.pt', '.pth', '.ckpt'
PREDICTIONS = 'epsilon', 'v_prediction'
UNUSED = 'position_ids'  # a buffer of whole numbers in older text encoders
MOST_BYTES = 64 * 2**20  # of a JSON file; vocabularies take a few MB
LARGEST = 10**7  # of a number in a configuration, and of what one may describe beyond its weights file
AGAIN = 'fetch the pipeline again'


# ---- what the files must be


@cache
def _schemas() -> dict[str, type]:
    """The schema of each component's configuration. It limits the fields that it names and ignores all others."""
    from pydantic import BaseModel, ConfigDict, Field, create_model

    class Open(BaseModel):
        model_config = ConfigDict(extra='allow', strict=True, allow_inf_nan=False)

    def whole(most: int, least: int = 1) -> Any:
        return Annotated[int, Field(ge=least, le=most)]

    def several(kind: Any) -> Any:
        return Annotated[list[kind], Field(min_length=1, max_length=8)]

    width, few, share = whole(16_384), whole(64), Annotated[float, Field(gt=0, lt=1)]
    fields = {
        'tokenizer': {'model_max_length': (Annotated[int | float, Field(ge=3)], 77)},
        'text_encoder': {
            'hidden_size': (width, 512),
            'intermediate_size': (whole(65_536), 2048),
            'num_hidden_layers': (whole(128), 12),
            'num_attention_heads': (whole(256), 8),
            'max_position_embeddings': (whole(4096, least=3), 77),
            'vocab_size': (whole(1_000_000, least=3), 49_408),
        },
        'vae': {
            'block_out_channels': (several(width), ...),
            'latent_channels': (few, 4),
            'layers_per_block': (few, 1),
            'scaling_factor': (Annotated[float, Field(gt=0, le=1000)], 0.18215),
        },
        'unet': {
            'block_out_channels': (several(width), ...),
            'cross_attention_dim': (width, ...),
            'down_block_types': (several(str) | None, None),
            'up_block_types': (several(str) | None, None),
            'in_channels': (few, 4),
            'out_channels': (few, 4),
            'layers_per_block': (few | several(few), 2),
            'sample_size': (whole(4096) | None, 64),
        },
        'scheduler': {
            'class_name': (str, Field(alias='_class_name')),
            'num_train_timesteps': (whole(100_000), 1000),
            'prediction_type': (str, 'epsilon'),
            'beta_start': (share, 0.0001),
            'beta_end': (share, 0.02),
        },
    }
    return {part: create_model(part, __base__=Open, **named) for part, named in fields.items()}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a pipeline's JSON file, with finite numbers and no code of others. Raises BadInput."""
    if not os.path.isfile(path):
        raise BadInput(f'{path} is missing; {AGAIN}')
    if os.path.getsize(path) > MOST_BYTES:
        raise BadInput(f'{path}: {os.path.getsize(path):,} bytes are too many for a configuration; {AGAIN}')
    try:
        content = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise BadInput(f'{path}: not JSON ({short(str(error), 100)}); {AGAIN}') from None
    if not isinstance(content, dict):
        raise BadInput(f'{path}: holds {short(content)}, not an object; {AGAIN}')
    for key, value in _leaves(content):
        if key in CODE and value:
            raise BadInput(
                f'{path}: names code of its own ({key}: {short(value)}), which is never run; give a pipeline of the '
                'classes of diffusers and transformers'
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f'{path}: {key} is {value}; give a finite number')
    return content


def _leaves(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(key, value) of everything in JSON, at any depth; recursion would end at 1,000 levels."""
    waiting = [('', content)]
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]


def config_of(folder: Path, part: str) -> dict[str, Any]:
    """The configuration of a component. Raises BadInput for what its schema does not allow."""
    path = folder / part / COMPONENTS[part][1]
    content = read_json(path)
    for key, value in _leaves(content):
        if isinstance(value, int) and abs(value) > LARGEST and part != 'tokenizer':  # which writes 10^30 for "any"
            raise BadInput(f'{path}: {key} is {short(value)}; a network of such a size cannot be built')
    checked(_schemas()[part], content, str(path))
    return content


def check(folder: Path) -> None:
    """Raise BadInput or DoesNotFit for the first fault in a folder's JSON files, or for a part that it lacks."""
    if not os.path.isfile(folder / INDEX):
        raise BadInput(f'{folder}: no pipeline, since it has no {INDEX}; give a folder in the layout of diffusers')
    parts = {name: value for name, value in read_json(folder / INDEX).items() if isinstance(value, list) and any(value)}
    if 'unet' not in parts:
        raise DoesNotFit(
            f'{folder}: a pipeline without a U-Net (its parts: {short(", ".join(parts) or "none")}); the methods train '
            'a U-Net, so give one of the kind of Stable Diffusion v1.5'
        )
    for name, (kind, _, file) in COMPONENTS.items():
        if name not in parts or not (folder / name).is_dir():
            raise BadInput(f'{folder}: its {name} is missing; {AGAIN}')
        _check_class(folder, name, kind, parts[name])
        if file and not os.path.isfile(folder / name / file):
            raise BadInput(f'{folder / name}: {_no_weights(folder / name, file)}')
    kind = config_of(folder, 'unet').get('_class_name')
    if kind != 'UNet2DConditionModel':
        raise DoesNotFit(f'{folder / "unet"}: is a {short(kind)}; the methods train a UNet2DConditionModel')
    for name in COMPONENTS:
        for path in sorted((folder / name).glob('*.json')):
            read_json(path)
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
            f'{folder / INDEX}: its {name} is a {short(class_name)}; give a pipeline with a {kind}, such as Stable '
            'Diffusion v1.5'
        )


def _no_weights(folder: Path, wanted: str) -> str:
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
        return f'{pickles[0]} is a pickle, which can run code and is not opened; convert it to {wanted} if you trust it'
    return f'no {wanted}; {AGAIN}'


# ---- reading them


def read_parts(folder: Path) -> dict[str, Any]:
    """The components of a pipeline by name, in float32 on the CPU; call `check` on the folder first.

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
    if (predicted := config.get('prediction_type', 'epsilon')) not in PREDICTIONS:
        raise DoesNotFit(
            f'{folder}: its U-Net predicts {short(predicted)}; training needs one that predicts one of '
            f'{", ".join(PREDICTIONS)}'
        )
    with _faults_of(folder / 'tokenizer'), _quiet():
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / 'tokenizer', local_files_only=True)
    parts: dict[str, Any] = {'tokenizer': tokenizer}
    for name, library in (('text_encoder', transformers), ('vae', diffusers), ('unet', diffusers)):
        class_name, _, file = COMPONENTS[name]
        parts[name] = _network(getattr(library, class_name), folder / name, file)
    with _faults_of(folder / 'scheduler'), _quiet():
        parts['scheduler'] = kind.from_config(config)
        betas = getattr(parts['scheduler'], 'betas', None)
        if (
            betas is None
            or len(betas) != config.get('num_train_timesteps', 1000)
            or not ((betas > 0) & (betas < 1)).all()
        ):
            raise DoesNotFit(f'{folder / "scheduler"}: its noise must follow one beta between 0 and 1 a timestep')
    _fit_each_other(parts, folder)
    return parts


@contextmanager
def _faults_of(place: Path) -> Iterator[None]:
    """Turn any exception that a library raises over a file into one message that names the file."""
    try:
        yield
    except (BadInput, DoesNotFit):
        raise
    except Exception as error:
        message = short(' '.join(str(error).split()), 200)
        raise BadInput(f'{place}: cannot be read ({type(error).__name__}: {message}); {AGAIN}') from error


def _network(kind: type, folder: Path, file: str) -> torch.nn.Module:
    """A network with exactly the weights of its file. Raises BadInput."""
    import torch

    path = folder / file
    held = _check_tensors(path)
    with _faults_of(path), torch.device('meta'):  # a size that the file does not have would fill the memory
        config = config_of(folder.parent, folder.name)
        described = kind.from_config(config) if hasattr(kind, 'from_config') else kind(kind.config_class(**config))
        count = sum(parameter.numel() for parameter in described.parameters())
    if count > 2 * held + LARGEST:
        raise BadInput(f'{path}: holds {held:,} numbers, config.json describes a network of {count:,}; {AGAIN}')
    with _faults_of(path), _quiet():
        how = {'use_safetensors': True, 'local_files_only': True, 'torch_dtype': torch.float32}
        network, loading = kind.from_pretrained(folder, output_loading_info=True, **how)
    for what, names in (
        ('lacks the tensor', loading['missing_keys']),
        ('holds another shape than config.json describes in', loading['mismatched_keys']),
        (f'holds a tensor that no {kind.__name__} has:', loading['unexpected_keys']),
    ):
        names = sorted(str(name) for name in names if not str(name).endswith(UNUSED))
        if names:
            more = f' and {len(names) - 1} more' if len(names) > 1 else ''
            raise BadInput(f'{path}: {what} {short(names[0])}{more}; {AGAIN}')
    return network


def _check_tensors(path: Path) -> int:
    """How many numbers a weights file holds. Raises BadInput where one of its tensors is no weight."""
    from safetensors import safe_open

    held = 0
    with _faults_of(path), safe_open(path, framework='pt') as opened:
        for name in opened.keys():  # noqa: SIM118 (not a dict)
            tensor = opened.get_tensor(name)
            require_numbers(tensor, name, path)
            if not (tensor.is_floating_point() or name.endswith(UNUSED)):
                raise BadInput(f'{path}: tensor {short(name)} holds {tensor.dtype}, not real numbers; {AGAIN}')
            held += tensor.numel()
    return held


def _fit_each_other(parts: dict[str, Any], folder: Path) -> None:
    """Raise DoesNotFit where widths differ, BadInput where the parts cannot draw the smallest picture."""
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
            f'{folder}: its tokenizer has {len(parts["tokenizer"]):,} tokens, its text encoder only {text.vocab_size:,}'
        )
    with _faults_of(folder), torch.no_grad(), torch.random.fork_rng(devices=[]):
        length = min(int(parts['tokenizer'].model_max_length), text.max_position_embeddings)
        how = {'padding': 'max_length', 'truncation': True, 'max_length': length, 'return_tensors': 'pt'}
        texts = parts['text_encoder'].eval()(parts['tokenizer'](['a b'], **how).input_ids)[0]
        side = 2 ** (len(unet.block_out_channels) - 1)
        latents = torch.zeros(1, unet.in_channels, side, side)
        predicted = parts['unet'].eval()(latents, torch.zeros(1), encoder_hidden_states=texts).sample
        picture = parts['vae'].eval().decode(predicted).sample
        parts['vae'].encode(picture)
        parts['scheduler'].set_timesteps(2)
        time = parts['scheduler'].timesteps[0]
        parts['scheduler'].step(predicted, time, parts['scheduler'].scale_model_input(latents, time))
        if predicted.shape != latents.shape or not torch.isfinite(picture).all():
            raise BadInput(f'{folder}: it draws pictures of the wrong shape, or of NaN; {AGAIN}')


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the libraries print over a file, progress bars and reports: our errors say what is wrong."""
    import diffusers.utils.logging
    import transformers.utils.logging as theirs

    loggers, bars = (theirs, diffusers.utils.logging), theirs.is_progress_bar_enabled()
    levels = [each.get_verbosity() for each in loggers]
    theirs.disable_progress_bar()
    for each in loggers:
        each.set_verbosity_error()
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()
