"""RSNA Pneumonia: frontal chest radiographs with or without an opacity that suggests pneumonia.

What the paper used. Dutt et al. 2024 train on 20,412 images. Setting aside 15 % of the 26,684 for the test and then
10 % of the rest for validation, each rounded up as scikit-learn does, leaves 20,412 exactly; 75 % would be 20,013.
Therefore the shares are 76.5, 8.5 and 15 % here, which give 20,413. This is inferred from the number alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cards import DataCard, part_of
from medpeft_utils.data.files import images_below, read_table, require_columns, require_known
from medpeft_utils.data.sources import locate, register

TABLE = 'stage_2_train_labels.csv'
DETAILS = 'stage_2_detailed_class_info.csv'
MAPPING = 'pneumonia-challenge-dataset-mappings_2018.json'
TARGETS = {'0': 'no pneumonia', '1': 'pneumonia'}

CARD = DataCard(
    name='rsna_pneumonia',
    label='RSNA Pneumonia',
    task='lung opacity that suggests pneumonia, or none',
    modality='frontal chest radiographs',
    classes=('no pneumonia', 'pneumonia'),
    counts={'no pneumonia': 20672, 'pneumonia': 6012},
    group='patient',
    source='Radiological Society of North America 2018, RSNA Pneumonia Detection Challenge; Shih et al. 2019, '
    'Radiology: Artificial Intelligence 1(1):e180041',
    how_to_obtain=(
        'accept the rules of https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge and download it: a '
        'folder stage_2_train_images of DICOM files beside stage_2_train_labels.csv. With the mapping to NIH '
        f'ChestX-ray14 that the RSNA publishes ({MAPPING}) beside it, images of one person stay in one split'
    ),
    licence='terms of the competition; the radiographs are from NIH ChestX-ray14',
    known_faults=(
        'a row is a box, not an image: 30,227 rows of 26,684 patients, one image each',
        '"no pneumonia" holds normal radiographs and others without opacity (column `detail` where '
        f'{DETAILS} is there)',
        'a patientId names an image, not a person: the radiographs are those of NIH ChestX-ray14, where one person can '
        'have several, so that a person can be in two splits unless the mapping is there',
        'the 3,000 images of stage_2_test_images have no label in the download and are not read',
        'the paper trains on 20,412 images and does not say how it splits: 15 % aside for the test, then 10 % of the '
        'rest for validation, each rounded up, leaves these; the same shares give 20,413 here',
    ),
    paper_train_images=20412,
    shares=(0.765, 0.085, 0.15),
    subgroups=('detail',),
)
SUBSET = part_of(
    CARD,
    'the images may be those of NIH ChestX-ray14 (8 bits, PNG or JPEG) in place of the DICOM files of the competition, '
    'each under the name of its patientId',
    how_to_obtain=(
        f'as {CARD.name}, with any part of its images; or images of NIH ChestX-ray14 that are named by {MAPPING}'
    ),
)


def _folded(table: pd.DataFrame, where: Path) -> pd.DataFrame:
    """A row an image, its boxes counted. Raises BadInput where the rows of one image differ in Target."""
    kinds = table.groupby('patientid')['target'].nunique()
    several = kinds.index[kinds > 1]
    if len(several):
        more = f' and {len(several) - 1:,} more' if len(several) > 1 else ''
        raise BadInput(f'{where}: two labels for {several[0]!r}{more}; every row of one patientId has the same Target')
    folded = table.drop_duplicates('patientid').reset_index(drop=True)
    boxes = table[table['target'] == '1'].groupby('patientid').size()
    return folded.assign(boxes=folded['patientid'].map(boxes).fillna(0).astype(int))


def persons(root: Path) -> dict[str, str]:
    """patientId to the patient of NIH ChestX-ray14; {} without the mapping. Raises BadInput for another file."""
    path = root / MAPPING
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text(encoding='utf-8'))
        return {row['subset_img_id']: f'NIH-{row["img_id"].partition("_")[0]}' for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f'{path}: not a list of rows with subset_img_id and img_id ({type(error).__name__}: {error}); fetch it '
            'again, or remove it'
        ) from error


def _details(root: Path) -> dict[str, str]:
    """patientId to 'Normal', 'No Lung Opacity / Not Normal' or 'Lung Opacity', {} without the table."""
    if not (root / DETAILS).is_file():
        return {}
    table = read_table(root / DETAILS)
    require_columns(table, ('patientid', 'class'), root / DETAILS)
    return dict(zip(table['patientid'], table['class'], strict=True))


def _table(root: Path) -> tuple[pd.DataFrame, int]:
    """A row a radiograph of the training set with its `image` ('' where there is none), and the number of boxes."""
    table = read_table(root / TABLE)
    require_columns(table, ('patientid', 'target'), root / TABLE)
    stems = {name.rpartition('/')[2].rpartition('.')[0]: name for name in images_below(root)}
    folded = _folded(table, root / TABLE)
    return folded.assign(image=folded['patientid'].map(stems).fillna('')), len(table) - len(folded)


def _manifest(folded: pd.DataFrame, root: Path, notes: dict[str, int]) -> pd.DataFrame:
    """One row a radiograph, its boxes folded into one label; the group is the person."""
    patient, known, details = folded['patientid'], persons(root), _details(root)
    require_known(known, patient, root / MAPPING)
    require_known(details, patient, root / DETAILS)
    manifest = pd.DataFrame(
        {
            'image': folded['image'],
            'label': folded['target'].map(lambda target: TARGETS.get(target, target)),
            'group': patient.map(lambda name: known.get(name, name)),
            'split': '',
            'boxes': folded['boxes'],
            'detail': patient.map(lambda name: details.get(name, '')),
        }
    )
    told = int(patient.isin(list(known)).sum())
    manifest.attrs['notes'] = notes | {'images whose person the mapping to NIH ChestX-ray14 tells': told}
    return manifest.reset_index(drop=True)


@register(CARD, root_of=lambda folder: locate(folder, TABLE, CARD), with_stand_in=True)
def read(root: Path) -> pd.DataFrame:
    """Every radiograph of the table, as `_manifest` has it. Raises BadInput where one is missing."""
    folded, boxes = _table(root)
    missing = folded['patientid'][folded['image'] == '']
    if len(missing):
        raise BadInput(
            f'{root / TABLE}: lists {missing.iloc[0]} and {len(missing) - 1:,} more images that are not below {root}; '
            f'unpack stage_2_train_images there, or use {SUBSET.name}, which takes the images that are there'
        )
    return _manifest(folded, root, {'rows folded into the image that they are a box of': boxes})


@register(SUBSET, root_of=lambda folder: locate(folder, TABLE, SUBSET))
def read_subset(root: Path) -> pd.DataFrame:
    """The radiographs of the table that are there; how many are not is noted."""
    folded, boxes = _table(root)
    there = folded[folded['image'] != '']
    if there.empty:
        raise BadInput(f'{root}: none of the {len(folded):,} images of {TABLE} is below it; {SUBSET.how_to_obtain}')
    notes = {'rows folded into the image that they are a box of': boxes}
    return _manifest(there, root, notes | {'images of the table that are not there': len(folded) - len(there)})
