"""SMDG: fundus photographs of 19 public sets in one format, glaucoma or not. The card only."""

from __future__ import annotations

from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.sources import register

CARD = DataCard(
    name='smdg',
    label='SMDG',
    task='glaucoma or no glaucoma',
    modality='fundus photographs',
    classes=('no glaucoma', 'glaucoma'),
    counts={'no glaucoma': 7299, 'glaucoma': 4617},
    group='patient',
    source='Kiefer et al. 2022, Standardized Multi-Channel Dataset for Glaucoma (SMDG), IOVS 63(7); Kiefer 2023',
    how_to_obtain=(
        'download it from https://www.kaggle.com/datasets/deathtrooper/multichannel-glaucoma-benchmark-dataset: a '
        "folder full-fundus beside 'metadata - standardized.csv'"
    ),
    licence='that of each of the 19 sets it is made of',
    known_faults=(
        '133 of the 12,049 images are glaucoma suspects: neither class, not counted here',
        'the patient is known for 488 images only, so that eyes of one patient can be in two splits',
        'the source set of an image shows in its name and its look, and sets differ in their share of glaucoma',
    ),
    paper_train_images=9852,
)

register(CARD, with_stand_in=True)
