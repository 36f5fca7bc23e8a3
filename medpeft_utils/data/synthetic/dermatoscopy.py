"""Synthetic dermatoscopy: a stand-in for HAM10000 (Tschandl et al. 2018), seven classes. No real image is used.

Light is absorbed on its way through the skin: a pixel is the skin's colour times exp(-amount x absorption) of melanin,
blood and blue-grey (deep) pigment. The classes differ in amount, pattern, border and symmetry of the three, and overlap
as the real ones do: melanoma (mel) beside naevi (nv), keratoses (bkl, akiec) beside both.
"""

from __future__ import annotations

import numpy as np

from medpeft_utils.data.synthetic.canvas import Canvas, line, over, smoothstep, wandering, waves
from medpeft_utils.data.synthetic.layout import Modality, Subject

MELANIN = np.array([0.62, 1.18, 1.55])
BLOOD = np.array([0.22, 1.05, 0.62])
DEEP = np.array([1.05, 0.85, 0.50])  # melanin deep in the dermis scatters blue back
WHITE = np.array([1.0, 0.93, 0.92])


# Ranges from which a lesion of a class is drawn, uniform from low to high; '-' is the usual one of the second column.
# size: mean radius, 1 = half the image's width. elongation: long over short radius. waviness and roughness: amplitude
# of the slow waves and of the fine noise of the border. softness: width of the border, relative to the radius.
# melanin and blood: amount in the lesion. blotches and network: variation of melanin in coarse blotches and in fine
# meshes and dots. lacunae: blood in lumps, not spread out. deep: blue-grey pigment in patches. halo: fall of melanin
# towards the middle (a pale centre); below 0 a dark centre. scale: white scale, keratin or scar, as speckles.
# vessels: number of branching vessels. tilt: melanin stronger on one side (asymmetry of colour).
TABLE = """
trait       usual      akiec      bcc        bkl        df         mel        nv         vasc
size        0.25:0.65  0.35:0.85  0.3:0.8    0.3:0.85   0.3:0.65   0.35:0.95  0.2:0.8    0.22:0.6
elongation  1.0:1.6    -          -          -          1.0:1.35   1.0:1.8    -          -
waviness    0.0:0.08   -          0.0:0.15   0.0:0.14   -          0.04:0.22  0.0:0.1    0.0:0.14
roughness   0.02:0.15  0.12:0.4   0.08:0.3   0.08:0.35  0.03:0.2   0.06:0.3   -          0.02:0.2
softness    0.15:0.6   0.4:1.0    0.3:1.0    0.12:0.5   0.5:1.1    0.1:0.6    -          0.12:0.4
melanin     0.4:1.2    0.0:0.35   0.0:0.4    0.2:0.9    0.15:0.6   0.5:1.6    -          0.0:0.2
blotches    0.05:0.3   0.2:0.7    0.1:0.6    0.1:0.5    -          0.2:0.75   -          -
network     0.0:0.25   0.1:0.45   -          0.1:0.5    0.05:0.3   0.0:0.35   -          -
blood       0.0:0.35   0.35:0.85  0.15:0.65  0.0:0.35   0.1:0.5    0.0:0.45   -          0.9:2.0
lacunae     0.0:0.0    -          0.0:0.4    -          -          -          -          0.1:0.8
deep        0.0:0.1    -          0.1:0.9    0.0:0.25   -          0.1:1.0    0.0:0.15   0.0:0.7
halo        -0.5:0.2   -0.3:0.3   -0.2:0.4   -0.2:0.35  0.1:1.0    -0.5:0.3   -          -
scale       0.0:0.1    0.15:0.7   0.0:0.3    0.0:0.45   0.0:0.25   0.0:0.25   -          -
vessels     0:0        -          1:6        -          -          -          -          -
tilt        0.0:0.25   -          -          -          -          0.1:0.9    0.0:0.35   -
"""
_HEAD, *_ROWS = [line.split() for line in TABLE.strip().splitlines()]
CLASSES = tuple(_HEAD[2:])
PATTERNS: dict[str, dict[str, tuple[float, ...]]] = {
    name: {row[0]: tuple(map(float, (row[1] if row[i] == '-' else row[i]).split(':'))) for row in _ROWS}
    for i, name in enumerate(CLASSES, start=2)
}
SITES = ('back', 'lower extremity', 'trunk', 'upper extremity', 'abdomen', 'face', 'chest', 'foot', 'neck', 'scalp')
SITE_CHANCES = np.array([22, 21, 14, 11, 10, 7.5, 4, 3.5, 2, 1.5]) / 96.5


