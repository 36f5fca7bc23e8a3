"""What a method trains in each part of a drawing, read from the adapted network and not from a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medpeft_utils.learn import networks
from medpeft_utils.learn.blocks import Layout

# What a method adds to a module: a piece of its parameters' names to the letters in the drawing. `beside` it lies on a
# path of its own; the others act within the module or on its output.
ADDITIONS = {
    'lora_A': ('A', True),
    'lora_B': ('B', True),
    'alpha': ('α', True),
    'adapter.down': ('down', True),
    'adapter.up': ('up', True),
    'adapter.norm': ('LN', True),
    'scale': ('γ', False),
    'shift': ('β', False),
    'gamma': ('γ', False),
    'delta': ('δ', False),
}


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


def _addition(name: str) -> tuple[str, bool]:
    for piece, shown in ADDITIONS.items():
        if f'.{piece}' in name:
            return shown
    raise KeyError(f'{name}: a drawing has no letter for it; add one to medpeft_utils/learn/marks.py')


def _add(marks: Marks, name: str) -> None:
    letter, beside = _addition(name)
    letters = marks.beside if beside else marks.inside
    if letter not in letters:
        letters.append(letter)


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
    for name in [*published, *sorted(trained - published.keys())]:
        place = _owner(name, places)
        if place in layout.after and '.' in name.removeprefix(f'{place}.'):
            place = ''  # of a layer within, which has no part of its own
        if not place and name in trained and _owner(name, layout.blocks):
            raise KeyError(f'{name}: the drawing of {family!r} has no place for it')
        if place and name in published:
            marks[place].own[name.removeprefix(f'{place}.')] = name in trained
        elif place:
            _add(marks[place], name)
    for mark in marks.values():
        mark.inside.sort(key='γβδ'.find)
        mark.beside.sort(key=['LN', 'down', 'up', 'A', 'B', 'α'].index)
    return marks
