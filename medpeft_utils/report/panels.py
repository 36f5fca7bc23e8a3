"""What the panels of all figures share: their sheet with its footer, axes of data sizes, marks and bars."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from medpeft_utils.core.drawing import plain
from medpeft_utils.report import style

FOOTER = 2  # lines; the rest of the notes stands on the page beside the figure


def sheet(rows: int, columns: int, footer: str = '', width: float = 3.5, height: float = 2.6, **how):
    """A figure of rows x columns panels, each of so many inches, with a footer of at most two lines.

    Args:
        how: for matplotlib's `subplots`.
    Returns:
        The figure and its axes [rows, columns].
    """
    wide, beneath = width * columns, 0.15 * FOOTER + 0.06 if footer else 0.0
    tall = height * rows + beneath
    figure = style.new_figure(wide, tall)
    figure.set_layout_engine('constrained', rect=(0, beneath / tall, 1, 1 - beneath / tall))
    axes = figure.subplots(rows, columns, squeeze=False, **how)
    if footer:
        lines = textwrap.wrap(footer, int(wide * 19), max_lines=FOOTER, placeholder=' …')
        place = {'x': 0.06 / wide, 'y': beneath / tall, 'va': 'top', 'linespacing': 1.3}
        figure.text(s=plain('\n'.join(lines)), size=6.2, color=style.GREY, **place)
    return figure, axes


def mark_synthetic(axes, inside: bool = False) -> None:
    """Say in the picture itself that the images are synthetic: above its right corner, or inside the lower one."""
    box = {'boxstyle': 'round,pad=0.25', 'facecolor': '#fff3c4', 'edgecolor': 'none'}
    where = {'xy': (1, 0), 'xytext': (-5, 9)} if inside else {'xy': (1, 1), 'xytext': (-2, 9)}
    how = {'xycoords': 'axes fraction', 'textcoords': 'offset points', 'ha': 'right', 'va': 'center', 'zorder': 8}
    axes.annotate('synthetic images', size=7, weight='bold', bbox=box, **where, **how)


def nothing(axes, words: str) -> None:
    """A panel of which nothing was run says so."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha='center', va='center', color=style.GREY, transform=axes.transAxes)


def size_axis(axes, fractions: Sequence[float], images: Mapping[float, float] | None = None) -> None:
    """A logarithmic axis of data sizes; a size whose label would touch its neighbour's has a tick without one.

    Args:
        fractions: of the training images.
        images: fraction to number of images, written beneath the percentage.
    """
    axes.set_xscale('log')
    low, high = min(fractions), max(fractions)
    axes.set_xlim(100 * low / 1.2, 100 * high * 1.2)
    room = (high / low) ** (0.13 if images else 0.08)  # the width of a label, as a factor of the size
    shown, last = {low, high}, low
    for fraction in sorted(fractions):
        if fraction >= last * room and fraction * room <= high:
            shown.add(fraction)
            last = fraction
    texts = {f: f'{100 * f:g}' + (f'\n{images[f]:,.0f}' if images else '') for f in shown}
    labels = [texts.get(fraction, '') for fraction in fractions]
    axes.set_xticks([100 * f for f in fractions], labels)
    axes.minorticks_off()


def bar(axes, x: float, low: float, high: float, color: str, across: bool = False, **how) -> list:
    """An interval of 95 % as a bar, upright or across; nothing where there is none."""
    if low != low:
        return []
    ends = ([low, high], [x, x]) if across else ([x, x], [low, high])
    return axes.plot(*ends, color=color, **{'linewidth': 1.6, 'alpha': 0.55, 'zorder': 3, **how})
