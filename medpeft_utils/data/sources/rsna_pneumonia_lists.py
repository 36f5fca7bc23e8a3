"""RSNA Pneumonia by the lists of Lian et al. 2024: one label an image, DICOM files, their splits.

`rsna_pneumonia` is the same challenge by its own table, in the splits of this project. The lists differ from it in
that they test on the 3,000 images of `stage_2_test_images`, whose labels the competition's download does not hold.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pandas as pd

from medpeft_utils.data import lists
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.files import require_known
from medpeft_utils.data.sources import locate, register
from medpeft_utils.data.sources.rsna_pneumonia import MAPPING, persons

LISTS = 'RSNA_Pneumonia'  # the authors' name of the folder of lists

CARD = DataCard(
    name='rsna_pneumonia_lists',
    label="RSNA Pneumonia (Lian et al.'s lists)",
    task='lung opacity that suggests pneumonia, or none',
    modality='frontal chest radiographs',
    classes=('Pneumonia',),
    published_images=29684,
    group=None,
    source='Radiological Society of North America 2018, RSNA Pneumonia Detection Challenge; Shih et al. 2019, '
    'Radiology: Artificial Intelligence 1(1):e180041; lists of Lian et al. 2024, arXiv:2401.12215',
    how_to_obtain=(
        'accept the rules of https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge and download it: '
        'folders stage_2_train_images and stage_2_test_images of DICOM files; put the lists of '
        f'{LISTS} from {lists.WHERE} beside them'
    ),
    licence='terms of the competition; the radiographs are from NIH ChestX-ray14',
    known_faults=(
        'a file name is an image, not a person: the radiographs are those of NIH ChestX-ray14, where one person can '
        'have several, and the lists do not tell: by the mapping of RSNA to NIH (of '
        f'rsna_pneumonia; {MAPPING}), 1,052 of the 1,500 validation images are of a person of the training list. Where '
        'the mapping lies beside the images groups are persons, and `folds` divide by them; rsna_pneumonia does so too',
        'the lists follow the alphabet: the 10 % list is the first 2,518 names of the training list, and validation '
        'the last names of all; since names go with the label, 33.1 % of the 10 % list are positive, 25.9 % of the '
        '1 % list, 23.0 % of the training, 14.9 % of the validation and 36.5 % of the test images',
        'the 1 % list is no part of the 10 % list (26 of 251 images are)',
    ),
    multi_label=True,
    groups_span_splits=True,
)


def patient_of(path: str) -> str:
    """The '<id>' of 'stage_2_train_images/<id>.dcm': of an image, since the lists do not tell the person."""
    return PurePosixPath(path).stem


@register(CARD, root_of=lambda folder: locate(folder, 'stage_2_train_images', CARD), with_stand_in=True)
def read(root: Path) -> pd.DataFrame:
    """One row a listed DICOM file; the group is the person where the mapping tells, else the image itself."""
    folder = lists.find(root, LISTS, CARD)
    table = lists.whole(folder, CARD.classes)
    table['image'] = [path if (root / path).is_file() else '' for path in table['path'].tolist()]
    lists.require_files(table, root, folder, 'unpack stage_2_train_images and stage_2_test_images there')
    known = persons(root)
    require_known(known, map(patient_of, table['path']), root / MAPPING)
    manifest = lists.manifest(table, lambda path: known.get(patient_of(path), patient_of(path)))
    if known:
        training = set(manifest['group'][manifest['split'] == 'train'])
        again = (manifest['split'] != 'train') & manifest['group'].isin(training)
        manifest.attrs['notes'] = {'validation and test images of a person of the training list': int(again.sum())}
    return manifest
