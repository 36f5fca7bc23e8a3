"""The text-to-image half (Dutt et al. 2024, Table 4): from records to FID and the other numbers of generated images.

A cell is a set, a number of training pairs and a method. A run has a value for each sampling seed; values of two
methods with the same training and sampling seed start from the same noise, so their difference is paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from medpeft_utils.auroc import quantiles
from medpeft_utils.report import paper, provenance, scores
from medpeft_utils.report.inference import Sample

EXPERIMENT = 'text_to_image'
FULL, LORA, BIAS, SV_DIFF = 'Full FT', 'LoRA', 'Bias', 'SV-Diff'
METHODS = (FULL, 'Attention', BIAS, 'Norm', 'Bias+Norm+Attention', LORA, SV_DIFF, 'DiffFit')
PAPER_PAIRS = {'110K': 110_000, '55K': 55_000, '11K': 11_000}
BASE, FLOOR = 'Untuned pipeline', 'Real images of other patients'
ALL = 'Mean of the methods'
CELL = ['data', 'pairs', 'method']
NUMBERS = (
    *('kid', 'kid_low', 'kid_high', 'fid', 'similarity', 'nearest_ratio', 'nearest', 'copies', 'images'),
    *('kid_inception', 'fid_inception'),
)
ADHERENCE = 'auroc', 'auroc_low', 'auroc_high', 'accuracy'
_RUN = [
    *('run', *CELL, 'seed', 'backbone_label', 'dataset_label', 'synthetic', 'trainable', 'total', 'samples', 'base'),
    *('real', 'controls', 'checks', 'encoder', 'sampling', 'pictures', 'steps'),
]


def runs(records: pd.DataFrame) -> pd.DataFrame:
    """One row for each finished run of the text-to-image experiment; the columns are those of `_RUN`.

    Raises BadInput for two records of one cell and seed.
    """
    if 'record' not in records:
        return pd.DataFrame(columns=_RUN)
    done = records[(records['status'] == 'done') & (records['experiment'] == EXPERIMENT)]
    table = pd.DataFrame([_run(record) for record in done['record']], columns=_RUN)
    scores.refuse_several(table, [*CELL, 'seed'])
    place = {method: number for number, method in enumerate(METHODS)}
    keys = table.assign(method=table['method'].map(place).fillna(len(place)), pairs=-table['pairs'].astype(int))
    return table.loc[keys.sort_values(['data', 'pairs', 'method', 'seed']).index].reset_index(drop=True)


def _run(record: dict) -> dict:
    metrics, data, method = record['metrics'], record['data'], record['method']
    random = scores.RANDOM if record['parameters'].get('weights') == 'random' else ''
    real = metrics.get('real') or {}
    return {
        'run': record['run'],
        'data': data['label'].removesuffix(' (synthetic)') + random,
        'pairs': int((data.get('used') or data['counts'])['train']),
        'method': method['label'],
        'seed': int(record['parameters'].get('seed', 0)),
        'backbone_label': record['backbone']['label'] + random,
        'dataset_label': data['label'],
        'synthetic': bool(data['synthetic']),
        'trainable': method['trainable_parameters'],
        'total': method['total_parameters'],
        'samples': metrics.get('samples') or [],
        'base': metrics.get('base') or [],
        'real': real,
        'controls': metrics.get('controls') or {},
        'checks': metrics.get('checks') or {},
        'encoder': (real.get('encoder') or {}).get('hash', ''),
        'sampling': record.get('sampling') or {},
        'pictures': record.get('pictures') or {},
        'steps': int(record['parameters'].get('steps', 0)),
    }


def number(value: float | None) -> float:
    """A value of a record; NaN for None."""
    return math.nan if value is None else float(value)


def flat(sample: dict) -> dict[str, float]:
    """What the evaluator said of one set of images, as numbers: `NUMBERS`, and `ADHERENCE` of the findings."""
    adherence = sample.get('adherence') or {}
    found = {name: number(sample.get(name)) for name in NUMBERS}
    return found | {name: number(adherence.get(name)) for name in ADHERENCE}


def values(table: pd.DataFrame, which: str = 'samples') -> pd.DataFrame:
    """One row for each run and sampling seed.

    Args:
        table: `runs`.
        which: 'samples', 'base', or a control such as 'untrained'.
    Returns:
        Columns data, pairs, method, run, seed, sampling_seed, encoder and those of `flat`.
    """
    rows = []
    for one in table.itertuples():
        found = getattr(one, which) if which in ('samples', 'base') else one.controls.get(which, [])
        about = {name: getattr(one, name) for name in (*CELL, 'run', 'seed', 'encoder')}
        rows += [about | {'sampling_seed': sample.get('seed', 0)} | flat(sample) for sample in found]
    columns = [*CELL, 'run', 'seed', 'encoder', 'sampling_seed', *NUMBERS, *ADHERENCE]
    return pd.DataFrame(rows, columns=columns)


def published() -> pd.DataFrame:
    """The paper's Table 4 in the columns of `values`; NaN for what it has not."""
    table = paper.read('table4_mimic_fid')
    rows = table.assign(data='MIMIC-CXR', pairs=table['training_images'].map(PAPER_PAIRS), seed=0, sampling_seed=0)
    return rows[[*CELL, 'seed', 'sampling_seed', 'fid']]


