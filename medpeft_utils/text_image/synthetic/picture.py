"""One synthetic chest radiograph: the normal chest, the findings in it, exposure and noise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from medpeft_utils.data.synthetic.canvas import Canvas, generator
from medpeft_utils.text_image.synthetic import anatomy, pathology
from medpeft_utils.text_image.synthetic.anatomy import Array, Lung, Patient, edge
from medpeft_utils.text_image.synthetic.findings import SIDES, Finding

VESSELS, STEPS = 14, 32  # vessels of both lungs, samples along each
# Strokes of the side marker on a grid of 2 by 4 steps: x and y from, x and y to
LETTERS = {
    'L': ((0, 0, 0, 4), (0, 4, 2, 4)),
    'R': ((0, 0, 0, 4), (0, 0, 2, 0), (2, 0, 2, 2), (0, 2, 2, 2), (1.6, 2, 1.6, 4)),
}


@lru_cache(maxsize=16)
def _canvas(size: int) -> Canvas:
    return Canvas(size)


def _vessels(patient: Patient, canvas: Canvas, breath: float) -> Array:
    """[S, S] vessels that spread from the hila, thick at the hilum; the same for every image of a patient."""
    rng = generator('vessels', patient.vessels)
    side = np.where(np.arange(VESSELS) % 2, 1.0, -1.0)[:, None]
    t = np.linspace(0.0, 1.0, STEPS)[None, :]
    heading, bend, wave = rng.normal(0, (0.85, 0.6, 0.3), (VESSELS, 3)).T[..., None]
    length = rng.uniform(0.3, 0.65, (VESSELS, 1))
    angle = heading + bend * t + wave * np.sin(2 * np.pi * (t + rng.random((VESSELS, 1))))
    x = side * (0.15 + np.cumsum(np.cos(angle), axis=1) * (length / STEPS))
    y = breath / 2 + rng.normal(0, 0.06, (VESSELS, 1)) + np.cumsum(np.sin(angle), axis=1) * (length / STEPS)
    ink = (1.3 - 1.1 * t) * (length / STEPS)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    return np.clip(canvas.stroke(points, ink.ravel(), max(0.018, 0.9 / canvas.size)), 0, 1.4).astype(np.float32)


def _marker(patient: Patient, canvas: Canvas) -> Array:
    """[S, S] letter of lead that says which side is which, in 0..1."""
    left, top, is_left = patient.marker
    step, half, soft = 0.032, 0.010, max(0.008, 1.2 / canvas.size)
    ink = np.zeros((canvas.size, canvas.size), dtype=np.float32)
    for x0, y0, x1, y1 in LETTERS['L' if is_left else 'R']:
        x, y = canvas.x - left - step * (x0 + x1) / 2, canvas.y - top - step * (y0 + y1) / 2
        across = edge(half + step * (x1 - x0) / 2 - np.abs(x), soft)
        down = edge(half + step * (y1 - y0) / 2 - np.abs(y), soft)
        np.maximum(ink, across * down, out=ink)
    return ink


def _with_findings(
    rng: np.random.Generator, canvas: Canvas, lungs: dict[str, Lung], y: Array, findings: Sequence[Finding], soft: float
) -> tuple[Array, Array, Array]:
    """Air in the lungs, free air beside them and pleural lines, [S, S] each, once the findings are in."""
    left = {side: lung.air for side, lung in lungs.items()}
    free = lines = np.zeros((canvas.size, canvas.size), dtype=np.float32)
    for finding in findings:
        if finding.kind == 'pneumothorax':
            gap, line = pathology.pneumothorax(rng, lungs[finding.side], finding, soft)
            free, lines = np.maximum(free, gap), np.maximum(lines, line)
            left[finding.side] = left[finding.side] * (1 - gap) * (0.88, 0.70)[finding.grade]
        elif finding.kind == 'opacity':
            left[finding.side] = left[finding.side] * (1 - pathology.opacity(rng, canvas, lungs[finding.side], finding))
        elif finding.kind == 'effusion':
            left[finding.side] = left[finding.side] * (1 - pathology.effusion(rng, lungs[finding.side], y, finding))
    return left['right'] + left['left'], free, lines


def _exposed(rng: np.random.Generator, picture: Array, size: int) -> Array:
    """Contrast, exposure, saturation, collimator and grain, as uint8 [S, S]."""
    picture = (picture - 0.5) * rng.uniform(1.15, 1.5) + (0.50 + rng.normal(0, 0.04))
    bright = np.maximum(picture - 0.70, 0)
    picture += 0.28 * np.tanh(bright * (1 / 0.28)) - bright  # film and detector saturate softly
    picture = np.clip(picture, 0, 1) ** rng.uniform(0.85, 1.2)
    if rng.random() < 0.15:
        at = (np.abs(np.arange(size, dtype=np.float32) + (0.5 - size / 2)) * (2 / size))[None, :]
        picture *= edge(rng.uniform(0.90, 0.98) - at, 0.02)
    picture += rng.standard_normal((size, size), dtype=np.float32) * 0.010
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


def draw(patient: Patient, rng: np.random.Generator, findings: Sequence[Finding], size: int) -> Array:
    """One radiograph of a patient.

    Args:
        patient: what all of the patient's radiographs share.
        rng: breath, position, exposure and the findings' shapes of this one.
        findings: what is to be seen; another finding changes nothing else in the picture.
        size: side in pixels.
    Returns:
        [size, size] uint8.
    """
    canvas, of_findings = _canvas(size), np.random.default_rng(rng.integers(2**63))
    zoom, breath = patient.size * rng.uniform(0.97, 1.03), rng.normal(0, 0.04)
    x = (canvas.x * zoom + rng.normal(0, 0.03)).astype(np.float32)
    y = (canvas.y * zoom + rng.normal(0, 0.03)).astype(np.float32)
    soft, wobble = max(0.03, 2.5 / size), rng.normal(0, 0.008)
    lungs = {side: anatomy.lung(patient, x, y, (-1, 1)[i], breath, soft) for i, side in enumerate(SIDES)}
    air, free, lines = _with_findings(of_findings, canvas, lungs, y, findings, soft)
    enlarged = [pathology.CARDIOTHORACIC[finding.grade] for finding in findings if finding.kind == 'cardiomegaly']
    heart = anatomy.heart(patient, x, y, breath, (enlarged or [patient.heart])[0] + wobble, soft)
    floor = sum(patient.domes) / 2 + breath
    seen = 1 - 0.93 * heart
    tissue = 1 + 0.11 * heart + 0.025 * canvas.field(rng, 5).astype(np.float32)
    tissue += patient.bone * anatomy.bones(patient, x, y, floor)
    picture = anatomy.trunk(patient, x, y, floor) * tissue
    picture -= rng.uniform(0.38, 0.44) * seen * (air + 1.22 * free)
    picture += 0.10 * _vessels(patient, canvas, breath) * air * seen
    if patient.stomach[1]:
        picture -= 0.12 * anatomy.stomach(patient, x, y, breath)
    picture = canvas.blur(picture, max(0.008, 0.8 / size)).astype(np.float32)
    picture += 0.16 * lines * seen + 0.55 * _marker(patient, canvas)
    return _exposed(rng, picture, size)
