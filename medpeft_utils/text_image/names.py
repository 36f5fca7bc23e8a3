"""Names of text-to-image pipelines: what each name means, where its files lie, and how to fetch them.

The package ships `stable_diffusion_mini`; `medpeft pipelines fetch` puts `stable_diffusion_v1_5` into the hub cache;
any other name is a folder in the layout of diffusers. This module loads nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medpeft_utils.core.errors import BadInput, UnknownName
from medpeft_utils.text_image.pipeline_files import INDEX, config_of

WEIGHTS_FOLDER = Path(__file__).parent / 'weights'
# Its checksums make the shipped weights part of a run's identity.
CARD = Path(__file__).with_name('stable_diffusion_mini.json')
MINI = 'stable_diffusion_mini'
# The files of a published pipeline that we read; we leave out its safety checker and weights in other formats.
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
    """What is known of a pipeline by its name.

    Args:
        label: its name in tables and figures.
        role: the pipeline of the paper that it replaces.
        image_size: side in pixels that it was trained at; 0 where its folder says it.
        repository: on the hub; '' for the shipped one.
        rate_factor: by how much a method's default learning rate is multiplied on it.
        timestep_shift: by how much the timesteps of its training are shifted towards much noise; 1 draws them evenly.
    """

    label: str
    role: str
    image_size: int = 0
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


def known(name: str) -> Known:
    """What is known of a pipeline; of a folder its own name."""
    return PIPELINES.get(name) or Known(Path(name).name, Path(name).name)


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
    if size := known(name).image_size:
        return size
    unet, vae = (config_of(Path(name).expanduser(), part) for part in ('unet', 'vae'))
    return (unet.get('sample_size') or 64) * 2 ** (len(vae['block_out_channels']) - 1)


def folder_of(name: str, weights: str) -> tuple[Path, str]:
    """Where a pipeline lies, and in words where it comes from."""
    if weights != 'pretrained' or name not in PIPELINES:
        folder = Path(name if weights == 'pretrained' else weights)
        return folder.expanduser(), f'folder {folder.name}'
    if repository := known(name).repository:
        return _snapshot(name, local=True), f'hub cache, {repository}'
    folder = WEIGHTS_FOLDER / name
    if not folder.is_dir():
        raise BadInput(f'{folder}: the shipped weights of {name!r} are missing; install the package again')
    return folder, 'shipped weights'


def fetch(name: str) -> Path:
    """Download a published pipeline into the hub cache; an interrupted download continues.

    Raises:
        UnknownName: no such pipeline.
        BadInput: it needs no download, or could not be fetched.
    """
    family_of(name)
    if not known(name).repository:
        raise BadInput(f'pipeline {name!r} is on this machine already; there is nothing to fetch')
    return _snapshot(name, local=False)


def _snapshot(name: str, local: bool) -> Path:
    """The folder of a published pipeline in the hub cache. Raises BadInput where it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    repository = known(name).repository
    try:
        return Path(snapshot_download(repository, allow_patterns=list(FILES), local_files_only=local))
    except (HfHubHTTPError, OSError) as error:  # the hub's own "not in the cache" is an OSError
        if local:
            reason = f'is not in the local cache; run `medpeft pipelines fetch {name}` or give weights=FOLDER'
        else:
            reason = f'could not be fetched: {error}'
        raise BadInput(f'pipeline {name!r} ({repository}) {reason}') from error
