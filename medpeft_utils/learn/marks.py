"""What a method trains in each part of a drawing, read from the adapted network and not from a list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from medpeft_utils.learn import networks
from medpeft_utils.learn.blocks import Layout
from medpeft_utils.methods.base import METHODS

# Of the letters beside a part, those of a path run from its input to its output.
ORDER = ['LN', 'down', '3×3', 'up', 'A', 'B', 'α']


@dataclass
class Marks:
    """What is to be seen in one place of a drawing.

    Args:
        own: the part's own parameters: 'weight' and 'bias' (or the name of a bare parameter) to whether it is trained.
        inside: letters of what is added within it or on its output.
        beside: letters of what is added on a path beside it.
    """

    own: dict[str, bool] = field(default_factory=dict)
    inside: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)


def _owner(name: str, places: list[str]) -> str:
    """The innermost of the named places that a parameter lies in; '' for none."""
    inside = [place for place in places if name == place or name.startswith(f'{place}.')]
    return max(inside, key=len, default='')


def _addition(name: str, letters: dict[str, tuple[str, bool]]) -> tuple[str, bool]:
    for piece, shown in letters.items():
        if f'.{piece}' in name:
            return shown
    raise KeyError(f'{name}: a drawing has no letter for it; add one to the letters of its method')


def _add(marks: Marks, name: str, letters: dict[str, tuple[str, bool]]) -> None:
    letter, beside = _addition(name, letters)
    shown = marks.beside if beside else marks.inside
    if letter not in shown:
        shown.append(letter)


def _entrance(name: str, published: Iterable[str], layout: Layout) -> str:
    """The first part of the block, or of its branch, that an addition beside no single layer belongs to; '' for none.

    Such are tokens that enter a block (`blocks.0.prompts`) and a path beside an attention (`blocks.0.attn.bypass`).
    """
    while name := name.rpartition('.')[0]:
        inside = [other.removeprefix(f'{name}.') for other in published if other.startswith(f'{name}.')]
        if inside:
            parts = [part.name for part in layout.parts if part.name.startswith(f'{name}.')]
            return '' if any('.' not in other for other in inside) else next(iter(parts), '')
    return ''


def read(layout: Layout, family: str, method: str | None, config: dict[str, Any] | None = None) -> dict[str, Marks]:
    """The marks of every named place of a layout.

    Args:
        layout: of the drawing.
        family: of the network.
        method: key; None for the network as it is published.
        config: the method's options.
    Raises:
        KeyError: the method trains something within the drawn blocks that the drawing has no place or letter for.
    """
    places = [part.name for part in layout.parts if part.name] + list(layout.spans) + list(layout.after)
    marks = {place: Marks() for place in places}
    published = networks.parameter_names(family)
    trained = set(networks.adapted(method, family, config).trainable()) if method else set()
    letters = METHODS[method].letters if method else {}
    for name in [*published, *sorted(trained - published.keys())]:
        place = _owner(name, places)
        if place in layout.after and '.' in name.removeprefix(f'{place}.'):
            place = ''  # of a layer within, which has no part of its own
        if not place and name in trained and _owner(name, layout.blocks):
            place = '' if name in published else _entrance(name, published, layout)
            if not place:
                raise KeyError(f'{name}: the drawing of {family!r} has no place for it')
        if place and name in published:
            marks[place].own[name.removeprefix(f'{place}.')] = name in trained
        elif place:
            _add(marks[place], name, letters)
    for mark in marks.values():
        mark.inside.sort(key='γβδ'.find)
        mark.beside.sort(key=lambda letter: ORDER.index(letter) if letter in ORDER else len(ORDER))
    return marks
