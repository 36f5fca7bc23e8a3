"""Published datasets, one file each: its card and its reader. A new dataset is one more file here.

A reader takes the folder of the published download and returns a table with a row an image: `image` (path below the
folder, with forward slashes), `label` (one of the card's classes), `group` (what must stay in one split; '' where there
is nothing), `split` ('' unless the publication gives splits), and columns of its own; in place of `label`, `labels`
where an image can have several (`multi_label.py`), `text` where it has one (`texts.py`). What a reader left out or put
together it counts in the table's `attrs['notes']`, a dict of sentence to number, which `medpeft data check` prints.
`root_of` finds the folder that the paths start from.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cards import CARDS, DataCard, stand_in

Reader = Callable[[Path], pd.DataFrame]
# Of each dataset: how to find its root, how to read it, and which files stand for it
_READERS: dict[str, tuple[Callable[[Path], Path], Reader, Callable[[Path], list[Path]]]] = {}


def register(
    card: DataCard,
    root_of: Callable[[Path], Path] | None = None,
    with_stand_in: bool = False,
    stamps: Callable[[Path], list[Path]] | None = None,
):
    """Register a dataset: its card, and (as a decorator) its reader.

    Args:
        card: the data card.
        root_of: (folder as given) to the folder that `image` paths start from; raises BadInput where it is neither
            the published folder nor its parent. The given folder itself where None.
        with_stand_in: whether `medpeft_utils.data.synthetic` draws a stand-in of it.
        stamps: for a dataset that is too large to be listed at every start: the root to the few files whose sizes and
            times stand for all of it. None where every file is looked at.
    """
    CARDS.register(card.name, card)
    if with_stand_in:
        CARDS.register(f'synthetic_{card.name}', stand_in(card))

    def add_reader(read: Reader) -> Reader:
        _READERS[card.name] = root_of or (lambda folder: folder), read, stamps or (lambda root: [])
        return read

    return add_reader


def reader(card: DataCard) -> tuple[Callable[[Path], Path], Reader]:
    """How to find the root of a dataset's download and read it. Raises BadInput where there is a card only."""
    if card.name not in _READERS:
        readable = ', '.join(sorted(_READERS))
        raise BadInput(
            f'dataset {card.name!r} has a data card but no reader of its published download yet (there is one for: '
            f'{readable}); use synthetic_{card.name}, or give your copy as a folder per class or as a CSV with columns '
            'image,label[,group][,split]'
        )
    return _READERS[card.name][:2]


def stamps(card: DataCard, root: Path) -> list[Path]:
    """The files whose sizes and times stand for a large dataset; none where every file is looked at."""
    return _READERS[card.name][2](root)


def has_reader(name: str) -> bool:
    """Whether the published download of a dataset can be read yet."""
    return name in _READERS


def locate(folder: Path, marker: str, card: DataCard) -> Path:
    """The folder that holds `marker`: the given one or one right below it. Raises BadInput."""
    if not os.path.isdir(folder):
        raise BadInput(f'{folder}: no such folder; {card.label}: {card.how_to_obtain}')
    for candidate in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if (candidate / marker).exists():
            return candidate
    raise BadInput(
        f'{folder}: neither it nor a folder right below it holds {marker!r}, so this is not {card.label} as published; '
        f'{card.how_to_obtain}'
    )


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')
