"""How figures look: a colour and a marker for each method, sheets of panels with a footer, bars, marks and labels."""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.colors import to_rgb
from matplotlib.transforms import Bbox

from medpeft_utils.core.drawing import GREY, INK, drawing, new_figure, plain

__all__ = ['GREY', 'INK', 'drawing', 'new_figure']  # of core, used from here by every figure

TEXT_WIDTH = 7.0  # inches, across two columns
PALE = '#c8c8c8'
# Okabe and Ito's blue, vermilion and yellow, legible to colour-blind readers, each with its word beside it.
VERDICTS = {'reproduced': '#0072b2', 'contradicted': '#d55e00', 'undecided': '#f0e442', 'not run': '#d9d9d9'}

# seaborn's 'colorblind' palette by position; methods of the two families that do the same share a colour.
_LOOKS = {  # method: (position in the palette, marker, line style)
    'Full FT': (3, 's', '-'),
    'Linear Probing': (7, 'X', ':'),
    'TSA': (5, 'D', '-'),
    'BN Tuning': (9, 'v', '-'),
    'Bias Tuning': (0, 'o', '-'),
    'BitFit': (0, 'o', '-'),
    'SSF': (4, 'P', '-'),
    'Attention Tuning': (1, '^', '-'),
    'LoRA': (2, 'D', '-'),
    'AdaptFormer': (5, 'h', '-'),
    'LayerNorm Tuning': (9, 'v', '-'),
    'Attention': (1, '^', '-'),
    'Bias': (0, 'o', '-'),
    'Norm': (9, 'v', '-'),
    'Bias+Norm+Attention': (6, '>', '-'),
    'SV-Diff': (4, 'P', '-'),
    'DiffFit': (5, 'h', '-'),
}
_OTHERS = ('<', '>', 'p', '*', '8')


def palette() -> list[str]:
    """The ten colours of seaborn's colour-blind palette."""
    import seaborn

    return seaborn.color_palette('colorblind').as_hex()


def look(method: str) -> dict[str, str]:
    """Colour, marker and line style of a method; one that the paper does not have gets a look by its name."""
    number = sum(map(ord, method))
    position, marker, line = _LOOKS.get(method, (6 + 2 * (number % 2), _OTHERS[number % len(_OTHERS)], '-.'))
    return {'color': palette()[position], 'marker': marker, 'linestyle': line}


# ---- panels

FOOTER = 2  # lines; the rest of the notes stands on the page beside the figure
BENEATH = 0.15 * FOOTER + 0.06  # inches of them


def _lines(text: str, letters: int) -> list[str]:
    return textwrap.wrap(text, letters, break_on_hyphens=False)


def footer(figure, notes: Sequence[str], synthetic: bool = False) -> None:
    """Two lines at the bottom of a figure: as many whole sentences of the notes, in their order, as they hold.

    On their right a badge that says that images are synthetic: below every panel, where it covers nothing.
    """
    (width, height), kept = figure.get_size_inches(), ''
    letters = int((width - (1.15 if synthetic else 0.0)) * 20)
    for sentence in (one for note in notes for one in re.split(r'(?<=[.;]) (?=[A-Z])', note)):
        said = synthetic and sentence == 'SYNTHETIC images.'  # by the badge
        if not said and len(_lines(f'{kept} {sentence}', letters)) <= FOOTER:
            kept = f'{kept} {sentence}'.strip()
    how = {'y': BENEATH / height, 'va': 'top'}
    text = plain('\n'.join(_lines(kept, letters)))
    figure.text(x=0.06 / width, s=text, size=6.2, color=GREY, linespacing=1.3, **how)
    if synthetic:
        box = {'boxstyle': 'round,pad=0.25', 'facecolor': '#fff3c4', 'edgecolor': 'none'}
        figure.text(x=1 - 0.08 / width, s='synthetic images', size=7, weight='bold', bbox=box, ha='right', **how)


def sheet(rows: int, columns: int, width: float = 3.5, height: float = 2.6, **how):
    """A figure of rows x columns panels, each of so many inches, with room for a footer; `how` is for `subplots`.

    Returns:
        The figure and its axes [rows, columns].
    """
    wide, tall = width * columns, height * rows + BENEATH
    figure = new_figure(wide, tall)
    figure.set_layout_engine('constrained', rect=(0, BENEATH / tall, 1, 1 - BENEATH / tall))
    return figure, figure.subplots(rows, columns, squeeze=False, **how)


