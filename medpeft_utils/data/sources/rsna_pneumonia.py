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
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.files import images_below, read_table, require_columns
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


def _persons(root: Path) -> dict[str, str]:
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


@register(CARD, root_of=lambda folder: locate(folder, TABLE, CARD), with_stand_in=True)
def read(root: Path) -> pd.DataFrame:
    """One row a radiograph of the training set, its boxes folded into one label; the group is the person."""
    table = read_table(root / TABLE)
    require_columns(table, ('patientid', 'target'), root / TABLE)
    folded = _folded(table, root / TABLE)
    stems = {name.rpartition('/')[2].rpartition('.')[0]: name for name in images_below(root)}
    missing = [name for name in folded['patientid'].tolist() if name not in stems]
    if missing:
        raise BadInput(
            f'{root / TABLE}: lists {missing[0]} and {len(missing) - 1:,} more images that are not below {root}; '
            'unpack stage_2_train_images there'
        )
    patient, persons, details = folded['patientid'], _persons(root), _details(root)
    manifest = pd.DataFrame(
        {
            'image': patient.map(stems),
            'label': folded['target'].map(lambda target: TARGETS.get(target, target)),
            'group': patient.map(lambda name: persons.get(name, name)),
            'split': '',
            'boxes': folded['boxes'],
            'detail': patient.map(lambda name: details.get(name, '')),
        }
    )
    manifest.attrs['notes'] = {
        'rows folded into the image that they are a box of': len(table) - len(folded),
        'images whose person the mapping to NIH ChestX-ray14 tells': int(patient.isin(list(persons)).sum()),
    }
    return manifest
