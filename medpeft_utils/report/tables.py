"""Tables 1 and 6 of the paper, and the crossover points of its Figure 1 as a table."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from medpeft_utils.report import crossover, paper, provenance, scores
from medpeft_utils.report.output import MISSING, Row, Table
from medpeft_utils.report.renderers import renderer

TITLE1 = 'Table 1: the fine-tuning methods'
TITLE6 = 'Table 6: trainable parameters of each method on vision transformers (head left out)'
TITLE_CROSSOVER = 'Crossover of Figure 1: the data size above which full fine-tuning stays better'
VITS = ('ViT-Base', 'ViT-Large', 'ViT-Huge')
BOOTSTRAP_SEED = 0
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


@renderer('table1', TITLE1, 'Which methods are compared, on which networks, and what do they train?')
def table1(records: pd.DataFrame, f1: str = 'weighted') -> Table:
    """Table 1, from the registry of methods, checked against the paper's; of the paper's own, as printed."""
    theirs = paper.read('table1_methods')
    published = scores.is_published(records)
    shown = theirs if published else _registered()
    rows, checked = [], []
    for _, row in shown.iterrows():
        checked.append('' if published else _compared(row, theirs.set_index('method')))
        cells = [_wrapped(row['summary'], 58), *_ticks(row), row['type'], *([] if published else [checked[-1]])]
        rows.append(Row((row['method'], _wrapped(row['paper'], 34)), cells))
    columns = ['Method', 'Paper', 'Summary', *FAMILIES.values(), 'Type', *([] if published else ['Beside the paper'])]
    source = 'As printed' if published else 'From the registry of methods; nothing here was measured'
    return Table(
        name='table1',
        title=TITLE1,
        columns=columns,
        rows=rows,
        notes=[
            f'{source}. The baselines, full fine-tuning and linear probing, are not in this table ({paper.CITATION}).'
        ],
        data=shown if published else shown.assign(beside_the_paper=checked),
        left=True,
    )


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return '\n'.join(textwrap.wrap(text, width))


def _counts_of_study(chosen: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """Counts by (encoder, backbone): trainable without the head; of linear probing the head, least and most."""
    counts = {}
    for (encoder, backbone), rows in chosen[chosen['encoder'].isin(VITS)].groupby(['encoder', 'backbone_label']):
        values = rows.groupby('method')['trainable_parameters'].max().astype(object)
        heads = rows.loc[rows['method'] == 'Linear Probing', 'head_parameters'].dropna()
        if len(heads):
            ends = [f'{int(end):,}' for end in (heads.min(), heads.max())]
            values['Linear Probing'] = ends[0] if ends[0] == ends[1] else f'{ends[0]} to {ends[1]}'
        counts[encoder, backbone] = values
    return counts


def _exact(encoder: str) -> pd.DataFrame:
    exact = paper.read('parameter_counts')
    names = {
        'vit_base_patch16_224': 'ViT-Base',
        'vit_large_patch16_224': 'ViT-Large',
        'vit_huge_patch14_224': 'ViT-Huge',
    }
    return exact[exact['backbone'].map(names) == encoder].set_index('method')


def _counted_row(heads: tuple[str, str], values: pd.Series, **how: bool) -> Row:
    cells = [values.get(method, math.nan) for method in paper.VIT_METHODS]
    return Row(heads, [v if isinstance(v, str) else f'{int(v):,}' if not pd.isna(v) else MISSING for v in cells], **how)


@renderer('table6', TITLE6, 'How many parameters does each method train?')
def table6(records: pd.DataFrame, f1: str = 'weighted') -> Table:
    """Table 6: counts of the study's backbones, what the paper prints, and exact counts of the real architectures."""
    published = scores.is_published(records)
    chosen = scores.seed_scores(records, f1, prefer=scores.TABLE_EXPERIMENTS)
    ours = {} if published else _counts_of_study(chosen)
    rows, data = [], []
    for encoder in VITS:
        exact, printed = _exact(encoder), paper.printed_parameters(encoder)
        own = [(f'this study: {backbone}', values) for (at, backbone), values in ours.items() if at == encoder]
        own = own or ([] if published else [('this study', pd.Series(dtype=object))])
        first = [_counted_row((encoder, label), values) for label, values in own]
        first.append(_counted_row((encoder, 'paper, printed'), printed, muted=not published))
        first.append(
            _counted_row((encoder, 'real architecture, counted'), exact['trainable_parameters'], muted=not published)
        )
        first.append(_counted_row((encoder, 'paper and count'), _verdicts(exact), muted=True))
        rows += [Row(r.heads, r.cells, r.best, r.muted, rule=number == 0) for number, r in enumerate(first)]
        for method in paper.VIT_METHODS:
            row = {'encoder': encoder, 'method': method, 'paper': printed.get(method)}
            row |= {'exact': exact['trainable_parameters'].get(method), 'verdict': exact['verdict'].get(method)}
            data.append(row | {label: values.get(method) for label, values in own})
    note = "The paper's Linear Probing is the head, whose size depends on the number of classes."
    return Table(
        name='table6',
        title=TITLE6,
        columns=['Encoder', 'Source', *paper.VIT_METHODS],
        rows=rows,
        notes=[*_notes6(records, chosen, published), note],
        data=pd.DataFrame(data),
    )


