"""Figure 1 of the paper: F1 and the gain over full fine-tuning as the data shrink; its crossovers as a table."""

from __future__ import annotations

import math

import pandas as pd

from medpeft_utils.report import crossover, paper, provenance, scores, style
from medpeft_utils.report.output import MISSING, Figure, Nothing, Output, Row, Table, numbers, renderer
from medpeft_utils.report.style import bar, legend, sheet, size_axis

METHODS = ('Full FT', 'BitFit', 'LoRA')
DASHED = {'linestyle': (0, (4, 2)), 'linewidth': 0.9, 'alpha': 0.8, 'zorder': 2, 'marker': ''}
DRAWN = (
    'Above: mean over seeds with its band of 95 %. Beneath: gain over full fine-tuning with its bar of 95 %; ring and '
    'bar on the zero line: crossover and its interval.'
)


CROSSOVER_NOTE = (
    'Crossover: the last size at which the gain over full fine-tuning turns from plus to minus, interpolated linearly '
    'in the gain and in the logarithm of the size. "None detectable": its interval reaches beyond the sizes that were '
    'run.'
)


def figure1_scores(records: pd.DataFrame, f1: str = 'weighted') -> pd.DataFrame:
    """The scores of Figure 1: encoders, data sets and methods that were run at three data sizes or more."""
    chosen = scores.seed_scores(records, f1, prefer=scores.FIGURE1_EXPERIMENTS)
    sizes = chosen.groupby(['encoder', 'data', 'method'])['fraction'].transform('nunique')
    return chosen[sizes >= 3]


def crossovers(curves: pd.DataFrame) -> pd.DataFrame:
    """The crossover of every method of `figure1_scores` against full fine-tuning.

    Returns:
        Columns encoder, data, dataset_label, method, crossover (a `crossover.Crossover`).
    """
    rows = []
    for (encoder, data), group in curves.groupby(['encoder', 'data'], sort=False):
        for method in [m for m in dict.fromkeys(group['method']) if m != scores.FULL]:
            gains = scores.gains_by(group, method, by=('fraction',))
            if len(gains) >= 3:
                found = crossover.estimate({key[0]: one for key, one in gains.items()})
                rows.append((encoder, data, group['dataset_label'].iloc[0], method, found))
    return pd.DataFrame(rows, columns=['encoder', 'data', 'dataset_label', 'method', 'crossover'])


# ---- the figure


def _curves(axes, rows: pd.DataFrame, printed: pd.DataFrame, methods: list[str]) -> None:
    """A method's means over data sizes with their band; the paper's as a dashed line."""
    for method in methods:
        look = style.look(method)
        theirs = printed[printed['method'] == method].sort_values('fraction')
        if len(theirs):
            how = {**look, **DASHED, 'label': f'{method}, paper'}
            axes.plot(100 * theirs['fraction'], theirs['score'], **how)
        one = rows[rows['method'] == method].sort_values('fraction')
        x = 100 * one['fraction']
        axes.plot(x, one['mean'], markeredgecolor='white', markeredgewidth=0.5, zorder=4, label=method, **look)
        if one['low'].notna().any():
            ends = one['low'].clip(lower=0), one['high'].clip(upper=1)
            axes.fill_between(x, *ends, color=look['color'], alpha=0.16, linewidth=0, zorder=1)


