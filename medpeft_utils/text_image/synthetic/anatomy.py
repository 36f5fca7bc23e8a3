"""The normal synthetic chest: what a patient looks like on every radiograph, and the parts that are drawn of it.

World coordinates: x to the right of the picture, y down, [-1, 1] each; the patient's right is at negative x. Arrays are
float32. Shapes are given by curves over one axis where that will do, so that few operations need the whole square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medpeft_utils.data.synthetic.canvas import clipped_normal

Array = np.ndarray


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


def heart(patient: Patient, x: Array, y: Array, breath: float, ratio: float, soft: float) -> Array:
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
