"""What is timed: a training step in the package's loop, written plainly, and in the best loop; and the loader.

A candidate is described by a dictionary and becomes a function `turn(steps)` that gives seconds a step.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.plain import has_plain, plain_model
from medpeft_utils import backbones, methods
from medpeft_utils.training.batches import Classifying, ImageBatches, View
from medpeft_utils.training.classification import AUGMENTATIONS, stored_size
from medpeft_utils.training.config import TrainingConfig
from medpeft_utils.training.loop import fit, rows_of
from medpeft_utils.training.precision import PLAIN, Precision, choose
from medpeft_utils.training.precision import candidates as precisions

CLASSES = 8
RATE = 1e-5  # small: what is timed does not depend on it
Turn = Callable[[int], float]


def seconds_a_step(step: Callable[[], Any], steps: int, device: torch.device) -> float:
    """The median over `steps`; on a GPU, which works behind the program's back, the mean of all of them."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize(device)
        return (time.perf_counter() - started) / steps
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _labels(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64) % CLASSES


def _noise(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def _view(size: int, precision: Precision, device: torch.device) -> View:
    return View(size, (0.5,) * 3, (0.5,) * 3, AUGMENTATIONS['standard'], precision, device)


def ours(spec: dict[str, Any]) -> Turn:
    """The package's own loop: batches with augmentation, schedule, loss; all that `fit` does in a step."""
    device, precision, batch = torch.device(spec['device']), Precision(**spec['precision']), spec['batch_size']
    size = backbones.image_size_of(spec['backbone'])
    model = backbones.build(spec['backbone'], CLASSES, size if spec['family'] == 'vit' else None)
    adapted = methods.apply(model, spec['method'], spec['family'])
    adapted.model.to(device)
    precision.prepare(adapted.model)
    labels = _labels(4 * batch)
    images, view = _noise(len(labels), stored_size(size)), _view(size, precision, device)
    train = ImageBatches(images, labels, np.arange(len(labels)), CLASSES, view)
    task = Classifying(adapted, train, ImageBatches(images, labels, np.arange(CLASSES), CLASSES, view))

    def turn(steps: int) -> float:
        config = TrainingConfig(RATE, min_steps=steps, max_steps=steps, batch_size=batch, evaluations=1)
        return fit(task, config, quiet=True).step_seconds

    return turn


def model_of(spec: dict[str, Any]) -> nn.Module:
    """The network in training mode: the method in the package's form, or in the plain one."""
    size = backbones.image_size_of(spec['backbone'])
    model = backbones.build(spec['backbone'], CLASSES, size if spec['family'] == 'vit' else None)
    if spec['form'] == 'plain' and has_plain(spec['method']):
        return plain_model(model, spec['method'], spec['family']).train()
    adapted = methods.apply(model, spec['method'], spec['family'])
    return adapted.train().model


def by_hand(spec: dict[str, Any]) -> Turn:
    """Forward, backward and AdamW on one batch that lies ready: no loading, no schedule, no reading of a loss."""
    device, precision = torch.device(spec['device']), Precision(**spec['precision'])
    model = model_of(spec).to(device)
    if spec['candidate'] == 'best':
        precision.prepare(model)
    size, labels = backbones.image_size_of(spec['backbone']), torch.from_numpy(_labels(spec['batch_size'])).to(device)
    x = torch.randn(spec['batch_size'], 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    x = precision.images(x)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, **({'fused': True} if spec['candidate'] == 'best' else {}))

    def step() -> None:
        optimizer.zero_grad()
        with precision.autocast(device):
            logits = model(x)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return lambda steps: seconds_a_step(step, steps, device)


def chosen(spec: dict[str, Any]) -> dict[str, Any]:
    """How the package computes with a backbone on this device: what `precision.choose` finds, and its timings."""
    device, size = torch.device(spec['device']), backbones.image_size_of(spec['backbone'])

    def build() -> nn.Module:
        return backbones.build(spec['backbone'], CLASSES, size if spec['family'] == 'vit' else None)

    folder = Path(spec['folder'])
    found = choose(spec['backbone'], build, spec['family'], size, spec['batch_size'], device, folder)
    return asdict(found)


def fastest(spec: dict[str, Any]) -> dict[str, Any]:
    """The settings of the best loop for a method: the form and the number format with the fastest step."""
    additive = methods.METHODS[spec['method']].kind == 'additive'  # the others' networks are the same in both forms
    forms = ('package', 'plain') if additive and has_plain(spec['method']) else ('package',)
    ways = [{'form': form, 'precision': asdict(p)} for form in forms for p in precisions(spec['family'])]
    turns = [by_hand(spec | way | {'candidate': 'best'}) for way in ways]
    rounds = [[turn(1) for turn in turns] for _ in range(spec['trials'] + 1)][1:]
    seconds = [min(taken) for taken in zip(*rounds, strict=True)]
    return min(({**way, 'seconds': s} for way, s in zip(ways, seconds, strict=True)), key=lambda way: way['seconds'])


def loader(spec: dict[str, Any]) -> Turn:
    """Augmented batches from a packed file; the rows are in memory after the first read, as in a run."""
    device, images = torch.device(spec['device']), np.load(spec['pack'], mmap_mode='r')
    view = _view(spec['image_size'], PLAIN, device)
    batches = ImageBatches(images, _labels(len(images)), np.arange(len(images)), CLASSES, view)
    generator, numbers = torch.Generator().manual_seed(0), itertools.count()

    def step() -> None:
        batches.augmented(rows_of(len(batches), spec['batch_size'], next(numbers), seed=0), generator)

    return lambda steps: seconds_a_step(step, steps, device)


CANDIDATES: dict[str, Callable[[dict[str, Any]], Turn]] = {
    'ours': ours,
    'full_ft': ours,
    'plain': by_hand,
    'best': by_hand,
    'loader': loader,
}
QUESTIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {'chosen': chosen, 'fastest': fastest}
