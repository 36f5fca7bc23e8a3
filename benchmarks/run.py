"""A whole bench: its parts in turn, what they were measured on, and the aims."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import aims, device, studies, tables
from benchmarks.rounds import Broken
from benchmarks.scale import PARTS, Scale
from benchmarks.steps import measure_loader, measure_steps
from medpeft_utils.core.files import read_json, write_bytes
from medpeft_utils.report import style

MEASURES: dict[str, Callable[[Scale, Callable[[str], None]], Any]] = {
    'steps': measure_steps,
    'startup': studies.measure_startup,
    'loader': measure_loader,
    'scaling': studies.measure_scaling,
    'memory': studies.measure_memory,
}


def bench(
    scale: Scale,
    parts: Iterable[str] = PARTS,
    quick: bool = False,
    say: Callable[[str], None] = lambda _: None,
    earlier: dict[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], Any] = lambda _: None,
) -> dict[str, Any]:
    """Measure parts of the bench; one that breaks leaves its error and the others go on.

    Args:
        parts: which.
        earlier: a result as this function gave it; what is measured now replaces its parts.
        keep: called with the result after every part.
    Returns:
        `device`, `quick`, `parts` (what was measured), `measured` (part -> date, command, seconds and scale) and `aims`
        (measured, target, met), as JSON holds them.
    """
    about = device.describe(scale.device, scale.threads)
    found, measured = (dict((earlier or {}).get(name, {})) for name in ('parts', 'measured'))
    result = _judged(about, quick, found, measured)
    for part in parts:
        began = time.monotonic()
        try:
            found[part] = MEASURES[part](scale, say)
        except Broken as broken:
            found[part] = {'error': str(broken)}
        seconds = round(time.monotonic() - began, 1)
        measured[part] = {'date': about['date'], 'command': command(), 'seconds': seconds, 'scale': asdict(scale)}
        say(f'{part}: measured in {seconds:.0f} s')
        result = _judged(about, quick, found, measured)
        keep(result)
    return result


def _judged(about: dict[str, Any], quick: bool, found: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    judged = [aim.plain() for aim in aims.judge(found, about)]
    result = {'device': about, 'quick': quick, 'parts': found, 'measured': measured, 'aims': judged}
    return json.loads(json.dumps(result))


def command() -> str:
    """How this process was called."""
    return shlex.join(['medpeft', *sys.argv[1:]]) if sys.argv[1:2] == ['bench'] else 'medpeft bench'


# ---- results on disk


def stem(about: dict[str, Any], quick: bool, folder: Path) -> Path:
    """Path of a device's results without the suffix; a quick bench never replaces a whole one."""
    return folder / (device.slug(about) + ('-quick' if quick else ''))


def earlier(about: dict[str, Any], quick: bool, folder: Path) -> dict[str, Any]:
    """The results of an earlier bench on this device with these versions, or {}."""
    found = read_json(stem(about, quick, folder).with_suffix('.json')) or {}
    same = all(found.get('device', {}).get(name) == about[name] for name in ('device', 'cpu', 'cores', 'versions'))
    return found if same else {}


def save(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write <device>.json and .md, and for steps .png and .pdf. Called after every part, so a stop loses one part."""
    base = stem(result['device'], result['quick'], folder)
    texts = {'.json': json.dumps(result, indent=1) + '\n', '.md': tables.render(result)}
    paths = []
    for suffix, text in texts.items():
        paths.append(base.with_name(base.name + suffix))
        write_bytes(paths[-1], text.encode(), durable=False)
    if any('ours' in row for row in result['parts'].get('steps', ())):  # an error is a dict of text
        from benchmarks.figure import draw

        with style.drawing():
            figure = draw(result)
            for suffix, metadata in (('.png', {'Software': None}), ('.pdf', {'CreationDate': None, 'Producer': None})):
                paths.append(base.with_name(base.name + suffix))
                figure.savefig(paths[-1], metadata=metadata)
    return paths
