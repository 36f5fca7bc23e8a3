"""Figure 1 of the paper: F1 and the gain over full fine-tuning as the training data shrink."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from medpeft_utils.report import paper, provenance, scores, style
from medpeft_utils.report.labels import spread_out
from medpeft_utils.report.output import Figure
from medpeft_utils.report.renderers import renderer
from medpeft_utils.report.tables import crossovers, figure1_scores

TITLE1 = 'Figure 1: low-data regime'
FIGURE1_METHODS = ('Full FT', 'BitFit', 'LoRA')
DRAWN = (
    'Above: mean over seeds, band ± one standard deviation. Beneath: mean and each seed (dots); ring and bar on the '
    'zero line: crossover and its 95 % bootstrap interval over seeds.'
)
FIGURE1_FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)


def footer(figure, notes: Sequence[str], top: float) -> None:
    """Notes beneath a figure, wrapped to its width; `top` is in inches from the lower edge."""
    import textwrap

    width, height = figure.get_size_inches()
    lines = [line for note in notes for line in textwrap.wrap(note, int(width * 20))]
    figure.text(0.08 / width, top / height, '\n'.join(lines), size=6, color=style.GREY, va='top', linespacing=1.35)


def footer_height(notes: Sequence[str], width: float) -> float:
    """How many inches `footer` needs."""
    import textwrap

    return 0.12 * sum(len(textwrap.wrap(note, int(width * 20))) for note in notes) + 0.08


def mark_synthetic(axes, inside: bool = False) -> None:
    """Say in the picture itself that the images are synthetic: above its right corner, or inside the lower one."""
    box = {'boxstyle': 'round,pad=0.25', 'facecolor': '#fff3c4', 'edgecolor': 'none'}
    where = {'xy': (1, 0), 'xytext': (-5, 9)} if inside else {'xy': (1, 1), 'xytext': (-2, 9)}
    how = {'xycoords': 'axes fraction', 'textcoords': 'offset points', 'ha': 'right', 'va': 'center', 'zorder': 8}
    axes.annotate('synthetic images', size=7, weight='bold', bbox=box, **where, **how)


def _legend(axes) -> None:
    """What is ours and what the paper's."""
    from matplotlib.lines import Line2D

    ours = Line2D([], [], color=style.INK, marker='o', markeredgecolor='white', label='this study')
    theirs = Line2D([], [], color=style.INK, linestyle=(0, (4, 2)), linewidth=0.8, label='paper')
    axes.legend(handles=[ours, theirs], loc='upper left', fontsize=7, frameon=False, handlelength=2.2)


def _curve(axes, rows: pd.DataFrame, method: str, faint: bool = False) -> None:
    """Mean line of a method over data sizes with a band of one standard deviation over seeds; faint: the paper's."""
    rows = rows[rows['method'] == method].sort_values('fraction')
    look = style.look(method)
    x = 100 * rows['fraction']
    if faint:
        axes.plot(x, rows['mean'], color=look['color'], linestyle=(0, (4, 2)), linewidth=0.8, alpha=0.75, zorder=2)
        return
    axes.plot(x, rows['mean'], markeredgecolor='white', markeredgewidth=0.5, zorder=4, **look)
    if rows['sd'].notna().any():
        low, high = rows['mean'] - rows['sd'], rows['mean'] + rows['sd']
        axes.fill_between(x, low, high, color=look['color'], alpha=0.18, linewidth=0, zorder=1)


def _end_labels(axes, rows: pd.DataFrame, methods: Sequence[str]) -> None:
    """Names of the methods at the right ends of their lines, moved apart."""
    ends = rows.sort_values('fraction').groupby('method')['mean'].last()
    low, high = axes.get_ylim()
    heights = spread_out([ends[method] for method in methods], 0.075 * (high - low))
    for method, y in zip(methods, heights, strict=True):
        how = {'va': 'center', 'size': 7.5, 'weight': 'bold', 'color': style.look(method)['color']}
        axes.annotate(method, (1, y), (4, 0), xycoords=('axes fraction', 'data'), textcoords='offset points', **how)


