"""Tables 1, 2, 3, 5 and 6 of the paper from records, and pre-trained against random weights.

Rows are the paper's methods and whatever else the records hold, the paper's numbers beneath in grey; what was not run
is left out.
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
KEY = ['encoder', 'data', 'method']
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


# ---- cells


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
    behind = {method: scores.gain(rows, best, method).interval() for method in means.index.drop(best)}
    return {best} | {method for method, one in behind.items() if one.known and one.low <= 0}


def _counted(rows: pd.DataFrame, method: str) -> str:
    """Trainable parameters without the head; of linear probing the head, as a range over data sets."""
    column = 'head_parameters' if method == 'Linear Probing' else 'trainable_parameters'
    numbers = rows.loc[rows['method'] == method, column].dropna()
    return ' to '.join(dict.fromkeys(map(count, (numbers.min(), numbers.max()))))


def _over_sets(rows: pd.DataFrame, method: str) -> str:
    """A method minus full fine-tuning over the data sets of an encoder."""
    if method == scores.FULL:
        return ''
    rows = rows[rows['fraction'] == 1] if (rows['fraction'] == 1).any() else rows  # a part of a set is no further set
    parts = [one.interval() for one in scores.gains_by(rows, method, by=('data',)).values()]
    if len(parts) < 3 or not all(part.known for part in parts):
        return scores.mean_difference(scores.block_samples(rows), method).text() if parts else MISSING
    pooled = random_effects(parts)
    low, high = pooled.prediction
    return f'{pooled.mean.text()}; {100 * low:+.0f} to {100 * high:+.0f}'


# ---- Tables 2, 3 and 5


def numbers(layout: Layout, own: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """The numbers unrounded, a row for each encoder, data set and method, ours and the paper's side by side."""
    printed = theirs.drop_duplicates(KEY).set_index(KEY)
    rows = []
    for (encoder, data), here in own.groupby(['encoder', 'data'], sort=False):
        for method in scores.in_order(here['method'], layout.methods):
            cell, key = here[here['method'] == method], (encoder, data, method)
            row = {'encoder': encoder, 'dataset': data, 'method': method}
            if not cell['printed'].any():
                found, apart = scores.sample(cell).interval(), scores.gain(here, method).interval()
                row |= {'f1': found.value, 'sd': cell['score'].std(ddof=1), 'low': found.low, 'high': found.high}
                row |= {'minus_full_ft': apart.value, 'minus_low': apart.low, 'minus_high': apart.high}
                row |= {'seeds': found.seeds, 'splits': found.splits, 'groups': found.groups, 'over': found.over}
            of = {'paper_f1': 'score', 'paper_spread': 'spread'}
            rows.append(row | {name: printed[column].get(key, math.nan) for name, column in of.items()})
    return pd.DataFrame(rows)


