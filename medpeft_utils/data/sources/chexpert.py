"""CheXpert: chest radiographs with the five findings of its competition, split by the lists of Lian et al. 2024.

The training labels were read from reports by a program; some are uncertain (-1). What becomes of them is a policy, and
each policy is a dataset: `chexpert` does as the lists do (below), `chexpert_zeros` takes them for absent (U-Zeros of
Irvin et al. 2019, arXiv:1901.07031, Sec. 4), `chexpert_ones` for present (U-Ones), and `chexpert_ignore` leaves out of
the training set the images that have one (U-Ignore leaves out the single label; labels here are 0 or 1). A finding that
is not mentioned is absent.

The lists' own policy is not published. Their prevalences tell it: Atelectasis 30.1, Cardiomegaly 11.9, Consolidation
6.6, Edema 29.0 and Pleural Effusion 43.6 % of the 10 % list, where `train.csv` has 14.9, 12.1, 6.6, 23.4 and 38.6 %
certain positives and 15.1, 3.6, 12.4, 5.8 and 5.2 % uncertain (quoted from memory, unchecked): uncertain
is 1 for Atelectasis, Edema and Pleural Effusion, and 0 for Cardiomegaly and Consolidation. Where listed labels
differ from this all the same, the lists count.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import lists
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.files import read_table, require_columns
from medpeft_utils.data.sources import locate, register

log = logging.getLogger(__name__)
LISTS = 'CheXpert'  # the authors' name of the folder of lists
TABLE = 'train.csv'
CLASSES = ('Atelectasis', 'Cardiomegaly', 'Consolidation', 'Edema', 'Pleural Effusion')
# What an uncertain label becomes, by finding; None leaves the image out of the training set.
POLICIES: dict[str, tuple[int | None, ...]] = {
    'chexpert': (1, 0, 0, 1, 1),
    'chexpert_zeros': (0,) * 5,
    'chexpert_ones': (1,) * 5,
    'chexpert_ignore': (None,) * 5,
}
WORDS = {
    'chexpert_zeros': 'uncertain labels as absent',
    'chexpert_ones': 'uncertain labels as present',
    'chexpert_ignore': 'no training image with an uncertain label',
}

CARD = DataCard(
    name='chexpert',
    label='CheXpert',
    task='five findings, several at once or none',
    modality='frontal and lateral chest radiographs',
    classes=CLASSES,
    published_images=224316,
    group='patient',
    source='Irvin et al. 2019, CheXpert, AAAI (arXiv:1901.07031)',
    how_to_obtain=(
        'register at https://stanfordmlgroup.github.io/competitions/chexpert and download CheXpert-v1.0-small: folders '
        'train and valid beside train.csv; put the test images (a folder test, from '
        'https://stanfordaimi.azurewebsites.net) beside them, and the lists of '
        f'{LISTS} from {lists.WHERE}'
    ),
    licence='Stanford University School of Medicine CheXpert Dataset Research Use Agreement',
    known_faults=(
        'training labels were read from reports by a program, validation and test labels by radiologists; prevalences '
        'differ between the splits accordingly',
        'the 100 % list of Lian et al. is not published; it is made here of train.csv',
        'the 1 % list is no part of the 10 % list (237 of 2,234 images are)',
    ),
    multi_label=True,
    subgroups=('sex', 'age', 'view'),
)


def patient_of(path: str) -> str:
    """The patient of 'CheXpert-v1.0-small/train/patient08465/study1/view2_lateral.jpg'."""
    return next((part for part in path.split('/') if part.startswith('patient')), path)


def _below(path: str) -> str:
    """The path below the folder of the download, whatever the folder is called: 'train/patient08465/study1/…'.

    The download comes in two sizes, CheXpert-v1.0 and CheXpert-v1.0-small, whose lists differ in this name alone.
    """
    parts = path.split('/')
    patient = next((i for i, part in enumerate(parts) if part.startswith('patient')), 2)
    return '/'.join(parts[max(patient - 1, 0) :])


def certain(values: pd.DataFrame, policy: tuple[int | None, ...], where: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels [M, L] of 0 and 1 of the table's text, and which rows [M] the policy keeps.

    Raises BadInput for a value other than 1, 0, -1 or nothing.
    """
    labels = values.replace('', '0').apply(pd.to_numeric, errors='coerce').to_numpy(dtype=float, copy=True)
    wrong = np.argwhere(~np.isin(labels, (-1, 0, 1)))
    if len(wrong):
        row, column = wrong[0]
        found = values.iat[row, column]
        raise BadInput(f'{where} line {row + 2}: {values.columns[column]!r} is {found!r}, not 1, 0, -1 or nothing')
    uncertain, keep = labels == -1, np.ones(len(labels), dtype=bool)
    for column, becomes in enumerate(policy):
        if becomes is None:
            keep &= ~uncertain[:, column]
        else:
            labels[uncertain[:, column], column] = becomes
    return np.where(labels == -1, 0, labels).astype(np.uint8), keep


