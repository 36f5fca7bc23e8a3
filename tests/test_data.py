"""Reading and splitting: on tiny images in the published layouts, and on the real sets if they are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from tiny_datasets import draw, make_busi, make_ham, make_own

from medpeft_utils import data
from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import decode, manifest, splits
from medpeft_utils.data.commands import data as data_command

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / 'shared' / 'data'
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason='the real datasets do not lie beside the repository')


# ---- published layouts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('parent', [False, True])
def test_breastus_leaves_masks_out(tmp_path, parent):
    root = make_busi(tmp_path)
    loaded = data.load('breastus', root.parent if parent else root, image_size=16)
    assert loaded.classes == ['benign', 'malignant', 'normal']
    assert loaded.counts().sum(axis=1).to_dict() == {'benign': 8, 'malignant': 6, 'normal': 5}
    assert not loaded.manifest['image'].str.contains('mask').any()
    assert loaded.images.shape == (19, 16, 16, 3) and loaded.images.dtype == np.uint8
    assert (loaded.images[..., 0] == loaded.images[..., 2]).all()  # grey in all channels


def test_ham10000_keeps_lesions_together(tmp_path):
    loaded = data.load('ham10000', make_ham(tmp_path), image_size=16)
    assert len(loaded) == 7 * (1 + 2 + 3) * 2
    assert loaded.manifest.groupby('lesion_id')['split'].nunique().max() == 1
    assert loaded.classes[5] == 'Melanocytic nevus'
    assert loaded.manifest['age'].isna().sum() == 7 and set(loaded.manifest['sex']) == {'male'}
    for row in (0, 41, 83):  # images, labels and manifest rows belong together
        image = tmp_path / loaded.manifest['image'][row]
        assert (loaded.images[row] == decode.read_image(image, 16)).all()
        assert loaded.classes[loaded.labels[row]] == loaded.manifest['label'][row]


def test_datasets_without_reader_say_so_and_offer_a_way(monkeypatch):
    monkeypatch.delitem(data.sources._READERS, 'smdg')
    with pytest.raises(BadInput, match=r"'smdg' has a data card but no reader.*synthetic_smdg"):
        data.load('smdg', 'anywhere')


def test_cards_hold_the_papers_five_datasets():
    published = {'breastus': 584, 'fitzpatrick17k': 5809, 'ham10000': 7511, 'smdg': 9852, 'rsna_pneumonia': 20412}
    assert data.names()[:5] == list(published)
    for name, train_images in published.items():
        card, synthetic = data.CARDS[name], data.CARDS[f'synthetic_{name}']
        assert card.paper_train_images == train_images and not card.synthetic
        assert tuple(card.counts) == card.classes
        assert synthetic.synthetic and synthetic.stands_for == name and synthetic.label == f'{card.label} (synthetic)'
        assert synthetic.classes == card.classes
        for text in (card.task, card.modality, card.source, card.how_to_obtain, card.licence):
            assert text


# ---- own data -----------------------------------------------------------------------------------------------------


def test_folder_per_class(tmp_path):
    loaded = data.load(make_own(tmp_path / 'My scans'), image_size=16)
    assert loaded.name == loaded.label == 'My scans' and not loaded.synthetic
    assert loaded.classes == ['class 0', 'class 1', 'class 2']
    # 21 x 0.75, 0.10, 0.15 is 16, 2, 3; every class has an image in every split, and so validation has 3
    assert loaded.counts().sum().to_dict() == {'train': 15, 'validation': 3, 'test': 3}


def test_folders_of_splits_are_honoured(tmp_path):
    for split in ('train', 'val', 'test'):
        make_own(tmp_path / split, classes=2, images=3)
    for i, path in enumerate(sorted(tmp_path.rglob('*.png'))):
        draw(path, i)
    loaded = data.load(tmp_path, image_size=16)
    assert loaded.classes == ['class 0', 'class 1'] and (loaded.counts() == 3).all(axis=None)
    assert all(image.startswith('val/') for image in loaded.manifest['image'][loaded.rows('validation')])


def test_own_columns_change_nothing_and_those_of_persons_are_attributes(tmp_path):
    table = pd.DataFrame({'image': [f'{i}.png' for i in range(30)], 'label': ['a', 'b', 'c'] * 10})
    for i in range(30):
        draw(tmp_path / f'{i}.png', i)
    table.to_csv(tmp_path / 'plain.csv', index=False)
    more = table.assign(sex=['F', 'M'] * 15, age=range(40, 70), scan=[f'id {i}' for i in range(30)])
    more = more.assign(share='1', sha256='same', near='0', labels='1 0')
    more.to_csv(tmp_path / 'more.csv', index=False)
    plain, loaded = (data.load(tmp_path / f'{name}.csv', image_size=16) for name in ('plain', 'more'))
    assert loaded.split_hash == plain.split_hash
    assert loaded.train_rows(0.01).tolist() == plain.train_rows(0.01).tolist()
    assert list(loaded.attributes) == ['sex', 'age']


def test_csv_with_groups_splits_and_own_columns(tmp_path):
    rows = []
    for i in range(18):
        draw(tmp_path / 'images' / f'{i}.png', i)
        split = ('train', 'Valid', 'test')[i // 2 % 3]
        rows.append((f'images/{i}.png', 'no' if i % 2 else 'yes', f'patient {i // 2}', split, i))
    table = pd.DataFrame(rows, columns=['Image', 'label', 'group', 'split', 'skin type'])
    table.to_csv(tmp_path / 'own.csv', index=False, sep=';', encoding='utf-8-sig')
    loaded = data.load(tmp_path / 'own.csv', image_size=16)
    assert loaded.classes == ['no', 'yes'] and loaded.attributes['skin type'].tolist() == [
        *map(str, sorted(range(18), key=str))
    ]
    assert (loaded.counts() == 3).all(axis=None)
    assert len(set(loaded.groups)) == 9 and 'skin type' in loaded.manifest
    elsewhere = tmp_path / 'tables' / 'own.csv'
    elsewhere.parent.mkdir()
    (tmp_path / 'own.csv').rename(elsewhere)
    assert data.load(elsewhere, folder=tmp_path, image_size=16).split_hash == loaded.split_hash


def test_paths_with_spaces_and_accents(tmp_path):
    root = tmp_path / 'Étude n° 1 – échantillon'
    for label in ('bénin', 'malin'):
        for i in range(4):
            draw(root / label / f'prélèvement {i} (a).png', ord(label[0]) + i)
    assert data.load(root, image_size=16).classes == ['bénin', 'malin']
    other_spelling = [unicodedata.normalize('NFD', str(path.relative_to(root))) for path in sorted(root.rglob('*.png'))]
    table = pd.DataFrame({'image': other_spelling, 'label': ['bénin'] * 4 + ['malin'] * 4})
    table.to_csv(root / 'étiquettes.csv', index=False)
    assert len(data.load(root / 'étiquettes.csv', image_size=16)) == 8


# ---- splits -------------------------------------------------------------------------------------------------------


def test_targets_are_the_shares_of_every_class_and_of_all():
    counts = np.array([327, 514, 1099, 115, 1113, 6705, 142])
    wanted = splits.targets(counts)
    assert (wanted.sum(axis=1) == counts).all()
    assert wanted.sum(axis=0).tolist() == [7511, 1002, 1502]  # 10,015 x 0.75, 0.10, 0.15, rounded
    assert (np.abs(wanted - np.outer(counts, splits.SHARES)) <= 1).all()
    assert splits.targets(np.array([3, 4]))[:, 1:].min() == 1  # small classes are in every split


@pytest.mark.parametrize('seed', range(5))
def test_splits_keep_groups_whole_and_shares_near(seed):
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(600), generator.choice([1, 2, 3, 6], 600, p=[0.7, 0.2, 0.07, 0.03])).astype(str)
    labels = np.asarray(['a', 'b', 'c'])[(groups.astype(int) % 10 > 6).astype(int) + (groups.astype(int) % 10 > 8)]
    made = splits.assign(labels, groups, seed)
    assert pd.Series(made).groupby(groups).nunique().max() == 1
    for label in 'abc':
        for split, share in zip(splits.SPLITS, splits.SHARES, strict=True):
            own = labels == label
            assert abs((made[own] == split).sum() - share * own.sum()) <= 2
    sizes = pd.Series(groups).groupby(groups).transform('size')
    large = (sizes == 6).to_numpy()
    assert 0.5 < (made[large] == 'train').mean() < 0.95  # large groups go to all splits, not to one


def test_splits_are_a_function_of_the_seed(tmp_path):
    root = make_ham(tmp_path)
    first, again, other = (data.load('ham10000', root, 16, split_seed=seed) for seed in (0, 0, 1))
    assert first.split_hash == again.split_hash != other.split_hash
    assert (first.manifest['split'] == again.manifest['split']).all()


@pytest.mark.parametrize('folds', [2, 3, 5])
def test_folds_test_every_image_once_and_keep_groups_whole(tmp_path, folds):
    make_ham(tmp_path, lesions=9)
    loaded = [data.load('ham10000', tmp_path, image_size=16, folds=folds, split_seed=fold) for fold in range(folds)]
    tested = np.concatenate([fold.rows('test') for fold in loaded])
    assert sorted(tested) == list(range(len(loaded[0])))
    for fold in loaded:
        assert fold.manifest.groupby('lesion_id')['split'].nunique().max() == 1
        assert (fold.counts() > 0).all(axis=None)
        assert abs(len(fold.rows('test')) - len(fold) / folds) <= 7
        rest = len(fold) - len(fold.rows('test'))
        assert abs(len(fold.rows('validation')) - rest * 0.10 / 0.85) <= 7
    assert len({fold.split_hash for fold in loaded}) == folds
    again = data.load('ham10000', tmp_path, image_size=16, folds=folds, split_seed=folds)
    assert set(again.rows('test')) != set(loaded[0].rows('test'))  # the next division
    usual = data.load('ham10000', tmp_path, image_size=16)
    assert usual.split_hash not in {fold.split_hash for fold in loaded}


def test_folds_of_too_few_groups_and_of_given_splits(tmp_path):
    root = make_own(tmp_path / 'own', classes=2, images=4)
    with pytest.raises(BadInput, match=r"class 'class 0' has 4 image\(s\) in 4 group\(s\): too few .* 5 folds"):
        data.load(root, image_size=16, folds=5)
    with pytest.raises(BadInput, match=r'folds=1: give 0 .*or a number of folds from 2'):
        data.load(root, image_size=16, folds=1)
    names = [f'class {k}/image {i}.png' for k in range(2) for i in range(4)]
    rows = [(name, name[6], ('train', 'val', 'test', 'train')[i % 4]) for i, name in enumerate(names)]
    pd.DataFrame(rows, columns=['image', 'label', 'split']).to_csv(root / 'table.csv', index=False)
    given = data.load(root / 'table.csv', image_size=16)
    folds = [data.load(root / 'table.csv', image_size=16, folds=4, split_seed=fold) for fold in range(4)]
    assert len(given.rows('test')) == 2 and sorted(np.concatenate([fold.rows('test') for fold in folds])) == [*range(8)]


def test_attributes_are_what_the_card_says(tmp_path):
    attributes = data.load('ham10000', make_ham(tmp_path), image_size=16).attributes
    assert attributes.columns.tolist() == ['sex', 'age', 'localization'] and len(attributes) == 84
    assert attributes['age'].isna().sum() == 7 and set(attributes['sex']) == {'male'}
    assert data.load('synthetic_breastus', image_size=16).attributes.shape[1] == 0


def test_split_hash_does_not_depend_on_the_place(tmp_path):
    hashes = {data.load('breastus', make_busi(tmp_path / name), 16).split_hash for name in ('a', 'b')}
    assert len(hashes) == 1


def test_large_groups_leave_no_class_out():
    labels = np.repeat(['a', 'b'], [15, 9])
    groups = np.repeat([f'g{i}' for i in range(6)], [5, 5, 5, 7, 1, 1])
    made = splits.assign(labels, groups)
    assert {(label, split) for label, split in zip(labels, made, strict=True)} == {
        (label, split) for label in 'ab' for split in splits.SPLITS
    }


def test_exact_duplicates_stay_in_one_split(tmp_path):
    root = make_busi(tmp_path, {'benign': 30, 'malignant': 30, 'normal': 30})
    for i in range(1, 16):
        (root / 'malignant' / f'malignant ({i}).png').write_bytes((root / 'benign' / f'benign ({i}).png').read_bytes())
    loaded = data.load('breastus', root, 16)
    assert loaded.manifest.groupby('sha256')['split'].nunique().max() == 1
    assert loaded.manifest.groupby('sha256').size().max() == 2  # kept, not dropped
    assert len(set(loaded.groups)) == 75


def test_groups_that_share_a_file_become_one():
    frame = pd.DataFrame({'image': list('abcdef'), 'group': ['1', '1', '2', '2', '3', ''], 'sha256': list('ABBCDC')})
    groups = manifest.grouped(frame)['group'].tolist()
    assert len(set(groups[:4] + groups[5:])) == 1 and groups[4] == '3'


def test_train_rows_are_nested_stratified_and_of_the_asked_number():
    counts = {'a': 5029, 'b': 835, 'c': 86, 'd': 2}
    labels = np.repeat(list(counts), list(counts.values()))
    frame = pd.DataFrame({'image': [f'{i}' for i in range(len(labels))], 'label': labels, 'split': 'train'})
    card = data.DataCard('x', 'x', '', '', tuple(counts))
    dataset = data.Dataset(card, np.zeros((len(labels), 1, 1, 3), np.uint8), frame.assign(group=frame['image']))
    smaller: set[int] = set()
    for fraction in (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0):
        rows = dataset.train_rows(fraction, seed=3)
        assert len(rows) == len(set(rows)) == round(fraction * 5952)
        assert smaller <= set(rows)
        taken = np.bincount(dataset.labels[rows], minlength=4)
        assert (taken >= 1).all()
        assert (np.abs(taken - fraction * np.array(list(counts.values()))) <= 3).all()  # three others come first
        smaller = set(rows)
    assert set(dataset.train_rows(0.1, 3)) != set(dataset.train_rows(0.1, 4))
    with pytest.raises(BadInput, match=r'fraction=1\.5'):
        dataset.train_rows(1.5)


# ---- synthetic ----------------------------------------------------------------------------------------------------


def test_synthetic_is_cached_split_and_marked(tmp_path, monkeypatch):
    from medpeft_utils.data import synthetic

    def generate(name, image_size=64, seed=0, n=None, indices=None):
        rows = np.asarray(list(indices))
        images = np.broadcast_to(rows[:, None, None, None].astype(np.uint8), (len(rows), image_size, image_size, 3))
        return images, rows % 2, pd.DataFrame({'group': [f'p{row // 2}' for row in rows], 'cup': rows / 10})

    monkeypatch.setattr(synthetic, 'generate', generate)
    monkeypatch.setattr(synthetic, 'default_size', lambda name: 300)
    loaded = data.load('synthetic_smdg', image_size=16, cache=tmp_path)
    assert loaded.synthetic and loaded.label == 'SMDG (synthetic)' and loaded.folder is None
    assert (loaded.images[:, 0, 0, 0] == np.arange(300) % 256).all() and loaded.labels.tolist()[:3] == [0, 1, 0]
    assert loaded.manifest['cup'][7] == 0.7
    assert loaded.manifest.groupby('group')['split'].nunique().max() == 1
    monkeypatch.setattr(synthetic, 'generate', None)
    assert data.load('synthetic_smdg', image_size=16, cache=tmp_path).split_hash == loaded.split_hash
    with pytest.raises(BadInput, match='drawn where it is used'):
        data.load('synthetic_smdg', tmp_path, cache=tmp_path)


def test_stand_ins_have_the_classes_and_groups_of_what_they_stand_for():
    from medpeft_utils.data import synthetic

    for name in data.names():
        card = data.CARDS[name]
        if not card.synthetic or card.multi_label:
            continue
        assert list(synthetic.modality(name).counts.values()) == list(data.CARDS[card.stands_for].counts.values())
        small, large = (synthetic.generate(name, size, indices=range(6)) for size in (16, 32))
        assert (small[1] == large[1]).all()
        pd.testing.assert_frame_equal(small[2], large[2])  # the manifest is made once for all sizes


# ---- commands -----------------------------------------------------------------------------------------------------


def test_commands(tmp_path, monkeypatch):
    monkeypatch.setenv('MEDPEFT_CACHE', str(tmp_path / 'cache'))
    root, run = make_busi(tmp_path / 'set'), CliRunner().invoke
    listed = run(data_command, ['list']).output
    assert all(name in listed for name in data.names()) and 'not prepared' in listed
    assert 'CC BY-NC 4.0' in run(data_command, ['show', 'ham10000']).output
    assert json.loads(run(data_command, ['show', 'ham10000', '--json']).output)['counts']['Melanoma'] == 1113
    result = run(data_command, ['prepare', 'breastus', str(root), '--image-size', '16'])
    assert result.exit_code == 0 and '19 images at 16 px' in result.output and '584' in result.output
    assert str(root) in run(data_command, ['list']).output
    table = pd.read_csv(next((tmp_path / 'cache').rglob('manifest.csv')))
    assert list(table.columns[:4]) == ['image', 'label', 'group', 'split'] and len(table) == 19


def test_check_finds_everything_at_once(tmp_path):
    root = make_own(tmp_path / 'own', classes=2, images=8)
    (root / 'class 1' / 'image 0.png').write_bytes((root / 'class 0' / 'image 0.png').read_bytes())
    draw(root / 'class 0' / 'long.png', 5, size=(90, 10))
    run = CliRunner().invoke
    fine = run(data_command, ['check', str(root)])
    assert fine.exit_code == 0 and 'verdict: usable, with remarks' in fine.output
    broken = root / 'class 0' / 'broken.png'
    broken.write_bytes((root / 'class 0' / 'image 1.png').read_bytes()[:200])
    result = run(data_command, ['check', str(root), '--json', '--out', str(tmp_path / 'report.json')])
    report = json.loads(result.output)
    assert result.exit_code == 1 and json.loads((tmp_path / 'report.json').read_text()) == report
    assert report['images'] == 18 and report['classes'] == {'class 0': 10, 'class 1': 8}
    assert len(report['unreadable']) == 1 and str(broken) in report['unreadable'][0]
    assert report['duplicates'] == [['class 0/image 0.png', 'class 1/image 0.png']]
    assert report['duplicates_across_classes'] == 1
    assert report['modes'] == {'L': 17} and report['verdict'].startswith('not usable')


def test_prep_scripts(tmp_path):
    root, script = make_busi(tmp_path / 'set'), ROOT / 'data_prep' / 'breastus.py'
    command = [sys.executable, str(script), '--out', str(tmp_path / 'cache'), '--image-size', '16', '--source']
    good = subprocess.run([*command, str(root)], capture_output=True, text=True, timeout=60)
    assert good.returncode == 0 and '19 images' in good.stdout
    bad = subprocess.run([*command, str(tmp_path / 'nowhere')], capture_output=True, text=True, timeout=60)
    assert bad.returncode == 1 and 'no such folder' in bad.stderr and 'Traceback' not in bad.stderr


def test_every_reader_has_a_script():
    for name in data.names():
        if data.sources.has_reader(name):
            module = data.sources.reader(data.CARDS[name])[1].__module__.rpartition('.')[2]
            assert (ROOT / 'data_prep' / f'{module}.py').is_file()


def test_no_torch_at_import():
    code = "import sys, medpeft_utils.data.commands, medpeft_utils.data; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT, env=os.environ)


# ---- the real sets ------------------------------------------------------------------------------------------------


@needs_real
def test_real_breastus():
    loaded = data.load('breastus', REAL / 'breastus', image_size=16)
    assert loaded.counts().sum(axis=1).to_dict() == {'benign': 437, 'malignant': 210, 'normal': 133}
    assert abs(len(loaded.rows('train')) - 584) <= 1
    same = loaded.manifest[loaded.manifest['sha256'].duplicated(keep=False)]
    assert set(same['image']) == {'benign/benign (433).png', 'malignant/malignant (145).png'}
    assert same['split'].nunique() == 1


@needs_real
def test_real_ham10000():
    loaded = data.load('ham10000', REAL / 'ham10000', image_size=16)
    assert len(loaded) == 10015 and len(set(loaded.groups)) == 7470
    assert loaded.counts().sum(axis=1).to_dict() == dict(loaded.card.counts)
    assert loaded.manifest.groupby('lesion_id')['split'].nunique().max() == 1
    assert len(loaded.rows('train')) == 7511
    assert len(loaded.train_rows(0.01)) == 75  # the paper's 1 %
