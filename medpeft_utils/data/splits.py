"""Splits that keep groups together, hold the class shares, and come as near to the asked numbers of images as they can.

75 % train, 10 % validation, 15 % test: the training sets of Dutt et al. 2024 are 0.75 of HAM10000 (7,511 of 10,015) and
of BreastUS (584 of 780); how the rest was divided is not stated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from medpeft_utils.core.errors import BadInput

SPLITS = ('train', 'validation', 'test')
SHARES = (0.75, 0.10, 0.15)


def _apportion(total: int, shares: tuple[float, ...]) -> np.ndarray:
    """Whole numbers that sum to `total`, in the shares given (largest remainders)."""
    exact = np.asarray(shares) * total
    numbers = np.floor(exact + 1e-9).astype(int)
    numbers[np.argsort(numbers - exact, kind='stable')[: total - numbers.sum()]] += 1
    return numbers


def targets(class_counts: np.ndarray, shares: tuple[float, ...] = SHARES) -> np.ndarray:
    """[K] images of each class to [K, P] images wanted of each class in each of P parts.

    Rows sum to the class counts and columns to the apportioned total; a class of P or more has one in every part.
    """
    exact = np.outer(class_counts, shares)  # [K, P]
    wanted = np.floor(exact + 1e-9).astype(int)
    class_left = class_counts - wanted.sum(axis=1)
    split_left = _apportion(int(class_counts.sum()), shares) - wanted.sum(axis=0)
    for flat in np.argsort(wanted - exact, axis=None, kind='stable').tolist() * len(shares):
        row, column = divmod(flat, len(shares))
        if class_left[row] > 0 and split_left[column] > 0:
            wanted[row, column] += 1
            class_left[row] -= 1
            split_left[column] -= 1
    for row in np.flatnonzero(class_counts >= len(shares)):
        for column in np.flatnonzero(wanted[row] == 0):
            wanted[row, wanted[row].argmax()] -= 1
            wanted[row, column] += 1
    return wanted


def _place(content: Counter, wanted: list[list[int]], room: list[list[int]], groups_left: list[int]) -> int:
    """The part for one group of `content` (class to images): where it fits and most is missing.

    Args:
        content: images of each class in the group.
        wanted: [K][P] images wanted.
        room: [K][P] images wanted and not yet placed.
        groups_left: [K] groups not yet placed, this one included. When there are as few as parts that have none of the
            class, the group goes to one of those.
    """
    splits = range(len(wanted[0]))
    candidates = [s for s in splits if all(wanted[label][s] for label in content)] or list(splits)
    for label in content:
        empty = [s for s in candidates if room[label][s] == wanted[label][s]]
        if empty and groups_left[label] <= len(empty):
            candidates = empty
    fitting = [s for s in candidates if all(room[label][s] >= count for label, count in content.items())]

    def need(split: int) -> float:
        # as Sainte-Laguë apportions seats: what would be missing with half of the group placed, so that large groups
        # spread in the shares of the splits
        return sum(n * (room[label][split] - n / 2) / max(wanted[label][split], 1) for label, n in content.items())

    return max(fitting or candidates, key=need)


def _require_enough(labels: np.ndarray, groups: np.ndarray, parts: int, words: str) -> None:
    """Raise BadInput where a class has too few groups to be in every part."""
    for name in np.unique(labels):
        rows = labels == name
        n_groups = len(np.unique(groups[rows]))
        if n_groups < parts:
            raise BadInput(
                f'class {str(name)!r} has {rows.sum()} image(s) in {n_groups} group(s): too few to be in {words}; add '
                'images of it, merge it into another class, or leave it out'
            )


def require_everywhere(labels: np.ndarray, splits: np.ndarray, where: str) -> None:
    """Raise BadInput where a class is missing from a split."""
    for name in np.unique(labels):
        present = set(np.unique(splits[labels == name]))
        missing = [split for split in SPLITS if split not in present]
        if missing:
            raise BadInput(
                f'{where}: class {str(name)!r} is only in {" and ".join(sorted(present))}, not in '
                f'{" or ".join(missing)}; every class needs an image in every split: move some, or leave the split '
                'column out to have splits made'
            )


def parts(labels: np.ndarray, groups: np.ndarray, seed: int, shares: tuple[float, ...]) -> np.ndarray:
    """[N] number of the part that each image is in: by group, stratified by class, in the shares given.

    The same arguments give the same parts. Groups so mixed that a class is missing from a part are not looked for.
    """
    _, label_of = np.unique(labels, return_inverse=True)
    _, group_of = np.unique(groups, return_inverse=True)
    contents: list[Counter] = [Counter() for _ in range(group_of.max() + 1)]
    for group, label in zip(group_of.tolist(), label_of.tolist(), strict=True):
        contents[group][label] += 1
    wanted = targets(np.bincount(label_of), shares).tolist()
    room = [list(row) for row in wanted]
    groups_left = np.bincount([label for content in contents for label in content]).tolist()
    order = np.random.default_rng(seed).permutation(len(contents)).tolist()
    part_of = np.empty(len(contents), dtype=int)
    for group in sorted(order, key=lambda group: -contents[group].total()):  # large ones while there is room for them
        part = _place(contents[group], wanted, room, groups_left)
        part_of[group] = part
        for label, count in contents[group].items():
            room[label][part] -= count
            groups_left[label] -= 1
    return part_of[group_of]


def assign(labels: np.ndarray, groups: np.ndarray, seed: int = 0, shares: tuple[float, ...] = SHARES) -> np.ndarray:
    """Split images by group, stratified by class. The same arguments give the same splits.

    Args:
        labels: [N] names of classes.
        groups: [N] names of groups; images of one group stay in one split.
        seed: which of the many such splits.
        shares: of images in train, validation and test.
    Returns:
        [N] array of 'train', 'validation', 'test'.
    Raises:
        BadInput: a class in fewer than three groups, or groups so mixed that a class would be missing from a split.
    """
    _require_enough(labels, groups, len(SPLITS), 'train, validation and test')
    splits = np.asarray(SPLITS)[parts(labels, groups, seed, shares)]
    require_everywhere(labels, splits, 'the groups do not divide')
    return splits


Divide = Callable[[np.ndarray, np.ndarray, int, tuple[float, ...]], np.ndarray]  # as `parts`


def assign_folds(
    labels: np.ndarray, groups: np.ndarray, seed: int, folds: int, share: float, divide: Divide = parts
) -> np.ndarray:
    """One fold of a cross-validation by group, stratified by class: test is fold `seed % folds`.

    The test parts of `folds` seeds in a row, from a multiple of `folds` on, hold every image once; `seed // folds` is
    which of the many such divisions. Validation is taken from the other folds, by group too.

    Args:
        labels: [N] names of classes, or [N, L] of 0 and 1 with `multi_label.parts` as `divide`.
        groups: [N] names of groups.
        seed: fold and division.
        folds: how many there are, two or more.
        share: of the images outside the test that go to validation.
        divide: (labels, groups, seed, shares) to the number of each image's part.
    Returns:
        [N] array of 'train', 'validation', 'test'.
    Raises:
        BadInput: a class in fewer groups than folds, or with too few groups to be in every split.
    """
    if labels.ndim == 1:
        least = max(folds, len(SPLITS))
        _require_enough(labels, groups, least, f'each of {folds} folds and in validation')
    division, fold = divmod(seed, folds)
    rest = divide(labels, groups, division, (1 / folds,) * folds) != fold
    splits = np.full(len(labels), 'test', dtype='<U10')
    held_out = divide(labels[rest], groups[rest], seed, (1 - share, share))
    splits[rest] = np.asarray(('train', 'validation'))[held_out]
    if labels.ndim == 1:
        require_everywhere(labels, splits, f'the groups do not divide into {folds} folds')
    return splits
