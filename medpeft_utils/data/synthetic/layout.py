"""Which classes and which group a synthetic image has: a function of (name, seed, row) alone.

Rows come in blocks of the stand-in's default size. A block holds the classes in the real shares, its groups (lesions,
patients) have the real numbers of images, and its rows are shuffled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from medpeft_utils.data.synthetic.canvas import generator

PERSISTS = 0.6  # chance that a finding of a patient shows in one of the patient's images


@dataclass(frozen=True)
class Subject:
    """What one synthetic image shows, before anything is drawn.

    `label` is the number of its class, or [L] of 0 and 1 where an image can have several findings. `group` is the
    number of its group, and `place` counts the image within it, from 0. `of_group` gives the same numbers for every
    image of a group (the lesion, the patient), `of_image` and `of_grain` differ.
    """

    label: int | np.ndarray
    group: int
    place: int
    of_group: np.random.Generator
    of_image: np.random.Generator
    of_grain: np.random.Generator


Draw = Callable[[Subject, int], tuple[np.ndarray, dict]]


@dataclass(frozen=True, eq=False)
class Modality:
    """A synthetic stand-in for one data set.

    Args:
        name: the data set it imitates.
        counts: images of each class in the real set, in label order; shares of the images where `several`.
        draw: (subject, image size S) to a picture in 0..1, [S, S] or [S, S, 3], and the row's extra columns.
        default_size: how many images the stand-in has.
        group: what a group is: 'image', 'lesion' or 'patient'.
        group_sizes: a class to the relative numbers of groups that have 1, 2, ... images; one image each where absent.
            Where `several`, the key is ''.
        several: whether an image can have several of the classes, or none.
        grain: standard deviation of the noise of the detector, in grey levels out of 255.
    """

    name: str
    counts: Mapping[str, float]
    draw: Draw
    default_size: int
    group: str = 'image'
    group_sizes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    several: bool = False
    grain: float = 2.0


def quotas(counts: Mapping[str, float], total: int) -> np.ndarray:
    """Images of each class out of `total`, in the shares of `counts` (largest remainders)."""
    exact = np.array(list(counts.values()), dtype=float) * total / sum(counts.values())
    quota = np.floor(exact).astype(int)
    quota[np.argsort(quota - exact, kind='stable')[: total - quota.sum()]] += 1
    return quota


def _group_sizes(rng: np.random.Generator, weights: tuple[float, ...], images: int) -> np.ndarray:
    """Sizes of groups that together have `images` images; the last one is cut to fit."""
    chances = np.asarray(weights, dtype=float)
    sizes = rng.choice(np.arange(1, len(chances) + 1), size=images, p=chances / chances.sum())
    sizes = np.diff(np.minimum(np.cumsum(sizes), images), prepend=0)
    return sizes[sizes > 0]


def block(modality: Modality, seed: int, number: int) -> np.ndarray:
    """[B, 3] of (label, group, place in the group) for the rows of one block, B = `default_size`.

    With several findings an image, [B, L + 2]: L labels of 0 and 1 in place of the one.
    """
    size, rng = modality.default_size, generator(modality.name, 'layout', seed, number)
    first_group = number * size  # a block has at most as many groups as rows
    if modality.several:
        sizes = _group_sizes(rng, modality.group_sizes[''], size)
        patient = np.repeat(np.arange(len(sizes)), sizes)
        place = np.concatenate([np.arange(count) for count in sizes])
        share = np.asarray(list(modality.counts.values()))
        has = rng.random((len(sizes), len(share))) < np.minimum(share / PERSISTS, 1)
        labels = has[patient] & (rng.random((size, len(share))) < np.where(share > PERSISTS, share, PERSISTS))
        return np.column_stack([labels, patient + first_group, place])[rng.permutation(size)]
    rows, group = [], first_group
    for name, quota in zip(modality.counts, quotas(modality.counts, size), strict=True):
        for images in _group_sizes(rng, modality.group_sizes.get(name, (1.0,)), int(quota)):
            label = list(modality.counts).index(name)
            rows += [(label, group, place) for place in range(images)]
            group += 1
    return rng.permutation(np.array(rows))


class Layout:
    """Labels and groups of a stand-in, block by block, each computed once."""

    def __init__(self, modality: Modality, seed: int):
        self.modality, self.seed = modality, seed
        self._block = lru_cache(maxsize=8)(lambda number: block(modality, seed, number))

    def subject(self, row: int) -> Subject:
        """What a row shows, with the generators of its group and of its own."""
        number, offset = divmod(row, self.modality.default_size)
        *label, group, place = self._block(number)[offset].tolist()
        several, name = self.modality.several, self.modality.name
        image = generator(name, 'image', self.seed, row)
        return Subject(
            np.array(label, dtype=np.uint8) if several else label[0],
            group,
            place,
            generator(name, 'group', self.seed, group),
            image,
            generator(name, 'grain', self.seed, row) if several else image,
        )
