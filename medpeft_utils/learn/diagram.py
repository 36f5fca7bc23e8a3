"""Drawings of network blocks in which a method's places are marked: grey is frozen, orange trained, blue added."""

from __future__ import annotations

import io
import re
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Patch, Rectangle

from medpeft_utils.learn.blocks import LAYOUTS, Layout, Part
from medpeft_utils.learn.marks import Marks, read
from medpeft_utils.plots import INK, MUTED, PALETTE

FROZEN, TRAINED, ADDED = '#d9d9d9', PALETTE[1], PALETTE[0]
HALF = 0.46  # of a box's height
LETTERS = {'weight': 'W', 'bias': 'b'}
INCHES = 0.56  # a unit
LIFT = 0.75  # units of room for paths beside the parts
ATTRIBUTE = re.compile(r'="[^"]*"')
LONG = re.compile(r'\d+\.\d{3,}')
LONE = re.compile(r'<g id="patch_\d+">\s*(<path[^>]*/>)\s*</g>')


class Drawing:
    """A figure that notebooks show as SVG."""

    def __init__(self, figure: Figure):
        self.figure = figure

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        return {'image/svg+xml': self.svg(), 'text/plain': 'drawing'}

    def svg(self) -> str:
        """The figure as SVG; its text stays text."""
        import matplotlib

        buffer = io.StringIO()
        fonts = {'font.sans-serif': ['DejaVu Sans']}  # each text repeats the whole list
        with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'medpeft', **fonts}):
            self.figure.savefig(buffer, format='svg', metadata={'Date': None})
        return _slim(buffer.getvalue())

    def png(self, dpi: int = 100) -> bytes:
        """The figure as PNG."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format='png', dpi=dpi)
        return buffer.getvalue()


def _slim(svg: str) -> str:
    """An SVG of matplotlib at half its size: hundredths of a point, no groups of one path, no indentation."""
    svg = ATTRIBUTE.sub(lambda found: LONG.sub(lambda number: f'{float(number[0]):.2f}', found[0]), svg)
    svg = ATTRIBUTE.sub(lambda found: re.sub(r'\s+', ' ', found[0]), svg)
    return re.sub(r'\n\s*', '\n', LONE.sub(r'\1', svg))


def block(family: str, method: str | None = None, config: dict[str, Any] | None = None) -> Drawing:
    """A block of ResNet-50, ViT-Base or Stable Diffusion's U-Net, and what a method trains in it.

    Args:
        family: 'cnn', 'vit' or 'unet'.
        method: key of the method; None for the block as it is published.
        config: the method's options.
    """
    from medpeft_utils import methods

    layout = LAYOUTS[family]()
    marks = read(layout, family, method, config)
    lift = LIFT if any(mark.beside for name, mark in marks.items() if name not in layout.stacked) else 0.0
    figure, axis = _canvas(layout, lift)
    _connections(axis, layout, lift)
    for part in layout.parts:
        _operation(axis, part) if part.is_operation else _box(axis, part, marks[part.name], layout)
    for place, (first, last) in layout.spans.items():
        _branch(axis, layout.parts[first], layout.parts[last], marks[place].beside, joins=True)
    for place, index in layout.after.items():
        _pill(axis, layout.parts[index], marks[place].inside)
    name = f'{methods.label(method, family)} in {layout.title}' if method else layout.title
    axis.set_title(name, loc='left', fontsize=9, fontweight='bold', color=INK)
    _legend(axis, marks)
    return Drawing(figure)


def _canvas(layout: Layout, lift: float) -> tuple[Figure, Axes]:
    left, right = min(p.x for p in layout.parts) - 1.0, max(p.x for p in layout.parts) + 1.0
    figure = Figure(figsize=((right - left) * INCHES, (layout.top + lift - layout.bottom) * INCHES + 0.3))
    axis = figure.add_axes((0, 0, 1, 1 - 0.3 / figure.get_figheight()))
    axis.set(xlim=(left, right), ylim=(layout.bottom, layout.top + lift))
    axis.set_axis_off()
    return figure, axis


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], color: Any = MUTED) -> None:
    style = {'arrowstyle': '-|>', 'color': color, 'lw': 0.9, 'shrinkA': 0, 'shrinkB': 0, 'mutation_scale': 7}
    axis.annotate('', end, start, arrowprops=style, zorder=1)


def _connections(axis: Axes, layout: Layout, lift: float) -> None:
    for x0, x1, y0, top, label in layout.frames:
        y1 = top + lift
        shape = FancyBboxPatch((x0, y0), x1 - x0, y1 - y0, boxstyle='round,pad=0,rounding_size=0.2', fill=False)
        shape.set(edgecolor='#c4c4c4', linestyle=(0, (4, 3)), linewidth=0.9)
        axis.add_patch(shape)
        axis.text(x0 + 0.15, y1 - 0.3, label, fontsize=6.5, color='#6b6b6b', style='italic')
    for first, last in layout.arrows:
        start = layout.parts[first] if first is not None else None
        end = layout.parts[last] if last is not None else None
        a = (start.x + start.width / 2, start.y) if start else (end.x - end.width / 2 - 0.45, end.y)
        b = (end.x - end.width / 2, end.y) if end else (start.x + start.width / 2 + 0.45, start.y)
        if start and end and start.y < end.y and end.label == '+':  # from below into a sum
            axis.plot([a[0], end.x], [a[1], a[1]], color=MUTED, lw=0.9, zorder=1)
            a, b = (end.x, a[1]), (end.x, end.y - end.width / 2)
        _arrow(axis, a, b)
    for first, last, height in layout.skips:
        x0, x1, y = (
            layout.parts[first].x - layout.parts[first].width / 2 - 0.14,
            layout.parts[last].x,
            layout.parts[last].y,
        )
        low = y + height
        axis.plot([x0, x0, x1], [y, low, low], color=MUTED, lw=0.9, zorder=0)
        _arrow(axis, (x1, low), (x1, y - layout.parts[last].width / 2))


def _operation(axis: Axes, part: Part) -> None:
    if part.label == '+':
        axis.add_patch(Circle((part.x, part.y), part.width / 2, facecolor='white', edgecolor=MUTED, lw=0.9, zorder=2))
    else:
        shape = FancyBboxPatch(
            (part.x - part.width / 2, part.y - 0.24),
            part.width,
            0.48,
            boxstyle='round,pad=0,rounding_size=0.24',
            zorder=2,
        )
        shape.set(facecolor='white', edgecolor=MUTED, linewidth=0.9)
        axis.add_patch(shape)
    axis.text(part.x, part.y - 0.01, part.label, ha='center', va='center', fontsize=6.5, color=INK, zorder=3)


def _box(axis: Axes, part: Part, marks: Marks, layout: Layout) -> None:
    apart = part.name in layout.stacked
    left, inside = part.x - part.width / 2, [*marks.inside, *(marks.beside if apart else [])]
    shape = Rectangle((left, part.y - HALF), part.width, 2 * HALF, zorder=2)
    shape.set(facecolor='white', edgecolor=INK if inside or any(marks.own.values()) else MUTED, linewidth=0.9)
    axis.add_patch(shape)
    axis.text(part.x, part.y + 0.2, part.label, ha='center', va='center', fontsize=6.5, color=INK, zorder=4)
    chips = [(LETTERS.get(name, 'p'), TRAINED if on else FROZEN) for name, on in marks.own.items()]
    chips += [(letter, ADDED) for letter in inside]
    _chips(axis, left + 0.06, part.y - HALF + 0.06, part.width - 0.12, chips)
    if marks.beside and not apart:
        _branch(axis, part, part, marks.beside)


def _chips(axis: Axes, left: float, bottom: float, width: float, chips: list[tuple[str, Any]]) -> None:
    """Little squares with letters, one for each parameter; a weight is twice as wide as the others."""
    shares = [2.0 if letter == 'W' else 1.0 for letter, _ in chips]
    unit, x = width / max(sum(shares), 3), left
    for (letter, color), share in zip(chips, shares, strict=True):
        _chip(axis, x, bottom, unit * share - 0.03, 0.36, letter, color)
        x += unit * share


def _chip(axis: Axes, left: float, bottom: float, width: float, height: float, letter: str, color: Any) -> None:
    axis.add_patch(Rectangle((left, bottom), width, height, facecolor=color, edgecolor='none', zorder=3))
    ink = 'white' if color is ADDED else INK
    axis.text(
        left + width / 2, bottom + height / 2 - 0.015, letter, ha='center', va='center', fontsize=6, color=ink, zorder=4
    )


def _branch(axis: Axes, first: Part, last: Part, letters: list[str], joins: bool = False) -> None:
    """What a method adds beside some parts: from before the first to after the last, or into the sum `last`."""
    if not letters:
        return
    y, x0 = first.y + 1.12, first.x - first.width / 2 - 0.14
    x1 = last.x if joins else last.x + last.width / 2 + 0.14
    width = 0.34 if len(letters[0]) < 2 else 0.62
    middle, total = (x0 + x1) / 2, len(letters) * (width + 0.12) - 0.12
    end = first.y + (last.width / 2 if joins else 0.03)
    axis.plot([x0, x0, x1, x1], [first.y, y, y, end], color=ADDED, lw=1.2, zorder=1)
    axis.plot(x0, first.y, 'o', ms=2.5, color=ADDED, zorder=2)
    _arrow(axis, (x1, y), (x1, end), ADDED)
    for k, letter in enumerate(letters):
        _chip(axis, middle - total / 2 + k * (width + 0.12), y - 0.22, width, 0.44, letter, ADDED)


def _pill(axis: Axes, part: Part, letters: list[str]) -> None:
    """What acts on the output of a part."""
    if not letters:
        return
    x, y = part.x + part.width / 2 + 0.13, part.y + 0.95
    axis.plot([x, x], [part.y, y], color=ADDED, lw=1.2, zorder=1)
    axis.plot(x, part.y, 'o', ms=2.5, color=ADDED, zorder=2)
    _chip(axis, x - 0.17, y - 0.2, 0.34, 0.4, ' '.join(letters), ADDED)


def _legend(axis: Axes, marks: dict[str, Marks]) -> None:
    entries = [Patch(color=FROZEN, label='frozen')]
    if any(on for mark in marks.values() for on in mark.own.values()):
        entries.append(Patch(color=TRAINED, label='trained'))
    if any(mark.inside or mark.beside for mark in marks.values()):
        entries.append(Patch(color=ADDED, label='added, trained'))
    place = {'loc': 'lower right', 'bbox_to_anchor': (1, 1), 'borderaxespad': 0.1}
    axis.legend(handles=entries, ncols=3, frameon=False, fontsize=7, handlelength=1, columnspacing=1.2, **place)
