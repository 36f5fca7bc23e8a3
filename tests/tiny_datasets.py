"""Tiny datasets of seeded noise, in the published layouts and as own data, for the tests of data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

HAM_CODES = ('akiec', 'bcc', 'bkl', 'df', 'mel', 'nv', 'vasc')


def draw(path: Path, seed: int, mode: str = 'L', size: tuple[int, int] = (24, 16)) -> Path:
    """A file of seeded noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == 'L' else (size[1], size[0], 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def make_busi(folder: Path, counts: dict[str, int] | None = None) -> Path:
    counts = counts or {'benign': 8, 'malignant': 6, 'normal': 5}
    root = folder / 'Dataset_BUSI_with_GT'
    for label, (name, count) in enumerate(counts.items()):
        for i in range(1, count + 1):
            draw(root / name / f'{name} ({i}).png', 100 * label + i)
            draw(root / name / f'{name} ({i})_mask.png', 1)
    draw(root / 'benign' / 'benign (2)_mask_1.png', 2)
    return root


def make_ham(folder: Path, lesions: int = 6) -> Path:
    """Every class with `lesions` lesions, the lesion i of 1 + i % 3 images, over both parts."""
    rows = []
    for code in HAM_CODES:
        for lesion in range(lesions):
            for _ in range(1 + lesion % 3):
                name = f'ISIC_{len(rows):07d}'
                draw(folder / f'HAM10000_images_part_{1 + len(rows) % 2}' / f'{name}.jpg', len(rows), 'RGB', (40, 30))
                rows.append((f'HAM_{code}{lesion}', name, code, 'histo', '45.0' if lesion else '', 'male', 'back'))
    columns = ['lesion_id', 'image_id', 'dx', 'dx_type', 'age', 'sex', 'localization']
    pd.DataFrame(rows, columns=columns).to_csv(folder / 'HAM10000_metadata.csv', index=False)
    return folder


def make_own(folder: Path, classes: int = 3, images: int = 7) -> Path:
    for label in range(classes):
        for i in range(images):
            draw(folder / f'class {label}' / f'image {i}.png', 50 * label + i)
    return folder
