"""Prompt adherence: whether a classifier sees in generated images what their prompts ask for.

Prompts ask for labels: the findings of the set, or words of its texts if it has no findings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from medpeft_utils import auroc
from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import Dataset

WORD = re.compile(r'[a-z]{3,}')
MOST_WORDS = 32
DIGITS = 4  # that are kept of the area in a resample
SHARE = 0.05  # a word is a label if at least this fraction of the texts has it, and as many lack it


@dataclass(frozen=True)
class Labels:
    """Labels of every pair.

    Args:
        names: of the labels, L of them.
        values: [M, L] int8: 1 present, 0 absent, -1 unknown.
        kind: 'findings' or 'words'.
    """

    names: tuple[str, ...]
    values: np.ndarray
    kind: str


def labels_of(pairs: Dataset, rows: np.ndarray) -> Labels:
    """Labels of all pairs: findings that some of `rows` have and others lack, else the commonest words of `rows`.

    Raises BadInput for a set without findings whose texts share no word, or are all the same.
    """
    known = pairs.findings[rows]
    useful = np.flatnonzero((known == 1).any(axis=0) & (known == 0).any(axis=0))
    if len(useful):
        names = tuple(pairs.finding_names[column] for column in useful)
        return Labels(names, np.ascontiguousarray(pairs.findings[:, useful]), 'findings')
    sets = [set(WORD.findall(text.lower())) for text in pairs.texts]
    counts: dict[str, int] = {}
    for row in rows:
        for word in sets[row]:
            counts[word] = counts.get(word, 0) + 1
    few = max(SHARE * len(rows), 1)
    usable = [word for word, count in counts.items() if few <= count <= len(rows) - few]
    names = tuple(sorted(usable, key=lambda word: (-counts[word], word))[:MOST_WORDS])
    if not names:
        raise BadInput(
            f'{pairs.label}: its training pairs have no findings, and no word that some texts have and others lack, so '
            'no encoder can be trained on it; add columns finding:NAME (1, 0 or empty)'
        )
    return Labels(names, np.array([[name in words for name in names] for words in sets], dtype=np.int8), 'words')


def adherence(values: np.ndarray, scores: np.ndarray, names: tuple[str, ...], groups: np.ndarray) -> dict:
    """How well a classifier's labels of images agree with those of their texts.

    The area under the ROC curve is pooled over the labels. It is the fraction of pairs of images, one whose text has a
    label and one whose text lacks it, that the classifier puts in the right order. A label of two texts therefore
    weighs less than a label of thirty.

    Args:
        values: [N, L] of the texts: 1, 0, or -1 for unknown ones, which do not count.
        scores: [N, L] probabilities that the classifier gives the images.
        names: of the labels.
        groups: [N] patients of the texts; the bootstrap resamples patients, each with all texts.
    Returns:
        auroc, and accuracy (threshold 0.5, mean over labels), over the labels that some texts have and others lack
        (None if there are none); auroc_low and auroc_high, 95 % of the bootstrap resamples; resamples, the auroc in
        each of them, which compare two sets of images from the same texts; and by_label: name to auroc, accuracy,
        positives, images.
    """
    useful = [k for k in range(values.shape[1]) if len(set(values[:, k]) - {-1}) == 2]
    if not useful:
        nothing = dict.fromkeys(('auroc', 'accuracy', 'auroc_low', 'auroc_high'))
        return nothing | {'by_label': {}, 'resamples': []}
    by_label = {}
    for k in useful:
        known = values[:, k] >= 0
        asked, seen = values[known, k], scores[known, k]
        by_label[names[k]] = {
            'auroc': float(auroc.by_finding(asked[:, None], seen[:, None])[0]),
            'accuracy': float(((seen > 0.5) == asked).mean()),
            'positives': int(asked.sum()),
            'images': int(known.sum()),
        }
    values, scores = values[:, useful], scores[:, useful]
    areas = pooled(values, scores, auroc.resamples(groups))
    low, high = auroc.quantiles(areas)
    return {
        'auroc': float(pooled(values, scores, np.ones((1, len(values))))[0]),
        'accuracy': float(np.mean([label['accuracy'] for label in by_label.values()])),
        'auroc_low': low,
        'auroc_high': high,
        'by_label': by_label,
        'resamples': [round(float(area), DIGITS) if np.isfinite(area) else None for area in areas],
    }


def pooled(values: np.ndarray, scores: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[R] AUROC pooled over the labels in each of some resamples; NaN where no label has both kinds.

    Args:
        values, scores: [N, L], as for `adherence`.
        times: [R, N] how often each image was drawn.
    """
    times, won, pairs = times.astype(float), np.zeros(len(times)), np.zeros(len(times))
    for asked, seen in zip(values.T, scores.T, strict=True):
        there, absent = times[:, asked == 1], times[:, asked == 0]  # [R, P], [R, Q]
        above, below = seen[asked == 1, None], seen[None, asked == 0]
        right = (above > below) + 0.5 * (above == below)  # [P, Q]; a tie counts half
        won += ((there @ right) * absent).sum(axis=1)
        pairs += there.sum(axis=1) * absent.sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(times), np.nan), where=pairs > 0)
