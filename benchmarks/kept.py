"""The bench's results as they are kept: numbers, table and figure of a device, written again after every part.

So a bench that was stopped has kept what it had measured, and `--missing` measures the rest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import device, tables
from medpeft_utils.core.files import read_json, write_bytes
from medpeft_utils.report import style


def stem(about: dict[str, Any], quick: bool, folder: Path) -> Path:
    """Where the results of a device are kept, without the suffix; a quick bench never replaces a whole one."""
    return folder / (device.slug(about) + ('-quick' if quick else ''))


def earlier(about: dict[str, Any], quick: bool, folder: Path) -> dict[str, Any]:
    """What was measured before on this device with these versions; empty where nothing was."""
    found = read_json(stem(about, quick, folder).with_suffix('.json')) or {}
    same = all(found.get('device', {}).get(name) == about[name] for name in ('device', 'cpu', 'cores', 'versions'))
    return found if same else {}


def save(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write <device>.json and .md, and where steps were measured .png and .pdf, each by a rename."""
    base = stem(result['device'], result['quick'], folder)
    texts = {'.json': json.dumps(result, indent=1) + '\n', '.md': tables.render(result)}
    paths = []
    for suffix, text in texts.items():
        paths.append(base.with_name(base.name + suffix))
        write_bytes(paths[-1], text.encode(), durable=False)
    if any('ours' in row for row in _rows(result)):
        from benchmarks.figure import draw

        with style.drawing():
            figure = draw(result)
            for suffix, metadata in (('.png', {'Software': None}), ('.pdf', {'CreationDate': None, 'Producer': None})):
                paths.append(base.with_name(base.name + suffix))
                figure.savefig(paths[-1], metadata=metadata)
    return paths


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    found = result['parts'].get('steps', [])
    return found if isinstance(found, list) else []
