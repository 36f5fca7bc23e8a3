"""Whether generated images look like real ones and show what their prompts ask for, before and after tuning."""

from __future__ import annotations

import math

import pandas as pd

from medpeft_utils.report import provenance, style
from medpeft_utils.report import text_image_scores as ti
from medpeft_utils.report.output import Figure, Nothing, renderer
from medpeft_utils.report.style import bar, sheet
from medpeft_utils.report.text_image_tables import NO_RUN

REAL = 'Real test images'
DRAWN = (
    "First: how well a classifier's answer on an image tells whether a prompt asked for a finding, all findings pooled "
    '(95 % of the value); dashed: chance. Second: the difference from the untuned pipeline (95 %, paired over the '
    'patients of the prompts, mean over seeds). Third: KID (95 % of the value), dotted the untuned pipeline; of real '
    'images the floor. Fourth: by how much KID falls from that of the untuned pipeline, paired likewise. Paler: fewer '
    'training pairs.'
)


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over training and sampling seeds of each set, size and method, with the untuned pipeline and real images.

    Args:
        table: `text_image_scores.runs`.
    Returns:
        Columns data, pairs, method, auroc, auroc_low, auroc_high, kid, kid_low, kid_high, fid (of real images the
        floor), gain, gain_low, gain_high of the AUROC and kid_gain, ... of KID (`text_image_scores.over_untuned`).
    """
    wanted = ['auroc', 'auroc_low', 'auroc_high', 'kid', 'kid_low', 'kid_high', 'fid']
    rows = ti.against_base(table).groupby(ti.CELL, sort=False)[wanted].mean().reset_index()
    rows = rows.merge(ti.over_untuned(table), on=ti.CELL, how='left')
    nearer = ti.over_untuned(table, 'kid').rename(columns=lambda name: name.replace('gain', 'kid_gain'))
    rows = rows.merge(nearer, on=ti.CELL, how='left')
    real = []
    for (data, pairs), group in table.groupby(['data', 'pairs'], sort=False):
        one = group['real'].iloc[0]
        about, floor = one.get('adherence') or {}, one.get('floor') or {}
        row = {name: ti.number(about.get(name)) for name in wanted[:3]}
        row |= {name: ti.number(floor.get(name)) for name in ('kid', 'fid')}
        real.append({'data': data, 'pairs': pairs, 'method': REAL} | row)
    return pd.concat([rows, pd.DataFrame(real, columns=rows.columns)], ignore_index=True)


def better(table: pd.DataFrame) -> list[str]:
    """In words, for each set: the mean gain over the methods, and which of them follow prompts better than before."""
    told = []
    for data, found in ti.over_untuned(table).dropna(subset='gain_low').groupby('data', sort=False):
        means, each = found[found['method'] == ti.ALL], found[found['method'] != ti.ALL]
        if means.empty:
            continue
        sizes = '; '.join(
            f'{one.gain:+.3f} [{one.gain_low:+.3f}, {one.gain_high:+.3f}] with {one.pairs:,} pairs'
            for one in means.itertuples()
        )
        sure = [f'{one.method} ({one.pairs:,})' for one in each[each['gain_low'] > 0].itertuples()]
        told.append(
            f'{data}, AUROC after tuning minus before, mean of {each["method"].nunique()} methods: {sizes}. By '
            f'themselves above zero: {", ".join(sure) or "none"}, of {len(each)} without correction.'
        )
    return told


def _draw(axes, rows: pd.DataFrame) -> None:
    """A line a method, in the order of the rows; within it a mark for each data size, the largest above."""
    left, middle, right, last = axes
    methods, sizes = list(dict.fromkeys(rows['method'])), sorted(rows['pairs'].unique(), reverse=True)
    for one in rows.itertuples():
        size = sizes.index(one.pairs)
        at = methods.index(one.method) + (size - (len(sizes) - 1) / 2) * 0.22
        plain = {'color': style.INK, 'marker': 'o' if one.method == REAL else 'X'}
        look = plain if one.method in (ti.BASE, REAL) else style.look(one.method)
        how = {'color': look['color'], 'alpha': 1 - 0.3 * size, 'zorder': 4, 'markersize': 5.5}
        for axis, value in ((left, one.auroc), (middle, one.gain), (right, one.kid), (last, one.kid_gain)):
            axis.plot(value, at, marker=look['marker'], markeredgecolor='white', markeredgewidth=0.4, **how)
        bar(left, at, one.auroc_low, one.auroc_high, look['color'], across=True, alpha=0.35)
        bar(middle, at, one.gain_low, one.gain_high, look['color'], across=True, alpha=0.35)
        bar(right, at, one.kid_low, one.kid_high, look['color'], across=True, alpha=0.35)
        bar(last, at, one.kid_gain_low, one.kid_gain_high, look['color'], across=True, alpha=0.35)
    left.axvline(0.5, color=style.GREY, linestyle=(0, (4, 2)), linewidth=0.8, zorder=1)
    for axis in (middle, last):
        axis.axvline(0, color=style.INK, linewidth=0.8, zorder=1)
    right.axvline(
        rows.loc[rows['method'] == ti.BASE, 'kid'].mean(), color=style.INK, linestyle=':', linewidth=0.8, zorder=1
    )
    left.set_yticks(range(len(methods)), methods)
    left.set_ylim(len(methods) - 0.4, -0.6)
    least = rows.loc[rows['method'] != REAL, 'kid'].abs().min()  # KID may lie below zero: a scale that is linear there
    linear = 10 ** math.floor(math.log10(least)) if least > 0 else 0.01
    right.set_xscale('symlog', linthresh=linear)
    right.set_xlim(left=min(rows[['kid', 'kid_low']].min().min(), 0.0) - 0.3 * linear)
    right.minorticks_off()
    if rows['auroc'].isna().all():
        for axis in (left, middle):
            axis.text(0.5, 0.5, 'findings not judged', ha='center', color=style.GREY, transform=axis.transAxes)


@renderer(
    'prompt_following',
    'Do the images follow their prompts, and look like real ones?',
    'After tuning, do prompts say what is drawn?',
)
def prompt_following(records: pd.DataFrame, f1: str = 'weighted') -> Figure | Nothing:
    """AUROC of the findings that prompts ask for, its change, and KID, by method and size: a row a set of pairs."""
    table = ti.runs(records)
    if table.empty:
        return Nothing(notes=[NO_RUN])
    rows, notes = numbers(table), ti.describe(records, table)
    sets = list(dict.fromkeys(rows['data']))
    lines = [rows[rows['data'] == data]['method'].nunique() for data in sets]
    height = 0.27 * sum(lines) / len(sets) + 0.75
    footer = ['Bars: 95 %. Paler: fewer training pairs.', *notes]
    figure, grid = sheet(len(sets), 4, 2.2, height, sharey='row', height_ratios=lines)
    for axes, data in zip(grid, sets, strict=True):
        _draw(axes, rows[rows['data'] == data])
        sizes = ', '.join(f'{size:,}' for size in sorted(rows[rows['data'] == data]['pairs'].unique())[::-1])
        axes[0].set_title(f'{data}: {sizes} pairs')
    names = 'AUROC of findings', 'AUROC minus untuned', 'KID (lower is better)', 'KID, untuned minus tuned'
    for axis, words in zip(grid[-1], names, strict=True):
        axis.set_xlabel(words)
    notes = [*notes, DRAWN, *better(table)]
    return Figure(synthetic=provenance.is_synthetic(table), figure=figure, footer=footer, notes=notes, data=rows)
