"""Figure 3 of the paper (F1 against trainable parameters), and average ranks with their critical difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from medpeft_utils.report import paper, provenance, ranks, scores, style
from medpeft_utils.report.figures import footer, footer_height, mark_synthetic
from medpeft_utils.report.labels import place_labels
from medpeft_utils.report.output import Figure
from medpeft_utils.report.renderers import renderer

TITLE3 = 'Figure 3: performance against trainable parameters'
TITLE_CNN = 'Average ranks on the CNN, with the critical difference'
TITLE_VIT = 'Average ranks on vision transformers, with the critical difference'
PANELS = (('ResNet50', paper.CNN_METHODS), ('ViT-Base', paper.VIT_METHODS))
VITS = ('ViT-Base', 'ViT-Large', 'ViT-Huge')
SHARED = ' Blocks of one data set with several encoders are not independent: read these tests as a description.'
LARGEST_AREA = 700  # square points of the disc of a method that trains every parameter


def pareto(parameters: Sequence[float], values: Sequence[float]) -> list[int]:
    """Positions of the points that no other beats: none with as few parameters is as good; from few to many."""
    front, best = [], -math.inf
    for i in sorted(range(len(values)), key=lambda i: (parameters[i], -values[i])):
        if values[i] > best:
            front.append(i)
            best = values[i]
    return front


def _printed(encoder: str, methods: Sequence[str]) -> pd.DataFrame:
    """The paper's averages and parameters of an encoder."""
    parameters = paper.printed_parameters(encoder).reindex(methods).map(paper.parse_count)
    rows = pd.DataFrame({'f1': paper.printed_averages(encoder).reindex(methods), 'parameters': parameters})
    rows['share'] = rows['parameters'] / rows['parameters'].max()
    return rows.assign(sd=math.nan, seeds=0, source='paper', encoder=encoder).rename_axis('method').reset_index()


def _measured(chosen: pd.DataFrame, encoder: str, methods: Sequence[str]) -> pd.DataFrame:
    """The study's averages over complete data sets and its counts (of linear probing the head), for an encoder."""
    here = chosen[(chosen['encoder'] == encoder) & (chosen['fraction'] == 1.0)]
    blocks = scores.complete(scores.grid(here, methods, [encoder]))
    if not blocks.size:
        return pd.DataFrame()
    rows = scores.averages(here, blocks).rename(columns={'mean': 'f1'})
    counted = here.groupby('method')[['trainable_parameters', 'head_parameters', 'total_parameters']].mean()
    counted['parameters'] = counted['trainable_parameters'].where(
        counted.index != 'Linear Probing', counted['head_parameters']
    )
    rows['parameters'] = counted['parameters']
    rows['share'] = rows['parameters'] / counted['total_parameters']
    rows['datasets'] = len(blocks)
    return rows.assign(source='this study', encoder=encoder).rename_axis('method').reset_index()


def _tradeoff(axes, rows: pd.DataFrame, title: str) -> list:
    """Points, discs, bars and the Pareto frontier; gives back the lines, which labels should avoid."""
    rows = rows.dropna(subset=['f1', 'parameters'])
    axes.set_xscale('log')
    axes.set_xlim(rows['parameters'].min() / 3, rows['parameters'].max() * 6)
    bar = rows['sd'].fillna(0)
    low, high = (rows['f1'] - bar).min(), (rows['f1'] + bar).max()
    room = max(high - low, 0.02)
    axes.set_ylim(low - 0.14 * room, high + 0.16 * room)
    front = rows.iloc[pareto(rows['parameters'].to_list(), rows['f1'].to_list())]
    how = {'color': style.GREY, 'linewidth': 0.9, 'linestyle': '--', 'zorder': 1}
    lines = axes.step(front['parameters'], front['f1'], where='post', **how)
    for row in rows.itertuples():
        look = style.look(row.method)
        mark = {'color': look['color'], 'linewidth': 0}
        axes.scatter(row.parameters, row.f1, s=LARGEST_AREA * row.share, alpha=0.22, zorder=2, **mark)
        if not math.isnan(row.sd):
            ends = [row.f1 - row.sd, row.f1 + row.sd]
            lines += axes.plot([row.parameters] * 2, ends, color=look['color'], linewidth=0.9, zorder=3)
        axes.plot(row.parameters, row.f1, marker=look['marker'], color=look['color'], markeredgecolor='white', zorder=4,
                  markersize=6, markeredgewidth=0.6)  # fmt: skip
    axes.set_title(title)
    axes.xaxis.set_major_formatter(_units)
    axes.locator_params(axis='y', nbins=6, steps=[1, 2, 5, 10])
    axes.minorticks_off()
    return lines


