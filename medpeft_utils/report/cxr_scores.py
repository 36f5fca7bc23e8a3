"""The second paper (Lian et al. 2024): from records to its 18 tasks, LoRA against full fine-tuning, with intervals.

A task is a model, a dataset and a share of the labels. Scores are the mean test AUROC over findings; intervals draw the
patients of the test split and the seeds of training together, from the rows of the records, or from the draws of
`auroc.bootstrap` that older records hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.report import paper, provenance, scores
from medpeft_utils.report.inference import Sample

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
    *('steps', 'passes', 'edge', 'selection'),
]


def _run(row, suffix: str) -> dict:
    record = row.record
    given, metrics, method = record['parameters'], record['metrics'], record['method']
    name, bootstrap = record['data']['name'], metrics.get('bootstrap') or {}
    draws, patients = _draws(record)
    about = scores.training_of(record)
    return {
        'run': row.run,
        'model': (record['backbone'].get('role') or record['backbone']['label']) + suffix,
        'data': DATASETS.get(name.removeprefix('synthetic_'), record['data']['label'].removesuffix(' (synthetic)')),
        'fraction': round(float(given['fraction']), 6),
        'method': method['label'],
        'rank': method['config'].get('rank', math.nan),
        'seed': int(given['seed']),
        'auroc': _number(metrics['test']['auroc']),
        'validation': _number(metrics['validation']['auroc']),
        'draws': draws,
        'key': (record['data']['split_hash'], bootstrap.get('images'), 0 if draws is None else len(draws)),
        'model_label': record['backbone']['label'] + suffix,
        'dataset_label': record['data']['label'],
        'synthetic': bool(record['data']['synthetic']),
        'train_images': record['data']['counts']['train'],
        'test_images': record['data']['counts']['test'],
        'patients': patients,
        'trainable': method['trainable_parameters'],
        'total': method['total_parameters'],
        'undefined': tuple((record['data'].get('undefined') or {}).get('test', ())),
        'findings': len(record['data']['classes']),
        'steps': about['steps'],
        'passes': about['passes'],
        'edge': about['edge'],
        'selection': about['selection'],
    }


_AREAS: dict[tuple, np.ndarray] = {}


def _draws(record: dict) -> tuple[np.ndarray | None, int]:
    """[draws] of the mean AUROC over resamples of the patients, and their number; (None, 0) where neither is held."""
    rows, stored = scores.test_rows(record), record['metrics'].get('bootstrap') or {}
    if rows is None:
        draws = stored.get('auroc')
        return (None, 0) if draws is None else (np.array(draws, dtype=float), int(stored['patients']))
    labels, groups, _, predicted = rows
    split = scores.split_of(labels, groups, len(record['data']['classes']))
    key = record['run'], hash(np.asarray(predicted).tobytes())
    if key not in _AREAS:
        _AREAS[key] = split.auroc(predicted)[1:]
    return _AREAS[key], split.groups


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


def sample(rows: pd.DataFrame) -> Sample:
    """The runs of one method of a task as a `Sample`."""
    keys = tuple(zip(rows['key'], rows['seed'], strict=True))
    values = rows['auroc'].to_numpy(dtype=float)
    if not len(rows) or any(one is None for one in rows['draws']):
        return Sample(keys, values)
    return Sample(keys, values, np.stack(list(rows['draws'])), int(rows['patients'].iloc[0]))


def tasks(table: pd.DataFrame) -> pd.DataFrame:
    """One row a task: LoRA and full fine-tuning, and their difference over the seeds that both have.

    Args:
        table: `runs` with one rank a task.
    Returns:
        The task, full, full_low, full_high, lora, lora_low, lora_high, difference, low, high (0..1; 95 %), found (the
        difference as an `Interval`), seeds, over, rank, trainable, total, train_images, test_images, patients,
        synthetic.
    """
    rows = []
    for task, group in table[table['method'].isin([LORA, FULL])].groupby(TASK, sort=False):
        sides = {name: group[group['method'] == method] for name, method in (('full', FULL), ('lora', LORA))}
        row = dict(zip(TASK, task, strict=True))
        for name, side in sides.items():
            found = sample(side).interval()
            row |= {name: found.value, f'{name}_low': found.low, f'{name}_high': found.high}
        apart = (sample(sides['lora']) - sample(sides['full'])).interval()
        row |= {'difference': apart.value, 'low': apart.low, 'high': apart.high, 'found': apart}
        about = (sides['lora'] if len(sides['lora']) else sides['full']).iloc[0]
        row |= about[['rank', 'trainable', 'total', 'test_images', 'patients', 'synthetic']].to_dict()
        images = round((sides['lora'] if len(sides['lora']) else sides['full'])['train_images'].mean())
        rows.append(row | {'train_images': images, 'seeds': apart.seeds, 'over': apart.over})
    columns = [*TASK, 'full', 'full_low', 'full_high', 'lora', 'lora_low', 'lora_high', 'difference', 'low', 'high']
    columns += ['found', 'seeds', 'over', 'rank', 'trainable', 'total', 'train_images', 'test_images', 'patients']
    return pd.DataFrame(rows, columns=[*columns, 'synthetic'])


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
    """What stands beside every figure of this paper: data and model, runs and seeds, findings left out."""
    renamed = shown.rename(columns={'model': 'encoder', 'model_label': 'backbone_label'})
    own = records[records['experiment'] == EXPERIMENT]
    notes = provenance.source(own, renamed, 'mean AUROC over findings on the test split', CITATION)
    left = {f'{row.dataset_label}: {", ".join(row.undefined)}' for row in shown.itertuples() if row.undefined}
    if left:
        notes.append(
            f'Findings without positives or negatives on test, left out of the mean: {"; ".join(sorted(left))}.'
        )
    over = {sample(group).interval().over for _, group in shown.groupby([*TASK, 'method', 'rank'], dropna=False)}
    return [*notes, *(words for name, words in provenance.INTERVALS.items() if name in over)]


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
