"""Image-text pairs that are ready to train on: images, texts, patients, splits and findings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput, UnknownName
from medpeft_utils.data.splits import SPLITS
from medpeft_utils.text_image.cards import PairCard
from medpeft_utils.text_image.manifest import finding_columns, split_hash


def nested_rows(rows: np.ndarray, groups: np.ndarray, pairs: int, seed: int) -> np.ndarray:
    """The first `pairs` of `rows`, whole patients one after the other in an order that the seed decides.

    A patient's place depends on the seed and its name alone, so that the order is the same in every part of a set. Of
    the last patient as many pairs are taken as make up the number.

    Args:
        rows: [N] row numbers in ascending order.
        groups: [N] names of their patients.
    Returns:
        [pairs] row numbers in ascending order.
    """
    place = {group: hashlib.sha256(f'{seed}\0{group}'.encode()).digest() for group in set(groups.tolist())}
    order = sorted(range(len(rows)), key=lambda i: (place[groups[i]], i))
    return np.sort(rows[order[:pairs]])


@dataclass(eq=False)
class Pairs:
    """Decoded images with their texts; row i of all of them is one pair.

    Args:
        card: the card.
        images: [M, S, S, 3] uint8, mapped from the packed cache.
        manifest: columns image, text, group, split and the set's own, in the rows' order.
        folder: where the images come from; None for synthetic ones and where only the cache is left.
        left_out: why rows of the publication are not among the pairs, with how many.

    `findings` is [M, F] int8 over `finding_names`: 1 there, 0 not there, -1 unknown; F is 0 where nothing is known.
    """

    card: PairCard
    images: np.ndarray
    manifest: pd.DataFrame
    folder: Path | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    texts: list[str] = field(init=False)
    groups: np.ndarray = field(init=False)
    findings: np.ndarray = field(init=False)
    finding_names: list[str] = field(init=False)
    split_hash: str = field(init=False)

    def __post_init__(self):
        columns = finding_columns(self.manifest)
        self.texts = self.manifest['text'].tolist()
        self.groups = self.manifest['group'].to_numpy(dtype=str)
        self.findings = self.manifest[list(columns)].to_numpy(dtype=np.int8).reshape(len(self.manifest), len(columns))
        self.finding_names = list(columns.values())
        self.split_hash = split_hash(self.manifest)
        self._splits = self.manifest['split'].to_numpy(dtype=str)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def label(self) -> str:
        return self.card.label

    @property
    def synthetic(self) -> bool:
        return self.card.synthetic

    @property
    def image_size(self) -> int:
        return self.images.shape[1]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split in ascending order. Raises UnknownName."""
        if split not in SPLITS:
            raise UnknownName('split', split, SPLITS)
        return np.flatnonzero(self._splits == split)

    def train_rows(self, pairs: int | None = None, seed: int = 0) -> np.ndarray:
        """A number of training pairs, by patient; with one seed, a smaller number is part of every larger one.

        Dutt et al. 2024 train on 110K, 55K and 11K pairs; how theirs were drawn is not stated.

        Args:
            pairs: how many; all where None or 0.
            seed: which patients come first.
        Returns:
            Row numbers in ascending order.
        Raises:
            BadInput: fewer than one, or more than there are.
        """
        rows = self.rows('train')
        if not pairs:
            return rows
        if not 0 < pairs <= len(rows):
            raise BadInput(f'{pairs:,} training pairs of {self.label}: there are {len(rows):,}; give 1 to {len(rows)}')
        return nested_rows(rows, self.groups[rows], pairs, seed)

    def counts(self) -> pd.DataFrame:
        """Pairs, patients and different texts (rows) in each split (columns)."""
        table = {
            split: (len(rows), len(set(self.groups[rows])), len({self.texts[row] for row in rows}))
            for split in SPLITS
            for rows in [self.rows(split)]
        }
        return pd.DataFrame(table, index=['pairs', f'{self.card.group}s', 'different texts'])
