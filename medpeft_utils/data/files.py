"""Listing image files and reading tables, the same way for every dataset."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.pgm', '.ppm', '.dcm', '.dicom')


def images_below(folder: Path) -> list[str]:
    """Paths of all image files below a folder, from the folder on, with forward slashes, in alphabetical order.

    By their names: what is in a file shows when it is decoded. Hidden ones ('._1.png') are left out.
    """
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith('.') and name != '__MACOSX']
        below = os.path.relpath(parent, folder).replace(os.sep, '/')
        prefix = '' if below == '.' else f'{below}/'
        found += [prefix + name for name in files if name.lower().endswith(IMAGE_SUFFIXES) and name[0] != '.']
    return sorted(found)


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file as text: no value is taken for a number or for missing, blanks around it are cut.

    Comma, semicolon or tab, whichever the first line has most of. Column names in lower case.
    Raises BadInput where it is not there, empty, or not a CSV in UTF-8.
    """
    if not os.path.isfile(path):
        raise BadInput(f'{path}: no such file')
    try:
        with path.open(encoding='utf-8-sig') as file:
            header = file.readline()
        separator = max(',;\t', key=header.count)
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise BadInput(f'{path}: not text in UTF-8 ({error.reason}); save it as "CSV UTF-8"') from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise BadInput(f'{path}: not a CSV table ({error}); the first line must name its columns') from error
    table.columns = [str(column).strip().lower() for column in table.columns]
    return table.apply(lambda column: column.str.strip())


def require_columns(table: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Raise BadInput where the table lacks a column."""
    for column in columns:
        if column not in table:
            close = difflib.get_close_matches(column, list(table.columns), n=1)
            hint = f'; is it {close[0]!r}?' if close else ''
            raise BadInput(f'{path}: has no column {column!r}, only {", ".join(table.columns)}{hint}')
