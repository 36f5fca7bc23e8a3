"""Published lists of a split: text files with the path of an image and its 0/1 labels a line.

Lian et al. 2024 (arXiv:2401.12215) and Zhou et al. 2023 give `train_list.txt` (100 % of the labels), `train_10.txt`,
`train_1.txt`, `val_list.txt` and `test_list.txt` for each set. They are looked for beside the images, in a folder
`lists` there, in the folder that $MEDPEFT_LISTS names (itself, or the authors' name for the set in it), and in a folder
of all lists (DatasetsSplits or med_peft_splits) in or beside that of the images. The lists are their authors'; they
are not part of this package.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cards import DataCard

log = logging.getLogger(__name__)

FILES = {'train': 'train_list.txt', 'validation': 'val_list.txt', 'test': 'test_list.txt'}
SHARES = {'1': 'train_1.txt', '10': 'train_10.txt'}  # percentage of the labels to its list
ENVIRONMENT = 'MEDPEFT_LISTS'
FOLDERS = ('DatasetsSplits', 'med_peft_splits')  # the authors' folder of all lists, and one of another name
WHERE = 'https://github.com/RL4M/MED-PEFT (folder DatasetsSplits)'


def find(root: Path, folder_name: str, card: DataCard) -> Path:
    """The folder of the lists of a set.

    Args:
        root: folder of the images.
        folder_name: what the authors call the set, such as 'NIH_ChestX-ray'.
        card: of the set.
    Raises:
        BadInput: they are in none of the places where they are looked for.
    """
    named = os.environ.get(ENVIRONMENT)
    places = [root, root / 'lists', *((Path(named) / folder_name, Path(named)) if named else ())]
    beside = [above / name / folder_name for above in (root, root.resolve().parent) for name in FOLDERS]
    for place in [*places, *beside]:
        if (place / FILES['validation']).is_file():
            return place
    looked = ', '.join(map(str, places))
    raise BadInput(
        f'{card.label}: no {FILES["validation"]} in {looked}; take the lists of {folder_name} from {WHERE} and put '
        f'them beside the images, into a folder `lists` there, or name their folder in ${ENVIRONMENT}'
    )


def read(path: Path, classes: tuple[str, ...]) -> pd.DataFrame:
    """One list: columns `path`, `labels` ('0 1 0') and `line`.

    Raises BadInput with the line number for a wrong number of labels, another value than 0 or 1, or a second mention
    of an image.
    """
    if not path.is_file():
        raise BadInput(f'{path}: no such list; take it from {WHERE}')
    rows, seen = [], {}
    for number, line in enumerate(path.read_text(encoding='utf-8-sig').splitlines(), start=1):
        image, *labels = line.split() or ['']
        if not image:
            continue
        if len(labels) != len(classes):
            raise BadInput(f'{path} line {number}: {len(labels)} labels, not {len(classes)} ({", ".join(classes)})')
        if not {'0', '1'}.issuperset(labels):
            wrong = next(label for label in labels if label not in ('0', '1'))
            raise BadInput(f'{path} line {number}: label {wrong!r} of {image!r} is not 0 or 1')
        if image in seen:
            raise BadInput(f'{path} line {number}: {image!r} is listed on line {seen[image]} already')
        seen[image] = number
        rows.append((image, ' '.join(labels), number))
    if not rows:
        raise BadInput(f'{path}: lists no image')
    return pd.DataFrame(rows, columns=['path', 'labels', 'line'])


def shares_of(folder: Path, classes: tuple[str, ...], train: pd.DataFrame | None) -> dict[str, str]:
    """Path to the percentages of the lists that it is in ('1', '10' or '1 10'): the published ones are not nested.

    Raises BadInput where a list names an image that `train` does not have, or gives it other labels.
    """
    found: dict[str, list[str]] = {}
    known = dict(zip(train['path'], train['labels'], strict=True)) if train is not None else None
    for percentage, name in SHARES.items():
        if not (folder / name).is_file():
            continue
        for path, labels, line in read(folder / name, classes).itertuples(index=False):
            if known is not None and path not in known:
                raise BadInput(f'{folder / name} line {line}: {path!r} is not in {FILES["train"]}')
            if known is not None and known[path] != labels:
                raise BadInput(f'{folder / name} line {line}: {path!r} has other labels than in {FILES["train"]}')
            found.setdefault(path, []).append(percentage)
    return {path: ' '.join(percentages) for path, percentages in found.items()}


def whole(folder: Path, classes: tuple[str, ...]) -> pd.DataFrame:
    """All lists of a set as one table: `path`, `labels`, `split`, `share`, and the `list` and `line` of each row.

    Raises BadInput where an image is in two splits, or a smaller list is no part of the training list.
    """
    parts = {split: read(folder / name, classes) for split, name in FILES.items()}
    table = pd.concat([part.assign(split=split, list=FILES[split]) for split, part in parts.items()], ignore_index=True)
    twice = table[table['path'].duplicated(keep=False)]
    if len(twice):
        places = twice[twice['path'] == twice['path'].iloc[0]]
        said = ' and '.join(f'{name} line {line}' for name, line in zip(places['list'], places['line'], strict=True))
        raise BadInput(f'{folder}: {places["path"].iloc[0]!r} is in {said}; an image belongs to one split')
    shares = shares_of(folder, classes, parts['train'])
    return table.assign(share=[shares.get(path, '') for path in table['path'].tolist()])


def in_share(table: pd.DataFrame, percentage: str) -> np.ndarray:
    """[M] whether each row of a table with a column `share` is in the list of that percentage."""
    return np.array([percentage in share.split() for share in table['share'].tolist()], dtype=bool)


def require_shares(table: pd.DataFrame, there: pd.DataFrame, folder: Path) -> None:
    """Raise BadInput for a smaller list that has names in `table` and none `there`, where it would be random images."""
    for percentage, name in SHARES.items():
        listed = int(in_share(table, percentage).sum())
        if listed and not in_share(there, percentage).any():
            raise BadInput(
                f'{folder / name}: none of its {listed:,} images is among the {len(there):,} listed ones that are '
                f'there, so that nobody can train on the {percentage} % list; add some of them, or take {name} out of '
                'the folder to work without it'
            )


def require_files(table: pd.DataFrame, root: Path, folder: Path, hint: str) -> None:
    """Raise BadInput for the first listed image that is not there (column `image` ''), with its list and line."""
    missing = table[table['image'] == '']
    if missing.empty:
        return
    first = missing.iloc[0]
    more = f', nor of {len(missing) - 1:,} more that are listed' if len(missing) > 1 else ''
    raise BadInput(
        f'{folder / first["list"]} line {first["line"]}: no file of {first["path"]!r} below {root}{more}; {hint}'
    )


def manifest(table: pd.DataFrame, patient_of: Callable[[str], str]) -> pd.DataFrame:
    """The reader's table of a whole one whose `image` is filled in: `image`, `labels`, `group`, `split`, `share`."""
    groups = [patient_of(path) for path in table['path'].tolist()]
    return table.assign(group=groups)[['image', 'labels', 'group', 'split', 'share']].reset_index(drop=True)


def spanning(table: pd.DataFrame) -> int:
    """How many groups of a manifest are in two splits or more."""
    return int((table.groupby('group')['split'].nunique() > 1).sum())