def _amounts(rng: np.random.Generator, canvas: Canvas, pattern: dict) -> tuple[np.ndarray, np.ndarray]:
    """Amounts [S, S, 3] of melanin, blood and deep pigment, and [S, S] of white scale, for one lesion."""
    draw = {name: rng.uniform(*span) for name, span in pattern.items() if name != 'vessels'}
    size, stretch = draw['size'], np.sqrt(draw['elongation'])
    distance = canvas.blob(
        (0.0, 0.0), (size * stretch, size / stretch), rng.uniform(0, np.pi), waves(rng, draw['waviness'], 5, 0.8)
    )
    coarse, mesh = canvas.field(rng, int(np.clip(2.2 / size, 3, 9))), canvas.field(rng, 20)
    distance = distance + draw['roughness'] * (0.8 * coarse + 0.35 * mesh)
    mask = smoothstep(1.0 + 0.5 * draw['softness'], 1.0 - 0.5 * draw['softness'], distance)
    blotches, patches = canvas.field(rng, int(np.clip(3.0 / size, 4, 12))), canvas.field(rng, 5)
    side = rng.uniform(0, 2 * np.pi)
    tilt = 1.0 + draw['tilt'] * np.clip((np.cos(side) * canvas.x + np.sin(side) * canvas.y) / size, -1.2, 1.2)
    middle = 1.0 - draw['halo'] * smoothstep(0.9, 0.1, distance)
    texture = 1.0 + draw['blotches'] * blotches + draw['network'] * mesh
    melanin = draw['melanin'] * mask * np.clip(tilt * middle * texture, 0.0, 2.5)
    lumps = 1.0 + draw['lacunae'] * (smoothstep(-0.5, 0.9, blotches) * 1.6 - 1.0)
    blood = draw['blood'] * np.clip(mask * lumps, 0.0, 2.0) * (1.0 + 0.25 * patches)
    deep = draw['deep'] * mask * smoothstep(0.2, 1.2, patches - 0.3 * blotches)
    scale = draw['scale'] * smoothstep(1.2, 0.7, distance) * smoothstep(0.2, 2.2, mesh + 0.6 * coarse)
    scar = 0.35 * max(draw['halo'], 0) * smoothstep(0.6, 0.1, distance)
    return np.stack([melanin, blood, deep], axis=-1), scale + scar


def _vessels(rng: np.random.Generator, canvas: Canvas, count: int, reach: float) -> np.ndarray:
    """[S, S] blood in thin, branching vessels within `reach` of the middle."""
    if count == 0:
        return np.zeros((canvas.size, canvas.size))
    curves, inks = [], []
    for _ in range(count):
        angle, heading = rng.uniform(0, 2 * np.pi, 2)
        start = (reach * 0.8 * np.cos(angle), reach * 0.8 * np.sin(angle))
        for branch in range(int(rng.integers(2, 5))):
            length = reach * rng.uniform(0.4, 1.0)
            turned = heading + rng.normal(0, 0.6) * (branch > 0)
            curves.append(wandering(rng, start, turned, length, rng.normal(0, 1.2), 60))
            inks.append(np.full(60, length / 60 * rng.uniform(0.3, 1.0)))
    return np.clip(canvas.stroke(np.concatenate(curves), np.concatenate(inks), 0.018), 0, 1.2)


def _skin(rng: np.random.Generator, canvas: Canvas) -> np.ndarray:
    """[S, S, 3] bare skin: tint of the skin, the lamp and the camera, mottled and pigmented a little."""
    base = np.array([0.86, 0.70, 0.68]) * np.exp(rng.normal(0, 0.04, 3))
    amounts = np.clip(rng.normal([0.10, 0.16], [0.06, 0.08]), 0, None)
    mottle = 1.0 + 0.30 * canvas.field(rng, 9) * rng.uniform(0.2, 1.0)
    freckles = smoothstep(1.0, 3.0, canvas.field(rng, 10)) * max(rng.normal(0, 0.4), 0)
    absorbed = (amounts[0] + freckles)[..., None] * MELANIN + (amounts[1] * mottle)[..., None] * BLOOD
    return base * np.exp(-absorbed)


