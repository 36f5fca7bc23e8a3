"""`medpeft cost`, and single figures for `medpeft report --only`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from medpeft_utils.core.errors import BadInput
from medpeft_utils.study.paths import project_root


def draw(profile: str, results: Path, figures: Path, names: Sequence[str]) -> None:
    """Draw these figures and tables of PROFILE into figures/PROFILE, and name each file that shows one."""
    from medpeft_utils.report import RENDERERS, render, source
    from medpeft_utils.report.output import Figure, Nothing

    for name in names:
        RENDERERS[name]
    found = source.load(profile, results / profile, figures / profile)
    for name in names:
        output = render(name, found)
        output.save(figures / profile)
        shown = figures / profile / f'{name}.{output.kind if isinstance(output, Figure) else "md"}'
        click.echo(f'{name}: {" ".join(output.notes)}' if isinstance(output, Nothing) else f'{shown} drawn')


@click.command()
@click.argument('profile')
@click.option('--results', type=click.Path(path_type=Path), help='Default: results of this project.')
@click.option('--figures', type=click.Path(path_type=Path), help='Default: figures of this project.')
def cost(profile: str, results: Path | None, figures: Path | None) -> None:
    """Print what each method of PROFILE costs, from its records: operations, bytes, memory, images a second."""
    from medpeft_utils.report import source
    from medpeft_utils.report.cost import NO_COST
    from medpeft_utils.report.cost import cost as table
    from medpeft_utils.report.output import Nothing

    at, beside = (results or project_root() / 'results') / profile, (figures or project_root() / 'figures') / profile
    found = table(source.load(profile, at, beside))
    if isinstance(found, Nothing):
        raise BadInput(f"{profile}: {NO_COST} Runs of today's code hold them: medpeft run {profile}")
    click.echo(found.frame.to_string(index=False))
    click.echo('\n'.join(['', *found.notes]))
