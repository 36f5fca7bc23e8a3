"""The speed of every method's training step: this package's loop, plain code, and the best loop by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.tables import threads
from medpeft_utils.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# candidate: legend, colour of the palette of Okabe and Ito 2008, marker, its size
POINTS = {
    'plain': ('plain code (float32, timm and peft as they come)', '#D55E00', 'o', 20),
    'best': ('the best loop by hand', '#000000', 'D', 20),
}
OURS = ('this package; beside it: times plain code', '#56B4E9')
NAMES = {'vit': 'ViT', 'cnn': 'CNN'}


def draw(bench: dict[str, Any]) -> Figure:
    """A panel a backbone, a row a method: images/s, and how often ours is plain code's."""
    scale, rows = bench['measured']['steps']['scale'], [row for row in bench['parts']['steps'] if 'ours' in row]
    panels = [
        (family, backbone, of_family)
        for family, backbone in scale['backbones']
        if (of_family := [row for row in rows if row['family'] == family])
    ]
    figure = style.new_figure(style.TEXT_WIDTH, 1.1 + 0.24 * max(len(panel[2]) for panel in panels))
    for number, (family, backbone, of_family) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        axes.set_title(f'{NAMES.get(family, family)}: {backbone}')
        _panel(axes, of_family)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='lower center', ncols=1 + len(POINTS), frameon=False, fontsize=7)
    where = f'{bench["device"]["device"]}, {bench["measured"]["steps"]["date"]}'
    how = f'batches of {scale["batch_size"]}, random weights, {threads(scale["threads"])}'
    figure.text(0.01, 0.985, f'{where}; {how}', fontsize=7, color=style.GREY, va='top')
    figure.tight_layout(rect=(0, 0.08, 1, 0.96))
    return figure


def _panel(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Bars and points."""
    drawn = dict(enumerate(rows))
    ours = {place: rate for place, row in drawn.items() if (rate := _rate(row, 'ours'))}
    axes.barh(list(ours), list(ours.values()), height=0.62, color=OURS[1], label=OURS[0])
    for name, (label, colour, marker, size) in POINTS.items():
        points = {place: rate for place, row in drawn.items() if (rate := _rate(row, name))}
        axes.scatter(list(points.values()), list(points), s=size, c=colour, marker=marker, label=label, zorder=3)
    for place, row in enumerate(rows):
        times = row.get('speedup_over_plain')
        text = f'{times:.{0 if times >= 10 else 1}f}×' if times else ''
        end = max(_rate(row, name) for name in ('ours', *POINTS))
        axes.annotate(text, (end, place), (6, 0), textcoords='offset points', va='center', fontsize=7)
    axes.margins(x=0.12)
    axes.set_yticks(range(len(rows)), [row['label'] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis='y', visible=False)
    axes.set_xlabel('training images/s')


def _rate(row: dict[str, Any], name: str) -> float:
    return row.get(name, {}).get('images_per_second') or 0.0
