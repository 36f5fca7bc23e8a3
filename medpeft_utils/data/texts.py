"""Images with a text each: what a manifest says of them beside the columns of every dataset.

Columns: text; `finding:NAME` (1 there, 0 not there, -1 or '' unknown); `stratum`, which is spread evenly over the
splits where these are made.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.files import is_nothing

FINDING = 'finding:'


def finding_columns(frame: pd.DataFrame) -> dict[str, str]:
    """The columns that hold findings, each with the finding's name."""
    return {name: name.removeprefix(FINDING).strip() for name in frame.columns if name.startswith(FINDING)}


def normalised(frame: pd.DataFrame) -> pd.DataFrame:
    """The manifest with blanks in texts folded, and findings as -1, 0 and 1.

    Raises BadInput for a finding other than 1, 0, -1 and ''.
    """
    frame = frame.assign(text=[' '.join(text.split()) for text in frame['text'].tolist()])
    for column in finding_columns(frame):
        cells = ['-1' if cell == '' or is_nothing(str(cell)) else cell for cell in frame[column].tolist()]
        values = pd.to_numeric(pd.Series(cells, frame.index), errors='coerce')
        wrong = ~values.isin((1, 0, -1))
        if wrong.any():
            raise BadInput(
                f'column {column!r} holds {frame[column][wrong].iloc[0]!r}; give 1, 0, or nothing if unknown'
            )
        frame[column] = values.astype(np.int8)
    return frame


def nested_rows(rows: np.ndarray, groups: np.ndarray, pairs: int, seed: int) -> np.ndarray:
    """The first `pairs` of `rows`, whole patients one after the other in an order that the seed decides.

    A patient's place depends on the seed and its name alone; the order is the same in every part of a set. The last
    patient gives only as many pairs as are still needed.

    Args:
        rows: [N] row numbers in ascending order.
        groups: [N] names of their patients.
    Returns:
        [pairs] row numbers in ascending order.
    """
    place = {group: hashlib.sha256(f'{seed}\0{group}'.encode()).digest() for group in set(groups.tolist())}
    order = sorted(range(len(rows)), key=lambda i: (place[groups[i]], i))
    return np.sort(rows[order[:pairs]])
