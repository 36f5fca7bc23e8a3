"""What `medpeft data check` finds, near duplicates above all; the pages of the cards; the data notebook."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
from click.testing import CliRunner
from PIL import Image, ImageEnhance
from scipy import ndimage
from tiny_datasets import draw, make_own

from medpeft_utils import data
from medpeft_utils.data import CARDS, duplicates, pages
from medpeft_utils.data.check import check
from medpeft_utils.data.commands import data as data_command

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / 'shared' / 'data'
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason='the real datasets do not lie beside the repository')


def scene(seed: int, side: int = 96) -> np.ndarray:
    """[side, side] of smooth structure, as an image of a body has: noise of several octaves."""
    generator, picture = np.random.default_rng(seed), np.zeros((side, side))
    for cells in (4, 8, 16):
        noise = Image.fromarray(generator.random((cells, cells)).astype(np.float32))
        picture += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC)) * 4 / cells
    low, high = picture.min(), picture.max()
    return ((picture - low) / (high - low) * 255).astype(np.uint8)


def greys(*pictures) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(np.asarray(one)).resize((48, 48), Image.Resampling.BOX))
                     for one in pictures])  # fmt: skip


# ---- near duplicates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('change', ['size', 'brightness', 'contrast', 'noise', 'crop', 'jpeg'])
def test_a_changed_copy_is_a_near_duplicate(change, tmp_path):
    picture = Image.fromarray(scene(1))
    if change == 'size':
        copy = picture.resize((61, 70))
    elif change in ('brightness', 'contrast'):
        copy = getattr(ImageEnhance, change.capitalize())(picture).enhance(0.75)
    elif change == 'noise':
        noise = np.random.default_rng(0).normal(0, 8, (96, 96))
        copy = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    elif change == 'crop':
        copy = picture.crop((0, 0, 95, 96))
    else:
        picture.save(tmp_path / 'a.jpg', quality=30)
        copy = Image.open(tmp_path / 'a.jpg')
    assert duplicates.near_pairs(greys(picture, scene(2), copy, scene(3))).tolist() == [[0, 2]]


def test_other_pictures_are_none():
    assert len(duplicates.near_pairs(greys(*(scene(seed) for seed in range(300))))) == 0
    flat = np.full((48, 48), 90, np.uint8)
    assert len(duplicates.near_pairs(np.stack([flat, flat, flat + 5]))) == 0  # nothing is seen in them
    assert duplicates.near_pairs(np.zeros((0, 48, 48), np.uint8)).shape == (0, 2)


def test_shifted_pictures_are_near_duplicates_up_to_the_bound():
    whole = scene(1, 128)
    for y, x in ((0, 4), (5, -3), (-5, 5)):  # of 96 pixels: up to 2.5 of 48
        pair = greys(whole[16:112, 16:112], whole[16 + y : 112 + y, 16 + x : 112 + x], scene(2))
        assert duplicates.near_pairs(pair).tolist() == [[0, 1]], (y, x)
    assert len(duplicates.near_pairs(greys(whole[16:112, 16:112], whole[16:112, 32:128]))) == 0


def eye(seed: int, side: int = 96) -> np.ndarray:
    """A bright disc with a brighter spot and dark threads of its own on black, as fundus photographs are alike."""
    y, x = np.mgrid[:side, :side]
    radius = np.hypot(y - side / 2, x - side / 2) / (side / 2)
    picture = 150 - 50 * radius**2 + 70 * np.exp(-((y - side / 2) ** 2 + (x - 0.75 * side) ** 2) / 50)
    generator = np.random.default_rng(seed)
    for _ in range(14):
        angle, bend, wide = generator.uniform(-3.2, 3.2), generator.uniform(-2, 2), generator.uniform(0.6, 1.6)
        along = np.linspace(0, 0.8 * side, 200)
        rows = (side / 2 + along * np.sin(angle + bend * along / side)).astype(int).clip(0, side - 1)
        columns = (0.75 * side + along * np.cos(angle + bend * along / side)).astype(int).clip(0, side - 1)
        threads = np.zeros((side, side), np.float32)
        threads[rows, columns] = 1
        picture -= 60 * np.minimum(ndimage.gaussian_filter(threads, wide) * 4, 1)
    return np.where(radius < 0.95, picture, 0).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize('count', [12, 80])
def test_different_eyes_with_one_bright_disc_are_no_twins(count):
    pictures = [eye(seed) for seed in range(count)]
    again = np.roll(eye(3), 2, axis=1)
    plain = np.corrcoef(greys(*pictures).reshape(count, -1).astype(float))
    assert np.median(plain) > 0.8  # the disc alone makes them alike
    assert duplicates.near_pairs(greys(*pictures, again)).tolist() == [[3, count]]


def test_large_sets_are_searched_by_their_hashes():
    pictures = [scene(seed) for seed in range(30)]
    copies = [ImageEnhance.Brightness(Image.fromarray(one)).enhance(0.8) for one in pictures[::3]]
    together = greys(*pictures, *copies)
    assert duplicates.near_pairs(together, large=10).tolist() == duplicates.near_pairs(together).tolist()
    assert len(duplicates.near_pairs(together)) == 10


def test_sets_join_pairs():
    assert duplicates.sets_of(np.array([[0, 3], [3, 5], [1, 2]]), 7).tolist() == [0, 1, 1, 0, -1, 0, -1]
    assert (duplicates.sets_of(np.zeros((0, 2), int), 3) == -1).all()


def own_with_copies(folder: Path, split: bool = False) -> Path:
    """24 images of two classes; 0 and 1, 2 and 3, ... of a class show the same, and so do the first of both."""
    rows = []
    for label in 'ab':
        for i in range(12):
            picture = Image.fromarray(scene(100 * (label == 'b') * (i > 1) + i // 2))
            path = folder / f'{label}{i:02d}.png'
            folder.mkdir(exist_ok=True, parents=True)
            ImageEnhance.Brightness(picture).enhance(1 - 0.07 * (i % 2) - 0.03 * (label == 'b')).save(path)
            rows.append((path.name, label, f'p{label}{i}', ('train', 'validation', 'test')[i % 3] if split else ''))
    csv = folder / 'own.csv'
    pd.DataFrame(rows, columns=['image', 'label', 'group', 'split']).to_csv(csv, index=False)
    return csv


def test_check_reports_near_duplicates_and_what_they_span(tmp_path):
    report = check(own_with_copies(tmp_path, split=True))
    assert report.verdict == 'usable, with remarks' and report.duplicates == []
    assert len(report.near_duplicates) == 11 and report.near_duplicate_pairs == 10 + 6  # four images are one set
    first = report.near_duplicates[0]
    assert first['images'] == ['a00.png', 'a01.png', 'b00.png', 'b01.png'] and first['labels'] == ['a', 'b']
    assert report.near_duplicates_across_classes == 1 and report.near_duplicates_across_groups == 11
    assert report.near_duplicates_across_splits == 11
    # images 2|3 and 8|9 of a class are test and train, 4|5, 6|7, ... lie otherwise: the test images are 2 and 8
    assert report.test_images_with_near_duplicate_in_train == 4
    printed = CliRunner().invoke(data_command, ['check', str(tmp_path / 'own.csv')]).output
    assert 'near duplicates: a00.png ~ a01.png ~ b00.png ~ b01.png (train, validation; a, b)' in printed
    assert '4 test image(s) are near duplicates of training images' in printed


def test_near_duplicates_stay_together_where_it_is_asked_for(tmp_path):
    csv = own_with_copies(tmp_path / 'own')
    apart = [data.load(csv, image_size=16, split_seed=seed) for seed in range(4)]
    assert any(d.manifest['split'][i] != d.manifest['split'][i + 1] for d in apart for i in range(0, 24, 2))
    for seed in range(4):
        loaded = data.load(csv, image_size=16, split_seed=seed, near_duplicates_together=True)
        splits = loaded.manifest['split'].tolist()
        assert all(splits[i] == splits[i + 1] for i in range(0, 24, 2)) and splits[0] == splits[12]
        assert len(set(loaded.groups)) == 11
    assert data.load(csv, image_size=16).split_hash == apart[0].split_hash  # what was asked for before is not kept
    given = data.load(own_with_copies(tmp_path / 'given', split=True), image_size=16, near_duplicates_together=True)
    assert given.manifest['split'].tolist()[:3] == ['train', 'validation', 'test']  # given splits stay as they are


def test_report_is_for_machines_too(tmp_path):
    csv = own_with_copies(tmp_path)
    out = tmp_path / 'report.json'
    CliRunner().invoke(data_command, ['check', str(csv), '--out', str(out)])
    report = json.loads(out.read_text())
    assert report['verdict'] == 'usable, with remarks' and report['images'] == 24
    assert sum(report['split_images'].values()) == 24 and set(report['near_duplicates'][0]) == {
        'images',
        'labels',
        'splits',
    }


def test_notes_of_a_reader_are_printed(tmp_path, monkeypatch):
    from medpeft_utils.data import sources

    card = data.DataCard('noted', 'Noted', 'a or b', 'noise', ('a', 'b'))

    def read(root: Path) -> pd.DataFrame:
        frame = pd.DataFrame({'image': [f'{i}.png' for i in range(8)], 'label': ['a', 'b'] * 4})
        frame.attrs['notes'] = {'rows without an image left out': 3}
        return frame

    for i in range(8):
        draw(tmp_path / f'{i}.png', i, size=(40, 40))
    monkeypatch.setitem(data.CARDS, 'noted', card)
    monkeypatch.setitem(sources._READERS, 'noted', (lambda folder: folder, read, lambda root: []))
    report = check('noted', tmp_path)
    assert report.notes == {'rows without an image left out': 3} and report.verdict == 'in order'
    printed = CliRunner().invoke(data_command, ['check', 'noted', str(tmp_path)]).output
    assert 'note: rows without an image left out: 3' in printed
    assert len(data.load('noted', tmp_path, image_size=16)) == 8


def test_a_path_that_climbs_out_is_not_opened(tmp_path):
    secret = tmp_path / 'secret.png'
    secret.write_text('a secret')
    (tmp_path / 'own').mkdir()
    csv = tmp_path / 'own' / 'own.csv'
    csv.write_text('image,label\n../secret.png,a\n../secret.png,b\n')
    report = check(csv)
    assert any('lies outside' in fault for fault in report.faults)
    assert report.unreadable == [] and 'a secret' not in str(report)


def test_small_images_are_a_remark(tmp_path):
    report = check(make_own(tmp_path))  # 24 x 16 pixels
    assert '21 image(s) have a side of less than 32 pixels' in report.remarks


# ---- the real sets ------------------------------------------------------------------------------------------------


@needs_real
def test_real_breastus_has_near_duplicates_and_keeps_them_in_one_split(monkeypatch):
    """Pawłowska et al. 2023 name 8 lesions under two labels, and many near duplicates."""
    report = check('breastus', REAL / 'breastus')
    assert 'benign/benign (318).png' in str(report.near_duplicates)
    assert report.near_duplicate_pairs == 221 and 5 <= report.near_duplicates_across_classes <= 8
    assert report.test_images_with_near_duplicate_in_train == 0
    card = dataclasses.replace(CARDS['breastus'], near_duplicates_together=False)
    monkeypatch.setitem(CARDS, 'breastus', card)
    assert check('breastus', REAL / 'breastus').test_images_with_near_duplicate_in_train > 30


@needs_real
def test_real_fundus_and_chest_images_of_other_people_are_not_called_twins():
    for name, folder, most in (
        ('smdg_subset', 'smdg_subset', 8),
        ('nih_chestxray14_subset', 'nih_chestxray14_224px', 2),
    ):
        report = check(name, REAL / folder)
        assert len(report.near_duplicates) > 0 and report.near_duplicates_across_groups <= most, name


# ---- pages and notebook -------------------------------------------------------------------------------------------


def test_pages_are_as_their_cards():
    """After a change of a card or of what draws the pictures: `medpeft data pages`."""
    assert pages.stale(ROOT / 'docs' / 'data') == []


def test_a_stale_page_is_found_and_mended(tmp_path, monkeypatch):
    for name in {*data.CARDS} - {'breastus', 'pathmnist'}:  # without synthetic ones: no picture has to be drawn
        monkeypatch.delitem(data.CARDS, name)
    assert pages.stale(tmp_path) == ['README.md', 'breastus.md', 'pathmnist.md']
    assert len(pages.write(tmp_path)) == 2 and pages.stale(tmp_path) == []
    page = tmp_path / 'breastus.md'
    page.write_text(page.read_text().replace('437', '438'))
    (tmp_path / 'gone.md').write_text('# a dataset that was')
    run = CliRunner().invoke(data_command, ['pages', '--folder', str(tmp_path), '--check'])
    assert run.exit_code == 1 and run.output == 'stale: breastus.md\nstale: gone.md\n'
    assert pages.write(tmp_path) == [page] and pages.stale(tmp_path) == []


def test_the_data_notebook_draws_any_dataset(tmp_path):
    folder = make_own(tmp_path / 'own', classes=2, images=6)
    out = tmp_path / 'out.ipynb'
    given = {'dataset': str(folder), 'image_size': 32}
    papermill.execute_notebook(ROOT / 'notebooks' / 'data.ipynb', out, given, kernel_name='python3', progress_bar=False)
    cells = [cell for cell in json.loads(out.read_text())['cells'] if cell['cell_type'] == 'code']
    pictures = [
        kind for cell in cells for shown in cell['outputs'] for kind in shown.get('data', {}) if 'image' in kind
    ]
    assert len(pictures) == 2 and 'usable, with remarks' in out.read_text()


def test_the_data_notebook_is_committed_without_outputs():
    cells = json.loads((ROOT / 'notebooks' / 'data.ipynb').read_text())['cells']
    assert [cell for cell in cells if cell.get('outputs') or cell.get('execution_count')] == []
