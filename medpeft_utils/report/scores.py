"""From records to scores: one number a run with its draws over patients; samples, means, gains and ranks of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.report import paper
from medpeft_utils.report.inference import AVERAGES, Interval, Sample, TestSplit

CELL = ['encoder', 'data', 'method', 'fraction']
RANDOM = ', random weights'
TABLE_EXPERIMENTS = ('cnn', 'vit')
FIGURE1_EXPERIMENTS = ('low_data_regime',)
PROTOCOL = 'protocol'  # the experiment of Figure 4, whose cells differ in head and steps
ELSEWHERE = ('cxr_lora_vs_full', 'text_to_image', PROTOCOL)  # without F1, or with variants; other modules report them
FULL = 'Full FT'
TIES = {'dense': '1, 2, 2, 3', 'average': '1, 2.5, 2.5, 4'}
DECIMALS = 2  # scores are ranked as printed, because the paper's ranks come out exactly from its printed cells


def is_published(records: pd.DataFrame) -> bool:
    """True where the records are the paper's own numbers (`paper.records()`)."""
    return len(records) > 0 and set(records['profile']) == {paper.PUBLISHED}


def roles(records: pd.DataFrame) -> pd.Series:
    """The paper's encoder that each record's backbone stands for, such as 'ViT-Base' for 'ViT-Base (mini)'."""
    bare = records['backbone_label'].astype(str).str.replace(r' \(.*\)$', '', regex=True)
    return records['encoder_role'].replace('', np.nan).fillna(bare) if 'encoder_role' in records else bare


def random_weights(records: pd.DataFrame) -> pd.Series:
    """A suffix that keeps runs from random weights apart from those of the pre-trained encoder."""
    weights = records.get('weights', pd.Series('', records.index))
    return weights.eq('random').map({True: RANDOM, False: ''}).astype(str)


# ---- rows of the test split, where records hold them

_SPLITS: dict[int, TestSplit] = {}
_DRAWS: dict[tuple, np.ndarray] = {}


def test_rows(record: Mapping | None, split: str = 'test'):
    """Labels, groups, arg_max and scores of a record's rows (`training.rows.read`); None where it holds none."""
    if not record or split not in (record.get('rows') or {}):
        return None
    kept = record['rows'][split]
    return _read(*(kept[name] for name in _FIELDS))


_FIELDS = 'n', 'classes', 'multi_label', 'labels', 'groups', 'arg_max', 'scores'


@lru_cache(maxsize=400)
def _read(*fields):
    """The rows of these packed fields; equal ones are unpacked once, for all figures and tables."""
    from medpeft_utils.training import rows

    return rows.read({'rows': {'test': dict(zip(_FIELDS, fields, strict=True))}}, 'test')


def split_of(labels: np.ndarray, groups: np.ndarray, classes: int) -> TestSplit:
    """The `TestSplit` of these rows; the same object for equal rows."""
    key = hash((labels.tobytes(), np.asarray(groups).tobytes(), classes))
    if key not in _SPLITS:
        _SPLITS[key] = TestSplit(labels, groups, classes)
    return _SPLITS[key]


def _drawn(record: Mapping | None, average: str) -> tuple[np.ndarray | None, int]:
    """F1 of a run as [1 + draws], and its number of groups; (None, 0) for a record without rows."""
    found = test_rows(record)
    if found is None:
        return None, 0
    labels, groups, predicted, _ = found
    key = (hash((labels.tobytes(), np.asarray(groups).tobytes(), np.asarray(predicted).tobytes())), average)
    split = split_of(labels, groups, len(record['data']['classes']))
    if key not in _DRAWS:
        _DRAWS[key] = split.f1(predicted, average)
    return _DRAWS[key], split.groups


# ---- one row a run


def seed_scores(records: pd.DataFrame, f1: str = 'weighted', prefer: Sequence[str] = ()) -> pd.DataFrame:
    """One row for each cell and seed of the records that are done.

    Args:
        records: a study's records, as `source.load` gives them.
        f1: the average of F1: 'weighted', 'macro' or 'micro'.
        prefer: experiments whose records win where others hold the same cell (Figure 1's 100 % is one of Table 3).
    Returns:
        Columns encoder, data, method (as the paper names them), fraction, seed, split, score (0..1), draws ([1 + B] or
        None), groups, ratio (test over training images), spread and printed (of the paper's numbers), family,
        backbone_label, dataset_label, synthetic, train_images, trainable_parameters, head_parameters,
        total_parameters, head, steps, passes, one_class (the class that the run answers for every image, or ''), run.
    Raises:
        BadInput: an unknown average, or two records for one cell and seed.
    """
    kept = records[~records['experiment'].isin(ELSEWHERE)]
    return _one_a_seed(run_scores(kept, f1, prefer))