def _gains(axes, chosen: pd.DataFrame, printed: pd.DataFrame, methods: list[str]) -> list[dict]:
    """Gains over full fine-tuning in points, with their bars; gives back the drawn numbers."""
    axes.axhline(0, color=style.INK, linewidth=0.8, zorder=1)
    rows, peft = [], [method for method in methods if method != scores.FULL]
    for place, method in enumerate(peft):
        look, aside = style.look(method), 1 + 0.035 * (place - (len(peft) - 1) / 2)
        theirs = {key[0]: one.values.mean() for key, one in scores.gains_by(printed, method, by=('fraction',)).items()}
        axes.plot([100 * f for f in sorted(theirs)], [100 * theirs[f] for f in sorted(theirs)], **{**look, **DASHED})
        found = {key[0]: one.interval() for key, one in scores.gains_by(chosen, method, by=('fraction',)).items()}
        sizes = sorted(found)
        x, y = [100 * f * aside for f in sizes], [100 * found[f].value for f in sizes]
        axes.plot(x, y, markeredgecolor='white', markeredgewidth=0.5, zorder=4, **look)
        for at, size in zip(x, sizes, strict=True):
            bar(axes, at, 100 * found[size].low, 100 * found[size].high, look['color'])
        rows += [{'method': method, 'fraction': f, 'gain': one} for f, one in found.items()]
    return rows


def _mark_crossovers(axes, found: pd.DataFrame) -> None:
    """An open circle on the zero line at each crossover, with its interval as a bar and its size in words."""
    inside = [(m, c) for m, c in zip(found['method'], found['crossover'], strict=True) if 0 < c.estimate < math.inf]
    for number, (method, cross) in enumerate(sorted(inside, key=lambda pair: pair[1].estimate)):
        colour, x = style.look(method)['color'], 100 * cross.estimate
        if not math.isnan(cross.low):
            ends = [100 * min(max(end, cross.smallest), cross.largest) for end in (cross.low, cross.high)]
            axes.plot(ends, [0, 0], color=colour, linewidth=4, alpha=0.35, solid_capstyle='butt', zorder=2)
        axes.plot([x], [0], marker='o', markersize=6, markerfacecolor='white', markeredgecolor=colour, zorder=6)
        if cross.detectable or math.isnan(cross.low):
            # Labels of neighbours on different sides of the line: the first below it to the left, the next above it.
            side = {'xytext': (-4, -10), 'ha': 'right'} if number % 2 == 0 else {'xytext': (4, 10), 'ha': 'left'}
            how = {'textcoords': 'offset points', 'size': 7, 'weight': 'bold', 'va': 'center', 'zorder': 7, **side}
            axes.annotate(cross.words(cross.estimate), (x, 0), color=colour, **how)


def _numbers(curves: pd.DataFrame, printed: pd.DataFrame, gains: pd.DataFrame) -> pd.DataFrame:
    """The drawn numbers: one row for each encoder, data set, method and size."""
    rows = scores.summarise(curves).rename(columns={'mean': 'f1'})
    images = curves.groupby(scores.CELL)['train_images'].max().reset_index()
    theirs = scores.summarise(printed)[[*scores.CELL, 'mean']].rename(columns={'mean': 'paper_f1'})
    rows = rows.merge(images, on=scores.CELL)
    if not curves['printed'].any():
        rows = rows.merge(theirs, on=scores.CELL, how='left')
    if len(gains):
        rows = rows.merge(gains, on=scores.CELL, how='left')
    return rows.sort_values(scores.CELL, ignore_index=True)


