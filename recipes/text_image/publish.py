"""Turn a finished pre-training into the shipped pipeline, its card and the page that shows it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from medpeft_utils.backbones.cards import file_hash
from medpeft_utils.core.errors import BadInput
from medpeft_utils.text_image.names import CARD, WEIGHTS_FOLDER
from medpeft_utils.text_image.pipeline import Pipeline
from recipes.text_image import mini
from recipes.text_image.autoencoder import Autoencoder
from recipes.text_image.diffusion import Captioned, Diffusion
from recipes.text_image.stage import Stage, read_curve

SUMMARY = (
    'Text to image at 64×64 px with the classes of Stable Diffusion v1.5 (CLIP tokenizer and text encoder, VAE with '
    'four channels, U-Net with cross-attention), trained from nothing on captioned natural images. The U-Net predicts '
    f'the velocity, from timesteps shifted towards much noise by {mini.TIMESTEP_SHIFT:g}: only there is the layout '
    'left to the text. The captions say the class, whether a picture is dark, bright or without colour, and in which '
    'of six zones it is lightest and darkest, left and right as on a radiograph.'
)
LIMITS = (
    'Its pictures are blurred and only hint at what they are asked for: it is a beginning for adaptation on a laptop, '
    'and nothing else. Of the words of radiology in its vocabulary images have told it sides and zones alone; what the '
    'others mean is left to fine-tuning.'
)


def publish(
    vae: Autoencoder,
    data: Captioned,
    diffusion: Diffusion,
    told: dict[str, str],
    weights_folder: Path = WEIGHTS_FOLDER,
    card_path: Path = CARD,
) -> Path:
    """Write the pipeline in half precision in the layout of diffusers, and its card; the pipeline's folder.

    Args:
        vae, data, diffusion: what `recipe.make` gave.
        told: data, data_licence, command and device in words, for the card.
        weights_folder: the pipeline's folder goes below it, and a page beside it.
        card_path: of the card.
    Raises:
        BadInput: a stage has not reached its last step.
    """
    for stage in (vae, diffusion):
        if stage.step < stage.schedule.steps:
            raise BadInput(f'{stage.folder}: at step {stage.step} of {stage.schedule.steps}; run it to the end first')
    folder = Path(weights_folder) / mini.NAME
    _save(vae, data, diffusion, folder)
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    for path in files:
        path.chmod(0o644)
    card = {'name': mini.NAME, 'summary': SUMMARY, 'limits': LIMITS} | told
    card['parameters'] = {name: _count(network) for name, network in _networks(vae, diffusion).items()}
    card['stages'] = {'vae': _stage(vae), 'diffusion': _stage(diffusion)}
    card['bytes'] = sum(path.stat().st_size for path in files)
    card['sha256'] = {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
    card_path.write_text(json.dumps(card, indent=1) + '\n')
    (folder.parent / 'README.md').write_text('\n'.join(_page(card)))
    return folder


def _networks(vae: Autoencoder, diffusion: Diffusion) -> dict:
    return {'vae': vae.vae, **dict(diffusion.networks.items())}


def _count(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _parts(vae: Autoencoder, data: Captioned, diffusion: Diffusion) -> dict:
    """Copies of the networks on the CPU, with tokenizer and scheduler."""
    import copy

    parts = {name: copy.deepcopy(network).cpu().eval() for name, network in _networks(vae, diffusion).items()}
    parts['vae'].register_to_config(scaling_factor=data.scaling)
    return parts | {'tokenizer': data.tokenizer, 'scheduler': mini.build_scheduler()}


def as_pipeline(vae: Autoencoder, data: Captioned, diffusion: Diffusion) -> Pipeline:
    """The pipeline as it is now, for looking at what it can do."""
    return Pipeline(mini.NAME, mini.IMAGE_SIZE, source='just trained', **_parts(vae, data, diffusion))


def _save(vae: Autoencoder, data: Captioned, diffusion: Diffusion, folder: Path) -> None:
    from diffusers import StableDiffusionPipeline

    parts = _parts(vae, data, diffusion)
    for name in ('vae', 'text_encoder', 'unet'):
        parts[name].half()
    extra = {'safety_checker': None, 'feature_extractor': None, 'requires_safety_checker': False}
    StableDiffusionPipeline(**parts, **extra).save_pretrained(folder, safe_serialization=True)


def _stage(stage: Stage) -> dict:
    curve = read_curve(stage.folder)
    return {
        'schedule': asdict(stage.schedule),
        'score_name': stage.score_name,
        'score': [row['score'] for row in curve if 'score' in row][-1],
        'hours': stage.seconds / 3600,
        'curve': curve,
    }


def _page(card: dict) -> list[str]:
    lines = [
        '# The shipped text-to-image pipeline',
        '',
        f'## {card["name"]}',
        '',
        card['summary'],
        '',
        card['limits'],
        '',
    ]
    lines += ['| | |', '| --- | --- |']
    for name, stage in card['stages'].items():
        recipe = ', '.join(f'{key} {value}' for key, value in stage['schedule'].items())
        lines += [f'| {name}: {stage["score_name"]} | {stage["score"]:.3f} |', f'| {name}: recipe | {recipe} |']
        lines += [f'| {name}: time | {stage["hours"]:.2f} h on {card["device"]} |']
    counts = ', '.join(f'{name} {count:,}' for name, count in card['parameters'].items())
    lines += [f'| parameters | {counts} |', f'| size | {card["bytes"] / 1e6:.1f} MB, half precision |']
    lines += [f'| data | {card["data"]} |', f'| licence of the data | {card["data_licence"]} |']
    lines += [f'| command | `{card["command"]}` |']
    lines += [f'| SHA-256 of {name} | `{digest}` |' for name, digest in card['sha256'].items() if 'safetensors' in name]
    return [*lines, '']