def run_scores(records: pd.DataFrame, f1: str = 'weighted', prefer: Sequence[str] = ()) -> pd.DataFrame:
    """As `seed_scores`, with every run, and a column `second` for those of experiments that are not preferred."""
    if f1 not in AVERAGES:
        raise BadInput(f'unknown average of F1 {f1!r}; known: {", ".join(AVERAGES)}')
    done = records[(records['status'] == 'done')]
    scores = pd.DataFrame(
        {
            'encoder': roles(done).astype(str) + random_weights(done),
            'data': done['dataset_label'].astype(str).str.replace(' (synthetic)', '', regex=False),
            'method': done['method_label'].astype(str),
            'fraction': done['fraction'].astype(float).round(6),
            'seed': done['seed'].astype(int),
            'score': done.get(f'f1_{f1}', pd.Series(math.nan, done.index)).astype(float),
            'experiment': done['experiment'],
            'second': ~done['experiment'].isin(prefer),
        }
    )
    carried = ['backbone_label', 'dataset_label', 'synthetic', 'train_images', 'family']
    carried += ['trainable_parameters', 'head_parameters', 'total_parameters']
    for column in carried:
        scores[column] = done.get(column, np.nan)
    scores['backbone_label'] = scores['backbone_label'].astype(str) + random_weights(done)
    scores['spread'] = done.get('f1_spread', np.nan)
    scores['printed'] = done['profile'] == paper.PUBLISHED
    whole = done.get('record', pd.Series(None, done.index, dtype=object))
    about = pd.DataFrame([_about(record, f1) for record in whole], index=done.index, columns=list(_about(None, f1)))
    found = pd.concat([scores, about], axis=1).assign(run=done['run'])
    return found[found['score'].notna()]  # a score that records of an earlier version do not have


def _about(record: Mapping | None, f1: str) -> dict:
    """What a record holds beside its score; defaults where there is no whole record."""
    if not isinstance(record, Mapping):
        found = {'split': '', 'draws': None, 'groups': 0, 'ratio': 0.25, 'head': '', 'steps': math.nan}
        return found | {'passes': math.nan, 'selection': '', 'edge': '', 'one_class': ''}
    draws, groups = _drawn(record, f1)
    counts = record['data']['counts']
    ratio = counts['test'] / max(counts['train'], 1) if 'test' in counts else 0.25
    found = {'split': record['data'].get('split_hash', ''), 'draws': draws, 'groups': groups, 'ratio': ratio}
    return found | training_of(record) | {'one_class': one_class(record)}


def training_of(record: Mapping) -> dict:
    """How a run was trained: head, steps, passes over the images, and at which edge its search ended ('' for none)."""
    training, last = record.get('training') or {}, (record.get('curve') or [{}])[-1]
    edge = (record.get('learning_rate') or {}).get('edge') or ''
    if isinstance(edge, Mapping):
        edge = ', '.join(f'{name.replace("_", " ")} {side}' for name, side in edge.items())
    return {
        'head': training.get('head') or record['parameters'].get('head') or '',
        'steps': float(training.get('steps') or last.get('step') or math.nan),
        'passes': float(training.get('epochs') or last.get('epoch') or math.nan),
        'selection': training.get('selection') or '',
        'edge': edge,
    }


def one_class(record: Mapping) -> str:
    """The class that a run answers for every test image, '' where it answers several."""
    by_class = record['metrics'].get('per_class') or {}
    recalls = [(values.get('recall'), name) for name, values in by_class.items() if values.get('support')]
    if len(recalls) < 2 or any(recall is None for recall, _ in recalls):
        return ''
    full = [name for recall, name in recalls if recall == 1]
    return full[0] if len(full) == 1 and all(recall in (0, 1) for recall, _ in recalls) else ''


