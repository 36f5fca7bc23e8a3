"""Synthetic clinical photographs of skin: a stand-in for FitzPatrick17K (Groh et al. 2021). No real image is used.

A limb, a trunk or a close view under uneven light, in one of the six Fitzpatrick skin types (column `fitzpatrick`),
with an inflammatory eruption (non-neoplastic), a benign growth or a malignant one. Inflammation is red on light skin
and violet to brown on dark skin. The classes overlap: a single inflamed plaque, an inflamed mole, a quiet carcinoma.
"""

from __future__ import annotations

import numpy as np

from medpeft_utils.data.synthetic.canvas import Canvas, over, smoothstep, wandering, waves
from medpeft_utils.data.synthetic.layout import Modality, Subject

BENIGN, MALIGNANT, INFLAMED = range(3)
# Images of each Fitzpatrick type I-VI in each class of the real set (those with a type).
TONES = {
    BENIGN: (444, 671, 475, 367, 159, 44),
    MALIGNANT: (453, 742, 456, 301, 147, 61),
    INFLAMED: (2050, 3395, 2377, 2113, 1227, 530),
}
MELANIN = np.array([0.42, 0.78, 1.15])
BLOOD = np.array([0.15, 0.95, 0.75])
SKIN_MELANIN = (0.06, 0.16, 0.34, 0.60, 1.00, 1.65)  # amount by type
BACKGROUNDS = np.array(
    [
        [0.05, 0.05, 0.06],
        [0.85, 0.86, 0.88],
        [0.20, 0.32, 0.52],
        [0.22, 0.38, 0.30],
        [0.55, 0.53, 0.50],
        [0.10, 0.14, 0.25],
    ]
)


