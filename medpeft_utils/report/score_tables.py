"""Tables 2, 3 and 5 of the paper: F1 by encoder, data set and method, from records, each beside the paper's numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from medpeft_utils.report import paper, provenance, ranks, scores
from medpeft_utils.report.output import MISSING, Row, Table
from medpeft_utils.report.renderers import renderer

OURS, THEIRS = 'this study', 'paper'


@dataclass(frozen=True)
class Layout:
    """What a table of scores holds: which encoders and methods, under which tie rule, averaged over what."""

    name: str
    title: str
    encoders: tuple[str, ...]
    methods: tuple[str, ...]
    ties: str
    combined: bool = False  # one average rank over all encoders (Table 3), rather than one for each
    caution: str = ''


TABLE2 = Layout('table2', 'Table 2: F1 of fine-tuning methods on the CNN', ('ResNet50',), paper.CNN_METHODS, 'dense')
TABLE3 = Layout(
    'table3',
    'Table 3: F1 of fine-tuning methods on vision transformers of three sizes',
    ('ViT-Base', 'ViT-Large', 'ViT-Huge'),
    paper.VIT_METHODS,
    'average',
    combined=True,
)
TABLE5 = Layout(
    'table5',
    'Table 5: F1 on ViT-Base encoders pre-trained without labels (MAE) and with captions (CLIP)',
    ('ViT-Base MAE', 'ViT-Base CLIP'),
    paper.VIT_METHODS,
    'average',
    caution='The ranks that the paper prints for Table 5 come out under no tie rule from its rounded cells.',
)


@dataclass(frozen=True)
class Side:
    """The scores of one source, this study or the paper, for one table."""

    label: str
    scores: pd.DataFrame
    summary: pd.DataFrame  # indexed by (encoder, data, method)
    grid: pd.DataFrame
    blocks: pd.DataFrame  # the complete rows of `grid`, over which averages are taken


def _side(label: str, records: pd.DataFrame, f1: str, layout: Layout) -> Side:
    chosen = scores.seed_scores(records, f1, prefer=scores.TABLE_EXPERIMENTS)
    wanted = chosen['method'].isin(layout.methods) & chosen['encoder'].isin(layout.encoders)
    chosen = chosen[wanted & (chosen['fraction'] == 1.0)]
    summary = scores.summarise(chosen).set_index(['encoder', 'data', 'method']).sort_index()
    grid = scores.grid(chosen, layout.methods, layout.encoders)
    return Side(label, chosen, summary, grid, scores.complete(grid))


def score(mean: float, sd: float = math.nan) -> str:
    """A cell as the paper prints it: '0.94 ± 0.7', F1 and its spread in points; '-' where it is missing."""
    if math.isnan(mean):
        return MISSING
    return f'{mean:.2f}' if math.isnan(sd) else f'{mean:.2f} ± {100 * sd:.1f}'


def count(number: float) -> str:
    """A number of parameters in the paper's units: '10.6M', '53.1K'."""
    if math.isnan(number):
        return MISSING
    for unit, size in (('M', 1e6), ('K', 1e3)):
        if number >= size:
            return f'{number / size:.3g}{unit}' if number < 100 * size else f'{number / size:.0f}{unit}'
    return f'{number:.0f}'


def _best(values: pd.Series, decimals: int, lowest: bool = False) -> list[bool]:
    """Where a row is best as printed; every one of a tie."""
    printed = ranks.as_printed(values, decimals)
    best = printed.min() if lowest else printed.max()
    return [bool(value == best) for value in printed]


def _cells(layout: Layout, means: pd.Series, sds: pd.Series | None = None) -> tuple[list[str], list[bool]]:
    means = means.reindex(layout.methods).astype(float)
    sds = pd.Series(math.nan, layout.methods) if sds is None else sds.reindex(layout.methods).astype(float)
    return [score(mean, sd) for mean, sd in zip(means, sds, strict=True)], _best(means, 2)


