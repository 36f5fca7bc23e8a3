"""Findings drawn into the lungs of a synthetic radiograph; what each caption says can be seen."""

from __future__ import annotations

import numpy as np

from medpeft_utils.data.synthetic.canvas import Canvas
from medpeft_utils.text_image.synthetic.anatomy import Array, Lung, edge
from medpeft_utils.text_image.synthetic.findings import Finding

ZONE_HEIGHT = {'upper': 0.24, 'mid': 0.54, 'lower': 0.86}  # t, see `Lung`
OPACITY_DEPTH = (0.55, 0.75, 0.95)  # share of the air that is replaced, by grade
FLUID_HEIGHT = (0.25, 0.47, 0.80)  # of the fluid above the costophrenic angle, world units
GAP = (0.17, 0.36)  # between the ribs and the collapsed lung, over the half width of the cage
CARDIOTHORACIC = (0.56, 0.62, 0.69)  # width of the heart over that of the cage: above 0.5 is enlarged


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
