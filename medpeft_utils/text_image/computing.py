"""How a U-Net computes on this device, in training and sampling: number format and attention kernel.

A GPU computes in bfloat16 with the fused kernel, which is the fastest way there and takes the least memory. On a CPU we
time the ways: without the matrix units of newer CPUs, bfloat16 is faster only where attention is not fused.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from medpeft_utils.core.shared import once
from medpeft_utils.training.precision import PLAIN, Precision, device_name

if TYPE_CHECKING:
    from medpeft_utils.text_image.pipeline import Pipeline

FUSED, UNFUSED = Precision(bf16=True), Precision(bf16=True, fused_attention=False)
WAYS = {'auto': (PLAIN, FUSED, UNFUSED), 'float32': (PLAIN,), 'bf16': (FUSED, UNFUSED)}
MOST = 16  # pairs that are timed
ROUNDS = 3


def prepare(unet: nn.Module, precision: Precision) -> nn.Module:
    """Set the attention kernels of a diffusers U-Net, in place."""
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    unet.set_attn_processor(AttnProcessor2_0() if precision.fused_attention else AttnProcessor())
    return unet


def step_seconds(unet: nn.Module, precision: Precision, batch: tuple[torch.Tensor, ...]) -> float:
    """Seconds of a forward and backward pass on a CPU.

    Args:
        batch: noisy latents [B, C, h, w], timesteps [B], texts [B, T, D].
    """
    noisy, times, texts = batch
    prepare(unet, precision)
    started = time.perf_counter()
    with precision.autocast(noisy.device):
        predicted = unet(noisy, times, encoder_hidden_states=texts).sample
    predicted.float().square().mean().backward()
    seconds = time.perf_counter() - started
    unet.zero_grad()
    return seconds


def measure(unet: nn.Module, ways: tuple[Precision, ...], batch: tuple[torch.Tensor, ...]) -> dict[Precision, float]:
    """Seconds of a step for every way: the fastest of some rounds in turns, after a first round to warm up."""
    unet.train().requires_grad_(True)
    turns = [[step_seconds(unet, way, batch) for way in ways] for _ in range(ROUNDS + 1)]
    return dict(zip(ways, map(min, zip(*turns[1:], strict=True)), strict=True))


def choose(
    choice: str, pipe: Pipeline, fresh: Callable[[], nn.Module], image_size: int, batch_size: int, folder: Path
) -> Precision:
    """How the U-Net of a pipeline computes; on a CPU measured once and kept, since all runs must compute alike.

    Args:
        choice: of `WAYS`.
        pipe: the pipeline, on its device.
        fresh: loads its U-Net again, for the timing.
        image_size: pixels.
        batch_size: pairs that go through the network at a time.
        folder: where the timings are kept.
    """
    ways = WAYS[choice]
    if pipe.device.type != 'cpu' or len(ways) == 1:
        return FUSED if FUSED in ways else ways[0]

    def compute() -> dict:
        unet, count, draw = fresh(), min(batch_size, MOST), torch.Generator().manual_seed(0)
        side = image_size // pipe.shrinking
        noisy = torch.randn(count, unet.config.in_channels, side, side, generator=draw)
        texts = torch.randn(count, pipe.length, unet.config.cross_attention_dim, generator=draw)
        times = torch.linspace(0, 999, count).long()
        seconds = measure(unet, ways, (noisy, times, texts))
        timings = [asdict(way) | {'seconds': round(s, 4)} for way, s in seconds.items()]
        best = min(seconds, key=seconds.__getitem__)
        return {'best': asdict(best), 'timings': timings, 'pipeline': pipe.name, 'device': device_name(pipe.device)}

    key = f'{pipe.hash}_{image_size}px_{choice}_torch{torch.__version__}'
    return Precision(**once(Path(folder) / f'{key}.json', compute)['best'])
