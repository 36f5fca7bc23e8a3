"""Data cards: what a dataset is, where it comes from, and what a study of it must take care of. The card is the code.

A set is of images with classes or findings, or, where its card says what its `texts` are, of images with a text each.
Each card is in its dataset's file below `sources/`; `CARDS` holds them all, including the synthetic ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from medpeft_utils.core.registry import Registry
from medpeft_utils.data.splits import SHARES


@dataclass(frozen=True)
class DataCard:
    """What is known of a dataset.

    Args:
        name: the key under which it is asked for.
        label: its name in tables and figures, the paper's where the paper has it.
        task: what the classes are, or 'text to image'.
        modality: how the images were taken.
        classes: names of the classes in label order; of the findings where an image can have several.
        counts: images of each class as published; empty where the images themselves decide (own data).
        group: what must stay in one split: 'lesion', 'patient', or None where the publication tells of nothing.
        source: the publication.
        how_to_obtain: where the published download is, and how it is laid out.
        licence: the licence of the images.
        known_faults: what is known to be wrong with it, each with who found it.
        paper_train_images: training images in Dutt et al. 2024 (Tables 2 and 3); None outside the paper.
        synthetic: whether the images are drawn, not taken.
        stands_for: the dataset that a synthetic one imitates.
        multi_label: whether an image can have several of the classes, or none; `counts` are then positives, and labels
            are [M, L] of 0 and 1 (`multi_label.py`).
        published_images: number of images as published, where `counts` do not sum to it.
        shares: of the images in train, validation and test, where the publication gives no splits.
        texts: what the text of an image is; '' where the set has classes.
        splits: who made the splits, where `shares` do not say it.
        paper_train_pairs: numbers of training pairs in Dutt et al. 2024 (Table 4), largest first.
        credentialed: whether images and texts may be seen by credentialed users only, the packed cache included.
        near_duplicates_together: whether near duplicates (`duplicates.py`) stay in one split where splits are made.
            Exact ones always do. Off, where splits are compared with those of others.
        subgroups: columns of the manifest that say something of the person or the picture, such as 'sex', by which a
            score can be looked at (`Dataset.attributes`); a reader may leave them out or blank where nothing tells.
        groups_span_splits: whether the published splits have groups in several of them, which is then kept and said
            and no fault; splits and folds that are made never do.
        reduced_to: a side in pixels to which every image is reduced before all else, where parts of a set differ in
            resolution and would be told apart by it; 0 for none.
    """

    name: str
    label: str
    task: str
    modality: str
    classes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    group: str | None = None
    source: str = ''
    how_to_obtain: str = ''
    licence: str = ''
    known_faults: tuple[str, ...] = ()
    paper_train_images: int | None = None
    synthetic: bool = False
    stands_for: str | None = None
    multi_label: bool = False
    published_images: int | None = None
    texts: str = ''
    splits: str = ''
    paper_train_pairs: tuple[int, ...] = ()
    credentialed: bool = False
    shares: tuple[float, float, float] = SHARES
    near_duplicates_together: bool = False
    subgroups: tuple[str, ...] = ()
    groups_span_splits: bool = False
    reduced_to: int = 0

    @property
    def own(self) -> bool:
        """Whether it is a user's own data, unpublished and unchecked."""
        return self.source.startswith('own data')

    @property
    def content(self) -> str:
        """The column of a manifest that holds what an image comes with: 'label' or 'text'."""
        return 'text' if self.texts else 'label'

    @property
    def images(self) -> int | None:
        """Number of images as published, None where it is not fixed."""
        return self.published_images or (not self.multi_label and sum(self.counts.values())) or None


CARDS: Registry[DataCard] = Registry('dataset', 'medpeft data list')


def part_of(card: DataCard, *known_faults: str, **changes) -> DataCard:
    """The card of `<name>_subset`: any part of a dataset, read from the same layout, with as many images as there are.

    Args:
        card: of the whole.
        known_faults: what is known beside the faults of the whole.
        changes: fields that differ besides.
    """
    said = f'a part of the set: nothing measured on it is a result on {card.label}'
    return dataclasses.replace(
        card,
        **{
            'name': f'{card.name}_subset',
            'label': f'{card.label} (subset)',
            'counts': {},
            'published_images': None,
            'paper_train_images': None,
            'how_to_obtain': f'as {card.name}; any part of its images will do',
            'known_faults': (*card.known_faults, *known_faults, said),
            **changes,
        },
    )


def stand_in(card: DataCard) -> DataCard:
    """The card of the synthetic stand-in of a dataset: same task, classes, shares and groups, drawn from a seed."""
    return dataclasses.replace(
        card,
        name=f'synthetic_{card.name}',
        label=f'{card.label} (synthetic)',
        modality=f'synthetic, drawn to look like {card.modality}',
        counts={},
        published_images=None,
        shares=SHARES,
        near_duplicates_together=False,
        subgroups=(),
        source=f'drawn from a seed by medpeft_utils.data.synthetic, with the class shares of {card.label}',
        how_to_obtain='nothing to obtain: it is generated where it is used',
        licence='Apache-2.0, as the code that draws it',
        known_faults=('no patient is in it: what is measured on it says nothing about patients',),
        paper_train_images=None,
        synthetic=True,
        stands_for=card.name,
    )


def names(texts: bool = False) -> list[str]:
    """Names of all datasets with classes, or of those with texts.

    Real ones come first in the paper's order (by training images), then others, then synthetic ones.
    """

    def order(name: str) -> tuple:
        card = CARDS[name]
        real = CARDS[card.stands_for] if card.stands_for else card
        return card.synthetic, real.paper_train_images or float('inf'), name

    return sorted((name for name, card in CARDS.items() if bool(card.texts) == texts), key=order)


def packed_pairs(dataset: str, wanted: int) -> int | None:
    """How many training pairs `load` is asked for by a run that trains on `wanted` (0: all).

    All of them (None), except for a set whose card names the paper's numbers: of MIMIC-CXR the largest of these, within
    which the smaller ones lie. Runs of all sizes then share packed images, latents and the encoder that scores them.
    """
    paper = CARDS[dataset].paper_train_pairs if dataset in CARDS else ()
    return max(*paper, wanted) if paper and wanted else None
