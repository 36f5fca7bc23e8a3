"""Synthetic chest radiographs with several findings at once: stand-ins for NIH ChestX-ray14 and CheXpert.

No real image is used. The frontal view is that of `radiograph.py`; every finding is drawn on top of it, so that it can
be seen, and has a phrase in the image's `report`. Images of one patient share anatomy and most findings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medpeft_utils.data.synthetic import radiograph
from medpeft_utils.data.synthetic.canvas import Canvas, clipped_normal, line, over, smoothstep, waves

# Side -1 is the left of the picture, which is the patient's right.
SIDES = {-1: 'right', 1: 'left'}


class Chest:
    """One chest while it is drawn: anatomy, and the layers that findings add to.

    Attributes:
        haze: [S, S] in 0..1, how much of the lungs' air is gone.
        glow: [S, S] grey added to the finished picture, negative where darker.
        air: [S, S] air of both lungs in 0..1.
        domes: [2] y of the tops of the diaphragm, left and right in the picture.
    """

    def __init__(self, canvas: Canvas, build: float, air: np.ndarray, domes: np.ndarray):
        self.canvas, self.build, self.air, self.domes = canvas, build, air, domes
        self.haze, self.glow = np.zeros((canvas.size, canvas.size)), np.zeros((canvas.size, canvas.size))

    def dome(self, side: int) -> float:
        return float(self.domes[0 if side < 0 else 1])

    def lateral(self, side: int) -> np.ndarray:
        """[1, S]: 0 in the middle of the body, 1 at the ribs of this side, negative on the other."""
        return self.canvas.x * side / self.build

    def whiten(self, layer: np.ndarray) -> None:
        self.haze = np.maximum(self.haze, layer)


Painter = Callable[[np.random.Generator, Chest, int], None]


def _atelectasis(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """Plates of collapsed lung above the diaphragm."""
    for level in rng.uniform(0.10, 0.34, int(rng.integers(1, 3))):
        y = chest.dome(side) - level
        plate = line((side * 0.2, y), (side * chest.build * 0.82, y + rng.normal(0, 0.10)), 80)
        chest.whiten(0.95 * np.clip(chest.canvas.stroke(plate, 0.65 / 80, rng.uniform(0.035, 0.055)), 0, 1))


def _effusion(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """Fluid that fills the angle between ribs and diaphragm and climbs the wall."""
    level = chest.dome(side) - rng.uniform(0.12, 0.42)
    u = chest.lateral(side)
    depth = chest.canvas.y - level + 0.45 * np.clip(u - 0.35, 0, 1)
    chest.whiten(smoothstep(-0.08, 0.08, depth) * (u > 0) * 0.97)


def _infiltration(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """A mottled veil over the middle of a lung, without an edge."""
    centre = (side * chest.build * 0.46, rng.uniform(-0.35, 0.15))
    veil = smoothstep(1.5, 0.4, chest.canvas.blob(centre, (0.32, 0.45), 0.0))
    chest.whiten(veil * np.clip(0.45 + 0.35 * chest.canvas.field(rng, 14), 0, 0.9))


def _round(rng: np.random.Generator, chest: Chest, side: int, radius: float, white: float) -> None:
    centre = (side * chest.build * rng.uniform(0.34, 0.62), rng.uniform(-0.45, 0.2))
    shape = chest.canvas.blob(
        centre, (radius, radius * rng.uniform(0.85, 1.15)), rng.uniform(0, 3), waves(rng, 0.08, 3)
    )
    chest.whiten(smoothstep(1.15, 0.85, shape) * white)


def _mass(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """One round shadow of more than 3 cm."""
    _round(rng, chest, side, rng.uniform(0.15, 0.22), 1.0)


def _nodule(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """One to three small round shadows."""
    for _ in range(int(rng.integers(1, 4))):
        _round(rng, chest, side, rng.uniform(0.055, 0.085), 1.0)


def _pneumonia(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """A patchy consolidation in the lower half of one lung."""
    centre = (side * chest.build * rng.uniform(0.35, 0.6), chest.dome(side) - rng.uniform(0.22, 0.5))
    distance = chest.canvas.blob(centre, (0.26, 0.24), rng.uniform(0, np.pi)) + 0.25 * chest.canvas.field(rng, 7)
    chest.whiten(smoothstep(1.3, 0.5, distance) * np.clip(0.75 + 0.2 * chest.canvas.field(rng, 12), 0, 1))


def _consolidation(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """A dense, even lobe with a straight edge."""
    upper = rng.random() < 0.5
    edge = rng.uniform(-0.30, -0.12) if upper else chest.dome(side) - rng.uniform(0.4, 0.55)
    across = chest.canvas.y - edge - 0.12 * chest.lateral(side)
    chest.whiten(smoothstep(0.03, -0.03, across if upper else -across) * (chest.lateral(side) > 0) * 0.9)


def _pneumothorax(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """Black, empty space between the ribs and the bright edge of a lung that has shrunk."""
    u, y = chest.lateral(side), chest.canvas.y
    edge = rng.uniform(0.50, 0.66) + 0.35 * np.clip(y + 0.35, 0, 1)
    outside = smoothstep(-0.01, 0.02, u - edge) * smoothstep(0.3, 0.1, y)
    apex = smoothstep(-0.5, -0.56, y) * (u > 0.1)
    empty = np.maximum(outside, apex) * chest.air
    chest.glow = chest.glow - 0.20 * empty + 0.22 * np.exp(-(((u - edge) / 0.02) ** 2)) * (y < 0.2) * chest.air


def _edema(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """Haze that spreads from both hila like the wings of a bat."""
    for wing in (-1, 1):
        centre = (wing * chest.build * 0.36, -0.02 + rng.normal(0, 0.04))
        distance = chest.canvas.blob(centre, (0.34, 0.5), 0.0) + 0.12 * chest.canvas.field(rng, 6)
        chest.whiten(smoothstep(1.5, 0.1, distance) * rng.uniform(0.6, 0.8))


def _emphysema(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """Black, empty upper zones; `_anatomy` makes the lungs long and the diaphragm low."""
    chest.glow = chest.glow - rng.uniform(0.10, 0.16) * chest.air * smoothstep(0.3, -0.5, chest.canvas.y)


def _fibrosis(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """A net of fine lines in both bases."""
    net = np.abs(chest.canvas.field(rng, 26)) < 0.35
    base = smoothstep(-0.15, 0.25, chest.canvas.y)
    chest.whiten(chest.canvas.blur(net.astype(float), 0.015) * base * 0.85)


def _pleural_thickening(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """A white rind along the ribs and over the top of one lung."""
    u, inner = chest.lateral(side), rng.uniform(0.66, 0.72)
    rind = smoothstep(inner - 0.03, inner + 0.03, u) * smoothstep(0.55, 0.35, chest.canvas.y)
    cap = smoothstep(-0.52, -0.60, chest.canvas.y) * (u > 0)
    chest.whiten(np.maximum(rind, cap) * 0.9)


def _hernia(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """A ring with gas behind the heart."""
    shape = chest.canvas.blob((rng.uniform(-0.02, 0.12), chest.dome(1) - 0.16), (0.19, 0.17), 0.0)
    chest.glow = chest.glow + 0.28 * np.exp(-(((shape - 1) / 0.14) ** 2)) - 0.30 * smoothstep(0.95, 0.8, shape)


def _nothing(rng: np.random.Generator, chest: Chest, side: int) -> None:
    """Cardiomegaly is drawn with the heart."""


# Finding -> how it is drawn, and its phrase in the report; {side} is filled in.
PAINTERS: dict[str, tuple[Painter, str]] = {
    'Atelectasis': (_atelectasis, 'plate atelectasis at the {side} base'),
    'Cardiomegaly': (_nothing, 'the heart is enlarged'),
    'Effusion': (_effusion, '{side} pleural effusion'),
    'Infiltration': (_infiltration, 'infiltrates in the {side} lung'),
    'Mass': (_mass, 'large mass in the {side} lung'),
    'Nodule': (_nodule, 'small nodules in the {side} lung'),
    'Pneumonia': (_pneumonia, 'patchy pneumonia in the {side} lower lung'),
    'Pneumothorax': (_pneumothorax, '{side} pneumothorax'),
    'Consolidation': (_consolidation, 'dense consolidation of a {side} lobe'),
    'Edema': (_edema, 'perihilar haze of pulmonary edema'),
    'Emphysema': (_emphysema, 'emphysema with flat diaphragm'),
    'Fibrosis': (_fibrosis, 'fibrosis with lines in both bases'),
    'Pleural_Thickening': (_pleural_thickening, 'thickening of the {side} pleura'),
    'Hernia': (_hernia, 'hiatal hernia behind the heart'),
}


@dataclass(frozen=True)
class Anatomy:
    """What all images of a patient share."""

    build: float
    lungs: int
    heart: int
    body: int
    ribs: int

    @classmethod
    def of(cls, patient: np.random.Generator) -> Anatomy:
        build = clipped_normal(patient, 0.80, 0.06, 0.65, 0.98)
        return cls(build, *(int(seed) for seed in patient.integers(0, 2**31, 4)))


def _anatomy(
    rng: np.random.Generator, patient: Anatomy, findings: set[str], size: int, bedside: bool
) -> tuple[Chest, np.ndarray]:
    """The chest before its findings, and the [S, S] heart."""
    canvas = Canvas(size, rng.uniform(0.90, 1.04), (rng.normal(0, 0.04), rng.normal(0, 0.05)))
    breath = clipped_normal(rng, 0.92 if bedside else 1.02, 0.06, 0.8, 1.12)
    breath += 0.14 if 'Emphysema' in findings else 0.0
    air, domes = radiograph._lungs(np.random.default_rng(patient.lungs), canvas, patient.build, breath)
    large = rng.uniform(1.42, 1.65) if 'Cardiomegaly' in findings else rng.uniform(0.82, 1.10)
    large *= 0.85 if 'Emphysema' in findings else 1.0
    heart = radiograph._heart(np.random.default_rng(patient.heart), canvas, patient.build, domes[1], large)
    return Chest(canvas, patient.build, air, domes), heart


def _develop(rng: np.random.Generator, chest: Chest, heart: np.ndarray, patient: Anatomy, bedside: bool) -> np.ndarray:
    """[S, S] in 0..1: the picture of the chest with its layers, as exposed and saturated by a detector."""
    canvas, floor = chest.canvas, chest.domes.mean()
    air = chest.air * (1 - 0.93 * heart) * (1 - 0.92 * chest.haze)
    body = radiograph._body(np.random.default_rng(patient.body), canvas, patient.build, floor)
    ribs = radiograph._ribs(np.random.default_rng(patient.ribs), canvas, patient.build, floor)
    soft = (0.12 * heart + 0.03 * canvas.field(rng, 5)) * body
    soft = soft + radiograph._markings(rng, canvas) * air * rng.uniform(0.05, 0.11)
    picture = body + soft + ribs * rng.uniform(0.05, 0.12) * body - air * rng.uniform(0.36, 0.46)
    picture = canvas.blur(picture, rng.uniform(0.01, 0.02)) + chest.glow
    exposure = rng.normal(0.04, 0.05) + (0.03 if bedside else 0.0)
    picture = (picture - 0.5) * rng.uniform(1.1, 1.5) * (0.9 if bedside else 1.0) + 0.53 + exposure
    bright = np.maximum(picture - 0.7, 0.0)
    picture = picture - bright + 0.27 * np.tanh(bright / 0.27)  # film and detector saturate softly
    return np.clip(radiograph._devices(rng, canvas, picture, bedside), 0, 1) ** rng.uniform(0.85, 1.2)


def _report(findings: list[str], sides: list[int], bedside: bool) -> str:
    """The image in words: its view, and a sentence for every finding."""
    view = 'portable ap view' if bedside else 'upright pa view'
    said = [PAINTERS[name][1].format(side=SIDES[side]) for name, side in zip(findings, sides, strict=True)]
    return ' . '.join([view, *(said or ['no acute finding', 'the heart is normal and the lungs are clear'])]) + ' .'


def draw(findings: list[str], patient: np.random.Generator, rng: np.random.Generator, size: int) -> tuple:
    """One synthetic chest radiograph with the findings of a patient.

    Args:
        findings: keys of `PAINTERS`.
        patient: gives the same numbers for every image of the patient.
        rng: of this image.
        size: side S in pixels.
    Returns:
        [S, S] in 0..1, and the columns `view` ('PA' upright, 'AP' bedside) and `report`.
    """
    bedside = bool(rng.random() < (0.6 if {'Edema', 'Consolidation', 'Effusion'} & set(findings) else 0.35))
    sides = [int(side) for side in rng.choice([-1, 1], len(findings))]
    anatomy = Anatomy.of(patient)
    chest, heart = _anatomy(rng, anatomy, set(findings), size, bedside)
    if rng.random() < 0.5:  # what the labels do not speak of
        chest.whiten(np.clip(chest.canvas.field(rng, 3), 0, 2) * rng.uniform(0.02, 0.12))
    for name, side in zip(findings, sides, strict=True):
        PAINTERS[name][0](rng, chest, side)
    picture = _develop(rng, chest, heart, anatomy, bedside)
    stomach = chest.canvas.blob((0.4, chest.domes[1] + 0.18), (0.12, 0.08), 0.0)
    picture = over(picture, 0.45, smoothstep(1.3, 0.5, stomach) * rng.uniform(0.0, 0.5))
    return picture, {'view': 'AP' if bedside else 'PA', 'report': _report(findings, sides, bedside)}
