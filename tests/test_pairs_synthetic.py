"""Synthetic chest radiographs with captions: drawn from a seed, captions that say what is there, findings that show."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import load
from medpeft_utils.data.synthetic import chest_pairs as synthetic
from medpeft_utils.data.synthetic.canvas import generator
from medpeft_utils.data.synthetic.chest_pairs.drawing import Patient
from medpeft_utils.data.synthetic.chest_pairs.findings import (
    GRADES,
    NAMES,
    NORMAL,
    OTHER_NORMAL,
    SIDES,
    ZONES,
    Finding,
)

SIZE = 64


@pytest.fixture(scope='module')
def described():
    frame = synthetic.describe(0)
    return frame, frame[[f'finding:{name}' for name in NAMES]].to_numpy()


def test_an_image_depends_on_its_row_alone():
    rows = [0, 7, 5399]
    together = synthetic.images(SIZE, 0, rows)
    assert together.shape == (3, SIZE, SIZE, 3) and together.dtype == np.uint8
    assert (synthetic.images(SIZE, 0, [7])[0] == together[1]).all()
    assert (synthetic.images(SIZE, 1, [7])[0] != together[1]).any()
    for size in (32, 128, 256):
        assert synthetic.images(size, 0, [7]).shape == (1, size, size, 3)


def test_another_size_is_the_same_picture():
    small, large = (synthetic.images(size, 0, [4, 9])[..., 0].astype(float) for size in (32, 128))
    shrunk = large.reshape(2, 32, 4, 32, 4).mean(axis=(2, 4))
    for one, other in zip(small, shrunk, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.97


def test_the_set(described):
    frame, hot = described
    assert frame['split'].value_counts().to_dict() == synthetic.SIZES
    assert frame.groupby('group')['split'].nunique().max() == 1
    assert 1.9 < len(frame) / frame['group'].nunique() < 2.1  # 0.4 * 1 + 0.3 * 2 + 0.2 * 3 + 0.1 * 4 = 2
    assert hot.shape == (5400, len(NAMES)) and set(np.unique(hot)) == {0, 1}
    assert (hot[:, 0] == (hot[:, 1:].sum(axis=1) == 0)).all()
    assert abs(hot[:, 0].mean() - 0.3) < 0.03
    assert hot[frame['split'] == 'test'].sum(axis=0).min() >= 20  # every finding can be evaluated
    assert (frame['text'] == 'No acute cardiopulmonary process.').sum() > 0.15 * len(frame)  # the prompt of Figure 2
    assert frame['text'].nunique() > 1000 and frame['text'].str.split().str.len().max() <= 40


def said_of(text: str) -> set[str]:
    """The findings that a caption names, read from its words; what it says is absent is left out."""
    found = set()
    for sentence in re.split(r'(?<=\.)\s+', re.sub(r'\b\d\. ', '', text)):
        low = sentence.lower()
        if low.startswith(('no ', 'normal')) or low == 'clear lungs.':
            continue
        both = any(word in low for word in ('bilateral', 'both'))
        sides = SIDES if both else [side for side in SIDES if side in low]
        zone = next((zone for zone in ZONES if zone in low), '')
        if re.search('cardi|heart', low):
            found.add('cardiomegaly')
        elif 'pneumothorax' in low:
            found |= {f'{side} pneumothorax' for side in sides}
        elif 'effusion' in low:
            found |= {f'{side} effusion' for side in sides}
        else:
            found |= {f'{side} {zone} opacity' for side in sides}
    return found


def test_captions_say_what_is_there_and_nothing_else(described):
    frame, hot = described
    for text, row in zip(frame['text'], hot, strict=True):
        assert said_of(text) == {name for name, there in zip(NAMES[1:], row[1:], strict=True) if there}, text
        assert row[0] == (text in (NORMAL, *OTHER_NORMAL))


def drawn(findings: tuple[Finding, ...], number: int) -> np.ndarray:
    patient = Patient.drawn(generator('test patient', number))
    return synthetic.draw(patient, generator('test image', number), findings, SIZE).astype(float)


EVERY = [
    Finding(kind, grade, side, zone)
    for kind, grades in GRADES.items()
    for grade in range(len(grades))
    for side in (SIDES if kind != 'cardiomegaly' else ('',))
    for zone in (ZONES if kind == 'opacity' else ('',))
]


@pytest.mark.parametrize('finding', EVERY, ids=lambda finding: f'{finding.severity} {finding.name}')
def test_a_finding_shows_where_the_caption_says(finding):
    """Against the same patient without it: on the right side and height, and brighter (air: darker)."""
    for number in range(3):
        change = drawn((finding,), number) - drawn((), number)
        ink = np.where(np.abs(change) > 15, np.abs(change), 0)  # above the grain
        assert (ink > 0).mean() > 0.01, 'a hundredth of the picture and more'
        across, down = (ink.sum(axis=axis) for axis in (0, 1))
        if finding.side:  # the patient's right is on the left of the picture
            own = across[: SIZE // 2] if finding.side == 'right' else across[SIZE // 2 :]
            assert own.sum() > 0.9 * ink.sum()
        if finding.kind == 'pneumothorax':
            assert (change < -15).mean() > 0.02  # the line and the collapsed lung are brighter
        else:
            assert change[ink > 0].mean() > 20
        height = (down * np.linspace(-1, 1, SIZE)).sum() / down.sum()
        if finding.zone:
            low, high = {'upper': (-0.8, -0.3), 'mid': (-0.35, 0.10), 'lower': (0.05, 0.55)}[finding.zone]
            assert low < height < high
        if finding.kind == 'effusion':
            assert height > 0


def test_a_fresh_process_loads_them(tmp_path):
    """Nothing but the name is needed: the modules that draw are imported where they are used."""
    code = "from medpeft_utils import data; data.load('synthetic_chest_pairs', image_size=20)"
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert 'image_size=20 of synthetic radiographs: give 32 to 512' in ended.stderr


def test_grades_grow():
    for kind, names in GRADES.items():
        side, zone = ('', '') if kind == 'cardiomegaly' else ('left', 'upper' if kind == 'opacity' else '')
        steps = [
            sum(np.abs(drawn((Finding(kind, grade, side, zone),), i) - drawn((), i)).sum() for i in range(4))
            for grade in range(len(names))
        ]
        assert steps == sorted(steps)


def test_patients_differ_and_stay_themselves():
    normal = [[drawn_of(patient, image) for image in range(2)] for patient in range(8)]
    same = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in normal]
    other = [np.corrcoef(normal[i][0].ravel(), normal[j][0].ravel())[0, 1] for i in range(8) for j in range(i)]
    assert np.median(same) > np.quantile(other, 0.75)


def drawn_of(patient: int, image: int) -> np.ndarray:
    rng = generator('test patient', patient)
    return synthetic.draw(Patient.drawn(rng), generator('test image', patient, image), (), SIZE).astype(float)


def test_loading(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, 'SIZES', {'train': 20, 'validation': 6, 'test': 8})
    synthetic._layout.cache_clear()
    try:
        loaded = load('synthetic_chest_pairs', image_size=32, cache=tmp_path)
        assert loaded.synthetic and loaded.folder is None and len(loaded) == 34
        assert loaded.finding_names == list(NAMES) and loaded.findings.shape == (34, len(NAMES))
        assert (loaded.images[5] == synthetic.images(32, 0, [5])[0]).all()
        part = load('synthetic_chest_pairs', image_size=32, train_pairs=7, cache=tmp_path)
        assert [len(part.rows(split)) for split in synthetic.SIZES] == [7, 6, 8]
        assert [part.texts[row] for row in part.rows('train')] == [loaded.texts[row] for row in loaded.train_pairs(7)]
        assert len(list(tmp_path.rglob('*.npy'))) == 1
    finally:
        synthetic._layout.cache_clear()
    with pytest.raises(BadInput, match='image_size=16 of synthetic radiographs: give 32 to 512'):
        load('synthetic_chest_pairs', image_size=16, cache=tmp_path)
    with pytest.raises(BadInput, match='drawn where it is used'):
        load('synthetic_chest_pairs', tmp_path)
