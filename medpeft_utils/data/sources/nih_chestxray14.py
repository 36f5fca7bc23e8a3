"""NIH ChestX-ray14: frontal chest radiographs with up to 14 findings each, split by the lists of Lian et al. 2024.

`nih_chestxray14` wants every listed image. `nih_chestxray14_subset` takes those of them that are there, and says how
many: for trying the study on a part of the download. Splits and 10 % list are the authors' own, cut to these images.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import lists
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.files import images_below
from medpeft_utils.data.sources import register

log = logging.getLogger(__name__)
LISTS = 'NIH_ChestX-ray'  # the authors' name of the folder of lists

CARD = DataCard(
    name='nih_chestxray14',
    label='NIH ChestX-ray14',
    task='14 findings, several at once or none',
    modality='frontal chest radiographs',
    classes=(
        *('Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia', 'Pneumothorax'),
        *('Consolidation', 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening', 'Hernia'),
    ),
    counts={
        **{'Atelectasis': 11535, 'Cardiomegaly': 2772, 'Effusion': 13307, 'Infiltration': 19870, 'Mass': 5746},
        **{'Nodule': 6323, 'Pneumonia': 1353, 'Pneumothorax': 5298, 'Consolidation': 4667, 'Edema': 2303},
        **{'Emphysema': 2516, 'Fibrosis': 1686, 'Pleural_Thickening': 3385, 'Hernia': 227},
    },
    published_images=112120,
    group='patient',
    source='Wang et al. 2017, ChestX-ray8, CVPR (arXiv:1705.02315)',
    how_to_obtain=(
        'download the images from https://nihcc.app.box.com/v/ChestXray-NIHCC and unpack them into one folder (in any '
        f'folders below it), and put the lists of {LISTS} from {lists.WHERE} beside them'
    ),
    licence='free use, with a mention of the NIH Clinical Center and of the source',
    known_faults=(
        'labels were taken from reports by a program; its authors expect more than 90 % of them to be right',
        'the 1 % list of Lian et al. is no part of their 10 % list (77 of 785 images are)',
    ),
    multi_label=True,
)
SUBSET = dataclasses.replace(
    CARD,
    name='nih_chestxray14_subset',
    label='NIH ChestX-ray14 (subset)',
    counts={},
    published_images=None,
    how_to_obtain=f'as {CARD.name}; any part of its images will do',
    known_faults=(
        *CARD.known_faults,
        'a part of the set: nothing measured on it is a result on NIH ChestX-ray14, and what the 1 % list leaves of it '
        'is too few images to train on',
    ),
)


def patient_of(path: str) -> str:
    """The patient of '00000231_013.png'."""
    return path.rpartition('/')[2].partition('_')[0]


def _percent(table: pd.DataFrame, percentage: str) -> int:
    """Images of one of the smaller lists."""
    return sum(percentage in share.split() for share in table['share'].tolist())


def _listed(root: Path, card: DataCard) -> tuple[pd.DataFrame, Path, int]:
    """The lists with the `image` of each row ('' where there is none), their folder, and the number of other files."""
    if not root.is_dir():
        raise BadInput(f'{root}: no such folder; {card.label}: {card.how_to_obtain}')
    folder = lists.find(root, LISTS, card)
    table = lists.whole(folder, card.classes)
    found: dict[str, str] = {}
    for path in images_below(root):
        name = path.rpartition('/')[2]
        if name in found:
            raise BadInput(f'{root}: {name!r} is there twice, as {found[name]!r} and {path!r}; remove one of them')
        found[name] = path
    names = [path.rpartition('/')[2] for path in table['path'].tolist()]
    return table.assign(image=[found.get(name, '') for name in names]), folder, len(set(found) - set(names))


@register(CARD, with_stand_in=True)
def read(root: Path) -> pd.DataFrame:
    """One row a listed image, found by its name anywhere below the folder; the group is the patient."""
    table, folder, unlisted = _listed(root, CARD)
    hint = f'unpack all of the download there, or use {SUBSET.name}, which takes the images that are there'
    lists.require_files(table, root, folder, hint)
    manifest = lists.manifest(table, patient_of)
    manifest.attrs['notes'] = {'image files that no list names': unlisted, **_spanning(manifest)}
    return manifest


@register(SUBSET)
def read_subset(root: Path) -> pd.DataFrame:
    """One row a listed image that is there; how many of each list are not is logged and noted."""
    table, _, unlisted = _listed(root, SUBSET)
    there = table[table['image'] != '']
    if there.empty:
        raise BadInput(f'{root}: none of the {len(table):,} listed images is below it; {CARD.how_to_obtain}')
    manifest = lists.manifest(there, patient_of)
    kept = {split: int((there['split'] == split).sum()) for split in lists.FILES}
    said = ', '.join(f'{count:,} of {(table["split"] == split).sum():,} {split}' for split, count in kept.items())
    log.warning('%s: a subset of NIH ChestX-ray14: %s images', root, said)
    manifest.attrs['notes'] = {
        'listed images that are not there': len(table) - len(there),
        **{f'images of the {percentage} % list': _percent(there, percentage) for percentage in lists.SHARES},
        'image files that no list names': unlisted,
        **_spanning(manifest),
    }
    return manifest


def _spanning(manifest: pd.DataFrame) -> dict[str, int]:
    return {'patients in two splits': lists.spanning(manifest)}
