"""MedMNIST v2: twelve sets of small medical images with given splits, one .npz file a set and size.

The published files are read as they are (`arrays.py`), which needs neither the medmnist package nor what it needs in
turn (scikit-image, fire). What its `info.py` (version 3.0.2) says of each file stands in `medmnist.csv`: images in each
split, classes, licence, and the MD5 of the file of every size, against which a file is checked when it is first read.
The six 3D sets are left out: a volume is not an image. RetinaMNIST's five grades are taken as classes, their order
unused, and named 'grade 0' to 'grade 4'. The paper of this study does not use MedMNIST.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import arrays
from medpeft_utils.data.cache import cache_root
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.sources import register

SIZES = (28, 64, 128, 224)
SPLITS = ('train', 'val', 'test')
INFO = pd.read_csv(Path(__file__).with_name('medmnist.csv'), dtype=str).set_index('name')
MULTI_LABEL = 'multi-label, binary-class'
# For each set: its task, how the images were taken, and known faults
WORDS = {
    'pathmnist': ('nine kinds of tissue', 'histology of colorectal cancer, H&E', ()),
    'chestmnist': (
        'fourteen findings, several or none in an image',
        'frontal chest radiographs',
        ('the images and text-mined labels of NIH ChestX-ray14, cut to small squares',),
    ),
    'dermamnist': (
        'seven kinds of pigmented skin lesion',
        'dermatoscopy',
        (
            'the images of HAM10000, split by image: images of one lesion are in several of the given splits '
            '(Abhishek et al. 2025, Scientific Data 12:196); the dataset ham10000 keeps lesions together',
        ),
    ),
    'octmnist': ('three retinal diseases or none', 'optical coherence tomography of the retina', ()),
    'pneumoniamnist': ('pneumonia or none', 'chest radiographs of children', ()),
    'retinamnist': (
        'five grades of diabetic retinopathy',
        'fundus photographs',
        ('published as ordinal regression; the grades are classes without order here',),
    ),
    'breastmnist': (
        'malignant lesion, or benign lesion or normal breast',
        'B-mode breast ultrasound',
        ('the images of BreastUS (BUSI) with its duplicates, split by image',),
    ),
    'bloodmnist': ('eight kinds of blood cell', 'microscopy of single blood cells', ()),
    'tissuemnist': ('eight kinds of kidney cell', 'fluorescence microscopy of kidney cortex', ()),
    'organamnist': ('eleven organs', 'axial slices of abdominal CT', ()),
    'organcmnist': ('eleven organs', 'coronal slices of abdominal CT', ()),
    'organsmnist': ('eleven organs', 'sagittal slices of abdominal CT', ()),
}


def file_name(name: str, size: int) -> str:
    """The published name of the file of a set: pathmnist.npz at 28 pixels, pathmnist_64.npz above."""
    return f'{name}.npz' if size == 28 else f'{name}_{size}.npz'


def _card(name: str) -> DataCard:
    info, (task, modality, faults) = INFO.loc[name], WORDS[name]
    return DataCard(
        name=name,
        label=info['label'],
        task=task,
        modality=modality,
        classes=tuple(info['classes'].split('|')),
        multi_label=info['task'] == MULTI_LABEL,
        published_images=sum(int(info[split]) for split in SPLITS),
        source='Yang et al. 2023, MedMNIST v2, Scientific Data 10:41, and the set it is made of (https://medmnist.com)',
        how_to_obtain=(
            f'download {file_name(name, 28)}, or {file_name(name, 64)}, _128 or _224, from '
            'https://zenodo.org/records/10519652, and name the file, or its folder (the largest there is read)'
        ),
        licence=info['licence'],
        known_faults=(
            *faults,
            'the given splits are kept; patients are not published, so that groups cannot be checked',
        ),
    )


def _file(folder: Path, card: DataCard) -> Path:
    """The .npz file: the one given, or the largest of this set in the folder. Raises BadInput."""
    if folder.suffix == '.npz' and folder.is_file():
        return folder
    if not os.path.isdir(folder):
        raise BadInput(f'{folder}: no such file or folder; {card.label}: {card.how_to_obtain}')
    names = [file_name(card.name, size) for size in reversed(SIZES)]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise BadInput(f'{folder}: holds none of {", ".join(names)}; {card.how_to_obtain}')


def _require_published(archive: Path, name: str) -> int:
    """The size in pixels of a published file. Raises BadInput where it is another file, by its MD5.

    A file that was checked once is not read through again while its size and time stay the same.
    """
    found = archive.stat()
    state, note = [found.st_size, found.st_mtime_ns], cache_root() / 'medmnist_md5.json'
    try:
        known = json.loads(note.read_text())
    except (OSError, ValueError):
        known = {}
    key = str(archive.resolve())
    if known.get(key, [None])[:-1] == state:
        md5 = known[key][-1]
    else:
        with archive.open('rb') as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps(known | {key: [*state, md5]}))
        except OSError:
            pass  # it is read through again the next time
    sizes = [size for size in SIZES if INFO.loc[name, f'md5_{size}'] == md5]
    if not sizes:
        published = ', '.join(f'{INFO.loc[name, f"md5_{size}"]} ({size} px)' for size in SIZES)
        raise BadInput(
            f'{archive}: not a published file of {INFO.loc[name, "label"]}: its MD5 is {md5}, not one of {published}; '
            'it is cut off or another set: fetch it again'
        )
    return sizes[0]


def _rows(archive: Path, card: DataCard, split: str) -> pd.DataFrame:
    """The rows of one split. Raises BadInput where images and labels do not match."""
    labels = arrays.column(archive, f'{split}_labels')
    images = arrays.shapes(archive).get(f'{split}_images', ((0,), None))[0][0]
    width = len(card.classes) if card.multi_label else 1
    if labels.ndim != 2 or labels.shape != (images, width) or labels.max(initial=0) >= max(len(card.classes), 2):
        raise BadInput(
            f'{archive}: {images} images in {split}, and labels of shape {labels.shape} up to {labels.max(initial=0)}; '
            f'{card.label} has {width} label(s) an image and {len(card.classes)} classes'
        )
    frame = pd.DataFrame({'image': [f'{split}/{row:06d}' for row in range(images)], 'group': '', 'split': split})
    if card.multi_label:
        return frame.assign(labels=[' '.join(map(str, row)) for row in labels.astype(int).tolist()])
    return frame.assign(label=np.asarray(card.classes, dtype=object)[labels[:, 0].astype(int)])


def read(archive: Path, card: DataCard) -> pd.DataFrame:
    """One row an image of the archive, in the given splits. The root is the archive itself."""
    size = _require_published(archive, card.name)
    frame = pd.concat([_rows(archive, card, split) for split in SPLITS], ignore_index=True)
    frame.attrs['notes'] = {f'images as published at {size} x {size} pixels': len(frame)}
    return frame


def _register(card: DataCard) -> None:
    register(card, root_of=lambda folder: _file(folder, card))(lambda archive: read(archive, card))


for _name in INFO.index:
    _register(_card(_name))
