"""Distances between sets of images, from their features: KID with its interval, FID, nearest neighbours; and diversity.

Features are [N, D] arrays of one network; which network decides what a distance means. KID comes first: it is unbiased,
so that a distance at 80 images and one at 1,000 compare, and resampling patients gives its interval. FID does neither.
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

from medpeft_utils.core.errors import BadInput

FEWEST = 20  # images on each side for KID
DRAWS = 400  # bootstrap resamples
FLOOR_DRAWS = 5
COPY_QUANTILE = 0.01
BLOCK = 1024
PAIRS = 200
SMALLEST = 176  # px that five scales with a kernel of 11 px need: (11 - 1) * 2^4 < side
COMPARED = 20  # pairs at a time


class _Given(nn.Module):
    """Stands where torchmetrics wants a network: the features are there already."""

    def __init__(self, features: int):
        super().__init__()
        self.num_features = features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def fid(real: np.ndarray, generated: np.ndarray) -> float:
    """Fréchet distance of two Gaussians, |m1 - m2|² + Tr(C1 + C2 - 2 (C1 C2)^½) (Heusel et al. 2017, arXiv:1706.08500).

    By torchmetrics, in float64. Biased upwards by about 1 / N of each side: compare only what has as many images.

    Args:
        real, generated: [N, D] and [M, D] features.
    Raises:
        BadInput: fewer than two images on a side.
    """
    if min(len(real), len(generated)) < 2:
        raise BadInput(f'FID of {len(real)} real and {len(generated)} generated images: each side needs two or more')
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.update(torch.from_numpy(np.array(real, dtype=np.float64)), real=True)
    metric.update(torch.from_numpy(np.array(generated, dtype=np.float64)), real=False)
    return max(float(metric.compute()), 0.0)  # rounding takes that of equal sets a hair below zero


def require_images(count: int, what: str = 'generated') -> None:
    """Raise BadInput where there are too few images for KID; to be called before hours are spent on training."""
    if count < FEWEST:
        raise BadInput(
            f'{count} {what} images are too few for KID: {FEWEST} or more are needed; raise test_images, or take a '
            'set with more test pairs'
        )


def drawn(groups: np.ndarray, draws: int = DRAWS, seed: int = 0, among: np.ndarray | None = None) -> np.ndarray:
    """[R, N] how often each image is in each of R bootstrap resamples of patients, who bring all of their images.

    The same for any two sets of images of the same patients, so that what is computed on them is paired.

    Args:
        groups: [N] the patient of each image.
        draws: R.
        seed: of the resamples.
        among: names of the patients who are drawn; those of `groups` where None.
    """
    names = np.unique(groups if among is None else among)
    number = len(names)
    times = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=draws)
    return times[:, np.searchsorted(names, groups)]


def _kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _inside(kernel: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """[R] mean of the kernel over pairs of different images of one side, each counted as often as it was drawn."""
    kernel = kernel - torch.diag(kernel.diagonal())
    pairs = times.sum(dim=1) ** 2 - (times**2).sum(dim=1)
    return ((times @ kernel) * times).sum(dim=1) / pairs


def mmd(real: np.ndarray, generated: np.ndarray, times: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """[R] unbiased squared maximum mean discrepancy with the kernel (x·y / D + 1)³, one for each resample.

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

    Its interval comes from resamples of patients, the same for both sides: a real image and the one made from its text
    are drawn together. It is centred on the estimate, since pairs of one patient count more in a resample.

    Args:
        real, generated: [N, D] and [M, D] features.
        real_groups: [N] patients of the real images; each image one of its own where None.
        groups: [M] patients whose texts were the prompts.
    Returns:
        kid (may be below zero), kid_low and kid_high (95 %), kid_resamples: by them two sets of images from the same
        prompts are compared.
    Raises:
        BadInput: fewer than 20 images on a side.
    """
    require_images(len(real), 'real')
    require_images(len(generated))
    real_groups = np.array([f'real {i}' for i in range(len(real))]) if real_groups is None else real_groups
    groups = np.array([f'generated {i}' for i in range(len(generated))]) if groups is None else groups
    among = np.unique(np.concatenate([real_groups, groups]))
    value = mmd(real, generated, (np.ones((1, len(real))), np.ones((1, len(generated)))))[0]
    values = mmd(real, generated, (drawn(real_groups, among=among), drawn(groups, among=among)))
    values += value - np.nanmean(values)
    low, high = np.nanquantile(values, [0.025, 0.975])
    numbers = {'kid': float(value), 'kid_low': float(low), 'kid_high': float(high)}
    return numbers | {'kid_resamples': [float(f'{one:.4g}') if np.isfinite(one) else None for one in values]}


def floor(real: np.ndarray, others: np.ndarray, images: int, seed: int = 0) -> dict[str, float]:
    """The distance of real test images to other real ones: what a generator that is perfect reaches at such numbers.

    Args:
        real: [N, D] features of the real test images.
        others: [M, D] of real images of other patients, none of which the network behind the features learned from.
        images: how many generated images there are; as many of the others are drawn, five times.
        seed: of the draws.
    Returns:
        kid and fid (means over the draws) with kid_sd and fid_sd (None of a single draw, where all are needed), images
        (fewer than asked for where there are no more), real_images, draws. None for kid below 20 images.
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


def nearest(features: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance [N] of each image to its nearest training image, and that one's place [N] in `train`."""
    train = torch.from_numpy(np.array(train, dtype=np.float32))
    nearest_parts = []
    for start in range(0, len(features), BLOCK):
        part = torch.from_numpy(np.array(features[start : start + BLOCK], dtype=np.float32))
        # Exact: by products of matrices a copy would come out some thousandths away from itself.
        distances = torch.cdist(part, train, compute_mode='donot_use_mm_for_euclid_dist')
        nearest_parts.append(distances.min(dim=1))
    return tuple(torch.cat([getattr(part, name) for part in nearest_parts]).numpy() for name in ('values', 'indices'))


def memorising(generated: np.ndarray, real: np.ndarray, train: np.ndarray) -> dict[str, float]:
    """How near generated images come to the training images, beside how near real test images do.

    A generator that copies comes nearer than any other image does: `copies` is the share of generated images that are
    nearer to a training image than all but 1 % of the real test images are; 0.01 is what chance gives.

    Args:
        generated, real, train: [N, D], [M, D], [T, D] features of generated, real test and training images.
    Returns:
        nearest (median distance), nearest_5 (its 5 % quantile), nearest_real, nearest_real_5, nearest_ratio (of the
        medians; below 1: nearer than real images), copies.
    """
    of_generated, of_real = nearest(generated, train)[0], nearest(real, train)[0]
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
    """'ms-ssim' for images of so many pixels a side, 'ssim' where they are too small for its five scales."""
    return 'ms-ssim' if size >= SMALLEST else 'ssim'


def similarity(images: np.ndarray, pairs: int = PAIRS, seed: int = 0) -> float:
    """How alike images are: a generator that gives one image again and again scores 1.

    Mean over random pairs of images: MS-SSIM (Odena et al. 2017, arXiv:1610.09585, Sec. 4.2), or SSIM.

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
    for start in range(0, pairs, COMPARED):
        sides = (_grey(images[rows[start : start + COMPARED]]) for rows in (one, other))
        values.append(measure(*sides, data_range=1.0, reduction='none').reshape(-1))
    return float(torch.cat(values).mean())


def _grey(images: np.ndarray) -> torch.Tensor:
    """[B, S, S, 3] uint8 to [B, 1, S, S] in 0..1."""
    return torch.from_numpy(images).float().mean(dim=-1)[:, None] / 255