def _datasets(layout: Layout, sides: list[Side], encoder: str) -> list[str]:
    """The paper's data sets, then the study's own."""
    own = [data for side in sides for at, data in side.grid.index if at == encoder]
    return list(dict.fromkeys([*paper.DATASETS, *own]))


def _data_label(side: Side, encoder: str, data: str) -> str:
    rows = side.scores[(side.scores['encoder'] == encoder) & (side.scores['data'] == data)]
    if rows.empty or rows['train_images'].isna().all():
        return f'{data} ({paper.TRAINING_IMAGES[data]:,})' if data in paper.TRAINING_IMAGES else data
    synthetic = 'synthetic, ' if provenance.is_synthetic(rows) else ''
    return f'{data} ({synthetic}{int(rows["train_images"].max()):,})'


def _dataset_rows(layout: Layout, sides: list[Side], encoder: str) -> Iterator[Row]:
    for number, data in enumerate(_datasets(layout, sides, encoder)):
        for place, side in enumerate(sides):
            nothing = pd.Series(math.nan, layout.methods)
            here = (encoder, data) in side.grid.index
            values = side.summary.loc[(encoder, data)] if here else None
            means, sds = (nothing, nothing) if values is None else (values['mean'], values['sd'])
            heads = (encoder, _data_label(sides[0], encoder, data), side.label)
            yield Row(heads, *_cells(layout, means, sds), muted=place > 0, rule=number == place == 0)


def _within(side: Side, encoder: str | None) -> pd.DataFrame:
    """The complete blocks of a side, of one encoder or (None) of all."""
    if encoder is None:
        return side.blocks
    return scores.complete(side.grid[side.grid.index.get_level_values('encoder') == encoder])


def _average_row(layout: Layout, head: str, label: str, side: Side, blocks: pd.DataFrame, muted: bool) -> Row:
    means = scores.averages(side.scores, blocks)
    return Row((head, 'Average F1', label), *_cells(layout, means['mean'], means['sd']), muted=muted)


def _rank_row(layout: Layout, head: str, label: str, values: pd.Series, muted: bool, decimals: int = 1) -> Row:
    values = values.reindex(layout.methods).astype(float)
    cells = [MISSING if math.isnan(value) else f'{value:.{decimals}f}' for value in values]
    return Row((head, 'Average rank', label), cells, _best(values, decimals, lowest=True), muted=muted)


