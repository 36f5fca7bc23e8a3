"""Tables 2, 3 and 5 of the paper: F1 by encoder, method and data set, from records, the paper's beneath in grey.

Rows are the paper's methods and whatever else the records hold; what was not run is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from medpeft_utils.report import paper, provenance, scores
from medpeft_utils.report.inference import Interval, random_effects
from medpeft_utils.report.output import MISSING, Nothing, Output, Row, Table, renderer

OURS, THEIRS = 'this study', 'paper'
SELF_SUPERVISED = ('MAE', 'CLIP', 'DINO')
BOLD = (
    'Bold: the best mean of its column and encoder, and every method that is not detectably worse (paired, 95 %). '
    'Minus full FT: the mean over these data sets; from three on by random effects, and where a further one would lie.'
)


@dataclass(frozen=True)
class Layout:
    """What a table of scores holds: which encoders, and the paper's methods in their order."""

    name: str
    title: str
    encoders: tuple[str, ...]
    methods: tuple[str, ...]
    belongs: Callable[[pd.DataFrame], pd.Series]  # which runs of a study

    def of(self, chosen: pd.DataFrame) -> pd.DataFrame:
        """The runs that this table shows."""
        pretrained = ~chosen['encoder'].str.endswith(scores.RANDOM)
        return chosen[pretrained & self.belongs(chosen)] if len(chosen) else chosen


def _like(names: tuple[str, ...]) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda chosen: chosen['encoder'].str.contains('|'.join(names), case=False)


TABLE2 = Layout(
    'table2',
    'Table 2: F1 of fine-tuning methods on the CNN',
    ('ResNet50',),
    paper.CNN_METHODS,
    lambda chosen: chosen['family'] == 'cnn',
)
TABLE3 = Layout(
    'table3',
    'Table 3: F1 of fine-tuning methods on vision transformers',
    ('ViT-Base', 'ViT-Large', 'ViT-Huge'),
    paper.VIT_METHODS,
    lambda chosen: (chosen['family'] == 'vit') & ~_like(('MAE', 'CLIP'))(chosen),
)
TABLE5 = Layout(
    'table5',
    'Table 5: F1 on encoders pre-trained without labels',
    ('ViT-Base MAE', 'ViT-Base CLIP'),
    paper.VIT_METHODS,
    lambda chosen: (chosen['family'] == 'vit') & _like(SELF_SUPERVISED)(chosen),
)


def score(mean: float, sd: float = math.nan) -> str:
    """A cell as the paper prints it: '0.94 ± 0.7', F1 and its spread in points; '-' where it is missing."""
    if math.isnan(mean):
        return MISSING
    return f'{mean:.2f}' if math.isnan(sd) else f'{mean:.2f} ± {100 * sd:.1f}'


def bracketed(found: Interval, sd: float = math.nan) -> str:
    """A score with its interval, '0.72 [.68, .76]'; with its spread over seeds where there is no interval."""
    if not found.known:
        return score(found.value, sd)
    ends = (f'{max(end, 0):.2f}' for end in (found.low, min(found.high, 1)))
    return f'{found.value:.2f} [{", ".join(end.removeprefix("0") if end < "1" else end for end in ends)}]'


def count(number: float) -> str:
    """A number of parameters in the paper's units: '10.6M', '53.1K'."""
    if math.isnan(number):
        return MISSING
    for unit, size in (('M', 1e6), ('K', 1e3)):
        if number >= size:
            return f'{number / size:.3g}{unit}' if number < 100 * size else f'{number / size:.0f}{unit}'
    return f'{number:.0f}'


def not_worse(rows: pd.DataFrame) -> set[str]:
    """Of the runs of one encoder and data set: the best method by its mean, and those not detectably worse."""
    means = rows.groupby('method')['score'].mean()
    best = means.idxmax()
    if rows['printed'].any():
        return set(means.index[scores.as_printed(means) == scores.as_printed(means).max()])
    kept, samples = {best}, {method: scores.sample(own) for method, own in rows.groupby('method', sort=False)}
    for method in means.index.drop(best):
        found = (samples[best] - samples[method]).interval()
        if found.known and found.low <= 0:
            kept.add(method)
    return kept


def _counted(rows: pd.DataFrame, method: str) -> str:
    """Trainable parameters without the head; of linear probing the head, as a range over data sets."""
    column = 'head_parameters' if method == 'Linear Probing' else 'trainable_parameters'
    numbers = rows.loc[rows['method'] == method, column].dropna()
    ends = [count(numbers.min()), count(numbers.max())] if len(numbers) else [MISSING] * 2
    return ends[0] if ends[0] == ends[1] else ' to '.join(ends)


def _over_sets(rows: pd.DataFrame, method: str) -> str:
    """A method minus full fine-tuning over the data sets of an encoder."""
    if method == scores.FULL:
        return ''
    rows = rows[rows['fraction'] == 1] if (rows['fraction'] == 1).any() else rows  # a part of a set is no further set
    parts = [one.interval() for one in scores.gains_by(rows, method, by=('data',)).values()]
    if len(parts) < 3 or not all(part.known for part in parts):
        return scores.mean_difference(scores.block_samples(rows), method).text() if parts else MISSING
    pooled = random_effects(parts)
    return f'{pooled.mean.text()}; {_ends(pooled.prediction)}'


def _ends(ends: tuple[float, float]) -> str:
    return f'{100 * ends[0]:+.0f} to {100 * ends[1]:+.0f}'


