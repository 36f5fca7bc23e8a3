"""HAM10000: dermatoscopic images of pigmented skin lesions in seven classes, several images of one lesion."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.files import images_below, read_table, require_columns
from medpeft_utils.data.sources import locate, register

TABLE = 'HAM10000_metadata.csv'

# 'dx' of the published table, in its alphabetical order
CLASSES = {
    'akiec': 'Actinic keratosis',
    'bcc': 'Basal cell carcinoma',
    'bkl': 'Benign keratosis',
    'df': 'Dermatofibroma',
    'mel': 'Melanoma',
    'nv': 'Melanocytic nevus',
    'vasc': 'Vascular lesion',
}

CARD = DataCard(
    name='ham10000',
    label='HAM10000',
    task='seven kinds of pigmented skin lesion',
    modality='dermatoscopy',
    classes=tuple(CLASSES.values()),
    counts=dict(zip(CLASSES.values(), (327, 514, 1099, 115, 1113, 6705, 142), strict=True)),
    group='lesion',
    source='Tschandl et al. 2018, The HAM10000 dataset, Scientific Data 5:180161',
    how_to_obtain=(
        'download HAM10000_images_part_1, HAM10000_images_part_2 and HAM10000_metadata from '
        'https://doi.org/10.7910/DVN/DBW86T and unpack them into one folder: two folders of ISIC_*.jpg beside '
        'HAM10000_metadata.csv'
    ),
    licence='CC BY-NC 4.0',
    known_faults=(
        '10,015 images show 7,470 lesions: a split by image puts one lesion into train and test '
        '(Abhishek et al. 2025, Scientific Data 12:196, of DermaMNIST); split by lesion here',
        'two pairs of exact duplicates, each of one lesion; the age is missing for 57 images',
    ),
    paper_train_images=7511,
    subgroups=('sex', 'age', 'localization'),
)


@register(CARD, root_of=lambda folder: locate(folder, TABLE, CARD), with_stand_in=True)
def read(root: Path) -> pd.DataFrame:
    """One row an image of the metadata, wherever below the folder it lies; the group is the lesion."""
    table = read_table(root / TABLE)
    require_columns(table, ('image_id', 'lesion_id', 'dx'), root / TABLE)
    found = {name.rpartition('/')[2].rpartition('.')[0]: name for name in images_below(root)}
    missing = [name for name in table['image_id'].tolist() if name not in found]
    if missing:
        raise BadInput(
            f'{root / TABLE}: lists {missing[0]} and {len(missing) - 1:,} more images that are not below {root}; '
            'unpack both HAM10000_images_part_1 and HAM10000_images_part_2 there'
        )
    manifest = pd.DataFrame(
        {
            'image': table['image_id'].map(found),
            'label': table['dx'].map(lambda code: CLASSES.get(code, code)),
            'group': table['lesion_id'],
            'split': '',
        }
    )
    for column in ('lesion_id', 'dx_type', 'sex', 'localization'):
        manifest[column] = table.get(column, '')
    manifest['age'] = pd.to_numeric(table['age'], errors='coerce') if 'age' in table else float('nan')  # '' is unknown
    return manifest
