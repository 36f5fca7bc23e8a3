"""Synthetic datasets as if they lay on disk: their manifest, their images in blocks, the hash of what draws them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from medpeft_utils.data import manifest, multi_label
from medpeft_utils.data.cache import BLOCK
from medpeft_utils.data.cards import DataCard


def generator_hash(part: str = '') -> str:
    """Hash of the code that draws the synthetic images, or those of a folder of it: another code draws others."""
    from medpeft_utils.data import synthetic

    folder = Path(synthetic.__file__).parent
    files = sorted({*(folder / part).glob('*.py'), folder / 'canvas.py'})
    return hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()[:16]


def _drawn(name: str, image_size: int, rows: range) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    from medpeft_utils.data import synthetic

    return synthetic.generate(name, image_size=image_size, seed=0, indices=rows)


def manifest_of(card: DataCard, count: int) -> pd.DataFrame:
    """Labels or texts, groups and given splits of all synthetic images.

    Those with labels are drawn at the smallest size to be read off.
    """
    if card.texts:
        from medpeft_utils.data.synthetic import chest_pairs

        return manifest.normalised(chest_pairs.describe(0), Path(), 'text')
    _, labels, extra = _drawn(card.name, 16, range(count))
    frame = extra.reset_index(drop=True).assign(
        image=[f'{card.name}/{row:06d}' for row in range(count)], group=extra['group'].astype(str).to_numpy()
    )
    if 'split' not in frame:
        frame['split'] = ''
    if card.multi_label:
        frame['labels'] = [' '.join(map(str, row)) for row in labels.tolist()]
        frame = multi_label.with_label(frame, card.classes)
    else:
        frame['label'] = np.asarray(card.classes)[labels]
    own_columns = [column for column in frame if column not in manifest.COLUMNS]
    return frame[[*manifest.COLUMNS, *own_columns]]


def blocks(card: DataCard, image_size: int, count: int, first: int) -> Iterator[np.ndarray]:
    """Drawn images [n, side, side, 3] in blocks, from `first` on."""
    from medpeft_utils.data.synthetic import chest_pairs

    for start in tqdm(
        range(first, count, BLOCK), desc=f'drawing {card.label} at {image_size} px', unit=f'x{BLOCK} images'
    ):
        rows = range(start, min(start + BLOCK, count))
        yield chest_pairs.images(image_size, 0, rows) if card.texts else _drawn(card.name, image_size, rows)[0]
