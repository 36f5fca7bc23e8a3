"""The manifest: a table with a row an image, checked before anything is made of it.

Columns: image (path below the dataset's folder, forward slashes), label (class name), group (what stays in one split),
split ('train', 'validation', 'test', or '' where splits are to be made), then the dataset's own; `text` among them
where the set is of images with texts (`texts.py`), whose label is ''.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import arrays, multi_label, texts
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.decode import VERSION
from medpeft_utils.data.files import is_mask
from medpeft_utils.data.splits import SPLITS, require_everywhere

LOOKALIKES = str.maketrans(
    '\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425',
    'aeopcyxiABEKMHOPCTX',
)  # of Cyrillic
NUMBER = re.compile(r'[+-]?\d+(\.\d*)?(e[+-]?\d+)?', re.IGNORECASE)
COLUMNS = ('image', 'label', 'group', 'split')
SPLIT_NAME = re.compile(
    r'(?:(?P<train>train(?:ing)?)|(?P<validation>val(?:id(?:ation)?)?|dev)|(?P<test>test(?:ing)?))'
    r'(?:[ _-]?(?:set|split|data|dataset|folder|images|imgs))?',
    re.IGNORECASE,
)


def split_name(name: str) -> str:
    """The split that is meant ('val', 'Training set'), or the name in small letters where it means none."""
    said = SPLIT_NAME.fullmatch(name)
    return next(split for split, part in said.groupdict().items() if part) if said else name.lower()


def normalised(frame: pd.DataFrame, root: Path, content: str = 'label') -> pd.DataFrame:
    """Paths below the root with forward slashes, split names as ours, missing columns added, rows by image path.

    `content` is what the images come with, 'label' or 'text'. Raises BadInput as `texts.normalised`.
    """
    frame = texts.normalised(frame) if content == 'text' else frame.copy()
    for column in {'label', 'group', 'split'} - {content}:
        if column not in frame:
            frame[column] = ''
    prefixes = {f'{place.as_posix()}/' for place in (root.resolve(), Path(os.path.abspath(root)))}
    paths = []
    for path in frame['image'].tolist():
        if '\\' in path and not arrays.is_there(f'{root}/{path}') and '\\udc' not in path:
            path = path.replace('\\', '/')  # folders as Windows parts them
        path = posixpath.normpath(path) if path else ''
        paths.append(next((path.removeprefix(prefix) for prefix in prefixes if path.startswith(prefix)), path))
    frame['image'] = paths
    frame['split'] = [split_name(split) for split in frame['split'].tolist()]
    own = [column for column in frame if column not in COLUMNS]
    return frame[[*COLUMNS, *own]].sort_values('image', kind='stable', ignore_index=True)


def _such(values: Iterable[str]) -> str:
    """The first of the values at fault, cut to 80 characters, and how many more there are."""
    values = list(values)
    first = values[0] if len(values[0]) <= 80 else values[0][:77] + '...'
    return repr(first) + (f' and {len(values) - 1:,} more' if len(values) > 1 else '')


def is_outside(image: str) -> bool:
    """Whether a normalised path leads out of the dataset's folder."""
    return image.startswith(('/', '../')) or image == '..' or image[1:2] == ':'


def _label_faults(frame: pd.DataFrame, card: DataCard) -> list[str]:
    """What is wrong with the labels of single rows: none, or not one of the card's classes."""
    if card.multi_label:
        return multi_label.faults(frame, card.classes)
    faults, image, classes = [], frame['image'], card.classes
    empty = frame['label'] == ''
    if empty.any():
        faults.append(f'no label for {_such(image[empty])}; fill it in or leave the row out')
    for label in frame['label'][~frame['label'].isin(classes) & ~empty].unique().tolist():
        close = difflib.get_close_matches(label, classes, n=1, cutoff=0.5)
        hint = f'did you mean {close[0]!r}?' if close else f'known: {", ".join(classes)}'
        faults.append(f'unknown class {label!r} of {_such(image[frame["label"] == label])}; {hint}')
    return faults


