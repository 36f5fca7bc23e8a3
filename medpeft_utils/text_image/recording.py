"""Turn a finished `TextToImage` into the parts of its record."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from medpeft_utils.text_image.adaptation import TextToImage
from medpeft_utils.training.precision import device_name
from medpeft_utils.training.recording import ADAPTER, method_of


def parts(run: TextToImage, metrics: dict, started: float) -> dict:
    """What a record says of a run, by section.

    Args:
        run: trained.
        metrics: what was measured on its images, numbers by name; the validation losses are added.
        started: `time.monotonic()` at the run's start.
    """
    fit = run.result
    spent = {'total_seconds': round(time.monotonic() - started, 3), 'step_seconds': fit.step_seconds}
    return {
        'data': _data(run),
        'backbone': _backbone(run),
        'method': method_of(run.adapted, run.settings.method, 'unet'),
        'learning_rate': run.learning_rate,
        'training': {
            'steps': fit.steps,
            'epochs': fit.epochs,
            'batch_size': min(run.settings.batch_size, len(run.rows('train'))),
            'selection': 'validation_loss',
        },
        'metrics': run.losses() | metrics,
        'cost': _cost(run),
        'curve': fit.curve,
        'best_epoch': fit.curve[fit.best]['epoch'],
        'time': spent | {'train_images_per_second': fit.images_per_second},
        'peak_memory_mb': fit.peak_memory_mb,
        'environment': {'device': device_name(run.device), 'precision': str(run.precision)},
    }


def _data(run: TextToImage) -> dict:
    used = {split: len(run.rows(split)) for split in ('train', 'validation')}
    return {
        'name': run.data.name,
        'label': run.data.label,
        'synthetic': bool(run.data.synthetic),
        'split_hash': run.data.split_hash,
        'counts': {split: len(run.data.rows(split)) for split in (*used, 'test')},
        'used': used,
        'prompts_cut': asdict(run.cut),
    }


def _backbone(run: TextToImage) -> dict:
    pipe = run.pipeline
    return {
        'name': pipe.name,
        'label': pipe.label,
        'role': pipe.role,
        'family': pipe.family,
        'source': pipe.source,
        'hash': pipe.hash,
        'image_size': run.image_size,
    }


def _cost(run: TextToImage) -> dict:
    return {
        'adapter_bytes': sum(tensor.nbytes for tensor in run.adapted.state().values()),
        'total_bytes': sum(tensor.nbytes for tensor in run.adapted.model.state_dict().values()),
        'peak_memory_mb': run.result.peak_memory_mb,
        'peak_memory_of': "the GPU's allocator, in training" if run.device.type == 'cuda' else 'the whole process',
        'train_images_per_second': run.result.images_per_second,
        'images_per_second': None,  # sampling is timed by no one
        **run.result.energy,
        'search_seconds': run.search_seconds,
    }


def write_files(run: TextToImage, folder: Path) -> list[Path]:
    """Write what lies beside the record: the adapter, where `save_adapter` asks for it."""
    if not run.settings.save_adapter:
        return []
    return [run.adapted.save(Path(folder) / ADAPTER, run.pipeline.hash)]
