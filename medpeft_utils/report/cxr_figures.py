"""Figures of the second paper: AUROC against labels, and against LoRA's rank and the share of parameters it trains."""

from __future__ import annotations

import pandas as pd

from medpeft_utils import auroc
from medpeft_utils.report import cxr_scores as cxr
from medpeft_utils.report import style
from medpeft_utils.report.figures import footer, footer_height, mark_synthetic
from medpeft_utils.report.output import Figure
from medpeft_utils.report.renderers import renderer

TITLE_LABELS = 'AUROC against the number of labels, LoRA and full fine-tuning'
TITLE_RANK = 'AUROC against the rank of LoRA and the share of parameters that it trains'
DRAWN = (
    'Bars: 95 %, bootstrap over the patients of the test split, of these trained networks (mean over seeds). '
    'Dots: seeds, where there are several.'
)
DRAWN_RANK = (
    'Bars as for labels: 95 %, over patients. Dashed, and open marks: full fine-tuning. Share: of all parameters, the '
    'head left out. LoRA trains the norm before the head too.'
)
NO_RUN = 'no run of this study'


def _nothing(axes) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, NO_RUN, ha='center', va='center', color=style.GREY, transform=axes.transAxes)


def _panel(axes, table: pd.DataFrame, shown: pd.DataFrame) -> None:
    """One model and dataset: a line for LoRA and one for full fine-tuning over the shares of the labels."""
    fractions = table['fraction'].to_numpy()
    for place, (side, method) in enumerate((('full', cxr.FULL), ('lora', cxr.LORA))):
        rows, look = table.dropna(subset=side), style.look(method)
        x = rows['fraction'] * 100 * (0.96, 1.04)[place]  # side by side, so that bars do not cover each other
        for at, low, high in zip(x, rows[f'{side}_low'], rows[f'{side}_high'], strict=True):
            axes.plot([at, at], [100 * low, 100 * high], color=look['color'], linewidth=2.5, alpha=0.3, zorder=2)
        axes.plot(x, 100 * rows[side], markeredgecolor='white', markeredgewidth=0.5, zorder=4, label=method, **look)
        runs = shown[shown['method'] == method]
        if runs['seed'].nunique() > 1:
            at = runs['fraction'] * 100 * (0.96, 1.04)[place]
            axes.scatter(at, 100 * runs['auroc'], s=5, color=look['color'], alpha=0.5, linewidth=0, zorder=3)
    axes.set_xscale('log')
    axes.minorticks_off()
    images = table.set_index('fraction')['train_images']
    axes.set_xticks(100 * fractions, [f'{cxr.percent(f)}\n{images[f]:,.0f}' for f in fractions])
    axes.set_xlim(100 * fractions.min() / 1.5, 100 * fractions.max() * 1.5)


