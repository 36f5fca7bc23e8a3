"""`medpeft book`: run the learning notebooks, see which are stale, build the pages."""

from __future__ import annotations

from pathlib import Path

import click

from medpeft_utils.core.errors import MedpeftError


@click.group()
def book() -> None:
    """Run the learning notebooks in notebooks/learn, and build HTML pages from them."""


@book.command('list')
def list_pages() -> None:
    """List the notebooks in reading order, with their times, and mark those with outputs of older code."""
    from medpeft_utils.learn.book import pages

    for page in pages():
        click.echo(f'{page.name:<24} {page.seconds:>4.0f} s  {"stale" if page.is_stale else "    "}  {page.title}')


@book.command()
@click.argument('names', nargs=-1)
@click.option('--all', 'every', is_flag=True, help='Also run those that are up to date.')
def run(names: tuple[str, ...], every: bool) -> None:
    """Run the notebooks NAMES (such as lora), or all stale ones, and save their outputs."""
    from medpeft_utils.learn.book import chosen
    from medpeft_utils.learn.book import run as execute

    failed = []
    for page in chosen(names):
        if not (every or names or page.is_stale):
            click.echo(f'{page.name:<24} up to date')
            continue
        click.echo(f'{page.name:<24} ', nl=False)
        try:
            click.echo(f'{execute(page):.0f} s')
        except MedpeftError as error:
            failed.append(page.name)
            click.echo(f'failed\n{error}')
    if failed:
        raise MedpeftError(f'{len(failed)} failed: {", ".join(failed)}; their outputs are as they were')


@book.command()
@click.option('--out', type=click.Path(path_type=Path), default=Path('build/book'), show_default=True)
def html(out: Path) -> None:
    """Build HTML pages with navigation from the notebooks as they are; runs nothing and needs no network."""
    from medpeft_utils.learn.pages import build

    click.echo(f'open {build(out)}')