def legend(figure, axes: Iterable, **how) -> None:
    """A legend above all panels that names each line of these axes once."""
    named = {label: one for axis in axes for one, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = math.ceil(len(named) / 2) if len(named) > 3 else len(named)
    how = {'loc': 'outside upper center', 'ncols': columns, 'frameon': False, 'fontsize': 7} | how
    figure.legend(named.values(), named, **how)


def nothing(axes, words: str) -> None:
    """A panel of which nothing was run says so."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha='center', va='center', color=GREY, transform=axes.transAxes)


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


# ---- labels beside points without overlap

# Where a label may go, in order of liking: (horizontal, vertical) direction from its point.
PLACES = ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
REACHES = (1.0, 1.8, 2.8, 4.0)


def _box(x: float, y: float, place: tuple[int, int], size: tuple[float, float], reach: float) -> Bbox:
    (dx, dy), (width, height) = place, size
    left = x + dx * reach - (width if dx < 0 else width / 2 if dx == 0 else 0)
    bottom = y + dy * reach - (height if dy < 0 else height / 2 if dy == 0 else 0)
    return Bbox.from_bounds(left, bottom, width, height)


def _cost(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> float:
    """The area of the label that lies on something else or outside the axes."""

    def shared(other: Bbox) -> float:
        wide = min(box.x1, other.x1) - max(box.x0, other.x0)
        high = min(box.y1, other.y1) - max(box.y0, other.y0)
        return max(wide, 0) * max(high, 0)

    return sum(map(shared, taken)) + 2 * (box.width * box.height - shared(frame))


def place_labels(
    axes, points, texts: Sequence[str], colors: Sequence[str], lines: Sequence = (), size: float = 7
) -> None:
    """Write each text near its point, on no point, line or other text; a thin line leads to one that lies far.

    Args:
        axes: with its limits and its place in the figure final.
        points: [N, 2], x and y in data coordinates.
        texts, colors: one for each point; a label has its point's colour, darker.
        lines: matplotlib lines that no label should lie on.
        size: of the letters, in points.
    """
    renderer, dark = axes.figure.canvas.get_renderer(), {one: [0.72 * part for part in to_rgb(one)] for one in colors}
    pixel = axes.figure.dpi / 72
    where = axes.transData.transform(points)
    taken = [Bbox.from_bounds(x - 4 * pixel, y - 4 * pixel, 8 * pixel, 8 * pixel) for x, y in where]
    taken += [box for line in lines for box in _along(line, pixel)]
    frame = axes.get_window_extent(renderer)
    for (x, y), text, color in sorted(zip(where, texts, colors, strict=True), key=lambda item: -item[0][1]):
        label = axes.text(0, 0, text, size=size, color=dark[color], zorder=6)
        extent = label.get_window_extent(renderer)
        tries = [(reach, place) for reach in REACHES for place in PLACES]
        boxes = [_box(x, y, place, (extent.width, extent.height), 5.5 * pixel * reach) for reach, place in tries]
        costs = [_cost(box, taken, frame) + 0.01 * number for number, box in enumerate(boxes)]
        best = costs.index(min(costs))
        box = boxes[best]
        taken.append(box)
        label.set_position(axes.transData.inverted().transform((box.x0, box.y0)))
        if tries[best][0] > 1.8:
            near = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
            ends = axes.transData.inverted().transform([(x, y), near])
            axes.plot(ends[:, 0], ends[:, 1], color=color, linewidth=0.5, zorder=5)


def _along(line, pixel: float) -> list[Bbox]:
    """Small boxes along a line as it is drawn."""
    path = line.get_path().transformed(line.get_transform()).interpolated(1)
    boxes = []
    for (x0, y0), (x1, y1) in itertools.pairwise(path.vertices):
        steps = max(int(max(abs(x1 - x0), abs(y1 - y0)) / (3 * pixel)), 1)
        for t in range(steps + 1):
            x, y = x0 + (x1 - x0) * t / steps, y0 + (y1 - y0) * t / steps
            boxes.append(Bbox.from_bounds(x - pixel, y - pixel, 2 * pixel, 2 * pixel))
    return boxes
