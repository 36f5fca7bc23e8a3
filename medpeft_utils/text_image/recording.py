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
        metrics: what was measured on its images, numbers by name; this adds the validation losses.
        started: `time.monotonic()` at the run's start.
    """
    fit, pipe, pairs = run.result, run.pipeline, run.data
    used = {split: len(run.rows(split)) for split in ('train', 'validation')}
    gpu = run.device.type == 'cuda'
    return {
        'data': {name: getattr(pairs, name) for name in ('name', 'label', 'split_hash')}
        | {
            'synthetic': bool(pairs.synthetic),
            'counts': {split: len(pairs.rows(split)) for split in (*used, 'test')},
            'used': used,
            'prompts_cut': asdict(run.cut),
        },
        'backbone': {name: getattr(pipe, name) for name in ('name', 'label', 'role', 'family', 'source', 'hash')}
        | {'image_size': run.image_size},
        'method': method_of(run.adapted, run.settings.method, 'unet'),
        'learning_rate': run.learning_rate,
        'training': {
            'steps': fit.steps,
            'epochs': fit.epochs,
            'batch_size': min(run.settings.batch_size, used['train']),
            'selection': 'validation_loss',
        },
        'metrics': run.losses() | metrics,
        'cost': {
            'adapter_bytes': sum(tensor.nbytes for tensor in run.adapted.state().values()),
            'total_bytes': sum(tensor.nbytes for tensor in run.adapted.model.state_dict().values()),
            'peak_memory_mb': fit.peak_memory_mb,
            'peak_memory_of': "the GPU's allocator, in training" if gpu else 'the whole process',
            'train_images_per_second': fit.images_per_second,
            'images_per_second': None,  # nothing times the sampling
            **fit.energy,
            'search_seconds': run.search_seconds,
        },
        'curve': fit.curve,
        'best_epoch': fit.curve[fit.best]['epoch'],
        'time': {
            'total_seconds': round(time.monotonic() - started, 3),
            'step_seconds': fit.step_seconds,
            'train_images_per_second': fit.images_per_second,
        },
        'peak_memory_mb': fit.peak_memory_mb,
        'environment': {'device': device_name(run.device), 'precision': str(run.precision)},
    }


def write_files(run: TextToImage, folder: Path) -> list[Path]:
    """Write the adapter beside the record, where `save_adapter` asks for it."""
    if not run.settings.save_adapter:
        return []
    return [run.adapted.save(Path(folder) / ADAPTER, run.pipeline.hash)]
