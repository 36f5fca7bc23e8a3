"""Tables 1 and 6 of the paper, the crossovers of its Figure 1 as a table, and pre-trained against random weights."""

from __future__ import annotations

import math

import pandas as pd

from medpeft_utils.report import crossover, paper, provenance, scores
from medpeft_utils.report.output import MISSING, Nothing, Output, Row, Table, renderer
from medpeft_utils.report.score_tables import bracketed

FAMILIES = {'cnn': 'CNNs', 'vit': 'ViTs', 'unet': 'U-Nets'}


def _ticks(row: pd.Series) -> list[str]:
    return ['✓' if row[family] == 'yes' else MISSING for family in FAMILIES]


def _registered() -> pd.DataFrame:
    """The methods of the registry in the columns of the paper's Table 1; the baselines are left out, as there."""
    from medpeft_utils import methods

    rows = []
    for row in methods.table1():
        if row['kind'] == 'baseline':
            continue
        served = {family: 'yes' if family in row['families'] else 'no' for family in FAMILIES}
        kind = {'selective': 'Selective', 'additive': 'Additive'}.get(row['kind'], row['kind'])
        rows.append({'method': row['label'], 'paper': row['paper'], 'summary': row['summary'], **served, 'type': kind})
    return pd.DataFrame(rows)


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
    theirs = paper.read('table1_methods')
    published = scores.is_published(records)
    shown = theirs if published else _registered()
    rows, checked = [], []
    for _, row in shown.iterrows():
        checked.append('' if published else _compared(row, theirs.set_index('method')))
        cells = [row['summary'], *_ticks(row), row['type'], *([] if published else [checked[-1]])]
        rows.append(Row((row['method'], row['paper']), cells))
    columns = ['Method', 'Paper', 'Summary', *FAMILIES.values(), 'Type', *([] if published else ['Beside the paper'])]
    source = 'As printed' if published else 'From the registry of methods; nothing here was measured'
    return Table(
        columns=columns,
        rows=rows,
        notes=[
            f'{source}. The baselines, full fine-tuning and linear probing, are not in this table ({paper.CITATION}).'
        ],
        data=shown if published else shown.assign(beside_the_paper=checked),
        left=True,
    )


def _exact() -> pd.DataFrame:
    names = {
        'vit_base_patch16_224': 'ViT-Base',
        'vit_large_patch16_224': 'ViT-Large',
        'vit_huge_patch14_224': 'ViT-Huge',
    }
    exact = paper.read('parameter_counts')
    return exact.assign(encoder=exact['backbone'].map(names)).dropna(subset='encoder')


@renderer(
    'table6',
    'Table 6: trainable parameters of each method (head left out)',
    'How many parameters does each method train?',
)
def table6(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Table 6: a row for each encoder and method: counted in this study, or for the paper's as printed and exact."""
    if scores.is_published(records):
        exact, rows = _exact(), []
        for (encoder, method), one in exact.set_index(['encoder', 'method']).iterrows():
            agrees = 'agrees' if one['verdict'].startswith('agrees') else 'differs'
            printed = paper.printed_parameters(encoder).get(method, MISSING)
            rows.append(Row((encoder, method), [printed, f'{int(one["trainable_parameters"]):,}', agrees]))
        columns = ['Encoder', 'Method', 'Paper, printed', 'Real architecture, counted', 'Paper and count']
        notes = [f'As printed ({paper.CITATION}), and counted on the real architectures without weights.']
        return Table(columns=columns, rows=rows, notes=notes, data=exact)
    chosen = scores.table_scores(records, f1)
    if chosen.empty:
        return Nothing(notes=['No run of this study belongs here.'])
    rows, data = [], []
    for backbone, here in chosen.groupby('backbone_label', sort=False):
        if backbone.endswith(scores.RANDOM):
            continue
        known = paper.CNN_METHODS if here['family'].iloc[0] == 'cnn' else paper.VIT_METHODS
        for method in scores.in_order(here['method'], known):
            of, total = here[here['method'] == method], here['total_parameters'].max()
            trained, heads = of['trainable_parameters'].max(), of['head_parameters'].dropna()
            share = f'{trained / total:.2%}'.replace('%', ' %')
            cells = [f'{int(trained):,}', share, provenance.from_to(heads)]
            rows.append(Row((backbone, method), cells))
            row = {'backbone': backbone, 'method': method, 'trainable_parameters': trained}
            data.append(row | {'share': trained / total, 'head_least': heads.min(), 'head_most': heads.max()})
    return Table(
        columns=['Backbone', 'Method', 'Trained parameters', 'Share of all', 'Head (by number of classes)'],
        rows=rows,
        notes=[f'Counted in {len(chosen)} runs of this study; counts do not depend on data or seed.'],
        data=pd.DataFrame(data),
    )


# ---- crossovers


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


CROSSOVER_NOTE = (
    'The last size at which the gain over full fine-tuning changes from plus to minus, linear in the gain and in the '
    'logarithm of the size. "None detectable": the interval reaches beyond the sizes that were run.'
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
        sides = [scores.sample(cell[~random]), scores.sample(cell[random])]
        found, apart = [side.interval() for side in sides], (sides[0] - sides[1]).interval()
        sds = cell[~random]['score'].std(ddof=1), cell[random]['score'].std(ddof=1)
        shown = [bracketed(one, sd) for one, sd in zip(found, sds, strict=True)]
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
