"""`medpeft backbones`: what there is, where it comes from, and fetching published weights."""

from __future__ import annotations

import click

from medpeft_utils.backbones.radiograph import RADIOGRAPH_BACKBONES
from medpeft_utils.backbones.small import SMALL_BACKBONES

# The paper's encoders by the timm names that come nearest to its text.
PUBLISHED = {
    'resnet50.tv_in1k': 'ResNet-50, ImageNet-1k',
    'vit_base_patch16_224.augreg_in21k': 'ViT-Base, ImageNet-21k',
    'vit_large_patch16_224.augreg_in21k': 'ViT-Large, ImageNet-21k',
    'vit_huge_patch14_224.orig_in21k': 'ViT-Huge, ImageNet-21k',
    'vit_base_patch16_224.mae': 'ViT-Base, masked autoencoder',
    'vit_base_patch16_clip_224.openai': 'ViT-Base, CLIP',
}


@click.group()
def backbones() -> None:
    """List backbones and fetch published weights."""


@backbones.command('list')
def list_() -> None:
    """Show the shipped backbones and the paper's, which timm provides."""
    from medpeft_utils.backbones.cards import read_card

    click.echo('shipped with the package (no download):')
    for name, backbone in SMALL_BACKBONES.items():
        card = read_card(name)
        score = f'{card["score_name"]} {card["score"]:.3f}' if card else 'weights missing'
        click.echo(
            f'  {name:22} {backbone.family}  {backbone.image_size} px  stands for {backbone.stands_for:28} {score}'
        )
    click.echo("the paper's, through timm (`medpeft backbones fetch NAME`), and any other timm ResNet or ViT:")
    for name, words in PUBLISHED.items():
        click.echo(f'  {name:36} {words}')
    click.echo('chest radiographs, from a file of yours (weights=FILE):')
    for name, backbone in RADIOGRAPH_BACKBONES.items():
        click.echo(f'  {name:36} {backbone.label}; {backbone.how_to_obtain}')


@backbones.command()
@click.argument('name')
def fetch(name: str) -> None:
    """Download the published weights of NAME (a timm name) into the local hub cache."""
    from medpeft_utils.backbones.hub import fetch as download

    click.echo(f'{name}: {download(name)}')
