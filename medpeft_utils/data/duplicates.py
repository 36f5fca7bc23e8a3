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

Comparing all with all takes seconds for a thousand images and minutes for ten thousand; above `LARGE` only pairs are
compared whose perceptual hashes (pHash, Zauner 2010) differ in few bits, which misses most of the shifted ones.
"""

from __future__ import annotations

import numpy as np

SIDE = 48  # of the grey picture, in pixels
SHIFT = 3
WINDOW = SIDE - 2 * SHIFT
WIDE, FINE = 0.74, 0.58  # smallest correlations
MANY, LARGE = 50, 4096
APART = 5.0
BITS = 10
_ROWS = 512  # compared with all later ones at a time


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
    """Details of all images as vectors of length 1 that can be asked for at any shift."""

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


SHIFTS = [(y, x) for y in range(-SHIFT, SHIFT + 1) for x in range(-SHIFT, SHIFT + 1)]


def _correlations(shifted: _Shifted, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[P] the largest correlation of each pair over all shifts of either."""
    best = np.full(len(first), -1, np.float32)
    for start in range(0, len(first), 2048):
        part = slice(start, start + 2048)
        one, other = first[part], second[part]
        still = shifted.at(0, 0, one), shifted.at(0, 0, other)
        for y, x in SHIFTS:
            for fixed, moved in ((still[0], other), (still[1], one)):
                np.maximum(best[part], np.einsum('pd,pd->p', fixed, shifted.at(y, x, moved)), out=best[part])
    return best


def _limit(shifted: _Shifted) -> float:
    """The finer limit of a set: `FINE`, or higher where any two images of it are alike."""
    count = len(shifted.details)
    if count < MANY:
        return FINE
    first, second = np.random.default_rng(0).integers(count, size=(2, 1000))
    usual = _correlations(shifted, *(rows[first != second] for rows in (first, second)))
    middle = np.median(usual)
    return max(FINE, float(middle + APART * 1.4826 * np.median(np.abs(usual - middle))))


def _alike(shifted: _Shifted, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """All pairs that correlate by the limit at some shift of either."""
    count = len(shifted.details)
    still = shifted.at(0, 0)
    found = np.zeros((count, count), dtype=bool)
    for y, x in SHIFTS:
        moved = shifted.at(y, x)
        for start in range(0, count, _ROWS):
            found[start : start + _ROWS] |= still[start : start + _ROWS] @ moved.T >= limit
    return np.nonzero(np.triu(found | found.T, 1))


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
    if len(greys) <= large:
        first, second = _alike(fine, limit)
    else:
        first, second = _hashed(greys)
        alike = _correlations(fine, first, second) >= limit
        first, second = first[alike], second[alike]
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
