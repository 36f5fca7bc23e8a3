"""What a text says of its image, as labels: the set's findings, or the words of the texts where it has none."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from medpeft_utils import auroc
from medpeft_utils.errors import BadInput
from medpeft_utils.text_image.pairs import Pairs

WORD = re.compile(r'[a-z]{3,}')
MOST_WORDS = 32
DRAWS, DIGITS = 400, 4  # bootstrap resamples, and what is kept of each
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
        is none); auroc_low and auroc_high, 95 % of bootstrap resamples of the images; resamples, the auroc in each of
        them, by which two sets of images from the same texts are compared; and by_label: name to auroc, accuracy,
        positives, images.
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
    areas = _resampled(values, scores) if by_label else np.array([])
    low, high = auroc.quantiles(areas) if by_label else (None, None)
    kept = [round(float(area), DIGITS) if np.isfinite(area) else None for area in areas]
    return means | {'auroc_low': low, 'auroc_high': high, 'by_label': by_label, 'resamples': kept}


def _resampled(values: np.ndarray, scores: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """[draws] mean AUROC over the labels in resamples of the images; values and scores as for `agreement`.

    How often an image is drawn depends on the number of images alone, so that two sets of as many are resampled alike.
    """
    count = len(values)
    times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=draws).astype(float)
    areas = np.stack([_areas(values[:, k], scores[:, k], times) for k in range(values.shape[1])])  # [L, draws]
    known = np.isfinite(areas)
    return np.divide(
        np.where(known, areas, 0).sum(axis=0), known.sum(axis=0), out=np.full(draws, np.nan), where=known.any(axis=0)
    )


def _areas(said: np.ndarray, seen: np.ndarray, times: np.ndarray) -> np.ndarray:
    """AUROC of one label in every resample [draws]: the share of pairs, one with it and one without, in right order.

    Args:
        said: [N] of 1, 0, or -1 for unknown.
        seen: [N] probabilities; a tie counts half.
        times: [draws, N] how often each image was drawn.
    """
    there, absent = times[:, said == 1], times[:, said == 0]  # [draws, P], [draws, Q]
    above, below = seen[said == 1, None], seen[None, said == 0]
    won = ((there @ ((above > below) + 0.5 * (above == below))) * absent).sum(axis=1)
    pairs = there.sum(axis=1) * absent.sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(times), np.nan), where=pairs > 0)
