"""Synthetic breast ultrasound: a stand-in for BreastUS (BUSI, Al-Dhabyani et al. 2020). No real image is used.

B-mode pictures in log-compressed grey: skin, fat with septa, fibroglandular tissue, fascia and muscle, with speckle,
depth gain and stray shadows. A benign lesion tends to be a smooth, wide oval with enhancement behind it, a malignant
one irregular, taller than wide, with a shadow; both tendencies have many exceptions, as in the clinic.
"""

from __future__ import annotations

import numpy as np

from medpeft_utils.data.synthetic.canvas import Canvas, clipped_normal, fine, line, over, shrink, smoothstep, waves
from medpeft_utils.data.synthetic.layout import Modality, Subject

BENIGN, MALIGNANT, NORMAL = range(3)


def _tissue(rng: np.random.Generator, canvas: Canvas, depth: np.ndarray) -> np.ndarray:
    """[S, S] grey of breast tissue without a lesion; `depth` is 0 at the skin and 1 at the bottom."""
    fat_end = rng.uniform(0.12, 0.4)
    gland_end = fat_end + rng.uniform(0.15, 0.5)
    warped = depth + canvas.profile(rng, 4) * rng.uniform(0.01, 0.05)
    deep = warped + canvas.profile(rng, 3) * rng.uniform(0.01, 0.06)
    gland = smoothstep(fat_end - 0.04, fat_end + 0.04, warped)
    muscle = smoothstep(gland_end - 0.02, gland_end + 0.03, deep)
    levels = rng.normal([0.40, 0.52, 0.34], 0.07)
    grey = levels[0] + gland * (levels[1] - levels[0]) + muscle * (levels[2] - levels[1])
    streaks = canvas.field(rng, int(rng.integers(20, 36)), int(rng.integers(4, 8)))
    clumps = canvas.field(rng, int(rng.integers(10, 18)), int(rng.integers(4, 8)))
    grey = grey + streaks * (0.03 + 0.09 * gland) * rng.uniform(0.6, 1.4) + clumps * rng.uniform(0.02, 0.09)
    # Connective tissue is bright where a smooth field crosses zero: thin lines that branch and close like septa.
    septa = np.exp(-((clumps + 0.4 * streaks) ** 2) * 14.0) * rng.uniform(0.02, 0.2) * (1.0 - 0.5 * muscle)
    fascia = np.exp(-(((deep - gland_end) / 0.014) ** 2)) * rng.uniform(0.0, 0.4)
    skin = np.exp(-(((depth - 0.03) / 0.018) ** 2)) * rng.uniform(0.1, 0.4)
    return grey + septa + fascia + skin


def _lobules(rng: np.random.Generator, canvas: Canvas, grey: np.ndarray) -> np.ndarray:
    """Fat lobules and ducts: dark ovals that are no lesion and can be taken for one."""
    for _ in range(int(rng.poisson(0.8))):
        width = rng.uniform(0.06, 0.18)
        distance = canvas.blob(
            (rng.uniform(-0.9, 0.9), rng.uniform(-0.7, 0.6)),
            (width, width * rng.uniform(0.3, 0.75)),
            rng.normal(0, 0.25),
        )
        grey = over(grey, grey * rng.uniform(0.55, 0.9), smoothstep(1.25, 0.75, distance))
    return grey


def _lesion_traits(rng: np.random.Generator, malignant: bool) -> dict[str, float]:
    """Shape, edge and echo of a lesion. Distributions of the two classes overlap in every trait.

    One in twelve of each class looks like the other in shape (a circumscribed carcinoma, a scarred fibroadenoma) and
    the echo behind the lesion is drawn separately: no single trait determines the class.
    """
    shape_like = malignant != (rng.random() < 0.08)
    echo_like = malignant != (rng.random() < 0.16)
    return {
        'aspect': clipped_normal(rng, *((0.92, 0.22, 0.5, 1.6) if shape_like else (0.64, 0.16, 0.3, 1.2))),
        'waviness': rng.uniform(0.06, 0.24) if shape_like else rng.uniform(0.0, 0.10),
        'roughness': rng.uniform(0.08, 0.5) if shape_like else rng.uniform(0.0, 0.09),
        'softness': rng.uniform(0.12, 0.6) if shape_like else rng.uniform(0.06, 0.35),
        'posterior': rng.normal(-0.5, 0.25) if echo_like else rng.normal(0.28, 0.28),
        'echo': rng.uniform(0.08, 0.5) if malignant else rng.uniform(0.0, 0.7),
        'width': float(np.exp(rng.normal(-1.05, 0.33))) if malignant else float(np.exp(rng.normal(-1.22, 0.42))),
    }


