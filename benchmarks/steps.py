"""The parts of the bench that train and load: the step of every method, and the loader."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rounds import Broken, Timed, alternate, ask, ratio
from benchmarks.scale import Scale
from medpeft_utils.study.machine import cores

LOADER_BATCH = 64
Say = Callable[[str], None]


def measure_steps(scale: Scale, say: Say) -> list[dict[str, Any]]:
    """A row a method and backbone: images/s and peak memory of each candidate, and the ratios between them."""
    from medpeft_utils import methods

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for family, backbone in scale.backbones:
            spec = {
                'family': family,
                'backbone': backbone,
                'device': scale.device,
                'threads': scale.threads,
                'batch_size': scale.batch_size,
                'trials': scale.trials,
                'folder': folder,
            }
            keys = [key for key in methods.names(family) if not scale.methods or key in scale.methods]
            try:
                spec['precision'] = ask(spec | {'candidate': 'chosen'}) if keys else {}
            except Broken as broken:
                raise Broken(f'{backbone}: {broken}') from broken
            for key in keys:
                say(f'steps: {key} on {backbone}')
                rows.append(
                    _method(spec | {'method': key}, methods.label(key, family), methods.METHODS[key].kind, scale)
                )
    return rows


def _method(spec: dict[str, Any], label: str, kind: str, scale: Scale) -> dict[str, Any]:
    """The row of one method."""
    from benchmarks.plain import has_plain
    from medpeft_utils.training.precision import PLAIN

    about = {name: spec[name] for name in ('family', 'backbone', 'method', 'batch_size')}
    about |= {'label': label, 'kind': kind, 'plain_form': has_plain(spec['method'])}
    try:
        fastest = ask(spec | {'candidate': 'fastest'})
    except Broken as broken:
        return about | {'error': str(broken)}
    specs = {
        'ours': spec | {'candidate': 'ours'},
        'plain': spec | {'candidate': 'plain', 'form': 'plain', 'precision': asdict(PLAIN)},
        'best': spec | {'candidate': 'best', 'form': fastest['form'], 'precision': fastest['precision']},
    }
    if spec['method'] != 'full_ft':
        specs['full_ft'] = spec | {'candidate': 'full_ft', 'method': 'full_ft'}
    timed = alternate(specs, scale.rounds, scale.steps)
    return about | _numbers(timed, specs, scale.batch_size)


def _numbers(timed: dict[str, Timed], specs: dict[str, dict], batch: int) -> dict[str, Any]:
    from medpeft_utils.training.precision import Precision

    row: dict[str, Any] = {}
    for name, result in timed.items():
        seconds = result.median
        row[name] = {
            'images_per_second': seconds and round(batch / seconds, 1),
            'seconds': [round(value, 6) for value in result.seconds],
            'peak_memory_mb': result.peak_memory_mb and round(result.peak_memory_mb, 1),
            'computes_in': str(Precision(**specs[name]['precision'])),
        } | ({'error': result.error} if result.error else {})
    row['best']['form'] = specs['best']['form']
    return row | {
        'speedup_over_plain': ratio(timed['plain'], timed['ours']),
        'speed_of_best': ratio(timed['best'], timed['ours']),
        'time_of_full_ft': ratio(timed['ours'], timed['full_ft']) if 'full_ft' in timed else None,
    }


def measure_loader(scale: Scale, say: Say) -> list[dict[str, Any]]:
    """A row an input size: augmented images/s from a pack of noise, on at most two cores."""
    from medpeft_utils.training.classification import stored_size

    threads = scale.loader_threads or min(2, cores())
    with tempfile.TemporaryDirectory() as folder:
        specs, rows = {}, []
        for size, count in scale.loaders:
            stored, pack = stored_size(size), Path(folder) / f'images_{size}.npy'
            np.save(pack, np.random.default_rng(0).integers(0, 256, (count, stored, stored, 3), dtype=np.uint8))
            specs[str(size)] = {
                'candidate': 'loader',
                'pack': str(pack),
                'image_size': size,
                'batch_size': min(LOADER_BATCH, count),
                'device': scale.device,
                'threads': threads,
            }
        say(f'loader: {", ".join(specs)} px')
        timed = alternate(specs, scale.rounds, max(2, scale.steps))
    for name, result in timed.items():
        rate = result.median and specs[name]['batch_size'] / result.median
        row = {'image_size': int(name), 'threads': threads, 'images_per_second': rate and round(rate, 1)}
        rows.append(row | ({'error': result.error} if result.error else {}))
    return rows
