"""Synthetic fundus photographs: a stand-in for the glaucoma task of SMDG (Kiefer et al. 2022). No real image is used.

The round field of a fundus camera with an orange retina, a dark macula, arteries and veins that leave the optic disc
in four arcades, and a disc with a paler cup. Glaucoma has the larger vertical cup-to-disc ratio and, now and then,
a dark wedge of lost nerve fibres; the ratios of the two classes overlap. A patient has two eyes.
"""

from __future__ import annotations

import numpy as np

from medpeft_utils.data.synthetic.canvas import Canvas, clipped_normal, over, ramp, smoothstep, wandering, waves
from medpeft_utils.data.synthetic.layout import Modality, Subject

Point = tuple[float, float]

NORMAL, GLAUCOMA = range(2)
RATIO = {NORMAL: (0.43, 0.11), GLAUCOMA: (0.69, 0.11)}  # mean and spread of the vertical cup-to-disc ratio


def _arcade(rng: np.random.Generator, disc: Point, radius: float, up: int, nasal: int) -> list[tuple]:
    """Curves of one vein and one artery with branches, as (points [P, 2], width, is_vein)."""
    curves = []
    temporal = -nasal
    for is_vein in (True, False):
        side = rng.uniform(0.05, 0.35) * radius * (1 if is_vein else -0.5)
        start = (disc[0] + side, disc[1] + up * 0.35 * radius)
        heading = np.arctan2(up, temporal * rng.uniform(0.0, 0.5))
        # Temporal arcades start upwards and bend over the macula.
        bend = -temporal * up * rng.uniform(1.0, 1.7)
        trunk = wandering(rng, start, heading, rng.uniform(1.5, 2.1), bend, 150)
        width = rng.uniform(0.020, 0.027) * (1.25 if is_vein else 0.9)
        curves.append((trunk, width, is_vein))
        for _ in range(int(rng.integers(3, 6))):
            at = int(rng.integers(12, 120))
            direction = np.arctan2(*(trunk[at + 2] - trunk[at])[::-1]) + rng.choice([-1, 1]) * rng.uniform(0.35, 0.9)
            twig = wandering(rng, tuple(trunk[at]), direction, rng.uniform(0.4, 1.0), rng.normal(0, 0.6), 70)
            curves.append((twig, width * rng.uniform(0.4, 0.65), is_vein))
        nasal_heading = np.arctan2(up * rng.uniform(0.5, 1.5), nasal)
        nasal_trunk = wandering(rng, start, nasal_heading, rng.uniform(0.7, 1.4), rng.normal(0, 0.6), 100)
        curves.append((nasal_trunk, 0.7 * width, is_vein))
    return curves


def _vessels(rng: np.random.Generator, canvas: Canvas, disc: Point, radius: float, nasal: int) -> np.ndarray:
    """[S, S] darkness of the vessels; one thins on its way, and a vein is darker than an artery."""
    curves = [curve for up in (-1, 1) for curve in _arcade(rng, disc, radius, up, nasal)]
    inks = [
        (1.0 - 0.6 * ramp(len(points))) * (np.hypot(*(points[1] - points[0])) * width * (50 if is_vein else 38))
        for points, width, is_vein in curves
    ]
    ink = canvas.stroke(np.concatenate([points for points, _, _ in curves]), np.concatenate(inks), 0.012)
    return np.clip(ink, 0, 1.3)


def _retina(patient: np.random.Generator, rng: np.random.Generator, canvas: Canvas, fovea: Point) -> np.ndarray:
    """[S, S, 3] retina without vessels and disc. The pigment is the patient's, the light that of the picture."""
    pigment = patient.uniform(0.0, 1.0)
    base = np.array([0.80, 0.42, 0.20]) * (1 - pigment) + np.array([0.56, 0.27, 0.14]) * pigment
    base = base * np.exp(patient.normal(0, [0.06, 0.12, 0.22]))
    choroid = canvas.field(rng, 9) * rng.uniform(0.01, 0.07) + canvas.field(rng, 3) * rng.uniform(0.02, 0.10)
    distance = canvas.blob(fovea, (0.32, 0.30), 0.0)
    macula = np.exp(-(distance**2)) * rng.uniform(0.1, 0.45)
    return base * np.exp((choroid - macula)[..., None] * np.array([0.6, 1.0, 1.0]))