def _plain(name: str) -> str:
    """A name as it is compared with others: without leading zeros and case, letters as they look."""
    name = unicodedata.normalize('NFKC', name).translate(LOOKALIKES).casefold()
    return name.lstrip('0') or '0' if name.isdecimal() else name


def _plain_label(name: str) -> str:
    """A label as it is compared with others: a number by its value, else without what parts words, too."""
    number = name.replace(',', '.')
    return f'{float(number) + 0:.12g}' if NUMBER.fullmatch(number) else re.sub(r'[\s_.-]+', '', _plain(name))  # no -0


def _likeness_faults(labels: pd.Series) -> list[str]:
    """Labels that are likely meant to be one class, or several: nobody has published them, so they are doubted."""
    faults, classes = [], sorted(set(labels) - {''})
    by_letters: dict[str, list[str]] = {}
    for name in classes:
        by_letters.setdefault(_plain_label(name), []).append(name)
    for alike in by_letters.values():
        if len(alike) > 1:
            counts = ' and '.join(f'{name!r} ({(labels == name).sum()} images)' for name in alike)
            faults.append(
                f"classes {counts} differ in case, blanks, '_', '-', '.', leading zeros or letters that look alike "
                'alone; spell them in one way'
            )
    named = [name for name in classes if not NUMBER.fullmatch(name.replace(',', '.'))]
    held = {name: [part.strip(' \'"[]{}()') for part in re.split(r'[|;,/+&]| and | with ', name)] for name in named}
    held = {name: [part for part in parts if part] for name, parts in held.items()}
    often = Counter(part for parts in held.values() for part in parts)
    for name, parts in held.items():
        listed = '|' in name or name.startswith('[') or any(part in classes for part in parts)
        several = len(parts) > 1 and listed and any(often[part] > 1 for part in parts)
        words = [] if several else name.split()
        if several or (len(words) > 1 and all(word in classes for word in words)):
            said = ', '.join(words or parts)
            faults.append(
                f'label {name!r} holds several ({said}), which other labels hold too; give each image one class'
            )
            break
    return faults


def _group_faults(groups: pd.Series) -> list[str]:
    """Groups that are likely one, or of which a spreadsheet has cut the digits off."""
    faults, by_letters = [], {}
    for name in sorted(set(groups) - {''}):
        by_letters.setdefault(_plain(name), []).append(name)
    alike = [names for names in by_letters.values() if len(names) > 1]
    if alike:
        said = ' and '.join(map(repr, alike[0]))
        more = f', and {len(alike) - 1:,} more such sets' if len(alike) > 1 else ''
        faults.append(f'groups {said} differ in case or leading zeros alone{more}; spell each in one way')
    short = sorted({name for name in groups if re.fullmatch(r'\d[.,]\d+E[+-]?\d+', name, re.IGNORECASE)})
    if short:
        faults.append(
            f'group {_such(short)} is a number that a spreadsheet has cut short, so that several groups look like one; '
            'write the column as text'
        )
    return faults


def _text_faults(frame: pd.DataFrame) -> list[str]:
    """Rows that are half a pair, or nothing."""
    faults, image, text = [], frame['image'], frame['text']
    if ((image == '') & (text == '')).any():
        faults.append('a row has neither image nor text; leave it out')
    alone, silent = text[(image == '') & (text != '')], image[(text == '') & (image != '')]
    if len(alone):
        faults.append(f'a text without image: {_such(alone)}; name its image or leave the row out')
    if len(silent):
        faults.append(f'an image without text: {_such(silent)}; fill the text in or leave the row out')
    return faults


