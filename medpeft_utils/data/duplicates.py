"""Images that show the same though their files differ: found by a perceptual hash, confirmed by their details.

Every image is reduced to 32 x 32 grey levels. Two are near duplicates where both hold:
- the 64-bit DCT hashes of their coarse structure (pHash, Zauner 2010) differ in at most `BITS` bits;
- the finer DCT coefficients, weighted by their frequency, correlate by `CORRELATION` or more.
The hash alone finds thousands of pairs of different lesions in HAM10000 (a dark spot in the middle, a dark rim), and
plain correlation finds rims too. The two limits were set by looking at pairs. BreastUS: those within the limits show
one lesion, and so do the next ones, down to 0.9. HAM10000: all but one of 117 are of one lesion by its metadata, and
that one is one picture with another white balance; below the limits different lesions begin. Not found: copies that
are mirrored, turned, cropped by more than a few per cent, or have much drawn into them.
"""

from __future__ import annotations

import numpy as np

SIDE = 32  # of the grey picture, in pixels
BITS = 8
CORRELATION = 0.95
_ROWS = 512  # compared with all later ones at a time


def _coefficients(greys: np.ndarray) -> np.ndarray:
    """[N, 32, 32] grey levels to the DCT coefficients that are looked at, [N, 16, 16] float32."""
    from scipy.fft import dctn

    blocks = [dctn(greys[start : start + 4096].astype(np.float32), axes=(1, 2), norm='ortho')[:, :16, :16]
              for start in range(0, len(greys), 4096)]  # fmt: skip
    return np.concatenate(blocks) if blocks else np.zeros((0, 16, 16), np.float32)


def hashes(coefficients: np.ndarray) -> np.ndarray:
    """[N] uint64: whether each of the 64 lowest DCT coefficients is above their median, the mean grey left out."""
    low = coefficients[:, :8, :8].reshape(-1, 64).copy()
    low[:, 0] = coefficients[:, 8, 0]
    above = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(np.uint64)[:, 0]


def details(coefficients: np.ndarray) -> np.ndarray:
    """[N, D] float32 of length 1: coefficients above the coarsest, times their frequency; 0 of a flat image."""
    y, x = np.indices((16, 16))
    radius = np.hypot(y, x)
    fine = (y + x >= 3) & (radius < 16)
    weighted = coefficients[:, fine] * radius[fine].astype(np.float32)
    length = np.linalg.norm(weighted, axis=1, keepdims=True)
    return weighted / np.maximum(length, 1.0)  # below 1 there is nothing but rounding


def near_pairs(greys: np.ndarray, bits: int = BITS, correlation: float = CORRELATION) -> np.ndarray:
    """Pairs of near duplicates.

    Args:
        greys: [N, 32, 32] uint8.
        bits: largest Hamming distance of the hashes.
        correlation: smallest correlation of the details.
    Returns:
        [P, 2] row numbers, the smaller first, in ascending order.
    """
    coefficients = _coefficients(greys)
    codes, fine = hashes(coefficients), details(coefficients)
    found = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(codes), _ROWS):
        distance = np.bitwise_count(codes[start : start + _ROWS, None] ^ codes[None, start:])
        first, second = np.nonzero(distance <= bits)
        later = second > first
        first, second = first[later] + start, second[later] + start
        alike = np.einsum('pd,pd->p', fine[first], fine[second]) >= correlation
        found.append(np.stack([first[alike], second[alike]], axis=1))
    return np.concatenate(found)


def sets_of(pairs: np.ndarray, count: int) -> np.ndarray:
    """[N] number of the set that each row is in, pairs joined to sets; -1 where it is in none."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, number = connected_components(links, directed=False)
    paired = np.zeros(count, dtype=bool)
    paired[pairs.ravel()] = True
    return np.where(paired, number, -1)