def _disc(
    patient: np.random.Generator, rng: np.random.Generator, canvas: Canvas, disc: Point, radius: float, ratio: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Opacities [S, S] of the disc, of the cup and of the pale crescent beside the disc."""
    tall = patient.uniform(1.0, 1.18)
    tilt = patient.normal(0, 0.15)
    edge = canvas.blob(disc, (radius / np.sqrt(tall), radius * np.sqrt(tall)), tilt, waves(patient, 0.025, 3))
    pixel = 2.0 / canvas.size / radius
    soft = pixel * 1.2 + rng.uniform(0.02, 0.2)
    rim = smoothstep(1 + soft, 1 - soft, edge)
    shift = rng.normal(0, 0.10 * (1 - ratio), 2) * radius
    stretch = np.exp(rng.normal(0.0, 0.08))  # the cup's shape differs from the disc's
    cup = canvas.blob(
        (disc[0] + shift[0], disc[1] + shift[1]),
        (radius * ratio / np.sqrt(tall) / stretch, radius * ratio * np.sqrt(tall)),
        tilt,
        waves(patient, 0.05, 3),
    )
    cup_soft = (pixel * 1.2 + rng.uniform(0.05, 0.45)) / max(ratio, 0.2)
    crescent = smoothstep(1.5, 1.05, edge) * (1 - rim) * max(0.0, rng.normal(0.0, 0.35))
    return rim, smoothstep(1 + cup_soft, 1 - cup_soft, cup), np.clip(crescent, 0, 0.8)


def _wedge(rng: np.random.Generator, canvas: Canvas, disc: Point, temporal: int, strength: float) -> np.ndarray:
    """[S, S] darkening by a wedge of lost nerve fibres, above or below, from the disc outwards."""
    heading = rng.choice([-1, 1]) * rng.uniform(0.6, 1.2)
    dx, dy = (canvas.x - disc[0]) * temporal, canvas.y - disc[1]
    along, across = np.cos(heading) * dx + np.sin(heading) * dy, np.cos(heading) * dy - np.sin(heading) * dx
    return strength * smoothstep(0.35, 0.0, np.abs(across) / np.maximum(along, 0.05)) * smoothstep(0.1, 0.3, along)


def _camera(rng: np.random.Generator, canvas: Canvas, picture: np.ndarray) -> np.ndarray:
    """Uneven light, haze, a glint, exposure, colour and the round field on black."""
    fall = canvas.blob(tuple(rng.normal(0, 0.25, 2)), (1.0, 1.0), 0.0)
    picture = picture * (1.05 - rng.uniform(0.1, 0.55) * fall**2)[..., None]
    haze = max(0.0, rng.normal(0.02, 0.12)) * np.clip(0.5 + 0.4 * canvas.field(rng, 2), 0, 1)
    picture = over(picture, np.array([0.75, 0.62, 0.45]), np.clip(haze, 0, 0.5))
    if rng.random() < 0.12:  # light from the edge of the pupil
        angle = rng.uniform(0, 2 * np.pi)
        glint = np.exp(-(canvas.blob((np.cos(angle), np.sin(angle)), (0.25, 0.25), 0.0) ** 2))
        picture = over(picture, np.array([0.9, 0.8, 0.65]), glint * rng.uniform(0.2, 0.7))
    picture = picture * np.exp(rng.normal(0.05, 0.16)) * np.exp(rng.normal(0, [0.03, 0.06, 0.12]))
    field = smoothstep(1.0, 0.955, canvas.blob((0.0, 0.0), (rng.uniform(0.97, 1.06),) * 2, 0.0))
    if rng.random() < 0.35:  # many cameras cut the field above and below
        cut = rng.uniform(0.78, 0.95)
        field = field * smoothstep(cut + 0.02, cut - 0.02, np.abs(canvas.y))
    return picture * field[..., None]


def draw(subject: Subject, size: int) -> tuple[np.ndarray, dict]:
    """One synthetic fundus photograph, [size, size, 3] in 0..1, with `eye` and the drawn cup-to-disc ratio `vcdr`."""
    patient, rng, canvas = subject.of_group, subject.of_image, Canvas(size)
    right = subject.place == 0
    nasal = 1 if right else -1  # the disc of a right eye lies to the right of its macula
    centred_on_disc = rng.random() < 0.5
    radius = rng.uniform(0.19, 0.28) if centred_on_disc else rng.uniform(0.15, 0.2)
    disc = (nasal * (rng.normal(0, 0.08) if centred_on_disc else rng.normal(0.42, 0.07)), rng.normal(0, 0.06))
    fovea = (disc[0] - nasal * radius * rng.uniform(3.6, 4.6), disc[1] + radius * rng.uniform(0.0, 0.8))
    ratio = clipped_normal(rng, *RATIO[subject.label], 0.12, 0.92)
    picture = _retina(patient, rng, canvas, fovea)
    if rng.random() < (0.45 if subject.label == GLAUCOMA else 0.06):
        picture = picture * (1.0 - _wedge(rng, canvas, disc, -nasal, rng.uniform(0.08, 0.3)))[..., None]
    rim, cup, crescent = _disc(patient, rng, canvas, disc, radius, ratio)
    bright = np.exp(rng.normal(0, 0.1))
    picture = over(picture, np.array([0.86, 0.66, 0.42]) * bright, crescent)
    picture = over(picture, np.array([0.90, 0.55, 0.28]) * bright * rng.uniform(0.85, 1.0), rim * 0.92)
    picture = over(picture, np.array([1.0, 0.88, 0.62]) * bright, cup * rim * rng.uniform(0.45, 0.95))
    depth = rng.uniform(0.5, 0.95) * (1.0 - 0.6 * cup * rim)  # vessels dip at the cup's edge
    blood = (depth * _vessels(rng, canvas, disc, radius, nasal))[..., None]
    picture = picture * np.exp(-blood * np.array([0.35, 0.95, 0.75]))
    return _camera(rng, canvas, picture), {'eye': 'OD' if right else 'OS', 'vcdr': round(ratio, 4)}


MODALITY = Modality(
    name='smdg',
    counts={'no glaucoma': 7299, 'glaucoma': 4617},
    draw=draw,
    default_size=2000,
    group='patient',
    group_sizes={'no glaucoma': (0, 1), 'glaucoma': (0, 1)},
)
