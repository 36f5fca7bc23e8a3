"""Chest radiographs for pre-training: synthetic ones with reports, or real ones on the user's disk.

The synthetic ones are of other patients than those of `synthetic_nih_chestxray14`, since their seed is another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cache import BLOCK, cache_root, decoded, write_whole

SEED = 1  # the stand-ins of the studies are drawn with seed 0
SYNTHETIC = 'nih_chestxray14'


@dataclass
class Radiographs:
    """What `Pretraining` trains on.

    Args:
        images: [N, S, S, 3] uint8.
        captions: R reports in words, each once.
        labels: [N] number of each image's report.
        groups: [N] patients.
        data, licence: for the card, in words.
    """

    images: np.ndarray
    captions: list[str]
    labels: np.ndarray
    groups: np.ndarray
    data: str
    licence: str

    def split(self, held_out_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers for training and for the held-out score; a patient is in one of them."""
        patients = np.random.default_rng(seed).permutation(np.unique(self.groups))
        held_out = np.isin(self.groups, patients[: round(len(patients) * held_out_share)])
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _report_numbers(reports: list[str]) -> tuple[list[str], np.ndarray]:
    captions, labels = np.unique(np.asarray(reports), return_inverse=True)
    return captions.tolist(), labels.astype(np.int64)


def synthetic(count: int = 12_000, size: int = 64, cache: Path | None = None) -> Radiographs:
    """Synthetic radiographs with their reports, drawn once and kept in the data cache (`cache`)."""
    from tqdm.auto import tqdm

    from medpeft_utils.data import synthetic as drawn

    code = sorted(Path(drawn.__file__).parent.rglob('*.py'))  # other code draws others
    version = hashlib.sha256(b''.join(path.read_bytes() for path in code)).hexdigest()[:16]
    path = cache_root(cache) / 'pretraining' / f'radiographs_{count}_{size}_{version}.npz'
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = []
        for start in tqdm(range(0, count, BLOCK), desc='drawing radiographs', unit=f'x{BLOCK} images'):
            parts.append(drawn.generate(SYNTHETIC, size, SEED, indices=range(start, min(start + BLOCK, count))))
        arrays = {
            'images': np.concatenate([images for images, _, _ in parts]),
            'reports': np.concatenate([table['report'].to_numpy(dtype=str) for *_, table in parts]),
            'groups': np.concatenate([table['group'].to_numpy(dtype=str) for *_, table in parts]),
        }
        write_whole(path, lambda partial: _save(partial, arrays))
    stored = np.load(path)
    captions, labels = _report_numbers(stored['reports'].tolist())
    data = f'{count:,} synthetic radiographs with reports, {size}×{size}: pre-trained on synthetic radiographs'
    return Radiographs(
        stored['images'], captions, labels, stored['groups'], data, 'Apache-2.0, as the code that draws them'
    )


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open('wb') as file:
        np.savez(file, **arrays)


def real(folder: Path, size: int = 64) -> Radiographs:
    """The radiographs of NIH ChestX-ray14 below a folder that the authors' lists name as training images.

    Those of validation and test are left out, so no study sees its test images in pre-training. They have no
    reports: for the objective 'masked' only. Weights that are trained on them stay on the user's disk.
    """
    from medpeft_utils.data.loading import open_source

    source = open_source('nih_chestxray14_subset', folder)
    frame = source.frame[source.frame['split'] == 'train']
    if frame.empty:
        raise BadInput(f'{folder}: holds no image of the training list of NIH ChestX-ray14')
    images = np.concatenate(list(decoded(source.paths(frame), size, 'radiographs')))
    captions, labels = _report_numbers([''] * len(frame))
    data = f'{len(frame):,} training radiographs of NIH ChestX-ray14, {size}×{size}'
    return Radiographs(images, captions, labels, frame['group'].to_numpy(dtype=str), data, source.card.licence)
