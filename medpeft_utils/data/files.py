"""Listing image files and reading tables, the same way for every dataset."""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.dicom import PICTURES, SUFFIXES, holds_dicom

IMAGE_SUFFIXES = (*PICTURES, *SUFFIXES)
TABLES = ('.csv', '.tsv')
MASK_FOLDERS = (
    *('mask', 'masks', 'segmentation', 'segmentations', 'ground_truth', 'ground truth', 'groundtruth', 'gt'),
    *('annotation', 'annotations', 'labels', 'overlays'),
)
_DRAWN = (
    'masks?|seg|segmented|segmentations?|gt|ground_?truth|labels?|annotat(?:ed|ions?)|overlay|roi|contours?|'
    'superpixels|lesion|binary'
)
MASK = re.compile(rf'(?P<of>.+?)[ _.-]?(?:{_DRAWN})(?:[ _-]?\d+)?|(?:{_DRAWN})[ _.-](?P<after>.+)', re.IGNORECASE)
# What programs write into a cell that holds nothing, in small letters
NOTHING = {
    *('nan', 'na', '<na>', 'n/a', '#n/a', 'null', '(null)', '(blank)', 'nat', '\\n', '-', '--', '?', '.', '...'),
    *('#ref!', '#value!', '#div/0!', '#name?', '#num!', '#null!'),
}
SYNONYMS = {  # what others call a column
    'image': ('image path', 'image id', 'path', 'file', 'filename', 'file name', 'filepath', 'name', 'img'),
    'label': ('labels', 'class', 'class name', 'diagnosis', 'dx', 'target', 'category', 'y'),
    'text': ('caption', 'report', 'prompt', 'description', 'impression', 'findings'),
}
UNKNOWN = ('unknown', 'none', 'missing', 'not available', 'n.a.')  # not a name, whatever the case of its letters


def clean(value: str) -> str:
    """Text as it is meant: accents as one character, invisible characters out, blanks folded."""
    if value.isascii():
        return ' '.join(value.split())
    visible = ''.join(letter for letter in unicodedata.normalize('NFC', value) if unicodedata.category(letter) != 'Cf')
    return ' '.join(visible.split())


def is_nothing(value: str) -> bool:
    """Whether a cell holds what programs write for nothing; 'none' in small letters can be a class."""
    return value.lower() in NOTHING or value == 'None'


def mask_of(name: str) -> tuple[str, ...]:
    """The names of which a name without ending may be the mask: 'a' of 'a_mask', 'aSeg2' and 'mask_a'."""
    said = MASK.fullmatch(name)
    return tuple(filter(None, said.groups())) if said else ()


def plain_numbers(values: list[str]) -> list[str]:
    """Whole numbers without '.0', as programs write them where other cells are empty, if all values are numbers."""
    if not all(re.fullmatch(r'[+-]?\d+(\.\d*)?', value) for value in values if value):
        return values
    return [re.sub(r'\.0*$', '', value) for value in values]


def is_mask(path: str, images: set[str]) -> bool:
    """Whether an image is the mask of another by its name: 'a_mask.png' beside 'a.png', or in a folder of masks."""
    folder, _, name = path.rpartition('/')
    if any(part.lower() in MASK_FOLDERS for part in folder.split('/')):
        return True
    return any(f'{folder}/{of}'.lstrip('/') in images for of in mask_of(os.path.splitext(name)[0]))


def _is_image(folder: str, name: str) -> bool:
    if name.lower().endswith(IMAGE_SUFFIXES):
        return True
    suffix, path = os.path.splitext(name)[1], Path(folder, name)
    if name.upper() == 'DICOMDIR' or (suffix and not suffix[1:].isdecimal()):  # an index of a disc; another kind
        return False
    return path.is_file() and holds_dicom(path)  # as PACS export them; a pipe would be waited for


