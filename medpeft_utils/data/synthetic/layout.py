"""Which class and which group a synthetic image has: a function of (name, seed, row) alone.

Rows come in blocks of the stand-in's default size. A block holds the classes in the real shares exactly (rounded), its
groups (lesions, patients) have the real numbers of images, and its rows are shuffled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from medpeft_utils.data.synthetic.canvas import generator


@dataclass(frozen=True)
class Subject:
    """What one synthetic image shows, before anything is drawn.

    `of_group` gives the same numbers for every image of a group (the lesion, the patient), `of_image` differs.
    `place` counts the image within its group, from 0.
    """

    label: int
    place: int
    of_group: np.random.Generator
    of_image: np.random.Generator


Draw = Callable[[Subject, int], tuple[np.ndarray, dict]]


@dataclass(frozen=True)
class Modality:
    """A synthetic stand-in for one data set.

    Args:
        name: the data set it stands in for.
        counts: images of each class in the real set, in label order.
        draw: (subject, image size S) to a picture in 0..1, [S, S] or [S, S, 3], and the row's extra columns.
        default_size: how many images the stand-in has.
        group: what a group is: 'image', 'lesion' or 'patient'.
        group_sizes: a class to the relative numbers of groups that have 1, 2, ... images; one image each where absent.
        grain: standard deviation of the noise of the detector, in grey levels out of 255.
    """

    name: str
    counts: dict[str, int]
    draw: Draw
    default_size: int
    group: str = 'image'
    group_sizes: dict[str, tuple[float, ...]] = field(default_factory=dict)
    grain: float = 2.0


def quotas(counts: dict[str, int], total: int) -> np.ndarray:
    """Images of each class out of `total`, in the shares of `counts` (largest remainders)."""
    exact = np.array(list(counts.values()), dtype=float) * total / sum(counts.values())
    quota = np.floor(exact).astype(int)
    quota[np.argsort(quota - exact, kind='stable')[: total - quota.sum()]] += 1
    return quota


def _group_sizes(rng: np.random.Generator, weights: tuple[float, ...], images: int) -> np.ndarray:
    """Sizes of groups that together have `images` images; the last one is cut to fit."""
    chances = np.asarray(weights, dtype=float)
    sizes = rng.choice(np.arange(1, len(chances) + 1), size=images, p=chances / chances.sum())
    ends = np.minimum(np.cumsum(sizes), images)
    sizes = np.diff(ends, prepend=0)
    return sizes[sizes > 0]


def block(modality: Modality, seed: int, number: int) -> np.ndarray:
    """[B, 3] of (label, group, place in the group) for the rows of one block, B = `default_size`."""
    rng = generator(modality.name, 'layout', seed, number)
    rows, group = [], number * modality.default_size  # a block has at most as many groups as rows
    for label, quota in enumerate(quotas(modality.counts, modality.default_size)):
        weights = modality.group_sizes.get(list(modality.counts)[label], (1.0,))
        for size in _group_sizes(rng, weights, int(quota)):
            rows += [(label, group, place) for place in range(size)]
            group += 1
    return rng.permutation(np.array(rows))


class Layout:
    """Labels and groups of a stand-in, block by block, each computed once."""

    def __init__(self, modality: Modality, seed: int):
        self.modality, self.seed = modality, seed
        self._block = lru_cache(maxsize=8)(lambda number: block(modality, seed, number))

    def __getitem__(self, row: int) -> tuple[int, int, int]:
        """(label, group, place in the group) of a row."""
        number, offset = divmod(row, self.modality.default_size)
        label, group, place = self._block(number)[offset]
        return int(label), int(group), int(place)

    def subject(self, row: int) -> Subject:
        """The row's label with the generators of its group and of its own."""
        label, group, place = self[row]
        name = self.modality.name
        return Subject(
            label, place, generator(name, 'group', self.seed, group), generator(name, 'image', self.seed, row)
        )


def grain(rng: np.random.Generator, size: int, level: float) -> np.ndarray:
    """[size, size] noise of the detector in 0..1 units; grains are a pixel wide."""
    return rng.standard_normal((size, size)) * (level / 255.0)
