"""Latents of images and embeddings of texts: the frozen parts of a pipeline compute them once for all runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.format import open_memmap

from medpeft_utils.core.hashing import digest
from medpeft_utils.core.shared import once

if TYPE_CHECKING:
    from medpeft_utils.text_image.pipeline import Pipeline

BATCH = 64


@dataclass(frozen=True)
class Encoded:
    """Pairs as the U-Net sees them; position i of `rows`, `latents` and `text_of` is one pair.

    In half precision the latents of 512 px take 32 KB, and a text of Stable Diffusion v1.5 takes 118 KB.

    Args:
        rows: [N] ascending row numbers in the set.
        latents: [N, C, h, w] float16, scaled.
        texts: [U, T, D] float16, every different text once, the empty prompt first.
        text_of: [N] which of `texts`.
    """

    rows: np.ndarray
    latents: np.ndarray
    texts: np.ndarray
    text_of: np.ndarray

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """Where some of the rows are. Raises KeyError for a row that was not encoded."""
        places = np.searchsorted(self.rows, rows)
        if len(rows) and (places.max() >= len(self.rows) or not np.array_equal(self.rows[places], rows)):
            raise KeyError(f'{len(np.setdiff1d(rows, self.rows))} rows were not encoded')
        return places


def images_key(images: np.ndarray) -> str:
    """A name for the images: their packed file, which has a hash of its source, or a hash of the pixels."""
    file = getattr(images, 'filename', None)
    return '/'.join(Path(file).parts[-2:]) if file else digest(np.ascontiguousarray(images).tobytes(), length=64)


def _written(folder: Path, name: str, shape: tuple[int, ...], parts) -> dict:
    """Write an array part by part; `once` keeps the result as a sign that the array is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    array, start = open_memmap(folder / f'{name}.npy', mode='w+', dtype=np.float16, shape=shape), 0
    for part in parts:
        array[start : start + len(part)] = part.cpu().numpy()
        start += len(part)
    array.flush()
    return {'file': f'{name}.npy', 'shape': list(shape)}


def _shared(folder: Path, name: str, shape: tuple[int, ...], parts) -> np.ndarray:
    marker = folder / f'{name}.json'
    if marker.exists() and not (folder / f'{name}.npy').exists():
        marker.unlink()  # somebody freed the space
    once(marker, lambda: _written(folder, name, shape, parts()))
    return np.load(folder / f'{name}.npy', mmap_mode='r')


def encode(pipe: Pipeline, images: np.ndarray, texts: Sequence[str], rows: np.ndarray, folder: Path) -> Encoded:
    """Encode some rows of a set, or read what an earlier call has encoded.

    Args:
        pipe: on the device to compute on; only its frozen parts are used, and only they enter the key.
        images: [M, S, S, 3] uint8.
        texts: M of them.
        rows: [N] ascending row numbers.
        folder: where the arrays are kept.
    """
    chosen = [texts[row] for row in rows]
    different = ['', *dict.fromkeys(text for text in chosen if text)]
    number, parts = {text: i for i, text in enumerate(different)}, range(0, len(rows), BATCH)
    side = images.shape[1] // pipe.shrinking
    key = digest(pipe.encoder_hash, pipe.device.type)
    of_rows = np.asarray(rows, dtype=np.int64).tobytes()
    latents = _shared(
        Path(folder),
        f'latents-{digest(key, images_key(images), of_rows)}',
        (len(rows), pipe.unet.config.in_channels, side, side),
        lambda: (pipe.encode_images(images[rows[start : start + BATCH]]) for start in parts),
    )
    embeddings = _shared(
        Path(folder),
        f'texts-{digest(key, *different)}',
        (len(different), pipe.length, pipe.text_encoder.config.hidden_size),
        lambda: (pipe.encode_texts(different[i : i + BATCH]) for i in range(0, len(different), BATCH)),
    )
    return Encoded(np.asarray(rows), latents, embeddings, np.array([number[text] for text in chosen]))
