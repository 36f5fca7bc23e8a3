"""Tiny downloads in the published layouts of the datasets with tables, and DICOM files: seeded noise throughout."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian
from tiny_datasets import draw

from medpeft_utils.data.sources import medmnist
from medpeft_utils.data.sources.fitzpatrick17k import COLUMNS, LABELS

SECONDARY_CAPTURE = '1.2.840.10008.5.1.4.1.1.7'


def write_dicom(
    path: Path,
    pixels: np.ndarray | None,
    photometric: str = 'MONOCHROME2',
    bits: int | None = None,
    syntax: str = ExplicitVRLittleEndian,
    compressed: bytes | None = None,
    **elements,
) -> Path:
    """A DICOM file of one picture [H, W] or [H, W, 3]; without pixels where they are None."""
    found = pydicom.Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = syntax
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = SECONDARY_CAPTURE
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = '1.2.3'
    found.Modality = 'CR'
    if pixels is not None:
        found.Rows, found.Columns = pixels.shape[:2]
        found.SamplesPerPixel, found.PhotometricInterpretation = pixels[0, 0].size, photometric
        if pixels.ndim == 3:
            found.PlanarConfiguration = 0
        found.BitsAllocated = 8 * pixels.dtype.itemsize
        found.BitsStored = bits or found.BitsAllocated
        found.HighBit, found.PixelRepresentation = found.BitsStored - 1, 0
        found.PixelData = encapsulate([compressed]) if compressed else pixels.tobytes()
        found['PixelData'].is_undefined_length = bool(compressed)
    for name, value in elements.items():
        setattr(found, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path, enforce_file_format=True)
    return path


def make_fitzpatrick(folder: Path, each: int = 3) -> tuple[Path, pd.DataFrame]:
    """Every condition with `each` images, of all skin types, in the columns of fitzpatrick17k.csv."""
    rows = []
    for condition, nine, three, _ in LABELS.itertuples(index=False):
        for _ in range(each):
            number = len(rows)
            digest = hashlib.md5(f'{number}'.encode()).hexdigest()
            draw(folder / 'images' / f'{digest}.jpg', number, 'RGB', (20, 16))
            url = f'https://www.dermaamin.com/{number}.jpg'
            scale, centaur = number % 7 or -1, number % 5 + 1
            rows.append((digest, scale, centaur, condition, nine, three, '', url, f'httpwww{number}jpg.jpg'))
    table = pd.DataFrame(rows, columns=[*COLUMNS, 'url', 'url_alphanum'])
    table.to_csv(folder / 'fitzpatrick17k.csv', index=False)
    return folder, table


def make_smdg(folder: Path) -> tuple[Path, pd.DataFrame]:
    """Both eyes of patients of PAPILA, OIA-ODIR and CRFO-v4, a pair of BEH, others alone, and two suspects."""
    rows = []

    def add(name: str, kind: int, original: str, patient: str = '', eye: str = '', age: str = '') -> None:
        draw(folder / 'full-fundus' / 'full-fundus' / f'{name}.png', len(rows), 'RGB', (16, 16))
        draw(folder / 'optic-disc' / 'optic-disc' / f'{name}.png', 1)  # a mask under the same name
        rows.append((name, kind, '', 1, original, patient, f'/full-fundus/{name}.png', '', 'F', age, eye))

    for i in range(6):
        for eye in ('OD', 'OS'):
            add(f'PAPILA-{len(rows)}', i % 2, f'{i}', f'PAPILA-{i}', eye, '66')
            add(f'OIA-ODIR-TRAIN-{len(rows)}', i % 2, f'{i}_{"left" if eye == "OS" else "right"}.jpg', '', eye)
            side = 'Left Eye' if eye == 'OS' else 'Right Eye'
            add(f'CRFO-v4-{len(rows)}', i % 2, f'{("Healthy", "Glaucoma")[i % 2]}-P_{i}-{side}', '', eye)
        add(f'REFUGE1-train-{len(rows)}', i % 2, f'g{i:04d}.jpg')
    add('BEH-1', 1, 'IM000562.JPG')
    add('BEH-2', 0, 'IM000562.JPG')
    add('PAPILA-900', -1, '900', 'PAPILA-900')
    add('JSIEC-1000-1', -1, 'suspect.JPG')
    columns = 'names types type_expanded isColor original_name patient_id fundus fundus_od_seg sex age eye'
    table = pd.DataFrame(rows, columns=columns.split())
    table.to_csv(folder / 'metadata - standardized.csv', index=False)
    return folder, table


def make_rsna(folder: Path, patients: int = 24) -> tuple[Path, pd.DataFrame]:
    """One DICOM a patient; every third has an opacity, of one box or more."""
    rows = []
    for i in range(patients):
        name = f'{i:08x}-9eaa-42f4-b0ab-c148ed3241cd'
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20), dtype=np.uint8)
        write_dicom(folder / 'stage_2_train_images' / f'{name}.dcm', pixels)
        if i % 3:
            rows.append((name, '', '', '', '', 0))
        else:
            rows += [(name, 10.0 * box, 20.0, 30.0, 40.0, 1) for box in range(1 + i % 4)]
    table = pd.DataFrame(rows, columns=['patientId', 'x', 'y', 'width', 'height', 'Target'])
    table.to_csv(folder / 'stage_2_train_labels.csv', index=False)
    return folder, table


def make_medmnist(
    folder: Path, name: str, size: int, monkeypatch, counts: tuple[int, int, int] = (300, 20, 30)
) -> tuple[Path, dict[str, np.ndarray]]:
    """A file in the published layout, taken for the published one."""
    rng, info = np.random.default_rng(size), medmnist.INFO.loc[name]
    classes, several = len(info['classes'].split('|')), info['task'].startswith('multi-label')
    arrays = {}
    for split, count in zip(('train', 'val', 'test'), counts, strict=True):
        shape = (count, size, size) if name in ('chestmnist', 'pneumoniamnist') else (count, size, size, 3)
        arrays[f'{split}_images'] = rng.integers(0, 256, shape, dtype=np.uint8)
        labels = rng.integers(0, 2, (count, classes)) if several else np.arange(count)[:, None] % classes
        arrays[f'{split}_labels'] = labels.astype(np.uint8)
    path = folder / medmnist.file_name(name, size)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    known = medmnist.INFO.copy()
    known.loc[name, f'md5_{size}'] = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(medmnist, 'INFO', known)
    return path, arrays
