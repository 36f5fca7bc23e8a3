"""`medpeft bench`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from medpeft_utils.bench.scale import PARTS, scale_for
from medpeft_utils.errors import BadInput, UnknownName

FIGURES = Path('figures') / 'bench'


@click.command()
@click.option('--quick', is_flag=True, help='A minute, with rough numbers.')
@click.option('--only', multiple=True, metavar='PART', help=f'Only these parts: {", ".join(PARTS)}.')
@click.option('--method', 'methods', multiple=True, metavar='METHOD', help='Only these methods (part steps).')
@click.option('--json', 'json_file', type=click.Path(path_type=Path, dir_okay=False), help='Write the numbers here.')
@click.option('--device', default='auto', type=click.Choice(['auto', 'cpu', 'cuda']), show_default=True)
@click.option('--threads', default=1, show_default=True, type=click.IntRange(1), help='Of every process that trains.')
@click.option('--batch-size', type=click.IntRange(1), help='Images a training step.')
@click.option('--rounds', type=click.IntRange(1), help='How often every candidate takes its turn.')
@click.option('--runs', 'memory_runs', type=click.IntRange(4), help='Runs of part memory  [default: 100].')
@click.option('--save', 'saved', is_flag=True, help=f'Keep table and numbers as {FIGURES}/DEVICE.md and .json.')
def bench(
    quick: bool, only: tuple[str, ...], json_file: Path | None, device: str, saved: bool, **changes: object
) -> None:
    """Measure training steps, start-up, loading, scaling and memory, and show them beside the aims.

    Every method is timed in this package's loop, written plainly, and in the best loop by hand. Keep the machine quiet
    meanwhile.
    """
    for part in only:
        if part not in PARTS:
            raise UnknownName('part', part, PARTS, 'medpeft bench --help')
    scale = _scale(device, quick, changes)
    from medpeft_utils.bench import run, tables

    chosen = [part for part in PARTS if part in only or not only]
    result = run.bench(scale, chosen, quick, say=lambda text: click.echo(text, err=True))
    click.echo(tables.render(result))
    if json_file:
        json_file.write_text(json.dumps(result, indent=1) + '\n')
    for path in run.save(result, FIGURES) if saved else ():
        click.echo(path)


def _scale(device: str, quick: bool, changes: dict):
    """The scale asked for. Raises BadInput where there is no GPU, UnknownName for a method."""
    import torch

    from medpeft_utils.methods import METHODS

    there = torch.cuda.is_available()
    if device == 'cuda' and not there:
        raise BadInput("device 'cuda': torch finds no GPU here; leave --device out for the CPU")
    for key in changes['methods']:
        METHODS[key]  # an unknown one gets its error
    return scale_for('cuda' if there and device != 'cpu' else 'cpu', quick, **changes)
