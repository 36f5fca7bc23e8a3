"""Synthetic stand-ins in which an image can have several findings: NIH ChestX-ray14, CheXpert, Lian et al.'s RSNA.

Prevalences are those of the published sets, but no finding is rarer than `COMMON_ENOUGH` (a few hundred images would
hold none of it), except the rarest one: so a study meets a label without a positive in a split, as real ones do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from medpeft_utils.data.synthetic import chest, radiograph
from medpeft_utils.data.synthetic.layout import Modality, Subject

COMMON_ENOUGH = 0.04
# Positives among the 112,120 images of Wang et al. 2017, in the order of `chest.PAINTERS`
NIH = (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227)
NIH_SHARES = {name: max(count / 112120, COMMON_ENOUGH) for name, count in zip(chest.PAINTERS, NIH, strict=True)}
# CheXpert's five, with the shares of the authors' 10 % list (`medpeft_utils/report/paper/lian2024_lists.csv`).
CHEXPERT = {
    **{'Atelectasis': 0.301, 'Cardiomegaly': 0.119, 'Consolidation': 0.066, 'Edema': 0.290},
    'Pleural Effusion': 0.436,
}
DRAWN_AS = {'Pleural Effusion': 'Effusion'}  # a label to the finding that is drawn for it


def _set(name: str, shares: Mapping[str, float], patient_sizes: tuple[float, ...]) -> Modality:
    def draw(subject: Subject, size: int) -> tuple[np.ndarray, dict]:
        names = [DRAWN_AS.get(finding, finding) for finding, there in zip(shares, subject.label, strict=True) if there]
        return chest.draw(names, subject.of_group, subject.of_image, size)

    return Modality(name, shares, draw, 1000, 'patient', {'': patient_sizes}, several=True)


def _draw_rsna(subject: Subject, size: int) -> tuple[np.ndarray, dict]:
    return radiograph.draw(dataclasses.replace(subject, label=int(subject.label[0])), size)


SETS: dict[str, Modality] = {
    'nih_chestxray14': _set('nih_chestxray14', NIH_SHARES | {'Hernia': 227 / 112120}, (0.5, 0.2, 0.1, 0.1, 0.05, 0.05)),
    'chexpert': _set('chexpert', CHEXPERT, (0.5, 0.25, 0.15, 0.1)),
    'rsna_pneumonia_lists': dataclasses.replace(
        _set('rsna_pneumonia_lists', {'Pneumonia': 6012 / 26684}, (1.0,)), draw=_draw_rsna
    ),
}
