"""From records to scores: one number a cell and seed, means and spreads over seeds, gains paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from medpeft_utils.core.errors import BadInput
from medpeft_utils.report import paper

AVERAGES = ('weighted', 'macro', 'micro')
CELL = ['encoder', 'data', 'method', 'fraction']
RANDOM = ', random weights'
TABLE_EXPERIMENTS = ('cnn', 'vit')
FIGURE1_EXPERIMENTS = ('low_data_regime',)
ELSEWHERE = ('cxr_lora_vs_full', 'text_to_image')  # of other papers, or without F1; other modules report them


def is_published(records: pd.DataFrame) -> bool:
    """True where the records are the paper's own numbers (`paper.records()`)."""
    return len(records) > 0 and set(records['profile']) == {paper.PUBLISHED}


def roles(records: pd.DataFrame) -> pd.Series:
    """The paper's encoder that each record's backbone stands for, such as 'ViT-Base' for 'ViT-Base (mini)'."""
    bare = records['backbone_label'].astype(str).str.replace(r' \(.*\)$', '', regex=True)
    return records['encoder_role'].replace('', np.nan).fillna(bare) if 'encoder_role' in records else bare


def _random_weights(records: pd.DataFrame) -> pd.Series:
    """A suffix that keeps runs from random weights apart from those of the pre-trained encoder."""
    weights = records.get('weights', pd.Series('', records.index))
    return weights.eq('random').map({True: RANDOM, False: ''}).astype(str)


def seed_scores(records: pd.DataFrame, f1: str = 'weighted', prefer: Sequence[str] = ()) -> pd.DataFrame:
    """One row for each cell and seed of the records that are done.

    Args:
        records: a study's records, as `medpeft_utils.study.records.load` gives them.
        f1: the average of F1: 'weighted', 'macro' or 'micro'.
        prefer: experiments whose records win where others hold the same cell (Figure 1's 100 % is one of Table 3).
    Returns:
        Columns encoder, data, method (as the paper names them), fraction, seed, score (0..1), spread and printed (of
        the paper's numbers), backbone_label, dataset_label, synthetic, train_images, trainable_parameters,
        head_parameters, total_parameters, run.
    Raises:
        BadInput: an unknown average, or two records for one cell and seed.
    """
    if f1 not in AVERAGES:
        raise BadInput(f'unknown average of F1 {f1!r}; known: {", ".join(AVERAGES)}')
    done = records[(records['status'] == 'done') & ~records['experiment'].isin(ELSEWHERE)]
    scores = pd.DataFrame(
        {
            'encoder': roles(done).astype(str) + _random_weights(done),
            'data': done['dataset_label'].astype(str).str.replace(' (synthetic)', '', regex=False),
            'method': done['method_label'].astype(str),
            'fraction': done['fraction'].astype(float).round(6),
            'seed': done['seed'].astype(int),
            'score': done[f'f1_{f1}'].astype(float),
            'second': ~done['experiment'].isin(prefer),
        }
    )
    carried = ['backbone_label', 'dataset_label', 'synthetic', 'train_images']
    carried += ['trainable_parameters', 'head_parameters', 'total_parameters']
    for column in carried:
        scores[column] = done.get(column, np.nan)
    scores['backbone_label'] = scores['backbone_label'].astype(str) + _random_weights(done)
    scores['spread'] = done.get('f1_spread', np.nan)
    scores['printed'] = done['profile'] == paper.PUBLISHED
    return _one_a_seed(scores.assign(run=done['run']))


def _one_a_seed(scores: pd.DataFrame) -> pd.DataFrame:
    best = scores.groupby(CELL)['second'].transform('min')  # of a whole cell: seeds of two protocols do not mix
    kept = scores[scores['second'] == best]
    twice = kept.duplicated([*CELL, 'seed'], keep=False)
    if twice.any():
        first = kept[twice].iloc[0]
        runs = kept[(kept[[*CELL, 'seed']] == first[[*CELL, 'seed']]).all(axis=1)]['run']
        raise BadInput(
            f'{len(runs)} records (runs {", ".join(map(str, runs))}) for {first["method"]} on {first["data"]} with '
            f'{first["encoder"]}, {first["fraction"]:.0%} of the images, seed {first["seed"]}; a report takes one: '
            'put the variants into a profile of their own'
        )
    return kept.drop(columns='second').reset_index(drop=True)


def interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float]:
    """The interval of the mean by Student's t over seeds; (NaN, NaN) for fewer than three values."""
    values = np.asarray(list(values), dtype=float)
    if len(values) < 3:
        return math.nan, math.nan
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def summarise(scores: pd.DataFrame, by: Sequence[str] = CELL) -> pd.DataFrame:
    """Mean, standard deviation (n - 1), 95 % t interval and number of seeds of each cell; 0 for printed numbers."""
    rows = []
    for key, group in scores.groupby(list(by), sort=False):
        low, high = interval(group['score'])
        printed = group['printed'].any()
        spread = group['spread'].iloc[0] if printed else group['score'].std(ddof=1)
        row = dict(zip(by, key, strict=True), mean=group['score'].mean(), sd=spread, low=low, high=high)
        rows.append({**row, 'seeds': 0 if printed else group['seed'].nunique()})
    return pd.DataFrame(rows, columns=[*by, 'mean', 'sd', 'low', 'high', 'seeds'])


def grid(scores: pd.DataFrame, methods: Sequence[str], encoders: Sequence[str]) -> pd.DataFrame:
    """Means over seeds: a row for each (encoder, data) that has any of the methods, a column a method; NaN: missing."""
    scores = scores[scores['method'].isin(methods) & scores['encoder'].isin(encoders)]
    table = scores.groupby(['encoder', 'data', 'method'], sort=False)['score'].mean().unstack('method')
    return table.reindex(columns=[m for m in methods if m in table.columns])


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a `grid` in which every method that occurs at all has a score: those on which averages are taken."""
    return table.dropna(axis=1, how='all').dropna(axis=0, how='any')


def averages(scores: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    """Averages over blocks, method by method, with the spread over seeds of the seed's own average.

    Args:
        scores: as from `seed_scores`.
        blocks: complete rows of a `grid`, indexed by (encoder, data).
    Returns:
        Indexed by method: mean, sd, low, high, seeds. The spread is over the seeds that every block has.
    """
    inside = pd.MultiIndex.from_frame(scores[['encoder', 'data']]).isin(blocks.index)
    inside = scores[inside & scores['method'].isin(blocks.columns)]
    rows = {}
    for method in blocks.columns:
        by_seed = inside[inside['method'] == method].pivot_table(
            index='seed', columns=['encoder', 'data'], values='score'
        )
        whole = by_seed.dropna().mean(axis=1)
        low, high = interval(whole)
        printed = inside['printed'].any()
        sd = math.nan if printed else whole.std(ddof=1)
        rows[method] = {'mean': blocks[method].mean(), 'sd': sd, 'low': low, 'high': high, 'seeds': len(whole)}
    return pd.DataFrame.from_dict(rows, orient='index', columns=['mean', 'sd', 'low', 'high', 'seeds'])


def gains(scores: pd.DataFrame, method: str, baseline: str = 'Full FT') -> pd.DataFrame:
    """Score of the method less the baseline's, paired by seed; columns encoder, data, fraction, seed, gain."""
    by = ['encoder', 'data', 'fraction', 'seed']
    one = scores[scores['method'] == method].set_index(by)['score']
    other = scores[scores['method'] == baseline].set_index(by)['score']
    return (one - other).dropna().rename('gain').reset_index()
