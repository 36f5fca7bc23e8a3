"""What becomes trainable in a real network, to scale and with exact counts; and a map of all methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from medpeft_utils.learn import networks
from medpeft_utils.learn.blocks import LAYOUTS, Part
from medpeft_utils.learn.diagram import ADDED, FROZEN, TRAINED, Drawing
from medpeft_utils.learn.marks import Marks, read
from medpeft_utils.plots import INK, MUTED, part_of

TURNED = 14  # more columns than these have slanted names


def part_counts(method: str, family: str, config: dict[str, Any] | None = None) -> pd.DataFrame:
    """Parameters of every part of ResNet-50, ViT-Base or Stable Diffusion's U-Net under a method, from input to output.

    Args:
        method: its key.
        family: 'cnn', 'vit' or 'unet'.
        config: the method's options.
    Returns:
        One row a part, with columns frozen, trained (the network's own), added (by the method) and head (1 where the
        part is the classifier, which every method trains).
    """
    adapted = networks.adapted(method, family, config)
    own, trained = networks.parameter_names(family), set(adapted.trainable())
    head, rows = set(adapted.head_names), {}
    for name, parameter in adapted.model.named_parameters():
        row = rows.setdefault(part_of(name), {'frozen': 0, 'trained': 0, 'added': 0, 'head': 0})
        kind = 'frozen' if name not in trained else 'trained' if name in own else 'added'
        row[kind] += parameter.numel()
        row['head'] |= name in head
    table = pd.DataFrame.from_dict(rows, orient='index').rename_axis('part')
    return table.loc[sorted(table.index, key=lambda part: _place(part, list(table.index)))]


def _place(part: str, listed: list[str]) -> tuple[int, int]:
    """As listed, but the middle of a U-Net, which diffusers names last, before the way up."""
    if part == 'mid_block':
        return listed.index('up 1'), -1
    return listed.index(part), 0


def network(method: str, family: str, config: dict[str, Any] | None = None) -> Drawing:
    """The whole network as a bar, to scale, with the part of it that a method trains; below, the counts by part.

    Args: as `part_counts`.
    """
    from medpeft_utils import methods

    table = part_counts(method, family, config)
    body = table[table['head'] == 0]
    moving, total = int((body['trained'] + body['added']).sum()), int(body[['frozen', 'trained']].to_numpy().sum())
    figure = Figure(figsize=(9.2, 2.9))
    grid = {'height_ratios': [0.5, 1.5], 'left': 0.075, 'right': 0.99, 'top': 0.86, 'bottom': 0.23, 'hspace': 0.28}
    strip, bars = figure.subplots(2, 1, gridspec_kw=grid)
    _strip(strip, body)
    _bars(bars, body)
    label = methods.label(method, family)
    text = f'{label} trains {moving:,} parameters of {networks.LABELS[family]} ({moving / total:.2%} of {total:,})'
    figure.text(0.01, 0.95, text, fontsize=9, fontweight='bold', color=INK)
    _legend(figure, table)
    return Drawing(figure)


def _strip(axis: Axes, table: pd.DataFrame) -> None:
    """Every part as wide as it has parameters; the trained share fills it from below."""
    whole, x = table[['frozen', 'trained', 'added']].sum(axis=1), 0.0
    for part, size in whole.items():
        axis.add_patch(Rectangle((x, 0), size, 1, facecolor=FROZEN, edgecolor='white', linewidth=0.8))
        height = 0.0
        for kind, color in (('trained', TRAINED), ('added', ADDED)):
            share = table.loc[part, kind] / size
            axis.add_patch(Rectangle((x, height), size, share, facecolor=color, edgecolor='none'))
            height += share
        x += size
    axis.set(xlim=(0, x), ylim=(0, 1), xticks=[], yticks=[])
    axis.set_ylabel('to scale', rotation=0, ha='right', va='center', fontsize=7, color=MUTED)
    for side in axis.spines.values():
        side.set_visible(False)


def _bars(axis: Axes, table: pd.DataFrame) -> None:
    places = np.arange(len(table))
    axis.bar(places, table['trained'], 0.72, color=TRAINED)
    axis.bar(places, table['added'], 0.72, bottom=table['trained'], color=ADDED)
    heights = table['trained'] + table['added']
    for place, height in zip(places, heights, strict=True):
        axis.text(place, height, _short(height) if height else '0', ha='center', va='bottom', fontsize=6, color=INK)
    turned = len(table) > 12
    axis.set_xticks(places, table.index, fontsize=6.5, rotation=40 if turned else 0, ha='right' if turned else 'center')
    axis.set_ylim(0, max(1.0, heights.max() * 1.2))
    axis.set_yticks([])
    axis.set_ylabel('trained', rotation=0, ha='right', va='center', fontsize=7, color=MUTED)
    axis.tick_params(length=0)
    for side in ('top', 'right', 'left'):
        axis.spines[side].set_visible(False)


def _short(count: int) -> str:
    """'589', '36.9K', '2.36M'."""
    for size, unit in ((1_000_000, 'M'), (1_000, 'K')):
        if count >= size:
            return f'{count / size:.3g}{unit}'
    return str(count)


def _legend(figure: Figure, table: pd.DataFrame) -> None:
    entries = [Patch(color=FROZEN, label='frozen')]
    body = table[table['head'] == 0]
    entries += [Patch(color=TRAINED, label='trained')] if body['trained'].any() else []
    entries += [Patch(color=ADDED, label='added, trained')] if body['added'].any() else []
    place = {'loc': 'upper right', 'bbox_to_anchor': (0.995, 1.0)}
    figure.legend(handles=entries, ncols=3, frameon=False, fontsize=7, handlelength=1, columnspacing=1.2, **place)


def method_map(family: str) -> Drawing:
    """All methods of a family against the layers of one block: where each trains what is there, and where it adds.

    Args:
        family: 'cnn', 'vit' or 'unet'.
    """
    from medpeft_utils import methods

    layout, keys = LAYOUTS[family](), methods.names(family)
    parts = sorted((part for part in layout.parts if part.name), key=lambda part: part.name in ('head', 'fc'))
    height = 0.3 * len(keys)
    whole = height + (1.1 if len(parts) > TURNED else 0.7)
    figure = Figure(figsize=(9.2, whole))
    axis = figure.add_axes((0.16, 0.05 / whole, 0.83, height / whole))
    for y, key in enumerate(keys):
        marks = read(layout, family, key)
        for place, index in layout.after.items():
            marks[layout.parts[index].name].inside = marks[layout.parts[index].name].inside or marks[place].inside
        for x, part in enumerate(parts):
            _cell(axis, x, y, marks[part.name])
        for place, (first, last) in layout.spans.items():
            _across(axis, parts, y, marks[place], layout.parts[first].x, layout.parts[last].x)
    _map_axes(axis, parts, [methods.label(key, family) for key in keys])
    entries = [Patch(color=FROZEN, label='frozen'), Patch(color=TRAINED, label='trained')]
    entries += [Patch(color=ADDED, label='added, trained')]
    figure.legend(handles=entries, ncols=3, frameon=False, fontsize=7, handlelength=1, loc='upper right')
    figure.text(0.01, 1 - 0.22 / figure.get_figheight(), layout.title, fontsize=9, fontweight='bold', color=INK)
    return Drawing(figure)


def _cell(axis: Axes, x: float, y: float, marks: Marks) -> None:
    """Its own parameters side by side; what is added in blue over those of them that stay frozen."""
    own = list(marks.own.values())
    width = 0.84 / len(own)
    for k, on in enumerate(own):
        _patch(axis, x - 0.42 + k * width, y, width - 0.03, TRAINED if on else FROZEN)
    if letters := ' '.join(marks.inside + marks.beside):
        share = own.index(True) if True in own else len(own)
        _patch(axis, x - 0.42, y, share * width - 0.03, ADDED, letters)


def _patch(axis: Axes, left: float, y: float, width: float, color: Any, text: str = '') -> None:
    axis.add_patch(Rectangle((left, y - 0.36), width, 0.72, facecolor=color))
    axis.text(left + width / 2, y, text, color='white', fontsize=6, ha='center', va='center')


def _across(axis: Axes, parts: list[Part], y: float, marks: Marks, first: float, last: float) -> None:
    """What is added beside several parts, as one bar over all of them."""
    if marks.beside:
        covered = [x for x, part in enumerate(parts) if first <= part.x <= last]
        _patch(axis, covered[0] - 0.42, y, len(covered) - 0.19, ADDED, ' '.join(marks.beside))


def _map_axes(axis: Axes, parts: list[Part], labels: list[str]) -> None:
    axis.set(xlim=(-0.5, len(parts) - 0.5), ylim=(len(labels) - 0.5, -0.5))
    axis.set_yticks(range(len(labels)), labels, fontsize=7.5)
    axis.xaxis.tick_top()
    turned = {'rotation': 45, 'ha': 'left'} if len(parts) > TURNED else {}
    axis.set_xticks(range(len(parts)), [part.label for part in parts], fontsize=6.5, **turned)
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
