"""Figures of the second paper: AUROC against labels, and against LoRA's rank and the share of parameters it trains."""

from __future__ import annotations

import math

import pandas as pd

from medpeft_utils.report import cxr_scores as cxr
from medpeft_utils.report import provenance, scores, style
from medpeft_utils.report.output import Figure, Nothing, Output, renderer
from medpeft_utils.report.style import bar, nothing, sheet, size_axis

DRAWN = 'Dots: seeds, where there are several; bars: 95 %.'
DRAWN_RANK = (
    'Bars: 95 %. Dashed, and open marks: full fine-tuning. Share: of all parameters, without the head. LoRA trains the '
    'norm before the head too.'
)


def _panel(axes, table: list[dict], shown: pd.DataFrame) -> None:
    """One model and dataset: a line for LoRA and one for full fine-tuning over the shares of the labels."""
    for side, method, aside in (('full', cxr.FULL, 96), ('lora', cxr.LORA, 104)):  # bars must not cover each other
        rows, look = [row for row in table if not math.isnan(row[side].value)], style.look(method)
        x = [row['fraction'] * aside for row in rows]
        for at, row in zip(x, rows, strict=True):
            bar(axes, at, 100 * row[side].low, 100 * row[side].high, look['color'], linewidth=2.5, alpha=0.3)
        how = {'markeredgecolor': 'white', 'markeredgewidth': 0.5, 'zorder': 4, 'label': method}
        axes.plot(x, [100 * row[side].value for row in rows], **how, **look)
        runs = shown[shown['method'] == method]
        if runs['seed'].nunique() > 1:
            dots = {'s': 5, 'color': look['color'], 'alpha': 0.5, 'linewidth': 0, 'zorder': 3}
            axes.scatter(runs['fraction'] * aside, 100 * runs['score'], **dots)
    images = {row['fraction']: row['train_images'] for row in table}
    size_axis(axes, sorted(images), images)