def _percent_axis(axes, fractions: Sequence[float], images: dict[float, int] | None = None) -> None:
    """Logarithmic axis of data sizes with a tick for each; with the numbers of images where they are given."""
    axes.set_xscale('log')
    axes.set_xlim(100 * min(fractions) / 1.15, 100 * max(fractions) * 1.06)
    labels = [f'{100 * f:g} %' for f in fractions]
    if images:
        labels = [f'{images[f]:,} · {label}' for f, label in zip(fractions, labels, strict=True)]
    axes.set_xticks([100 * f for f in fractions], labels if images else [''] * len(fractions), rotation=90)
    axes.minorticks_off()


def _gain_rows(chosen: pd.DataFrame, method: str) -> pd.DataFrame:
    """Gain in points over full fine-tuning by size: mean over seeds, and each seed."""
    gains = scores.gains(chosen, method)
    return gains.assign(gain=100 * gains['gain']).sort_values('fraction')


def _gains(axes, chosen: pd.DataFrame, printed: pd.DataFrame, methods: Sequence[str], faint: bool) -> None:
    axes.axhline(0, color=style.INK, linewidth=0.8, zorder=1)
    for method in methods:
        look = style.look(method)
        if faint:
            theirs = _gain_rows(printed, method)
            line = {'linestyle': (0, (4, 2)), 'linewidth': 0.8, 'alpha': 0.75}
            axes.plot(100 * theirs['fraction'], theirs['gain'], color=look['color'], **line)
        gains = _gain_rows(chosen, method)
        means = gains.groupby('fraction')['gain'].mean()
        axes.plot(100 * means.index, means, markeredgecolor='white', markeredgewidth=0.5, zorder=4, **look)
        if gains['seed'].nunique() > 1:
            axes.scatter(
                100 * gains['fraction'], gains['gain'], s=5, color=look['color'], alpha=0.45, linewidth=0, zorder=3
            )


def _mark_crossovers(axes, found: pd.DataFrame) -> None:
    """An open circle on the zero line at each crossover, with its interval as a bar and its size in words."""
    inside = [(m, c) for m, c in zip(found['method'], found['crossover'], strict=True) if 0 < c.estimate < math.inf]
    for number, (method, cross) in enumerate(sorted(inside, key=lambda pair: pair[1].estimate)):
        colour = style.look(method)['color']
        x = 100 * cross.estimate
        if not math.isnan(cross.low):
            ends = [100 * min(max(end, cross.smallest), cross.largest) for end in (cross.low, cross.high)]
            axes.plot(ends, [0, 0], color=colour, linewidth=4, alpha=0.35, solid_capstyle='butt', zorder=2)
        axes.plot([x], [0], marker='o', markersize=6, markerfacecolor='white', markeredgecolor=colour, zorder=6)
        # Labels of neighbours on different sides of the line: the first below it to the left, the next above it.
        side = {'xytext': (-3, -10), 'ha': 'right'} if number % 2 == 0 else {'xytext': (2, 9), 'ha': 'left'}
        how = {'textcoords': 'offset points', 'size': 7, 'weight': 'bold', 'va': 'center', 'zorder': 7, **side}
        axes.annotate(cross.text(cross.estimate), (x, 0), color=colour, **how)


def _panel(axes, lower, chosen: pd.DataFrame, printed: pd.DataFrame, found: pd.DataFrame, faint: bool) -> None:
    """One encoder and data set: F1 above, gain over full fine-tuning beneath."""
    order = [m for m in FIGURE1_METHODS if m in set(chosen['method'])]
    order += [m for m in dict.fromkeys(chosen['method']) if m not in order]
    fractions = sorted(chosen['fraction'].unique())
    images = chosen.groupby('fraction')['train_images'].max().round().astype(int).to_dict()
    rows = scores.summarise(chosen)
    for method in order:
        if faint:
            _curve(axes, scores.summarise(printed), method, faint=True)
        _curve(axes, rows, method)
    _percent_axis(axes, fractions)
    _end_labels(axes, rows, order)
    peft = [m for m in order if m != 'Full FT']
    _gains(lower, chosen, printed, peft if 'Full FT' in order else [], faint)
    _percent_axis(lower, fractions, images)
    _mark_crossovers(lower, found)
    lower.set_xlabel('training images · share')
    first = chosen.iloc[0]
    axes.set_title(f'{first["backbone_label"]}, {first["dataset_label"].replace(" (synthetic)", "")}')
    if provenance.is_synthetic(chosen):
        mark_synthetic(axes, inside=True)


