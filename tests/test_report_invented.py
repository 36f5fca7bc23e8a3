"""Invented records for the tests of the report: no run stands behind them; never to be written under figures/."""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from medpeft_utils.report import paper
from medpeft_utils.training import rows

SIZES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)
LABELS = {
    'ResNet50': 'ResNet50 (mini)',
    'ViT-Base': 'ViT-Base (mini)',
    'ViT-Large': 'ViT-Large (mini)',
    'ViT-Base MAE': 'ViT-Base MAE (mini)',
}
TRAINABLE = {'Full FT': 5_300_000, 'Attention Tuning': 1_780_000, 'TSA': 900_000, 'LoRA': 147_456, 'SSF': 51_000}


def invented_record(encoder: str, dataset: str, method: str, seed: int = 0, score: float = 0.7, **other) -> dict:
    """One record with the columns that `medpeft_utils.study.records.load` gives."""
    family = 'cnn' if encoder.startswith('ResNet') else 'vit'
    record = {
        'run': f'{encoder}-{dataset}-{method}-{other.get("fraction", 1.0)}-{seed}',
        'status': 'done',
        'profile': 'invented',
        'experiment': family,
        'dataset': dataset.lower(),
        'dataset_label': dataset,
        'synthetic': False,
        'backbone': encoder.lower(),
        'backbone_label': LABELS.get(encoder, encoder),
        'encoder_role': encoder,
        'family': family,
        'method': method.lower(),
        'method_label': method,
        'fraction': 1.0,
        'seed': seed,
        'trainable_parameters': 0 if method == 'Linear Probing' else TRAINABLE.get(method, 20_000),
        'head_parameters': 1351,
        'total_parameters': 5_301_351,
        'f1_macro': score - 0.2,
        'f1_weighted': score,
        'f1_micro': score + 0.02,
        'train_images': round(paper.TRAINING_IMAGES.get(dataset, 1000) * other.get('fraction', 1.0)),
    }
    return record | other


def invented_records(seeds: int = 3, synthetic: bool = False, noise: float = 0.01) -> pd.DataFrame:
    """Two data sets, four encoders and Figure 1: the paper's numbers, lowered, with noise; one cell missing."""
    random = np.random.default_rng(0)
    printed = paper.records()
    kept = printed[printed['dataset'].isin(['BreastUS', 'HAM10000']) & printed['encoder_role'].isin(LABELS)]
    found = []
    for cell in kept.itertuples():
        if (cell.encoder_role, cell.dataset, cell.method) == ('ViT-Base MAE', 'BreastUS', 'SSF'):
            continue
        for seed in range(seeds):
            score = cell.f1_weighted - 0.1 + noise * random.standard_normal()
            other = {'fraction': cell.fraction, 'experiment': cell.experiment, 'synthetic': synthetic}
            row = invented_record(cell.encoder_role, cell.dataset, cell.method, seed, score, **other)
            row['dataset_label'] += ' (synthetic)' if synthetic else ''
            row['run'] += cell.experiment
            found.append(row)
    return pd.DataFrame(found)


def records_with_rows(
    accuracy: dict[str, float],
    encoder: str = 'ViT-Base',
    dataset: str = 'HAM10000',
    seeds: int = 3,
    split: str = 'one',
    sizes: tuple[float, ...] = (1.0,),
    head: str = 'own',
    steps: int = 300,
    experiment: str = '',
    patients: int = 150,
) -> pd.DataFrame:
    """Whole records whose rows are right with the given chance; sex and age of the patients beside them."""
    random = np.random.default_rng(zlib.crc32(f'{split}{dataset}'.encode()))
    groups = np.repeat(np.arange(patients), random.integers(1, 4, patients))
    labels = random.choice(3, p=[0.6, 0.3, 0.1], size=patients)[groups]
    sex = np.where(random.random(patients) < 0.5, 'F', 'M')[groups]
    attributes = pd.DataFrame({'sex': sex, 'age': random.integers(20, 90, patients)[groups].astype(float)})
    found = []
    for method, chance in accuracy.items():
        for size in sizes:
            for seed in range(seeds):
                sections = {}
                for part in ('validation', 'test'):
                    right = random.random(len(labels)) < chance + 0.01 * random.standard_normal()
                    predicted = np.where(right, labels, (labels + random.integers(1, 3, len(labels))) % 3)
                    odds = random.standard_normal((len(labels), 3)) + 2.0 * (np.arange(3) == predicted[:, None])
                    odds[np.arange(len(labels)), predicted] = odds.max(axis=1) + 0.1
                    p = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
                    sections[part] = rows.write(labels, groups, p, attributes)
                score = f1_score(labels, predicted, average='weighted')
                row = invented_record(encoder, dataset, method, seed, score, fraction=size)
                row['run'] += f'{split}{head}{steps}'
                row['experiment'] = experiment or row['experiment']
                row['record'] = {
                    'run': row['run'],
                    'parameters': {'head': head, 'seed': seed, 'min_steps': steps, 'max_steps': steps},
                    'data': {
                        'name': dataset.lower(),
                        'label': dataset,
                        'split_hash': split,
                        'classes': ['a', 'b', 'c'],
                        'counts': {'train': 1000, 'validation': len(labels), 'test': len(labels)},
                    },
                    'training': {'head': head, 'steps': steps, 'epochs': steps / 20},
                    'learning_rate': {'value': 0.001, 'how': 'searched', 'trials': [{}] * 8, 'edge': None},
                    'metrics': {'per_class': {}},
                    'rows': sections,
                }
                found.append(row)
    return pd.DataFrame(found)


def test_the_invented_study_has_two_data_sets_and_a_gap():
    records = invented_records(seeds=1)
    assert set(records['dataset_label']) == {'BreastUS', 'HAM10000'}
    mae = records[(records['encoder_role'] == 'ViT-Base MAE') & (records['method_label'] == 'SSF')]
    assert set(mae['dataset_label']) == {'HAM10000'}
