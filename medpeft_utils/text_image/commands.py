"""`medpeft generate` draws images with a saved adapter; `medpeft pipelines` lists and fetches pipelines."""

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

MOST_IMAGES, MOST_SIDE = 10_000, 4096
# option: the least and the most that it may be
RANGES = {
    'guidance': (0, 100),
    'steps': (1, 1000),
    'seed': (0, LARGEST_SEED),
    'count': (1, MOST_IMAGES),
    'image_size': (0, MOST_SIDE),
}


@click.command()
@click.option('--adapter', required=True, type=click.Path(path_type=Path), help='File that a run saved (safetensors).')
@click.option('--prompt', 'prompts', required=True, multiple=True, help='What to draw; may be repeated.')
@click.option('--negative', default='', help='What to keep away from; nothing by default.')
@click.option('--backbone', default='', help="Pipeline of the adapter; by default the one that its run's record names.")
@click.option('--guidance', default=4.0, show_default=True, help='Weight of the prompt; 1 is no guidance.')
@click.option('--steps', default=75, show_default=True, help='Denoising steps.')
@click.option('--seed', default=0, show_default=True, help='Of the starting noise.')
@click.option('--count', default=1, show_default=True, help='Images of each prompt.')
@click.option('--image-size', default=0, help="Side in pixels; by default that of the run, or the pipeline's.")
@click.option(
    '--out', default='generated', show_default=True, type=click.Path(path_type=Path), help='Folder of the PNGs.'
)
def generate(
    adapter: Path, prompts: tuple[str, ...], negative: str, backbone: str, out: Path, **numbers: float
) -> None:
    """Draw images from prompts with a fine-tuned pipeline.

    A pipeline that was trained on patients' images may reproduce them: protect its images as you protect the data.
    """
    from medpeft_utils.text_image.sampling import sample

    check_values(adapter, prompts, negative, numbers)
    prompts = [prompt for prompt in prompts for _ in range(numbers['count'])]
    trained_on, name, size = record_beside(adapter)
    make_folder(out)
    pipe, unet = tuned(adapter, backbone or name)
    logging.basicConfig(format='%(levelname)s: %(message)s')
    pipe.cut(list(dict.fromkeys([*prompts, negative])))  # warns where the tokenizer cuts a prompt
    how = {'image_size': numbers['image_size'] or size or None, 'quiet': False, 'negative': negative}
    images = sample(pipe, unet, prompts, numbers['seed'], numbers['guidance'], numbers['steps'], **how)
    for path in write_images(images, prompts, out):
        click.echo(path)
    if trained_on == 'patients':
        click.echo('trained on images of patients: protect these pictures as you protect that data', err=True)


def check_values(adapter: Path, prompts: tuple[str, ...], negative: str, numbers: dict[str, float]) -> None:
    """Raise BadInput for the first value that cannot be used; nothing is loaded."""
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
    for name, (least, most) in RANGES.items():
        most = most // len(prompts) if name == 'count' else most
        if not least <= numbers[name] <= most:  # NaN is in no range
            option = name.replace('_', '-')
            raise BadInput(f'--{option} {numbers[name]}: give a number from {least} to {most:,}')
    if negative and numbers['guidance'] == 1:
        raise BadInput(f'--negative {negative!r} does nothing with --guidance 1; raise the guidance, or leave it out')


def record_beside(adapter: Path) -> tuple[str, str, int]:
    """What the record beside an adapter says: 'patients' or 'synthetic', pipeline, image size.

    '' and 0 where there is no record. Raises BadInput for a file that is no record.
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
    path = beside if os.path.isfile(beside) else above  # a study keeps each attempt in a folder below the run's
    if not os.path.isfile(path):
        return '', '', 0
    try:
        content = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise BadInput(f'{path}: no record ({short(str(error))}); move it away, and name the --backbone') from None
    record = schema.checked(Record, content, str(path))
    return 'synthetic' if record.data.synthetic else 'patients', record.backbone.name, record.backbone.image_size


def make_folder(out: Path) -> None:
    """Make the folder of the pictures before any is drawn. Raises BadInput where it cannot be written."""
    try:
        check_writable(out)
    except OSError as error:
        raise BadInput(f'--out {short(str(out))}: cannot be written ({error.strerror or error})') from None


def tuned(adapter: Path, backbone: str):
    """A pipeline (the shipped one for ''), and its U-Net with the adapter, merged where the method can be.

    Raises:
        UnknownName, BadInput: the pipeline is not known or not on this machine, or the file is no adapter.
        DoesNotFit: the adapter belongs to another backbone.
    """
    import torch

    from medpeft_utils import methods
    from medpeft_utils.text_image import names, pipeline

    backbone = backbone or names.MINI
    pipe = pipeline.load(backbone).to(torch.device('cuda' if torch.cuda.is_available() else 'cpu'))
    try:
        loaded = methods.load(pipe.unet, adapter, 'unet', pipe.hash)
    except DoesNotFit as error:
        raise DoesNotFit(f'{error}; this is {backbone}: give the one it was trained on by --backbone') from error
    merges = loaded.method.mergeable and loaded.method.kind == 'additive'
    return pipe, (loaded.merge() if merges else loaded.model).to(pipe.device)


def write_images(images, prompts: list[str], out: Path) -> list[Path]:
    """Write PNG files, named by number and prompt, each with its prompt inside."""
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
    """List text-to-image pipelines, fetch a published one, compute the memory that training needs."""


@pipelines.command('list')
def list_() -> None:
    """List the known pipelines."""
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
@click.option('--micro-batch', default=8, type=click.IntRange(1, 4096), show_default=True, help='Pairs at a time.')
@click.option('--image-size', default=224, type=click.IntRange(64, MOST_SIDE), show_default=True, help='In pixels.')
def memory(micro_batch: int, image_size: int) -> None:
    """Compute the GPU memory that training Stable Diffusion v1.5 needs with every method, in GiB."""
    from medpeft_utils.text_image.memory import SHRINKING, table

    if image_size % SHRINKING:
        raise BadInput(f'--image-size {image_size}: give a multiple of {SHRINKING}')
    rows = table(micro_batch, image_size)
    click.echo('  '.join(f'{name:>11}' if i else f'{name:28}' for i, name in enumerate(rows[0])))
    for row in rows:
        click.echo('  '.join(f'{value:>11,}' if i else f'{value:28}' for i, value in enumerate(row.values())))
