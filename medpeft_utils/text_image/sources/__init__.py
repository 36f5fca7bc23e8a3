"""Published image-text sets, one file each: its card and its reader. A new set is one more file here.

A reader takes the folder of the published download and returns a `Reading`: a table with a row a pair (see
`medpeft_utils.text_image.manifest`), and what was left out. `root_of` finds the folder that image paths start from.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from medpeft_utils.text_image.cards import CARDS, PairCard


@dataclass(frozen=True)
class Reading:
    """What a reader found.

    Args:
        frame: a row a pair.
        left_out: why rows of the publication are not among them, with how many.
    """

    frame: pd.DataFrame
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """How a published set is found and read.

    Args:
        root_of: (folder as given) to the folder that image paths start from; raises BadInput where it is another.
        read: the root to its pairs.
        stamps: for sets that are too large to be read at every start: the root to the few files whose sizes and times
            stand for all of it. None where the whole set is looked at.
    """

    root_of: Callable[[Path], Path]
    read: Callable[[Path], Reading]
    stamps: Callable[[Path], list[Path]] | None = None


READERS: dict[str, Reader] = {}


def register(
    card: PairCard, root_of: Callable[[Path], Path], stamps: Callable[[Path], list[Path]] | None = None
) -> Callable:
    """Register a set: its card, and (as a decorator) its reader."""
    CARDS.register(card.name, card)

    def add_reader(read: Callable[[Path], Reading]) -> Callable[[Path], Reading]:
        READERS[card.name] = Reader(root_of, read, stamps)
        return read

    return add_reader


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')
