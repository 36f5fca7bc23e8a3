"""`medpeft data`: what datasets there are, what is known of them, preparing and checking them."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from pathlib import Path

import click

CREDENTIALED = 'the packed cache holds images and texts; keep it as the download, share it with nobody'
TRAIN_PAIRS = click.option(
    '--train-pairs', type=int, default=0, help='Of images with texts: how many for training; 0 packs all.'
)


@click.group()
def data() -> None:
    """List, describe, prepare and check datasets."""


@data.command('list')
@click.option('--cache', type=click.Path(), default=None, help='Folder of the packed cache ($MEDPEFT_CACHE).')
def list_(cache: str | None) -> None:
    """List the datasets that have a name."""
    from medpeft_utils.data import CARDS, names, prepared_folder, sources, synthetic

    for name in names():
        card = CARDS[name]
        if card.synthetic:
            state = 'drawn where it is used'
        elif not sources.has_reader(name):
            state = 'card only, no reader yet'
        else:
            folder = prepared_folder(name, cache)
            state = f'prepared from {folder}' if folder else 'not prepared'
        images = synthetic.default_size(name) if card.synthetic else card.images
        kind = 'findings' if card.multi_label else 'classes'
        count = f'{images:,}' if images else 'some'  # a part of a set has as many as there are
        click.echo(f'{name:32} {len(card.classes):3} {kind:8} {count:>7} images  {state}')
    click.echo('With texts:')
    for name in names(texts=True):
        folder = prepared_folder(name, cache)
        drawn = 'drawn where it is used' if CARDS[name].synthetic else ''
        click.echo(f'{name:32} {drawn or (f"prepared from {folder}" if folder else "not prepared")}')
    click.echo('Your own: a folder with a folder per class, or a CSV with columns image,label[,group][,split];')
    click.echo('with texts: a CSV with columns image,text[,group][,split].')


@data.command()
@click.argument('name')
@click.option('--json', 'as_json', is_flag=True, help='Print the card as JSON.')
def show(name: str, as_json: bool) -> None:
    """Show the data card of NAME."""
    from medpeft_utils.data import CARDS
    from medpeft_utils.data.pages import facts

    card = CARDS[name]
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(card), ensure_ascii=False, indent=2))
        return
    click.echo(f'{card.label} ({card.name})')
    classes = ', '.join(f'{name} {card.counts[name]:,}' if card.counts else name for name in card.classes)
    rows = facts(card) | {'findings' if card.multi_label else 'classes': classes}
    if card.credentialed:
        rows['credentialed'] = f'yes: {CREDENTIALED}'
    for key, value in [*rows.items(), *(('known fault', fault) for fault in card.known_faults)]:
        if value:
            click.echo(textwrap.fill(value, 110, initial_indent=f'  {key:14} ', subsequent_indent=' ' * 17))


@data.command()
@click.argument('name')
@click.argument('path', required=False, type=click.Path())
@click.option(
    '--image-size',
    'sizes',
    type=int,
    multiple=True,
    default=(64,),
    show_default=True,
    help='Side in pixels; may be repeated.',
)
@TRAIN_PAIRS
@click.option('--cache', type=click.Path(), default=None, help='Folder of the packed cache ($MEDPEFT_CACHE).')
def prepare(name: str, path: str | None, sizes: tuple[int, ...], train_pairs: int, cache: str | None) -> None:
    """Check the download of NAME in the folder PATH and pack it. NAME may be a folder or CSV of your own."""
    from medpeft_utils.data import CARDS
    from medpeft_utils.data import prepare as prepare_dataset

    dataset = prepare_dataset(name, path, sizes, cache, train_pairs)
    click.echo(summary(dataset))
    if name in CARDS:
        click.echo(f'From now on `{name}` is enough.')


def summary(dataset) -> str:
    """A loaded dataset in a few lines: images, splits by class, hash; of one with texts what was left out as well."""
    counts = dataset.counts()
    if dataset.card.texts:
        lines = [f'{dataset.label}: {len(dataset):,} pairs at {dataset.image_size} px', counts.to_string()]
        lines += [f'{reason}: {count:,}' for reason, count in dataset.notes.items()]
        lines += [CREDENTIALED[0].upper() + CREDENTIALED[1:]] * dataset.card.credentialed
        return '\n'.join([*lines, f'splits {dataset.split_hash}'])
    counts.loc['all'] = counts.sum()
    trained = dataset.card.paper_train_images
    paper = f' (the paper trains on {trained:,})' if trained else ''
    return (
        f'{dataset.label}: {len(dataset):,} images at {dataset.image_size} px, {len(set(dataset.groups)):,} groups; '
        f'{len(dataset.rows("train")):,} to train on{paper}\n{counts.to_string()}\nsplits {dataset.split_hash}'
    )


def script(name: str, *others: str) -> click.Command:
    """The command of `data_prep/<name>.py`: --source FOLDER [--out CACHE] [--image-size S].

    Where several datasets are read from one download, `others` beside `name`, [--dataset NAME] says which.
    """

    @click.command(help=f'Check the published download of {name} and pack it.')
    @click.option('--dataset', type=click.Choice([name, *others]), default=name, show_default=True, hidden=not others)
    @click.option('--source', required=True, type=click.Path(), help='Folder of the published download.')
    @click.option('--out', default=None, type=click.Path(), help='Folder of the packed cache ($MEDPEFT_CACHE).')
    @click.option('--image-size', 'sizes', type=int, multiple=True, default=(64,), show_default=True)
    @TRAIN_PAIRS
    def run(dataset: str, source: str, out: str | None, sizes: tuple[int, ...], train_pairs: int) -> None:
        from medpeft_utils.core.errors import MedpeftError
        from medpeft_utils.data import prepare as prepare_dataset

        try:
            click.echo(summary(prepare_dataset(dataset, source, sizes, out, train_pairs)))
        except MedpeftError as error:
            raise click.ClickException(str(error)) from error

    return run


@data.command()
@click.option('--folder', type=click.Path(file_okay=False), default='docs/data', show_default=True)
@click.option(
    '--check', 'only_check', is_flag=True, help='Only list stale pages; the exit status is 1 if there are any.'
)
@click.option('--cache', type=click.Path(), default=None, help='Folder of the packed cache ($MEDPEFT_CACHE).')
@click.pass_context
def pages(context: click.Context, folder: str, only_check: bool, cache: str | None) -> None:
    """Write the pages of datasets that are stale, from their cards and synthetic versions."""
    from medpeft_utils.data import pages as data_pages

    if only_check:
        old = data_pages.stale(Path(folder))
        click.echo('\n'.join([f'stale: {name}' for name in old] or ['every page is as its card']))
        context.exit(1 if old else 0)
    written = data_pages.write(Path(folder), cache=cache)
    click.echo('\n'.join([str(path) for path in written] or ['every page was as its card']))


@data.command()
@click.argument('name')
@click.argument('path', required=False, type=click.Path())
@click.option('--json', 'as_json', is_flag=True, help='Print the report as JSON.')
@click.option('--out', type=click.Path(dir_okay=False), default=None, help='Write the JSON report to this file too.')
@click.pass_context
def check(context: click.Context, name: str, path: str | None, as_json: bool, out: str | None) -> None:
    """Look for what is wrong with NAME in the folder PATH. NAME may be a folder or CSV of your own.

    Opens every image; writes nothing to the cache. The exit status is 1 if the dataset cannot be used as it is.
    """
    from medpeft_utils.data.check import check as check_dataset

    report = check_dataset(name, path)
    content = json.dumps(dataclasses.asdict(report) | {'verdict': report.verdict}, ensure_ascii=False, indent=2)
    if out:
        Path(out).write_text(content + '\n', encoding='utf-8')
    click.echo(content if as_json else _as_text(report))
    context.exit(0 if report.usable else 1)


def _near_as_text(found: dict[str, list[str]]) -> str:
    """A set of near duplicates, with what it spans."""
    spans = [', '.join(found[kind]) for kind in ('splits', 'labels') if len(found[kind]) > 1]
    return ' ~ '.join(found['images']) + (f' ({"; ".join(spans)})' if spans else '')


def _as_text(report) -> str:
    """The report for reading: at most ten of each kind of finding, the rest counted."""
    lines = [f'{report.dataset}: {report.images:,} images in {report.folder or "?"}']
    lines += [f'  {name:24} {count:,}' for name, count in report.classes.items()]
    if report.groups:
        lines.append(f'  {report.groups:,} groups, the largest of {report.largest_group} images')
    how = 'as given' if report.splits_given else '(split seed 0)'
    lines += [f'  {split:12} {count:,} images {how}' for split, count in report.split_images.items()]
    for words, counts in (('modes', report.modes), ('sizes', report.sizes)):
        common = ', '.join(f'{name}: {count:,}' for name, count in list(counts.items())[:5])
        if counts:
            lines.append(f'  {words}: {common}' + (f' and {len(counts) - 5} more' if len(counts) > 5 else ''))
    lines += [f'  note: {words}: {count:,}' for words, count in report.notes.items()]
    for words, found in (
        ('FAULT', report.faults),
        ('UNREADABLE', report.unreadable),
        ('duplicate', [f'same file: {" = ".join(images)}' for images in report.duplicates]),
        ('near duplicates', [_near_as_text(found) for found in report.near_duplicates]),
        ('remark', report.remarks),
    ):
        lines += [f'  {words}: {text}' for text in found[:10]]
        if len(found) > 10:
            lines.append(f'  {words}: and {len(found) - 10:,} more (--json lists all)')
    return '\n'.join([*lines, f'verdict: {report.verdict}'])
