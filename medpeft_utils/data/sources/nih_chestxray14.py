"""NIH ChestX-ray14: frontal chest radiographs with up to 14 findings each, split by the lists of Lian et al. 2024.

`nih_chestxray14` wants every listed image. `nih_chestxray14_subset` takes those of them that are there, and says how
many: for trying the study on a part of the download. Splits and 10 % list are the authors' own, cut to these images.
`nih_chestxray14_samples` takes those that several folders hold, nih_chestxray14* below the one that is named.
Sex, age and view come from the table of the NIH, where it lies with the images.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import lists
from medpeft_utils.data.cards import DataCard, part_of
from medpeft_utils.data.files import images_below, read_table, require_columns, require_known
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
    subgroups=('sex', 'age', 'view'),
)
FEW = 'what the 1 % list leaves of it is too few images to train on'
SUBSET = part_of(CARD, FEW)
SAMPLES = part_of(
    CARD,
    FEW,
    'samples can differ in how often a finding occurs (Pneumonia: 47 % of one of ours, 0.4 % of the other) and in '
    'resolution, so that sharpness would tell the label: all images are reduced to 64 px first; what tells one sample '
    'from another besides still tells part of the label, so that a finding is to be looked at within a sample too',
    reduced_to=64,
    subgroups=(*CARD.subgroups, 'sample'),
    name='nih_chestxray14_samples',
    label='NIH ChestX-ray14 (samples)',
    how_to_obtain=f'folders nih_chestxray14* beside each other, each as {CARD.name}_subset; name the folder above them',
)
DATA_ENTRY = 'Data_Entry_2017*.csv'
# Columns of the NIH's table, and what they are called here
COLUMNS = {'patient gender': 'sex', 'patient age': 'age', 'view position': 'view'}


def patient_of(path: str) -> str:
    """The patient of '00000231_013.png'."""
    return path.rpartition('/')[2].partition('_')[0]


def _entries(root: Path) -> pd.DataFrame:
    """Sex, age and view by the name of the image, from the NIH's table where it is there; no rows where it is not."""
    paths = sorted(root.rglob(DATA_ENTRY))
    if not paths:
        return pd.DataFrame()
    table = read_table(paths[0])
    require_columns(table, ('image index', *COLUMNS), paths[0])
    entries = table.drop_duplicates('image index').set_index('image index')[[*COLUMNS]].rename(columns=COLUMNS)
    age = pd.to_numeric(entries['age'].str.rstrip('Y'), errors='coerce')
    return entries.assign(age=age.where(age <= 120))  # 16 patients are said to be 148 to 414 years old


def _with_entries(manifest: pd.DataFrame, root: Path) -> pd.DataFrame:
    entries = _entries(root)
    names = [path.rpartition('/')[2] for path in manifest['image'].tolist()]
    require_known(entries.index, names, root / DATA_ENTRY)
    for column in entries:
        known = entries[column].reindex(names).to_numpy()
        manifest[column] = known if column == 'age' else pd.Series(known).fillna('').to_numpy()
    return manifest


def _images(folder: Path) -> dict[str, str]:
    """Name to path of every image below a folder. Raises BadInput where a name is there twice."""
    found: dict[str, str] = {}
    for path in images_below(folder):
        name = path.rpartition('/')[2]
        if name in found:
            raise BadInput(f'{folder}: {name!r} is there twice, as {found[name]!r} and {path!r}; remove one of them')
        found[name] = path
    return found


def _listed(root: Path, card: DataCard, found: dict[str, str]) -> tuple[pd.DataFrame, Path, int]:
    """The lists with the `image` of each row ('' where there is none), their folder, and the number of other files."""
    folder = lists.find(root, LISTS, card)
    table = lists.whole(folder, card.classes)
    names = [path.rpartition('/')[2] for path in table['path'].tolist()]
    return table.assign(image=[found.get(name, '') for name in names]), folder, len(set(found) - set(names))


def _require_folder(folder: Path, card: DataCard) -> Path:
    if not os.path.isdir(folder):
        raise BadInput(f'{folder}: no such folder; {card.label}: {card.how_to_obtain}')
    return folder


@register(CARD, lambda folder: _require_folder(folder, CARD), with_stand_in=True)
def read(root: Path) -> pd.DataFrame:
    """One row a listed image, found by its name anywhere below the folder; the group is the patient."""
    table, folder, unlisted = _listed(root, CARD, _images(root))
    hint = f'unpack all of the download there, or use {SUBSET.name}, which takes the images that are there'
    lists.require_files(table, root, folder, hint)
    manifest = _with_entries(lists.manifest(table, patient_of), root)
    manifest.attrs['notes'] = {'image files that no list names': unlisted, **_spanning(manifest)}
    return manifest


def _part(root: Path, card: DataCard, found: dict[str, str]) -> pd.DataFrame:
    """The listed images that are there; how many of each list are not is logged and noted."""
    table, folder, unlisted = _listed(root, card, found)
    there = table[table['image'] != '']
    if there.empty:
        raise BadInput(f'{root}: none of the {len(table):,} listed images is below it; {card.how_to_obtain}')
    lists.require_shares(table, there, folder)
    manifest = _with_entries(lists.manifest(there, patient_of), root)
    kept = {split: int((there['split'] == split).sum()) for split in lists.FILES}
    said = ', '.join(f'{count:,} of {(table["split"] == split).sum():,} {split}' for split, count in kept.items())
    log.warning('%s: a subset of NIH ChestX-ray14: %s images', root, said)
    manifest.attrs['notes'] = {
        'listed images that are not there': len(table) - len(there),
        **{f'images of the {part} % list': int(lists.in_share(there, part).sum()) for part in lists.SHARES},
        'image files that no list names': unlisted,
        **_spanning(manifest),
    }
    return manifest


@register(SUBSET, lambda folder: _require_folder(folder, SUBSET))
def read_subset(root: Path) -> pd.DataFrame:
    """The listed images that are in one folder."""
    return _part(root, SUBSET, _images(root))


@register(SAMPLES, lambda folder: _require_folder(folder, SAMPLES))
def read_samples(root: Path) -> pd.DataFrame:
    """The listed images of all folders nih_chestxray14*; one that several hold is taken where its file is largest."""
    folders = sorted(path for path in root.glob(f'{CARD.name}*') if path.is_dir())
    if not folders:
        raise BadInput(f'{root}: holds no folder {CARD.name}*; {SAMPLES.how_to_obtain}')
    found: dict[str, str] = {}
    twice = 0
    for folder in folders:
        for name, path in _images(folder).items():
            path = f'{folder.name}/{path}'
            twice += name in found
            if name not in found or (root / path).stat().st_size > (root / found[name]).stat().st_size:
                found[name] = path
    manifest = _part(root, SAMPLES, found)
    manifest['sample'] = manifest['image'].str.partition('/')[0]
    manifest.attrs['notes'] |= {'images that several samples hold, taken once': twice}
    return manifest


def _spanning(manifest: pd.DataFrame) -> dict[str, int]:
    return {'patients in two splits': lists.spanning(manifest)}
