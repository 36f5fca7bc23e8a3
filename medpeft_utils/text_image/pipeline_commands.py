"""`medpeft pipelines`: which text-to-image pipelines there are, fetching a published one, and its memory."""

from __future__ import annotations

import json

import click


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
    from medpeft_utils.text_image.hub import fetch as download

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