def _add_lesion(rng: np.random.Generator, canvas: Canvas, grey: np.ndarray, malignant: bool) -> tuple[np.ndarray, dict]:
    traits = _lesion_traits(rng, malignant)
    across = float(np.clip(traits['width'], 0.08, 0.6))
    along = float(np.clip(across * traits['aspect'], 0.06, 0.65))
    centre = (rng.uniform(-0.6, 0.6), clipped_normal(rng, -0.25, 0.22, -0.95 + along, 0.4))
    distance = canvas.blob(centre, (across, along), rng.normal(0, 0.2), waves(rng, traits['waviness'], 5, 0.8))
    # Spicules: noise that is fine relative to the lesion moves the edge.
    fineness = int(np.clip(3.0 / across, 6, 26))
    distance = distance + traits['roughness'] * canvas.field(rng, fineness)
    half = traits['softness'] * 0.5
    mask = smoothstep(1.0 + half, 1.0 - half, distance)
    lateral = np.abs(canvas.x - centre[0]) / across + 0.12 * canvas.profile(rng, 9)
    behind = smoothstep(rng.uniform(1.1, 1.5), rng.uniform(0.2, 0.8), lateral)
    behind = behind * smoothstep(centre[1] + 0.1 * along, centre[1] + 1.5 * along, canvas.y)
    behind = behind * np.exp(-np.clip(canvas.y - centre[1] - along, 0, None) * rng.uniform(0.1, 1.6))
    grey = grey * (1.0 + float(np.clip(traits['posterior'], -0.9, 0.8)) * behind * (1.0 - mask))
    inside = 0.5 * traits['echo'] + canvas.field(rng, 12) * rng.uniform(0.0, 0.11)
    rim = np.exp(-(((distance - 1.05) / 0.14) ** 2)) * (rng.random() < 0.5) * rng.uniform(0.0, 0.25)
    return over(grey, inside, mask) + rim, {'aspect': along / across, 'posterior': traits['posterior']}


def _speckle(rng: np.random.Generator, size: int) -> np.ndarray:
    """[S, S] zero-mean log-amplitude of fully developed speckle, wider across the beam than along it."""
    intensity = rng.standard_exponential((size, size + 3))
    intensity = intensity[:, :-3] + intensity[:, 1:-2] + intensity[:, 2:-1] + intensity[:, 3:]
    return np.log(intensity + 0.4) - 1.37


def _marks(rng: np.random.Generator, canvas: Canvas, grey: np.ndarray) -> np.ndarray:
    """Burnt-in measuring crosses and text, as published images have them."""
    if rng.random() < 0.15:
        x, y = rng.uniform(-0.9, 0.2), rng.uniform(0.5, 0.9)
        width = rng.uniform(0.15, 0.6)
        letters = (canvas.profile(rng, 26) > -0.2) & (canvas.x > x) & (canvas.x < x + width)
        grey = np.where(letters & (np.abs(canvas.y - y) < 0.035) & (canvas.field(rng, 26) > -0.6), 0.95, grey)
    if rng.random() < 0.15:
        for _ in range(2):
            x, y = rng.uniform(-0.6, 0.6), rng.uniform(-0.7, 0.4)
            cross = [line((x - 0.05, y), (x + 0.05, y), 16), line((x, y - 0.05), (x, y + 0.05), 16)]
            grey = grey + 0.8 * np.clip(canvas.stroke(np.concatenate(cross), 0.1 / 16, 0.012), 0, 1)
    return grey


def draw(subject: Subject, size: int) -> tuple[np.ndarray, dict]:
    """One synthetic B-mode image, [size, size] in 0..1, with its `aspect` and `posterior` echo (0: no lesion)."""
    rng, canvas = subject.of_image, Canvas(fine(size))
    depth = (canvas.y + 1.0) * 0.5
    grey = _lobules(rng, canvas, _tissue(rng, canvas, depth))
    extra = {'aspect': 0.0, 'posterior': 0.0}
    if subject.label != NORMAL:
        grey, extra = _add_lesion(rng, canvas, grey, subject.label == MALIGNANT)
    stray = smoothstep(0.6, 2.2, canvas.profile(rng, 7)) * smoothstep(0.0, 0.6, depth) * rng.uniform(0.0, 0.9)
    fade = smoothstep(rng.uniform(0.1, 0.6), rng.uniform(0.9, 1.4), depth) * rng.uniform(0.2, 0.9)
    grey = grey * (1.0 - stray) * (1.0 - fade)
    grey = grey + (0.10 + 0.25 * grey) * rng.uniform(0.4, 1.0) * _speckle(rng, canvas.size) * np.clip(grey * 5, 0, 1)
    grey = np.clip((grey - rng.uniform(0.0, 0.08)) * rng.uniform(0.75, 1.35), 0, 1) ** rng.uniform(0.85, 1.35)
    if rng.random() < 0.04:  # a sector probe leaves black corners
        grey = grey * smoothstep(0.0, 0.03, canvas.y + 1.35 - np.abs(canvas.x) * rng.uniform(1.4, 2.2))
    return shrink(_marks(rng, canvas, grey), size), extra


MODALITY = Modality(
    name='breastus',
    counts={'benign': 437, 'malignant': 210, 'normal': 133},
    draw=draw,
    default_size=780,
)
