"""Turn a finished `Classification` into the parts of its record, and its predictions into a table."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medpeft_utils import backbones, methods
from medpeft_utils.core.shared import once
from medpeft_utils.training import cost, rows
from medpeft_utils.training.classification import PROBE, SPLITS, Classification
from medpeft_utils.training.precision import device_name
from medpeft_utils.training.run import digest

PREDICTIONS = 'predictions.parquet'
ADAPTER = 'adapter.safetensors'


def predictions_table(run: Classification) -> pd.DataFrame:
    """A row an image of validation and test: split, row, group, label, and the probability of every class."""
    parts = []
    for split, probabilities in run.probabilities.items():
        chosen = run.rows(split)
        table = pd.DataFrame({'split': split, 'row': chosen, 'group': run.data.groups[chosen]})
        table = table.assign(**run.objective.truth(run.data.labels[chosen], run.data.classes))
        for k, name in enumerate(run.data.classes):
            table[f'p_{name}'] = probabilities[:, k]
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def parts(run: Classification, scores: dict, started: float) -> dict:
    """What a record says of a run, by section.

    Args:
        run: trained and evaluated.
        scores: what `run.evaluate()` gave.
        started: `time.monotonic()` at the run's start.
    """
    fit, s = run.result, run.settings
    spent = {'total_seconds': round(time.monotonic() - started, 3), 'step_seconds': fit.step_seconds}
    return {
        'data': _data(run),
        'backbone': _backbone(run),
        'method': method_of(run.adapted, run.settings.method, run.backbone.family),
        'learning_rate': run.learning_rate,
        'training': {
            'steps': fit.steps,
            'epochs': fit.epochs,
            'batch_size': min(s.batch_size, len(run.rows('train'))) if s.method != PROBE else len(run.rows('train')),
            'head': s.head if s.method != PROBE else 'probe',
            'augmentation': run.augmentation,
            'selection': run.objective.selection,
        },
        'metrics': scores,
        'rows': _rows(run),
        'cost': _cost(run),
        'curve': fit.curve,
        'best_epoch': fit.curve[fit.best]['epoch'],
        'time': spent | {'train_images_per_second': fit.images_per_second},
        'peak_memory_mb': fit.peak_memory_mb,
        'environment': {'device': device_name(run.device), 'precision': str(run.precision), 'kernels': run.started_by},
        'predictions': PREDICTIONS,
    }


def _rows(run: Classification) -> dict:
    groups = np.unique(run.data.groups, return_inverse=True)[1]  # numbers that hold for every run on this dataset
    return {
        split: rows.write(
            *(run.data.labels[run.rows(split)], groups[run.rows(split)], probabilities),
            run.data.attributes.iloc[run.rows(split)],
        )
        for split, probabilities in run.probabilities.items()
    }


def _cost(run: Classification) -> dict:
    adapted, fit, s = run.adapted, run.result, run.settings

    def measure() -> dict:
        counted = cost.flops(adapted, run.image_size, run.device)
        if s.method == PROBE:  # a step is that of the head on stored features, forward and backward
            counted['step_flops'] = 4 * sum(p.numel() for p in adapted.trainable().values())
        adds = adapted.method.mergeable and adapted.method.kind == 'additive'
        networks = {'unmerged': adapted.model} | ({'merged': adapted.merge()} if adds else {})
        how = run.image_size, run.precision, run.device
        return counted | {'images_per_second': {n: cost.images_per_second(m, *how) for n, m in networks.items()}}

    # These are the same for every run of a method on a backbone, and are measured once.
    same = [s.backbone, run.image_size, s.method, asdict(adapted.config), len(run.data.classes), str(run.precision)]
    key = digest({'of': [*same, device_name(run.device), torch.__version__]})
    return {
        **once(run.cache / 'cost' / f'{key}.json', measure),
        'adapter_bytes': sum(tensor.nbytes for tensor in adapted.state().values()),
        'total_bytes': sum(tensor.nbytes for tensor in adapted.model.state_dict().values()),
        'peak_memory_mb': fit.peak_memory_mb,
        'peak_memory_of': "the GPU's allocator, in training" if run.device.type == 'cuda' else 'the whole process',
        'train_images_per_second': fit.images_per_second,
        **fit.energy,
        'search_seconds': run.search_seconds,
    }


def _data(run: Classification) -> dict:
    return {
        'name': run.data.name,
        'label': run.data.label,
        'synthetic': bool(run.data.synthetic),
        'split_hash': run.data.split_hash,
        'counts': {split: len(run.rows(split)) for split in SPLITS},
        'classes': list(run.data.classes),
    }


def _backbone(run: Classification) -> dict:
    backbone = run.backbone
    return {
        'name': backbone.name,
        'label': backbone.label,
        'role': backbone.role,
        'family': backbone.family,
        'source': backbone.source,
        'report': backbone.report,
        'trained_on_test_images': backbones.warning(backbone.name, run.settings.dataset),
        'hash': backbone.hash,
        'image_size': run.image_size,
    }


def method_of(adapted: methods.Adapted, key: str, family: str) -> dict:
    """What a record says of the method that was applied."""
    trainable = adapted.count()
    return {
        'key': key,
        'label': methods.label(key, family),
        'config': asdict(adapted.config),
        'left_out': list(adapted.left_out),
        'trainable_parameters': trainable,
        'head_parameters': adapted.count(head=True) - trainable,
        'total_parameters': sum(p.numel() for p in adapted.model.parameters()),
    }


def write_files(run: Classification, folder: Path) -> list[Path]:
    """Write what lies beside the record: the predictions, and the adapter where `save_adapter` asks for it."""
    paths = [Path(folder) / PREDICTIONS]
    predictions_table(run).to_parquet(paths[0], index=False)
    if run.settings.save_adapter:
        paths.append(run.adapted.save(Path(folder) / ADAPTER, run.backbone.hash))
    return paths
