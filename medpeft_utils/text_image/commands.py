"""`medpeft pairs`: which image-text sets there are, what is known of them, checking and preparing them."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict

import click

CACHE = click.option('--cache', type=click.Path(), default=None, help='Folder of the packed cache ($MEDPEFT_CACHE).')
SIZE = click.option(
    '--image-size', 'sizes', type=int, multiple=True, default=(64,), show_default=True, help='May be repeated.'
)
TRAIN = click.option('--train-pairs', type=int, default=0, help='Pack so many training pairs only; 0 packs all.')


@click.group()
def pairs() -> None:
    """List, describe, check and prepare image-text pairs."""


@pairs.command('list')
@CACHE
def list_(cache: str | None) -> None:
    """List the image-text sets that have a name."""
    from medpeft_utils.text_image import CARDS, prepared_folder

    for name, card in CARDS.items():
        folder = prepared_folder(name, cache)
        state = 'drawn where it is used' if card.synthetic else f'prepared from {folder}' if folder else 'not prepared'
        click.echo(f'{name:24} {state}')
    click.echo('Your own: a CSV with columns image,text[,group][,split].')


@pairs.command()
@click.argument('name')
@click.option('--json', 'as_json', is_flag=True, help='Print the card as JSON.')
def show(name: str, as_json: bool) -> None:
    """Show the card of NAME."""
    from medpeft_utils.text_image import CARDS

    card = CARDS[name]
    if as_json:
        click.echo(json.dumps(asdict(card), ensure_ascii=False, indent=2))
        return
    click.echo(f'{card.label} ({card.name})')
    rows = {
        'images': card.modality,
        'texts': card.texts,
        'splits': card.splits,
        'pairs': f'{card.pairs:,}' if card.pairs else '',
        'source': card.source,
        'obtain': card.how_to_obtain,
        'licence': card.licence,
        'credentialed': 'yes: the packed cache holds images and texts; keep it as the download' * card.credentialed,
        'in the paper': ' / '.join(f'{number:,}' for number in card.paper_train_pairs),
    }
    for key, value in [*rows.items(), *(('known fault', fault) for fault in card.known_faults)]:
        if value:
            click.echo(textwrap.fill(value, 110, initial_indent=f'  {key:14} ', subsequent_indent=' ' * 17))


@pairs.command()
@click.argument('name')
@click.argument('path', required=False, type=click.Path())
@SIZE
@TRAIN
@CACHE
def prepare(name: str, path: str | None, sizes: tuple[int, ...], train_pairs: int, cache: str | None) -> None:
    """Check the download of NAME in the folder PATH and pack it. NAME may be a CSV of your own."""
    from medpeft_utils.text_image import prepare_pairs

    click.echo(summary(prepare_pairs(name, path, sizes, train_pairs, cache)))


@pairs.command()
@click.argument('name')
@click.argument('path', required=False, type=click.Path())
@click.pass_context
def check(context: click.Context, name: str, path: str | None) -> None:
    """Look for what is wrong with NAME in the folder PATH; opens no image. NAME may be a CSV of your own.

    Exit status 1 where the set cannot be used as it is.
    """
    from medpeft_utils.text_image import manifest, open_source

    source = open_source(name, path)
    reading = source.listed()
    found = manifest.faults(reading.frame, source.root)
    click.echo(f'{source.card.label}: {len(reading.frame):,} pairs, {reading.frame["group"].nunique():,} groups')
    for reason, count in reading.left_out.items():
        click.echo(f'  left out: {count:,} ({reason})')
    for fault in found:
        click.echo(f'  FAULT: {fault}')
    click.echo('verdict: ' + ('not usable until the faults are mended' if found else 'in order'))
    context.exit(1 if found else 0)


def summary(loaded) -> str:
    """Loaded pairs in a few lines: splits, what was left out, how to keep them, hash."""
    lines = [f'{loaded.label}: {len(loaded):,} pairs at {loaded.image_size} px', loaded.counts().to_string()]
    lines += [f'left out: {count:,} ({reason})' for reason, count in loaded.left_out.items()]
    if loaded.card.credentialed:
        lines.append(
            'The packed cache holds images and texts: keep it as the credentialed download, share it with nobody.'
        )
    return '\n'.join([*lines, f'splits {loaded.split_hash}'])


def script(name: str) -> click.Command:
    """The command of `data_prep/<name>.py`: --source FOLDER [--out CACHE] [--image-size S] [--train-pairs N]."""

    @click.command(help=f'Check the published download of {name} and pack it. Nothing is written into the download.')
    @click.option('--source', required=True, type=click.Path(), help='Folder of the published download.')
    @click.option('--out', default=None, type=click.Path(), help='Folder of the packed cache ($MEDPEFT_CACHE).')
    @SIZE
    @TRAIN
    def run(source: str, out: str | None, sizes: tuple[int, ...], train_pairs: int) -> None:
        from medpeft_utils.core.errors import MedpeftError
        from medpeft_utils.text_image import prepare_pairs

        try:
            click.echo(summary(prepare_pairs(name, source, sizes, train_pairs, out)))
        except MedpeftError as error:
            raise click.ClickException(str(error)) from error

    return run
