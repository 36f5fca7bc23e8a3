"""Chest radiographs with several findings: the authors' lists, the three readers, the stand-ins, the arithmetic."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import runpy
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tiny_datasets import draw
from tiny_sources import write_dicom

from medpeft_utils import data
from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import lists, synthetic
from medpeft_utils.data.sources import chexpert, nih_chestxray14, rsna_pneumonia_lists
from medpeft_utils.data.synthetic import canvas, chest
from medpeft_utils.data.synthetic.findings import COMMON_ENOUGH, SETS
from medpeft_utils.data.synthetic.layout import block

LISTS = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / 'data_prep' / 'lian_lists.py')))
NIH = nih_chestxray14.CARD.classes
PUBLISHED = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'med_peft_splits'
COUNTED = Path(data.__file__).parents[1] / 'report' / 'paper' / 'lian2024_lists.csv'


def write_list(path: Path, rows: dict[str, str], end: str = '\n') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{image} {labels}{end}' for image, labels in rows.items()))


def nih_labels(number: int) -> str:
    return ' '.join(str(int(number % (label + 2) == 0)) for label in range(14))


@pytest.fixture
def nih(tmp_path) -> Path:
    """20 + 5 + 5 images of patients with up to three, over two folders; the lists in `lists`, some with CR LF."""
    names = [f'{patient:08d}_{follow_up:03d}.png' for patient in range(1, 16) for follow_up in range(2)]
    rows = {name: nih_labels(number) for number, name in enumerate(names)}
    for number, name in enumerate(names):
        draw(tmp_path / f'images_00{1 + number % 2}' / 'images' / name, number)
    parts = {'train_list': names[:20], 'val_list': names[20:24], 'test_list': names[24:]}
    parts |= {'train_1': names[:2], 'train_10': names[1:6]}
    for part, own in parts.items():
        own = {name: rows[name] for name in own}
        write_list(tmp_path / 'lists' / f'{part}.txt', own, '\r\n' if part == 'train_list' else ' \n')
    return tmp_path


# ---- lists


def test_nih_by_the_lists_of_the_authors(nih):
    loaded = data.load('nih_chestxray14', nih, image_size=16)
    assert loaded.labels.shape == (30, 14) and loaded.classes == list(NIH)
    assert [len(loaded.rows(split)) for split in data.SPLITS] == [20, 4, 6]
    row = loaded.manifest['image'].str.endswith('00000004_000.png').to_numpy().nonzero()[0][0]
    assert ' '.join(map(str, loaded.labels[row])) == nih_labels(6)
    assert loaded.groups[row] == '00000004' and len(set(loaded.groups)) == 15
    one, ten = set(loaded.train_rows(0.01, seed=7)), set(loaded.train_rows(0.1))
    assert len(one) == 2 and len(ten) == 5 and len(one & ten) == 1  # not nested, as the published ones
    assert (one | ten) < set(loaded.train_rows(1.0))


def test_lists_are_found_beside_the_images_or_where_the_environment_says(nih, monkeypatch, tmp_path):
    before = data.load('nih_chestxray14', nih, image_size=16).split_hash
    elsewhere = tmp_path / 'authors' / 'NIH_ChestX-ray'
    elsewhere.mkdir(parents=True)
    for path in (nih / 'lists').iterdir():
        path.rename(elsewhere / path.name)
    with pytest.raises(BadInput, match=r'no val_list.txt in .*RL4M/MED-PEFT.*MEDPEFT_LISTS'):
        data.load('nih_chestxray14', nih, image_size=16)
    for folder in (elsewhere, elsewhere.parent):
        monkeypatch.setenv(lists.ENVIRONMENT, str(folder))
        assert data.load('nih_chestxray14', nih, image_size=16).split_hash == before
    for path in list(elsewhere.iterdir()):
        path.rename(nih / path.name)
    monkeypatch.delenv(lists.ENVIRONMENT)
    assert data.load('nih_chestxray14', nih, image_size=16).split_hash == before


@pytest.mark.parametrize(
    ('name', 'line', 'words'),
    [
        ('train_list.txt', '00000001_000.png ' + '0 ' * 13, r'train_list.txt line 21: 13 labels, not 14'),
        ('val_list.txt', '00000012_000.png ' + '0 ' * 13 + '2', r"val_list.txt line 5: label '2' of"),
        ('train_list.txt', '00000001_000.png ' + '0 ' * 14, r"line 21: '00000001_000.png' is listed on line 1 already"),
        ('test_list.txt', '00000001_000.png ' + '0 ' * 14, r'is in train_list.txt line 1 and test_list.txt line 7'),
        ('test_list.txt', '00000099_000.png ' + '0 ' * 14, r"test_list.txt line 7: no file of '00000099_000.png'"),
        ('train_10.txt', '00000015_000.png ' + nih_labels(28), r"train_10.txt line 6: '00000015_000.png' is not in"),
        ('train_1.txt', '00000005_000.png ' + '1 ' * 14, r'train_1.txt line 3: .* has other labels than in train_list'),
    ],
)
def test_lists_that_cannot_be_used(nih, name, line, words):
    with (nih / 'lists' / name).open('a') as file:
        file.write(line + '\n')
    with pytest.raises(BadInput, match=words):
        data.load('nih_chestxray14', nih, image_size=16)


def test_patients_in_two_splits_are_reported(nih):
    draw(nih / '00000001_007.png', 99)
    with (nih / 'lists' / 'test_list.txt').open('a') as file:
        file.write(f'00000001_007.png {nih_labels(1)}\n')
    with pytest.raises(BadInput, match=r"group '00000001' spans several splits"):
        data.load('nih_chestxray14', nih, image_size=16)
    assert nih_chestxray14.read(nih).attrs['notes']['patients in two splits'] == 1


def test_an_empty_list_and_a_name_twice(nih):
    draw(nih / 'copy' / '00000001_000.png', 1)
    with pytest.raises(BadInput, match=r"'00000001_000\.png' is there twice"):
        data.load('nih_chestxray14', nih, image_size=16)
    (nih / 'copy' / '00000001_000.png').unlink()
    (nih / 'lists' / 'val_list.txt').write_text('\n')
    with pytest.raises(BadInput, match=r'val_list.txt: lists no image'):
        data.load('nih_chestxray14', nih, image_size=16)


def test_a_subset_is_asked_for_by_name_and_counted(nih, caplog):
    for name in ('00000001_001.png', '00000003_000.png', '00000012_001.png'):
        next(nih.rglob(name)).unlink()
    with pytest.raises(
        BadInput, match=r"line 2: no file of '00000001_001.png' .* nor of 2 more .*nih_chestxray14_subset"
    ):
        data.load('nih_chestxray14', nih, image_size=16)
    draw(nih / 'unlisted.png', 5)
    with caplog.at_level(logging.WARNING):
        loaded = data.load('nih_chestxray14_subset', nih, image_size=16)
    assert 'a subset of NIH ChestX-ray14: 18 of 20 train, 3 of 4 validation, 6 of 6 test images' in caplog.text
    assert len(loaded) == 27 and loaded.card.images is None
    notes = nih_chestxray14.read_subset(nih).attrs['notes']
    assert notes['listed images that are not there'] == 3 and notes['image files that no list names'] == 1
    assert (notes['images of the 1 % list'], notes['images of the 10 % list']) == (1, 3)
    assert len(loaded.train_rows(0.1)) == 3


def test_a_part_that_holds_nothing_of_a_smaller_list(nih):
    for name in ('00000001_000.png', '00000001_001.png'):
        next(nih.rglob(name)).unlink()
    words = r'train_1.txt: none of its 2 images is among the 28 listed ones that are there'
    with pytest.raises(BadInput, match=words):
        data.load('nih_chestxray14_subset', nih, image_size=16)
    (nih / 'lists' / 'train_1.txt').unlink()
    loaded = data.load('nih_chestxray14_subset', nih, image_size=16)
    assert len(loaded.train_rows(0.1)) == 4 and len(loaded.train_rows(0.5)) in (8, 10)  # whole patients
    with pytest.raises(BadInput, match=r'fraction=0.01 .*published 1 % list'):
        loaded.train_rows(0.01)


def test_samples_beside_each_other_are_one_set_at_one_resolution(nih):
    above = nih / 'samples'
    for part, folder in enumerate(('nih_chestxray14_64px', 'nih_chestxray14_224px')):
        for number in range(part * 12, 18 + part * 12):
            name = f'{number // 2 + 1:08d}_{number % 2:03d}.png'
            draw(above / folder / 'images' / name, number, size=((64, 64), (128, 128))[part])
    (nih / 'lists').rename(above / 'lists')
    loaded = data.load('nih_chestxray14_samples', above, image_size=96)
    assert len(loaded) == 30 and loaded.manifest.groupby('group')['split'].nunique().max() == 1
    assert loaded.attributes['sample'].value_counts().to_dict() == {
        'nih_chestxray14_224px': 18, 'nih_chestxray14_64px': 12}  # fmt: skip
    notes = nih_chestxray14.read_samples(above).attrs['notes']
    assert notes['images that several samples hold, taken once'] == 6
    # no detail that 64 px cannot hold: the spectrum above their limit is as empty in the sharp sample as in the other
    spectrum = np.abs(np.fft.rfft(loaded.images[..., 0].astype(float), axis=2)) ** 2
    fine = spectrum[:, :, 38:].sum((1, 2)) / spectrum[:, :, 1:].sum((1, 2))
    assert fine.max() < 0.05
    with pytest.raises(BadInput, match=r'holds no folder nih_chestxray14\*'):
        data.load('nih_chestxray14_samples', nih, image_size=16)


def test_sex_age_and_view_come_from_the_table_of_the_nih(nih):
    assert data.load('nih_chestxray14', nih, image_size=16).attributes.empty
    rows = [(f'{patient:08d}_{number:03d}.png', f'{patient + 30:03d}Y', 'FM'[patient % 2], 'PA')
            for patient in range(1, 15) for number in range(2)]  # fmt: skip
    rows[0] = (*rows[0][:1], '411Y', *rows[0][2:])
    columns = ['Image Index', 'Patient Age', 'Patient Gender', 'View Position']
    pd.DataFrame(rows, columns=columns).to_csv(nih / 'Data_Entry_2017_v2020.csv', index=False)
    loaded = data.load('nih_chestxray14', nih, image_size=16)
    known = loaded.attributes.set_index(loaded.groups)
    assert known.loc['00000002'].to_dict('list') == {'sex': ['F', 'F'], 'age': [32, 32], 'view': ['PA', 'PA']}
    assert known.loc['00000001', 'age'].isna().sum() == 1  # nobody is 411 years old
    foreign = pd.DataFrame([('99999999_000.png', *rows[1][1:])], columns=columns)
    assert known.loc['00000015', 'sex'].tolist() == ['', ''] and known.loc['00000015', 'age'].isna().all()
    foreign.to_csv(nih / 'Data_Entry_2017_v2020.csv', index=False)
    with pytest.raises(BadInput, match=r'Data_Entry.*none of its 1 images is in this download'):
        data.load('nih_chestxray14', nih, image_size=16)


# ---- CheXpert

STUDIES = ['', '1.0', '0.0', '-1.0']


@pytest.fixture
def chexpert_small(tmp_path) -> Path:
    """12 training images with every value in every column, two to validate with and two to test with."""
    root, rows = tmp_path / 'CheXpert-v1.0-small', []
    for number in range(12):
        path = f'train/patient{number // 2:05d}/study1/view{1 + number % 2}_frontal.jpg'
        draw(root / path, number, 'RGB')
        values = [STUDIES[(number + column) % 4] for column in range(5)]
        rows.append((f'CheXpert-v1.0-small/{path}', 'Male', *values, '1.0'))
    pd.DataFrame(rows, columns=['Path', 'Sex', *chexpert.CLASSES, 'Fracture']).to_csv(root / 'train.csv', index=False)
    others = defaultdict(dict)
    for split, first in (('valid', 60), ('test', 80)):
        for number in range(first, first + 2):
            path = f'{split}/patient{number}/study1/view1_frontal.jpg'
            draw(root / path, number, 'RGB')
            others[split][f'CheXpert-v1.0-small/{path}'] = '1 0 0 0 1'
    write_list(root / 'val_list.txt', others['valid'])
    write_list(root / 'test_list.txt', others['test'])
    write_list(root / 'train_1.txt', {rows[0][0]: '0 1 0 1 0'})
    write_list(root / 'train_10.txt', {rows[0][0]: '0 1 0 1 0', rows[3][0]: '1 0 1 0 1'})
    return root


@pytest.mark.parametrize(
    ('name', 'train', 'row'),
    # row 3 of the table is -1, '', 1, 0, -1
    [('chexpert', 12, '1 0 1 0 1'), ('chexpert_zeros', 12, '0 0 1 0 0'), ('chexpert_ones', 12, '1 0 1 0 1')],
)
def test_uncertain_labels_by_policy(chexpert_small, name, train, row):
    loaded = data.load(name, chexpert_small, image_size=16)
    assert [len(loaded.rows(split)) for split in data.SPLITS] == [train, 2, 2]
    found = loaded.manifest.set_index('image')
    assert found.loc['train/patient00001/study1/view2_frontal.jpg', 'labels'] == row
    assert found.loc['test/patient80/study1/view1_frontal.jpg', 'labels'] == '1 0 0 0 1'
    assert found.loc['valid/patient60/study1/view1_frontal.jpg', 'group'] == 'patient60'
    assert len(loaded.train_rows(0.01)) == 1 and len(loaded.train_rows(0.1)) == 2


def test_images_with_uncertain_labels_can_be_left_out(chexpert_small):
    # of five neighbours in a cycle of four values one is always -1, so nothing is left of the table as it is
    table = pd.read_csv(chexpert_small / 'train.csv', dtype=str, keep_default_na=False)
    table.loc[:7, list(chexpert.CLASSES)] = '1.0'
    table.to_csv(chexpert_small / 'train.csv', index=False)
    loaded = data.load('chexpert_ignore', chexpert_small, image_size=16)
    assert len(loaded.rows('train')) == 8
    source = data.open_source('chexpert_ignore', chexpert_small)
    assert source.frame['split'].eq('train').sum() == 8


def test_the_policy_of_the_lists_is_read_off_their_prevalences():
    text = pd.DataFrame([['-1.0'] * 5, [''] * 5, ['1.0'] * 5], columns=chexpert.CLASSES)
    labels, keep = chexpert.certain(text, chexpert.POLICIES['chexpert'], Path('train.csv'))
    assert labels.tolist() == [[1, 0, 0, 1, 1], [0] * 5, [1] * 5] and keep.all()
    with pytest.raises(BadInput, match=r"train.csv line 3: 'Edema' is 'yes', not 1, 0, -1 or nothing"):
        chexpert.certain(text.assign(Edema=['1', 'yes', '0']), chexpert.POLICIES['chexpert'], Path('train.csv'))


def test_lists_of_the_other_size_are_those_of_the_images(chexpert_small):
    plain = data.load('chexpert', chexpert_small, image_size=16)
    text = (chexpert_small / 'train.csv').read_text().replace('CheXpert-v1.0-small/', 'CheXpert-v1.0/')
    (chexpert_small / 'train.csv').write_text(text)
    full = data.load('chexpert', chexpert_small, image_size=16)
    assert full.split_hash == plain.split_hash and full.train_rows(0.1).tolist() == plain.train_rows(0.1).tolist()
    assert len(full.train_rows(0.1)) == 2 and full.attributes['sex'].value_counts().to_dict() == {'Male': 12, '': 4}


def test_a_list_none_of_whose_images_is_there_is_a_fault(chexpert_small):
    for name in ('train_1.txt', 'train_10.txt'):
        content = (chexpert_small / name).read_text()
        (chexpert_small / name).write_text(content.replace('view', 'copy'))
        with pytest.raises(BadInput, match=rf'{name}: none of its \d images is in train.csv .*/copy1.*/view1'):
            data.load('chexpert', chexpert_small, image_size=16)
        (chexpert_small / name).write_text(content)


def test_chexpert_without_its_test_images_or_its_table(chexpert_small):
    (chexpert_small / 'test' / 'patient80' / 'study1' / 'view1_frontal.jpg').unlink()
    with pytest.raises(BadInput, match=r'test_list.txt line 1: no file of .*its test images in a folder test'):
        data.load('chexpert', chexpert_small, image_size=16)
    (chexpert_small / 'train.csv').unlink()
    with pytest.raises(BadInput, match=r"'train.csv', so this is not CheXpert"):
        data.load('chexpert', chexpert_small, image_size=16)


# ---- RSNA Pneumonia


def make_rsna_lists(tmp_path: Path) -> None:
    parts = {'train_list': range(8), 'train_1': (0,), 'train_10': (1, 2), 'val_list': (8, 9), 'test_list': (10, 11)}
    for part, numbers in parts.items():
        folder = 'stage_2_test_images' if part == 'test_list' else 'stage_2_train_images'
        write_list(tmp_path / f'{part}.txt', {f'{folder}/id-{number}.dcm': f'{number % 2} ' for number in numbers})
        for number in numbers:
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
            write_dicom(tmp_path / folder / f'id-{number}.dcm', pixels)


def test_rsna_by_the_lists(tmp_path):
    make_rsna_lists(tmp_path)
    loaded = data.load('rsna_pneumonia_lists', tmp_path, image_size=16)
    assert loaded.labels.shape == (12, 1) and loaded.classes == ['Pneumonia']
    assert [len(loaded.rows(split)) for split in data.SPLITS] == [8, 2, 2]
    assert len(loaded.train_rows(0.01)) == 1 and len(loaded.train_rows(0.1)) == 2
    assert loaded.labels[loaded.rows('test')].ravel().tolist() == [0, 1]


def test_rsna_lists_say_which_persons_they_share(tmp_path):
    make_rsna_lists(tmp_path)
    names = [path.stem for path in sorted((tmp_path / 'stage_2_train_images').glob('*.dcm'))]
    rows = [{'subset_img_id': name, 'img_id': f'{i % 4:08d}_{i:03d}.png'} for i, name in enumerate(names)]
    (tmp_path / 'pneumonia-challenge-dataset-mappings_2018.json').write_text(json.dumps(rows))
    source = data.open_source('rsna_pneumonia_lists', tmp_path)
    frame = source.checked()
    training = set(frame['group'][frame['split'] == 'train'])
    shared = (frame['split'] != 'train') & frame['group'].isin(training)
    assert source.frame.attrs['notes'] == {'validation and test images of a person of the training list': shared.sum()}
    assert 0 < shared.sum() == (frame['split'] == 'validation').sum()
    folds = data.load('rsna_pneumonia_lists', tmp_path, image_size=16, folds=3)
    assert folds.manifest.groupby('group')['split'].nunique().max() == 1


# ---- stand-ins


@pytest.mark.parametrize('name', SETS)
def test_stand_ins_have_the_findings_patients_and_shares(name):
    images, labels, extra = synthetic.generate(name, image_size=32, n=12)
    again, same, _ = synthetic.generate(f'synthetic_{name}', image_size=32, indices=[7, 3])
    assert images.shape == (12, 32, 32, 3) and labels.dtype == np.uint8
    assert (images[[7, 3]] == again).all() and (labels[[7, 3]] == same).all()
    assert (synthetic.generate(name, 32, seed=1, n=3)[0] != images[:3]).any(axis=(1, 2, 3)).all()
    card = data.CARDS[f'synthetic_{name}']
    assert card.multi_label and card.synthetic and list(card.classes) == list(synthetic.modality(name).counts)
    kind = SETS[name]
    rows = block(kind, 0, 0)  # [B, L + 2]
    shares, wanted = rows[:, :-2].mean(axis=0), np.array(list(kind.counts.values()))
    assert (np.abs(shares - wanted) < 5 * np.sqrt(wanted / kind.default_size)).all()
    assert np.bincount(rows[:, -2]).max() == len(kind.group_sizes[''])
    assert extra['group'].str.startswith('patient_').all()


def test_prevalences_are_the_real_ones_but_for_rare_findings():
    shares = SETS['nih_chestxray14'].counts
    assert shares['Infiltration'] == pytest.approx(19894 / 112120)
    assert shares['Pneumonia'] == COMMON_ENOUGH and shares['Hernia'] == pytest.approx(227 / 112120)


def of(findings: list[str], number: int, size: int = 64) -> tuple[np.ndarray, dict]:
    return chest.draw(findings, canvas.generator('p', number), canvas.generator('i', number), size)


@pytest.mark.parametrize('finding', chest.PAINTERS)
def test_every_finding_can_be_seen_and_is_in_the_report(finding):
    """A difference to the mean of normal images of the same size that one of two thresholds on a filter would find."""

    def picture(findings: list[str], number: int) -> np.ndarray:
        drawn, _ = of(findings, number)
        return (drawn - drawn.mean()) / drawn.std()

    normal = [picture([], number) for number in range(12)]
    shown = [picture([finding], number) for number in range(12)]
    mean, spread = np.mean(normal, axis=0), np.std(normal, axis=0) + 0.15
    far = [np.abs((image - mean) / spread) for image in (*normal, *shown)]
    scores = np.array([np.sort(image.ravel())[-200:].mean() for image in far])  # the 5 % of pixels that stand out most
    assert np.median(scores[12:]) > np.median(scores[:12])
    words = of([finding], 3)[1]['report']
    assert words != of([], 3)[1]['report'] and 'no acute finding' not in words
    assert '{' not in words and words.endswith(' .')


def test_images_of_a_patient_share_anatomy():
    one = [chest.draw([], canvas.generator('p', 1), canvas.generator('i', i), 48)[0] for i in range(6)]
    others = [chest.draw([], canvas.generator('p', i + 2), canvas.generator('i', i), 48)[0] for i in range(6)]
    within = np.mean([np.corrcoef(one[0].ravel(), image.ravel())[0, 1] for image in one[1:]])
    between = np.mean([np.corrcoef(one[0].ravel(), image.ravel())[0, 1] for image in others])
    assert within > between


def test_a_stand_in_loads_split_by_patient(monkeypatch):
    small = dataclasses.replace(SETS['chexpert'], default_size=40, group_sizes={'': (0.5, 0.5)})
    monkeypatch.setitem(SETS, 'chexpert', small)
    loaded = data.load('synthetic_chexpert', image_size=16)
    assert loaded.labels.shape == (40, 5)
    assert loaded.manifest.groupby('group')['split'].nunique().max() == 1
    half = loaded.train_rows(0.5, seed=1)
    assert set(loaded.train_rows(0.25, seed=1)) <= set(half) and not set(half) & set(loaded.rows('test'))


# ---- arithmetic of the lists


def test_arithmetic_of_lists(nih):
    table = LISTS.arithmetic(nih / 'lists', NIH, nih_chestxray14.patient_of, 'tiny').set_index('list')
    assert table['images'].to_dict() == {
        **{'train_1.txt': 2, 'train_10.txt': 5, 'train_list.txt': 20, 'val_list.txt': 4, 'test_list.txt': 6}
    }
    assert table.loc['train_1.txt', ['in_train', 'in_10', 'patients']].tolist() == [2, 1, 1]
    assert table['images_elsewhere'].eq(0).all() and table['patients_elsewhere'].eq(0).all()
    assert table.loc['train_list.txt', 'positives: Atelectasis'] == 10
    write_list(nih / 'lists' / 'test_list.txt', {'00000001_009.png': nih_labels(0)})
    table = LISTS.arithmetic(nih / 'lists', NIH, nih_chestxray14.patient_of, 'tiny').set_index('list')
    assert table.loc[['train_list.txt', 'test_list.txt'], 'patients_elsewhere'].tolist() == [1, 1]


def test_counted_lists_of_the_report_add_up():
    with COUNTED.open(newline='') as file:
        values = {(row['dataset'], row['list'], row['what']): float(row['value']) for row in csv.DictReader(file)}
    nih = nih_chestxray14.CARD
    splits = ('train_list.txt', 'val_list.txt', 'test_list.txt')
    assert sum(values[nih.label, split, 'images'] for split in splits) == nih.images == 112120
    for name, count in nih.counts.items():
        assert sum(values[nih.label, split, f'positives: {name}'] for split in splits) == count
    for card in (nih, chexpert.CARD):
        assert {values[card.label, split, 'patients_elsewhere'] for split in ('val_list.txt', 'test_list.txt')} == {0}
    rsna = rsna_pneumonia_lists.CARD
    assert sum(values[rsna.label, split, 'images'] for split in splits) == rsna.images
    assert values[rsna.label, 'train_10.txt', 'prevalence: Pneumonia'] == pytest.approx(0.331, abs=5e-4)
    assert (rsna.label, 'train_10.txt', 'patients') not in values


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the authors' lists are not beside the project")
def test_the_counted_lists_are_those_of_the_authors(tmp_path):
    LISTS.count(['--source', str(PUBLISHED), '--out', str(tmp_path / 'again.csv')], standalone_mode=False)
    assert (tmp_path / 'again.csv').read_text() == COUNTED.read_text()
