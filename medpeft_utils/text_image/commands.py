"""`medpeft generate`: images from prompts, by a saved adapter; `medpeft pipelines`: list, fetch, memory."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from pathlib import Path

import click

from medpeft_utils.core import schema
from medpeft_utils.core.errors import BadInput, DoesNotFit, short
from medpeft_utils.core.files import check_writable, parse_json, write_bytes
from medpeft_utils.core.values import LARGEST_SEED

MOST_GUIDANCE, MOST_STEPS, MOST_IMAGES, MOST_SIDE = 100, 1000, 10_000, 4096


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
    from medpeft_utils.text_image.sampling import sample

    check_values(adapter, prompts, negative, guidance, steps, seed, count, image_size)
    prompts = [prompt for prompt in prompts for _ in range(count)]
    trained_on, name, size = record_beside(adapter)
    made_ready(out)
    pipe, unet = tuned(adapter, backbone or name)
    logging.basicConfig(format='%(levelname)s: %(message)s')
    pipe.cut(list(dict.fromkeys([*prompts, negative])))  # warns where the tokenizer cuts a prompt
    how = {'image_size': image_size or size or None, 'quiet': False, 'negative': negative}
    images = sample(pipe, unet, prompts, seed, guidance, steps, **how)
    for path in written(images, prompts, out):
        click.echo(path)
    if trained_on == 'patients':
        click.echo('trained on images of patients: keep these pictures as that data is to be kept', err=True)


def check_values(
    adapter: Path,
    prompts: tuple[str, ...],
    negative: str,
    guidance: float,
    steps: int,
    seed: int,
    count: int,
    image_size: int,
) -> None:
    """Raise BadInput for what can be told before anything is loaded."""
    if not os.path.isfile(adapter):
        raise BadInput(
            f'no file {short(str(adapter))}; a run of text_to_image with save_adapter writes adapter.safetensors'
        )
    for text in (*prompts, negative):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadInput(f'prompt {short(text)}: is not text in UTF-8') from None
    if any(not prompt.strip() for prompt in prompts):
        raise BadInput("an empty prompt; say what to draw, such as --prompt 'No acute cardiopulmonary process.'")
    for name, value, least, most in (
        ('guidance', guidance, 0, MOST_GUIDANCE),
        ('steps', steps, 1, MOST_STEPS),
        ('seed', seed, 0, LARGEST_SEED),
        ('count', count, 1, MOST_IMAGES // len(prompts)),
        ('image-size', image_size, 0, MOST_SIDE),
    ):
        if not least <= value <= most:  # NaN is in no range
            raise BadInput(f'--{name} {value}: give a number from {least} to {most:,}')
    if negative and guidance == 1:
        raise BadInput(f'--negative {negative!r} does nothing with --guidance 1; raise the guidance, or leave it out')


def record_beside(adapter: Path) -> tuple[str, str, int]:
    """What the record of the run that saved the adapter says: 'patients' or 'synthetic', pipeline, image size.

    '' and 0 where there is no record. Raises BadInput where it is none.
    """
    from pydantic import BaseModel, Field

    class Backbone(BaseModel):
        name: str = Field('', max_length=4096)
        image_size: int = Field(0, ge=0, le=MOST_SIDE)

    class Data(BaseModel):
        synthetic: bool = False

    class Record(BaseModel):
        backbone: Backbone = Backbone()
        data: Data = Data()

    beside, above = (folder / 'record.json' for folder in (adapter.parent, adapter.parent.parent))
    path = beside if os.path.isfile(beside) else above  # in a study each attempt at a run has a folder in the run's
    if not os.path.isfile(path):
        return '', '', 0
    try:
        content = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise BadInput(f'{path}: no record ({short(str(error))}); move it away, and name the --backbone') from None
    record = schema.checked(Record, content, str(path))
    return 'synthetic' if record.data.synthetic else 'patients', record.backbone.name, record.backbone.image_size


def made_ready(out: Path) -> None:
    """Make the folder of the pictures now, and not after the drawing. Raises BadInput where it cannot be written."""
    try:
        check_writable(out)
    except OSError as error:
        raise BadInput(f'--out {short(str(out))}: cannot be written ({error.strerror or error})') from None


def tuned(adapter: Path, backbone: str):
    """A pipeline (the shipped one where '' is given), and its U-Net with the adapter in it, merged where that can be.

    Raises:
        UnknownName, BadInput: the pipeline is not known or not at hand, the file is no adapter.
        DoesNotFit: the adapter is of another backbone.
    """
    import torch

    from medpeft_utils import methods
    from medpeft_utils.text_image import names, pipeline

    backbone = backbone or names.MINI
    pipe = pipeline.load(backbone).to(torch.device('cuda' if torch.cuda.is_available() else 'cpu'))
    try:
        loaded = methods.load(pipe.unet, adapter, 'unet', pipe.hash)
    except DoesNotFit as error:
        raise DoesNotFit(f'{error}; {backbone} was taken: name the pipeline it was trained on by --backbone') from error
    merges = loaded.method.mergeable and loaded.method.kind == 'additive'
    return pipe, (loaded.merge() if merges else loaded.model).to(pipe.device)


def written(images, prompts: list[str], out: Path) -> list[Path]:
    """PNG files named after number and prompt, each with its prompt inside. Raises BadInput where one cannot be."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    first, paths = len(list(out.glob('*.png'))), []
    for number, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        about, content = PngInfo(), io.BytesIO()
        about.add_itxt('prompt', prompt)
        Image.fromarray(image).save(content, format='PNG', pnginfo=about)
        name = re.sub(r'[^a-z0-9]+', '_', prompt.lower()).strip('_')[:40] or 'prompt'
        paths.append(out / f'{first + number:04d}_{name}.png')
        write_bytes(paths[-1], content.getvalue(), durable=False)
    return paths


@click.group()
def pipelines() -> None:
    """List text-to-image pipelines, fetch a published one, compute the memory that training takes."""


@pipelines.command('list')
def list_() -> None:
    """Show the pipelines that have a name."""
    from medpeft_utils.text_image.names import CARD, PIPELINES

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
    from medpeft_utils.text_image.names import fetch as download

    click.echo(f'{name}: {download(name)}')


@pipelines.command()
@click.option(
    '--micro-batch',
    default=8,
    type=click.IntRange(1, 4096),
    show_default=True,
    help='Pairs that go through the network at a time.',
)
@click.option(
    '--image-size', default=224, type=click.IntRange(64, MOST_SIDE), show_default=True, help='Pixels, in eights.'
)
def memory(micro_batch: int, image_size: int) -> None:
    """Compute the GPU memory that training Stable Diffusion v1.5 takes, for every method, in GiB."""
    from medpeft_utils.text_image.memory import SHRINKING, table

    if image_size % SHRINKING:
        raise BadInput(f'--image-size {image_size}: give a multiple of {SHRINKING}, to which latents shrink an image')
    rows = table(micro_batch, image_size)
    click.echo('  '.join(f'{name:>11}' if i else f'{name:28}' for i, name in enumerate(rows[0])))
    for row in rows:
        click.echo('  '.join(f'{value:>11,}' if i else f'{value:28}' for i, value in enumerate(row.values())))