def images_below(folder: Path, left_out: Counter | None = None) -> list[str]:
    """Paths of all image files below a folder, from the folder on, with forward slashes, in alphabetical order.

    By their names: what is in a file shows when it is decoded. Hidden ones ('._1.png') are left out. Links are
    followed, but not in a circle. A name that is no UTF-8 is given with its bytes spelled out.

    Args:
        folder: to look in.
        left_out: where the endings of files that are none of images are counted.
    """

    def refused(error: OSError) -> None:
        raise BadInput(f'{error.filename}: cannot be listed ({error.strerror}); mend its permissions, or take it out')

    found = []
    for parent, folders, files in os.walk(folder, onerror=refused, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [
            name
            for name in folders
            if not name.startswith('.')
            and name != '__MACOSX'
            and not f'{real}/'.startswith(f'{os.path.realpath(os.path.join(parent, name))}/')
        ]
        below = os.path.relpath(parent, folder).replace(os.sep, '/')
        prefix = '' if below == '.' else f'{below}/'
        for name in (name for name in files if name[0] != '.'):
            if _is_image(parent, name):
                found.append((prefix + name).encode(errors='backslashreplace').decode())
            elif left_out is not None:
                left_out[os.path.splitext(name)[1].lower() or 'no suffix'] += 1
    return sorted(found)


def _rows(path: Path) -> list[list[str]]:
    """The cells of a table. Raises BadInput where it is not text, or quotes do not match."""
    try:
        with path.open(encoding='utf-8-sig', newline='') as file:
            content = file.read()
        if '\0' in content:
            raise BadInput(f'{path}: holds zero bytes, so that it is no text, or damaged; save it as "CSV UTF-8"')
        first, _, rest = content.partition('\n')
        said = re.fullmatch(r'sep=(.)\s*', first)  # as Excel writes it
        separator, content = (said[1], rest) if said else (max(',;\t|', key=first.count), content)
        return [row for row in csv.reader(io.StringIO(content, newline=''), delimiter=separator, strict=True) if row]
    except UnicodeDecodeError as error:
        raise BadInput(f'{path}: not text in UTF-8 ({error.reason}); save it as "CSV UTF-8"') from error
    except OSError as error:
        raise BadInput(f'{path}: cannot be read ({error.strerror or error}); mend its permissions') from error
    except csv.Error as error:
        raise BadInput(f'{path}: not a CSV table ({error}); the first line must name its columns') from error


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file as text: no value is taken for a number or for missing, blanks around it are cut.

    Comma, semicolon or tab, whichever the first line has most of. Column names in lower case.
    Raises BadInput where it is not there, empty, not a CSV in UTF-8, or its rows do not fit its columns.
    """
    if not os.path.isfile(path):
        raise BadInput(f'{path}: no such file')
    with path.open('rb') as file:
        packed = {b'PK': 'an Excel workbook or other archive', b'\x1f\x8b': 'compressed'}.get(file.read(2))
    if packed:
        raise BadInput(f'{path}: is {packed} in spite of its name; save or unpack it as "CSV UTF-8"')
    rows = _rows(path)
    if not rows:
        raise BadInput(f'{path}: not a CSV table (it is empty); the first line must name its columns')
    names = [clean(name).lower() for name in rows[0]]
    while names and not names[-1]:  # commas at the end of the header
        names.pop()
    names = [name or f'unnamed: {number}' for number, name in enumerate(names)]
    for name, count in Counter(names).items():
        if count > 1:
            said = ' and '.join(repr(cell.strip()) for cell in rows[0] if clean(cell).lower() == name)
            raise BadInput(f'{path}: columns {said} have one name; rename or take out all but one')
    cells = []
    for number, row in enumerate(rows[1:], start=2):
        if any(cell.strip() for cell in row[len(names) :]):
            raise BadInput(
                f'{path}: row {number} has {len(row)} cells and the header {len(names)}, so that columns are shifted; '
                'put cells that hold the separator into quotes'
            )
        cells.append([cell.strip() for cell in row[: len(names)]] + [''] * (len(names) - len(row)))
    return pd.DataFrame(cells, columns=names, dtype=str)


def require_columns(table: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Raise BadInput where the table lacks a column."""
    for column in columns:
        if column not in table:
            meant = [name for name in table.columns if name.replace('_', ' ') in SYNONYMS.get(column, ())]
            close = meant or difflib.get_close_matches(column, list(table.columns), n=1)
            hint = f'; is it {close[0]!r}?' if close else ''
            raise BadInput(f'{path}: has no column {column!r}, only {", ".join(table.columns)}{hint}')


def require_known(names: Iterable[str], known: Iterable[str], path: Path) -> None:
    """Raise BadInput where a table beside a dataset names none of its images: it is that of another one."""
    names = list(names)
    if names and not set(names) & set(known):
        raise BadInput(
            f'{path}: none of its {len(names):,} images is in this download ({names[0]!r}, for example); put that of '
            'the download there, or take it out to work without'
        )
