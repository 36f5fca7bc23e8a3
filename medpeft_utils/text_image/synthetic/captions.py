"""Captions of synthetic radiographs in the wording of impressions: every finding is said, and nothing else.

The normal one is mostly "No acute cardiopulmonary process.", the prompt of Figure 2 in Dutt et al. 2024.
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
OPACITY = {
    'faint': ('Hazy opacity', 'Faint opacity', 'Subtle opacity', 'Ill-defined opacity'),
    'patchy': ('Patchy opacity', 'Airspace opacity', 'Focal opacity', 'Infiltrate'),
    'dense': ('Consolidation', 'Dense consolidation', 'Dense opacity'),
}
PLACES = {
    'upper': ('{side} upper lobe', '{side} upper lung', '{side} upper lung zone'),
    'mid': ('{side} mid lung', '{side} mid lung zone', '{side} perihilar region'),
    'lower': ('{side} lower lobe', '{side} lung base', '{side} lower lung', '{side} lower lung zone'),
}
ENDINGS = ('', '', '', ' concerning for pneumonia', ', compatible with pneumonia', ', may represent pneumonia')
BOTH_BASES = ('Bibasilar {noun}{s}', '{Noun}{s} at both lung bases', 'Bilateral lower lobe {noun}{s}')
HEART = {
    'mild': ('Mild cardiomegaly', 'Mildly enlarged heart', 'Heart size is mildly enlarged'),
    'moderate': ('Moderate cardiomegaly', 'Cardiomegaly', 'Enlarged cardiac silhouette'),
    'severe': ('Severe cardiomegaly', 'Marked cardiomegaly', 'Markedly enlarged cardiac silhouette'),
}
ABSENT = {
    'effusion': 'No pleural effusion.',
    'pneumothorax': 'No pneumothorax.',
    'cardiomegaly': 'Normal heart size.',
    'opacity': 'No focal consolidation.',
}


def _one_of(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _plural(noun: str) -> str:
    return '' if noun.endswith('s') else 'ies' if noun.endswith('y') else 's'


def _opacity(rng: np.random.Generator, findings: list[Finding]) -> list[str]:
    """Sentences on the opacities; both lower ones of one grade are said in one."""
    lower = [finding for finding in findings if finding.zone == 'lower']
    sentences, rest = [], findings
    if len(lower) == 2 and lower[0].grade == lower[1].grade:
        noun = _one_of(rng, OPACITY[lower[0].severity])
        ending = _plural(noun)
        stem = noun[:-1] if ending == 'ies' else noun
        phrase = _one_of(rng, BOTH_BASES).format(noun=stem.lower(), Noun=stem, s=ending)
        sentences.append(f'{phrase}{_one_of(rng, ENDINGS)}.')
        rest = [finding for finding in findings if finding.zone != 'lower']
    for finding in rest:
        noun = _one_of(rng, OPACITY[finding.severity])
        place = _one_of(rng, PLACES[finding.zone]).format(side=finding.side)
        first_place = f'{place[0].upper()}{place[1:]} {noun.lower()}'
        phrase = first_place if rng.random() < 0.5 else f'{noun} in the {place}'
        sentences.append(f'{phrase}{_one_of(rng, ENDINGS)}.')
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
    size, side = finding.severity, finding.side
    forms = (
        f'{size.capitalize()} {side} pleural effusion.',
        f'{size.capitalize()} pleural effusion on the {side}.',
        f'There is a {size} {side} pleural effusion.',
    )
    return [_one_of(rng, forms)]


def _pneumothorax(rng: np.random.Generator, findings: list[Finding]) -> list[str]:
    (finding,) = findings
    forms = {
        'small': (
            'Small {side} apical pneumothorax.',
            'Small {side} pneumothorax.',
            'Small apical pneumothorax on the {side}.',
        ),
        'large': ('Large {side} pneumothorax.', 'Large pneumothorax on the {side} with partial collapse of the lung.'),
    }
    return [_one_of(rng, forms[finding.severity]).format(side=finding.side)]


def _cardiomegaly(rng: np.random.Generator, findings: list[Finding]) -> list[str]:
    return [f'{_one_of(rng, HEART[findings[0].severity])}.']


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
