"""`medpeft data check`: everything that is wrong or worth knowing about a dataset as it lies on disk, in one pass."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import arrays, duplicates, manifest, multi_label
from medpeft_utils.data.cache import file_digest, mapped
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.decode import damage, examine_image
from medpeft_utils.data.loading import Source, near_sets, open_source, with_splits
from medpeft_utils.data.splits import SPLITS

MOSTLY = 0.99  # a mode that fewer images than this have is worth a remark
ELONGATED = 3.0  # an aspect ratio beyond which the resize to a square is worth a remark
PERSON = re.compile(r'patient|subject|person|lesion|participant|case|study|\bmrn\b|medical.?record', re.IGNORECASE)
SMALL = 32  # a side in pixels below which an image is worth a remark


@dataclass
class Report:
    """What a check found; `faults` and `unreadable` forbid its use, `remarks` do not.

    `duplicates` are sets of images that are the same file, `near_duplicates` sets of images that show the same
    (`duplicates.py`), each with its images, labels and splits, those across splits first. Both are counted by what they
    span: splits (given ones; of near duplicates, else those of split seed 0), classes, and groups. `notes` is what the
    reader left out or put together, with how many. `splits` and `classes` count images, or positives where an image can
    have several findings.
    """

    dataset: str
    folder: str
    images: int = 0
    groups: int = 0
    largest_group: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    split_images: dict[str, int] = field(default_factory=dict)
    splits_given: bool = False
    modes: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    duplicates_across_splits: int = 0
    duplicates_across_classes: int = 0
    duplicates_across_groups: int = 0
    near_duplicates: list[dict[str, list[str]]] = field(default_factory=list)
    near_duplicate_pairs: int = 0
    near_duplicates_across_splits: int = 0
    near_duplicates_across_classes: int = 0
    near_duplicates_across_groups: int = 0
    test_images_with_near_duplicate_in_train: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        return not (self.faults or self.unreadable)

    @property
    def verdict(self) -> str:
        if not self.usable:
            return 'not usable until the faults are mended'
        return 'usable, with remarks' if self.remarks else 'in order'


@dataclass(frozen=True)
class _Seen:
    """What opening one file showed; `fault` where it does not open."""

    sha256: str = ''
    mode: str = ''
    size: tuple[int, int] = (0, 0)
    grey: np.ndarray | None = None
    fault: str = ''

    @property
    def flat(self) -> bool:
        return self.grey is not None and self.grey.min() == self.grey.max()


def _opened(path: Path) -> _Seen:
    try:
        return _Seen(file_digest(path), *examine_image(path, duplicates.SIDE))
    except Exception as error:  # one odd file is a line, not the end
        return _Seen(fault=str(error if isinstance(error, BadInput) else damage(path, error)))


def _look_at_images(report: Report, source: Source, frame: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Open every file; returns the rows of those that open, with their `sha256`, and their [N, 32, 32] greys."""
    seen = [one for block in mapped(source.paths(frame), _opened, f'opening {source.card.label}') for one in block]
    report.unreadable = [one.fault for one in seen if one.fault]
    opened = [one for one in seen if not one.fault]
    report.modes = dict(Counter(one.mode for one in opened).most_common())
    report.sizes = dict(Counter(f'{one.size[0]}x{one.size[1]}' for one in opened).most_common())
    flat = [path for path, one in zip(frame['image'].tolist(), seen, strict=True) if one.flat]
    for count, words in (
        (
            sum(max(one.size) > ELONGATED * min(one.size) for one in opened),
            f'are more than {ELONGATED:g} times as long as wide; resized to a square',
        ),
        (len(flat), f'are of one grey value all over ({", ".join(map(repr, flat[:1]))}): empty, or wholly transparent'),
        (sum(min(one.size) < SMALL for one in opened), f'have a side of less than {SMALL} pixels'),
    ):
        report.remarks += [f'{count} image(s) {words}'] * bool(count)
    common = next(iter(report.modes.values()), 0)
    if common < MOSTLY * len(opened):
        modes = ', '.join(f'{count} {mode}' for mode, count in report.modes.items())
        report.remarks.append(f'images of several modes ({modes}); all become 8-bit RGB, but a mode can tell the class')
    intact = frame[np.array([not one.fault for one in seen], dtype=bool)].reset_index(drop=True)
    greys = np.stack([one.grey for one in opened]) if opened else np.zeros((0, duplicates.SIDE, duplicates.SIDE))
    return intact.assign(sha256=[one.sha256 for one in opened]), greys


