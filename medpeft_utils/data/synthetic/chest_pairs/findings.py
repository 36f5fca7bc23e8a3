"""What a synthetic chest radiograph shows, and what its caption says of it: every finding, and nothing else.

Left and right are the patient's, as in reports: the patient's right lung is on the left of the picture. Captions are in
the wording of impressions; the normal one is mostly "No acute cardiopulmonary process.", the prompt of Figure 2 in Dutt
et al. 2024. A finding, its grade and its place have one name each, since a training of a minute has to learn what they
mean; what is normal, what follows from an opacity, and the order of words vary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

SIDES = ('right', 'left')
ZONES = ('upper', 'mid', 'lower')
# How marked a finding is, from the least on; captions say it in the words of radiology.
GRADES = {
    'opacity': ('faint', 'patchy', 'dense'),
    'effusion': ('small', 'moderate', 'large'),
    'pneumothorax': ('small', 'large'),
    'cardiomegaly': ('mild', 'moderate', 'severe'),
}
NO_FINDING = 'no finding'
NAMES = (
    NO_FINDING,
    'cardiomegaly',
    *(f'{side} effusion' for side in SIDES),
    *(f'{side} pneumothorax' for side in SIDES),
    *(f'{side} {zone} opacity' for side in SIDES for zone in ZONES),
)
NORMAL_SHARE = 0.3
# Chance that a radiograph with findings has this as its first one, and as a further one.
KINDS = ('opacity', 'effusion', 'cardiomegaly', 'pneumothorax')
FIRST, FURTHER = (0.45, 0.25, 0.17, 0.13), (0.42, 0.33, 0.25, 0.0)
COUNTS = (0.55, 0.33, 0.12)  # one, two or three findings


@dataclass(frozen=True)
class Finding:
    """One finding. `side` is '' for the heart, `zone` is '' where the kind has none, `grade` counts from 0."""

    kind: str
    grade: int
    side: str = ''
    zone: str = ''

    @property
    def name(self) -> str:
        """Its column among `NAMES`."""
        return ' '.join(part for part in (self.side, self.zone, self.kind) if part)

    @property
    def severity(self) -> str:
        """Its grade in words."""
        return GRADES[self.kind][self.grade]


def _drawn(rng: np.random.Generator, kind: str) -> Finding:
    grade = int(rng.integers(len(GRADES[kind])))
    side = '' if kind == 'cardiomegaly' else SIDES[rng.integers(2)]
    zone = ZONES[rng.choice(3, p=(0.25, 0.25, 0.5))] if kind == 'opacity' else ''
    return Finding(kind, grade, side, zone)


def _covers(one: Finding, other: Finding) -> bool:
    """Whether `one` lies where it hides `other`."""
    if one.kind == 'cardiomegaly':  # a large heart covers the left base
        return one.grade > 0 and other.name == 'left lower opacity'
    if one.side != other.side:
        return False
    fluid_reaches = ('lower', 'mid') if one.grade > 0 else ('lower',)
    return one.kind == 'pneumothorax' or (one.kind == 'effusion' and other.zone in fluid_reaches)


def _hides(one: Finding, other: Finding) -> bool:
    """Whether two findings cannot both be seen: the same twice, or one over the other."""
    return one.name == other.name or _covers(one, other) or _covers(other, one)


def sample(rng: np.random.Generator) -> tuple[Finding, ...]:
    """Findings of one radiograph: none for three in ten, else one to three of which each can be seen.

    A second effusion and a second opacity of the lower zone are often on the other side, as in patients.
    """
    if rng.random() < NORMAL_SHARE:
        return ()
    found: list[Finding] = []
    for place in range(1 + rng.choice(3, p=COUNTS)):
        finding = _drawn(rng, KINDS[rng.choice(4, p=FURTHER if place else FIRST)])
        if not any(_hides(finding, other) for other in found):
            found.append(finding)
    first = found[0]
    paired = first.kind == 'effusion' or (first.kind == 'opacity' and first.zone == 'lower')
    if paired and rng.random() < 0.3:
        other = Finding(first.kind, first.grade, SIDES[1 - SIDES.index(first.side)], first.zone)
        if not any(_hides(other, present) for present in found):
            found.append(other)
    return tuple(found)


def multi_hot(findings: Iterable[Finding]) -> np.ndarray:
    """[F] uint8 over `NAMES`: 1 for every finding there is, or for 'no finding' alone."""
    row = np.zeros(len(NAMES), dtype=np.uint8)
    for finding in findings:
        row[NAMES.index(finding.name)] = 1
    row[0] = not row.any()
    return row


# ---- captions

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