def _scene(rng: np.random.Generator, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Opacity [S, S] of the body part and its shading [S, S] about 1: close view, limb, or an edge of the body."""
    kind = rng.choice(3, p=[0.45, 0.32, 0.23])
    turn = rng.uniform(0, np.pi)
    across = np.cos(turn) * canvas.x + np.sin(turn) * canvas.y
    along = np.cos(turn) * canvas.y - np.sin(turn) * canvas.x
    light = 1.0 + rng.uniform(0.0, 0.25) * across * rng.choice([-1, 1]) + 0.06 * canvas.field(rng, 2)
    if kind == 0:
        return np.ones((canvas.size, canvas.size)), light
    bend = rng.normal(0, 0.12) * along + rng.normal(0, 0.10) * along**2 + 0.02 * canvas.field(rng, 4)
    if kind == 1:
        half = rng.uniform(0.5, 0.85) * (1 + rng.normal(0, 0.12) * along)
        u = (across - bend - rng.normal(0, 0.1)) / half
        round_ = np.sqrt(np.clip(1.0 - u * u, 0.0, 1.0))
        return smoothstep(1.02, 0.95, np.abs(u)), light * (0.55 + 0.45 * round_ + 0.15 * u * rng.choice([-1, 1]))
    edge = rng.uniform(0.45, 0.9)
    d = edge - across + bend
    return smoothstep(-0.02, 0.04, d), light * (0.65 + 0.35 * smoothstep(0.0, 0.6, d))


def _eruption(rng: np.random.Generator, canvas: Canvas) -> dict[str, np.ndarray]:
    """Inflammation: patches, plaques, papules or rings; amounts [S, S] of blood, pigment, scale and relief."""
    kind = rng.choice(4, p=[0.36, 0.22, 0.26, 0.16])
    blotch, mesh = canvas.field(rng, int(rng.integers(2, 5))), canvas.field(rng, 18)
    if kind == 0:  # confluent patches
        mask = smoothstep(rng.uniform(-0.4, 0.5), rng.uniform(0.7, 1.4), blotch + 0.25 * mesh)
    elif kind == 1:  # many papules
        papules = canvas.field(rng, int(rng.integers(8, 17))) + 0.5 * blotch
        mask = smoothstep(rng.uniform(0.6, 1.0), rng.uniform(1.2, 2.0), papules)
    else:  # a single plaque or a ring
        size, centre = rng.uniform(0.22, 0.7), tuple(rng.normal(0, 0.2, 2))
        radii = (size, size * rng.uniform(0.6, 1.0))
        distance = canvas.blob(centre, radii, rng.uniform(0, np.pi), waves(rng, 0.08, 4))
        distance = distance + rng.uniform(0.03, 0.22) * canvas.field(rng, 6)
        mask = smoothstep(rng.uniform(1.1, 1.4), rng.uniform(0.6, 0.95), distance)
        if kind == 3:
            mask = mask * (1 - rng.uniform(0.4, 0.9) * smoothstep(0.85, 0.4, distance))
    texture = np.clip(1 + 0.25 * mesh, 0, 2)
    return {
        'blood': mask * texture * rng.uniform(0.12, 0.7),
        'pigment': mask * max(0.0, rng.normal(0.05, 0.2)),
        'scale': mask * smoothstep(0.2, 2.0, mesh + 0.5 * blotch) * max(0.0, rng.normal(0.1, 0.3)),
        'relief': mask * max(0.0, rng.normal(0.1, 0.25)),
        'ulcer': np.zeros_like(mask),
    }


def _growth(rng: np.random.Generator, canvas: Canvas, malignant: bool) -> dict[str, np.ndarray]:
    """A tumour, benign or malignant; amounts [S, S] as in `_eruption`. One in eight looks like the other."""
    looks_bad = malignant != (rng.random() < 0.12)
    size = float(np.clip(np.exp(rng.normal(-0.9 if malignant else -1.25, 0.36)), 0.09, 0.7))
    low, high = (0.06, 0.26) if looks_bad else (0.0, 0.09)
    distance = canvas.blob(
        tuple(rng.normal(0, 0.16, 2)),
        (size, size * rng.uniform(0.65, 1.0)),
        rng.uniform(0, np.pi),
        waves(rng, 0.8 * rng.uniform(low, high), 4, 0.65),
    )
    lumps, mesh = canvas.field(rng, int(np.clip(2.5 / size, 3, 12))), canvas.field(rng, 18)
    distance = distance + rng.uniform(low, high) * lumps
    mask = smoothstep(1.0 + rng.uniform(0.08, 0.4), 1.0 - rng.uniform(0.1, 0.5), distance)
    variety = rng.uniform(0.3, 1.0) if looks_bad else rng.uniform(0.0, 0.4)
    pigmented = rng.random() < (0.35 if malignant else 0.65)
    pigment = rng.uniform(0.4, 1.6) if pigmented else max(0.0, rng.normal(0.05, 0.15))
    flare = smoothstep(2.0, 0.9, distance) * max(0.0, rng.normal(0.0, 0.18))
    ulcer = rng.uniform(0.4, 1.0) if looks_bad and rng.random() < 0.5 else 0.0
    return {
        'blood': mask * np.clip(1 + variety * lumps, 0, 2) * rng.uniform(0.0, 0.6) + flare,
        'pigment': mask * np.clip(1 + variety * mesh + 0.5 * variety * lumps, 0, 2.5) * pigment,
        'scale': mask * smoothstep(0.3, 2.0, mesh + 0.5 * lumps) * max(0.0, rng.normal(0.0, 0.25)),
        'relief': mask * rng.uniform(0.1, 1.0),
        'ulcer': ulcer * smoothstep(0.75, 0.4, distance + 0.25 * lumps),
    }


def _distractors(rng: np.random.Generator, canvas: Canvas) -> np.ndarray:
    """[S, S] pigment of freckles and small moles, on any skin."""
    spots = np.zeros((canvas.size, canvas.size))
    if rng.random() < 0.35:
        spots = smoothstep(1.2, 2.6, canvas.field(rng, 14)) * rng.uniform(0.05, 0.45)
    for _ in range(int(rng.poisson(0.5))):
        at = canvas.blob(tuple(rng.uniform(-0.9, 0.9, 2)), (rng.uniform(0.03, 0.07),) * 2, 0.0)
        spots = spots + smoothstep(1.4, 0.6, at) * rng.uniform(0.2, 1.0)
    return spots


def _hairs(rng: np.random.Generator, canvas: Canvas) -> np.ndarray | float:
    if rng.random() > 0.15:
        return 0.0
    lie = rng.uniform(0, 2 * np.pi)
    curves = [
        wandering(rng, rng.uniform(-1, 1, 2), lie + rng.normal(0, 0.4), rng.uniform(0.2, 0.6), rng.normal(0, 0.5), 40)
        for _ in range(int(rng.integers(10, 40)))
    ]
    return np.clip(canvas.stroke(np.concatenate(curves), 0.4 / 40, 0.010), 0, 0.8) * rng.uniform(0.2, 0.8)


def _camera(rng: np.random.Generator, canvas: Canvas, picture: np.ndarray) -> np.ndarray:
    """Exposure, colour of the light, contrast, and at times lack of focus."""
    colour = np.exp(rng.normal(0.03, 0.10)) * np.exp(rng.normal(0, 0.06) * np.array([1.0, 0.2, -1.0]))
    picture = (picture * colour - 0.5) * rng.uniform(0.8, 1.2) + 0.5
    if rng.random() < 0.15:
        sigma = rng.uniform(0.02, 0.05)
        picture = np.stack([canvas.blur(picture[..., c], sigma) for c in range(3)], axis=-1)
    return picture


def draw(subject: Subject, size: int) -> tuple[np.ndarray, dict]:
    """One synthetic clinical photograph, [size, size, 3] in 0..1, with its Fitzpatrick type, 1 to 6."""
    rng, canvas = subject.of_image, Canvas(size)
    chances = np.array(TONES[subject.label], dtype=float)
    tone = int(rng.choice(6, p=chances / chances.sum()))
    part, shade = _scene(rng, canvas)
    lesion = _eruption(rng, canvas) if subject.label == INFLAMED else _growth(rng, canvas, subject.label == MALIGNANT)
    mottle = 1 + 0.10 * canvas.field(rng, 3) + 0.05 * canvas.field(rng, 22)
    melanin = SKIN_MELANIN[tone] * np.exp(rng.normal(0, 0.2)) * mottle
    blood = np.clip(rng.normal(0.16, 0.08) + 0.05 * canvas.field(rng, 5), 0, None)
    # On dark skin inflammation shows as more pigment and less as red.
    melanin = melanin + _distractors(rng, canvas) + lesion['pigment'] + 0.35 * lesion['blood'] * SKIN_MELANIN[tone]
    absorbed = melanin[..., None] * MELANIN + (blood + lesion['blood'])[..., None] * BLOOD
    # A raised lesion is bright on the side of the light and dark on the other.
    slope = np.gradient(lesion['relief'])[int(rng.integers(2))] * rng.choice([-1, 1]) * size / 64
    shade = np.clip(shade + np.clip(1.6 * slope, -0.25, 0.25), 0.1, 1.6)
    picture = np.array([0.92, 0.78, 0.70]) * np.exp(-absorbed) * shade[..., None]
    picture = over(picture, np.array([0.88, 0.83, 0.76]) * shade[..., None], np.clip(lesion['scale'], 0, 0.8))
    picture = over(picture, np.array([0.34, 0.07, 0.07]) * shade[..., None], np.clip(lesion['ulcer'], 0, 0.9))
    glint = smoothstep(1.1, 2.4, canvas.field(rng, 12)) * shade * max(0.0, rng.normal(0.0, 0.3))
    picture = over(picture, 1.0, np.clip(glint * (0.3 + lesion['relief']), 0, 0.7))
    picture = over(picture, np.array([0.08, 0.06, 0.05]), _hairs(rng, canvas) * part)
    backdrop = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))] * (1 + 0.12 * canvas.field(rng, 4))[..., None]
    return _camera(rng, canvas, over(backdrop, picture, part)), {'fitzpatrick': tone + 1}


MODALITY = Modality(
    name='fitzpatrick17k',
    counts={'benign': 2234, 'malignant': 2263, 'non-neoplastic': 12080},
    draw=draw,
    default_size=2000,
)
