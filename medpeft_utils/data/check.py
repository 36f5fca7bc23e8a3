"""`medpeft data check`: everything that is wrong or worth knowing about a dataset as it lies on disk, in one pass."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from medpeft_utils.data import manifest
from medpeft_utils.data.cache import file_digest, mapped
from medpeft_utils.data.decode import inspect_image
from medpeft_utils.data.loading import Source, open_source, with_splits
from medpeft_utils.data.splits import SPLITS
from medpeft_utils.errors import BadInput

MOSTLY = 0.99  # a mode that fewer images than this have is worth a remark
ELONGATED = 3.0  # an aspect ratio beyond which the resize to a square is worth a remark


@dataclass
class Report:
    """What a check found; `faults` forbid its use, `remarks` do not."""

    dataset: str
    folder: str
    images: int = 0
    groups: int = 0
    largest_group: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    splits_given: bool = False
    modes: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    duplicates_across_splits: int = 0
    duplicates_across_classes: int = 0
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


def _opened(path: Path) -> tuple[str, str, tuple[int, int], str]:
    """SHA-256, mode, (width, height) and '' of a file; or what is wrong with it in the last place."""
    try:
        return file_digest(path), *inspect_image(path), ''
    except BadInput as error:
        return '', '', (0, 0), str(error)


def _look_at_images(report: Report, source: Source, frame: pd.DataFrame) -> pd.DataFrame:
    """Open every file; returns the rows of those that open, with their `sha256`."""
    results = [row for block in mapped(source.paths(frame), _opened, f'opening {source.card.label}') for row in block]
    report.unreadable = [fault for *_, fault in results if fault]
    opened = [row for row in results if not row[-1]]
    report.modes = dict(Counter(mode for _, mode, _, _ in opened).most_common())
    report.sizes = dict(Counter(f'{width}x{height}' for _, _, (width, height), _ in opened).most_common())
    odd = sum(max(size) > ELONGATED * min(size) for _, _, size, _ in opened)
    if odd:
        report.remarks.append(f'{odd} image(s) are more than {ELONGATED:g} times as long as wide; resized to a square')
    common = next(iter(report.modes.values()), 0)
    if common < MOSTLY * len(opened):
        modes = ', '.join(f'{count} {mode}' for mode, count in report.modes.items())
        report.remarks.append(f'images of several modes ({modes}); all become 8-bit RGB, but a mode can tell the class')
    intact = [not fault for *_, fault in results]
    return frame[intact].assign(sha256=[digest for digest, *_ in opened])


def _look_at_duplicates(report: Report, frame: pd.DataFrame) -> None:
    sets = manifest.duplicate_sets(frame)
    report.duplicates = [rows['image'].tolist() for rows in sets]
    report.duplicates_across_classes = sum(rows['label'].nunique() > 1 for rows in sets)
    report.duplicates_across_splits = sum(rows['split'].nunique() > 1 for rows in sets)
    if sets:
        report.remarks.append(
            f'{len(sets)} set(s) of images that are the same file; kept in one split where splits are made'
        )
    if report.duplicates_across_classes:
        report.remarks.append(f'{report.duplicates_across_classes} of these sets stand under several labels')
    if report.duplicates_across_splits:
        report.remarks.append(
            f'{report.duplicates_across_splits} of these sets span the given splits, so that images known from '
            'training are tested on'
        )


def _look_at_counts(report: Report, source: Source, frame: pd.DataFrame) -> None:
    found = Counter(frame['label'].tolist())
    report.images = len(frame)
    report.classes = {name: found[name] for name in source.card.classes}
    groups = Counter(group for group in frame['group'].tolist() if group)
    report.groups, report.largest_group = len(groups), max(groups.values(), default=0)
    differing = {
        name: f'{report.classes[name]:,} of {count:,}'
        for name, count in source.card.counts.items()
        if report.classes[name] != count
    }
    if differing:
        said = ', '.join(f'{name}: {counts}' for name, counts in differing.items())
        report.remarks.append(f'not as many images as published ({said})')


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
    except BadInput as error:
        report.faults.append(str(error))
        return report
    report.dataset, report.folder = source.card.name, str(source.root)
    frame = source.frame
    report.faults = manifest.faults(frame, source.root, source.card.classes, str(source.where))
    _look_at_counts(report, source, frame)
    there = [os.path.isfile(source.root / image) for image in frame['image'].tolist()]
    frame = _look_at_images(report, source, frame[there])
    _look_at_duplicates(report, frame)
    report.splits_given = bool((frame['split'] != '').any())
    if report.usable:
        try:
            split = with_splits(frame, 0, str(source.where))
            table = pd.crosstab(split['split'], split['label'])
            report.splits = {name: table.loc[name].to_dict() for name in SPLITS}
        except BadInput as error:
            report.faults.append(str(error))
    return report
