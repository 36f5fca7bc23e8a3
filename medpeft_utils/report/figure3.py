"""Figure 3 of the paper (F1 against trainable parameters), and average ranks as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from medpeft_utils.report import paper, provenance, scores, style
from medpeft_utils.report.output import Figure, Nothing, Output, renderer
from medpeft_utils.report.score_tables import TABLE2, TABLE3, Layout
from medpeft_utils.report.style import bar, place_labels, sheet

LARGEST_AREA = 700  # square points of the disc of a method that trains every parameter
DRAWN = (
    'Disc: area proportional to the share of the parameters that is trained. Dashed: Pareto front, of methods that '
    'are detectably better than every cheaper one on it. F1: average over the data sets on which no method is missing; '
    'bar: 95 % interval of the difference from full FT, around the method. Linear probing: the head alone.'
)
BARS = 'Bars: 95 % intervals of the difference from full FT, around each method. Disc: the share that is trained.'
RANKED = (
    'Ranks of unrounded scores, ties share their average rank, over data sets and encoders (blocks) in which no method '
    'is missing. Ranks do not show how large a difference is; the tables do.'
)


def pareto(cost: Sequence[float], better: Sequence[Sequence[bool]]) -> list[int]:
    """Positions of the points on the front, from cheap to dear: each detectably better than the one before it.

    Args:
        cost: of each point.
        better: better[i][j], whether i is detectably better than j.
    """
    front: list[int] = []
    for i in sorted(range(len(cost)), key=lambda i: cost[i]):
        if not front or better[i][front[-1]]:
            front.append(i)
    return front


def front_of(cost: pd.Series, samples: Sequence[dict]) -> list[str]:
    """The methods on the front of a cost (indexed by method), by their samples on each data set."""
    names = list(cost.index)
    better = [[a != b and scores.mean_difference(samples, a, b).low > 0 for b in names] for a in names]
    return [names[place] for place in pareto(list(cost), better)]


def on_complete_sets(chosen: pd.DataFrame, methods: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs on data sets of which no method is missing, and their means: a row a data set, a column a method."""
    order = scores.in_order(chosen['method'], methods)
    blocks = scores.complete(scores.grid(chosen, order, list(chosen['encoder'].unique())))
    return chosen[pd.MultiIndex.from_frame(chosen[['encoder', 'data']]).isin(blocks.index)], blocks


def _printed(encoder: str, methods: Sequence[str]) -> pd.DataFrame:
    """The paper's averages and parameters of an encoder."""
    parameters = paper.printed_parameters(encoder).reindex(methods).map(paper.parse_count)
    rows = pd.DataFrame({'f1': paper.printed_averages(encoder).reindex(methods), 'parameters': parameters})
    rows['share'] = rows['parameters'] / rows['parameters'].max()
    return rows.assign(low=math.nan, high=math.nan, datasets=5, encoder=encoder).rename_axis('method').reset_index()


