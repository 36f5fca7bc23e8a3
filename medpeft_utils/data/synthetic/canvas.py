"""Drawing of synthetic images: smooth random fields, soft shapes and strokes, as functions of world coordinates.

All in float64 and with matrix products in place of filters: fast on small canvases, and rounding to bytes then gives
the same image whatever the number of threads. A picture drawn at another size is the same picture.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np

REACH = 1.7  # random fields cover [-REACH, REACH], which is enough for a shifted or shrunk view


def generator(*key: str | int) -> np.random.Generator:
    """A generator that depends on the key alone: strings by their CRC, integers (not negative) as they are."""
    return np.random.default_rng([zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key])


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, a cubic between; falls where `low` > `high`."""
    t = np.minimum(np.maximum((x - low) * (1.0 / (high - low)), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


def clipped_normal(rng: np.random.Generator, mean: float, std: float, low: float, high: float) -> float:
    """One draw of a normal distribution, clipped to [low, high]."""
    return float(np.clip(rng.normal(mean, std), low, high))


def _cubic_weights(at: np.ndarray, cells: int) -> np.ndarray:
    """[S] world coordinates to [S, cells + 3] weights of cubic B-splines on [-REACH, REACH]."""
    position = (at / REACH + 1.0) * 0.5 * cells
    d = np.abs(position[:, None] - np.arange(-1, cells + 2)[None, :])
    tail = np.clip(2 - d, 0, None)
    return np.where(d < 1, 2 / 3 - d * d * (1 - 0.5 * d), tail * tail * tail / 6)


@lru_cache(maxsize=512)
def _cached_weights(size: int, zoom: float, shift: float, cells: int) -> np.ndarray:
    return _cubic_weights(((np.arange(size) + 0.5) / size * 2.0 - 1.0) * zoom + shift, cells)


@lru_cache(maxsize=512)
def _gaussian_matrix(size: int, tenths: int) -> np.ndarray:
    """[S, S] matrix that blurs one axis with a Gaussian of `tenths` / 10 pixels; rows sum to one."""
    d = np.arange(size)[:, None] - np.arange(size)[None, :]
    weights = np.exp(-0.5 * (d / (tenths / 10.0)) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


class Canvas:
    """A square of pixels that looks at a part of the world: x to the right, y down, [-1, 1] when not zoomed.

    Args:
        size: side in pixels.
        zoom: world width over 2; negative mirrors left and right.
        shift: world coordinates (x, y) of the middle.

    `x` is [1, S], `y` is [S, 1]: expressions broadcast to [S, S].
    """

    def __init__(self, size: int, zoom: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)):
        self.size, self.zoom, self.shift = size, zoom, shift
        ramp = (np.arange(size) + 0.5) / size * 2.0 - 1.0
        self.x = (ramp * zoom + shift[0])[None, :]
        self.y = (ramp * abs(zoom) + shift[1])[:, None]

    def field(self, rng: np.random.Generator, rows: int, columns: int | None = None) -> np.ndarray:
        """[S, S] smooth random field of about unit variance, with `rows` x `columns` cells over the unit square."""
        columns = rows if columns is None else columns
        down = _cached_weights(self.size, abs(self.zoom), self.shift[1], round(rows * REACH))
        across = _cached_weights(self.size, self.zoom, self.shift[0], round(columns * REACH))
        knots = rng.standard_normal((down.shape[1], across.shape[1]))
        return (down @ knots @ across.T) * 2.05  # 2.05: a cubic B-spline lowers the variance of white knots so much

    def profile(self, rng: np.random.Generator, cells: int, axis: str = 'x') -> np.ndarray:
        """[1, S] (or [S, 1] for axis 'y') smooth random curve of about unit variance."""
        zoom, shift = (self.zoom, self.shift[0]) if axis == 'x' else (abs(self.zoom), self.shift[1])
        weights = _cached_weights(self.size, zoom, shift, round(cells * REACH))
        curve = weights @ rng.standard_normal(weights.shape[1]) * 1.43
        return curve[None, :] if axis == 'x' else curve[:, None]

    def blur(self, image: np.ndarray, sigma: float, sigma_y: float | None = None) -> np.ndarray:
        """Gaussian blur of [S, S]; sigmas in world units, rounded to a tenth of a pixel."""
        scale = self.size / (2.0 * abs(self.zoom))
        across = max(1, round(10 * sigma * scale))
        down = across if sigma_y is None else max(1, round(10 * sigma_y * scale))
        return _gaussian_matrix(self.size, down) @ image @ _gaussian_matrix(self.size, across).T

    def stroke(self, points: np.ndarray, weight: np.ndarray | float, width: float) -> np.ndarray:
        """[S, S] ink of curves: 1 on the axis of a curve of weight 1 and Gaussian width `width` (world units).

        Args:
            points: [P, 2] world (x, y) samples, consecutive ones less than a pixel or two apart.
            weight: [P] or scalar: length of curve that a sample stands for, times the wanted ink.
        """
        half = self.size / 2.0
        column = (points[:, 0] - self.shift[0]) / self.zoom * half + half - 0.5
        row = (points[:, 1] - self.shift[1]) / abs(self.zoom) * half + half - 0.5
        weight = np.broadcast_to(weight, column.shape)
        left, top = np.floor(column).astype(int), np.floor(row).astype(int)
        ink = np.zeros(self.size * self.size)
        for down in (0, 1):
            for right in (0, 1):
                share = (1 - np.abs(column - left - right)) * (1 - np.abs(row - top - down)) * weight
                c, r = left + right, top + down
                inside = (c >= 0) & (c < self.size) & (r >= 0) & (r < self.size)
                ink += np.bincount(r[inside] * self.size + c[inside], share[inside], minlength=ink.size)
        pixels = abs(half / self.zoom)
        return self.blur(ink.reshape(self.size, self.size), width) * (np.sqrt(2 * np.pi) * width * pixels * pixels)

    def blob(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        angle: float,
        harmonics: np.ndarray | None = None,
    ) -> np.ndarray:
        """[S, S] relative distance to an ellipse with a wavy edge: 0 in the middle, 1 on the edge, larger outside.

        Args:
            harmonics: complex [K], relative waves of the radius: entry k has k + 2 periods round the edge.
        """
        dx, dy = self.x - centre[0], self.y - centre[1]
        cos, sin = np.cos(angle), np.sin(angle)
        u = dx * (cos / radii[0]) + dy * (sin / radii[0])
        v = dy * (cos / radii[1]) - dx * (sin / radii[1])
        r = np.sqrt(u * u + v * v)
        if harmonics is None:
            return r
        z = (u + 1j * v) / np.maximum(r, 1e-9)
        wave = harmonics[-1] * z
        for coefficient in harmonics[-2::-1]:  # Horner: the sum of harmonics[k] * z ** (k + 2)
            wave += coefficient
            wave *= z
        return r / np.maximum(1.0 + (wave * z).real, 0.15)


@lru_cache(maxsize=32)
def ramp(samples: int) -> np.ndarray:
    """[samples] even steps from 0 to 1; not to be written to."""
    steps = np.linspace(0.0, 1.0, samples)
    steps.flags.writeable = False
    return steps


def waves(rng: np.random.Generator, amplitude: float, count: int, decay: float = 0.7) -> np.ndarray:
    """Complex [count] harmonics for `Canvas.blob`: random phases, amplitudes that fall by `decay`."""
    size = amplitude * decay ** np.arange(count) * np.abs(rng.standard_normal(count))
    return size * np.exp(2j * np.pi * rng.random(count))


def line(start: tuple[float, float], end: tuple[float, float], samples: int = 64) -> np.ndarray:
    """[samples, 2] points on a straight line."""
    t = ramp(samples)[:, None]
    return np.asarray(start)[None, :] * (1 - t) + np.asarray(end)[None, :] * t


def wandering(
    rng: np.random.Generator, start: tuple[float, float], heading: float, length: float, bend: float, samples: int = 96
) -> np.ndarray:
    """[samples, 2] points on a smooth curve: constant steps, the heading turns by `bend` radians in all."""
    t = ramp(samples)
    turn = bend * t + 0.3 * bend * np.sin(2 * np.pi * (t * rng.uniform(0.5, 2.0) + rng.random()))
    angles = heading + turn
    points = np.empty((samples, 2))
    for column, steps in enumerate((np.cos(angles), np.sin(angles))):
        points[:, column] = steps.cumsum() * (length / samples) + start[column]
    return points


def over(base: np.ndarray, colour: np.ndarray | float, alpha: np.ndarray) -> np.ndarray:
    """`colour` laid over `base` with opacity `alpha` [S, S]; works for grey [S, S] and for [S, S, 3]."""
    alpha = alpha if base.ndim == 2 else alpha[..., None]
    return base + alpha * (colour - base)


def fine(size: int) -> int:
    """Side of the canvas on which to draw sharp edges and thin lines before `shrink`: double for images up to 128."""
    return 2 * size if size <= 128 else size


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """[S, S(, 3)] to [size, size(, 3)] by averaging squares of S / size pixels."""
    factor = image.shape[0] // size
    if factor == 1:
        return image
    total = sum(image[i::factor, j::factor] for i in range(factor) for j in range(factor))
    return total * (1.0 / factor**2)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """[S, S] or [S, S, 3] in 0..1 to uint8 [S, S, 3]; grey is repeated."""
    image = np.clip(image * 255.0 + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
