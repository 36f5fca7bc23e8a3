"""`medpeft pipelines`: list text-to-image pipelines, fetch a published one, compute the memory of a training."""

from __future__ import annotations

import json

import click

from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.values import MOST


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
@click.option(
    '--image-size', default=224, type=click.IntRange(64, MOST['image_size']), show_default=True, help='In pixels.'
)
def memory(micro_batch: int, image_size: int) -> None:
    """Compute the GPU memory that training Stable Diffusion v1.5 needs with every method, in GiB."""
    from medpeft_utils.text_image.memory import SHRINKING, table

    if image_size % SHRINKING:
        raise BadInput(f'--image-size {image_size}: give a multiple of {SHRINKING}')
    rows = table(micro_batch, image_size)
    click.echo('  '.join(f'{name:>11}' if i else f'{name:28}' for i, name in enumerate(rows[0])))
    for row in rows:
        click.echo('  '.join(f'{value:>11,}' if i else f'{value:28}' for i, value in enumerate(row.values())))