def _units(value: float, position: int) -> str:
    for unit, size in (('M', 1e6), ('K', 1e3)):
        if value >= size:
            return f'{value / size:g}{unit}'
    return f'{value:g}'


def _notes3(records: pd.DataFrame, chosen: pd.DataFrame, f1: str, missing: list[str]) -> list[str]:
    notes = provenance.describe(records, chosen, f1, spread=False)
    if missing:
        notes.append(f'Not in this study: {", ".join(missing)}.')
    drawn = 'Disc: area proportional to the share of the parameters that is trained. Dashed: Pareto frontier.'
    if not scores.is_published(records):
        drawn += (
            ' F1: average over the data sets on which no method is missing; bars ± one standard deviation over seeds.'
        )
    return [*notes, drawn + ' Linear probing: the head alone.']


@renderer('figure3', TITLE3, 'How much does each method reach for the parameters that it trains?')
def figure3(records: pd.DataFrame, f1: str = 'weighted') -> Figure:
    """Figure 3: average F1 against trainable parameters on the CNN and ViT-Base; the study above, the paper beneath."""
    chosen = scores.seed_scores(records, f1, prefer=scores.TABLE_EXPERIMENTS)
    published = scores.is_published(records)
    printed = [_printed(encoder, methods) for encoder, methods in PANELS]
    ours = [] if published else [_measured(chosen, encoder, methods) for encoder, methods in PANELS]
    shown = pd.concat([rows for rows in (ours if any(map(len, ours)) else []) if len(rows)] or [chosen.iloc[:0]])
    within = chosen[chosen['encoder'].isin(shown['encoder']) & (chosen['fraction'] == 1.0)]
    without = [encoder for (encoder, _), rows in zip(PANELS, ours, strict=False) if not len(rows)]
    notes = _notes3(records, within, f1, without)
    lines = [printed] if published else [ours, printed]
    beneath = footer_height(notes, style.TEXT_WIDTH)
    height = 2.75 * len(lines) + beneath + 0.1
    with style.drawing():
        figure = style.new_figure(style.TEXT_WIDTH, height)
        axes = figure.subplots(len(lines), 2, squeeze=False)
        top, bottom = 1 - 0.3 / height, (beneath + 0.45) / height
        figure.subplots_adjust(0.075, bottom, 0.985, top, 0.16, 0.36)
        for line, (across, panels) in enumerate(zip(axes, lines, strict=True)):
            for axis, rows, (encoder, _) in zip(across, panels, PANELS, strict=True):
                _fill_panel(axis, rows, encoder, chosen, theirs=published or line == 1)
            across[0].set_ylabel('average F1' if published or line == 1 else f'average {f1} F1')
        for axis in axes[-1]:
            axis.set_xlabel('trainable parameters (log scale)')
        footer(figure, notes, beneath)
    data = pd.concat([rows for rows in [*ours, *printed] if len(rows)], ignore_index=True)
    title = TITLE3 + (', synthetic images' if provenance.is_synthetic(within) else '')
    return Figure(name='figure3', title=title, figure=figure, notes=notes, data=data)


def _fill_panel(axis, rows: pd.DataFrame, encoder: str, chosen: pd.DataFrame, theirs: bool) -> None:
    if not len(rows):
        axis.set_axis_off()
        axis.text(0.5, 0.5, f'no run of this study\nis on {encoder}', ha='center', va='center', color=style.GREY)
        return
    here = chosen[chosen['encoder'] == encoder]
    number = 5 if theirs else int(rows['datasets'].iloc[0])
    name = f'Paper: {encoder}' if theirs else here['backbone_label'].iloc[0]
    lines = _tradeoff(axis, rows, f'{name}, {number} dataset{"s" if number > 1 else ""}')
    rows = rows.dropna(subset=['f1', 'parameters'])
    place_labels(axis, rows[['parameters', 'f1']].to_numpy(), rows['method'].to_list(), lines)
    if not theirs and provenance.is_synthetic(here):
        mark_synthetic(axis)


def _ladder(axes, ranked: pd.Series, cd: float | None) -> None:
    """Methods from best to worst on an axis of ranks, each with a bar as long as the critical difference."""
    ranked = ranked.sort_values()
    for position, (method, rank) in enumerate(ranked.items()):
        look = style.look(method)
        axes.plot([rank, len(ranked) + 0.2], [position] * 2, color=style.PALE, linewidth=0.6, zorder=1)
        if cd is not None:
            axes.plot([rank, rank + cd], [position] * 2, color=look['color'], linewidth=3, alpha=0.3, zorder=2,
                      solid_capstyle='butt')  # fmt: skip
        axes.plot(rank, position, marker=look['marker'], color=look['color'], markersize=6.5, zorder=3)
        axes.annotate(
            f'{rank:.2f}', (rank, position), (-6, 0), textcoords='offset points', ha='right', va='center', size=7
        )
    axes.set_yticks(range(len(ranked)), ranked.index)
    axes.set_ylim(len(ranked) - 0.5, -0.6)
    axes.set_xlim(0.3, len(ranked) + 0.2)
    axes.set_xticks(range(1, len(ranked) + 1))
    axes.grid(axis='y', visible=False)
    axes.set_xlabel('average rank (1 is best)')


