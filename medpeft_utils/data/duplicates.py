"""Images that show the same though their files differ: a search for equal detail that allows for shifts.

Every image is reduced to 48 x 48 grey levels, from which the coarse is taken away: a band-pass within the pixels that
are not black, so that neither the bright disc of a fundus photograph nor the rim of its frame counts, once as it is
(`WIDE`) and once a little finer with the contrast made the same everywhere (`FINE`). Two images are near duplicates
where at some shift of up to 3 pixels (6 % of the side) both correlate by the limits. What all images of a set have is
no evidence: from `MANY` images on their mean is taken away, and the finer limit lies at least `APART` spreads above how
any two of them correlate, since in radiographs of the chest the ribs of all run alike.

The limits were set by looking at pairs. BreastUS: 222 pairs, all of one lesion as far as the eye can tell, with a wide
gap below; they hold all 217 that a plain band-pass with shifts finds at 0.8. SMDG: where
a search without all this joined 70 images, 9 pairs are left, of which 2 are one picture. HAM10000: 194 of 198 pairs
are of one lesion by its metadata. NIH ChestX-ray14 (1,000): 5 of 6 are of one patient. Not found: copies that are
mirrored, turned, or cropped by more than a few per cent.

Comparing all with all grows with the square of the number of images; above `LARGE` only pairs are compared whose
perceptual hashes (pHash, Zauner 2010) differ in few bits, which misses most of the shifted ones.
"""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

SIDE = 48  # of the grey picture, in pixels
SHIFT = 3
WINDOW = SIDE - 2 * SHIFT
WIDE, FINE = 0.74, 0.58  # smallest correlations
MANY, LARGE = 50, 4096
APART = 5.0
BITS = 10
SKETCH = 256  # numbers of a sketch, of the WINDOW ** 2 of a vector
ROUNDING = 1e-4
_ROWS = 512  # compared with all others at a time


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(values, (0, sigma, sigma), mode='nearest')


def _details(greys: np.ndarray, coarse: float, even: float = 0.0) -> np.ndarray:
    """[N, 48, 48] greys to their detail, finer than `coarse` pixels, 0 where the picture is black.

    With `even`, divided by its own strength within that many pixels, so that strong edges count as much as faint ones.
    """
    from scipy.ndimage import binary_erosion

    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)[None]
    seen = binary_erosion(_blurred(greys, 1) > 16, cross, iterations=2, border_value=1).astype(np.float32)

    def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
        return _blurred(values * seen, sigma) / np.maximum(_blurred(seen, sigma), 0.01)

    found = (smooth(greys, 0.6) - smooth(greys, coarse)) * seen
    if even:
        found = found / (np.sqrt(smooth(found**2, even)) + 1)
    return found


class _Shifted:
    """Details of all images as vectors of length 1, at any shift."""

    def __init__(self, details: np.ndarray):
        self.details = details.astype(np.float32)
        self.mean = np.zeros(WINDOW**2, np.float32)
        self.mean = self.at(0, 0).mean(axis=0) if len(details) >= MANY else self.mean

    def at(self, y: int, x: int, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """[M, D] of some rows; shorter than 1 where there is next to no detail."""
        cut = self.details[rows, SHIFT + y : SHIFT + y + WINDOW, SHIFT + x : SHIFT + x + WINDOW]
        flat = cut.reshape(len(cut), -1)
        flat = flat - flat.mean(axis=1, keepdims=True)
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 0.02 * WINDOW)
        flat -= self.mean
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 0.15)

    def basis(self) -> np.ndarray:
        """[D, SKETCH] orthonormal: the directions in which a sample of the images differs most."""
        rng = np.random.default_rng(0)
        sample = self.at(0, 0, rng.integers(len(self.details), size=min(2000, 4 * len(self.details))))
        return np.linalg.qr(sample.T @ (sample @ rng.standard_normal((WINDOW**2, SKETCH), np.float32)))[0]

    def sketches(self, y: int, x: int, basis: np.ndarray) -> np.ndarray:
        """[N, SKETCH + 1] of all rows: coordinates in the basis, and the length of what the basis leaves out.

        The product of two sketches is at least the product of the vectors (Cauchy and Schwarz), up to rounding.
        """
        parts = []
        for start in range(0, len(self.details), 4 * _ROWS):
            whole = self.at(y, x, slice(start, start + 4 * _ROWS))
            inside = whole @ basis
            rest = (whole**2).sum(axis=1) - (inside**2).sum(axis=1)
            parts.append(np.column_stack([inside, np.sqrt(np.maximum(rest, 0))]))
        return np.concatenate(parts)


SHIFTS = [(y, x) for y in range(-SHIFT, SHIFT + 1) for x in range(-SHIFT, SHIFT + 1)]


