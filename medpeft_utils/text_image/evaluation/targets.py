"""What a text says of its image, as labels: the set's findings, or the words of the texts where it has none."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from medpeft_utils import auroc
from medpeft_utils.errors import BadInput
from medpeft_utils.text_image.pairs import Pairs

WORD = re.compile(r'[a-z]{3,}')
MOST_WORDS = 32
DRAWS = 400  # bootstrap resamples
SHARE = 0.05  # a word is a label where at least so many texts have it, and as many have not


@dataclass(frozen=True)
class Targets:
    """Labels of every pair.

    Args:
        names: of the labels, L of them.
        values: [M, L] int8: 1 there, 0 not there, -1 unknown.
        kind: 'findings' or 'words'.
    """

    names: tuple[str, ...]
    values: np.ndarray
    kind: str


def targets_of(pairs: Pairs, rows: np.ndarray) -> Targets:
    """Labels of all pairs: findings that some of `rows` have and some have not, else the commonest words of `rows`.

    Raises BadInput where there is neither: a set without findings whose texts share no word or all say the same.
    """
    known = pairs.findings[rows]
    useful = np.flatnonzero((known == 1).any(axis=0) & (known == 0).any(axis=0))
    if len(useful):
        names = tuple(pairs.finding_names[column] for column in useful)
        return Targets(names, np.ascontiguousarray(pairs.findings[:, useful]), 'findings')
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
            f'{pairs.label}: no finding is known of its training pairs, and their texts share no word that some have '
            'and some have not; an encoder cannot be trained on it. Add columns finding:NAME (1, 0 or empty)'
        )
    return Targets(names, np.array([[name in words for name in names] for words in sets], dtype=np.int8), 'words')


def agreement(values: np.ndarray, scores: np.ndarray, names: tuple[str, ...]) -> dict:
    """How well what a classifier sees in images agrees with what their texts say.

    Args:
        values: [N, L] of the texts: 1, 0, or -1 for unknown, which is left out.
        scores: [N, L] probabilities that the classifier gives the images.
        names: of the labels.
    Returns:
        auroc and accuracy (threshold 0.5), means over the labels that some text has and some has not (None where there
        is none); auroc_low and auroc_high, 95 % of bootstrap resamples of the images; and by_label: name to auroc,
        accuracy, positives, images.
    """
    by_label = {}
    for column, name in enumerate(names):
        known = values[:, column] >= 0
        said, seen = values[known, column], scores[known, column]
        if not 0 < said.sum() < len(said):
            continue
        by_label[name] = {
            'auroc': float(auroc.by_finding(said[:, None], seen[:, None])[0]),
            'accuracy': float(((seen > 0.5) == said).mean()),
            'positives': int(said.sum()),
            'images': int(known.sum()),
        }
    means = {
        measure: float(np.mean([label[measure] for label in by_label.values()])) if by_label else None
        for measure in ('auroc', 'accuracy')
    }
    low, high = auroc.quantiles(_resampled(values, scores)) if by_label else (None, None)
    return means | {'auroc_low': low, 'auroc_high': high, 'by_label': by_label}


def _resampled(values: np.ndarray, scores: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """[draws] mean AUROC over the labels in resamples of the images; values and scores as for `agreement`.

    The images drawn depend on their number alone, so that two sets of as many images are resampled alike.
    """
    draw, areas = np.random.default_rng(0), np.full(draws, np.nan)
    for number in range(draws):
        rows = draw.integers(len(values), size=len(values))
        found = [_area(values[rows, column], scores[rows, column]) for column in range(values.shape[1])]
        if not np.isnan(found).all():
            areas[number] = np.nanmean(found)
    return areas


def _area(said: np.ndarray, seen: np.ndarray) -> float:
    """AUROC by ranks of one label, values [N] of 1, 0 or -1 (left out); NaN without some of 1 and of 0."""
    said, seen = said[said >= 0], seen[said >= 0]
    positives, negatives = int(said.sum()), int((said == 0).sum())
    if not positives or not negatives:
        return np.nan
    above = rankdata(seen)[said == 1].sum() - positives * (positives + 1) / 2
    return above / (positives * negatives)