def _grid(shown: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Labels of models, and datasets, that were run, in the paper's order; the first of each where nothing was."""
    models, data = (list(dict.fromkeys(shown[name])) for name in ('model_label', 'data'))
    ordered = [d for d in cxr.DATASETS.values() if d in data] + [d for d in data if d not in cxr.DATASETS.values()]
    return models or [cxr.MODELS[0]], ordered or list(cxr.DATASETS.values())[:1]


@renderer('cxr_labels', TITLE_LABELS, 'Does LoRA gain over full fine-tuning as labels become fewer?')
def cxr_labels(records: pd.DataFrame, f1: str = 'weighted') -> Figure:
    """Mean test AUROC over 1, 10 and 100 % of the labels: a row a model, a column a dataset."""
    shown = cxr.one_rank(cxr.runs(records))
    table = cxr.tasks(shown)
    models, datasets = _grid(shown)
    notes = [*cxr.describe(records, shown), DRAWN + ' Under the axis: share of the labels, training images.']
    width = style.TEXT_WIDTH * (1 if len(datasets) > 1 else 0.6)
    beneath = footer_height(notes, width)
    height = 2.0 * len(models) + 0.65 + beneath
    with style.drawing():
        figure = style.new_figure(width, height)
        axes = figure.subplots(len(models), len(datasets), squeeze=False, sharey='col')
        for across, model in zip(axes, models, strict=True):
            for axis, data in zip(across, datasets, strict=True):
                runs = shown[(shown['model_label'] == model) & (shown['data'] == data)]
                if runs.empty:
                    _nothing(axis)
                    continue
                here = (table['model'] == runs['model'].iloc[0]) & (table['data'] == data)
                _panel(axis, table[here].sort_values('fraction'), runs)
                if runs['synthetic'].any():
                    mark_synthetic(axis, inside=True)
            across[0].set_ylabel(f'{model}\ntest AUROC, points')
        for axis, data in zip(axes[0], datasets, strict=True):
            axis.set_title(data)
        if len(table):
            axes[0, 0].legend(loc='upper left', frameon=False, fontsize=7)
        bottom = (beneath + 0.45) / height
        figure.subplots_adjust(0.65 / width, bottom, 1 - 0.1 / width, 1 - 0.28 / height, 0.2, 0.35)
        footer(figure, notes, beneath)
    title = TITLE_LABELS + (' (synthetic images)' if len(shown) and shown['synthetic'].any() else '')
    return Figure(name='cxr_labels', title=title, figure=figure, notes=notes, data=table)


def ranked_tasks(table: pd.DataFrame) -> list[tuple]:
    """The tasks of which LoRA was run with two ranks or more."""
    lora = table[table['method'] == cxr.LORA]
    counts = lora.groupby(cxr.TASK, sort=False)['rank'].nunique()
    return list(counts[counts > 1].index)


def _rank_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds and interval over patients, of every rank of the tasks that have several, and of full FT."""
    rows = []
    for task in ranked_tasks(table):
        here = table[(table[cxr.TASK] == list(task)).all(axis=1) & table['method'].isin([cxr.LORA, cxr.FULL])]
        for (method, rank), group in here.groupby(['method', 'rank'], dropna=False, sort=False):
            low, high = auroc.quantiles(cxr.draws_of(group))
            row = dict(zip(cxr.TASK, task, strict=True)) | {'method': method, 'rank': rank}
            row |= {'auroc': group['auroc'].mean(), 'low': low, 'high': high, 'seeds': group['seed'].nunique()}
            share = (group['trainable'] / group['total']).mean()
            rows.append(row | {'trainable': group['trainable'].iloc[0], 'share': share})
    columns = [*cxr.TASK, 'method', 'rank', 'auroc', 'low', 'high', 'seeds', 'trainable', 'share']
    return pd.DataFrame(rows, columns=columns).sort_values([*cxr.TASK, 'method', 'rank'], ignore_index=True)


def _draw_ranks(left, right, rows: pd.DataFrame) -> None:
    """A line a task over ranks (left) and over the trained share (right); full fine-tuning as a level and a point."""
    import seaborn

    palette = seaborn.color_palette('colorblind').as_hex()
    for place, (task, group) in enumerate(rows.groupby(cxr.TASK, sort=False)):
        how = {'color': palette[(0, 1, 2, 4, 7, 9)[place % 6]], 'marker': 'oDs^vP'[place % 6]}
        lora, full = (group[group['method'] == method].sort_values('rank') for method in (cxr.LORA, cxr.FULL))
        name = f'{task[0]}, {task[1]}, {cxr.percent(task[2])}'
        for axes, x in ((left, lora['rank'] * 1.03 ** (place - 1)), (right, 100 * lora['share'])):
            axes.plot(x, 100 * lora['auroc'], markeredgecolor='white', markeredgewidth=0.5, label=name, zorder=4, **how)
            for at, low, high in zip(x, lora['low'], lora['high'], strict=True):
                axes.plot([at, at], [100 * low, 100 * high], color=how['color'], linewidth=2.5, alpha=0.25, zorder=2)
        for value, share in zip(100 * full['auroc'], 100 * full['share'], strict=True):
            left.axhline(value, color=how['color'], linestyle=(0, (4, 2)), linewidth=0.9, zorder=1)
            right.plot(share, value, marker=how['marker'], markerfacecolor='white', color=how['color'], zorder=4)


@renderer('cxr_rank', TITLE_RANK, 'How many parameters does LoRA need on a radiograph model?')
def cxr_rank(records: pd.DataFrame, f1: str = 'weighted') -> Figure:
    """Mean test AUROC over ranks, and over the trained share, for the tasks that were run with several ranks."""
    every = cxr.runs(records)
    rows = _rank_rows(every)
    used = every[every[cxr.TASK].apply(tuple, axis=1).isin(ranked_tasks(every))] if len(every) else every
    notes = [*cxr.describe(records, used), DRAWN_RANK]
    beneath = footer_height(notes, style.TEXT_WIDTH)
    height = 2.6 + 0.5 + beneath
    with style.drawing():
        figure = style.new_figure(style.TEXT_WIDTH, height)
        left, right = figure.subplots(1, 2, sharey=True)
        figure.subplots_adjust(0.075, (beneath + 0.45) / height, 0.985, 1 - 0.3 / height, 0.1)
        if len(rows):
            _draw_ranks(left, right, rows)
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
            if used['synthetic'].any():
                mark_synthetic(left)
        else:
            _nothing(left)
            _nothing(right)
        footer(figure, notes, beneath)
    title = TITLE_RANK + (' (synthetic images)' if len(used) and used['synthetic'].any() else '')
    return Figure(name='cxr_rank', title=title, figure=figure, notes=notes, data=rows)