def _spans(sets: list[pd.DataFrame]) -> list[int]:
    """How many of the sets hold several labels, groups and splits, blank ones apart."""
    filled = ([rows[column][rows[column] != ''] for rows in sets] for column in ('label', 'group', 'split'))
    return [sum(values.nunique() > 1 for values in column) for column in filled]


def _look_at_duplicates(report: Report, frame: pd.DataFrame) -> None:
    """Sets of images that are the same file."""
    sets = manifest.duplicate_sets(frame)
    report.duplicates = [rows['image'].tolist() for rows in sets]
    classes, groups, splits = _spans(sets)
    report.duplicates_across_classes, report.duplicates_across_groups = classes, groups
    report.duplicates_across_splits = splits
    for count, words in (
        (len(sets), 'set(s) of images that are the same file; kept in one split where splits are made'),
        (classes, 'of these sets stand under several labels'),
        (groups, 'of these sets are in several groups'),
        (splits, 'of these sets span the given splits, so that test images are known from training'),
    ):
        report.remarks += [f'{count} {words}'] * bool(count)


def _look_at_near_duplicates(report: Report, frame: pd.DataFrame, pairs: np.ndarray) -> None:
    """Sets of images that show the same. The `split` of `frame` may be one that was made here."""
    number = duplicates.sets_of(pairs, len(frame))
    sets = [rows for _, rows in frame[number >= 0].groupby(number[number >= 0], sort=False)]
    sets.sort(key=lambda rows: (rows['split'].nunique(), rows['label'].nunique()), reverse=True)
    classes, groups, splits = _spans(sets)
    report.near_duplicates_across_classes, report.near_duplicates_across_groups = classes, groups
    report.near_duplicates_across_splits, report.near_duplicate_pairs = splits, len(pairs)
    report.near_duplicates = [
        {
            'images': rows['image'].tolist(),
            'labels': sorted(set(rows['label'].tolist())),
            'splits': [name for name in SPLITS if name in set(rows['split'].tolist())],
        }
        for rows in sets
    ]
    first, second = frame['split'].to_numpy(dtype=str)[pairs].T
    tested = {*pairs[(first == 'test') & (second == 'train'), 0], *pairs[(first == 'train') & (second == 'test'), 1]}
    report.test_images_with_near_duplicate_in_train = len(tested)
    if sets:
        spans = ((classes, 'under several labels'), (groups, 'in several groups'))
        said = ''.join(f', {count} of them {words}' for count, words in spans if count)
        report.remarks.append(f'{len(sets)} set(s) of near duplicates ({len(pairs)} pairs){said}')
    if splits:
        which = 'given splits' if report.splits_given else 'splits (seed 0)'
        report.remarks.append(
            f'{splits} of the sets of near duplicates span the {which}: {len(tested)} test image(s) are near '
            'duplicates of training images'
        )


def _counts(frame: pd.DataFrame, card: DataCard) -> dict[str, int]:
    """Images of each class; positives of each where an image can have several."""
    if card.multi_label:
        readable = not frame.empty and not multi_label.faults(frame, card.classes)
        sums = multi_label.matrix(frame, card.classes).sum(axis=0, dtype=int) if readable else [0] * len(card.classes)
        return dict(zip(card.classes, map(int, sums), strict=True))
    found = Counter(frame['label'].tolist())
    return {name: found[name] for name in card.classes}