def _training(root: Path, policy: tuple[int | None, ...]) -> tuple[pd.DataFrame, int]:
    """The training images of train.csv (`path`, `labels`, `line`), and how many the policy leaves out."""
    where = root / TABLE
    table = read_table(where)
    columns = [name.lower() for name in CLASSES]
    require_columns(table, ('path', *columns), where)
    labels, keep = certain(table[columns], policy, where)
    words = [' '.join(map(str, row)) for row in labels.tolist()]
    frame = pd.DataFrame({'path': table['path'].map(_below), 'labels': words, 'line': np.arange(2, len(table) + 2)})
    return frame[keep].reset_index(drop=True), int((~keep).sum())


def _read_list(folder: Path, name: str) -> pd.DataFrame:
    listed = lists.read(folder / name, CLASSES)
    return listed.assign(path=listed['path'].map(_below), list=name)


def _with_lists(train: pd.DataFrame, folder: Path, name: str) -> tuple[pd.DataFrame, dict[str, int]]:
    """The training images with their `share`, and counts to note; for `chexpert` with the labels of the lists.

    Raises BadInput for a list none of whose images is there: it is that of another download.
    """
    own = dict(zip(train['path'], train['labels'], strict=True))
    shares: dict[str, list[str]] = {}
    labels_of: dict[str, str] = {}
    for percentage, file in lists.SHARES.items():
        listed = _read_list(folder, file)
        if not own.keys() & set(listed['path']):
            raise BadInput(
                f'{folder / file}: none of its {len(listed):,} images is in {TABLE} ({listed["path"].iloc[0]!r} '
                f'against {train["path"].iloc[0]!r}); take the lists of this download'
            )
        labels_of |= dict(zip(listed['path'], listed['labels'], strict=True))
        for path in listed['path'].tolist():
            shares.setdefault(path, []).append(percentage)
    missing = len(labels_of.keys() - own.keys())
    notes = {'images of the 1 % and 10 % lists that the training set does not have': missing}
    if name == CARD.name:
        differing = sum(own.get(path, labels) != labels for path, labels in labels_of.items())
        notes['listed images whose labels differ from train.csv under the policy; the lists count'] = differing
        train = train.assign(labels=[labels_of.get(path, labels) for path, labels in own.items()])
    share = [' '.join(shares.get(path, ())) for path in own]
    return train.assign(split='train', list=TABLE, share=share), notes


def _people(root: Path) -> pd.DataFrame:
    """Sex, age and view by the path of an image, from the tables of the download that are there."""
    parts = []
    for path in sorted(root.glob('*.csv')):
        table = read_table(path)
        if 'path' not in table:
            continue
        known = pd.DataFrame(index=table['path'].map(_below))
        known['sex'] = table.get('sex', pd.Series('', table.index)).to_numpy()
        known['age'] = pd.to_numeric(table.get('age', pd.Series('', table.index)), errors='coerce').to_numpy()
        view = [table.get(name, pd.Series('', table.index)) for name in ('frontal/lateral', 'ap/pa')]
        known['view'] = (view[0] + ' ' + view[1]).str.strip().to_numpy()
        parts.append(known)
    people = pd.concat(parts)
    return people[~people.index.duplicated()]


def _read(root: Path, card: DataCard) -> pd.DataFrame:
    folder = lists.find(root, LISTS, card)
    train, left_out = _training(root, POLICIES[card.name])
    train, notes = _with_lists(train, folder, card.name)
    others = [_read_list(folder, lists.FILES[split]).assign(split=split, share='') for split in ('validation', 'test')]
    table = pd.concat([train, *others], ignore_index=True)
    table['image'] = [path if (root / path).is_file() else '' for path in table['path'].tolist()]
    where = root if table.loc[table['image'] == '', 'list'].head(1).eq(TABLE).any() else folder
    lists.require_files(table, root, where, 'unpack CheXpert-v1.0-small there, with its test images in a folder test')
    manifest = lists.manifest(table, patient_of)
    people = _people(root).reindex(manifest['image'])
    for column in people:
        values = people[column].to_numpy()
        manifest[column] = values if column == 'age' else pd.Series(values).fillna('').to_numpy()
    manifest.attrs['notes'] = {'training images left out by the policy': left_out, **notes}
    log.info('%s: %s', card.label, manifest.attrs['notes'])
    return manifest


def _register(name: str) -> None:
    card = CARD if name == CARD.name else dataclasses.replace(CARD, name=name, label=f'CheXpert ({WORDS[name]})')
    add = register(card, root_of=lambda folder: locate(folder, TABLE, card), with_stand_in=name == CARD.name)
    add(lambda root: _read(root, card))


for _name in POLICIES:
    _register(_name)
