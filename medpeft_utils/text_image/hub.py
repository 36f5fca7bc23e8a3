"""Published pipelines in the local hub cache, and fetching them into it where the user asks."""

from __future__ import annotations

from pathlib import Path

from medpeft_utils.core.errors import BadInput

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

    from medpeft_utils.text_image.pipeline import PIPELINES, family_of

    family_of(name)
    repository = PIPELINES[name].repository if name in PIPELINES else ''
    if not repository:
        raise BadInput(f'pipeline {name!r} is on this machine already; there is nothing to fetch')
    try:
        return Path(snapshot_download(repository, allow_patterns=list(FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BadInput(f'pipeline {name!r} ({repository}) could not be fetched: {error}') from error
