"""RSNA Pneumonia: frontal chest radiographs with or without an opacity that suggests pneumonia. The card only."""

from __future__ import annotations

from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.sources import register

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
        'folder stage_2_train_images of DICOM files beside stage_2_train_labels.csv'
    ),
    licence='terms of the competition; the radiographs are from NIH ChestX-ray14',
    known_faults=(
        'a row is a box, not an image: 30,227 rows of 26,684 patients, one image each',
        '"no pneumonia" holds normal radiographs and others without opacity; the radiographs are those of NIH '
        'ChestX-ray14, where one person can have several',
    ),
    paper_train_images=20412,
)

register(CARD, with_stand_in=True)
