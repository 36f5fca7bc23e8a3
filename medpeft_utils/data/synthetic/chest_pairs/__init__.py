"""Synthetic chest radiographs with captions, drawn from a seed. No real image or report is used.

What a caption says can be seen, and nothing else is there. What is measured on them says nothing about patients: every
output that shows them must say "synthetic".
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.synthetic.canvas import generator
from medpeft_utils.data.synthetic.chest_pairs.drawing import Patient, draw
from medpeft_utils.data.synthetic.chest_pairs.findings import NAMES, Finding, caption, multi_hot, sample
from medpeft_utils.data.texts import FINDING

SIZES = {'train': 4000, 'validation': 400, 'test': 1000}  # pairs
PER_PATIENT = (0.4, 0.3, 0.2, 0.1)  # shares of the patients with one, two, three, four radiographs
KEY = 'chest_pairs'

__all__ = ['NAMES', 'SIZES', 'Finding', 'describe', 'draw', 'findings_of', 'images', 'require_size']


@lru_cache(maxsize=8)
def _layout(seed: int) -> tuple[tuple[int, str], ...]:
    """Patient and split of every row; a patient's radiographs follow each other, in one split."""
    rng, rows, patient = generator(KEY, 'layout', seed), [], 0
    for split, size in SIZES.items():
        end = len(rows) + size
        while len(rows) < end:
            count = min(1 + int(rng.choice(len(PER_PATIENT), p=PER_PATIENT)), end - len(rows))
            rows += [(patient, split)] * count
            patient += 1
    return tuple(rows)


def findings_of(seed: int, row: int) -> tuple[Finding, ...]:
    """The findings of a row's radiograph."""
    return sample(generator(KEY, 'findings', seed, row))


def describe(seed: int = 0) -> pd.DataFrame:
    """The manifest of the whole set: image, text, group, split, and a column `finding:NAME` for each of `NAMES`."""
    rows, hot = [], []
    for row, (patient, split) in enumerate(_layout(seed)):
        findings = findings_of(seed, row)
        text = caption(generator(KEY, 'caption', seed, row), findings)
        rows.append((f'synthetic/{row:06d}', text, f'patient_{patient:06d}', split))
        hot.append(multi_hot(findings))
    frame = pd.DataFrame(rows, columns=['image', 'text', 'group', 'split'])
    return pd.concat([frame, pd.DataFrame(np.stack(hot), columns=[f'{FINDING}{name}' for name in NAMES])], axis=1)


def require_size(image_size: int) -> None:
    """Raise BadInput where radiographs cannot be drawn at this size."""
    if not 32 <= image_size <= 512:
        raise BadInput(f'image_size={image_size} of synthetic radiographs: give 32 to 512 pixels')


def images(image_size: int = 64, seed: int = 0, rows: Iterable[int] | None = None) -> np.ndarray:
    """Draw radiographs. Image i depends on (seed, i, image_size) alone.

    Args:
        image_size: side in pixels, 32 to 512.
        seed: which set, 0 or more.
        rows: rows of the set; all where None.
    Returns:
        [n, S, S, 3] uint8, grey in all channels.
    Raises:
        BadInput: a size, seed or row out of range.
    """
    layout = _layout(seed) if seed >= 0 else ()
    rows = list(range(len(layout)) if rows is None else rows)
    require_size(image_size)
    if seed < 0 or not rows or not 0 <= min(rows) <= max(rows) < len(layout):
        raise BadInput(f'synthetic radiographs have rows 0 to {sum(SIZES.values()) - 1} and seeds from 0 on')
    pictures = np.empty((len(rows), image_size, image_size, 3), dtype=np.uint8)
    for i, row in enumerate(rows):
        patient = Patient.drawn(generator(KEY, 'patient', seed, layout[row][0]))
        picture = draw(patient, generator(KEY, 'image', seed, row), findings_of(seed, row), image_size)
        pictures[i] = picture[..., None]
    return pictures