def _measured(chosen: pd.DataFrame, methods: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The runs of one encoder on complete data sets, their averages and counts, and the methods on its front."""
    here, blocks = on_complete_sets(chosen, methods)
    if not blocks.size:
        return chosen, pd.DataFrame(), []
    counted = here.groupby('method')[['trainable_parameters', 'head_parameters', 'total_parameters']].mean()
    rows, samples = [], scores.block_samples(here)
    for method in blocks.columns:
        mean, count, ends = blocks[method].mean(), counted.loc[method], {'low': math.nan, 'high': math.nan}
        if scores.FULL in blocks and method != scores.FULL:
            apart = scores.mean_difference(samples, method)
            ends = {'low': mean + apart.low - apart.value, 'high': mean + apart.high - apart.value}
        parameters = count['head_parameters' if method == 'Linear Probing' else 'trainable_parameters']
        share = parameters / count['total_parameters']
        rows.append({'method': method, 'f1': mean, 'parameters': parameters, 'share': share, **ends})
    table = pd.DataFrame(rows).assign(datasets=len(blocks), encoder=chosen['encoder'].iloc[0])
    return here, table, front_of(table.set_index('method')['parameters'], samples)


def _units(value: float, position: int = 0) -> str:
    for unit, size in (('M', 1e6), ('K', 1e3)):
        if value >= size:
            return f'{value / size:g}{unit}'
    return f'{value:g}'


def draw_points(
    axes, rows: pd.DataFrame, front: Sequence[str], reach: float = 6, lines: Sequence = (), size: float = 7
):
    """Points against a logarithmic cost with the front, and a label at each.

    Args:
        rows: columns method, cost, score.
        front: the methods on it, from cheap to dear.
        reach: room to the right of the dearest, as a factor.
        lines: that no label should lie on.
        size: of the labels, in points.
    """
    axes.set_xscale('log')
    axes.set_xlim(rows['cost'].min() / 3, rows['cost'].max() * reach)
    at = rows.set_index('method')
    step = axes.step(at['cost'][front], at['score'][front], where='post', color=style.GREY, linewidth=0.9, ls='--')
    colors = [style.look(method)['color'] for method in rows['method']]
    for row, color in zip(rows.itertuples(), colors, strict=True):
        how = {'color': color, 'markeredgecolor': 'white', 'markersize': 6, 'markeredgewidth': 0.6, 'zorder': 4}
        axes.plot(row.cost, row.score, marker=style.look(row.method)['marker'], **how)
    axes.minorticks_off()
    axes.figure.draw_without_rendering()  # the layout must be final before labels find their places
    place_labels(axes, rows[['cost', 'score']].to_numpy(), list(rows['method']), colors, [*step, *lines], size)


def _draw(axes, rows: pd.DataFrame, front: list[str], title: str) -> None:
    """Discs, bars, points and the front of one encoder."""
    rows = rows.dropna(subset=['f1', 'parameters'])
    low, high = rows[['f1', 'low']].min().min(), rows[['f1', 'high']].max().max()
    room, lines = max(high - low, 0.02), []
    axes.set_ylim(low - 0.14 * room, high + 0.16 * room)
    for row in rows.itertuples():
        color = style.look(row.method)['color']
        axes.scatter(row.parameters, row.f1, s=LARGEST_AREA * row.share, alpha=0.2, color=color, linewidth=0)
        lines += bar(axes, row.parameters, row.low, row.high, color)
    axes.set_title(title)
    axes.xaxis.set_major_formatter(_units)
    axes.locator_params(axis='y', nbins=6, steps=[1, 2, 5, 10])
    draw_points(axes, rows.rename(columns={'parameters': 'cost', 'f1': 'score'}), front, lines=lines)


@renderer(
    'figure3',
    'Figure 3: performance against trainable parameters',
    'How much does each method reach for the parameters that it trains?',
)
def figure3(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Figure 3: average F1 against trainable parameters, a panel for each encoder of the study (or the paper's two)."""
    chosen, published, panels = scores.table_scores(records, f1), scores.is_published(records), []
    chosen = chosen[~chosen['encoder'].astype(str).str.endswith(scores.RANDOM)]
    for encoder in scores.in_order(chosen['encoder'], paper.ENCODERS):
        here = chosen[chosen['encoder'] == encoder]
        known = paper.methods_of(here)
        if published and encoder in ('ResNet50', 'ViT-Base'):
            panels.append((here, _printed(encoder, known), []))
        elif not published:
            here, table, front = _measured(here, known)
            if len(table) > 3 or (len(table) > 2 and not panels):
                panels.append((here, table, front))
    if not panels:
        return Nothing(notes=['No encoder was run with three methods on one data set.'])
    used = pd.concat([here for here, *_ in panels])
    notes = provenance.describe(records, used, f1)
    wide = len(panels) == 1 or max(len(table) for _, table, _ in panels) > 10
    across = 1 if wide else 2
    down, size = math.ceil(len(panels) / across), (7.2, 3.4) if wide else (3.6, 2.7)
    figure, axes = sheet(down, across, *size)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (here, table, front) in zip(axes.flat, panels, strict=False):
        axis.set_xlabel('trainable parameters (log scale)')
        axis.set_ylabel('average F1' if published else f'average {f1} F1')
        many = provenance.from_to(table['datasets'], 'data set')
        _draw(axis, table, front, f'{here["backbone_label"].iloc[0]}, {many}')
    return Figure(
        synthetic=provenance.is_synthetic(used),
        figure=figure,
        footer=[*([] if published else [BARS]), *notes],
        notes=[*notes, DRAWN],
        data=pd.concat([table for _, table, _ in panels], ignore_index=True),
    )


# ---- ranks


def _rank_draws(chosen: pd.DataFrame, blocks: pd.DataFrame) -> np.ndarray | None:
    """[draws, methods] of average ranks: scores of a block are drawn over groups and seeds; None without rows."""
    every = []
    for encoder, data in blocks.index:
        here = chosen[(chosen['encoder'] == encoder) & (chosen['data'] == data)]
        samples = [scores.sample(here[here['method'] == method]) for method in blocks]
        if any(one.draws is None or len({key[0] for key in one.keys}) > 1 for one in samples):
            return None
        drawn = pd.DataFrame(np.stack([one.drawn() for one in samples], axis=1))
        every.append(drawn.rank(axis=1, ascending=False).to_numpy())
    return np.mean(every, axis=0)


def _ladder(axes, table: pd.DataFrame) -> None:
    """Methods from best to worst on an axis of ranks, each with its bar where there is one."""
    for position, row in enumerate(table.itertuples()):
        look = style.look(row.method)
        axes.plot([1, len(table)], [position] * 2, color=style.PALE, linewidth=0.6, zorder=1)
        bar(axes, position, row.low, row.high, look['color'], across=True, linewidth=4, alpha=0.3)
        axes.plot(row.average_rank, position, marker=look['marker'], color=look['color'], markersize=6.5, zorder=4)
    axes.set_yticks(range(len(table)), table['method'])
    axes.set_ylim(len(table) - 0.5, -0.6)
    axes.set_xlim(0.7, len(table) + 0.3)
    axes.set_xticks(range(1, len(table) + 1, 1 if len(table) < 12 else 3))
    axes.grid(axis='y', visible=False)
    axes.set_xlabel('average rank (1 is best)')


def average_ranks(chosen: pd.DataFrame, layout: Layout) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs on complete (encoder, data) blocks, and their average ranks: unrounded scores, ties share theirs."""
    here, blocks = on_complete_sets(chosen, layout.methods)
    if blocks.shape[1] < 3 or not len(blocks):
        return chosen, pd.DataFrame()
    found = scores.average_rank(blocks, 'average', decimals=None)
    table = pd.DataFrame({'method': found.index, 'average_rank': found.to_numpy(), 'low': math.nan, 'high': math.nan})
    drawn = None if chosen['printed'].any() else _rank_draws(here, blocks)
    if drawn is not None:
        table[['low', 'high']] = np.quantile(drawn, [0.025, 0.975], axis=0).T
    return here, table.assign(blocks=len(blocks)).sort_values('average_rank', ignore_index=True)


@renderer('ranks', 'Average ranks, as a picture', 'In which order do the methods come out, on average?')
def ranks_figure(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Average ranks on CNNs and on vision transformers: a picture, not a test."""
    chosen, panels = scores.table_scores(records, f1), []
    for layout, family in ((TABLE2, 'CNNs'), (TABLE3, 'Vision transformers')):
        here = layout.of(chosen)
        here, table = average_ranks(here, layout) if len(here) else (here, pd.DataFrame())
        if len(table):
            panels.append((here, table.assign(family=family)))
    if not panels:
        return Nothing(notes=['No three methods were run on one data set.'])
    used, data = (pd.concat(parts, ignore_index=True) for parts in zip(*panels, strict=True))
    notes = provenance.describe(records, used, f1)
    bars = ['Bars: 95 % intervals over patients and seeds.'] if data['low'].notna().any() else []
    height = 0.22 * max(len(table) for _, table in panels) + 0.9
    figure, axes = sheet(1, len(panels), 3.5, height)
    for axis, (_, table) in zip(axes[0], panels, strict=True):
        _ladder(axis, table)
        axis.set_title(f'{table["family"][0]}, {provenance.from_to(table["blocks"], "block")}')
    return Figure(
        synthetic=provenance.is_synthetic(used),
        figure=figure,
        footer=[*bars, *notes],
        notes=[*notes, *bars, RANKED],
        data=data,
    )
