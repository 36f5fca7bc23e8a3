"""Imports between the rooms of the package go downwards only, and nowhere in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import medpeft_utils

PACKAGE = Path(medpeft_utils.__file__).parent
# A room may import those before it, and itself. Modules at the top level of the package count as rooms.
LAYERS = [
    ['core'],
    ['metrics', 'auroc', 'plots'],
    ['data', 'backbones'],
    ['methods'],
    ['training'],
    ['text_image'],
    ['study'],
    ['report', 'learn'],
    ['compare', 'adapters'],
    ['cli'],
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        else:
            continue
        found |= {name.split('.')[1] for name in names if name.startswith('medpeft_utils.')}
    return found & LEVEL.keys()


@pytest.mark.parametrize('room', [room for room in LEVEL if (PACKAGE / room).is_dir()])
def test_a_room_imports_only_rooms_below_it(room: str):
    wrong = {
        f'{path.relative_to(PACKAGE)} imports {other}'
        for path in (PACKAGE / room).rglob('*.py')
        for other in imported_rooms(path)
        if other != room and LEVEL[other] >= LEVEL[room]
    }
    assert sorted(wrong) == []


def test_every_room_has_its_layer():
    rooms = {room_of(path) for path in PACKAGE.rglob('*.py')} - {'__init__', '__main__'}
    assert rooms == LEVEL.keys()
