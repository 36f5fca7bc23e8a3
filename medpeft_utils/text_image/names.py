"""Names of text-to-image pipelines: what a name stands for, where it lies, and how it comes into the local hub cache.

`stable_diffusion_mini` is shipped; `stable_diffusion_v1_5` lies in the hub cache, where `medpeft pipelines fetch` puts
it; any other is a folder in the layout of diffusers. Nothing is loaded here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medpeft_utils.core.errors import BadInput, UnknownName
from medpeft_utils.text_image.pipeline_files import INDEX, config_of

WEIGHTS_FOLDER = Path(__file__).parent / 'weights'
# The checksums in it make the shipped weights a part of a run's identity.
CARD = Path(__file__).with_name('stable_diffusion_mini.json')
MINI = 'stable_diffusion_mini'
# What is read of a published pipeline; its safety checker and weights of other formats stay where they are.
FILES = (
    'model_index.json',
    'tokenizer/*',
    'scheduler/*',
    'text_encoder/config.json',
    'text_encoder/model.safetensors',
    'vae/config.json',
    'vae/diffusion_pytorch_model.safetensors',
    'unet/config.json',
    'unet/diffusion_pytorch_model.safetensors',
)


@dataclass(frozen=True)
class Known:
    """A pipeline that has a name.

    Args:
        label: its name in tables and figures.
        role: what of the paper it stands for.
        image_size: side in pixels that it was trained at.
        repository: on the hub; '' for the shipped one.
        rate_factor: by how much a method's default learning rate is multiplied on it.
        timestep_shift: of the timesteps that it was trained at, and is tuned at.
    """

    label: str
    role: str
    image_size: int
    repository: str = ''
    rate_factor: float = 1.0
    timestep_shift: float = 1.0


PIPELINES = {
    MINI: Known(
        'Stable Diffusion (mini)',
        'Stable Diffusion v1.5',
        64,
        rate_factor=100.0,
        timestep_shift=4.0,  # only where nearly all is noise is the layout left to the text
    ),
    'stable_diffusion_v1_5': Known(
        'Stable Diffusion v1.5', 'Stable Diffusion v1.5', 512, 'stable-diffusion-v1-5/stable-diffusion-v1-5'
    ),
}


def is_pipeline(name: str) -> bool:
    """Whether a backbone's name is that of a pipeline, or a folder that holds one."""
    return name in PIPELINES or os.path.isfile(os.path.join(os.path.expanduser(name), INDEX))


def family_of(name: str) -> str:
    """'unet'. Raises UnknownName for what is neither a known name nor a folder with a pipeline."""
    if not is_pipeline(name):
        raise UnknownName('pipeline', name, PIPELINES, f'or a folder with a {INDEX}')
    return 'unet'


def image_size_of(name: str) -> int:
    """Side of the images that a pipeline was trained with, in pixels."""
    family_of(name)
    if name in PIPELINES:
        return PIPELINES[name].image_size
    folder = Path(os.path.expanduser(name))
    unet, vae = (config_of(folder, part) for part in ('unet', 'vae'))
    return (unet.get('sample_size') or 64) * 2 ** (len(vae['block_out_channels']) - 1)


def timestep_shift(name: str) -> float:
    """By how much the timesteps of training are shifted towards much noise; 1 (drawn evenly) for published ones."""
    return PIPELINES[name].timestep_shift if name in PIPELINES else 1.0


def learning_rate_factor(name: str) -> float:
    """By how much a method's default learning rate is multiplied; 1 for published pipelines."""
    return PIPELINES[name].rate_factor if name in PIPELINES else 1.0


def folder_of(name: str, weights: str) -> tuple[Path, str]:
    """Where a pipeline lies, and in words where it comes from."""
    if weights != 'pretrained':
        return Path(os.path.expanduser(weights)), f'folder {Path(weights).name}'
    if name not in PIPELINES:
        return Path(os.path.expanduser(name)), f'folder {Path(name).name}'
    if PIPELINES[name].repository:
        return cached(name, PIPELINES[name].repository), f'hub cache, {PIPELINES[name].repository}'
    folder = WEIGHTS_FOLDER / name
    if not folder.is_dir():
        raise BadInput(f'{folder}: the shipped weights of {name!r} are missing; install the package again')
    return folder, 'shipped weights'


def cached(name: str, repository: str) -> Path:
    """The folder of a published pipeline in the local cache. Raises BadInput where it is not, naming the way out."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(FILES), local_files_only=True))
    except (LocalEntryNotFoundError, OSError) as error:
        raise BadInput(
            f'pipeline {name!r} ({repository}) is not in the local cache; run `medpeft pipelines fetch {name}` or give '
            'weights=FOLDER'
        ) from error


def fetch(name: str) -> Path:
    """Download a published pipeline into the hub cache, going on where an earlier download stopped.

    Raises:
        UnknownName: no such pipeline.
        BadInput: it is shipped already, or it could not be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    family_of(name)
    repository = PIPELINES[name].repository if name in PIPELINES else ''
    if not repository:
        raise BadInput(f'pipeline {name!r} is on this machine already; there is nothing to fetch')
    try:
        return Path(snapshot_download(repository, allow_patterns=list(FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BadInput(f'pipeline {name!r} ({repository}) could not be fetched: {error}') from error
