"""The manifest of pairs: a table with a row a pair, checked before anything is made of it.

Columns: image (path below the set's folder, forward slashes), text, group (patient: what stays in one split), split
('train', 'validation', 'test', or '' where splits are to be made), columns `finding:NAME` (1 there, 0 not there, -1 or
'' unknown), then the set's own. An optional column `stratum` is spread evenly where splits are made.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import splits
from medpeft_utils.data.manifest import ALIASES, grouped
from medpeft_utils.data.splits import SPLITS

COLUMNS = ('image', 'text', 'group', 'split')
FINDING = 'finding:'


def finding_columns(frame: pd.DataFrame) -> dict[str, str]:
    """The columns that hold findings, each with the finding's name."""
    return {name: name.removeprefix(FINDING).strip() for name in frame.columns if name.startswith(FINDING)}


def normalised(frame: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Paths below the root with forward slashes, blanks in texts folded, findings as -1, 0 and 1, rows by path.

    Raises BadInput where a finding is none of 1, 0, -1 and ''.
    """
    frame = frame.copy()
    for column in ('group', 'split'):
        if column not in frame:
            frame[column] = ''
    prefix = f'{root.resolve().as_posix()}/'
    paths = (posixpath.normpath(path.replace('\\', '/')) if path else '' for path in frame['image'].tolist())
    frame['image'] = [path.removeprefix(prefix) for path in paths]
    frame['text'] = [' '.join(text.split()) for text in frame['text'].tolist()]
    frame['split'] = [ALIASES.get(split.lower(), split.lower()) for split in frame['split'].tolist()]
    for column in finding_columns(frame):
        values = pd.to_numeric(frame[column].replace('', '-1'), errors='coerce')
        wrong = ~values.isin((1, 0, -1))
        if wrong.any():
            raise BadInput(
                f'column {column!r} holds {frame[column][wrong].iloc[0]!r}; give 1, 0, or nothing if unknown'
            )
        frame[column] = values.astype(np.int8)
    own = [column for column in frame if column not in COLUMNS]
    return frame[[*COLUMNS, *own]].sort_values('image', kind='stable', ignore_index=True)


def _such(values: Iterable[str]) -> str:
    """The first of the values at fault, cut to 80 characters, and how many more there are."""
    values = list(values)
    first = values[0] if len(values[0]) <= 80 else values[0][:77] + '...'
    return repr(first) + (f' and {len(values) - 1:,} more' if len(values) > 1 else '')


def _row_faults(frame: pd.DataFrame, root: Path) -> list[str]:
    """What is wrong with single rows: half a pair, a path, listed twice."""
    faults, image, text = [], frame['image'], frame['text']
    if ((image == '') & (text == '')).any():
        faults.append('a row has neither image nor text; leave it out')
    alone = text[(image == '') & (text != '')]
    if len(alone):
        faults.append(f'a text without image: {_such(alone)}; name its image or leave the row out')
    silent = image[(text == '') & (image != '')]
    if len(silent):
        faults.append(f'an image without text: {_such(silent)}; fill the text in or leave the row out')
    twice = frame[image.duplicated(keep=False) & (image != '')]
    if len(twice):
        texts = twice.groupby('image')['text'].nunique()
        several = texts[texts > 1].index
        said = f'two texts for {_such(several)}' if len(several) else f'{_such(texts.index)} is listed twice'
        faults.append(f'{said}; leave one row for each image')
    outside = [path for path in image.tolist() if path.startswith(('/', '../')) or path == '..' or path[1:2] == ':']
    if outside:
        faults.append(f'{_such(outside)} lies outside {root}; paths start from that folder and stay in it')
    missing = [path for path in set(image.tolist()) - {'', *outside} if not os.path.isfile(f'{root}/{path}')]
    if missing:
        faults.append(f'no file {_such(sorted(missing))} below {root}; paths start from that folder')
    return faults


def _split_faults(frame: pd.DataFrame) -> list[str]:
    """What is wrong with given splits: names, gaps, patients in two of them, one of them empty."""
    faults, split = [], frame['split']
    if (split == '').all():
        return faults
    unknown = sorted(set(split.tolist()) - {*SPLITS, ''})
    if unknown:
        such = _such(frame['image'][split == unknown[0]])
        faults.append(f'unknown split {unknown[0]!r} of {such}; known: {", ".join(SPLITS)}')
    if (split == '').any():
        such = _such(frame['image'][split == ''])
        faults.append(f'no split for {such}, though other rows have one; give all or none')
    counts = frame[frame['group'] != ''].groupby('group')['split'].nunique()
    spanning = counts[counts > 1].index
    if len(spanning):
        faults.append(
            f'patient (group) {_such(spanning)} is in several splits, so that tested patients would be known from '
            'training; put each into one split, or leave the split column out to have splits made'
        )
    empty = [name for name in SPLITS if not (split == name).any()]
    if empty and not faults:
        faults.append(f'no pair in split {_such(empty)}; move some, or leave the split column out to have splits made')
    return faults


def faults(frame: pd.DataFrame, root: Path) -> list[str]:
    """Everything that is wrong with a normalised manifest, one message a kind of fault; empty where nothing is."""
    if frame.empty:
        return ['holds no pair of an image and a text']
    return _row_faults(frame, root) or _split_faults(frame)


def checked(frame: pd.DataFrame, root: Path, where: str) -> pd.DataFrame:
    """The manifest, where nothing is wrong with it. Raises BadInput with the first fault."""
    found = faults(frame, root)
    if found:
        more = f' ({len(found) - 1} more kind(s) of fault: medpeft pairs check)' if len(found) > 1 else ''
        raise BadInput(f'{where}: {found[0]}{more}')
    return frame


def with_splits(frame: pd.DataFrame, seed: int, where: str) -> pd.DataFrame:
    """Given splits as they are, else splits made by patient; a pair without a patient is one of its own.

    Where splits are made, files that are the same under two names (column `sha256`) stay together.
    """
    if (frame['split'] != '').any():
        return frame.assign(group=np.where(frame['group'] == '', frame['image'], frame['group']))
    frame = grouped(frame)
    strata = frame.get('stratum', pd.Series('pair', frame.index)).to_numpy(dtype=str)
    try:
        made = splits.assign(strata, frame['group'].to_numpy(dtype=str), seed)
    except BadInput as error:
        raise BadInput(f'{where}: splits by patient cannot be made: {error}') from error
    return frame.assign(split=made)


def split_hash(frame: pd.DataFrame) -> str:
    """16 hex digits of the images with their texts, groups and splits; the same on every machine."""
    rows = zip(*(frame[column].tolist() for column in COLUMNS), strict=True)
    return hashlib.sha256('\n'.join('\t'.join(row) for row in rows).encode()).hexdigest()[:16]