def means(found: pd.DataFrame, name: str = 'fid') -> pd.DataFrame:
    """Mean over training and sampling seeds: a row for each (data, pairs), largest first, a column a method."""
    table = found.groupby(CELL, sort=False)[name].mean().unstack('method')
    methods = [m for m in METHODS if m in table] + [m for m in table if m not in METHODS]
    return table[methods].sort_index(level='pairs', ascending=False, sort_remaining=False)


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Average FID and average rank (1: lowest FID) of each method over the data sizes that every method has.

    Args:
        found: `values` of one set, from runs scored by one encoder.
    Returns:
        Indexed by method: average_fid, average_rank, sizes; empty where no size has every method.
    """
    table = scores.complete(means(found)) if len(found) else found
    if table.empty:
        return pd.DataFrame(columns=['average_fid', 'average_rank', 'sizes'])
    rank = scores.average_rank(-table, 'average', decimals=None)
    return pd.DataFrame({'average_fid': table.mean(), 'average_rank': rank, 'sizes': len(table)})


def detectable(found: pd.DataFrame, name: str = 'fid') -> list[str]:
    """The smallest difference of a distance from full fine-tuning that the training seeds can show, in a sentence."""
    rows = []
    for method in dict.fromkeys(found['method']):
        parts = gains(found, method, FULL, name) if method != FULL else {}
        rows += [(f'{data}, {pairs:,} pairs', one.interval().smallest, 0) for (data, pairs), one in parts.items()]
    known = [row for row in rows if not math.isnan(row[1])]
    if not known:
        return [f'No difference of {name.upper()} between methods can be shown: fewer than three training seeds.']
    return provenance.least(known, f'of {name.upper()} from full FT', '')


def spread(values_: pd.Series) -> str:
    """A mean with its standard deviation over seeds: '58.7 ± 1.2'; '-' where there is none."""
    known = values_.dropna()
    if known.empty:
        return '-'
    form = f'{{:.{1 if known.mean() >= 10 else 2}f}}'
    return form.format(known.mean()) + (f' ± {form.format(known.std(ddof=1))}' if len(known) > 1 else '')


def gains(found: pd.DataFrame, better: str, worse: str, name: str = 'fid') -> dict[tuple, Sample]:
    """FID (or another distance) of one method minus that of another by (data, pairs), paired: above zero where `better`
    is better. A value a training seed, the mean over its sampling seeds."""
    keys = ['data', 'pairs', 'seed', 'sampling_seed']
    one, other = (found[found['method'] == method].set_index(keys)[name] for method in (better, worse))
    apart = (other - one).dropna().groupby(['data', 'pairs', 'seed']).mean()
    return {
        key: Sample(tuple(('', seed) for seed in group.index.get_level_values('seed')), group.to_numpy())
        for key, group in apart.groupby(['data', 'pairs'])
    }


def _resamples(samples: Sequence[dict], name: str) -> np.ndarray:
    """[draws] AUROC of the findings, or KID, in resamples: mean over sampling seeds, [0] if none is kept."""

    def of(sample: dict) -> list | None:
        return sample.get('kid_resamples') if name == 'kid' else (sample.get('adherence') or {}).get('resamples')

    kept = [of(sample) or [] for sample in samples]
    return np.array(kept, dtype=float).mean(axis=0) if kept and all(kept) else np.array([])  # None becomes NaN


def over_untuned(table: pd.DataFrame, name: str = 'auroc') -> pd.DataFrame:
    """By how much better the images of each cell are than the untuned pipeline's: prompt adherence, or distance.

    The same prompts and starting noise on both sides: the interval is that of the difference over resamples of
    patients, each the mean over training and sampling seeds.

    Args:
        table: `runs`.
        name: 'auroc' of the findings that prompts ask for, or 'kid'.
    Returns:
        Columns data, pairs, method, gain (above zero where tuning helps: a higher AUROC, a lower KID), gain_low,
        gain_high (95 %); beside the methods of a set and data size a row ALL of their mean. NaN where a record keeps no
        resamples.
    """
    rows, sign = [], {'auroc': 1, 'kid': -1}[name]
    for (data, pairs), cells in table.groupby(['data', 'pairs'], sort=False):
        gains, draws = {}, {}
        for method, runs_ in cells.groupby('method', sort=False):
            tuned, untuned = (values(runs_, which)[name].mean() for which in ('samples', 'base'))
            apart = [_resamples(one.samples, name) - _resamples(one.base, name) for one in runs_.itertuples()]
            gains[method] = sign * (tuned - untuned)
            draws[method] = sign * np.mean(apart, axis=0) if len({len(a) for a in apart}) == 1 else np.array([])
        if len({len(found) for found in draws.values()}) == 1:
            gains[ALL], draws[ALL] = np.mean(list(gains.values())), np.mean(list(draws.values()), axis=0)
        for method, gain in gains.items():
            low, high = quantiles(draws.get(method, np.array([])))
            row = {'data': data, 'pairs': pairs, 'method': method, 'gain': gain}
            rows.append(row | {'gain_low': low, 'gain_high': high})
    return pd.DataFrame(rows, columns=[*CELL, 'gain', 'gain_low', 'gain_high'])


def against_base(table: pd.DataFrame) -> pd.DataFrame:
    """`values` with the untuned pipeline of every run's cell and seeds beside it, as a method of its own."""
    base = values(table, 'base').drop_duplicates(['data', 'pairs', 'seed', 'sampling_seed'])
    return pd.concat([values(table), base.assign(method=BASE)], ignore_index=True)


