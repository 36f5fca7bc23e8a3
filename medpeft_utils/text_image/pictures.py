"""Strips: some pictures side by side in one PNG, which a run writes beside its record for Figure 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medpeft_utils.core.errors import BadInput

SAMPLES, GROUND_TRUTH = 'samples.png', 'ground_truth.png'


def write_strip(images: np.ndarray, path: Path | str) -> Path:
    """Write [K, S, S, 3] uint8 images into one PNG of S x K S pixels."""
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(list(images), axis=1)).save(path, format='PNG')
    return path


def read_strip(path: Path | str) -> np.ndarray:
    """[K, S, S, 3] uint8 images of a strip. Raises BadInput where the file is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        strip = np.array(Image.open(path).convert('RGB'))
    except (OSError, UnidentifiedImageError) as error:
        raise BadInput(f'{path}: cannot be read as a strip of pictures ({error})') from error
    side, width = strip.shape[:2]
    if not side or width % side:
        raise BadInput(f'{path}: {width} x {side} px is no row of square pictures')
    return strip.reshape(side, width // side, side, 3).swapaxes(0, 1)
