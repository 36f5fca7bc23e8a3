"""Datasets of one's own: a folder per class, or a CSV with columns image, label or text, and maybe group and split."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.files import (
    IMAGE_SUFFIXES,
    MASK_FOLDERS,
    SYNONYMS,
    TABLES,
    UNKNOWN,
    clean,
    images_below,
    is_mask,
    is_nothing,
    mask_of,
    plain_numbers,
    read_table,
    require_columns,
)
from medpeft_utils.data.manifest import COLUMNS, split_name
from medpeft_utils.data.splits import SPLITS
from medpeft_utils.data.texts import FINDING

LAYOUT = 'give one folder for each class with its images, or a CSV with columns image,label[,group][,split]'
PAIRS_LAYOUT = 'give a CSV with columns image,text[,group][,split]'


# Columns to which the manifest gives a meaning: one's own of such a name is kept as 'own share', and changes nothing.
RESERVED = ('sha256', 'near', 'share', 'labels')
MOST_SUBGROUPS, MOST_NUMBERS = 20, 150  # different values of a column that says something of a person: sex, site; age


FOLD = re.compile(r'(^|[ _-])(fold|cv|split|part|batch)[ _-]?\d+$', re.IGNORECASE)
DRAWN = re.compile('mask|segment|truth|annotat', re.IGNORECASE)  # 'benign lesion' beside 'benign' is a class
PERSON = re.compile(r'(?<![a-z])(patient|subject|person|pat|sub|case)[ _-]?(id)?[ _-]?[a-z]?\d+', re.IGNORECASE)
MADE = re.compile(
    r'(?P<of>.+)[ _.-](h?v?flip|flipped|mirror|rot|rotated?|aug|augmented|crop|noise|copy)[ _-]?\d*', re.IGNORECASE
)


def card_of(name: str, path: Path, frame: pd.DataFrame, with_texts: bool = False) -> DataCard:
    """The card of an unpublished dataset.

    Its classes are the labels there are, in alphabetical order, unless it is of images with texts; further columns are
    its subgroups.
    """
    return DataCard(
        name=name,
        label=name,
        task='text to image' if with_texts else 'as labelled',
        modality='as given',
        classes=() if with_texts else tuple(sorted(set(frame['label']) - {''})),
        texts='as given' if with_texts else '',
        source=f'own data: {path}',
        how_to_obtain='it is there already',
        licence='as the owner says',
        subgroups=subgroups_of(frame),
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
    try:
        folders = [path for path in folder.iterdir() if path.is_dir()]
    except OSError as error:
        raise BadInput(f'{folder}: cannot be listed ({error.strerror}); mend its permissions') from error
    return sorted(path for path in folders if path.name[0] != '.' and path.name not in ('__MACOSX', '__pycache__'))


def _tables(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in TABLES and path.is_file())


def _require_classes(root: Path, folders: list[Path]) -> None:
    """Raise BadInput where the folders below a root are something else than classes, by what is in them."""
    below = [{path.name for path in _class_folders(folder)} for folder in folders]
    names = [{split_name(name) for name in found} for found in below]
    first, last = folders[0].name if folders else '', folders[-1].name if folders else ''
    fault, tables = '', _tables(root)
    if len(folders) == 1 and tables:
        fault = f'has one class only ({first}); if {tables[0]!r} tells the labels, name that file'
    elif len(folders) == 1 and len(below[0]) > 1:
        fault = f'has one class only ({first}); if the classes or splits are below it, name {folders[0]}'
    elif folders and all({'train', 'test'} <= found for found in names):
        said = ', '.join(sorted(below[0]))
        fault = f'the splits ({said}) lie below {first!r} and count for nothing there; put them above the classes'
    elif folders and all(FOLD.search(path.name) for path in folders):
        fault = f'the folders {first!r} to {last!r} are parts of the data by their names, not classes; {LAYOUT}'
    if fault:
        raise BadInput(f'{root}: {fault}')


def _remarks(rows: list[tuple[str, str, str]], root: Path, folders: list[Path]) -> dict[str, int]:
    """What may be wrong with a folder of images, each with how many: same folders in all classes, persons, copies."""
    notes = {}
    below = [{path.name for path in _class_folders(folder)} for folder in folders]
    if len(below) > 1 and len(below[0]) > 1 and all(found == below[0] for found in below):
        words = f'folders that every class holds ({", ".join(sorted(below[0])[:3])}), which count for nothing'
        notes[f'{words}: if they are the classes, give a folder for each of them'] = len(below[0])
    for path in root.iterdir():
        if path.name[0] == '.' and path.is_dir() and path.name != '.ipynb_checkpoints':
            notes[f'images left out in the hidden folder {path.name!r}'] = len(images_below(path))
    persons = Counter(found[0] for image, *_ in rows if (found := PERSON.search(image)))
    several = sum(count for count in persons.values() if count > 1)
    if several:
        words = f'images of one person by their paths ({persons.most_common(1)[0][0]!r}), and nothing keeps these'
        notes[f'{words} in one split: give a CSV with a column group'] = several
    stems = {os.path.splitext(image)[0] for image, *_ in rows}
    made = [image for image in stems if (found := MADE.fullmatch(image)) and found['of'] in stems]
    if made:
        words = f'images made of others by their names ({min(made)!r}), and nothing keeps these in one split'
        notes[f'{words}: leave them out, or give a CSV with a column group'] = len(made)
    return notes


def _rows_of(root: Path, folder: Path, split: str, notes: Counter) -> list[tuple[str, str, str]]:
    """A row an image of every class folder; what is left out is counted in `notes`."""
    rows, endings = [], Counter()
    loose = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != '.']
    notes[f'images left out that lie in {folder.name!r} beside the folders per class'] += len(loose)
    class_folders = _class_folders(folder)
    names = {path.name for path in class_folders}
    for class_folder in class_folders:
        images = images_below(class_folder, endings)
        of_another = names.intersection(mask_of(class_folder.name)) and DRAWN.search(class_folder.name)
        if class_folder.name.lower() in MASK_FOLDERS or of_another:
            notes[f'images of the folder {class_folder.name!r} left out as masks'] += len(images)
            continue
        stems = {os.path.splitext(name)[0] for name in images}
        pictures = [name for name in images if not is_mask(name, stems)]
        notes['images left out as masks of others, by their names'] += len(images) - len(pictures)
        if not pictures:
            there = ', '.join(f'{count} {ending}' for ending, count in endings.most_common(3))
            raise BadInput(
                f'{class_folder}: the class folder holds no image{f" ({there})" if there else ""}; images are read '
                f'with the endings {", ".join(IMAGE_SUFFIXES)}; add some, or remove the folder'
            )
        prefix = class_folder.relative_to(root).as_posix()
        label = clean(class_folder.name.encode(errors='backslashreplace').decode())
        rows += [(f'{prefix}/{name}'.encode(errors='backslashreplace').decode(), label, split) for name in pictures]
    for ending, count in endings.items():
        notes[f'files left out whose ending is none of an image ({ending})'] += count
    return rows


def read_folder(root: Path) -> pd.DataFrame:
    """A folder per class, images at any depth below; folders train, validation and test above them are the splits.

    Raises BadInput where there is no class folder with images.
    """
    if not os.path.isdir(root):
        raise BadInput(f'{root}: no such folder; {LAYOUT}')
    folders, notes = _class_folders(root), Counter()
    names = [split_name(path.name) for path in folders]
    others = [path.name for path, name in zip(folders, names, strict=True) if name not in SPLITS]
    if others and 'train' in names and set(names) & {'validation', 'test'}:
        raise BadInput(
            f'{root}: beside the splits ({", ".join(sorted(set(names) & set(SPLITS)))}) lies {others[0]!r}'
            f'{f" and {len(others) - 1} more" if len(others) > 1 else ""}; move it away, or give a folder per class'
        )
    twice = next((name for name in SPLITS if names.count(name) > 1), '')
    if twice and not others:
        said = ' and '.join(repr(path.name) for path, name in zip(folders, names, strict=True) if name == twice)
        raise BadInput(f'{root}: {said} are both the {twice} split by their names; put their images into one folder')
    if folders and not others:
        rows = [row for path, name in zip(folders, names, strict=True) for row in _rows_of(root, path, name, notes)]
    else:
        _require_classes(root, folders)
        rows = _rows_of(root, root, '', notes)
    if not rows:
        endings = Counter()
        loose = len(images_below(root, endings))
        fault = f'{loose} images lie beside each other, in no class folder' if loose else 'holds no image'
        there = ', '.join(f'{count} {ending}' for ending, count in endings.most_common(3))
        if tables := _tables(root):
            raise BadInput(f'{root}: {fault}; if {tables[0]!r} tells their labels, name that file')
        fault += f' (there are {there}; read are {", ".join(IMAGE_SUFFIXES)})' if there and not loose else ''
        raise BadInput(f'{root}: {fault}; {LAYOUT}')
    frame = pd.DataFrame(rows, columns=['image', 'label', 'split'])
    notes.update(_remarks(rows, root, folders if others else []))
    frame.attrs['notes'] = {words: count for words, count in notes.items() if count}
    return frame


def refuse_file(path: Path) -> None:
    """Raise BadInput where a path is a file of a kind that no dataset is read from."""
    if os.path.isfile(path) and path.suffix.lower() not in TABLES:
        way = 'unpack it' if path.suffix.lower() in ('.zip', '.gz', '.tar', '.tgz', '.7z', '.rar') else 'save it as CSV'
        raise BadInput(f'{path}: a {path.suffix or "file without suffix"} is not read as a dataset; {way}; {LAYOUT}')


def _as_on_disk(root: Path, image: str) -> str:
    """The path as its file is spelled, from the root on.

    An accent can be one character or two, and archives differ in it; a backslash parts folders where no file is named
    with it; an absolute path may lead through a link.
    """
    for spelled in (image, image.replace('\\', '/')):
        for form in ('NFC', 'NFD'):
            found = unicodedata.normalize(form, spelled) if not os.path.lexists(root / spelled) else spelled
            if image and os.path.lexists(root / found):
                if os.path.isabs(found):
                    parent = os.path.realpath(os.path.dirname(found))
                    below = os.path.relpath(os.path.join(parent, os.path.basename(found)), os.path.realpath(root))
                    return found if below.startswith('..') else below
                return found
    return image.replace('\\', '/')


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
        with_texts = 'label' not in table and bool(set(table) & {'text', *SYNONYMS['text']})
    require_columns(table, ('image', 'text' if with_texts else 'label'), path)
    if table.empty:
        raise BadInput(f'{path}: has a header and no rows; {PAIRS_LAYOUT if with_texts else LAYOUT}')
    if with_texts:  # `stratum` has a meaning of its own (`texts.py`)
        table = table.rename(columns=lambda name: name.replace('finding: ', FINDING)).drop(
            columns='stratum', errors='ignore'
        )
    notes = {}
    for column in ('label', 'text', 'group', 'split'):
        if column in table:
            cells = [clean(value) for value in table[column].tolist()]
            empty = [is_nothing(value) or (column == 'group' and value.lower() in UNKNOWN) for value in cells]
            if any(empty):
                notes[f"cells of {column} taken as empty ('nan', 'NA', '-', ...: what stands for nothing)"] = sum(empty)
            cells = ['' if nothing else value for value, nothing in zip(cells, empty, strict=True)]
            table[column] = plain_numbers(cells) if column in ('label', 'group') else cells
    table['image'] = [_as_on_disk(root, image) for image in table['image'].tolist()]
    table = table.rename(columns={name: f'own {name}' for name in RESERVED})
    further = [column for column in table if column not in COLUMNS]
    table = table[[column for column in COLUMNS if column in table] + further]
    table.attrs['notes'] = notes
    return table, with_texts
