"""What a record keeps of every row of validation and test, compactly: all statistics are computed from it.

A record's `rows` has a section a split, {n, classes, labels, groups, arg_max, scores, attributes}, its arrays packed
(`core/packed.py`). Groups are numbered over the whole dataset, which lets runs on one dataset be paired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medpeft_utils.core.packed import narrow, pack, unpack

if TYPE_CHECKING:
    import pandas as pd

LIMIT = 12.0  # log-odds beyond it, 6e-6 from 0 and 1, are kept as it
LEVELS = 255


class Rows(NamedTuple):
    """The rows of one split, in ascending order of the dataset's rows.

    Args:
        labels: [N] int64, or [N, K] of 0 and 1 where an image may show several findings.
        groups: [N] int64, the patient or lesion of each.
        arg_max: [N] int64, the predicted class; or [N, K], the findings with a probability of 0.5 or more.
        scores: [N, K] float32, log-odds of the probabilities, -12 to 12 in 256 levels (0.094 apart).
    """

    labels: np.ndarray
    groups: np.ndarray
    arg_max: np.ndarray
    scores: np.ndarray


def write(
    labels: np.ndarray, groups: np.ndarray, probabilities: np.ndarray, attributes: pd.DataFrame | None = None
) -> dict[str, Any]:
    """The section of one split.

    Args:
        labels: [N] 0..K-1, or [N, K] of 0 and 1.
        groups: [N] numbers from 0, the same for a group in all splits and runs of a dataset.
        probabilities: [N, K].
        attributes: of the rows, a column each; as text, '' where unknown.
    """
    several = labels.ndim > 1
    predicted = probabilities >= 0.5 if several else probabilities.argmax(axis=1)
    p = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
    odds = np.clip(np.log(p) - np.log1p(-p), -LIMIT, LIMIT)
    codes = np.round((odds + LIMIT) / (2 * LIMIT) * LEVELS).astype(np.uint8)
    columns = {} if attributes is None else {name: _column(attributes[name]) for name in attributes}
    return {
        'n': len(labels),
        'classes': probabilities.shape[1],
        'multi_label': several,
        'labels': pack(labels.astype(np.uint8)),
        'groups': pack(groups.astype(np.uint32)),
        'arg_max': pack(predicted.astype(np.uint8)),
        'scores': pack(codes.T),  # a class after the other, which packs better
        'attributes': columns,
    }


def _column(values: pd.Series) -> dict[str, Any]:
    texts = [f'{value:g}' if isinstance(value, float) else str(value) for value in values]
    categories, codes = np.unique(np.where(values.isna(), '', texts), return_inverse=True)
    codes = narrow(codes)
    return {'categories': categories.tolist(), 'dtype': codes.dtype.name, 'codes': pack(codes)}


def read(record: dict[str, Any], split: str = 'test') -> Rows:
    """The rows of a split of a record. Raises KeyError where it keeps none, BadInput where they are spoilt."""
    kept = record['rows'][split]
    n, classes = kept['n'], kept['classes']
    shape = (n, classes) if kept['multi_label'] else (n,)
    codes = unpack(kept['scores'], np.uint8, (classes, n)).T
    return Rows(
        unpack(kept['labels'], np.uint8, shape).astype(np.int64),
        unpack(kept['groups'], np.uint32, (n,)).astype(np.int64),
        unpack(kept['arg_max'], np.uint8, shape).astype(np.int64),
        (codes.astype(np.float32) / LEVELS * 2 - 1) * np.float32(LIMIT),
    )


def read_attributes(record: dict[str, Any], split: str = 'test') -> pd.DataFrame:
    """What is known of each row of a split (age, sex, site, ...), as text, '' where unknown; maybe no column."""
    import pandas as pd

    kept = record['rows'][split]
    columns = {
        name: np.array(column['categories'], dtype=object)[unpack(column['codes'], column['dtype'], (kept['n'],))]
        for name, column in kept['attributes'].items()
    }
    return pd.DataFrame(columns, index=range(kept['n']))
