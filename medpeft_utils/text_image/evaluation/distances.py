"""Distances between sets of images, from their features: KID with its interval, FID, nearest neighbours; and diversity.

Features are [N, D] arrays of one network, and the choice of that network decides what a distance means. KID comes
first: it is unbiased, so 80 images and 1,000 images give comparable values, and resampling patients gives its interval.
FID has neither property.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import FrechetInceptionDistance

from medpeft_utils.auroc import resamples
from medpeft_utils.core.errors import BadInput

FEWEST = 20  # images on each side for KID
FLOOR_DRAWS = 5
COPY_QUANTILE = 0.01
BLOCK = 1024
PAIRS = 200
SMALLEST = 176  # px that five scales with a kernel of 11 px need: (11 - 1) * 2^4 < side
COMPARED = 20  # pairs at a time


def fid(real: np.ndarray, generated: np.ndarray) -> float:
    """Fréchet distance of two Gaussians, |m1 - m2|² + Tr(C1 + C2 - 2 (C1 C2)^½) (Heusel et al. 2017, arXiv:1706.08500).

    By torchmetrics, in float64. Its bias grows as each side gets fewer images: compare only equal numbers of images.

    Args:
        real, generated: [N, D] and [M, D] features.
    Raises:
        BadInput: fewer than two images on a side.
    """
    if min(len(real), len(generated)) < 2:
        raise BadInput(f'FID of {len(real)} real and {len(generated)} generated images: each side needs two or more')
    network = nn.Identity()  # the features are computed already
    network.num_features = real.shape[1]
    metric = FrechetInceptionDistance(feature=network)
    metric.update(torch.from_numpy(np.array(real, dtype=np.float64)), real=True)
    metric.update(torch.from_numpy(np.array(generated, dtype=np.float64)), real=False)
    return max(float(metric.compute()), 0.0)  # rounding can make that of equal sets slightly negative


def require_images(count: int, what: str = 'generated') -> None:
    """Raise BadInput where there are too few images for KID; call it before hours of training."""
    if count < FEWEST:
        raise BadInput(
            f'{count} {what} images are too few for KID, which needs {FEWEST}; raise test_images, or take a set with '
            'more test pairs'
        )


def _kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _inside(kernel: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """[R] mean of the kernel over pairs of different images of one side, weighted by how often each was drawn."""
    kernel = kernel - torch.diag(kernel.diagonal())
    pairs = times.sum(dim=1) ** 2 - (times**2).sum(dim=1)
    return ((times @ kernel) * times).sum(dim=1) / pairs


def mmd(real: np.ndarray, generated: np.ndarray, times: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """[R] unbiased squared maximum mean discrepancies with the kernel (x·y / D + 1)³, one for each resample.

    Args:
        real, generated: [N, D] and [M, D] features.
        times: [R, N] and [R, M] how often each image counts.
    """
    x, y = (torch.from_numpy(np.array(side, dtype=np.float64)) for side in (real, generated))
    a, b = (torch.from_numpy(np.array(side, dtype=np.float64)) for side in times)
    across = ((a @ _kernel(x, y)) * b).sum(dim=1) / (a.sum(dim=1) * b.sum(dim=1))
    return (_inside(_kernel(x, x), a) + _inside(_kernel(y, y), b) - 2 * across).numpy()


def kid(
    real: np.ndarray, generated: np.ndarray, real_groups: np.ndarray | None = None, groups: np.ndarray | None = None
) -> dict:
    """Kernel inception distance, the squared MMD of all images (Bińkowski et al. 2018, arXiv:1801.01401, Eq. 4).

    Its interval comes from resamples of patients that are the same for both sides: a real image and the image made from
    its text are drawn together. We centre it on the estimate, since resamples repeat patients, which shifts their
    values.

    Args:
        real, generated: [N, D] and [M, D] features.
        real_groups: [N] patients of the real images; where None each image has its own.
        groups: [M] patients whose texts were the prompts.
    Returns:
        kid (may be negative), kid_low and kid_high (95 %), and kid_resamples, which compare two sets of images from the
        same prompts.
    Raises:
        BadInput: fewer than 20 images on a side.
    """
    require_images(len(real), 'real')
    require_images(len(generated))
    real_groups = np.array([f'real {i}' for i in range(len(real))]) if real_groups is None else real_groups
    groups = np.array([f'generated {i}' for i in range(len(generated))]) if groups is None else groups
    among = np.unique(np.concatenate([real_groups, groups]))
    value = mmd(real, generated, (np.ones((1, len(real))), np.ones((1, len(generated)))))[0]
    values = mmd(real, generated, tuple(resamples(each, among=among) for each in (real_groups, groups)))
    values += value - np.nanmean(values)
    low, high = np.nanquantile(values, [0.025, 0.975])
    numbers = {'kid': float(value), 'kid_low': float(low), 'kid_high': float(high)}
    return numbers | {'kid_resamples': [float(f'{one:.4g}') if np.isfinite(one) else None for one in values]}


def floor(real: np.ndarray, others: np.ndarray, images: int, seed: int = 0) -> dict[str, float]:
    """The distance between real test images and other real ones: what a perfect generator reaches with as many images.

    Args:
        real: [N, D] features of the real test images.
        others: [M, D] of real images of other patients, from none of which the network of the features learned.
        images: how many generated images there are; we draw as many of the others, five times.
        seed: of the draws.
    Returns:
        kid and fid (means over the draws) with kid_sd and fid_sd (None if one draw takes all others), images (fewer
        than asked for if there are not enough), real_images, draws. kid is None below 20 images.
    """
    count, draw = min(images, len(others)), np.random.default_rng(seed)
    draws = FLOOR_DRAWS if count < len(others) else 1
    numbers: dict[str, list[float]] = {'kid': [], 'fid': []}
    for _ in range(draws):
        some = others[draw.permutation(len(others))[:count]]
        if count >= 2:
            numbers['fid'].append(fid(real, some))
        if min(count, len(real)) >= FEWEST:
            numbers['kid'].append(mmd(real, some, (np.ones((1, len(real))), np.ones((1, count))))[0])
    values = {name: float(np.mean(each)) if each else None for name, each in numbers.items()}
    values |= {f'{name}_sd': float(np.std(each, ddof=1)) if len(each) > 1 else None for name, each in numbers.items()}
    return values | {'images': count, 'real_images': len(real), 'draws': draws}


def nearest(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Euclidean distance [N] of each image to its nearest training image."""
    train = torch.from_numpy(np.array(train, dtype=np.float32))
    parts = []
    for start in range(0, len(features), BLOCK):
        part = torch.from_numpy(np.array(features[start : start + BLOCK], dtype=np.float32))
        # Matrix products would put a copy some thousandths away from its original.
        distances = torch.cdist(part, train, compute_mode='donot_use_mm_for_euclid_dist')
        parts.append(distances.min(dim=1).values)
    return torch.cat(parts).numpy()


