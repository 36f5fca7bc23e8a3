"""`medpeft backbones`: what there is, where it comes from, and fetching published weights."""

from __future__ import annotations

import click


@click.group()
def backbones() -> None:
    """List backbones and fetch published weights."""


@backbones.command('list')
def list_() -> None:
    """Show the shipped backbones, and published ones."""
    from medpeft_utils.backbones.cards import read_card
    from medpeft_utils.backbones.published import CARDS
    from medpeft_utils.backbones.radiograph import RADIOGRAPH_BACKBONES
    from medpeft_utils.backbones.small import SMALL_BACKBONES

    click.echo('shipped with the package (no download):')
    for name, backbone in SMALL_BACKBONES.items():
        card = read_card(name)
        score = f'{card["score_name"]} {card["score"]:.3f}' if card else 'weights missing'
        click.echo(
            f'  {name:22} {backbone.family}  {backbone.image_size} px  stands for {backbone.stands_for:28} {score}'
        )
    click.echo('published, through timm (`medpeft backbones show NAME` tells how to get them), as any other of timm:')
    for card in CARDS:
        if card.example:
            click.echo(f'  {card.example:36} {card.title}')
    click.echo('chest radiographs, from a file of yours (weights=FILE):')
    for name, backbone in RADIOGRAPH_BACKBONES.items():
        click.echo(f'  {name:36} {backbone.label}; {backbone.how_to_obtain}')
    click.echo('NAME:K is the first K blocks of a transformer, such as vit_small_patch14_dinov2:6')


@backbones.command()
@click.argument('name')
def show(name: str) -> None:
    """Show what is known about the published network NAME, and whether its weights are installed."""
    from medpeft_utils import backbones as room
    from medpeft_utils.core.errors import BadInput

    family = room.family_of(name)
    click.echo(f'{name}: {room.label_of(name)}, {family}, {room.image_size_of(name)} px')
    card = room.published(name)
    for words in ('title', 'data', 'licence', 'obtain') if card else ():
        click.echo(f'  {words:8} {getattr(card, words)}')
    try:
        click.echo(f'  weights  {room.weights_path(name)}')
    except BadInput as error:
        click.echo(f'  weights  {error}')


@backbones.command()
@click.argument('name')
def fetch(name: str) -> None:
    """Download the published weights of NAME (a timm name) into the local hub cache."""
    from medpeft_utils.backbones.hub import fetch as download

    click.echo(f'{name}: {download(name)}')