@renderer(
    'figure1',
    'Figure 1: low-data regime',
    'Does parameter-efficient tuning gain as training data shrink, and where does full fine-tuning take over?',
)
def figure1(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Figure 1: methods over data sizes, a column for each encoder and data set; the crossovers marked."""
    curves, published = figure1_scores(records, f1), scores.is_published(records)
    if curves.empty:
        return Nothing(notes=['No curve of data sizes was run.'])
    printed = figure1_scores(paper.records())
    found, gains = crossovers(curves), []
    panels = list(curves.groupby(['encoder', 'data'], sort=False))
    notes = provenance.describe(records, curves, f1)
    bars = [] if published else ['Bands and bars: 95 % intervals.']
    if not published and set(printed['data']) & set(curves['data']):
        others = sorted(set(curves['encoder']) - set(printed['encoder']))
        bars.append(f'Thin dashed: the paper{" (ViT-Base)" if others else ""}.')
    figure, axes = sheet(2, len(panels), 5.0 if len(panels) == 1 else 3.5, 2.35, sharey='row', height_ratios=(3, 2))
    for (upper, lower), ((encoder, data), chosen) in zip(axes.T, panels, strict=True):
        beside = encoder if encoder in set(printed['encoder']) else 'ViT-Base'  # the one that others stand for
        theirs = printed[(printed['encoder'] == beside) & (printed['data'] == data)]
        theirs = theirs.iloc[:0] if published else theirs
        methods, sizes = scores.in_order(chosen['method'], METHODS), sorted(chosen['fraction'].unique())
        _curves(upper, scores.summarise(chosen), theirs, methods)
        own = numbers(_gains(lower, chosen, theirs, methods)).assign(encoder=encoder, data=data)
        gains.append(own)
        _mark_crossovers(lower, found[(found['encoder'] == encoder) & (found['data'] == data)])
        size_axis(upper, sizes)
        size_axis(lower, sizes, chosen.groupby('fraction')['train_images'].max().to_dict())
        lower.set_xlabel('training images: per cent, number')
        first = chosen.iloc[0]
        upper.set_title(f'{first["backbone_label"]}, {str(first["dataset_label"]).replace(" (synthetic)", "")}')
    axes[0, 0].set_ylabel(f'{"" if published else f1 + " "}F1, test split')
    axes[1, 0].set_ylabel('gain over full FT, points')
    legend(figure, axes[0], fontsize=6.5)
    more = [DRAWN, *provenance.rates(records, curves)]
    if not published and (curves['data'] == 'HAM10000').any():
        more.append(f'Thin dashed lines: the paper, read off its Figure 1 ({paper.CITATION}).')
    return Figure(
        synthetic=provenance.is_synthetic(curves),
        figure=figure,
        footer=[*bars, *notes],
        notes=[*(provenance.smallest(curves[curves['fraction'] == 1]) if not published else []), *notes, *more],
        data=_numbers(curves, printed, pd.concat(gains)),
    )


# ---- the crossovers as a table


@renderer(
    'figure1_crossover',
    'Crossover of Figure 1: the data size above which full fine-tuning stays better',
    'Below how many images is a parameter-efficient method the better choice?',
)
def figure1_crossover(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """The crossovers of Figure 1 with their intervals, beside the paper's in words and from its digitised curves."""
    curves, published = figure1_scores(records, f1), scores.is_published(records)
    if curves.empty:
        return Nothing(notes=['No curve of data sizes was run.'])
    theirs = crossovers(figure1_scores(paper.records())).set_index(['encoder', 'method'])['crossover']
    rows, data = [], []
    for one in crossovers(curves).itertuples():
        said, drawn = paper.CROSSOVERS.get((one.encoder, one.method)), theirs.get((one.encoder, one.method))
        cells = [f'{said} %' if said else MISSING, drawn.words(drawn.estimate) if drawn else MISSING]
        rows.append(
            Row((one.encoder, one.method, one.dataset_label), [*([] if published else [str(one.crossover)]), *cells])
        )
        row = {'encoder': one.encoder, 'method': one.method, 'dataset': one.dataset_label}
        row |= {'paper_text': said and said / 100, 'paper_curve': drawn.estimate if drawn else math.nan}
        own = one.crossover
        row |= {} if published else {'estimate': own.estimate, 'low': own.low, 'high': own.high}
        data.append(row | ({} if published else {'inside': own.inside, 'over': own.over}))
    notes = [*provenance.describe(records, curves, f1), *provenance.rates(records, curves)]
    return Table(
        synthetic=provenance.is_synthetic(curves),
        columns=['Encoder', 'Method', 'Data', *([] if published else ['This study']), 'Paper, text', 'Paper, curve'],
        rows=rows,
        notes=[*notes, CROSSOVER_NOTE],
        top=[] if published else provenance.smallest(curves[curves['fraction'] == curves['fraction'].max()]),
        data=pd.DataFrame(data),
        left=True,
    )
