"""A dataset that is ready to train on: images, labels or texts, groups and splits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput, UnknownName
from medpeft_utils.data import lists, multi_label, texts
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.manifest import split_hash
from medpeft_utils.data.splits import SPLITS


@dataclass(eq=False)
class Dataset:
    """Decoded images with their labels or texts, groups and splits; row i of all of them is one image.

    Args:
        card: the data card.
        images: [N, S, S, 3] uint8, mapped from the packed cache.
        manifest: columns image, label, group, split and the dataset's own, in the rows' order.
        folder: where the images come from; None for synthetic ones.

    `labels` is [N] int64, or [N, L] uint8 of 0 and 1 where the card says `multi_label`; `groups` is [N] names.
    Where the card says what the `texts` are, they are N strings, `labels` is [N, 0], and `findings` is [N, F] int8
    over `finding_names`: 1 there, 0 not there, -1 unknown. `notes` counts what the reader left out or put together.
    """

    card: DataCard
    images: np.ndarray
    manifest: pd.DataFrame
    folder: Path | None = None
    labels: np.ndarray = field(init=False)
    groups: np.ndarray = field(init=False)
    texts: list[str] = field(init=False)
    findings: np.ndarray = field(init=False)
    finding_names: list[str] = field(init=False)
    notes: dict[str, int] = field(init=False)
    split_hash: str = field(init=False)

    def __post_init__(self):
        columns = texts.finding_columns(self.manifest) if self.card.texts else {}
        self.texts = self.manifest['text'].tolist() if self.card.texts else []
        self.findings = self.manifest[list(columns)].to_numpy(dtype=np.int8).reshape(len(self.manifest), len(columns))
        self.finding_names = list(columns.values())
        self.notes = dict(self.manifest.attrs.get('notes', {}))
        if self.card.texts:
            self.labels = np.empty((len(self.manifest), 0), dtype=np.uint8)
        elif self.card.multi_label:
            self.labels = multi_label.matrix(self.manifest, self.card.classes)
        else:
            number = {name: i for i, name in enumerate(self.card.classes)}
            self.labels = np.array([number[label] for label in self.manifest['label'].tolist()], dtype=np.int64)
        self.groups = self.manifest['group'].to_numpy(dtype=str)
        self.split_hash = split_hash(self.manifest, self.card.content)
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
    def classes(self) -> list[str]:
        return list(self.card.classes)

    @property
    def synthetic(self) -> bool:
        return self.card.synthetic

    @property
    def attributes(self) -> pd.DataFrame:
        """What is known of the person or the picture of each row, one column each (`DataCard.subgroups`).

        As the publication has it, '' or NaN where nothing is known; no column where nothing is known of any row.
        """
        return self.manifest[[name for name in self.card.subgroups if name in self.manifest]]

    @property
    def image_size(self) -> int:
        return self.images.shape[1]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split in ascending order. Raises UnknownName."""
        if split not in SPLITS:
            raise UnknownName('split', split, SPLITS)
        return np.flatnonzero(self._splits == split)

    def train_rows(self, fraction: float = 1.0, seed: int = 0) -> np.ndarray:
        """A share of the training images; with one seed, a smaller share is a subset of a larger one.

        Where the publication gives lists (a column `share` with the percentages of all lists that an image is in, such
        as '1', '10' or '1 10': published lists need not be nested), these are what their fractions mean, whatever the
        seed. Else images are put into one order, every class spread evenly over it, and the first round(fraction * n)
        are taken; the first of each class come before all others, and no class is ever missing. Images with several
        labels are drawn by whole groups.

        Args:
            fraction: share of the training images, above 0 and up to 1.
            seed: which images come first.
        Returns:
            Row numbers in ascending order.
        Raises:
            BadInput: a fraction out of range, or of a published list in which no training image is.
        """
        if not 0 < fraction <= 1:
            raise BadInput(f'fraction={fraction} of the training images: give a number above 0 and up to 1')
        rows, percentage = self.rows('train'), f'{100 * fraction:.6g}'
        if fraction < 1 and 'share' in self.manifest:
            listed = lists.in_share(self.manifest.iloc[rows], percentage)
            if listed.any():
                return rows[listed]
            if percentage in lists.SHARES:
                raise BadInput(
                    f'fraction={fraction:g} of {self.label} means its published {percentage} % list '
                    f'({lists.SHARES[percentage]}), and no training image is in it; put that list beside the others, '
                    'take another fraction, or folds, which draw images at random'
                )
        if self.card.multi_label:
            return rows[multi_label.whole_groups(self.groups[rows], fraction, seed)]
        position = np.empty(len(rows))
        present = np.unique(self.labels[rows])
        for label in present:
            own = np.flatnonzero(self.labels[rows] == label)
            order = np.random.default_rng([seed, label]).permutation(len(own))
            position[own] = np.where(order == 0, -1.0, (order + 0.5) / len(own))
        count = max(round(fraction * len(rows)), len(present))
        return np.sort(rows[np.argsort(position, kind='stable')[:count]])

    def train_pairs(self, pairs: int | None = None, seed: int = 0) -> np.ndarray:
        """A number of training images, by whole groups; with one seed, a smaller number is part of every larger one.

        Dutt et al. 2024 train on 110K, 55K and 11K pairs; how theirs were drawn is not stated.

        Args:
            pairs: how many; all where None or 0.
            seed: which groups come first (`texts.nested_rows`).
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
        return texts.nested_rows(rows, self.groups[rows], pairs, seed)

    def counts(self) -> pd.DataFrame:
        """Images of each class (rows, in label order) in each split (columns); positives where multi-label.

        Of images with texts: pairs, groups and different texts.
        """
        if self.card.texts:
            rows = {split: self.rows(split) for split in SPLITS}
            table = {
                s: (len(r), len(set(self.groups[r])), len({self.texts[row] for row in r})) for s, r in rows.items()
            }
            return pd.DataFrame(table, index=['pairs', f'{self.card.group or "group"}s', 'different texts'])
        if self.card.multi_label:
            positives = {split: self.labels[self.rows(split)].sum(axis=0, dtype=int) for split in SPLITS}
            return pd.DataFrame(positives, index=self.classes)
        table = pd.crosstab(self.manifest['label'], self.manifest['split'])
        return table.reindex(index=self.classes, columns=list(SPLITS), fill_value=0).rename_axis(None, axis=1)
