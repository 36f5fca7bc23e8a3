"""The second paper (Lian et al. 2024): from records to its 18 tasks, LoRA against full fine-tuning, with intervals.

A task is a model, a dataset and a share of the labels. Scores are the mean test AUROC over findings. Two intervals are
told apart: over the patients of the test split, for the networks as they were trained (`auroc.bootstrap`, whose draws
are in the record, paired between runs), and over seeds, which hold the chance of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from medpeft_utils import auroc
from medpeft_utils.core.errors import BadInput
from medpeft_utils.report import paper, scores

EXPERIMENT = 'cxr_lora_vs_full'
CITATION = 'Lian et al. 2024, arXiv:2401.12215'
MODELS = ('MRM', 'CXR-MAE')
DATASETS = {'nih_chestxray14': 'NIH ChestX-ray14', 'chexpert': 'CheXpert', 'rsna_pneumonia_lists': 'RSNA Pneumonia'}
FRACTIONS = (0.01, 0.1, 1.0)
TASK = ['model', 'data', 'fraction']
LORA, FULL = 'LoRA', 'Full FT'
VIT_B = {'width': 768, 'depth': 12, 'total': 85_798_656}  # timm's ViT-B/16 without its head


def runs(records: pd.DataFrame) -> pd.DataFrame:
    """One row for each finished run of the radiograph experiment.

    Args:
        records: as `source.load` gives them, with the column 'record'; empty where there is none.
    Returns:
        model, data (as the paper names them), fraction, method, rank (NaN but for LoRA), seed, auroc (0..1),
        validation, draws ([B] or None), key (what makes draws comparable), model_label, dataset_label, synthetic,
        train_images, test_images, patients, trainable, total, undefined (findings left out on test), findings.
    Raises:
        BadInput: two records for one cell and seed.
    """
    if 'record' not in records:
        return pd.DataFrame(columns=_COLUMNS)
    done = records[(records['status'] == 'done') & (records['experiment'] == EXPERIMENT)]
    random = scores.roles(done).index[done.get('weights', pd.Series('', done.index)).eq('random')]
    found = [_run(row, scores.RANDOM if row.Index in random else '') for row in done.itertuples()]
    table = pd.DataFrame(found, columns=_COLUMNS)
    cell = [*TASK, 'method', 'rank', 'seed']
    twice = table[table.duplicated(cell, keep=False)]
    if len(twice):
        first = twice.iloc[0]
        raise BadInput(
            f'several records (such as run {first["run"]}) for {first["method"]} on {first["data"]} with '
            f'{first["model"]}, {first["fraction"]:.0%} of the labels, seed {first["seed"]}; a report takes one: put '
            'the variants into a profile of their own'
        )
    order = {name: place for place, name in enumerate([*MODELS, *DATASETS.values()])}
    keys = table[['model', 'data']].map(lambda name: order.get(name, len(order)))
    return table.loc[keys.assign(f=table['fraction'], s=table['seed']).sort_values(['model', 'data', 'f', 's']).index]


_COLUMNS = [
    *('run', *TASK, 'method', 'rank', 'seed', 'auroc', 'validation', 'draws', 'key', 'model_label', 'dataset_label'),
    *('synthetic', 'train_images', 'test_images', 'patients', 'trainable', 'total', 'undefined', 'findings'),
]


def _run(row, suffix: str) -> dict:
    record = row.record
    given, metrics, method = record['parameters'], record['metrics'], record['method']
    name, bootstrap = record['data']['name'], metrics.get('bootstrap') or {}
    draws = bootstrap.get('auroc')
    return {
        'run': row.run,
        'model': record['backbone']['role'] + suffix,
        'data': DATASETS.get(name.removeprefix('synthetic_'), record['data']['label'].removesuffix(' (synthetic)')),
        'fraction': round(float(given['fraction']), 6),
        'method': method['label'],
        'rank': method['config'].get('rank', math.nan),
        'seed': int(given['seed']),
        'auroc': _number(metrics['test']['auroc']),
        'validation': _number(metrics['validation']['auroc']),
        'draws': None if draws is None else np.array(draws, dtype=float),
        'key': (record['data']['split_hash'], bootstrap.get('images'), bootstrap.get('seed'), len(draws or ())),
        'model_label': record['backbone']['label'] + suffix,
        'dataset_label': record['data']['label'],
        'synthetic': bool(record['data']['synthetic']),
        'train_images': record['data']['counts']['train'],
        'test_images': record['data']['counts']['test'],
        'patients': bootstrap.get('patients'),
        'trainable': method['trainable_parameters'],
        'total': method['total_parameters'],
        'undefined': tuple((record['data'].get('undefined') or {}).get('test', ())),
        'findings': len(record['data']['classes']),
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def recommended() -> pd.DataFrame:
    """The authors' settings of LoRA by task: columns model, data, fraction, and those of their table."""
    table = paper.read('lian2024_recommended_lora')
    return table.rename(columns={'dataset': 'data'}).assign(fraction=table['labels_percent'] / 100)