def _hairs(rng: np.random.Generator, size: int) -> np.ndarray:
    """[S, S] opacity of hairs over the lesion: none in most images."""
    if rng.random() > 0.25:
        return np.zeros((size, size))
    canvas, count, lie = Canvas(size), int(rng.integers(1, 12)), rng.uniform(0, 2 * np.pi)
    curves = [
        wandering(rng, rng.uniform(-1.1, 1.1, 2), lie + rng.normal(0, 0.5), rng.uniform(0.5, 1.8), rng.normal(0, 0.6))
        for _ in range(count)
    ]
    lengths = np.concatenate([np.linalg.norm(np.gradient(curve, axis=0), axis=1) for curve in curves])
    ink = canvas.stroke(np.concatenate(curves), lengths, rng.uniform(0.007, 0.013))
    return np.clip(ink, 0, 0.9) * rng.uniform(0.25, 1)


def _optics(rng: np.random.Generator, canvas: Canvas, picture: np.ndarray) -> np.ndarray:
    """Dermatoscope and camera: ruler marks, bubbles, dark corners, exposure and white balance."""
    if rng.random() < 0.12:
        side = rng.choice([-1, 1])
        lengths = np.where(np.arange(13) % 4 == 0, 0.11, 0.06)
        ticks = zip(np.linspace(-0.9, 0.9, 13), lengths, strict=True)
        marks = np.concatenate([line((side * 0.96, y), (side * (0.96 - length), y), 24) for y, length in ticks])
        picture = over(picture, 0.05, np.clip(canvas.stroke(marks, 0.1 / 24, 0.015), 0, 0.7))
    if rng.random() < 0.15:
        spots = np.clip(canvas.stroke(rng.uniform(-1, 1, (int(rng.integers(2, 12)), 2)), 0.03, 0.02), 0, 0.5)
        picture = over(picture, 1.0, spots)
    radius = canvas.blob((rng.normal(0, 0.05), rng.normal(0, 0.05)), (1.0, 1.0), 0.0)
    picture = picture * (1.0 - rng.uniform(0.0, 0.28) * np.clip(radius - 0.3, 0, None))[..., None]
    if rng.random() < 0.12:
        edge = rng.uniform(1.0, 1.25)
        picture = picture * smoothstep(edge + 0.03, edge - 0.03, radius)[..., None]
    balance = np.exp(rng.normal(0, [0.03, 0.04, 0.07])) * np.exp(rng.normal(0.06, 0.10))
    contrast = rng.uniform(0.8, 1.25)
    return (picture * balance - 0.6) * contrast + 0.6


def draw(subject: Subject, size: int) -> tuple[np.ndarray, dict]:
    """One synthetic dermatoscopic image, [size, size, 3] in 0..1, with the patient's `age`, `sex` and `localization`.

    Images of one group show one lesion, at another place, scale, light and turn.
    """
    lesion, view = subject.of_group, subject.of_image
    age = float(np.clip(5 * round(lesion.normal(44 if subject.label == 5 else 62, 15) / 5), 0, 85))
    extra = {
        'age': age,
        'sex': str(lesion.choice(['male', 'female'])),
        'localization': str(lesion.choice(SITES, p=SITE_CHANCES)),
    }
    zoom = float(np.exp(view.normal(0, 0.12))) * view.choice([-1, 1])
    canvas = Canvas(size, zoom, (view.normal(0, 0.1), view.normal(0, 0.1)))
    pattern = PATTERNS[CLASSES[subject.label]]
    skin = _skin(lesion, canvas)
    amounts, scale = _amounts(lesion, canvas, pattern)
    vessels = _vessels(lesion, canvas, int(lesion.integers(pattern['vessels'][0], pattern['vessels'][1] + 1)), 0.5)
    amounts[..., 1] += vessels
    picture = skin * np.exp(-(amounts @ np.stack([MELANIN, BLOOD, DEEP])))
    picture = over(picture, WHITE, np.clip(scale, 0, 0.9))
    if view.random() < 0.5:
        picture = picture.transpose(1, 0, 2)
    picture = over(picture, np.array([0.10, 0.07, 0.06]), _hairs(view, size))
    return _optics(view, Canvas(size), picture), extra


MODALITY = Modality(
    name='ham10000',
    counts={'akiec': 327, 'bcc': 514, 'bkl': 1099, 'df': 115, 'mel': 1113, 'nv': 6705, 'vasc': 142},
    draw=draw,
    default_size=2500,
    group='lesion',
    # Lesions of the real set with 1, 2, ... images: 7,470 lesions for 10,015 images.
    group_sizes={
        'akiec': (151, 57, 18, 2),
        'bcc': (175, 118, 33, 1),
        'bkl': (440, 220, 55, 8, 2, 2),
        'df': (39, 26, 8),
        'mel': (230, 278, 100, 4, 1, 1),
        'nv': (4415, 699, 268, 18, 2, 1),
        'vasc': (64, 25, 8, 1),
    },
)
