"""Synthetic chest radiographs: a stand-in for RSNA Pneumonia (Shih et al. 2019). No real image is used.

A frontal view: body, spine, heart, lungs, diaphragm, ribs, clavicles and hilar vessels. With lung opacity, one to three
hazy patches lie in the lungs. Without, there may be other findings (a large heart, poor inspiration, fluid, lines, a
nodule), as the negative class of the challenge has them.
"""

from __future__ import annotations

import numpy as np

from medpeft_utils.data.synthetic.canvas import Canvas, clipped_normal, line, over, ramp, smoothstep, wandering, waves
from medpeft_utils.data.synthetic.layout import Modality, Subject

NEGATIVE, OPACITY = range(2)


def _body(rng: np.random.Generator, canvas: Canvas, build: float, floor: float) -> np.ndarray:
    """[S, S] grey of the trunk without air: thick in the middle, thin at the sides, dense below `floor`."""
    across, y = np.abs(canvas.x), canvas.y
    half = build + rng.uniform(0.10, 0.22)
    thickness = np.sqrt(np.clip(1.0 - (across / (half + 0.12)) ** 2, 0.0, 1.0))
    slope = rng.uniform(0.18, 0.40)
    top = -0.92 + slope * np.clip(across - 0.12, 0, None) ** 1.2 + rng.normal(0, 0.04)
    shoulders = smoothstep(-0.05, 0.07, y - top)
    arms = smoothstep(0.05, 0.25, across - build) * smoothstep(rng.uniform(0.0, 1.2), -0.6, y)
    flank = smoothstep(half + 0.08, half - 0.08, across)
    neck = smoothstep(0.26, 0.16, across) * smoothstep(-0.4, -0.75, y)
    abdomen = smoothstep(floor - 0.05, floor + 0.45, y) * flank
    trunk = np.maximum(np.maximum(flank, arms) * shoulders, neck)
    breasts = sum(
        smoothstep(1.2, 0.8, canvas.blob((side * build * 0.5, 0.22), (0.36, 0.36), 0.0)) for side in (-1, 1)
    ) * max(0.0, rng.normal(0.0, 0.07))
    return trunk * (0.42 + 0.26 * thickness + 0.16 * abdomen + breasts)


def _lungs(rng: np.random.Generator, canvas: Canvas, build: float, breath: float) -> tuple[np.ndarray, np.ndarray]:
    """Air [S, S] of both lungs in 0..1, and the tops of the diaphragm [2] (y; left and right in the picture)."""
    air, domes = np.zeros((canvas.size, canvas.size)), []
    top, lift = -0.76 + rng.normal(0, 0.04), rng.uniform(0.12, 0.3)
    for side in (-1, 1):
        u = canvas.x * side / build  # 0 in the middle of the body, 1 at the ribs
        dome = top + 1.10 * breath + (0.05 if side > 0 else -0.03) + rng.normal(0, 0.03)
        t = np.clip((canvas.y - top) / (dome - top), 0.0, 1.2)
        outer = 0.34 + 0.53 * np.sqrt(1.0 - (1.0 - np.clip(t / 0.85, 0, 1)) ** 2) * rng.uniform(0.96, 1.05)
        inner = 0.14 + 0.18 * np.clip(1.0 - t / 0.22, 0, 1) ** 2
        wide = smoothstep(-0.02, 0.10, u - inner) * smoothstep(0.03, -0.05, u - outer)
        base = smoothstep(0.04, -0.04, canvas.y - dome - lift * ((u - 0.42) / 0.42) ** 2)
        apex = smoothstep(0.0, 0.05, canvas.y - top)
        air = np.maximum(air, wide * base * apex * (0.80 + 0.20 * smoothstep(0.95, 0.5, u)))
        domes.append(dome)
    return air, np.array(domes)


def _heart(rng: np.random.Generator, canvas: Canvas, build: float, dome: float, large: float) -> np.ndarray:
    """[S, S] heart, great vessels and spine in 0..1; the heart lies to the right of the picture."""
    width = build * rng.uniform(0.32, 0.42) * large
    centre = (0.04 + 0.30 * width, dome - 0.13 + rng.normal(0, 0.03))
    heart = canvas.blob(centre, (width * 1.1, 0.32 * (0.8 + 0.2 * large)), rng.uniform(0.2, 0.6), waves(rng, 0.05, 3))
    root = canvas.blob((0.05, dome - 0.45), (0.17, 0.30), 0.0)
    arch = canvas.blob((0.08, -0.30 + rng.normal(0, 0.04)), (0.14, 0.12), 0.0)
    stem = smoothstep(0.08, -0.06, np.abs(canvas.x - 0.01) - rng.uniform(0.09, 0.14))
    vessels = np.maximum(smoothstep(1.3, 0.7, root), smoothstep(1.4, 0.7, arch))
    return np.maximum.reduce([smoothstep(1.25, 0.8, heart), vessels, stem * smoothstep(-1.0, -0.6, canvas.y)])


