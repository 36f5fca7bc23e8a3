"""How alike generated images are among themselves: a generator that gives one image again and again scores 1."""

from __future__ import annotations

import numpy as np
import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

PAIRS = 200
SMALLEST = 176  # px that five scales with a kernel of 11 px need: (11 - 1) * 2^4 < side
BLOCK = 20


def measure_for(size: int) -> str:
    """'ms-ssim' for images of so many pixels a side, 'ssim' where they are too small for its five scales."""
    return 'ms-ssim' if size >= SMALLEST else 'ssim'


def similarity(images: np.ndarray, pairs: int = PAIRS, seed: int = 0) -> float:
    """Mean similarity of random pairs of images: MS-SSIM (Odena et al. 2017, arXiv:1610.09585, Sec. 4.2), or SSIM.

    Below 176 px MS-SSIM has no five scales, and the single-scale SSIM stands in its place (`measure_for`).

    Args:
        images: [N, S, S, 3] uint8, two or more; compared in grey.
        pairs: how many pairs are drawn.
        seed: which.
    Returns:
        0 (nothing alike) to 1 (all the same).
    """
    draw = np.random.default_rng(seed)
    one = draw.integers(len(images), size=pairs)
    other = (one + draw.integers(1, len(images), size=pairs)) % len(images)  # never the image itself
    measure = (
        multiscale_structural_similarity_index_measure
        if measure_for(images.shape[1]) == 'ms-ssim'
        else structural_similarity_index_measure
    )
    values = []
    for start in range(0, pairs, BLOCK):
        sides = (_grey(images[rows[start : start + BLOCK]]) for rows in (one, other))
        values.append(measure(*sides, data_range=1.0, reduction='none').reshape(-1))
    return float(torch.cat(values).mean())


def _grey(images: np.ndarray) -> torch.Tensor:
    """[B, S, S, 3] uint8 to [B, 1, S, S] in 0..1."""
    return torch.from_numpy(images).float().mean(dim=-1)[:, None] / 255