def _hint(root: Path, path: str) -> str:
    """What may be meant by a path that is no file: a link to nowhere, a folder, a name without ending or folder."""
    whole = root / path
    if re.match(r'[a-z]+:/', path):
        return '; it is an address: download the images, and give their paths'
    if whole.is_symlink():
        return f' (it is a link to {os.readlink(whole)}, which is not there)'
    if whole.exists():
        return f' (it is a {"folder" if whole.is_dir() else "pipe, socket or device"})'
    try:
        below = [(folder.name, os.listdir(folder)) for folder in root.iterdir() if folder.is_dir()]
        inside = sorted([*os.listdir(root), *(f'{folder}/{name}' for folder, names in below for name in names)])
        beside = sorted(os.listdir(whole.parent)) if whole.parent.is_dir() else []
    except OSError:
        return ''
    meant = [
        *((name, 'endings are') for name in beside if os.path.splitext(name)[0] == whole.name),
        *((name, 'the case of letters is') for name in inside if name.lower() == path.lower()),
        *((name, 'folders are') for name in inside if name.partition('/')[2] == path),
        *((name, 'plain letters in place of %20 are') for name in inside if name == unquote(path) != path),
    ]
    return f' (is it {meant[0][0]!r}? {meant[0][1]} part of the path)' if meant else ''


def _row_faults(frame: pd.DataFrame, root: Path, content: str) -> list[str]:
    """What is wrong with the paths of single rows: none, listed twice, outside the folder, no file."""
    faults, image = [], frame['image']
    if content == 'text':
        faults += _text_faults(frame)
    elif (image == '').any():
        faults.append(f'{(image == "").sum()} row(s) have no image; fill it in or leave the row out')
    twice = frame[image.duplicated(keep=False) & (image != '')]
    if len(twice):
        contents = twice.groupby('image')[content].nunique()
        several = contents[contents > 1].index
        twofold = f'two {content}s for {_such(several)}' if len(several) else f'{_such(contents.index)} is listed twice'
        faults.append(f'{twofold}; leave one row for each image')
    outside = [path for path in image.tolist() if is_outside(path)]
    if outside:
        faults.append(f'{_such(outside)} lies outside {root}; paths start from that folder and stay in it')
    missing = sorted(path for path in set(image.tolist()) - {'', *outside} if not arrays.is_there(f'{root}/{path}'))
    unnamed = [path for path in missing if '\\udc' in path]
    if unnamed:
        faults.append(f'the name of {_such(unnamed)} is no UTF-8; rename the file')
    missing = [path for path in missing if '\\udc' not in path]
    if missing:
        faults.append(f'no file {_such(missing)} below {root}; paths start from that folder{_hint(root, missing[0])}')
    return faults


def _split_faults(frame: pd.DataFrame, card: DataCard, where: str) -> list[str]:
    """What is wrong with given splits: names, gaps, groups that span them, classes missing from one."""
    faults, split = [], frame['split']
    if (split == '').all():
        return faults
    unknown = sorted(set(split.tolist()) - {*SPLITS, ''})
    if unknown:
        faults.append(
            f'unknown split {unknown[0]!r} of {_such(frame["image"][split == unknown[0]])}; known: train, '
            'validation, test'
        )
    if (split == '').any():
        faults.append(
            f'no split for {_such(frame["image"][split == ""])}, though other rows have one; give all or none'
        )
    grouped = frame[frame['group'] != ''].groupby('group')['split'].nunique()
    spanning = grouped[grouped > 1].index
    if len(spanning) and not card.groups_span_splits:
        faults.append(
            f'group {_such(spanning)} spans several splits, so that test images would be known from training; put each '
            'group into one split, or leave the split column out to have splits made'
        )
    empty = [name for name in SPLITS if not (split == name).any()]
    if empty:
        faults.append(
            f'no image in {" and ".join(empty)}; move some there, or leave the split column out (or the folders of '
            'splits) to have splits made'
        )
    if not faults and not (card.multi_label or card.texts):
        try:
            require_everywhere(frame['label'].to_numpy(dtype=str), split.to_numpy(dtype=str), where)
        except BadInput as error:
            faults.append(str(error).removeprefix(f'{where}: '))
    return faults