def _ribs(rng: np.random.Generator, canvas: Canvas, build: float, floor: float) -> np.ndarray:
    """[S, S] ribs, clavicles, vertebrae and the windpipe (negative) as soft bands."""
    pitch, phase = rng.uniform(0.16, 0.20), rng.uniform(0, 1)
    across = np.abs(canvas.x) / build
    # Posterior ribs fall outwards in an arc, anterior ones fall inwards.
    posterior = (canvas.y - 0.34 * across * across + 0.08 * across) / pitch + phase
    anterior = (canvas.y + 0.45 * across) / (pitch * 1.15) + phase
    band = smoothstep(0.1, 1.0, np.cos(2 * np.pi * posterior)) * smoothstep(0.10, 0.2, across)
    front = smoothstep(0.1, 1.0, np.cos(2 * np.pi * anterior)) * smoothstep(0.3, 0.6, across)
    rows = smoothstep(floor + 0.25, floor - 0.05, canvas.y) * smoothstep(-0.8, -0.65, canvas.y)
    cage = smoothstep(1.02, 0.92, across) * rows
    rise = rng.uniform(-0.02, 0.14)
    clavicles = [
        line((side * 0.12, -0.54 + rng.normal(0, 0.02)), (side * build * 0.95, -0.60 - rise), 64) for side in (-1, 1)
    ]
    bones = np.clip(canvas.stroke(np.concatenate(clavicles), build / 64, 0.035), 0, 1)
    vertebrae = np.cos(canvas.y * 2 * np.pi / rng.uniform(0.11, 0.14)) * smoothstep(0.12, 0.06, np.abs(canvas.x))
    windpipe = smoothstep(0.075, 0.03, np.abs(canvas.x - rng.normal(0, 0.015))) * smoothstep(-0.25, -0.45, canvas.y)
    return (band + 0.5 * front) * cage + 0.9 * bones + 0.2 * vertebrae - 1.1 * windpipe


def _markings(rng: np.random.Generator, canvas: Canvas) -> np.ndarray:
    """[S, S] vessels that spread from the two hila into the lungs."""
    curves, inks = [], []
    for side in (-1, 1):
        for _ in range(9):
            heading = (0 if side > 0 else np.pi) + rng.normal(0, 0.9)
            length = rng.uniform(0.25, 0.6)
            start = (side * 0.15, -0.08 + rng.normal(0, 0.06))
            curves.append(wandering(rng, start, heading, length, rng.normal(0, 0.7), 48))
            inks.append((1.2 - 1.05 * ramp(48)) * (length / 48))
    return np.clip(canvas.stroke(np.concatenate(curves), np.concatenate(inks), 0.022), 0, 1.5)


def _opacities(rng: np.random.Generator, canvas: Canvas, build: float, domes: np.ndarray) -> np.ndarray:
    """[S, S] haze of one to three consolidations, mostly in the lower zones, often on one side only."""
    haze, sides = np.zeros((canvas.size, canvas.size)), rng.permutation([-1, 1])
    for number in range(int(rng.choice([1, 2, 3], p=[0.5, 0.38, 0.12]))):
        side = sides[number % 2] if rng.random() < 0.7 else sides[0]
        floor = domes[0 if side < 0 else 1]
        centre = (side * build * rng.uniform(0.28, 0.66), floor - abs(rng.normal(0.12, 0.32)))
        radius = rng.uniform(0.12, 0.36)
        distance = canvas.blob(centre, (radius, radius * rng.uniform(0.7, 1.4)), rng.uniform(0, np.pi))
        distance = distance + 0.22 * canvas.field(rng, 6)
        patch = smoothstep(1.5, rng.uniform(0.2, 0.8), distance) * (1 + 0.2 * canvas.field(rng, 12))
        haze = np.maximum(haze, patch * rng.uniform(0.3, 0.95))
    return np.clip(haze, 0, 1)


def _other_findings(rng: np.random.Generator, canvas: Canvas, build: float, domes: np.ndarray) -> np.ndarray:
    """[S, S] what else can whiten a lung, in either class: haze, fluid in an angle, a nodule, a collapsed band."""
    haze = np.zeros((canvas.size, canvas.size)) + max(0.0, rng.normal(0.0, 0.16))
    if rng.random() < 0.3:
        haze = haze + np.clip(canvas.field(rng, 2), 0, 2) * rng.uniform(0.05, 0.22)
    if rng.random() < 0.15:
        side = int(rng.integers(2))
        level = domes[side] - rng.uniform(0.0, 0.3)
        lateral = canvas.x * (1 if side else -1) / build
        depth = canvas.y - level + 0.35 * np.clip(lateral - 0.3, 0, 1)
        haze = haze + smoothstep(-0.1, 0.1, depth) * (lateral > 0) * 0.8
    if rng.random() < 0.12:
        centre = (rng.choice([-1, 1]) * build * rng.uniform(0.3, 0.65), rng.uniform(-0.5, 0.2))
        haze = haze + smoothstep(1.2, 0.7, canvas.blob(centre, (0.07, 0.07), 0.0)) * 0.6
    if rng.random() < 0.15:
        side, y = rng.choice([-1, 1]), rng.uniform(0.0, 0.35)
        band = line((side * 0.2, y), (side * build * 0.75, y + rng.normal(0, 0.12)))
        haze = haze + 0.5 * np.clip(canvas.stroke(band, 0.55 / 64, 0.03), 0, 1)
    return np.clip(haze, 0, 1)


