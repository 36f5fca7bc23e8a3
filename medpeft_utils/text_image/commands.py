"""`medpeft generate`: images from prompts, by a saved adapter; `medpeft pipelines`: list, fetch, memory."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import click

from medpeft_utils.core.errors import BadInput, DoesNotFit

MINI = 'stable_diffusion_mini'
BATCH = 16


@click.command()
@click.option('--adapter', required=True, type=click.Path(path_type=Path), help='File that a run saved (safetensors).')
@click.option('--prompt', 'prompts', required=True, multiple=True, help='What to draw; may be repeated.')
@click.option('--negative', default='', help='What to keep away from; nothing by default.')
@click.option('--backbone', default='', help="Pipeline of the adapter; else what the run's record beside it says.")
@click.option('--guidance', default=4.0, show_default=True, help='Weight of the prompt; 1 is no guidance.')
@click.option('--steps', default=75, show_default=True, help='Denoising steps.')
@click.option('--seed', default=0, show_default=True, help='Of the starting noise.')
@click.option('--count', default=1, show_default=True, help='Images of each prompt.')
@click.option('--image-size', default=0, help="Side in pixels; the run's own, else the pipeline's.")
@click.option(
    '--out', default='generated', show_default=True, type=click.Path(path_type=Path), help='Folder of the PNGs.'
)
def generate(
    adapter: Path,
    prompts: tuple[str, ...],
    negative: str,
    backbone: str,
    guidance: float,
    steps: int,
    seed: int,
    count: int,
    image_size: int,
    out: Path,
) -> None:
    """Draw images from prompts with a fine-tuned pipeline.

    What was trained on patients' images may reproduce them: keep its images as the data are to be kept.
    """
    prompts = checked(adapter, prompts, steps, count)
    if negative and guidance == 1:
        raise BadInput(f'--negative {negative!r} does nothing with --guidance 1; raise the guidance, or leave it out')
    record = record_beside(adapter)
    trained = record.get('backbone') or {}
    pipe, unet = tuned(adapter, backbone or trained.get('name') or MINI)
    images = drawn(
        pipe, unet, prompts, negative, guidance, steps, seed, image_size or trained.get('image_size') or None
    )
    for path in written(images, prompts, count, out):
        click.echo(path)
    if record and not (record.get('data') or {}).get('synthetic'):
        click.echo('trained on images of patients: keep these pictures as that data is to be kept', err=True)


def checked(adapter: Path, prompts: tuple[str, ...], steps: int, count: int) -> list[str]:
    """Every prompt `count` times. Raises BadInput for what can be told before anything is loaded."""
    if not adapter.is_file():
        raise BadInput(f'no file {adapter}; a run of text_to_image with save_adapter writes adapter.safetensors')
    if any(not prompt.strip() for prompt in prompts):
        raise BadInput("an empty prompt; say what to draw, such as --prompt 'No acute cardiopulmonary process.'")
    if steps < 1 or count < 1:
        raise BadInput(f'--steps {steps}, --count {count}: give 1 or more of each')
    return [prompt for prompt in prompts for _ in range(count)]


def record_beside(adapter: Path) -> dict:
    """The record of the run that saved the adapter, {} where it lies elsewhere."""
    path = adapter.with_name('record.json')
    return json.loads(path.read_text()) if path.is_file() else {}


def tuned(adapter: Path, backbone: str):
    """A pipeline, and its U-Net with the adapter in it, merged where that can be.

    Raises:
        UnknownName, BadInput: the pipeline is not known or not at hand, the file is no adapter.
        DoesNotFit: the adapter is of another backbone.
    """
    import torch

    from medpeft_utils import methods
    from medpeft_utils.text_image import pipeline

    pipe = pipeline.load(backbone).to(torch.device('cuda' if torch.cuda.is_available() else 'cpu'))
    try:
        loaded = methods.load(pipe.unet, adapter, 'unet', pipe.hash)
    except DoesNotFit as error:
        raise DoesNotFit(f'{error}; {backbone} was taken: name the pipeline it was trained on by --backbone') from error
    merges = loaded.method.mergeable and loaded.method.kind == 'additive'
    return pipe, (loaded.merge() if merges else loaded.model).to(pipe.device)


def drawn(pipe, unet, prompts: list[str], negative: str, guidance: float, steps: int, seed: int, size: int | None):
    """[N, S, S, 3] uint8 images; warns where the tokenizer cuts a prompt.

    Without a negative prompt the numbers are those of `sampling.sample`, with one it stands in place of the empty text.
    """
    import numpy as np
    import torch

    from medpeft_utils.text_image import sampling

    logging.basicConfig(format='%(levelname)s: %(message)s')
    pipe.cut(list(dict.fromkeys([*prompts, negative])))
    if not negative:
        return sampling.sample(pipe, unet, prompts, seed, guidance, steps, image_size=size, quiet=False)
    noise = sampling.starting_noise(len(prompts), sampling.latent_shape(pipe, size), seed).to(pipe.device)
    away, images = pipe.encode_texts([negative]), []
    with torch.no_grad():
        for start in range(0, len(prompts), BATCH):
            part = slice(start, start + BATCH)
            texts = pipe.encode_texts(prompts[part])
            images.append(pipe.decode(sampling.denoise(pipe, unet, noise[part], texts, away, guidance, steps)))
    return np.concatenate(images)


def written(images, prompts: list[str], count: int, out: Path) -> list[Path]:
    """PNG files named after number and prompt, each with its prompt inside."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    out.mkdir(parents=True, exist_ok=True)
    first, paths = len(list(out.glob('*.png'))), []
    for number, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        about = PngInfo()
        about.add_itxt('prompt', prompt)
        words = re.sub(r'[^a-z0-9]+', '_', prompt.lower()).strip('_')[:40] or 'prompt'
        paths.append(out / f'{first + number:04d}_{words}.png')
        Image.fromarray(image).save(paths[-1], pnginfo=about)
    return paths