@renderer(
    'cxr_labels',
    'AUROC against the number of labels, LoRA and full fine-tuning',
    'Does LoRA gain over full fine-tuning as labels become fewer?',
)
def cxr_labels(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Mean test AUROC over the shares of the labels: a row a model, a column a dataset."""
    shown = cxr.one_rank(cxr.runs(records))
    table, notes = cxr.tasks(shown), cxr.describe(records, shown)
    if not table:
        return Nothing(notes=notes)
    models = scores.in_order(shown['encoder'], cxr.MODELS)
    datasets = scores.in_order(shown['data'], tuple(cxr.DATASETS.values()))
    width = 3.6 if len(datasets) == 1 else 2.6
    figure, axes = sheet(len(models), len(datasets), width, 2.2, sharey='col')
    for across, model in zip(axes, models, strict=True):
        for axis, data in zip(across, datasets, strict=True):
            runs = shown[(shown['encoder'] == model) & (shown['data'] == data)]
            axis.set_title(data if model == models[0] else '')
            if runs.empty:
                nothing(axis, 'not run')
                continue
            _panel(axis, [row for row in table if (row['encoder'], row['data']) == (model, data)], runs)
        across[0].set_ylabel(f'{shown[shown["encoder"] == model]["backbone_label"].iloc[0]}\ntest AUROC, points')
    for axis in axes[-1]:
        axis.set_xlabel('labels: per cent, images')
    axes[0, 0].legend(loc='upper left', frameon=False, fontsize=7)
    return Figure(
        synthetic=provenance.is_synthetic(shown),
        figure=figure,
        footer=[DRAWN, *notes],
        notes=[*notes, DRAWN],
        data=table,
    )


def ranked_tasks(table: pd.DataFrame) -> list[tuple]:
    """The tasks of which LoRA was run with two ranks or more."""
    lora = table[table['method'] == cxr.LORA]
    counts = lora.groupby(cxr.TASK, sort=False)['rank'].nunique()
    return list(counts[counts > 1].index)


def _rank_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds and its interval, of every rank of the tasks that have several, and of full fine-tuning."""
    rows = []
    for task in ranked_tasks(table):
        here = table[(table[cxr.TASK] == list(task)).all(axis=1) & table['method'].isin([cxr.LORA, cxr.FULL])]
        for (method, rank), group in here.groupby(['method', 'rank'], dropna=False, sort=False):
            found = scores.sample(group).interval()
            row = dict(zip(cxr.TASK, task, strict=True)) | {'method': method, 'rank': rank}
            row |= {'auroc': found.value, 'low': found.low, 'high': found.high, 'seeds': group['seed'].nunique()}
            share = (group['trainable'] / group['total']).mean()
            rows.append(row | {'trainable': group['trainable'].iloc[0], 'share': share})
    columns = [*cxr.TASK, 'method', 'rank', 'auroc', 'low', 'high', 'seeds', 'trainable', 'share']
    return pd.DataFrame(rows, columns=columns).sort_values([*cxr.TASK, 'method', 'rank'], ignore_index=True)


def _draw_ranks(left, right, rows: pd.DataFrame) -> None:
    """A line a task over ranks (left) and over the trained share (right); full fine-tuning as a level and a point."""
    for place, (task, group) in enumerate(rows.groupby(cxr.TASK, sort=False)):
        how = {'color': style.palette()[(0, 1, 2, 4, 7, 9)[place % 6]], 'marker': 'oDs^vP'[place % 6]}
        lora, full = (group[group['method'] == method].sort_values('rank') for method in (cxr.LORA, cxr.FULL))
        name = f'{task[0]}, {task[1]}, {cxr.percent(task[2])}'
        for axes, x in ((left, lora['rank'] * 1.03 ** (place - 1)), (right, 100 * lora['share'])):
            axes.plot(x, 100 * lora['auroc'], markeredgecolor='white', markeredgewidth=0.5, label=name, zorder=4, **how)
            for at, low, high in zip(x, lora['low'], lora['high'], strict=True):
                bar(axes, at, 100 * low, 100 * high, how['color'], linewidth=2.5, alpha=0.25)
        for value, share in zip(100 * full['auroc'], 100 * full['share'], strict=True):
            left.axhline(value, color=how['color'], linestyle=(0, (4, 2)), linewidth=0.9, zorder=1)
            right.plot(share, value, marker=how['marker'], markerfacecolor='white', color=how['color'], zorder=4)
    ranks = sorted(rows['rank'].dropna().unique())
    left.set_xscale('log', base=2)
    left.set_xticks(ranks, [f'{rank:.0f}' for rank in ranks])
    right.set_xscale('log')
    right.xaxis.set_major_formatter(lambda value, position: f'{value:g}')
    for axes, words in ((left, 'rank of LoRA'), (right, 'parameters trained, % of all (log scale)')):
        axes.minorticks_off()
        axes.set_xlabel(words)
    left.set_ylabel('test AUROC, points')
    right.legend(loc='lower right', frameon=False, fontsize=6.5)


@renderer(
    'cxr_rank',
    'AUROC against the rank of LoRA and the share of parameters that it trains',
    'How many parameters does LoRA need on a radiograph model?',
)
def cxr_rank(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Mean test AUROC over ranks, and over the trained share, for the tasks that were run with several ranks."""
    every = cxr.runs(records)
    rows = _rank_rows(every)
    used = every[every[cxr.TASK].apply(tuple, axis=1).isin(ranked_tasks(every))] if len(every) else every
    notes = cxr.describe(records, used)
    if rows.empty:
        return Nothing(notes=notes)
    figure, axes = sheet(1, 2, 3.5, 2.7, sharey=True)
    _draw_ranks(*axes[0], rows)
    return Figure(
        synthetic=provenance.is_synthetic(used),
        figure=figure,
        footer=['Bars: 95 % intervals.', *notes],
        notes=[*notes, DRAWN_RANK],
        data=rows,
    )
