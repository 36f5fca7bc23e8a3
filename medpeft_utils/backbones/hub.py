"""Published weights: in a folder of the user's, in the local hub cache, or fetched into it where the user asks."""

from __future__ import annotations

import os
from pathlib import Path

from medpeft_utils.backbones.radiograph import RADIOGRAPH_BACKBONES
from medpeft_utils.core.errors import BadInput

FILE = 'model.safetensors'
FOLDER = 'MEDPEFT_WEIGHTS'  # environment variable: a folder with NAME.safetensors


def in_folder(name: str) -> Path | None:
    """`NAME.safetensors` in the folder that `MEDPEFT_WEIGHTS` names, or None; a default tag may be left out."""
    import timm

    folder = os.environ.get(FOLDER)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise BadInput(f'{FOLDER}={folder}: no such folder; it is to hold published weights as NAME.safetensors')
    base, _, tag = name.partition('.')
    config = timm.get_pretrained_cfg(base) if tag and timm.is_model(base) else None
    names = [name, base] if config is not None and config.tag == tag else [name]
    return next((path for path in (Path(folder) / f'{n}.safetensors' for n in names) if path.is_file()), None)


def _repository(name: str) -> str:
    """The hub repository of a timm name, its default tag where it has none."""
    import timm

    if name in RADIOGRAPH_BACKBONES:
        obtain = RADIOGRAPH_BACKBONES[name].how_to_obtain
        raise BadInput(f'weights of {name!r} cannot be fetched by a program: {obtain}, and give weights=FILE')
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise BadInput(f'backbone {name!r}: timm knows no published weights; see timm.list_pretrained({name!r} + "*")')
    repository = config.hf_hub_id
    return f'{repository}{config.architecture}.{config.tag}' if repository.endswith('/') else repository


def cached(name: str) -> Path:
    """The weights file in the local cache. Raises BadInput where it is not, naming the command that fetches it."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(_repository(name), FILE)
    if not isinstance(path, str):
        raise BadInput(
            f'weights of {name!r} are neither in a folder {FOLDER} as {name}.safetensors nor in the local hub cache '
            f'({_repository(name)}); run `medpeft backbones fetch {name}` or give weights=FILE'
        )
    return Path(path)


def fetch(name: str) -> Path:
    """Download the published weights into the hub cache, going on where an earlier download stopped."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(_repository(name), FILE))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BadInput(f'weights of {name!r} ({_repository(name)}) could not be fetched: {error}') from error
