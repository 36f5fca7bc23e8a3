"""One synthetic chest radiograph: the normal chest, the findings in it, exposure and noise.

World coordinates: x to the right of the picture, y down, [-1, 1] each; the patient's right is at negative x. Arrays are
float32. Shapes are curves over one axis where possible, and few operations need the whole square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from medpeft_utils.data.synthetic.canvas import Canvas, clipped_normal, generator
from medpeft_utils.data.synthetic.chest_pairs.findings import SIDES, Finding

Array = np.ndarray
ZONE_HEIGHT = {'upper': 0.24, 'mid': 0.54, 'lower': 0.86}  # t, see `Lung`
OPACITY_DEPTH = (0.55, 0.75, 0.95)  # share of the air that is replaced, by grade
FLUID_HEIGHT = (0.25, 0.47, 0.80)  # of the fluid above the costophrenic angle, world units
GAP = (0.17, 0.36)  # between the ribs and the collapsed lung, over the half width of the cage
CARDIOTHORACIC = (0.56, 0.62, 0.69)  # width of the heart over that of the cage: above 0.5 is enlarged
VESSELS, STEPS = 14, 32  # vessels of both lungs, samples along each
# Strokes of the side marker on a grid of 2 by 4 steps: x and y from, x and y to
LETTERS = {
    'L': ((0, 0, 0, 4), (0, 4, 2, 4)),
    'R': ((0, 0, 0, 4), (0, 0, 2, 0), (2, 0, 2, 2), (0, 2, 2, 2), (1.6, 2, 1.6, 4)),
}


def edge(distance: Array, width: float) -> Array:
    """Soft step: 0 where `distance` is below -width / 2, 1 above width / 2, a cubic between."""
    t = distance * (1.0 / width)
    t += 0.5
    np.clip(t, 0, 1, out=t)
    step = t * t
    t *= -2
    t += 3
    step *= t
    return step


@dataclass(frozen=True)
class Patient:
    """What stays the same on all radiographs of a patient. Lengths in world units; pairs are (right, left)."""

    size: float  # world units that half the picture spans: large for a small patient
    build: float  # half the width of the rib cage
    apex: float  # y of the tops of the lungs
    domes: tuple[float, float]  # y of the tops of the diaphragm
    lift: float  # how far the diaphragm falls towards the ribs
    taper: float  # how fast the lungs widen from the apex on
    heart: float  # width of the heart over that of the rib cage
    tilt: float  # of the heart's long axis
    knob: float  # size of the aortic arch
    rib_pitch: float
    rib_slope: float
    rib_phase: float
    bone: float  # how much the bones stand out
    clavicle: float  # rise of the clavicles to the sides
    shoulder: float  # slope of the shoulders
    thickness: float  # soft tissue, -1 thin to 1 heavy
    breasts: float
    spine: float
    vessels: int  # seed of the pattern of vessels
    stomach: tuple[float, float]  # gas below the left diaphragm: x, half its width
    marker: tuple[float, float, bool]  # x and y of the side marker, and whether it is an L

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Patient:
        """A patient from a generator."""
        dome = rng.normal(0.42, 0.06)
        left = bool(rng.random() < 0.7)
        return cls(
            size=rng.uniform(0.93, 1.09),
            build=clipped_normal(rng, 0.81, 0.07, 0.66, 0.95),
            apex=clipped_normal(rng, -0.80, 0.05, -0.92, -0.68),
            domes=(dome, dome + rng.uniform(0.02, 0.10)),
            lift=rng.uniform(0.15, 0.30),
            taper=rng.uniform(0.50, 0.80),
            heart=clipped_normal(rng, 0.425, 0.03, 0.36, 0.475),
            tilt=rng.uniform(0.1, 0.5),
            knob=rng.uniform(0.6, 1.25),
            rib_pitch=rng.uniform(0.155, 0.21),
            rib_slope=rng.uniform(0.18, 0.50),
            rib_phase=rng.random(),
            bone=rng.uniform(0.07, 0.14),
            clavicle=rng.uniform(-0.03, 0.16),
            shoulder=rng.uniform(0.15, 0.50),
            thickness=rng.uniform(-1.0, 1.0),
            breasts=rng.uniform(0.03, 0.07) * (rng.random() < 0.4),
            spine=rng.uniform(0.3, 1.0),
            vessels=int(rng.integers(2**31)),
            stomach=(rng.uniform(0.28, 0.5), rng.uniform(0.07, 0.15) * (rng.random() < 0.5)),
            marker=((0.82 if left else -0.90) + rng.normal(0, 0.03), rng.uniform(-0.90, -0.6), left),
        )


@dataclass(frozen=True)
class Lung:
    """One lung on a canvas.

    Args:
        side: -1 the right one (left of the picture), 1 the left one.
        u: [1, S] distance from the middle over the half width of the cage.
        t: [S, 1] height: 0 at the apex, 1 at the top of the diaphragm.
        outer, inner: [S, 1] borders in u.
        base: [1, S] border in y.
        air: [S, S] in 0..1.
    """

    side: int
    u: Array
    t: Array
    outer: Array
    inner: Array
    base: Array
    air: Array


def lung(patient: Patient, x: Array, y: Array, side: int, breath: float, soft: float) -> Lung:
    """The lung of one side; `breath` moves the diaphragm (world units, down positive), `soft` is the width of edges."""
    u = x * (side / patient.build)
    dome = patient.domes[0 if side < 0 else 1] + breath
    t = (y - patient.apex) * (1.0 / (dome - patient.apex))
    rise = np.clip(t * (1 / 0.9), 0, 1)
    outer = 0.22 + 0.70 * (1 - (1 - rise) ** 2) ** patient.taper - 0.03 * np.clip(t - 0.9, 0, None)
    inner = 0.13 + 0.12 * np.clip(1 - t / 0.25, 0, 1) ** 2
    fall = (u - 0.42) * (1 / 0.5)
    base = dome + patient.lift * fall * fall * np.where(fall > 0, 1.0, 0.35).astype(np.float32)
    air = edge(outer - u, soft * 1.5) * edge(u - inner, soft * 2.5) * edge(base - y, soft * 1.3)
    return Lung(side, u, t, outer, inner, base, air * edge(y - patient.apex, 0.05))


def _oval(x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float], soft: float) -> Array:
    """[S, S] soft ellipse; `soft` is the width of its edge over its radius."""
    dx, dy = (x - centre[0]) * (1 / radii[0]), (y - centre[1]) * (1 / radii[1])
    return edge(1 - np.sqrt(dx * dx + dy * dy), soft)


def heart_of(patient: Patient, x: Array, y: Array, breath: float, ratio: float, soft: float) -> Array:
    """[S, S] heart and great vessels in 0..1.

    `ratio` is the heart's width over that of the rib cage (the cardiothoracic ratio); up to 0.5 is normal.
    """
    width, floor = 2 * patient.build * ratio, patient.domes[1] + breath
    centre, half = 0.17 * width, width / 2  # two thirds of the heart lie to the patient's left
    high = 0.20 + 0.36 * (ratio - 0.3)
    dx = (x - centre) * (1 / half)
    dy = (y - (floor + 0.10 - high)) * (1 / high) - patient.tilt * 0.6 * dx
    shape = edge(1 - np.sqrt(dx * dx + dy * dy * np.where(dy > 0, 0.35, 1.0).astype(np.float32)), soft / high * 1.8)
    right = _oval(x, y, (centre - 0.50 * half, floor - 0.55 * high), (0.50 * half, 0.9 * high), 0.25)  # right atrium
    up = np.clip((floor - 0.02 - y) * (1 / 0.6), 0, 1)
    stem = edge(0.12 + 0.18 * (1 - up) ** 2 - np.abs(x - 0.02 - 0.04 * (1 - up)), 0.08)
    knob = _oval(x, y, (0.075, -0.36), (0.115 * patient.knob, 0.11 * patient.knob), 0.5)
    trunk = _oval(x, y, (0.09 + 0.04 * patient.knob, floor - 0.47), (0.11, 0.20), 0.7)  # pulmonary trunk
    return np.maximum(np.maximum(shape, right), np.maximum(np.maximum(stem, knob), trunk))


def trunk(patient: Patient, x: Array, y: Array, floor: float) -> Array:
    """[S, S] grey of the body without air: thick in the middle, thin at the sides, dense below `floor`."""
    across = np.abs(x)
    half = patient.build + 0.11 + 0.05 * patient.thickness
    flank = edge(half + 0.02 - across, 0.10)
    top = -0.95 + patient.shoulder * np.clip(across - 0.14, 0, None) ** 1.3
    shoulders = edge(y - top, 0.10)
    arms = edge(across - patient.build, 0.2) * edge(-0.35 - y, 0.7) * 0.75
    neck = edge(0.22 - across, 0.12) * edge(-0.5 - y, 0.4)
    outline = np.maximum(np.maximum(flank, arms) * shoulders, neck)
    thickness = np.sqrt(np.clip(1 - (across * (1 / (half + 0.15))) ** 2, 0, 1))
    grey = 0.44 + 0.24 * thickness + 0.13 * edge(y - floor - 0.2, 0.6) * flank + 0.05 * patient.thickness
    if patient.breasts:
        for side in (-1, 1):
            grey += patient.breasts * _oval(x, y, (side * patient.build * 0.52, 0.24), (0.36, 0.36), 0.5)
    return outline * grey


def bones(patient: Patient, x: Array, y: Array, floor: float) -> Array:
    """[S, S] ribs, clavicles and spine as soft bands; the windpipe is negative."""
    across = np.abs(x) * (1 / patient.build)
    pitch, phase = 2 * np.pi / patient.rib_pitch, 2 * np.pi * patient.rib_phase
    # posterior ribs fall outwards in an arc, anterior ones fall inwards
    posterior = y * pitch - pitch * (patient.rib_slope * across**2 - 0.12 * across) + phase
    anterior = (y + 0.42 * across) * (pitch / 1.2) + phase
    band = np.clip(1.3 * np.cos(posterior) - 0.25, 0, 1) * edge(across - 0.14, 0.1)
    front = np.clip(1.3 * np.cos(anterior) - 0.35, 0, 1) * (0.45 * edge(across - 0.45, 0.3))
    cage = edge(floor + 0.3 - y, 0.3) * edge(y - patient.apex - 0.03, 0.08)
    picture = (band + front) * (cage * edge(1.0 - across, 0.08))
    level = patient.apex + 0.26 - patient.clavicle * (across - 0.1)
    picture += 0.9 * edge(0.037 - np.abs(y - level), 0.07) * edge(across - 0.14, 0.05) * edge(1.02 - across, 0.05)
    column = edge(0.085 - np.abs(x), 0.06) * patient.spine
    picture += column * (0.55 + 0.35 * np.cos(y * (2 * np.pi / 0.125)))
    return picture - 1.25 * edge(0.05 - np.abs(x), 0.05) * edge(-0.28 - y, 0.15)


def stomach(patient: Patient, x: Array, y: Array, breath: float) -> Array:
    """[S, S] gas bubble below the left diaphragm in 0..1."""
    at, half = patient.stomach
    return _oval(x, y, (at, patient.domes[1] + breath + 0.17), (half, 0.06), 0.8)


# ---- findings


def opacity(rng: np.random.Generator, canvas: Canvas, lung: Lung, finding: Finding) -> Array:
    """[S, S] share of the air that an airspace opacity replaces: fluffy, in the middle of its zone."""
    high, wide = rng.uniform(0.19, 0.25), rng.uniform(0.28, 0.38)
    height, across = ZONE_HEIGHT[finding.zone] + rng.normal(0, 0.03), rng.uniform(0.48, 0.60)
    across += {'upper': -0.05, 'mid': 0.0, 'lower': 0.06}[finding.zone]
    du, dt = (lung.u - across) * (1 / wide), (lung.t - height) * (1 / high)
    waves = canvas.field(rng, 7).astype(np.float32)
    distance = np.sqrt(du * du + dt * dt) + 0.20 * waves
    patch = edge(1.0 - distance, (0.9, 0.75, 0.5)[finding.grade])
    grain = 1 + (0.10, 0.16, 0.05)[finding.grade] * canvas.field(rng, 14).astype(np.float32)
    return np.clip(patch * grain * OPACITY_DEPTH[finding.grade], 0, 1)


def effusion(rng: np.random.Generator, lung: Lung, y: Array, finding: Finding) -> Array:
    """[S, S] share of the air that fluid replaces: level from the angle up, with the meniscus rising to the ribs."""
    angle = float(lung.base[0, np.abs(lung.u[0] - 0.9).argmin()])
    level = angle - FLUID_HEIGHT[finding.grade] - rng.uniform(-0.03, 0.03)
    meniscus = (0.16, 0.24, 0.24)[finding.grade] * np.clip((lung.u - 0.45) / 0.45, 0, 1.2) ** 2
    return edge(y - level - 0.08 + meniscus, (0.10, 0.13, 0.16)[finding.grade]) * 0.96 * (lung.u > 0)


def pneumothorax(rng: np.random.Generator, lung: Lung, finding: Finding, soft: float) -> tuple[Array, Array]:
    """Free air beside the lung and the pleural line, [S, S] each in 0..1: widest at the apex, without vessels."""
    gap = GAP[finding.grade] * rng.uniform(0.9, 1.1)
    width = gap * (0.30 + 0.70 * np.clip(1.2 - lung.t, 0, 1))
    rise = np.clip((lung.t - gap * 0.7) * (1 / 0.6), 0, 1)  # the apex of the lung comes down
    border = lung.inner + (lung.outer - width - lung.inner) * np.sqrt(1 - (1 - rise) ** 2)  # [S, 1]
    free = lung.u - border  # [S, S], positive in the free air
    thin = max(0.03, 1.2 * soft)
    line = np.clip(1 - np.abs(free) * (1 / thin), 0, 1) * edge(lung.t - gap * 0.7, 0.05) * lung.air
    return edge(free, max(0.02, soft)) * lung.air, line


# ---- the picture


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
            gap, line = pneumothorax(rng, lungs[finding.side], finding, soft)
            free, lines = np.maximum(free, gap), np.maximum(lines, line)
            left[finding.side] = left[finding.side] * (1 - gap) * (0.88, 0.70)[finding.grade]
        elif finding.kind == 'opacity':
            left[finding.side] = left[finding.side] * (1 - opacity(rng, canvas, lungs[finding.side], finding))
        elif finding.kind == 'effusion':
            left[finding.side] = left[finding.side] * (1 - effusion(rng, lungs[finding.side], y, finding))
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
    lungs = {side: lung(patient, x, y, (-1, 1)[i], breath, soft) for i, side in enumerate(SIDES)}
    air, free, lines = _with_findings(of_findings, canvas, lungs, y, findings, soft)
    enlarged = [CARDIOTHORACIC[finding.grade] for finding in findings if finding.kind == 'cardiomegaly']
    heart = heart_of(patient, x, y, breath, (enlarged or [patient.heart])[0] + wobble, soft)
    floor = sum(patient.domes) / 2 + breath
    seen = 1 - 0.93 * heart
    tissue = 1 + 0.11 * heart + 0.025 * canvas.field(rng, 5).astype(np.float32)
    tissue += patient.bone * bones(patient, x, y, floor)
    picture = trunk(patient, x, y, floor) * tissue
    picture -= rng.uniform(0.38, 0.44) * seen * (air + 1.22 * free)
    picture += 0.10 * _vessels(patient, canvas, breath) * air * seen
    if patient.stomach[1]:
        picture -= 0.12 * stomach(patient, x, y, breath)
    picture = canvas.blur(picture, max(0.008, 0.8 / size)).astype(np.float32)
    picture += 0.16 * lines * seen + 0.55 * _marker(patient, canvas)
    return _exposed(rng, picture, size)
