"""`medpeft bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks.device import describe
from benchmarks.scale import PARTS, scale_for
from medpeft_utils.core.errors import BadInput, UnknownName

FIGURES = Path('figures') / 'bench'


@click.command()
@click.option('--quick', is_flag=True, help='A minute, with rough numbers.')
@click.option('--only', multiple=True, metavar='PART', help=f'Only these parts: {", ".join(PARTS)}.')
@click.option('--method', 'methods', multiple=True, metavar='METHOD', help='Only these methods (part steps).')
@click.option('--json', 'json_file', type=click.Path(path_type=Path, dir_okay=False), help='Write the numbers here.')
@click.option('--device', default='auto', type=click.Choice(['auto', 'cpu', 'cuda']), show_default=True)
@click.option(
    '--threads', default=1, show_default=True, type=click.IntRange(1), help='Threads of every training process.'
)
@click.option('--batch-size', type=click.IntRange(1), help='Images per training step.')
@click.option('--rounds', type=click.IntRange(1), help='Turns of every candidate.')
@click.option('--runs', 'memory_runs', type=click.IntRange(4), help='Runs of part memory  [default: 100].')
@click.option('--save', 'saved', is_flag=True, help=f'Keep table, numbers and figure as {FIGURES}/DEVICE.md, .json, ….')
@click.option('--missing', is_flag=True, help='With --save: only the parts that are not kept yet, as after a kill.')
def bench(
    quick: bool,
    only: tuple[str, ...],
    json_file: Path | None,
    device: str,
    saved: bool,
    missing: bool,
    **changes: Any,
) -> None:
    """Measure training steps, start-up, loading, scaling and memory, and compare them with the aims.

    Every method is timed in this package's loop, written plainly, and in the best loop by hand. Keep the machine quiet
    meanwhile. With --save every part is kept as soon as it is measured, beside those that are kept from before.
    """
    for part in only:
        if part not in PARTS:
            raise UnknownName('part', part, PARTS, 'medpeft bench --help')
    if missing and not saved:
        raise BadInput('--missing goes on with what --save keeps; give both')
    if saved and changes['methods'] and not quick:
        raise BadInput('--save keeps whole tables; leave --method out, or write --json FILE')
    scale = _scale(device, quick, changes)
    from benchmarks import run, tables

    about = describe(scale.device, scale.threads)
    earlier = run.earlier(about, quick, FIGURES) if saved else {}
    there = [part for part, found in earlier.get('parts', {}).items() if 'error' not in found] if missing else []
    chosen = [part for part in PARTS if (part in only or not only) and part not in there]
    keep = (lambda result: run.save(result, FIGURES)) if saved else (lambda _: None)
    result = run.bench(scale, chosen, quick, lambda text: click.echo(text, err=True), earlier, keep)
    click.echo(tables.render(result))
    if json_file:
        json_file.write_text(json.dumps(result, indent=1) + '\n')
    for path in keep(result) or ():
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