def _class_faults(frame: pd.DataFrame, classes: tuple[str, ...]) -> list[str]:
    """What is wrong with the classes: too few of them, or of their images."""
    found = []
    if len(classes) < 2:
        found.append(f'has one class only ({", ".join(classes)}); a classification needs two or more')
    elif len(frame) < len(classes):
        found.append(f'has fewer images ({len(frame)}) than classes ({len(classes)})')
    present = set(frame['label'].tolist())
    absent = [name for name in classes if name not in present]
    if absent:
        found.append(f'no image of class {_such(absent)}; the download is not whole')
    return found


def faults(frame: pd.DataFrame, root: Path, card: DataCard, where: str) -> list[str]:
    """Everything that is wrong with a normalised manifest, one message a kind of fault; empty where nothing is."""
    if frame.empty:
        return ['holds no image']
    found = [] if card.texts else _label_faults(frame, card)
    if card.own and not card.texts:
        found += _likeness_faults(frame['label'])
    if card.own:
        found += _group_faults(frame['group'])
    if card.own and not card.texts:
        stems = {os.path.splitext(path)[0] for path in frame['image'].tolist()}
        masks = [path for path in frame['image'].tolist() if is_mask(path, stems)]
        if masks:
            found.append(f'{_such(masks)} is a mask by its name, not an image to classify; leave it out, or rename it')
    found += _row_faults(frame, root, card.content)
    if (
        not card.multi_label and not card.texts
    ):  # a finding that nobody has, and one finding only, can still be worked with
        found += _class_faults(frame, card.classes)
    return found or _split_faults(frame, card, where)


def checked(frame: pd.DataFrame, root: Path, card: DataCard, where: str) -> pd.DataFrame:
    """The manifest, where nothing is wrong with it. Raises BadInput with the first fault."""
    found = faults(frame, root, card, where)
    if found:
        more = f' ({len(found) - 1} more kind(s) of fault: medpeft data check)' if len(found) > 1 else ''
        raise BadInput(f'{where}: {found[0]}{more}')
    return frame


def source_hash(frame: pd.DataFrame, root: Path) -> str:
    """16 hex digits of the manifest with every file's size and time: another wherever the source has changed.

    Another too where the way of decoding has (`decode.VERSION`).
    """
    digest = hashlib.sha256(VERSION.encode() + frame.to_csv(index=False).encode(errors='surrogateescape'))
    for path in frame['image'].tolist():
        digest.update(b'%d %d\n' % arrays.state_of(f'{root}/{path}'))
    return digest.hexdigest()[:16]


def split_hash(frame: pd.DataFrame, content: str = 'label') -> str:
    """16 hex digits of the images with their labels or texts, groups and splits; the same on every machine."""
    rows = zip(*(frame[column].tolist() for column in ('image', content, 'group', 'split')), strict=True)
    return hashlib.sha256('\n'.join('\t'.join(row) for row in rows).encode()).hexdigest()[:16]


def duplicate_sets(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows that are the same file (column `sha256`), one table for each set of two or more."""
    twice = frame[frame['sha256'].duplicated(keep=False)]
    return [rows for _, rows in twice.groupby('sha256', sort=False)]


def grouped(frame: pd.DataFrame) -> pd.DataFrame:
    """Every image in a group: its own where none is given, and groups that share a file made one.

    Files that are the same under two names would otherwise be trained on and tested on. Where there is a column `near`
    with the number of a set of near duplicates (-1: none), groups that share a set are made one too.
    """
    groups = np.where(frame['group'] == '', frame['image'], frame['group']).astype(object)
    parent: dict[str, str] = {}

    def root_of(group: str) -> str:
        while group in parent:
            group = parent[group]
        return group

    sets = duplicate_sets(frame)
    if 'near' in frame:
        sets += [rows for _, rows in frame[frame['near'] >= 0].groupby('near')]
    for rows in sets:
        first, *others = sorted({root_of(groups[row]) for row in rows.index})
        parent.update(dict.fromkeys(others, first))
    return frame.assign(group=[root_of(group) for group in groups.tolist()] if parent else groups)
