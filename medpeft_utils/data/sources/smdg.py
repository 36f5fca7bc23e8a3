"""SMDG: fundus photographs of 19 public sets in one format, glaucoma or not.

What the paper used. Dutt et al. 2024 train on 9,852 images and do not say which. Here glaucoma suspects are left out,
being neither class, which leaves 11,916 images. 9,852 is 80 % (rounded down) of 12,316, which is 400 more than these
11,916, and REFUGE has 1,200 images of which the metadata of the first release names 800: so the paper likely took 80 %
of a later release without its suspects. Therefore the share of training images is 80 % here (10 % validation, 10 %
test): 9,533 of the first release, 319 fewer than in the paper. This is inferred from the numbers alone.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cards import DataCard, part_of
from medpeft_utils.data.files import images_below, read_table, require_columns
from medpeft_utils.data.sources import locate, register

TABLE, FOLDER = 'metadata - standardized.csv', 'full-fundus'
TYPES = {'0': 'no glaucoma', '1': 'glaucoma'}  # column `types`; -1 is a suspect
SUSPECT = '-1'
SOURCE_SET = (
    r'^(BEH|CRFO|DR-HAGIS|DRISHTI-GS|EyePACS-Glaucoma|G1020|HRF|JSIEC|LES-AV|OIA-ODIR|ORIGA|PAPILA|REFUGE|sjchoi86)'
)
# What the original file name says of the patient, by subset: '1029_right.jpg', 'Glaucoma-P_10-Left Eye'
PATIENT = {'OIA-ODIR': r'^(\d+)_(?:left|right)\b', 'CRFO': r'^(.*P_\d+)-(?:Left|Right) Eye'}

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
        '133 of the 12,049 images are glaucoma suspects (types -1): neither class, left out and counted',
        'the patient of 4,941 images is known (from the metadata for PAPILA, from the original file names for OIA-ODIR '
        'and CRFO-v4) and kept together; of the other 6,975 both eyes of one patient can be in two splits',
        'ten original file names of BEH stand under both classes: each pair is kept in one split',
        'the source set of an image shows in its name and its look, and sets differ in their share of glaucoma: all '
        '3,269 images of EyePACS have it, none of the 38 of JSIEC (column `subset`)',
        'the paper trains on 9,852 images, 80 % of 12,316; the release of 2022 has 11,916 without suspects, 80 % of '
        'which are 9,533',
    ),
    paper_train_images=9852,
    shares=(0.80, 0.10, 0.10),
    subgroups=('sex', 'age', 'eye', 'subset'),
)
SUBSET = part_of(
    CARD,
    'the shares of glaucoma of the source sets differ, and with them those of sharp and of wide images: what tells the '
    'source set (column `subset`) tells part of the class',
    how_to_obtain=f'as {CARD.name}: its table, whole or cut, beside a folder full-fundus with any part of its images',
)


def _groups(table: pd.DataFrame, subset: pd.Series) -> pd.Series:
    """The patient of every row, '' where nothing tells: from the metadata, else from the original file name."""
    group = table['patient_id'] if 'patient_id' in table else pd.Series('', index=table.index)
    if 'original_name' not in table:
        return group
    for name, pattern in PATIENT.items():
        patient = table['original_name'].where(subset == name, '').str.extract(pattern)[0]
        group = group.where((group != '') | patient.isna(), f'{name}-' + patient.fillna(''))
    twice = (subset == 'BEH') & table['original_name'].where(subset == 'BEH').duplicated(keep=False)
    return group.where((group != '') | ~twice, 'BEH-' + table['original_name'])


def _files(table: pd.DataFrame, root: Path) -> pd.Series:
    """The image of every row, wherever the folder full-fundus lies; '' where there is none."""
    # optic-disc/ORIGA-1.png is the mask of full-fundus/ORIGA-1.png
    found = {name.rpartition('/')[2]: name for name in images_below(root) if FOLDER in name.split('/')[:-1]}
    return table['fundus'].str.rpartition('/')[2].map(found).fillna('')


def _table(root: Path) -> pd.DataFrame:
    """The published table with the `image` of every row."""
    table = read_table(root / TABLE)
    require_columns(table, ('names', 'types', 'fundus'), root / TABLE)
    return table.assign(image=_files(table, root))


def _manifest(table: pd.DataFrame) -> pd.DataFrame:
    """One row a fundus photograph, suspects left out; the group is the patient where anything tells of one."""
    suspect = table['types'] == SUSPECT
    table = table[~suspect]
    subset = table['names'].str.extract(SOURCE_SET)[0].fillna(table['names'].str.partition('-')[0])
    group = _groups(table, subset)
    label = table['types'].map(lambda kind: TYPES.get(kind, kind))
    manifest = pd.DataFrame({'image': table['image'], 'label': label, 'group': group, 'split': '', 'subset': subset})
    for column in ('type_expanded', 'eye', 'sex'):
        manifest[column] = table.get(column, '')
    manifest['age'] = pd.to_numeric(table['age'], errors='coerce') if 'age' in table else float('nan')  # '' is unknown
    manifest.attrs['notes'] = {
        'glaucoma suspects left out (types -1)': int(suspect.sum()),
        'images whose patient is known': int(((group != '') & ~group.str.startswith('BEH-')).sum()),
    }
    return manifest.reset_index(drop=True)


@register(CARD, root_of=lambda folder: locate(folder, TABLE, CARD), with_stand_in=True)
def read(root: Path) -> pd.DataFrame:
    """Every row of the table as `_manifest` has it. Raises BadInput where an image is missing."""
    table = _table(root)
    missing = table['fundus'][(table['image'] == '') & (table['fundus'] != '') & (table['types'] != SUSPECT)]
    if len(missing):
        name = missing.iloc[0].rpartition('/')[2]
        raise BadInput(
            f'{root / TABLE}: lists {name} and {len(missing) - 1:,} more images that are not in a folder {FOLDER} '
            f'below {root}; unpack the whole download there, or use {SUBSET.name}, which takes those that are there'
        )
    return _manifest(table)


@register(SUBSET, root_of=lambda folder: locate(folder, TABLE, SUBSET))
def read_subset(root: Path) -> pd.DataFrame:
    """The rows whose image is there; how many are not is noted."""
    table = _table(root)
    there = table[table['image'] != '']
    if there.empty:
        raise BadInput(f'{root}: none of the {len(table):,} images of {TABLE} is in a folder {FOLDER} below it')
    manifest = _manifest(there)
    manifest.attrs['notes']['images of the table that are not there'] = len(table) - len(there)
    return manifest