def _blocks(layout: Layout, own: pd.DataFrame, theirs: pd.DataFrame, data: list[str], published: bool) -> list[Row]:
    """The rows of every encoder: a row a method, the paper's beneath where it has the same encoder and data."""
    rows = []
    for encoder in scores.in_order(own['encoder'], paper.ENCODERS):
        here = own[own['encoder'] == encoder]
        best = {name: not_worse(group) for name, group in here.groupby('data')}
        printed = theirs[theirs['encoder'] == encoder]
        for method in scores.in_order(here['method'], layout.methods):
            rows.append(_study_row(here, encoder, method, data, best, published))
            beneath = printed[printed['method'] == method]
            if len(beneath) and set(beneath['data']) & set(here['data']):
                cells = [_printed(beneath, name) if name in set(here['data']) else MISSING for name in data]
                of = paper.printed_parameters(encoder).get(method, MISSING)
                rows.append(Row((encoder, method, THEIRS), [*cells, '', of], muted=True))
    return rows


def _study_row(rows: pd.DataFrame, encoder: str, method: str, data: list[str], best, published: bool):
    cells, bold = [], []
    for name in data:
        cell = rows[(rows['data'] == name) & (rows['method'] == method)]
        if cell.empty:
            cells.append(MISSING)
        elif published:
            cells.append(_printed(cell, name))
        else:
            cells.append(bracketed(scores.sample(cell).interval(), cell['score'].std(ddof=1)))
        bold.append(method in best.get(name, ()))
    params = paper.printed_parameters(encoder).get(method, MISSING) if published else _counted(rows, method)
    apart = _over_sets(rows, method) if not published else ''
    label = THEIRS if published else OURS
    return Row((encoder, method, label), [*cells, apart, params], [*bold, False, False])


def _printed(rows: pd.DataFrame, data: str) -> str:
    cell = rows[rows['data'] == data]
    return score(cell['score'].iloc[0], cell['spread'].iloc[0]) if len(cell) else MISSING


def _data_label(own: pd.DataFrame, data: str) -> str:
    rows = own[own['data'] == data]
    images = rows['train_images'].max()
    return data if math.isnan(images) else f'{data} ({int(images):,})'


def numbers(layout: Layout, own: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """The numbers unrounded, a row for each encoder, data set and method, ours and the paper's side by side."""
    printed = theirs.drop_duplicates(['encoder', 'data', 'method']).set_index(['encoder', 'data', 'method'])
    rows = []
    for (encoder, data), here in own.groupby(['encoder', 'data'], sort=False):
        for method in scores.in_order(here['method'], layout.methods):
            cell = here[here['method'] == method]
            row = {'encoder': encoder, 'dataset': data, 'method': method}
            if not cell['printed'].any():
                found, apart = scores.sample(cell).interval(), scores.gain(here, method).interval()
                row |= {'f1': found.value, 'sd': cell['score'].std(ddof=1), 'low': found.low, 'high': found.high}
                row |= {'minus_full_ft': apart.value, 'minus_low': apart.low, 'minus_high': apart.high}
                row |= {'seeds': found.seeds, 'splits': found.splits, 'groups': found.groups, 'over': found.over}
            key = (encoder, data, method)
            row |= {
                name: printed[of].get(key, math.nan) for name, of in (('paper_f1', 'score'), ('paper_spread', 'spread'))
            }
            rows.append(row)
    return pd.DataFrame(rows)


def _contradictions(layout: Layout, own: pd.DataFrame) -> list[str]:
    """Averages that the paper prints and its own cells do not give."""
    found = []
    for encoder in layout.encoders:
        printed = paper.printed_averages(encoder)
        means = scores.complete(scores.grid(own, layout.methods, [encoder])).mean().reindex(printed.index)
        wrong = printed.index[scores.as_printed(means) != printed]
        found += [f'{method} on {encoder} {printed[method]:.2f} (cells: {means[method]:.3f})' for method in wrong]
    return [f'Printed averages that the printed cells do not give: {", ".join(found)}.'] if found else []


def score_table(layout: Layout, records: pd.DataFrame, f1: str) -> Output:
    """A table of F1 by encoder, method and data set; Nothing where no run belongs to it."""
    published = scores.is_published(records)
    own = layout.of(scores.table_scores(records, f1))
    if own.empty:
        return Nothing(notes=provenance.describe(records, own, f1))
    theirs = layout.of(scores.table_scores(paper.records())) if not published else own
    data = scores.in_order(own['data'], paper.DATASETS)
    rows = _blocks(layout, own, theirs if not published else own.iloc[:0], data, published)
    others = [] if published else [average for average in scores.AVERAGES if average != f1]
    further = {f'f1_{a}': numbers(layout, layout.of(scores.table_scores(records, a)), theirs) for a in others}
    notes = provenance.describe(records, own, f1)
    columns = ['Encoder', 'Method', 'Source', *(_data_label(own, name) for name in data)]
    return Table(
        synthetic=provenance.is_synthetic(own),
        columns=[*columns, 'Minus full FT, points', 'Trained parameters'],
        rows=rows,
        notes=[*notes, *(_contradictions(layout, own) if published else [BOLD])],
        top=[] if published else provenance.smallest(own),
        data=numbers(layout, own, theirs),
        further=further,
    )


@renderer('table2', TABLE2.title, 'Which method is best on a CNN, data set by data set?')
def table2(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Table 2: CNNs, the paper's six methods and others that were run."""
    return score_table(TABLE2, records, f1)


@renderer('table3', TABLE3.title, 'Which method is best on vision transformers, and does it depend on their size?')
def table3(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Table 3: vision transformers, the paper's eight methods and others that were run."""
    return score_table(TABLE3, records, f1)


@renderer('table5', TABLE5.title, 'Does the order of methods hold for encoders pre-trained without labels?')
def table5(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Table 5: encoders pre-trained by MAE, CLIP or DINO."""
    return score_table(TABLE5, records, f1)
