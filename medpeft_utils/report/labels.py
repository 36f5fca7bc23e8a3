"""Labels beside points without overlap."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.transforms import Bbox

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    overlap = 0.0
    for other in taken:
        wide = min(box.x1, other.x1) - max(box.x0, other.x0)
        high = min(box.y1, other.y1) - max(box.y0, other.y0)
        overlap += max(wide, 0) * max(high, 0)
    inside = max(min(box.x1, frame.x1) - max(box.x0, frame.x0), 0) * max(
        min(box.y1, frame.y1) - max(box.y0, frame.y0), 0
    )
    return overlap + 2 * (box.width * box.height - inside)


def place_labels(axes: Axes, points, texts: Sequence[str], lines: Sequence = (), size: float = 7) -> None:
    """Write each text near its point, on no point, line or other text; a thin line leads to one that lies far.

    Args:
        axes: with its limits and its place in the figure final.
        points: [N, 2], x and y in data coordinates.
        texts: one for each point.
        lines: matplotlib lines that no label should lie on.
        size: of the letters, in points.
    """
    renderer = axes.figure.canvas.get_renderer()
    pixel = axes.figure.dpi / 72
    where = axes.transData.transform(points)
    taken = [Bbox.from_bounds(x - 4 * pixel, y - 4 * pixel, 8 * pixel, 8 * pixel) for x, y in where]
    taken += [box for line in lines for box in _along(line, pixel)]
    frame = axes.get_window_extent(renderer)
    for (x, y), text in sorted(zip(where, texts, strict=True), key=lambda item: -item[0][1]):
        label = axes.text(0, 0, text, size=size, zorder=6)
        extent = label.get_window_extent(renderer)
        tries = [(reach, place) for reach in REACHES for place in PLACES]
        boxes = [_box(x, y, place, (extent.width, extent.height), 5.5 * pixel * reach) for reach, place in tries]
        costs = [_cost(box, taken, frame) + 0.01 * number for number, box in enumerate(boxes)]
        best = costs.index(min(costs))
        box = boxes[best]
        taken.append(box)
        label.set_position(axes.transData.inverted().transform((box.x0, box.y0)))
        if tries[best][0] > 1.8:
            _lead(axes, (x, y), box)


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


def _lead(axes: Axes, point: tuple[float, float], box: Bbox) -> None:
    near = min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1)
    ends = axes.transData.inverted().transform([point, near])
    axes.plot(ends[:, 0], ends[:, 1], color='#6b6b6b', linewidth=0.5, zorder=5)


def spread_out(values: Sequence[float], apart: float) -> list[float]:
    """Values moved so that neighbours are `apart`, in their order: for labels at the ends of lines."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    moved = [values[i] for i in order]
    for _ in range(200):
        tight = [i for i in range(len(moved) - 1) if moved[i + 1] - moved[i] < apart - 1e-9]
        if not tight:
            break
        for i in tight:
            push = (apart - (moved[i + 1] - moved[i])) / 2
            moved[i], moved[i + 1] = moved[i] - push, moved[i + 1] + push
    result = [0.0] * len(values)
    for i, value in zip(order, moved, strict=True):
        result[i] = value
    return result