def _look_at_counts(report: Report, source: Source, frame: pd.DataFrame) -> None:
    report.images, report.classes = len(frame), _counts(frame, source.card)
    report.notes = {str(words): int(count) for words, count in source.frame.attrs.get('notes', {}).items()}
    groups = Counter(group for group in frame['group'].tolist() if group)
    report.groups, report.largest_group = len(groups), max(groups.values(), default=0)
    differing = {
        name: f'{report.classes[name]:,} of {count:,}'
        for name, count in source.card.counts.items()
        if report.classes[name] != count
    }
    without = int((frame['group'] == '').sum())
    if report.groups and without:
        report.remarks.append(
            f'{without} image(s) have no group, though others have one: each counts as a group of its own, and images '
            'of one person may be in several splits'
        )
    if source.card.own and source.card.texts and len(frame) > 1 and frame['text'].nunique() == 1:
        report.remarks.append('all images have the same text, from which nothing can be learned')
    for name in frame if source.card.own and not report.groups else ():
        known = frame[name][frame[name].astype(str) != '']
        if PERSON.search(name) and known.duplicated().any():
            report.remarks.append(
                f'column {name!r} holds {known.nunique():,} values for {len(known):,} images and is not used: if it '
                'tells persons, call it `group`, or images of one person are in several splits'
            )
    if source.card.own:  # of a published set what a reader leaves out is known
        report.remarks += [f'{words}: {count:,}' for words, count in report.notes.items()]
        report.notes = {}
    if differing:
        said = ', '.join(f'{name}: {counts}' for name, counts in differing.items())
        report.remarks.append(f'not as many images as published ({said})')


def _look_at_splits(report: Report, source: Source, frame: pd.DataFrame, pairs: np.ndarray) -> pd.DataFrame:
    """Given splits, or those that would be made; the table with them where there is nothing wrong."""
    if not report.usable:
        return frame
    try:
        split = with_splits(near_sets(frame, source.card, pairs), source.card, 0, str(source.where))
    except BadInput as error:
        report.faults.append(str(error))
        return frame
    of_split = {name: split[split['split'] == name] for name in SPLITS}
    report.splits = {name: _counts(rows, source.card) for name, rows in of_split.items()}
    report.split_images = {name: len(rows) for name, rows in of_split.items()}
    return frame.assign(split=split['split'].to_numpy())


def check(dataset: str | os.PathLike, folder: str | os.PathLike | None = None) -> Report:
    """Open every image of a dataset and look for what is wrong; nothing is written.

    Args:
        dataset, folder: as for `load`.
    Raises:
        UnknownName: no such dataset. All else that is wrong is in the report.
    """
    report = Report(str(dataset), str(folder or ''))
    try:
        source = open_source(dataset, folder)
        frame = source.frame
    except BadInput as error:
        report.faults.append(str(error))
        return report
    report.dataset, report.folder = source.card.name, str(source.root)
    report.faults = manifest.faults(frame, source.root, source.card, str(source.where))
    _look_at_counts(report, source, frame)
    if source.stamp:
        report.notes['images that are not opened, since they are many; each is opened when it is packed'] = len(frame)
        return report
    images = frame['image'].tolist()
    there = [not manifest.is_outside(image) and arrays.is_there(source.root / image) for image in images]
    frame, greys = _look_at_images(report, source, frame[there])
    report.splits_given = bool((frame['split'] != '').any())
    _look_at_duplicates(report, frame)
    pairs = duplicates.near_pairs(greys)
    sha256 = frame['sha256'].to_numpy(dtype=str)
    pairs = pairs[sha256[pairs[:, 0]] != sha256[pairs[:, 1]]]
    _look_at_near_duplicates(report, _look_at_splits(report, source, frame, pairs), pairs)
    return report