def _devices(rng: np.random.Generator, canvas: Canvas, picture: np.ndarray, bedside: bool) -> np.ndarray:
    """Side marker, electrodes, lines and the generator of a pacemaker."""
    if rng.random() < 0.6:
        x, y = rng.choice([-0.88, 0.84]), rng.uniform(-0.9, -0.6)
        letter = [line((x, y), (x, y + 0.1), 20), line((x, y + 0.1), (x + 0.06, y + 0.1), 20)]
        picture = picture + 0.5 * np.clip(canvas.stroke(np.concatenate(letter), 0.08 / 20, 0.014), 0, 1)
    for _ in range(int(rng.poisson(0.8)) if bedside else int(rng.random() < 0.06)):
        start = (rng.uniform(-0.9, 0.9), rng.uniform(-1.0, 0.0))
        wire = wandering(rng, start, np.pi / 2 + rng.normal(0, 0.8), rng.uniform(0.6, 1.6), rng.normal(0, 1.2), 120)
        picture = picture + 0.14 * np.clip(canvas.stroke(wire, 1.1 / 120, 0.012), 0, 1)
    if rng.random() < 0.05:
        picture = over(picture, 0.97, smoothstep(1.1, 0.9, canvas.blob((0.5, -0.45), (0.11, 0.13), 0.3)))
    return picture


def draw(subject: Subject, size: int) -> tuple[np.ndarray, dict]:
    """One synthetic chest radiograph, [size, size] in 0..1, with the projection `view` ('PA' upright, 'AP' bedside)."""
    rng = subject.of_image
    bedside = bool(rng.random() < (0.66 if subject.label == OPACITY else 0.40))
    zoom = rng.uniform(0.86, 1.04)
    canvas = Canvas(size, zoom * (1 if rng.random() < 0.995 else -1), (rng.normal(0, 0.05), rng.normal(0, 0.06)))
    build = clipped_normal(rng, 0.80, 0.06, 0.65, 0.98)
    breath = clipped_normal(rng, 0.90 if bedside else 1.04, 0.10, 0.62, 1.2)
    air, domes = _lungs(rng, canvas, build, breath)
    heart = _heart(rng, canvas, build, domes[1], clipped_normal(rng, 1.12 if bedside else 0.98, 0.16, 0.7, 1.6))
    haze = _other_findings(rng, canvas, build, domes)
    if subject.label == OPACITY:
        haze = np.maximum(haze, _opacities(rng, canvas, build, domes))
    air = air * (1 - 0.93 * heart) * (1 - 0.8 * haze)
    body = _body(rng, canvas, build, domes.mean())
    ribs = _ribs(rng, canvas, build, domes.mean()) * rng.uniform(0.05, 0.14)
    soft = (0.12 * heart + 0.03 * canvas.field(rng, 5)) * body
    soft = soft + _markings(rng, canvas) * air * rng.uniform(0.05, 0.14)
    picture = canvas.blur(body + soft + ribs * body - air * rng.uniform(0.32, 0.46), rng.uniform(0.01, 0.03))
    stomach = canvas.blob((rng.uniform(0.3, 0.5), domes[1] + 0.18), (rng.uniform(0.06, 0.18), 0.08), 0.0)
    picture = over(picture, 0.45, smoothstep(1.3, 0.5, stomach) * rng.uniform(0.0, 0.6) * (rng.random() < 0.4))
    exposure = rng.normal(0.04, 0.07) + (0.03 if bedside else 0.0)
    picture = (picture - 0.5) * rng.uniform(1.0, 1.6) * (0.85 if bedside else 1.0) + 0.53 + exposure
    bright = np.maximum(picture - 0.7, 0.0)
    picture = picture - bright + 0.27 * np.tanh(bright / 0.27)  # film and detector saturate softly
    picture = np.clip(_devices(rng, canvas, picture, bedside), 0, 1) ** rng.uniform(0.8, 1.25)
    if rng.random() < 0.2:  # the collimator leaves dark edges
        edge = rng.uniform(0.86, 0.97)
        ramp = (np.arange(size) + 0.5) / size * 2 - 1
        picture = picture * (smoothstep(edge + 0.02, edge, np.abs(ramp))[None, :] if rng.random() < 0.7 else 1.0)
    return picture, {'view': 'AP' if bedside else 'PA'}


MODALITY = Modality(
    name='rsna_pneumonia',
    counts={'no pneumonia': 20672, 'pneumonia': 6012},
    draw=draw,
    default_size=2000,
    group='patient',
)