def one_rank(table: pd.DataFrame) -> pd.DataFrame:
    """The runs with one rank of LoRA a task: the authors' for it where it was run, else the best on validation.

    Of the ranks that were run with the most seeds: a rank with one lucky seed must not push out one with three.
    """
    authors = recommended().set_index(TASK)['lora_rank']
    kept = []
    for task, group in table[table['method'] == LORA].groupby(TASK, sort=False):
        wanted = authors.get(task)
        if wanted not in set(group['rank']):
            ranks = group.groupby('rank')
            seeds = ranks['seed'].nunique()
            wanted = ranks['validation'].mean()[seeds == seeds.max()].idxmax()
        kept.append(group[group['rank'] == wanted])
    return pd.concat([*kept, table[table['method'] != LORA]]) if kept else table


def tasks(table: pd.DataFrame) -> pd.DataFrame:
    """One row a task: LoRA and full fine-tuning, and their difference over the seeds that both have.

    Args:
        table: `runs` with one rank a task.
    Returns:
        The task, full, full_low, full_high, lora, lora_low, lora_high, difference, low, high (0..1; intervals of 95 %
        over patients), seeds_low, seeds_high (95 % t interval of the difference over seeds; NaN below three), seeds,
        rank, trainable, total, train_images, test_images, patients.
    """
    rows = []
    for task, group in table[table['method'].isin([LORA, FULL])].groupby(TASK, sort=False):
        sides = {name: group[group['method'] == method] for name, method in (('full', FULL), ('lora', LORA))}
        row = dict(zip(TASK, task, strict=True))
        for name, side in sides.items():
            row[name] = side['auroc'].mean() if len(side) else math.nan
            row[f'{name}_low'], row[f'{name}_high'] = auroc.quantiles(draws_of(side))
        rows.append(row | _difference(**sides) | _about(sides['lora'] if len(sides['lora']) else sides['full'], task))
    return pd.DataFrame(rows, columns=_TASK_COLUMNS)


_TASK_COLUMNS = [
    *(*TASK, 'full', 'full_low', 'full_high', 'lora', 'lora_low', 'lora_high', 'difference', 'low', 'high'),
    *('seeds_low', 'seeds_high', 'seeds', 'rank', 'trainable', 'total', 'train_images', 'test_images', 'patients'),
    'synthetic',
]


def _about(side: pd.DataFrame, task: tuple) -> dict:
    names = ['rank', 'trainable', 'total', 'test_images', 'patients', 'synthetic']
    return side.iloc[0][names].to_dict() | {'train_images': round(side['train_images'].mean())}


def draws_of(side: pd.DataFrame) -> np.ndarray:
    """Draws of the mean over runs; none where the runs were not tested on the same images."""
    if side.empty or side['key'].nunique() > 1 or side['draws'].isna().any():
        return np.array([])
    return np.mean(np.stack(side['draws'].to_list()), axis=0)