def _rank_notes(records, chosen, blocks: pd.DataFrame, f1: str) -> list[str]:
    notes = provenance.describe(records, chosen, f1, spread=False)
    test = ranks.friedman(blocks)
    if test is None:
        few = f'{len(blocks)} complete block{"s" if len(blocks) != 1 else ""}'
        return [
            *notes,
            f'No test: {few} of data set and encoder in which no method is missing, and a test needs three.',
        ]
    pairs = ranks.wilcoxon_holm(blocks)
    apart = [(a, b) for i, a in enumerate(pairs) for b in list(pairs)[i + 1 :] if pairs.loc[a, b] < 0.05]
    cd = ranks.critical_difference(test.methods, test.blocks)
    together = SHARED if blocks.index.get_level_values('encoder').nunique() > 1 else ''
    told = ', '.join(f'{a} and {b}' for a, b in apart) or 'none'
    return [
        *notes,
        f'{test} (data set and encoder), ties by average. Bar: Nemenyi critical difference {cd:.2f} '
        '(5 %); methods within it are not told apart (Demšar 2006).',
        f'Pairs told apart by Wilcoxon signed-rank tests with Holm’s correction (5 %): {told}.{together}',
    ]


def _rank_figure(
    name: str, title: str, records: pd.DataFrame, f1: str, encoders: Sequence[str], methods: Sequence[str]
):
    chosen = scores.seed_scores(records, f1, prefer=scores.TABLE_EXPERIMENTS)
    chosen = chosen[chosen['encoder'].isin(encoders) & chosen['method'].isin(methods) & (chosen['fraction'] == 1.0)]
    blocks = scores.complete(scores.grid(chosen, methods, encoders))
    notes = _rank_notes(records, chosen, blocks, f1)
    tested = ranks.friedman(blocks) is not None
    ranked = ranks.average_rank(blocks, 'average', decimals=None) if blocks.size else pd.Series(dtype=float)
    beneath = footer_height(notes, 4.6)
    height = 0.24 * max(len(ranked), 2) + 0.95 + beneath
    with style.drawing():
        figure = style.new_figure(4.6, height)
        axes = figure.subplots()
        figure.subplots_adjust(1.15 / 4.6, (beneath + 0.45) / height, 0.97, 1 - 0.38 / height)
        labels = list(dict.fromkeys(chosen['backbone_label'])) or ['no run of this study']
        axes.set_title(labels[0] if len(labels) == 1 else f'{len(labels)} encoders, {len(blocks)} blocks')
        if len(ranked):
            _ladder(axes, ranked, ranks.critical_difference(len(ranked), len(blocks)) if tested else None)
        if provenance.is_synthetic(chosen):
            mark_synthetic(axes)
        footer(figure, notes, beneath)
    data = pd.DataFrame({'method': ranked.index, 'average_rank': ranked.to_numpy(), 'blocks': len(blocks)})
    return Figure(name=name, title=title, figure=figure, notes=notes, data=data, further=_pairs(blocks))


def _pairs(blocks: pd.DataFrame) -> dict[str, pd.DataFrame]:
    pairs = ranks.wilcoxon_holm(blocks)
    return {} if pairs is None else {'wilcoxon_holm_p': pairs.rename_axis('method').reset_index()}


@renderer('ranks_cnn', TITLE_CNN, 'Are the differences between methods on the CNN more than chance?')
def ranks_cnn(records: pd.DataFrame, f1: str = 'weighted') -> Figure:
    """Average ranks over the data sets of Table 2, with Friedman's test and the Nemenyi critical difference."""
    return _rank_figure('ranks_cnn', TITLE_CNN, records, f1, ('ResNet50',), paper.CNN_METHODS)


@renderer('ranks_vit', TITLE_VIT, 'Are the differences between methods on vision transformers more than chance?')
def ranks_vit(records: pd.DataFrame, f1: str = 'weighted') -> Figure:
    """Average ranks over the (data set, encoder) blocks of Table 3, with Friedman's test and critical difference."""
    return _rank_figure('ranks_vit', TITLE_VIT, records, f1, VITS, paper.VIT_METHODS)
