"""Paediatric pneumonia of Kermany et al. 2018: chest radiographs of children, pneumonia or not.

The published split has 170 person numbers in both train and test. Two datasets are therefore read from one download:

    kermany_pneumonia            splits made here, images of one person number in one of them
    kermany_pneumonia_published  the published split as it is, for comparison with results on it
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.files import images_below
from medpeft_utils.data.sources import locate, register

CLASSES = {'NORMAL': 'no pneumonia', 'PNEUMONIA': 'pneumonia'}
SPLITS = {'train': 'train', 'val': 'validation', 'test': 'test'}
# 'person100_virus_184', 'IM-0115-0001', 'NORMAL2-IM-0501-0001', 'IM-0172-0001-0001': what tells the person, and of
# pneumonia the kind
NAME = re.compile(r'(?P<person>person\d+|(?:NORMAL2-)?IM-\d+)(?:_(?P<kind>bacteria|virus)|-\d+)')

CARD = DataCard(
    name='kermany_pneumonia',
    label='Kermany pneumonia',
    task='pneumonia or none, in children',
    modality='chest radiographs of children of one to five years',
    classes=tuple(CLASSES.values()),
    counts={'no pneumonia': 1583, 'pneumonia': 4273},
    group='person number',
    source='Kermany et al. 2018, Identifying medical diagnoses and treatable diseases by image-based deep learning, '
    'Cell 172(5):1122',
    how_to_obtain=(
        'download ChestXRay2017.zip from https://data.mendeley.com/datasets/rscbjbr9sj/2 and unpack it: folders train '
        'and test (in some copies val too), in each NORMAL and PNEUMONIA'
    ),
    licence='CC BY 4.0',
    known_faults=(
        'the published split has 170 of the person numbers in both train and test; whether they are the same children '
        'is not published, and they are kept together here',
        'the 16 images of the published validation split (a copy on Kaggle has it) are too few to choose anything by',
        'normal and pneumonia files are numbered apart, so that a child that has both would not be noticed; whether a '
        'pneumonia is bacterial or viral is in the file name (column `kind`)',
    ),
)
PUBLISHED = dataclasses.replace(
    CARD,
    name='kermany_pneumonia_published',
    label='Kermany pneumonia (published split)',
    groups_span_splits=True,
    known_faults=(
        'the published split as it is: 170 of the person numbers are in both train and test, so that scores on it are '
        'too good where they are the same children',
        *CARD.known_faults[1:],
    ),
)


def _read(root: Path) -> pd.DataFrame:
    """A row an image, its split as published, its person number as `group`. Raises BadInput for other names."""
    rows = []
    for path in images_below(root):
        *folders, name = path.split('/')
        label = CLASSES.get(folders[-1]) if folders else None
        if label is None:
            continue
        said = NAME.match(name)
        if not said:
            raise BadInput(
                f'{root / path}: not a file name of {CARD.label} (person100_virus_184.jpeg, IM-0115-0001.jpeg), so '
                'that nothing tells the person; remove it, or give the folder as a dataset of your own'
            )
        split = next((SPLITS[part] for part in folders if part in SPLITS), '')
        rows.append((path, label, said['person'], split, said['kind'] or ''))
    return pd.DataFrame(rows, columns=['image', 'label', 'group', 'split', 'kind'])


@register(CARD, root_of=lambda folder: locate(folder, 'train', CARD))
def read(root: Path) -> pd.DataFrame:
    """One row an image; splits are to be made, by person number."""
    return read_published(root).rename(columns={'split': 'published_split'}).assign(split='')


@register(PUBLISHED, root_of=lambda folder: locate(folder, 'train', PUBLISHED))
def read_published(root: Path) -> pd.DataFrame:
    """One row an image, in the published split."""
    frame = _read(root)
    spanning = int((frame.groupby('group')['split'].nunique() > 1).sum())
    frame.attrs['notes'] = {'person numbers in several of the published splits': spanning}
    return frame
