"""Labels of images that can show several findings at once, or none: [M, L] of 0 and 1 instead of one class each.

A reader gives them as a column `labels`: 0 or 1 for every class of the card, in its order, with a blank between
('0 1 0'). The manifest's `label` is made of it and is for reading: 'Edema|Effusion', or 'none'.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.splits import SHARES, SPLITS

NONE = 'none'


def faults(frame: pd.DataFrame, classes: tuple[str, ...]) -> list[str]:
    """What is wrong with the column `labels`, one message a kind of fault."""
    if 'labels' not in frame:
        return [f'has no column labels; give 0 or 1 for each of {", ".join(classes)}, with blanks between']
    pattern = '[01]' + f'(?: [01]){{{len(classes) - 1}}}'
    bad = frame[~frame['labels'].str.fullmatch(pattern).astype(bool)]
    if bad.empty:
        return []
    return [
        f'labels {bad["labels"].iloc[0]!r} of {bad["image"].iloc[0]!r}'
        + (f' and {len(bad) - 1:,} more' if len(bad) > 1 else '')
        + f' are not {len(classes)} times 0 or 1 with blanks between ({", ".join(classes)})'
    ]


def matrix(frame: pd.DataFrame, classes: tuple[str, ...]) -> np.ndarray:
    """[M, L] uint8 of the column `labels`, in which nothing is wrong (`faults`)."""
    characters = np.frombuffer(''.join(frame['labels'].tolist()).replace(' ', '').encode(), dtype=np.uint8)
    return (characters - ord('0')).reshape(len(frame), len(classes))


def with_label(frame: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """The manifest with `label` made of `labels`; without it where `labels` cannot be read."""
    if faults(frame, classes):
        return frame.assign(label='')
    kinds, number = np.unique(frame['labels'].to_numpy(dtype=str), return_inverse=True)
    names = [
        '|'.join(np.asarray(classes)[row == 1]) or NONE for row in matrix(pd.DataFrame({'labels': kinds}), classes)
    ]
    return frame.assign(label=np.asarray(names, dtype=object)[number])


def parts(labels: np.ndarray, groups: np.ndarray, seed: int, shares: tuple[float, ...]) -> np.ndarray:
    """[M] number of the part that each image is in: by group, each part with its share of images and of positives.

    After iterative stratification (Sechidis et al. 2011, ECML PKDD, Algorithm 1): groups with the rarest label are
    placed first, each where most is missing of what it holds. Differs: groups in place of images, one order for all
    labels, and the images themselves count as one label more.

    Args:
        labels: [M, L] of 0 and 1.
        groups: [M] names of groups; images of one group stay in one part.
        seed: which of the many such divisions.
        shares: of images in each part.
    Raises:
        BadInput: fewer groups than parts.
    """
    _, group_of = np.unique(groups, return_inverse=True)
    contents = np.zeros((group_of.max() + 1, labels.shape[1] + 1))  # [G, L + 1], images in the last column
    np.add.at(contents, group_of, np.column_stack([labels, np.ones(len(labels), dtype=labels.dtype)]))
    if len(contents) < len(shares):
        words = 'train, validation and test' if len(shares) == len(SPLITS) else f'{len(shares)} parts'
        raise BadInput(f'{len(contents)} group(s) of images are too few for {words}')
    totals = contents.sum(axis=0)
    wanted = np.outer(np.maximum(totals, 1), shares)  # [L + 1, P]
    room = wanted.copy()
    rarest = np.where(contents > 0, totals, np.inf).min(axis=1)
    order = np.random.default_rng(seed).permutation(len(contents))
    part_of = np.empty(len(contents), dtype=int)
    for group in order[np.lexsort((-contents[order, -1], rarest[order]))]:
        held = contents[group][:, None]  # [L + 1, 1]
        part_of[group] = (held * (room - held / 2) / wanted).sum(axis=0).argmax()
        room[:, part_of[group]] -= contents[group]
    for part in range(len(shares)):  # tiny sets only: every part holds a group
        if not (part_of == part).any():
            part_of[np.flatnonzero(part_of == 0)[-1]] = part
    return part_of[group_of]


def assign(labels: np.ndarray, groups: np.ndarray, seed: int = 0, shares: tuple[float, ...] = SHARES) -> np.ndarray:
    """[M] 'train', 'validation' or 'test' of each image, as `parts` divides them."""
    return np.asarray(SPLITS)[parts(labels, groups, seed, shares)]


def whole_groups(groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """[M] which images are in a share of them made of whole groups; a smaller share is part of a larger one.

    Groups come in one random order, and as many are taken as come nearest to the asked number of images.
    """
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    missed = np.abs(np.cumsum(sizes[order]) - fraction * len(groups))
    return np.isin(group_of, order[: missed.argmin() + 1])
