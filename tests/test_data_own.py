"""One's own data: what is doubted, what is taken as it is meant, what is counted; by the command that is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_datasets import draw, make_busi, make_own

from medpeft_utils import cli, data
from medpeft_utils.core.errors import BadInput, UnknownName
from medpeft_utils.data import files


def check(dataset: Path | str, *folder: Path) -> dict:
    """The report of `medpeft data check`; its status is 1 where the data cannot be used, and never a traceback."""
    report = Path(os.environ['PYTEST_REPORT'])
    with pytest.raises(SystemExit) as ended:
        cli.main(['data', 'check', str(dataset), *map(str, folder), '--out', str(report)])
    found = json.loads(report.read_text(encoding='utf-8'))
    assert ended.value.code == (1 if found['faults'] or found['unreadable'] else 0)
    return found


@pytest.fixture(autouse=True)
def _report(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('PYTEST_REPORT', str(tmp_path_factory.mktemp('report') / 'report.json'))


def table(folder: Path, labels: list[str], /, **columns: list[str]) -> Path:
    """A CSV of images with these labels."""
    for i in range(len(labels)):
        draw(folder / 'img' / f'{i:02d}.png', i)
    path = folder / 'labels.csv'
    images = [f'img/{i:02d}.png' for i in range(len(labels))]
    pd.DataFrame({'image': images, 'label': labels, **columns}).to_csv(path, index=False)
    return path


def said(report: dict) -> str:
    return '\n'.join([*report['faults'], *report['unreadable'], *report['remarks']])


def test_the_status_of_the_installed_command(tmp_path):
    good, bad = make_own(tmp_path / 'good'), table(tmp_path / 'bad', ['a', ''] * 6)
    command = [sys.executable, '-m', 'medpeft_utils.cli', 'data', 'check']
    for dataset, status in ((good, 0), (bad, 1)):
        ended = subprocess.run([*command, str(dataset)], capture_output=True, text=True, timeout=60)
        assert ended.returncode == status and 'Traceback' not in ended.stderr


# ---- labels and groups --------------------------------------------------------------------------------------------


def test_numbers_are_labels_however_programs_write_them(tmp_path):
    path = table(tmp_path, ['0', '0.0', '1', '1.0'] * 6, group=[f'{i // 4}.0' for i in range(24)])
    assert data.load(path, image_size=16).classes == ['0', '1'] and check(path)['classes'] == {'0': 12, '1': 12}
    assert set(data.open_source(path).frame['group']) == set('012345')
    grades = table(tmp_path, ['1.5', '2.0', '1.50'] * 4)
    assert data.open_source(grades).card.classes == ('1.5', '1.50', '2')  # no other number is rewritten
    ids = table(tmp_path, ['a', 'b'] * 6, group=[f'{i:03d}' for i in range(12)])
    assert '007' in set(data.open_source(ids).frame['group'])


def test_letters_that_look_the_same_are(tmp_path):
    labels = ['Lésion', 'Le\u0301sion', 'Lésion\u200b', ' Lésion ', 'no\u00a0sign', 'no  sign'] * 3
    assert data.load(table(tmp_path, labels), image_size=16).classes == ['Lésion', 'no sign']


@pytest.mark.parametrize('pair', [('Benign', 'benign'), ('no finding', 'no_finding'), ('grade-1', 'Grade 1')])
def test_labels_that_differ_in_spelling_alone_are_a_fault(tmp_path, pair):
    path = table(tmp_path, [*pair, 'other'] * 6)
    assert f'{sorted(pair)[0]!r} (6 images)' in said(check(path)) and 'spell them in one way' in said(check(path))
    with pytest.raises(BadInput, match='spell them in one way'):
        data.load(path, image_size=16)


@pytest.mark.parametrize(
    'pair', [('0', '00'), ('1', '1e0'), ('+1', '1'), ('0,0', '0'), ('mass', 'm\u0430ss'), ('a', '\uff41')]
)
def test_numbers_and_letters_that_are_the_same_are_a_fault(tmp_path, pair):
    found = check(table(tmp_path, [*pair, 'other'] * 6))['faults']
    assert len(found) == 1 and all(f'{name!r} (6 images)' in found[0] for name in pair)


def test_labels_that_only_look_like_each_other_are_none(tmp_path):
    labels = ['-1', '1', '1.5', '15', '1-11', 'grade 1', 'grade 2', 'mass', 'masses'] * 4
    assert check(table(tmp_path, labels))['faults'] == []


def test_groups_that_are_likely_one_are_a_fault(tmp_path):
    for number, (names, words) in enumerate(
        (
            (['7', '007'], "groups '007' and '7' differ"),
            (['p7', 'P7'], "groups 'P7' and 'p7' differ"),
            (['1.23E+15', '1234567890123456'], "group '1.23E+15' is a number that a spreadsheet has cut short"),
        )
    ):
        groups = [*names, *(f'x{i // 2}' for i in range(22))]
        assert words in said(check(table(tmp_path / str(number), ['a', 'b'] * 12, group=groups)))
    apart = ['1234567890123456', '1234567890123457', '12e5', '1200000', '1-11', '11-1', '1.2.3', '1.20.3'] * 3
    assert check(table(tmp_path / 'apart', ['a', 'a', 'b', 'b'] * 6, group=apart))['faults'] == []


@pytest.mark.parametrize('nothing', ['unknown', 'Unknown', '-', '?', 'n.a.'])
def test_groups_of_nobody_are_no_group(tmp_path, nothing):
    path = table(tmp_path, ['a', 'b'] * 12, group=[nothing if i < 12 else f'p{i // 2}' for i in range(24)])
    assert check(path)['groups'] == 6 and len(set(data.load(path, image_size=16).groups)) == 18


@pytest.mark.parametrize('nothing', ['nan', 'NaN', 'na', 'N/A', 'None', 'Null', '<NA>', '#REF!', '(null)'])
def test_what_programs_write_for_nothing_is_nothing(tmp_path, nothing):
    path = table(tmp_path, ['a', 'b'] * 11 + [nothing, 'a'])
    assert "no label for 'img/22.png'" in said(check(path))
    unknown = table(tmp_path, ['a', 'b'] * 12, group=[nothing if i < 12 else f'p{i // 2}' for i in range(24)])
    report = check(unknown)
    assert (
        report['groups'] == 6 and '12 image(s) have no group' in said(report) and report['verdict'].endswith('remarks')
    )
    assert len(set(data.load(unknown, image_size=16).groups)) == 18


def test_a_column_that_seems_to_tell_persons_is_pointed_at(tmp_path):
    persons = [f'p{i // 3}' for i in range(24)]
    unused = table(tmp_path / 'a', ['a', 'b'] * 12, Patient_ID=persons)
    assert "column 'patient_id' holds 8 values for 24 images and is not used" in said(check(unused))
    used = table(tmp_path / 'b', ['a', 'b'] * 12, patient_id=persons, group=persons)
    assert 'is not used' not in said(check(used))


def test_a_class_called_none_by_hand_stays_one(tmp_path):
    assert data.load(table(tmp_path, ['none', 'mass'] * 6), image_size=16).classes == ['mass', 'none']


def test_several_findings_in_one_label_are_a_fault(tmp_path):
    assert "'Edema|Mass' holds several" in said(check(table(tmp_path, ['Edema|Mass', 'Edema', 'Mass'] * 6)))
    assert check(table(tmp_path, ['G1/2', 'G3'] * 6))['faults'] == []  # nothing of it is a class of its own
    for labels in (
        ['Edema|Mass', 'Mass|Nodule'],
        ["['a', 'b']", "['a']"],
        ['Edema Mass', 'Edema', 'Mass'],
        ['Edema and Mass', 'Edema', 'Mass'],
    ):
        assert 'give each image one class' in said(check(table(tmp_path, labels * 6))), labels
    for labels in (['ductal, benign', 'ductal, malignant'], ['soft tissue', 'tissue']):
        assert check(table(tmp_path, labels * 6))['faults'] == [], labels


def test_own_columns_of_any_name_change_nothing(tmp_path):
    own = {name: [str(i % 3) for i in range(24)] for name in ('share', 'sha256', 'near', 'labels', 'stage')}
    plain = data.load(table(tmp_path / 'a', ['a', 'b'] * 12), image_size=16)
    named = data.load(table(tmp_path / 'b', ['a', 'b'] * 12, **own), image_size=16)
    assert named.split_hash == plain.split_hash and named.train_rows(0.1).tolist() == plain.train_rows(0.1).tolist()
    assert named.attributes['stage'].tolist() == own['stage']


# ---- layout -------------------------------------------------------------------------------------------------------


def test_splits_beside_other_folders_are_a_fault(tmp_path):
    for split in ('train', 'val', 'test', 'unlabelled'):
        make_own(tmp_path / split)
    assert "beside the splits (test, train, validation) lies 'unlabelled'" in said(check(tmp_path))
    shutil.rmtree(tmp_path / 'unlabelled')
    assert check(tmp_path)['splits_given'] and len(check(tmp_path)['classes']) == 3


@pytest.mark.parametrize(
    ('folders', 'words'),
    [
        (('data/a', 'data/b'), r'has one class only \(data\); if the classes or splits are below it, name .*/data'),
        (('d/train/a', 'd/val/a', 'd/test/a'), r'if the classes or splits are below it, name .*/d'),
        (('a/train', 'a/test', 'b/train', 'b/test'), r"the splits \(test, train\) lie below 'a'"),
        (('fold0', 'fold1', 'fold2'), "the folders 'fold0' to 'fold2' are parts of the data by their names"),
        (('x_images_part_1', 'x_images_part_2'), "'x_images_part_1' to 'x_images_part_2' are parts of the data"),
        (('train/a', 'val/a', 'dev/b', 'test/a'), "'dev' and 'val' are both the validation split"),
        (
            ('train/a', 'train/b', 'test/a', 'test/b'),
            'no image in validation; move some there, or leave the split column',
        ),
    ],
)
def test_folders_that_are_no_classes_are_a_fault(tmp_path, folders, words):
    make_layout(tmp_path, folders)
    assert re.search(words, said(check(tmp_path)))


@pytest.mark.parametrize(
    ('folders', 'names', 'words'),
    [
        (('x/a', 'x/b', 'y/a', 'y/b'), '{}.png', 'folders that every class holds (a, b), which count for nothing'),
        (('a', 'b'), 'patient{0}_view{1}.png', "images of one person by their paths ('patient0')"),
        (('a/Subject-1', 'a/Subject-2', 'b/Subject-3', 'b/Subject-4'), '{}.png', "by their paths ('Subject-1')"),
        (('a', 'b', '.c'), '{}.png', "images left out in the hidden folder '.c': 4"),
        (('train/a', 'train/b', 'val/a', 'val/b', 'test/a', 'test/b', 'test'), '{}.png', "lie in 'test' beside"),
        (('a', 'b', 'Ground_Truth'), '{}.png', "images of the folder 'Ground_Truth' left out as masks: 4"),
    ],
)
def test_layouts_that_may_mean_something_else_are_remarked(tmp_path, folders, names, words):
    make_layout(tmp_path, folders, names)
    report = check(tmp_path)
    assert report['faults'] == [] and words in said(report) and report['images'] % 8 == 0


def make_layout(root: Path, folders: tuple[str, ...], names: str = '{}.png') -> None:
    for number, folder in enumerate(folders):
        for i in range(4):
            draw(root / folder / names.format(i // 2 if '{1}' in names else i, i % 2), 10 * number + i)


def test_images_made_of_others_and_class_names_with_blanks(tmp_path):
    make_layout(tmp_path, ('a', 'b ', 'b', 'ne\u0301', 'n\u00e9'))
    for i in range(4):
        shutil.copy(tmp_path / 'a' / f'{i}.png', tmp_path / 'a' / f'{i}_flip.png')
        shutil.copy(tmp_path / 'a' / f'{i}.png', tmp_path / 'a' / f'{i}.gt.png')
    report = check(tmp_path)
    assert report['classes'] == {'a': 8, 'b': 8, 'n\u00e9': 8}
    assert "images made of others by their names ('a/0_flip')" in said(report)
    assert 'left out as masks of others, by their names: 4' in said(report)


def test_pipes_and_indices_are_no_images(tmp_path):
    make_layout(tmp_path, ('a', 'b'))
    os.mkfifo(tmp_path / 'a' / 'pipe')  # waited for until somebody writes
    (tmp_path / 'b' / 'DICOMDIR').write_bytes(bytes(128) + b'DICM')
    report = check(tmp_path)
    assert report['images'] == 8 and 'ending is none of an image (no suffix): 2' in said(report)
    os.mkfifo(tmp_path / 'a' / 'pipe.png')
    assert "no file 'a/pipe.png'" in said(check(tmp_path)) and 'it is a pipe, socket or device' in said(check(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason='root may list everything')
def test_a_folder_that_may_not_be_listed(tmp_path):
    make_layout(tmp_path, ('a', 'b/sub'))
    (tmp_path / 'b' / 'sub').chmod(0)
    assert 'cannot be listed' in said(check(tmp_path))


def test_masks_are_left_out_and_counted(tmp_path):
    root = make_busi(tmp_path)
    report = check(root)
    assert report['images'] == 19 and '20' in said(report) and 'masks of others' in said(report)
    for name in ('a', 'b'):
        for i in range(4):
            draw(tmp_path / 'nested' / name / 'images' / f'{i}.png', 9 * i + (name == 'b'))
            draw(tmp_path / 'nested' / name / 'masks' / f'{i}.png', i)
    assert check(tmp_path / 'nested')['images'] == 8
    listed = table(tmp_path / 'listed', ['a', 'b'] * 6)
    draw(tmp_path / 'listed' / 'img' / '00_mask.png', 1)
    listed.write_text(listed.read_text() + 'img/00_mask.png,a\n')
    assert "'img/00_mask.png' is a mask by its name" in said(check(listed))


@pytest.mark.parametrize('name', ['{}_superpixels', '{} roi', '{}Mask', '{}.seg', 'mask_{}', 'GT-{}', '{}_lesion_1'])
def test_masks_are_known_by_any_of_their_names(tmp_path, name):
    make_layout(tmp_path, ('a', 'b'), 'i{}.png')
    make_layout(tmp_path, ('a', 'b'), f'{name}.png'.replace('{}', 'i{}'))
    report = check(tmp_path)
    assert report['images'] == 8 and 'left out as masks of others, by their names: 8' in said(report)


def test_a_folder_of_masks_beside_its_class(tmp_path):
    make_layout(tmp_path, ('benign', 'benign_mask', 'benign lesion', 'with_mask'))
    report = check(tmp_path)
    assert set(report['classes']) == {'benign', 'benign lesion', 'with_mask'}
    assert "images of the folder 'benign_mask' left out as masks: 4" in said(report)


@pytest.mark.parametrize('names', [('train_set', 'val set', 'Test Images'), ('TRAINING', 'Validation-Data', 'testset')])
def test_splits_by_any_of_their_names(tmp_path, names):
    make_layout(tmp_path, tuple(f'{split}/{name}' for split in names for name in 'ab'))
    assert check(tmp_path)['split_images'] == {'train': 8, 'validation': 8, 'test': 8}
    path = table(tmp_path / 'table', ['a', 'b'] * 9, split=[names[i // 2 % 3] for i in range(18)])
    assert check(path)['split_images'] == {'train': 6, 'validation': 6, 'test': 6}


def test_a_table_beside_loose_images_is_pointed_at(tmp_path):
    table(tmp_path, ['a', 'b'] * 6)
    assert "has one class only (img); if 'labels.csv' tells the labels, name that file" in said(check(tmp_path))
    (tmp_path / 'img').rename(tmp_path / 'loose')
    (tmp_path / 'labels.csv').rename(tmp_path / 'loose' / 'labels.csv')
    assert "if 'labels.csv' tells their labels, name that file" in said(check(tmp_path / 'loose'))
    make_layout(tmp_path / 'folder.csv', ('a', 'b'))
    assert check(tmp_path / 'folder.csv')['images'] == 8


def test_folders_and_files_of_any_name_are_read_or_counted(tmp_path):
    make_own(tmp_path)
    (tmp_path / 'class 0').rename(tmp_path / '__normal')
    for i in range(3):
        file = tmp_path / 'class 1' / f'image {i}.png'
        Image.open(file).save(file.with_suffix('.jfif'), 'JPEG')
        file.unlink()
    (tmp_path / 'class 1' / 'notes.txt').write_text('x')
    (tmp_path / 'class 1' / 'scan.nii').write_text('x')
    report = check(tmp_path)
    assert report['classes'] == {'__normal': 7, 'class 1': 7, 'class 2': 7}
    assert 'none of an image (.nii): 1' in said(report) and '(.txt): 1' in said(report)


def test_links_in_a_circle_and_to_nowhere(tmp_path):
    make_own(tmp_path)
    (tmp_path / 'class 0' / 'again').symlink_to(tmp_path)
    assert check(tmp_path)['images'] == 21
    (tmp_path / 'class 1' / 'gone.png').symlink_to(tmp_path / 'nowhere.png')
    assert 'it is a link to' in said(check(tmp_path))


def test_names_that_are_no_utf8(tmp_path):
    make_own(tmp_path)
    name = os.fsencode(tmp_path / 'class 1') + b'/b\xf6se.png'
    os.rename(os.fsencode(tmp_path / 'class 1' / 'image 0.png'), name)
    assert 'is no UTF-8; rename the file' in said(check(tmp_path))


def test_class_names_with_backslash_and_dollars_are_drawn(tmp_path):
    from medpeft_utils import plots

    for i, name in enumerate(('cost $a$ or $b$', 'a\\b', '$x_{')):
        for image in range(4):
            draw(tmp_path / name / f'{image}.png', 10 * i + image)
    loaded = data.load(tmp_path, image_size=16)
    assert set(loaded.classes) == {'cost $a$ or $b$', 'a\\b', '$x_{'}
    figure = plots.preview(loaded)
    figure.canvas.draw()
    plots.class_counts(loaded, loaded.rows('train')).canvas.draw()
    data_pages = pytest.importorskip('medpeft_utils.data.pages')
    data_pages.examples(loaded).canvas.draw()


# ---- tables -------------------------------------------------------------------------------------------------------


def test_commas_at_the_end_of_rows_shift_nothing(tmp_path):
    path = table(tmp_path, ['a', 'b'] * 6, group=[f'p{i}' for i in range(12)])
    lines = path.read_text().splitlines()
    for ended in (lines[:1] + [f'{line},' for line in lines[1:]], [lines[0], f'{lines[1]},', *lines[2:]],
                  [f'{line},' for line in lines]):  # fmt: skip
        path.write_text('\n'.join(ended))
        assert check(path)['classes'] == {'a': 6, 'b': 6} and check(path)['groups'] == 12
    path.write_text('\n'.join([lines[0], 'img/00.png,a,extra,p0', *lines[2:]]))
    assert 'row 2 has 4 cells and the header 3' in said(check(path))


@pytest.mark.parametrize(
    ('header', 'words'),
    [
        ('Image_Path,label', "no column 'image', only image_path, label; is it 'image_path'?"),
        ('image,diagnosis', "no column 'label', only image, diagnosis; is it 'diagnosis'?"),
        ('image,caption', "no column 'text', only image, caption; is it 'caption'?"),
    ],
)
def test_columns_by_other_names_are_pointed_at(tmp_path, header, words):
    path = table(tmp_path, ['a', 'b'] * 6)
    path.write_text(path.read_text().replace('image,label', header))
    assert words in said(check(path))


def test_findings_without_a_value_and_one_text_for_all(tmp_path):
    path = table(tmp_path, ['same'] * 12)
    lines = [f'{line},{["1.0", "nan", "-1", ""][i % 4]}' for i, line in enumerate(path.read_text().splitlines()[1:])]
    path.write_text('\n'.join(['image,text,finding: Edema', *lines]))
    assert 'all images have the same text' in said(check(path)) and check(path)['faults'] == []
    assert data.open_source(path).frame['finding:edema'].tolist() == [1, -1, -1, -1] * 3


def test_columns_of_one_name_are_a_fault(tmp_path):
    path = table(tmp_path, ['a', 'b'] * 6, Label=['c'] * 12)
    assert "columns 'label' and 'Label' have one name" in said(check(path))


def test_other_kinds_of_file_are_named(tmp_path):
    path = table(tmp_path, ['a', 'b'] * 6)
    tabs = tmp_path / 'labels.tsv'
    tabs.write_text(path.read_text().replace(',', '\t'))
    assert check(tabs)['classes'] == {'a': 6, 'b': 6}
    for name in ('data.zip', 'labels.csv.gz', 'labels.xlsx'):
        (tmp_path / name).write_bytes(b'PK')
        assert f'a .{name.rpartition(".")[2]} is not read as a dataset' in said(check(tmp_path / name))
    with pytest.raises(UnknownName, match='no folder or file of that name is here'):
        data.load('my_images')
    assert 'no such folder' in said(check(tmp_path / 'my_images'))


def test_paths_through_a_link_are_inside(tmp_path):
    path = table(tmp_path / 'real', ['a', 'b'] * 6)
    (tmp_path / 'link').symlink_to(tmp_path / 'real')
    path.write_text(path.read_text().replace('img/', f'{tmp_path}/link/img/'))
    plain = table(tmp_path / 'plain', ['a', 'b'] * 6)
    assert check(path)['faults'] == [] and check(tmp_path / 'link' / 'labels.csv')['faults'] == []
    assert data.load(path, image_size=16).split_hash == data.load(plain, image_size=16).split_hash


def test_a_name_without_its_ending_is_guessed(tmp_path):
    path = table(tmp_path, ['a', 'b'] * 6)
    path.write_text(path.read_text().replace('.png', ''))
    assert "no file 'img/00' and 11 more" in said(check(path)) and "is it '00.png'?" in said(check(path))


@pytest.mark.parametrize(
    ('written', 'words'),
    [
        ('', "is it 'img/00.png'? folders are part of the path"),
        ('IMG/', "is it 'img/00.png'? the case of letters is part of the path"),
        ('https://x.org/', 'it is an address: download the images'),
        ('im%67/', "is it 'img/00.png'? plain letters"),
    ],
)
def test_the_file_that_a_path_means_is_guessed(tmp_path, written, words):
    path = table(tmp_path, ['a', 'b'] * 6)
    path.write_text(path.read_text().replace('img/', written))
    assert words in said(check(path))
    path.write_text('image,label\nimg,a\nimg/01.png,b\n')
    assert "no file 'img' below" in said(check(path)) and '(it is a folder)' in said(check(path))


def test_tables_as_programs_write_them(tmp_path):
    path = table(tmp_path, ['a', 'b'] * 6)
    plain = path.read_text()
    for content in ('sep=;\n' + plain.replace(',', ';'), plain.replace(',', '|'), plain.replace('\n', '\r')):
        path.write_text(content, newline='')
        assert check(path)['classes'] == {'a': 6, 'b': 6}
    for content, words in (
        (plain.replace('a\n', 'a\0\n').encode(), 'holds zero bytes'),
        (b'PK\3\4' + bytes(60), 'is an Excel workbook or other archive in spite of its name'),
        (b'\x1f\x8b' + bytes(60), 'is compressed in spite of its name'),
    ):
        path.write_bytes(content)
        assert words in said(check(path))


def test_cleaning_is_the_same_twice():
    generator = np.random.default_rng(0)
    letters = [*'aB \t.0é', 'e\u0301', '\u200b', '\u00a0', '\ufeff', '\u00ad']
    for _ in range(300):
        value = ''.join(generator.choice(letters, 8))
        assert files.clean(files.clean(value)) == files.clean(value)
