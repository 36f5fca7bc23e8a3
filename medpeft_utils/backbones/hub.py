"""Published weights: in a folder of the user's, in the local hub cache, or fetched into it where the user asks."""

from __future__ import annotations

import os
from pathlib import Path

from medpeft_utils.backbones.foreign import CONFIGS, WEIGHTS
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
    from huggingface_hub import hf_hub_download, list_repo_files
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    foreign = name.startswith('hf-hub:')
    repository = name.removeprefix('hf-hub:') if foreign else _repository(name)
    try:
        if not foreign:
            return Path(hf_hub_download(repository, FILE))
        there = set(list_repo_files(repository))
        weights = next((file for file in WEIGHTS if file in there), None)
        if weights is None:
            raise BadInput(f'{repository} holds none of {", ".join(WEIGHTS)}; give weights=FILE')
        for config in there.intersection(CONFIGS):
            hf_hub_download(repository, config)
        return Path(hf_hub_download(repository, weights))
    except GatedRepoError as error:
        raise BadInput(f'{repository} is gated: accept its terms on its page, then `hf auth login`') from error
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BadInput(f'weights of {name!r} ({repository}) could not be fetched: {_first_line(error)}') from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split('\n')[0]