def _verdicts(exact: pd.DataFrame) -> pd.Series:
    return exact['verdict'].map(lambda text: 'agrees' if text.startswith('agrees') else 'differs')


def _notes6(records: pd.DataFrame, chosen: pd.DataFrame, published: bool) -> list[str]:
    if published:
        return [f'As printed ({paper.CITATION}), and counted on the real architectures without weights.']
    chosen = chosen[chosen['encoder'].isin(VITS)]
    if chosen.empty:
        return ['No run of this study is on one of these encoders.']
    named = ', '.join(dict.fromkeys(chosen['backbone_label']))
    wanted = [(encoder, method) for encoder in VITS for method in paper.VIT_METHODS]
    have = zip(chosen['encoder'], chosen['method'], strict=True)
    counted = f'Counted in {len(chosen)} runs of this study; backbones: {named}. Counts do not depend on data or seed.'
    return [counted, provenance.missing(wanted, have)]


def crossovers(records: pd.DataFrame, f1: str = 'weighted', draws: int = crossover.DRAWS) -> pd.DataFrame:
    """The crossover of every method of Figure 1 against full fine-tuning.

    Returns:
        Columns encoder, data, dataset_label, method, crossover (a `crossover.Crossover`), for each curve of three sizes
        or more.
    """
    curves = figure1_scores(records, f1)
    rows = []
    for (encoder, data), group in curves.groupby(['encoder', 'data'], sort=False):
        for method in [m for m in dict.fromkeys(group['method']) if m != 'Full FT']:
            gains = scores.gains(group, method)
            if gains['fraction'].nunique() < 3:
                continue
            found = crossover.estimate(gains, np.random.default_rng(BOOTSTRAP_SEED), draws)
            label = group['dataset_label'].iloc[0]
            row = {'encoder': encoder, 'data': data, 'dataset_label': label, 'method': method, 'crossover': found}
            rows.append(row)
    return pd.DataFrame(rows, columns=['encoder', 'data', 'dataset_label', 'method', 'crossover'])


def figure1_scores(records: pd.DataFrame, f1: str = 'weighted') -> pd.DataFrame:
    """The scores of Figure 1: encoders, data sets and methods that were run at three data sizes or more."""
    chosen = scores.seed_scores(records, f1, prefer=scores.FIGURE1_EXPERIMENTS)
    sizes = chosen.groupby(['encoder', 'data', 'method'])['fraction'].transform('nunique')
    return chosen[sizes >= 3]


@renderer(
    'figure1_crossover', TITLE_CROSSOVER, 'Below how many images is a parameter-efficient method the better choice?'
)
def figure1_crossover(records: pd.DataFrame, f1: str = 'weighted') -> Table:
    """The crossovers of Figure 1 with their uncertainty, beside the paper's in words and from its digitised curves."""
    published = scores.is_published(records)
    theirs = crossovers(paper.records()).set_index(['encoder', 'method'])['crossover']
    found = crossovers(records, f1).set_index(['encoder', 'method', 'dataset_label'])['crossover']
    keys = list(found.index) if len(found) else [(*key, MISSING) for key in paper.CROSSOVERS]
    rows, data = [], []
    for encoder, method, label in keys:
        own = found.get((encoder, method, label))
        said, drawn = paper.CROSSOVERS.get((encoder, method)), theirs.get((encoder, method))
        cells = [] if published else _crossover_cells(own)
        cells += [f'{said} %' if said else MISSING, drawn.text(drawn.estimate) if drawn else MISSING]
        rows.append(Row((encoder, method, label), cells))
        row = {'encoder': encoder, 'method': method, 'dataset': label}
        row |= {'paper_text': said and said / 100, 'paper_curve': drawn.estimate if drawn else math.nan}
        data.append(row | ({} if published or not own else _fields(own)))
    ours = [] if published else ['This study', 'Bootstrap median', '95 % interval', 'Seeds']
    curves = figure1_scores(records, f1)
    notes = [*provenance.describe(records, curves, f1, spread=False), *provenance.rates(records, curves)]
    return Table(
        name='figure1_crossover',
        title=TITLE_CROSSOVER + (', synthetic images' if provenance.is_synthetic(curves) else ''),
        columns=['Encoder', 'Method', 'Data', *ours, 'Paper, text', 'Paper, curve'],
        rows=rows,
        notes=[*notes, *CROSSOVER_NOTES[: 1 if published else 2]],
        data=pd.DataFrame(data),
        left=True,
    )


CROSSOVER_NOTES = (
    'The last size at which the gain over full fine-tuning changes from plus to minus, linear in the gain and in the '
    'logarithm of the size. "> 100 %": still better with all images; "< 1 %" (the smallest size run): better at none.',
    f'Bootstrap over seeds: {crossover.DRAWS:,} draws, a seed with all its sizes. With three seeds only ten draws '
    'differ: the interval is rather too narrow.',
)


def _crossover_cells(found: crossover.Crossover | None) -> list[str]:
    if found is None:
        return [MISSING] * 4
    between = MISSING if math.isnan(found.low) else f'{found.text(found.low)} to {found.text(found.high)}'
    return [found.text(found.estimate), found.text(found.median), between, str(found.seeds)]


def _fields(found: crossover.Crossover) -> dict[str, float]:
    return {
        'estimate': found.estimate,
        'median': found.median,
        'ci95_low': found.low,
        'ci95_high': found.high,
        'seeds': found.seeds,
    }