def _rows(layout: Layout, own: pd.DataFrame, theirs: pd.DataFrame, found: pd.DataFrame, data: list[str]) -> list[Row]:
    """A row for each encoder and method; the paper's beneath where it has the same encoder and data."""
    printed = {tuple(one[k] for k in KEY): score(one['score'], one['spread']) for one in theirs.to_dict('records')}
    cells, rows = {}, []
    if 'f1' in found:
        every = found.itertuples()
        cells = {(r.encoder, r.dataset, r.method): bracketed(Interval(r.f1, r.low, r.high), r.sd) for r in every}
    for encoder in scores.in_order(own['encoder'], paper.ENCODERS):
        here = own[own['encoder'] == encoder]
        best = {name: not_worse(group) for name, group in here.groupby('data')}
        for method in scores.in_order(here['method'], layout.methods):
            bold = [*(method in best.get(name, ()) for name in data), False, False]
            if cells:
                row = [cells.get((encoder, name, method), MISSING) for name in data]
                row += [_over_sets(here, method), _counted(here, method)]
                rows.append(Row((encoder, method, OURS), row, bold))
            row = [printed.get((encoder, name, method), MISSING) if name in best else MISSING for name in data]
            if set(row) != {MISSING}:
                row += ['', paper.printed_parameters(encoder).get(method, MISSING)]
                rows.append(Row((encoder, method, THEIRS), row, () if cells else bold, muted=bool(cells)))
    return rows


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
    own = layout.of(scores.table_scores(records, f1))
    notes = provenance.describe(records, own, f1)
    if own.empty:
        return Nothing(notes=notes)
    published, theirs = scores.is_published(records), layout.of(scores.table_scores(paper.records()))
    data, found = scores.in_order(own['data'], paper.DATASETS), numbers(layout, own, theirs)
    others = [] if published else [average for average in scores.AVERAGES if average != f1]
    images = own.groupby('data')['train_images'].max()
    columns = [name if math.isnan(images[name]) else f'{name} ({int(images[name]):,})' for name in data]
    return Table(
        synthetic=provenance.is_synthetic(own),
        columns=['Encoder', 'Method', 'Source', *columns, 'Minus full FT, points', 'Trained parameters'],
        rows=_rows(layout, own, theirs, found, data),
        notes=[*notes, *(_contradictions(layout, own) if published else [BOLD])],
        top=[] if published else provenance.smallest(own),
        data=found,
        further={f'f1_{a}': numbers(layout, layout.of(scores.table_scores(records, a)), theirs) for a in others},
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


# ---- Tables 1 and 6

FAMILIES = {'cnn': 'CNNs', 'vit': 'ViTs', 'unet': 'U-Nets'}


def _registered() -> pd.DataFrame:
    """The methods of the registry in the columns of the paper's Table 1; the baselines are left out, as there."""
    from medpeft_utils import methods

    table = pd.DataFrame(methods.table1()).query('kind != "baseline"').reset_index(drop=True)
    served = {family: ['yes' if family in row else 'no' for row in table['families']] for family in FAMILIES}
    kinds = table['kind'].replace({'selective': 'Selective', 'additive': 'Additive'})
    return table[['label', 'paper', 'summary']].rename(columns={'label': 'method'}).assign(**served, type=kinds)


def _compared(own: pd.Series, theirs: pd.DataFrame) -> str:
    """How a method of the registry stands to the paper's Table 1: as there, not in it, or what differs."""
    if own['method'] not in theirs.index:
        return "not in the paper's table"
    other = theirs.loc[own['method']]
    differs = [f'{field}: {other[field]}' for field in ('cnn', 'vit', 'type') if own[field] != other[field]]
    return 'paper has ' + ', '.join(differs) if differs else 'as in the paper'


@renderer(
    'table1',
    'Table 1: the fine-tuning methods',
    'Which methods are compared, on which networks, and what do they train?',
)
def table1(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Table 1, from the registry of methods, checked against the paper's; of the paper's own, as printed."""
    shown, source, beside = paper.read('table1_methods'), 'As printed', []
    if not scores.is_published(records):
        theirs, shown = shown.set_index('method'), _registered()
        shown['beside_the_paper'] = [_compared(row, theirs) for _, row in shown.iterrows()]
        source, beside = 'From the registry of methods; nothing here was measured', ['beside_the_paper']
    ticks = shown[list(FAMILIES)].eq('yes').replace({True: '✓', False: MISSING})
    cells = pd.concat([shown['summary'], ticks, shown[['type', *beside]]], axis=1).to_numpy()
    why = f'The baselines, full fine-tuning and linear probing, are not in this table ({paper.CITATION}).'
    return Table(
        columns=['Method', 'Paper', 'Summary', *FAMILIES.values(), 'Type', *(['Beside the paper'] if beside else [])],
        rows=[
            Row(heads, row) for heads, row in zip(zip(shown['method'], shown['paper'], strict=True), cells, strict=True)
        ],
        notes=[f'{source}. {why}'],
        data=shown,
        left=True,
    )


def _paper_parameters() -> Table:
    """Table 6 as printed, beside counts on the real architectures without weights."""
    names = {
        f'vit_{size}_patch{p}_224': f'ViT-{size.title()}' for size, p in (('base', 16), ('large', 16), ('huge', 14))
    }
    exact, rows = paper.read('parameter_counts'), []
    exact = exact.assign(encoder=exact['backbone'].map(names)).dropna(subset='encoder')
    for (encoder, method), one in exact.set_index(['encoder', 'method']).iterrows():
        agrees = 'agrees' if one['verdict'].startswith('agrees') else 'differs'
        printed = paper.printed_parameters(encoder).get(method, MISSING)
        rows.append(Row((encoder, method), [printed, f'{int(one["trainable_parameters"]):,}', agrees]))
    columns = ['Encoder', 'Method', 'Paper, printed', 'Real architecture, counted', 'Paper and count']
    notes = [f'As printed ({paper.CITATION}), and counted on the real architectures without weights.']
    return Table(columns=columns, rows=rows, notes=notes, data=exact)


@renderer(
    'table6',
    'Table 6: trainable parameters of each method (head left out)',
    'How many parameters does each method train?',
)
def table6(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Table 6: a row for each encoder and method: counted in this study, or for the paper's as printed and exact."""
    if scores.is_published(records):
        return _paper_parameters()
    chosen = scores.table_scores(records, f1)
    if chosen.empty:
        return Nothing(notes=['No run of this study belongs here.'])
    rows, data = [], []
    shown = chosen[~chosen['backbone_label'].str.endswith(scores.RANDOM)]
    for backbone, here in shown.groupby('backbone_label', sort=False):
        for method in scores.in_order(here['method'], paper.methods_of(here)):
            of, total = here[here['method'] == method], here['total_parameters'].max()
            trained, heads = of['trainable_parameters'].max(), of['head_parameters'].dropna()
            cells = [f'{int(trained):,}', provenance.percent(trained / total, 2), provenance.from_to(heads)]
            rows.append(Row((backbone, method), cells))
            row = {'backbone': backbone, 'method': method, 'trainable_parameters': trained}
            data.append(row | {'share': trained / total, 'head_least': heads.min(), 'head_most': heads.max()})
    return Table(
        columns=['Backbone', 'Method', 'Trained parameters', 'Share of all', 'Head (by number of classes)'],
        rows=rows,
        notes=[f'Counted in {len(chosen)} runs of this study; counts do not depend on data or seed.'],
        data=pd.DataFrame(data),
    )


# ---- weights


@renderer('pretraining', 'Pre-trained against random weights', 'Does pre-training help the methods at all?')
def pretraining(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """F1 from pre-trained and from random weights, for every cell that was run from both."""
    chosen = scores.seed_scores(records, f1, prefer=scores.TABLE_EXPERIMENTS)
    chosen = chosen.assign(bare=chosen['encoder'].astype(str).str.removesuffix(scores.RANDOM))
    rows, data, used, least = [], [], [], []
    for (encoder, name, method, fraction), cell in chosen.groupby(['bare', 'data', 'method', 'fraction'], sort=False):
        random = cell['encoder'].str.endswith(scores.RANDOM)
        if random.all() or not random.any():
            continue
        sides = [cell[~random], cell[random]]
        samples = [scores.sample(side) for side in sides]
        found, apart = [one.interval() for one in samples], (samples[0] - samples[1]).interval()
        shown = [bracketed(one, side['score'].std(ddof=1)) for one, side in zip(found, sides, strict=True)]
        rows.append(Row((encoder, name, method), [*shown, apart.text(), str(apart.seeds)]))
        row = {'encoder': encoder, 'dataset': name, 'method': method, 'fraction': fraction}
        row |= {'pretrained': found[0], 'random': found[1], 'difference': apart}
        data.append(row | {'seeds': apart.seeds})
        used.append(cell)
        least.append((name, apart.smallest, apart.groups))
    if not rows:
        return Nothing(notes=['Nothing was run from random weights.'])
    shown = pd.concat(used)
    return Table(
        synthetic=provenance.is_synthetic(shown),
        columns=['Encoder', 'Dataset', 'Method', 'Pre-trained', 'Random', 'Difference in points', 'Seeds'],
        rows=rows,
        notes=provenance.describe(records, shown, f1),
        top=provenance.least(least, 'between the two'),
        data=data,
    )