def _one_a_seed(scores: pd.DataFrame) -> pd.DataFrame:
    best = scores.groupby(CELL)['second'].transform('min')  # of a whole cell: seeds of two protocols do not mix
    kept = scores[scores['second'] == best]
    heads = kept.groupby(CELL)['head'].transform('nunique')
    kept = kept[(heads < 2) | kept['head'].isin(['own', ''])]  # a cell that was run with several heads: their own
    steps = kept.groupby([*CELL, 'seed', 'split'])['steps'].transform('max')
    varied = kept.groupby(CELL)['steps'].transform('nunique') > 1
    several = kept.duplicated([*CELL, 'seed', 'split'], keep=False)
    kept = kept[~(varied & several) | (kept['steps'] == steps)]  # and with several numbers of steps: the most
    refuse_several(kept, [*CELL, 'seed', 'split'])
    return kept.drop(columns='second').reset_index(drop=True)


def refuse_several(table: pd.DataFrame, key: Sequence[str]) -> None:
    """Raise BadInput where several runs of a table have the same key."""
    twice = table[table.duplicated(list(key), keep=False)]
    if len(twice):
        first = twice.iloc[0]
        size = f'{first["pairs"]:,} pairs' if 'pairs' in first else f'{first["fraction"]:.0%} of the images'
        raise BadInput(
            f'several records of one cell and seed (runs {", ".join(map(str, twice["run"].head(8)))}): '
            f'{first["method"]} on {first["data"]} with {first["backbone_label"]}, {size}, seed {first["seed"]}; a '
            'report takes one: put the variants into a profile of their own'
        )


def table_scores(records: pd.DataFrame, f1: str = 'weighted') -> pd.DataFrame:
    """`seed_scores` of the tables: with all images, and the tables' own experiments with fewer as data of their own."""
    chosen = seed_scores(records, f1, prefer=TABLE_EXPERIMENTS)
    if chosen.empty:
        return chosen
    less = chosen['fraction'] < 1
    chosen = chosen[~less | chosen['experiment'].isin(TABLE_EXPERIMENTS)].copy()
    words = chosen['data'] + chosen['fraction'].map(lambda fraction: f', {100 * fraction:g} %')
    chosen['data'] = chosen['data'].where(chosen['fraction'] == 1, words)
    return chosen


# ---- samples of cells


def sample(rows: pd.DataFrame) -> Sample:
    """The runs of one cell as a `Sample`: with draws over patients where every run holds its rows."""
    keys = tuple(zip(rows['split'], rows['seed'], strict=True))
    values = rows['score'].to_numpy(dtype=float)
    if not len(rows) or any(one is None for one in rows['draws']):
        return Sample(keys, values, ratio=float(rows['ratio'].mean()) if len(rows) else 0.25)
    draws = np.stack([one[1:] for one in rows['draws']]).astype(float)
    groups = int(rows.drop_duplicates('split')['groups'].sum())  # folds hold other patients each
    return Sample(keys, values, draws, groups, float(rows['ratio'].mean()))


def gain(rows: pd.DataFrame, method: str, baseline: str = FULL) -> Sample:
    """A method's score minus the baseline's, paired, on the rows of one encoder, data set and data size."""
    return sample(rows[rows['method'] == method]) - sample(rows[rows['method'] == baseline])


def gains_by(scores: pd.DataFrame, method: str, baseline: str = FULL, by: Sequence[str] = ('encoder', 'data')):
    """{key: `gain`} for each key of the columns `by` under which both were run, in the order of the rows."""
    found = {key: gain(rows, method, baseline) for key, rows in scores.groupby(list(by), sort=False)}
    return {key: one for key, one in found.items() if len(one.values)}


def block_samples(rows: pd.DataFrame) -> list[dict[str, Sample]]:
    """{method: its sample} for each data set, of the rows of one encoder."""
    return [
        {method: sample(own) for method, own in block.groupby('method', sort=False)}
        for _, block in rows.groupby('data', sort=False)
    ]


def mean_difference(blocks: Sequence[Mapping[str, Sample]], method: str, baseline: str = FULL) -> Interval:
    """A method minus another, averaged over these very data sets (no claim on further ones)."""
    parts = [(block[method] - block[baseline]).interval() for block in blocks if {method, baseline} <= set(block)]
    parts = [part for part in parts if not math.isnan(part.value)]
    if not parts or not all(part.known for part in parts):
        return Interval(float(np.mean([part.value for part in parts])) if parts else math.nan)
    if len(parts) == 1:
        return parts[0]
    value, error = (float(np.mean([p.value for p in parts])), math.hypot(*(p.error for p in parts)) / len(parts))
    half = max((p.high - p.low) / 2 / max(p.error, 1e-12) for p in parts) * error
    fewest, groups = min(max(p.seeds, p.splits) for p in parts), sum(p.groups for p in parts)
    return Interval(value, value - half, value + half, error, parts[0].over, groups, fewest)


