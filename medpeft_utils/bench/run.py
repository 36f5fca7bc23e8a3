"""A whole bench: its parts in turn, what they were measured on, and the aims."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medpeft_utils.bench import aims, device, studies, tables
from medpeft_utils.bench.rounds import Broken
from medpeft_utils.bench.scale import PARTS, Scale
from medpeft_utils.bench.steps import measure_loader, measure_steps

MEASURES: dict[str, Callable[[Scale, Callable[[str], None]], Any]] = {
    'steps': measure_steps,
    'startup': studies.measure_startup,
    'loader': measure_loader,
    'scaling': studies.measure_scaling,
    'memory': studies.measure_memory,
}


def bench(
    scale: Scale, parts: Iterable[str] = PARTS, quick: bool = False, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure parts of the bench; one that breaks leaves its error and the others go on.

    Returns:
        `device`, `scale`, `quick`, `parts` (what was measured) and `aims` (measured, target, met), as JSON holds them.
    """
    about = device.describe(scale.device, scale.threads)
    found: dict[str, Any] = {}
    for part in parts:
        try:
            found[part] = MEASURES[part](scale, say)
        except Broken as broken:
            found[part] = {'error': str(broken)}
    judged = [aim.plain() for aim in aims.judge(found, about)]
    result = {'device': about, 'quick': quick, 'scale': asdict(scale), 'parts': found, 'aims': judged}
    return json.loads(json.dumps(result))


def save(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write <folder>/<device>.json and .md; what an earlier bench on the device left is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / device.slug(result['device'])
    texts = {'.json': json.dumps(result, indent=1) + '\n', '.md': tables.render(result)}
    paths = []
    for suffix, text in texts.items():
        path = stem.with_name(stem.name + suffix)
        path.write_text(text, encoding='utf-8')
        paths.append(path)
    return paths