def _comparable(blocks: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The rows and columns of `other` that `blocks` has."""
    return scores.complete(other.loc[other.index.isin(blocks.index), [m for m in other if m in blocks]])


def _summary_rows(layout: Layout, sides: list[Side], encoder: str | None, average: bool, rank: bool) -> Iterator[Row]:
    """Averages and ranks over complete blocks; the paper's as printed, and over the same cells where ours are fewer."""
    head, printed = encoder or 'Combined', encoder or 'combined'
    own, theirs = _within(sides[0], encoder), _within(sides[-1], encoder)
    compared = _comparable(own, theirs) if len(sides) > 1 else own
    fewer = len(sides) > 1 and 0 < compared.size < theirs.size
    label = sides[0].label if len(sides) > 1 else 'recomputed'
    if average:
        yield _average_row(layout, head, label, sides[0], own, False)
        if fewer:
            yield _average_row(layout, head, 'paper, same cells', sides[-1], compared, True)
        if len(values := paper.printed_averages(printed)):
            yield Row((head, 'Average F1', 'paper, printed'), *_cells(layout, values), muted=True)
    if rank:
        yield _rank_row(layout, head, label, _ranked(own, layout), False)
        if fewer:
            yield _rank_row(layout, head, 'paper, same cells', _ranked(compared, layout), True)
        if len(values := paper.printed_ranks(printed)):
            yield _rank_row(layout, head, 'paper, printed', values, True)


def _ranked(blocks: pd.DataFrame, layout: Layout) -> pd.Series:
    return ranks.average_rank(blocks, layout.ties) if blocks.size else pd.Series(dtype=float)


def _rows(layout: Layout, sides: list[Side]) -> list[Row]:
    rows = []
    for encoder in layout.encoders:
        rows += _dataset_rows(layout, sides, encoder)
        below = list(_summary_rows(layout, sides, encoder, average=True, rank=not layout.combined))
        rows += [Row(r.heads, r.cells, r.best, r.muted, rule=number == 0) for number, r in enumerate(below)]
    if layout.combined:
        below = list(_summary_rows(layout, sides, None, average=False, rank=True))
        rows += [Row(r.heads, r.cells, r.best, r.muted, rule=number == 0) for number, r in enumerate(below)]
    return rows


def _parameter_rows(layout: Layout, sides: list[Side]) -> list[Row]:
    encoder = layout.encoders[0]
    rows = []
    if len(sides) > 1:
        rows.append(Row((encoder, 'Trainable parameters', OURS), _counted(sides[0].scores, encoder, layout.methods)))
    printed = paper.printed_parameters(encoder).reindex(layout.methods)
    return [*rows, Row((encoder, 'Trainable parameters', 'paper'), list(printed), muted=len(sides) > 1)]


def _counted(chosen: pd.DataFrame, encoder: str, methods: tuple[str, ...]) -> list[str]:
    """Trainable parameters without the head; of linear probing the head, as a range over data sets."""
    cells = []
    for method in methods:
        rows = chosen[(chosen['encoder'] == encoder) & (chosen['method'] == method)]
        numbers = rows['head_parameters' if method == 'Linear Probing' else 'trainable_parameters'].dropna()
        ends = [count(numbers.min()), count(numbers.max())] if len(numbers) else [MISSING] * 2
        cells.append(ends[0] if ends[0] == ends[1] else ' to '.join(ends))
    return cells


def _numbers(layout: Layout, sides: list[Side]) -> pd.DataFrame:
    """The numbers unrounded, a row for each encoder, data set and method, ours and the paper's side by side."""
    rows = []
    for encoder in layout.encoders:
        for data in _datasets(layout, sides, encoder):
            for method in layout.methods:
                row = {'encoder': encoder, 'dataset': data, 'method': method}
                for side in sides:
                    row |= _number(side, (encoder, data, method), layout)
                rows.append(row)
        rows += _average_numbers(layout, sides, encoder)
    rows += _average_numbers(layout, sides, None) if layout.combined else []
    return pd.DataFrame(rows)


def _number(side: Side, cell: tuple[str, str, str], layout: Layout) -> dict[str, float]:
    if side.label == THEIRS:
        value = side.summary.loc[cell] if cell in side.summary.index else {'mean': math.nan, 'sd': math.nan}
        return {'paper_f1': value['mean'], 'paper_spread': value['sd']}
    values = side.summary.loc[cell] if cell in side.summary.index else dict.fromkeys(side.summary.columns, math.nan)
    row = {'f1': values['mean'], 'sd': values['sd'], 'ci95_low': values['low'], 'ci95_high': values['high']}
    placed = side.blocks[side.blocks.index == cell[:2]]
    rank = ranks.rank(placed, layout.ties).iloc[0].get(cell[2], math.nan) if len(placed) else math.nan
    return {**row, 'seeds': values['seeds'], 'rank': rank}


def _average_numbers(layout: Layout, sides: list[Side], encoder: str | None) -> list[dict]:
    own = _within(sides[0], encoder)
    means, ranked = scores.averages(sides[0].scores, own), _ranked(own, layout)
    printed = paper.printed_averages(encoder or 'combined'), paper.printed_ranks(encoder or 'combined')
    rows = []
    for method in layout.methods:
        row = {'encoder': encoder or 'Combined', 'dataset': f'Average over {len(own)}', 'method': method}
        if sides[0].label == OURS and method in means.index:
            value = means.loc[method]
            row |= {'f1': value['mean'], 'sd': value['sd'], 'ci95_low': value['low'], 'ci95_high': value['high']}
            row |= {'seeds': value['seeds'], 'rank': ranked[method]}
        elif method in means.index:
            row |= {'recomputed_f1': means.loc[method, 'mean'], 'recomputed_rank': ranked[method]}
        rows.append({**row, 'paper_f1': printed[0].get(method), 'paper_rank': printed[1].get(method)})
    return rows


def _score_notes(layout: Layout, sides: list[Side], records: pd.DataFrame, f1: str) -> list[str]:
    notes = provenance.describe(records, sides[0].scores, f1)
    if len(sides) > 1:
        wanted = [(e, d, m) for e in layout.encoders for d in paper.DATASETS for m in layout.methods]
        notes.append(provenance.missing(wanted, sides[0].summary.index))
    blocks = sides[0].blocks
    rule = f'Ranks: 1 is best, scores as printed, ties {layout.ties} ({ranks.TIES[layout.ties]}).'
    notes.append(
        f'Best in bold. Averages and ranks over the rows in which no method is missing. {rule} {layout.caution}'
    )
    test = ranks.friedman(blocks)
    rounding = 'scores as printed' if len(sides) == 1 else 'unrounded scores'
    notes.append(f'{test} on {rounding}.' if test else 'No Friedman test: fewer than three complete blocks.')
    if len(sides) == 1 and (differs := _contradictions(layout, sides[0])):
        notes.append(f'Printed averages that the printed cells do not give: {", ".join(differs)}.')
    return [note.strip() for note in notes]


def _contradictions(layout: Layout, side: Side) -> list[str]:
    """Averages that the paper prints and its own cells do not give."""
    found = []
    for encoder in layout.encoders:
        printed = paper.printed_averages(encoder)
        means = scores.averages(side.scores, _within(side, encoder))['mean'].reindex(printed.index)
        wrong = printed.index[ranks.as_printed(means) != printed]
        found += [f'{method} on {encoder} {printed[method]:.2f} (cells: {means[method]:.3f})' for method in wrong]
    return found


def score_table(layout: Layout, records: pd.DataFrame, f1: str) -> Table:
    """A table of F1 by encoder, data set and method, with the paper's in grey beneath each row of the study."""
    published = scores.is_published(records)
    own = _side(THEIRS if published else OURS, records, f1, layout)
    sides = [own] if published else [own, _side(THEIRS, paper.records(), f1, layout)]
    others = [] if published else [average for average in scores.AVERAGES if average != f1]
    further = {f'f1_{a}': _numbers(layout, [_side(OURS, records, a, layout), sides[-1]]) for a in others}
    rows = _rows(layout, sides) + (_parameter_rows(layout, sides) if len(layout.encoders) == 1 else [])
    return Table(
        name=layout.name,
        title=layout.title + (', synthetic images' if provenance.is_synthetic(own.scores) else ''),
        columns=['Encoder', 'Dataset (training images)', 'Source', *layout.methods],
        rows=rows,
        notes=_score_notes(layout, sides, records, f1),
        data=_numbers(layout, sides),
        further=further,
    )


@renderer('table2', TABLE2.title, 'Which method is best on a CNN, data set by data set?')
def table2(records: pd.DataFrame, f1: str = 'weighted') -> Table:
    """Table 2: ResNet-50, six methods, five data sets; dense ties."""
    return score_table(TABLE2, records, f1)


@renderer('table3', TABLE3.title, 'Which method is best on vision transformers, and does it depend on their size?')
def table3(records: pd.DataFrame, f1: str = 'weighted') -> Table:
    """Table 3: ViT-Base, Large and Huge, eight methods, five data sets; average ties."""
    return score_table(TABLE3, records, f1)


@renderer('table5', TABLE5.title, 'Does the order of methods hold for encoders pre-trained without labels?')
def table5(records: pd.DataFrame, f1: str = 'weighted') -> Table:
    """Table 5: ViT-Base by MAE and by CLIP, eight methods, five data sets; average ties."""
    return score_table(TABLE5, records, f1)