def describe(records: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """What stands beside every table of this half: data, pipeline, runs and seeds, what distances are taken on."""
    if scores.is_published(records):
        return [f"The paper's own numbers ({paper.CITATION}): FID of 1,000 test images of MIMIC-CXR, mean of 4 seeds."]
    own = records[records['experiment'] == EXPERIMENT]
    if table.empty:
        return provenance.source(own, table, '')
    images = provenance.from_to(values(table)['images'].dropna(), 'image')
    each = provenance.from_to(table['samples'].map(len), 'sampling seed')
    ways = sorted({(s.get('guidance'), s.get('steps')) for s in table['sampling'] if s}, key=str)
    how = '; '.join(f'guidance {guidance:g}, {steps} steps' for guidance, steps in ways)
    about = f'{each} a run, {images} each' + (f' ({how})' if how else '')
    renamed = table.assign(encoder=table['backbone_label'], fraction=table['pairs'], steps=math.nan)
    trained = [f'{" or ".join(map(str, sorted(set(g))))} with {p:,}' for p, g in table.groupby('pairs')['steps']]
    steps = [] if (table['steps'] == 0).any() else [f'Training steps by pairs: {", ".join(trained[::-1])}.']
    return [*provenance.source(own, renamed, about), *steps, *_encoders(table)]


def _encoders(table: pd.DataFrame) -> list[str]:
    """What KID and FID are taken on; and a warning where runs of one set were scored by different encoders."""
    notes = []
    for data, group in table.groupby('data', sort=False):
        real = group['real'].iloc[0]
        quality, about = number((real.get('adherence') or {}).get('auroc')), real.get('encoder') or {}
        told = '' if math.isnan(quality) else f', AUROC {quality:.3f} on real test images'
        if 'held_out_auroc' in about:
            told += ' ({training_auroc:.3f} on its own {training_images:,}, {held_out_auroc:.3f} on those of patients '
            told = told.format(**about) + 'held out)'
        notes.append(
            f'KID and FID on {data}: on {about.get("features", "?")} features of an encoder trained on the '
            f'{about.get("kind", "labels")} of its training split{told}. The scale differs from that of Inception, '
            'which the paper uses: compare orders, not numbers.'
        )
        if (count := group['encoder'].nunique()) > 1:
            notes.append(
                f'{data}: {count} different encoders scored these runs, so distances do not compare; run them again '
                'with the whole set loaded.'
            )
    return notes


def best(table: pd.DataFrame, count: int = 5) -> list[str]:
    """The best methods of one set by average rank, ties by average FID; LoRA, the paper's question, among them."""
    found = list(summary(values(table)).sort_values(['average_rank', 'average_fid']).index)
    kept = found[:count]
    return kept if LORA in kept or LORA not in found else [*kept[:-1], LORA]


def sizes(table: pd.DataFrame) -> np.ndarray:
    """Numbers of training pairs that were run, largest first."""
    return np.sort(table['pairs'].unique())[::-1]