def _correlations(shifted: _Shifted, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[P] the largest correlation of each pair over all shifts of either."""
    best = np.full(len(first), -1, np.float32)
    for start in range(0, len(first), 16 * _ROWS):
        part = slice(start, start + 16 * _ROWS)
        rows, pair = np.unique([first[part], second[part]], return_inverse=True)
        pair = pair.reshape(2, -1)
        still = shifted.at(0, 0, rows)
        for shift in SHIFTS:
            moved = shifted.at(*shift, rows)
            for fixed, other in (pair, pair[::-1]):
                np.maximum(best[part], _products(still, fixed, moved, other), out=best[part])
    return best


def _products(one: np.ndarray, first: np.ndarray, other: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[P] the product of row `first` of one and row `second` of the other, for each pair."""
    parts = [slice(start, start + 2 * _ROWS) for start in range(0, len(first), 2 * _ROWS)]
    return np.concatenate([np.einsum('pd,pd->p', one[first[part]], other[second[part]]) for part in parts])


def _limit(shifted: _Shifted) -> float:
    """The finer limit of a set: `FINE`, or higher where any two images of it are alike."""
    count = len(shifted.details)
    if count < MANY:
        return FINE
    first, second = np.random.default_rng(0).integers(count, size=(2, 1000))
    usual = _correlations(shifted, *(rows[first != second] for rows in (first, second)))
    middle = np.median(usual)
    return max(FINE, float(middle + APART * 1.4826 * np.median(np.abs(usual - middle))))


def _alike(shifted: _Shifted, limit: float, likely: tuple | None) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that correlate by the limit at some shift of either: of all pairs, or of the likely ones.

    Sketches rule nearly all pairs out, at a seventh of the cost; the others are compared in full.
    """
    count, basis = len(shifted.details), shifted.basis()
    still, possible = shifted.sketches(0, 0, basis), limit - ROUNDING
    found = np.zeros((count, count) if likely is None else len(likely[0]), dtype=bool)
    for shift in tqdm(SHIFTS, desc='looking for near duplicates', unit=' shifts', disable=count < LARGE // 4):
        moved = shifted.sketches(*shift, basis)
        if likely is None:
            for start in range(0, count, _ROWS):
                found[start : start + _ROWS] |= still[start : start + _ROWS] @ moved.T >= possible
        elif len(found):
            first, second = likely
            found |= (
                np.maximum(_products(still, first, moved, second), _products(still, second, moved, first)) >= possible
            )
    first, second = np.nonzero(np.triu(found | found.T, 1)) if likely is None else (rows[found] for rows in likely)
    alike = _correlations(shifted, first, second) >= limit
    return first[alike], second[alike]


def hashes(greys: np.ndarray) -> np.ndarray:
    """[N] uint64: whether each of the 64 lowest DCT coefficients is above their median, the mean grey left out."""
    from scipy.fft import dctn

    low = dctn(greys.astype(np.float32), axes=(1, 2), norm='ortho')[:, :9, :8]
    codes = low[:, :8].reshape(-1, 64).copy()
    codes[:, 0] = low[:, 8, 0]
    above = codes > np.median(codes, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(np.uint64)[:, 0]


def _hashed(greys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs whose hashes differ in few bits."""
    codes, pairs = hashes(greys), []
    for start in range(0, len(codes), _ROWS):
        distance = np.bitwise_count(codes[start : start + _ROWS, None] ^ codes[None, start:])
        first, second = np.nonzero(distance <= BITS)
        later = second > first
        pairs.append((first[later] + start, second[later] + start))
    return tuple(np.concatenate(part) for part in zip(*pairs, strict=True))


def near_pairs(greys: np.ndarray, large: int = LARGE) -> np.ndarray:
    """Pairs of near duplicates.

    Args:
        greys: [N, 48, 48] uint8.
        large: number of images above which only pairs of like hashes are compared.
    Returns:
        [P, 2] row numbers, the smaller first, in ascending order.
    """
    if len(greys) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    greys = greys.astype(np.float32)
    fine = _Shifted(_details(greys, 2, even=3))
    limit = _limit(fine)
    first, second = _alike(fine, limit, None if len(greys) <= large else _hashed(greys))
    alike = _correlations(_Shifted(_details(greys, 3)), first, second) >= WIDE
    return np.stack([first[alike], second[alike]], axis=1)


def sets_of(pairs: np.ndarray, count: int) -> np.ndarray:
    """[N] number of the set that each row is in, pairs joined to sets; -1 where it is in none."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, number = connected_components(links, directed=False)
    paired = np.zeros(count, dtype=bool)
    paired[pairs.ravel()] = True
    return np.where(paired, number, -1)