def memorising(generated: np.ndarray, real: np.ndarray, train: np.ndarray) -> dict[str, float]:
    """How near generated images lie to the training images, and how near real test images lie to them.

    `copies` is the fraction of generated images that lie nearer to a training image than 99 % of the real test images
    do; chance gives 0.01, and a generator that copies gives more.

    Args:
        generated, real, train: [N, D], [M, D], [T, D] features of generated, real test and training images.
    Returns:
        nearest (median distance), nearest_5 (its 5 % quantile), nearest_real, nearest_real_5, nearest_ratio (of the
        medians; below 1 generated images lie nearer than real ones), copies.
    """
    of_generated, of_real = nearest(generated, train), nearest(real, train)
    numbers = {
        'nearest': np.median(of_generated),
        'nearest_5': np.quantile(of_generated, 0.05),
        'nearest_real': np.median(of_real),
        'nearest_real_5': np.quantile(of_real, 0.05),
        'nearest_ratio': np.median(of_generated) / max(np.median(of_real), 1e-12),
        'copies': (of_generated < np.quantile(of_real, COPY_QUANTILE)).mean(),
    }
    return {name: float(value) for name, value in numbers.items()}


def measure_for(size: int) -> str:
    """'ms-ssim' for images of this side in pixels, 'ssim' where they are too small for five scales."""
    return 'ms-ssim' if size >= SMALLEST else 'ssim'


def similarity(images: np.ndarray, pairs: int = PAIRS, seed: int = 0) -> float:
    """How similar images are to each other: a generator that always draws the same image scores 1.

    Mean MS-SSIM over random pairs of images (Odena et al. 2017, arXiv:1610.09585, Sec. 4.2). Images below 176 px are
    too small for its five scales; they get the single-scale SSIM (`measure_for`).

    Args:
        images: [N, S, S, 3] uint8, two or more; compared in grey.
        pairs: how many pairs are drawn.
        seed: which.
    Returns:
        0 (all different) to 1 (all the same).
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
    for start in range(0, pairs, COMPARED):
        sides = (_grey(images[rows[start : start + COMPARED]]) for rows in (one, other))
        values.append(measure(*sides, data_range=1.0, reduction='none').reshape(-1))
    return float(torch.cat(values).mean())


def _grey(images: np.ndarray) -> torch.Tensor:
    """[B, S, S, 3] uint8 to [B, 1, S, S] in 0..1."""
    return torch.from_numpy(images).float().mean(dim=-1)[:, None] / 255