def _difference(full: pd.DataFrame, lora: pd.DataFrame) -> dict:
    both = sorted(set(full['seed']) & set(lora['seed']))
    full, lora = (side[side['seed'].isin(both)].sort_values('seed') for side in (full, lora))
    apart = lora['auroc'].to_numpy() - full['auroc'].to_numpy()
    one, other = draws_of(lora), draws_of(full)
    paired = len(one) and len(other) and lora['key'].iloc[0] == full['key'].iloc[0]
    low, high = auroc.quantiles(one - other if paired else [])
    ends = scores.interval(apart)
    found = {'difference': apart.mean() if both else math.nan, 'low': low, 'high': high}
    return found | {'seeds_low': ends[0], 'seeds_high': ends[1], 'seeds': len(both)}


def by_seed(table: pd.DataFrame) -> pd.DataFrame:
    """LoRA less full fine-tuning by task and seed: columns of the task, seed, gain."""
    keys = [*TASK, 'seed']
    one, other = (table[table['method'] == method].set_index(keys)['auroc'] for method in (LORA, FULL))
    return (one - other).dropna().rename('gain').reset_index()


def wanted_tasks() -> list[tuple[str, str, float]]:
    """The paper's 18 tasks."""
    return [(model, data, fraction) for model in MODELS for data in DATASETS.values() for fraction in FRACTIONS]


def lora_share(rank: int, width: int = VIT_B['width'], depth: int = VIT_B['depth'], total: int = VIT_B['total']):
    """Share of a ViT's parameters that LoRA on q and v trains with the norm before the head; the head left out.

    A block has 2 parts of rank x width + width x rank, the norm 2 x width. The defaults are those of ViT-B/16.
    """
    added = 4 * rank * width * depth
    return (added + 2 * width) / (total + added)


def describe(records: pd.DataFrame, shown: pd.DataFrame) -> list[str]:
    """What stands beside every figure of this paper: which data and model, how many runs and seeds."""
    failed = records[(records['status'] != 'done') & (records['experiment'] == EXPERIMENT)]
    failures = f' {len(failed)} run{"s" if len(failed) > 1 else ""} failed.' if len(failed) else ''
    if shown.empty:
        return [
            f'No run of this study belongs here; the paper’s own table of tasks is not held here ({CITATION}).'
            + failures
        ]
    synthetic = 'SYNTHETIC images. ' if shown['synthetic'].any() else ''
    data, models = (', '.join(dict.fromkeys(shown[name])) for name in ('dataset_label', 'model_label'))
    counts = shown.groupby([*TASK, 'method', 'rank'], dropna=False)['seed'].nunique()
    seeds = f'{counts.min()}' if counts.min() == counts.max() else f'{counts.min()} to {counts.max()}'
    seeds += ' seed a cell.' if counts.max() == 1 else ' seeds a cell.'
    notes = [f'{synthetic}Data: {data}. Models: {models}. {len(shown)} runs, {seeds}' + failures]
    left = {f'{row.dataset_label}: {", ".join(row.undefined)}' for row in shown.itertuples() if row.undefined}
    if left:
        notes.append(
            f'Findings without positives or negatives on test, left out of the mean: {"; ".join(sorted(left))}.'
        )
    return notes


def percent(fraction: float) -> str:
    """A share of the labels in words: '1 %', '10 %', '0.5 %'."""
    return f'{100 * fraction:g} %'


def points(value: float, ends: Sequence[float] = (), signed: bool = False) -> str:
    """An AUROC or a difference in points, with its interval: '80.6 [79.1, 82.0]'; '-' where it is missing."""
    if math.isnan(value):
        return '-'
    form = '{:+.1f}' if signed else '{:.1f}'
    text = form.format(100 * value)
    if len(ends) and not any(math.isnan(end) for end in ends):
        text += f' [{", ".join(form.format(100 * end) for end in ends)}]'
    return text