def summarise(scores: pd.DataFrame, by: Sequence[str] = CELL) -> pd.DataFrame:
    """Mean, standard deviation over runs (n - 1), 95 % interval and seeds of each cell; 0 for printed ones."""
    rows = []
    for key, group in scores.groupby(list(by), sort=False):
        printed = bool(group['printed'].any())
        found = Interval(float(group['score'].mean())) if printed else sample(group).interval()
        spread = group['spread'].iloc[0] if printed else group['score'].std(ddof=1)
        row = dict(zip(by, key, strict=True), mean=found.value, sd=spread, low=found.low, high=found.high)
        rows.append({**row, 'seeds': 0 if printed else group['seed'].nunique(), 'over': found.over})
    return pd.DataFrame(rows, columns=[*by, 'mean', 'sd', 'low', 'high', 'seeds', 'over'])


def smallest(scores: pd.DataFrame, baseline: str = FULL) -> pd.DataFrame:
    """The smallest difference that each test set can show: the median over methods of theirs to the baseline (where it
    was not run, to the first method).

    Returns:
        Columns encoder, data, smallest (0..1; NaN where no interval is known), groups, over.
    """
    rows = []
    for (encoder, data), group in scores.groupby(['encoder', 'data'], sort=False):
        methods = list(dict.fromkeys(group['method']))
        base = baseline if baseline in methods else methods[0]
        found = [gain(group, method, base).interval() for method in methods if method != base]
        known = [one for one in found if one.known]
        if known:
            least = float(np.median([one.smallest for one in known]))
            rows.append((encoder, data, least, known[0].groups, known[0].over))
    return pd.DataFrame(rows, columns=['encoder', 'data', 'smallest', 'groups', 'over'])


def grid(scores: pd.DataFrame, methods: Sequence[str], encoders: Sequence[str]) -> pd.DataFrame:
    """Means over seeds: a row for each (encoder, data) that has any of the methods, a column a method; NaN: missing."""
    scores = scores[scores['method'].isin(methods) & scores['encoder'].isin(encoders)]
    table = scores.groupby(['encoder', 'data', 'method'], sort=False)['score'].mean().unstack('method')
    return table.reindex(columns=[m for m in methods if m in table.columns])


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a `grid` in which every method that occurs at all has a score: those on which averages are taken."""
    return table.dropna(axis=1, how='all').dropna(axis=0, how='any')


def in_order(found: Iterable[str], known: Sequence[str]) -> list[str]:
    """Names in the order of the paper, those that it does not know after them as they come."""
    found = list(dict.fromkeys(found))
    return [name for name in known if name in found] + [name for name in found if name not in known]


# ---- ranks: the paper's two tie rules on its printed cells, one rule on unrounded scores of a study


def as_printed(values: pd.Series, decimals: int = DECIMALS) -> pd.Series:
    """Numbers as they are printed, so what looks equal is equal: rounding as text does, not as NumPy."""
    return values.map(lambda value: float(f'{value:.{decimals}f}'))


def rank(scores: pd.DataFrame, ties: str, decimals: int | None = DECIMALS) -> pd.DataFrame:
    """Rank the methods of each row, 1 for the highest score.

    Args:
        scores: a row for each block (data set, or data set and encoder), a column a method.
        ties: 'dense' (1, 2, 2, 3), as in the paper's Table 2, or 'average' (1, 2.5, 2.5, 4), as in its Table 3.
        decimals: scores that agree in so many decimals are tied; None compares them unrounded.
    Returns:
        The same shape; NaN where there is no score.
    """
    if ties not in TIES:
        raise BadInput(f'unknown tie rule {ties!r}; known: {", ".join(TIES)}')
    rounded = scores if decimals is None else scores.apply(as_printed, decimals=decimals)
    return rounded.rank(axis=1, ascending=False, method=ties)


def average_rank(scores: pd.DataFrame, ties: str, decimals: int | None = DECIMALS) -> pd.Series:
    """The mean over rows of `rank`, by method. Rows must be complete: ranks among fewer methods cannot be averaged."""
    if scores.isna().any(axis=None):
        raise BadInput('a rank over methods of which some have no score; leave the incomplete data sets out first')
    return rank(scores, ties, decimals).mean()