def _numbers(curves: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """The drawn numbers: one row for each encoder, data set, method and size."""
    rows = scores.summarise(curves).rename(columns={'mean': 'f1', 'low': 'ci95_low', 'high': 'ci95_high'})
    images = curves.groupby(scores.CELL)['train_images'].max().rename('train_images').reset_index()
    theirs = scores.summarise(printed)[[*scores.CELL, 'mean']].rename(columns={'mean': 'paper_f1'})
    rows = rows.merge(images, on=scores.CELL)
    if not curves['printed'].any():
        rows = rows.merge(theirs, on=scores.CELL, how='left')
    gains = [scores.gains(curves, m).assign(method=m) for m in dict.fromkeys(curves['method']) if m != 'Full FT']
    if gains:
        means = pd.concat(gains).groupby(scores.CELL)['gain'].mean().rename('gain_over_full_ft').reset_index()
        rows = rows.merge(means, on=scores.CELL, how='left')
    return rows.sort_values(scores.CELL, ignore_index=True)


def _notes1(records: pd.DataFrame, curves: pd.DataFrame, f1: str, drawn_ours: bool) -> list[str]:
    notes = provenance.describe(records, curves if drawn_ours else curves.iloc[:0], f1, spread=False)
    if drawn_ours:
        wanted = [(e, m, f) for e in ('ViT-Base', 'ViT-Large') for m in FIGURE1_METHODS for f in FIGURE1_FRACTIONS]
        have = list(curves[['encoder', 'method', 'fraction']].itertuples(index=False, name=None))
        notes.append(provenance.missing(wanted, have))
        notes += provenance.rates(records, curves)
        notes.append(DRAWN)
        notes.append(f'Thin dashed lines: the paper on HAM10000, read off its Figure 1 ({paper.CITATION}).')
    else:
        notes.append('Read off the published picture (within 0.003). Rings: crossover, interpolated on log data size.')
    return notes


@renderer(
    'figure1',
    TITLE1,
    'Does parameter-efficient tuning gain as training data shrink, and where does full fine-tuning take over?',
)
def figure1(records: pd.DataFrame, f1: str = 'weighted') -> Figure:
    """Figure 1: full FT, BitFit and LoRA over data sizes, a column for each encoder; the crossovers marked."""
    printed = figure1_scores(paper.records())
    published = scores.is_published(records)
    curves = figure1_scores(records, f1)
    ours = not published and not curves.empty
    curves = curves if ours else printed
    found = crossovers(records if ours else paper.records(), f1)
    notes = _notes1(records, curves, f1, ours)
    panels = list(curves.groupby(['encoder', 'data'], sort=False))
    width = style.TEXT_WIDTH * max(1, len(panels) / 2) if len(panels) > 1 else style.TEXT_WIDTH * 0.6
    beneath = footer_height(notes, width)
    with style.drawing():
        figure = style.new_figure(width, 4.6 + beneath)
        axes = figure.subplots(2, len(panels), sharey='row', squeeze=False, height_ratios=(3, 2))
        for (upper, lower), ((encoder, data), chosen) in zip(axes.T, panels, strict=True):
            theirs = printed[(printed['encoder'] == encoder) & (printed['data'] == data)]
            here = found[(found['encoder'] == encoder) & (found['data'] == data)]
            _panel(upper, lower, chosen, theirs, here, faint=ours)
        if ours:
            _legend(axes[0, 0])
        axes[0, 0].set_ylabel(f'{"" if published or not ours else f1 + " "}F1, test split')
        axes[1, 0].set_ylabel('gain over full FT, points', size=7)
        bottom = (beneath + 0.95) / (4.6 + beneath)
        figure.subplots_adjust(0.62 / width, bottom, 1 - 0.62 / width, 1 - 0.35 / (4.6 + beneath), 0.32, 0.1)
        footer(figure, notes, beneath)
    title = TITLE1 + (' (synthetic images)' if ours and provenance.is_synthetic(curves) else '')
    return Figure(name='figure1', title=title, figure=figure, notes=notes, data=_numbers(curves, printed))
