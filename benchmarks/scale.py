"""How much the bench measures: on which backbones, how often, with how many runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

PARTS = ('steps', 'startup', 'loader', 'scaling', 'memory')


@dataclass(frozen=True)
class Scale:
    """The size of a bench.

    Args:
        device: 'cpu' or 'cuda'.
        threads: of every process that trains.
        backbones: family -> backbone, with random weights.
        batch_size: images a training step.
        rounds: how often every candidate takes its turn.
        steps: training steps in a turn.
        trials: steps by which the best loop finds its settings.
        methods: keys of the methods that are measured; all where empty.
        loaders: side of the input in pixels -> images in the pack.
        loader_threads: of the loader; 0 for two, or one on a machine of one core.
        startup_runs: trivial runs with forked kernels.
        plain_runs: trivial runs with kernels newly started.
        scaling_runs, scaling_steps: runs of the small grid, and training steps of each.
        memory_runs: trivial runs over which memory is watched.
    """

    device: str = 'cpu'
    threads: int = 1
    backbones: tuple[tuple[str, str], ...] = (('vit', 'vit_base_mini'), ('cnn', 'resnet50_mini'))
    batch_size: int = 32
    rounds: int = 7
    steps: int = 3
    trials: int = 3
    methods: tuple[str, ...] = ()
    loaders: tuple[tuple[int, int], ...] = ((64, 4096), (224, 512))
    loader_threads: int = 0
    startup_runs: int = 10
    plain_runs: int = 3
    scaling_runs: int = 6
    scaling_steps: int = 30
    memory_runs: int = 100


ON_CPU = Scale()
ON_GPU = Scale(
    device='cuda',
    backbones=(('vit', 'vit_base_patch16_224'), ('cnn', 'resnet50')),
    batch_size=128,
    steps=10,
)
QUICK = {
    'batch_size': 4,
    'rounds': 2,
    'steps': 1,
    'trials': 1,
    'methods': ('full_ft', 'linear_probing', 'bn_tuning', 'lora'),
    'loaders': ((64, 256), (224, 64)),
    'loader_threads': 1,
    'startup_runs': 3,
    'plain_runs': 1,
    'scaling_runs': 2,
    'scaling_steps': 4,
    'memory_runs': 8,
}


def scale_for(device: str, quick: bool = False, **changes: Any) -> Scale:
    """The usual scale on a device, or the quick one, with changes; those that are None or empty are left out."""
    usual = ON_GPU if device == 'cuda' else ON_CPU
    given = {name: value for name, value in changes.items() if value not in (None, ())}
    return replace(usual, **((QUICK if quick else {}) | given))
