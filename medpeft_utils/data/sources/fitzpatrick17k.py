"""FitzPatrick17K: clinical photographs of skin conditions over the six Fitzpatrick skin types. The card only."""

from __future__ import annotations

from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.sources import register

CARD = DataCard(
    name='fitzpatrick17k',
    label='FitzPatrick17K',
    task='benign, malignant or non-neoplastic skin condition (the coarsest of its three label levels)',
    modality='clinical photographs of skin',
    classes=('benign', 'malignant', 'non-neoplastic'),
    counts={'benign': 2234, 'malignant': 2263, 'non-neoplastic': 12080},
    group=None,
    source='Groh et al. 2021, Evaluating deep neural networks trained on clinical images in dermatology with the '
    'Fitzpatrick 17k dataset, CVPR Workshops (arXiv:2104.09957)',
    how_to_obtain=(
        'take fitzpatrick17k.csv from https://github.com/mattgroh/fitzpatrick17k, which tells how to obtain the '
        'images; each is named after its md5hash'
    ),
    licence='annotations CC BY-NC-SA 3.0; the photographs belong to the two atlases they come from',
    known_faults=(
        '16,577 rows under 114, 9 or 3 labels; the paper trains on 5,809 images and does not say which level or rows',
        '41 rows have no link, other links are dead; 565 have no skin type',
        'about 21 % near duplicates, 22 % label errors and 4 % off-topic images (Gröger et al. 2025, CleanPatrick); '
        'no test split of its own (Abhishek et al. 2025, Scientific Data 12:196)',
    ),
    paper_train_images=5809,
)

register(CARD, with_stand_in=True)
