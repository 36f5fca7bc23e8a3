"""The second paper (Lian et al. 2024): from records to its 18 tasks, LoRA against full fine-tuning, with intervals.

A task is a model, a dataset and a share of the labels. Scores are the mean test AUROC over findings; intervals draw the
patients of the test split and the seeds of training together, from the rows of the records, or from the draws of
`auroc.bootstrap` that older records hold.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from medpeft_utils.report import paper, provenance, scores

EXPERIMENT = 'cxr_lora_vs_full'
CITATION = 'Lian et al. 2024, arXiv:2401.12215'
MODELS = ('MRM', 'CXR-MAE')
DATASETS = {'nih_chestxray14': 'NIH ChestX-ray14', 'chexpert': 'CheXpert', 'rsna_pneumonia_lists': 'RSNA Pneumonia'}
FRACTIONS = (0.01, 0.1, 1.0)
TASK = ['encoder', 'data', 'fraction']
LORA, FULL = 'LoRA', 'Full FT'
VIT_B = {'width': 768, 'depth': 12, 'total': 85_798_656}  # timm's ViT-B/16 without its head


def runs(records: pd.DataFrame) -> pd.DataFrame:
    """One row for each finished run of the radiograph experiment.

    Args:
        records: as `source.load` gives them, with the column 'record'; empty where there is none.
    Returns:
        The columns of `scores.seed_scores` that `scores.sample` and `provenance.source` take (encoder and data as the
        paper names them, score the AUROC), and rank (NaN except for LoRA), validation, test_images, undefined (findings
        left out on test).
    Raises:
        BadInput: two records for one cell and seed.
    """
    if 'record' not in records:
        return pd.DataFrame(columns=_COLUMNS)
    done = records[(records['status'] == 'done') & (records['experiment'] == EXPERIMENT)]
    suffixes = scores.random_weights(done)
    found = [_run(row, suffix) for row, suffix in zip(done.itertuples(), suffixes, strict=True)]
    table = pd.DataFrame(found, columns=_COLUMNS)
    scores.refuse_several(table, [*TASK, 'method', 'rank', 'seed'])
    order = {name: place for place, name in enumerate([*MODELS, *DATASETS.values()])}
    keys = table[['encoder', 'data']].map(lambda name: order.get(name, len(order)))
    keys = keys.assign(f=table['fraction'], s=table['seed'])
    return table.loc[keys.sort_values(['encoder', 'data', 'f', 's']).index]


_COLUMNS = [
    *('run', *TASK, 'method', 'rank', 'seed', 'score', 'validation', 'draws', 'split', 'groups', 'ratio', 'printed'),
    *('backbone_label', 'dataset_label', 'synthetic', 'train_images', 'test_images', 'trainable', 'total'),
    *('undefined', 'steps', 'passes', 'edge', 'selection'),
]


def _run(row, suffix: str) -> dict:
    record = row.record
    given, metrics, method, data = (record[name] for name in ('parameters', 'metrics', 'method', 'data'))
    draws, groups = _draws(record)
    drawn = (metrics.get('bootstrap') or {}).get('images'), 0 if draws is None else len(draws)
    area = math.nan if metrics['test']['auroc'] is None else float(metrics['test']['auroc'])
    return scores.training_of(record) | {
        'run': row.run,
        'encoder': (record['backbone'].get('role') or record['backbone']['label']) + suffix,
        'data': DATASETS.get(data['name'].removeprefix('synthetic_'), data['label'].removesuffix(' (synthetic)')),
        'fraction': round(float(given['fraction']), 6),
        'method': method['label'],
        'rank': method['config'].get('rank', math.nan),
        'seed': int(given['seed']),
        'score': area,
        'validation': metrics['validation']['auroc'],
        'draws': None if draws is None else np.r_[area, draws],
        'split': (data['split_hash'], *drawn),  # what makes draws comparable
        'groups': groups,
        'ratio': data['counts']['test'] / max(data['counts']['train'], 1),
        'printed': False,
        'backbone_label': record['backbone']['label'] + suffix,
        'dataset_label': data['label'],
        'synthetic': bool(data['synthetic']),
        'train_images': data['counts']['train'],
        'test_images': data['counts']['test'],
        'trainable': method['trainable_parameters'],
        'total': method['total_parameters'],
        'undefined': tuple((data.get('undefined') or {}).get('test', ())),
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


def recommended() -> pd.DataFrame:
    """The authors' settings of LoRA by task: columns encoder, data, fraction, and those of their table."""
    table = paper.read('lian2024_recommended_lora')
    return table.rename(columns={'dataset': 'data', 'model': 'encoder'}).assign(fraction=table['labels_percent'] / 100)


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


def tasks(table: pd.DataFrame) -> list[dict]:
    """One row a task: LoRA and full fine-tuning, and their difference over the seeds that both have.

    Args:
        table: `runs` with one rank a task.
    Returns:
        The task, full, lora, difference (each an `Interval`, 0..1), seeds, over, rank, trainable, total, train_images,
        test_images, patients, synthetic.
    """
    rows = []
    for task, group in table[table['method'].isin([LORA, FULL])].groupby(TASK, sort=False):
        full, lora = (group[group['method'] == method] for method in (FULL, LORA))
        apart, one = scores.gain(group, LORA).interval(), lora if len(lora) else full
        about = one.iloc[0].rename({'groups': 'patients'})
        row = dict(zip(TASK, task, strict=True)) | {'full': scores.sample(full).interval()}
        row |= {'lora': scores.sample(lora).interval(), 'difference': apart, 'seeds': apart.seeds, 'over': apart.over}
        row |= about[['rank', 'trainable', 'total', 'test_images', 'patients', 'synthetic']].to_dict()
        rows.append(row | {'train_images': round(one['train_images'].mean())})
    return rows


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
    own = records[records['experiment'] == EXPERIMENT]
    notes = provenance.source(own, shown, 'mean AUROC over findings on the test split', CITATION)
    left = {f'{row.dataset_label}: {", ".join(row.undefined)}' for row in shown.itertuples() if row.undefined}
    if left:
        notes.append(
            f'Findings without positives or negatives on test, left out of the mean: {"; ".join(sorted(left))}.'
        )
    cells = shown.groupby([*TASK, 'method', 'rank'], dropna=False)
    over = {scores.sample(group).interval().over for _, group in cells}
    return [*notes, *(words for name, words in provenance.INTERVALS.items() if name in over)]


def percent(fraction: float) -> str:
    """A share of the labels in words: '1 %', '10 %', '0.5 %'."""
    return f'{100 * fraction:g} %'
