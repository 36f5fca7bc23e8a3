"""Synthetic stand-ins for the data sets of the classification studies, drawn from a seed. No real image is used.

`MODALITIES` are those with one class an image (Dutt et al. 2024), `SETS` those with several findings (Lian et al.
2024).
They look like their modality and keep the real class shares. A study can be run and tested on them without a download.
What is measured on them says nothing about patients: every output that shows them must say "synthetic".
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.registry import Registry
from medpeft_utils.data.synthetic import dermatoscopy, fundus, radiograph, skin, ultrasound
from medpeft_utils.data.synthetic.canvas import to_bytes
from medpeft_utils.data.synthetic.findings import SETS
from medpeft_utils.data.synthetic.layout import Layout, Modality

MODALITIES: Registry[Modality] = Registry('synthetic dataset', 'medpeft data list')
for _module in (ultrasound, skin, dermatoscopy, fundus, radiograph):
    MODALITIES.register(_module.MODALITY.name, _module.MODALITY)

PREFIX = 'synthetic_'


def names() -> list[str]:
    """Names of the synthetic data sets with one class an image, each derived from the data set it imitates."""
    return list(MODALITIES)


def modality(name: str) -> Modality:
    """A synthetic data set by name, with or without the prefix `synthetic_`. Raises UnknownName."""
    name = name.removeprefix(PREFIX)
    return SETS[name] if name in SETS else MODALITIES[name]


def default_size(name: str) -> int:
    """How many images a synthetic data set has unless another number is asked for. Raises UnknownName."""
    return modality(name).default_size


def generate(
    name: str, image_size: int = 64, seed: int = 0, n: int | None = None, indices: Iterable[int] | None = None
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Draw a synthetic data set. Image i depends on (name, seed, i, image_size) alone, not on `n`.

    Args:
        name: one of `names()`, with or without the prefix `synthetic_`.
        image_size: side of the square images in pixels, 16 or more.
        seed: which data set; another seed has other images, 0 or more.
        n: number of images, from the first; the default size when None.
        indices: the images to draw instead of the first `n`, for drawing a set in parts.
    Returns:
        images uint8 [n, S, S, 3], labels int64 [n] (uint8 [n, L] of 0 and 1 where an image can have several findings),
        and a table with column `group` and the modality's own columns.
    Raises:
        UnknownName: no such data set.
        BadInput: a size, seed or number out of range.
    """
    kind = modality(name)
    rows = list(range(kind.default_size if n is None else n) if indices is None else indices)
    first = min(rows, default=0)
    for what, value, least in (
        ('image_size', image_size, 16),
        ('seed', seed, 0),
        ('n', len(rows), 1),
        ('an index', first, 0),
    ):
        if value < least:
            raise BadInput(f'{what} of synthetic dataset {name!r} is {value}; give {least} or more')
    layout = Layout(kind, seed)
    images, labels, extra = np.empty((len(rows), image_size, image_size, 3), dtype=np.uint8), [], []
    for i, row in enumerate(rows):
        subject = layout.subject(row)
        picture, columns = kind.draw(subject, image_size)
        noise = subject.of_grain.standard_normal((image_size, image_size)) * (kind.grain / 255.0)
        images[i] = to_bytes(picture + (noise if picture.ndim == 2 else noise[..., None]))
        labels.append(subject.label)
        extra.append({'group': f'{kind.group}_{subject.group:06d}', **columns})
    return images, np.array(labels), pd.DataFrame(extra)
