"""Invented records for the tests of the report: no run stands behind them; never to be written under figures/."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medpeft_utils.report import paper

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
    rows = []
    for cell in kept.itertuples():
        if (cell.encoder_role, cell.dataset, cell.method) == ('ViT-Base MAE', 'BreastUS', 'SSF'):
            continue
        for seed in range(seeds):
            score = cell.f1_weighted - 0.1 + noise * random.standard_normal()
            other = {'fraction': cell.fraction, 'experiment': cell.experiment, 'synthetic': synthetic}
            row = invented_record(cell.encoder_role, cell.dataset, cell.method, seed, score, **other)
            row['dataset_label'] += ' (synthetic)' if synthetic else ''
            row['run'] += cell.experiment
            rows.append(row)
    return pd.DataFrame(rows)


def test_the_invented_study_has_two_data_sets_and_a_gap():
    records = invented_records(seeds=1)
    assert set(records['dataset_label']) == {'BreastUS', 'HAM10000'}
    mae = records[(records['encoder_role'] == 'ViT-Base MAE') & (records['method_label'] == 'SSF')]
    assert set(mae['dataset_label']) == {'HAM10000'}
