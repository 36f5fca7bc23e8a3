"""Captions of synthetic radiographs in the wording of impressions: every finding is said, and nothing else.

The normal one is mostly "No acute cardiopulmonary process.", the prompt of Figure 2 in Dutt et al. 2024. A finding, its
grade and its place have one name each, for a training of a minute has to learn what they mean; what is normal, what
follows from an opacity, and the order of words vary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medpeft_utils.text_image.synthetic.findings import SIDES, Finding

NORMAL = 'No acute cardiopulmonary process.'
OTHER_NORMAL = (
    'No acute cardiopulmonary abnormality.',
    'No acute intrathoracic process.',
    'Normal chest radiograph.',
    'Clear lungs. Normal heart size.',
    'No evidence of acute cardiopulmonary disease.',
    'No focal consolidation, effusion or pneumothorax.',
)
ENDINGS = ('', '', '', ' concerning for pneumonia', ', compatible with pneumonia', ', may represent pneumonia')
BOTH_BASES = '{Grade} opacities in both lower lung zones', 'Bilateral lower lung zone {grade} opacities'
ABSENT = {
    'effusion': 'No pleural effusion.',
    'pneumothorax': 'No pneumothorax.',
    'cardiomegaly': 'Normal heart size.',
    'opacity': 'No focal consolidation.',
}


def _one_of(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _opacity(rng: np.random.Generator, findings: list[Finding]) -> list[str]:
    """Sentences on the opacities; both lower ones of one grade are said in one."""
    lower = [finding for finding in findings if finding.zone == 'lower']
    sentences, rest = [], findings
    if len(lower) == 2 and lower[0].grade == lower[1].grade:
        phrase = _one_of(rng, BOTH_BASES).format(grade=lower[0].severity, Grade=lower[0].severity.capitalize())
        sentences.append(f'{phrase}{_one_of(rng, ENDINGS)}.')
        rest = [finding for finding in findings if finding.zone != 'lower']
    for finding in rest:
        grade, place = finding.severity, f'{finding.side} {finding.zone} lung zone'
        forms = f'{place.capitalize()} {grade} opacity', f'{grade.capitalize()} opacity in the {place}'
        sentences.append(f'{_one_of(rng, forms)}{_one_of(rng, ENDINGS)}.')
    return sentences


def _effusion(rng: np.random.Generator, findings: list[Finding]) -> list[str]:
    if len(findings) == 2:
        one, other = findings
        if one.grade == other.grade:
            return [f'{one.severity.capitalize()} bilateral pleural effusions.']
        larger, smaller = (one, other) if one.grade > other.grade else (other, one)
        return [
            f'{larger.severity.capitalize()} {larger.side} and {smaller.severity} {smaller.side} pleural effusions.'
        ]
    (finding,) = findings
    return [f'{finding.severity.capitalize()} {finding.side} pleural effusion.']


def _pneumothorax(rng: np.random.Generator, findings: list[Finding]) -> list[str]:
    (finding,) = findings
    return [f'{finding.severity.capitalize()} {finding.side} pneumothorax.']


def _cardiomegaly(rng: np.random.Generator, findings: list[Finding]) -> list[str]:
    return [f'{findings[0].severity.capitalize()} cardiomegaly.']


SAY = {'pneumothorax': _pneumothorax, 'opacity': _opacity, 'effusion': _effusion, 'cardiomegaly': _cardiomegaly}


def caption(rng: np.random.Generator, findings: Sequence[Finding]) -> str:
    """An impression that says every finding, in the order of urgency; sometimes what is absent, sometimes numbered."""
    if not findings:
        return NORMAL if rng.random() < 0.6 else _one_of(rng, OTHER_NORMAL)
    sentences = []
    for kind, say in SAY.items():
        own = sorted(
            (finding for finding in findings if finding.kind == kind), key=lambda f: SIDES.index(f.side or 'right')
        )
        if own:
            sentences += say(rng, own)
    absent = [kind for kind in SAY if all(finding.kind != kind for finding in findings)]
    if absent and rng.random() < 0.2:
        sentences.append(ABSENT[_one_of(rng, absent)])
    if len(sentences) > 1 and rng.random() < 0.15:
        sentences = [f'{number}. {sentence}' for number, sentence in enumerate(sentences, 1)]
    return ' '.join(sentences)
