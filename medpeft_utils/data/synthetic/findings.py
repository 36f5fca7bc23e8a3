"""Synthetic stand-ins in which an image can have several findings: which image shows what, of which patient.

Prevalences are those of the published sets, but no finding is rarer than `COMMON_ENOUGH` (a few hundred images would
hold none of it), save the rarest one, so that a study meets a label without a positive in a split, as real ones do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from medpeft_utils.data.synthetic import chest, radiograph
from medpeft_utils.data.synthetic.canvas import generator
from medpeft_utils.data.synthetic.layout import Subject

COMMON_ENOUGH = 0.04
PERSISTS = 0.6  # chance that a finding of the patient shows in one of the patient's images


@dataclass(frozen=True, eq=False)
class Findings:
    """A synthetic stand-in for a set of images with several labels each.

    Args:
        name: the data set it stands in for.
        prevalence: share of the images that show each finding, in label order.
        default_size: how many images the stand-in has.
        patient_sizes: relative numbers of patients with 1, 2, ... images.
        drawn_as: a label to the finding that is drawn for it, where the set calls it otherwise.
        grain: standard deviation of the noise of the detector, in grey levels out of 255.
    """

    name: str
    prevalence: Mapping[str, float]
    default_size: int
    patient_sizes: tuple[float, ...]
    drawn_as: Mapping[str, str]
    grain: float = 2.0
    group: str = 'patient'

    @property
    def counts(self) -> Mapping[str, float]:
        """The labels in their order."""
        return self.prevalence

    def picture(self, labels: np.ndarray, group: int, seed: int, row: int, size: int) -> tuple[np.ndarray, dict]:
        """[size, size] in 0..1 of one image, and its columns; `labels` is [L] of 0 and 1."""
        patient, image = generator(self.name, 'group', seed, group), generator(self.name, 'image', seed, row)
        if self.name == 'rsna_pneumonia_lists':
            return radiograph.draw(Subject(int(labels[0]), 0, patient, image), size)
        names = [self.drawn_as.get(name, name) for name in np.asarray(list(self.prevalence))[labels == 1]]
        return chest.draw(names, patient, image, size)


@lru_cache(maxsize=32)
def _block(findings: Findings, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [B, L] and patients [B] of the rows of one block, B = `default_size`."""
    rng, size = generator(findings.name, 'layout', seed, number), findings.default_size
    chances = np.asarray(findings.patient_sizes) / sum(findings.patient_sizes)
    images = rng.choice(np.arange(1, len(chances) + 1), size=size, p=chances)
    patient = np.repeat(np.arange(size), images)[:size]
    share = np.asarray(list(findings.prevalence.values()))
    has = rng.random((patient.max() + 1, len(share))) < np.minimum(share / PERSISTS, 1)
    labels = has[patient] & (rng.random((size, len(share))) < np.where(share > PERSISTS, share, PERSISTS))
    order = rng.permutation(size)
    return labels[order].astype(np.uint8), patient[order] + number * size


def labels_of(findings: Findings, seed: int, row: int) -> tuple[np.ndarray, int]:
    """Labels [L] of 0 and 1 of a row, and its patient."""
    number, offset = divmod(row, findings.default_size)
    labels, patients = _block(findings, seed, number)
    return labels[offset], int(patients[offset])


def _nih() -> dict[str, float]:
    # positives among the 112,120 images of Wang et al. 2017
    counts = (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227)
    shares = {name: count / 112120 for name, count in zip(chest.PAINTERS, counts, strict=True)}
    return {name: share if name == 'Hernia' else max(share, COMMON_ENOUGH) for name, share in shares.items()}


# CheXpert's five, with the shares of the authors' 10 % list (`medpeft_utils/report/paper/lian2024_lists.csv`).
_CHEXPERT = {
    'Atelectasis': 0.301,
    'Cardiomegaly': 0.119,
    'Consolidation': 0.066,
    'Edema': 0.290,
    'Pleural Effusion': 0.436,
}
SETS: dict[str, Findings] = {
    findings.name: findings
    for findings in (
        Findings('nih_chestxray14', _nih(), 1000, (0.5, 0.2, 0.1, 0.1, 0.05, 0.05), {}),
        Findings('chexpert', _CHEXPERT, 1000, (0.5, 0.25, 0.15, 0.1), {'Pleural Effusion': 'Effusion'}),
        Findings('rsna_pneumonia_lists', {'Pneumonia': 6012 / 26684}, 1000, (1.0,), {}),
    )
}
