"""How a device computes: number format, attention kernel and memory layout, chosen by measuring.

On a CPU with AMX, bf16 without the fused attention kernel is more than twice as fast as timm's default; on a GPU the
fused kernel wins. Nothing of that is assumed: `choose` times a training step of each candidate and keeps the fastest.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from medpeft_utils.training.graphed import GraphedLoss


@dataclass(frozen=True)
class Precision:
    """One way to compute.

    Args:
        bf16: matrix products and convolutions in bfloat16 (autocast); weights stay float32.
        fused_attention: the fused scaled-dot-product kernel, where the network has attention.
        channels_last: memory order NHWC, for convolutions.
    """

    bf16: bool = False
    fused_attention: bool = True
    channels_last: bool = False

    def prepare(self, model: nn.Module) -> nn.Module:
        """Set attention kernels and memory layout of `model`, in place."""
        for module in model.modules():
            if hasattr(module, 'fused_attn'):
                module.fused_attn = self.fused_attention
        return model.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def images(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] in this memory layout."""
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def autocast(self, device: torch.device) -> AbstractContextManager:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    def __str__(self) -> str:
        words = ['bf16 autocast' if self.bf16 else 'float32']
        words += ['fused attention' if self.fused_attention else 'plain attention']
        words += ['channels last'] if self.channels_last else []
        return ', '.join(words)


PLAIN = Precision()


def candidates(family: str) -> list[Precision]:
    """The ways worth timing for a family of networks, the plain one first."""
    if family == 'cnn':
        return [PLAIN, Precision(channels_last=True), Precision(bf16=True, channels_last=True)]
    return [PLAIN, Precision(fused_attention=False), Precision(bf16=True), Precision(bf16=True, fused_attention=False)]


def synchronise(device: torch.device) -> None:
    """Wait for the device's work to finish before a clock is read."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _loss(model: nn.Module, precision: Precision, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    with precision.autocast(x.device):
        logits = model(x)
    return F.cross_entropy(logits.float(), labels)


def step_seconds(model: nn.Module, precision: Precision, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Seconds of a training step, forward and backward, on `images` [B, C, H, W]."""
    precision.prepare(model)
    x = precision.images(images)
    started = time.perf_counter()
    _loss(model, precision, x, labels).backward()
    seconds = time.perf_counter() - started
    model.zero_grad()
    return seconds


def graphed_seconds(model: nn.Module, precision: Precision, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The same on a GPU, where a step is a CUDA graph (`graphed.py`): the mean of ten replays."""
    precision.prepare(model)
    graph = GraphedLoss(lambda x, y: _loss(model, precision, x, y), model, precision.images(images), labels)
    graph(images, labels)
    synchronise(images.device)
    started = time.perf_counter()
    for _ in range(10):
        graph(images, labels)
    synchronise(images.device)
    return (time.perf_counter() - started) / 10


def measure(model: nn.Module, family: str, images: torch.Tensor, rounds: int = 3) -> dict[Precision, float]:
    """Seconds of a training step for every candidate: on a CPU the fastest of `rounds`, after one to warm up.

    There the candidates take turns: a machine that is busy for a while slows all of them. Weights and statistics of the
    model do not change.
    """
    was_training, ways = model.training, candidates(family)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    model.eval()  # BatchNorm statistics must not move while timing
    if images.device.type == 'cuda':
        found = [graphed_seconds(model, precision, images, labels) for precision in ways]
    else:
        turns = [[step_seconds(model, way, images, labels) for way in ways] for _ in range(rounds + 1)]
        found = map(min, zip(*turns[1:], strict=True))
    model.train(was_training)
    model.zero_grad()
    return dict(zip(ways, found, strict=True))


def device_name(device: torch.device) -> str:
    """The device in words: the GPU's name, or the processor and the threads in use."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{platform.machine()} CPU, {torch.get_num_threads()} threads'


def choose(
    name: str,
    build: Callable[[], nn.Module],
    family: str,
    image_size: int,
    batch_size: int,
    device: torch.device,
    folder: Path,
) -> Precision:
    """The fastest candidate for a backbone on this device, measured once and then read from `folder`.

    The choice is kept: a repeated run computes in the same way and gives the same numbers. All methods share it, and
    differ in nothing else. `build` gives the network, and is called where it is measured.
    """
    from medpeft_utils.core.shared import once

    batch = min(batch_size, 32)

    def compute() -> dict:
        images = torch.randn(batch, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
        seconds = measure(build().to(device), family, images)
        best = min(seconds, key=seconds.__getitem__)
        timings = [asdict(p) | {'seconds': round(s, 4)} for p, s in seconds.items()]
        return {'best': asdict(best), 'timings': timings, 'backbone': name, 'device': device_name(device)}

    key = f'{name}_{image_size}px_{device.type}_torch{torch.__version__}'.replace('/', '_')
    return Precision(**once(Path(folder) / f'{key}.json', compute)['best'])
