"""Datasets of one's own: a folder per class, or a CSV with columns image, label or text, and maybe group and split."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.files import IMAGE_SUFFIXES, images_below, read_table, require_columns
from medpeft_utils.data.manifest import ALIASES, COLUMNS
from medpeft_utils.data.splits import SPLITS
from medpeft_utils.data.texts import FINDING

LAYOUT = 'give one folder for each class with its images, or a CSV with columns image,label[,group][,split]'
PAIRS_LAYOUT = 'give a CSV with columns image,text[,group][,split]'


# Columns to which the manifest gives a meaning: one's own of such a name is kept as 'own share', and changes nothing.
RESERVED = ('sha256', 'near', 'share', 'labels')
MOST_SUBGROUPS, MOST_NUMBERS = 20, 150  # different values of a column that says something of a person: sex, site; age


def card_of(name: str, path: Path, labels: pd.Series | None, subgroups: tuple[str, ...] = ()) -> DataCard:
    """The card of a dataset that nobody has published.

    Its classes are the labels there are, in alphabetical order; where `labels` is None it is of images with texts.
    """
    return DataCard(
        name=name,
        label=name,
        task='text to image' if labels is None else 'as labelled',
        modality='as given',
        classes=() if labels is None else tuple(sorted(set(labels) - {''})),
        texts='as given' if labels is None else '',
        source=f'own data: {path}',
        how_to_obtain='it is there already',
        licence='as the owner says',
        subgroups=subgroups,
    )


def subgroups_of(frame: pd.DataFrame) -> tuple[str, ...]:
    """The columns by which scores can be reported apart: own ones of few values, or of numbers such as an age."""
    found = []
    for name in frame.columns.difference([*COLUMNS, 'text', *(f'own {word}' for word in RESERVED)], sort=False):
        values = frame[name][frame[name].astype(str) != '']
        numbers = pd.to_numeric(values, errors='coerce').notna().all()
        if 1 < values.nunique() <= (MOST_NUMBERS if numbers else MOST_SUBGROUPS) and not name.startswith(FINDING):
            found.append(name)
    return tuple(found)


def _class_folders(folder: Path) -> list[Path]:
    hidden = ('.', '__')
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(hidden))


def _rows_of(root: Path, folder: Path, split: str) -> list[tuple[str, str, str]]:
    rows = []
    for class_folder in _class_folders(folder):
        images = images_below(class_folder)
        if not images:
            raise BadInput(f'{class_folder}: the class folder holds no image; add some or remove the folder')
        prefix = class_folder.relative_to(root).as_posix()
        rows += [(f'{prefix}/{name}', class_folder.name, split) for name in images]
    return rows


def read_folder(root: Path) -> pd.DataFrame:
    """A folder per class, images at any depth below; folders train, validation and test above them are the splits.

    Raises BadInput where there is no class folder with images.
    """
    if not os.path.isdir(root):
        raise BadInput(f'{root}: no such folder; {LAYOUT}')
    folders = _class_folders(root)
    names = [ALIASES.get(path.name.lower(), path.name.lower()) for path in folders]
    if folders and set(names) <= set(SPLITS):
        rows = [row for path, name in zip(folders, names, strict=True) for row in _rows_of(root, path, name)]
    else:
        rows = _rows_of(root, root, '')
    if not rows:
        kinds = ', '.join(IMAGE_SUFFIXES)
        loose = len(images_below(root))
        said = f'{loose} images lie beside each other, in no class folder' if loose else f'holds no image ({kinds})'
        raise BadInput(f'{root}: {said}; {LAYOUT}')
    return pd.DataFrame(rows, columns=['image', 'label', 'split'])


def _as_on_disk(root: Path, image: str) -> str:
    """The path as its file is spelled: an accent can be one character or two, and archives differ in it."""
    if image and not os.path.exists(root / image):
        for form in ('NFC', 'NFD'):
            spelled = unicodedata.normalize(form, image)
            if os.path.exists(root / spelled):
                return spelled
    return image


def read_csv(path: Path, root: Path, with_texts: bool | None = None) -> tuple[pd.DataFrame, bool]:
    """A CSV with columns image, label or text, and optionally group, split and others, which are kept.

    Args:
        path: the file.
        root: the folder that its paths start from.
        with_texts: whether its texts are wanted; None: where it has a column `text` and none of labels.
    Returns:
        The table, and whether it is of images with texts.
    Raises:
        BadInput: a column is missing, or there is no row.
    """
    table = read_table(path)
    if with_texts is None:
        with_texts = 'text' in table and 'label' not in table
    require_columns(table, ('image', 'text' if with_texts else 'label'), path)
    if table.empty:
        raise BadInput(f'{path}: has a header and no rows; {PAIRS_LAYOUT if with_texts else LAYOUT}')
    if with_texts:  # `stratum` has a meaning of its own (`texts.py`)
        table = table.rename(columns=lambda name: name.replace('finding: ', FINDING)).drop(
            columns='stratum', errors='ignore'
        )
    table['image'] = [_as_on_disk(root, image) for image in table['image'].str.replace('\\', '/', regex=False)]
    table = table.rename(columns={name: f'own {name}' for name in RESERVED})
    own = [column for column in table if column not in COLUMNS]
    return table[[column for column in COLUMNS if column in table] + own], with_texts
