"""Distances between sets of images, from their features: FID, KID with its interval, nearest neighbours.

Features are [N, D] arrays of one network; which network decides what a distance means.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from medpeft_utils.core.errors import BadInput

FEWEST = 20  # images on each side for KID: subsets of half of them must vary
SUBSETS, LARGEST_SUBSET = 100, 1000  # of KID; 1,000 is torchmetrics' size
HALVINGS = 5
COPY_QUANTILE = 0.01
BLOCK = 1024


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
            f'{count} {what} images are too few for KID: {FEWEST} or more, since its subsets are half of them; raise '
            'test_images, or take a set with more test pairs'
        )


def kid(real: np.ndarray, generated: np.ndarray, subsets: int = SUBSETS, seed: int = 0) -> dict[str, float]:
    """Squared maximum mean discrepancy with the kernel (x·y / D + 1)³ (Bińkowski et al. 2018, arXiv:1801.01401, Eq. 4).

    The unbiased estimate by torchmetrics on random subsets of both sides, each of half the smaller side and at most
    1,000 images. The interval holds 95 % of the subsets: that of all images together would be narrower.

    Args:
        real, generated: [N, D] and [M, D] features.
        subsets: how many.
        seed: of the subsets.
    Returns:
        kid (mean over subsets, may be below zero), kid_sd, kid_low, kid_high, kid_subsets, kid_subset_size.
    Raises:
        BadInput: fewer than 20 images on a side.
    """
    require_images(len(real), 'real')
    require_images(len(generated))
    size = min(LARGEST_SUBSET, min(len(real), len(generated)) // 2)
    draw = np.random.default_rng(seed)
    sides = [torch.from_numpy(np.array(side, dtype=np.float64)) for side in (real, generated)]
    values = np.array(
        [poly_mmd(*(side[draw.permutation(len(side))[:size]] for side in sides)).item() for _ in range(subsets)]
    )
    low, high = np.quantile(values, [0.025, 0.975])
    found = {'kid': values.mean(), 'kid_sd': values.std(ddof=1), 'kid_low': low, 'kid_high': high}
    return {name: float(value) for name, value in found.items()} | {'kid_subsets': subsets, 'kid_subset_size': size}


def floor(features: np.ndarray, groups: np.ndarray, most: int | None = None, seed: int = 0) -> dict[str, float]:
    """The distance between two halves of real images: what a generator that is perfect would reach at such numbers.

    Halves of patients, so that no patient is on both sides; the mean over five halvings.

    Args:
        features: [N, D] of real images.
        groups: [N] their patients.
        most: images on the side that stands for the generated ones; all of the half where None.
        seed: of the halvings.
    Returns:
        fid, fid_sd, kid (None below 20 images a half), images (of the smaller side), halvings. fid is None where
        there are too few patients for two halves.
    """
    names, draw, fids, kids, images = np.unique(groups), np.random.default_rng(seed), [], [], []
    for halving in range(HALVINGS):
        one = np.isin(groups, draw.permutation(names)[: len(names) // 2])
        sides = features[~one], features[one][:most]
        images.append(min(map(len, sides)))
        if images[-1] < 2:
            return {'fid': None, 'fid_sd': None, 'kid': None, 'images': images[-1], 'halvings': 0}
        fids.append(fid(*sides))
        if images[-1] >= FEWEST:
            kids.append(kid(*sides, seed=halving)['kid'])
    return {
        'fid': float(np.mean(fids)),
        'fid_sd': float(np.std(fids, ddof=1)),
        'kid': float(np.mean(kids)) if len(kids) == HALVINGS else None,
        'images': min(images),
        'halvings': HALVINGS,
    }


def nearest(features: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance [N] of each image to its nearest training image, and that one's place [N] in `train`."""
    train = torch.from_numpy(np.array(train, dtype=np.float32))
    found = []
    for start in range(0, len(features), BLOCK):
        part = torch.from_numpy(np.array(features[start : start + BLOCK], dtype=np.float32))
        # Exact: by products of matrices a copy would come out some thousandths away from itself.
        distances = torch.cdist(part, train, compute_mode='donot_use_mm_for_euclid_dist')
        found.append(distances.min(dim=1))
    return tuple(torch.cat([getattr(part, name) for part in found]).numpy() for name in ('values', 'indices'))


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
    own, other = nearest(generated, train)[0], nearest(real, train)[0]
    found = {
        'nearest': np.median(own),
        'nearest_5': np.quantile(own, 0.05),
        'nearest_real': np.median(other),
        'nearest_real_5': np.quantile(other, 0.05),
        'nearest_ratio': np.median(own) / max(np.median(other), 1e-12),
        'copies': (own < np.quantile(other, COPY_QUANTILE)).mean(),
    }
    return {name: float(value) for name, value in found.items()}
