"""BreastUS (BUSI): breast ultrasound, benign, malignant or normal."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.files import images_below
from medpeft_utils.data.sources import locate, register

MASK = re.compile(r'_mask(_\d+)?\.\w+$')  # 'benign (4)_mask.png', 'benign (4)_mask_1.png'

CARD = DataCard(
    name='breastus',
    label='BreastUS',
    task='benign lesion, malignant lesion or normal breast',
    modality='B-mode breast ultrasound',
    classes=('benign', 'malignant', 'normal'),
    counts={'benign': 437, 'malignant': 210, 'normal': 133},
    group=None,
    source='Al-Dhabyani et al. 2020, Dataset of breast ultrasound images, Data in Brief 28:104863',
    how_to_obtain=(
        'download Dataset_BUSI_with_GT from https://scholar.cu.edu.eg/?q=afahmy/pages/dataset and unpack it: folders '
        "benign, malignant and normal with images such as 'benign (1).png' beside their masks"
    ),
    licence='CC BY 4.0',
    known_faults=(
        'the patient of an image is not published: 780 images of 600 women, so that one woman can be in two splits',
        'benign (433).png and malignant (145).png are the same file under two labels: kept, always in one split',
        'many near duplicates, 8 lesions under both benign and malignant, about 70 images of the axilla, and '
        'calipers or text drawn into images (Pawłowska et al. 2023, Data in Brief 48:109247)',
        'of a split by image, 35 of the 117 test images (30 %) have a near duplicate in the training images, frames of '
        'one lesion: the 144 sets of them (326 images) stay in one split here, which leaves 598 groups',
    ),
    paper_train_images=584,
    near_duplicates_together=True,
)


@register(CARD, root_of=lambda folder: locate(folder, 'benign', CARD), with_stand_in=True)
def read(root: Path) -> pd.DataFrame:
    """One row an image, masks left out; the class is the folder."""
    rows = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith('.')):
        images = [name for name in images_below(folder) if not MASK.search(name)]
        if images and folder.name not in CARD.classes:
            known = ', '.join(CARD.classes)
            raise BadInput(
                f'{folder}: holds images of class {folder.name!r}, which BreastUS does not have (its classes: '
                f'{known}); move that folder away, or give this folder itself as a dataset of your own'
            )
        rows += [(f'{folder.name}/{name}', folder.name) for name in images]
    return pd.DataFrame(rows, columns=['image', 'label']).assign(group='', split='')