@click.group()
def pipelines() -> None:
    """List text-to-image pipelines, fetch a published one, compute the memory that training takes."""


@pipelines.command('list')
def list_() -> None:
    """Show the pipelines that have a name."""
    from medpeft_utils.text_image.pipeline import CARD, PIPELINES

    for name, known in PIPELINES.items():
        where = f'hub: {known.repository}' if known.repository else 'shipped with the package'
        click.echo(f'{name:24} {known.image_size} px  {where}')
        if not known.repository and CARD.is_file():
            card = json.loads(CARD.read_text())
            for stage in card['stages'].values():
                click.echo(f'{"":24} {stage["score_name"]} {stage["score"]:.3f}')
    click.echo('and any folder in the layout of diffusers with a UNet2DConditionModel, weights in safetensors')


@pipelines.command()
@click.argument('name')
def fetch(name: str) -> None:
    """Download the published pipeline NAME (4.3 GB) into the local hub cache."""
    from medpeft_utils.text_image.pipeline import fetch as download

    click.echo(f'{name}: {download(name)}')


@pipelines.command()
@click.option('--micro-batch', default=8, show_default=True, help='Pairs that go through the network at a time.')
@click.option('--image-size', default=224, show_default=True, help='Pixels.')
def memory(micro_batch: int, image_size: int) -> None:
    """Compute the GPU memory that training Stable Diffusion v1.5 takes, for every method, in GiB."""
    from medpeft_utils.text_image.memory import table

    rows = table(micro_batch, image_size)
    click.echo('  '.join(f'{name:>11}' if i else f'{name:28}' for i, name in enumerate(rows[0])))
    for row in rows:
        click.echo('  '.join(f'{value:>11,}' if i else f'{value:28}' for i, value in enumerate(row.values())))
