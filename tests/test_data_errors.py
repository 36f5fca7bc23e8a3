"""What can be wrong with a dataset: each has one clear message that names the file and the way out, or is handled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_datasets import draw, make_busi, make_ham, make_own

from medpeft_utils import data
from medpeft_utils.core.errors import BadInput, UnknownName
from medpeft_utils.data import decode
from medpeft_utils.data.commands import data as data_command


def table(folder: Path, rows: list[tuple], columns=('image', 'label')) -> Path:
    """Images i.png for i = 0..8 in `folder`, and a CSV beside them."""
    for i in range(9):
        draw(folder / f'{i}.png', i)
    path = folder / 'labels.csv'
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, index=False)
    return path


GOOD = [(f'{i}.png', 'ab'[i % 2]) for i in range(9)]


def refuses(dataset, *words: str, folder=None) -> str:
    """Loading raises BadInput with all the words in its message, and `check` ends with the same and status 1."""
    with pytest.raises(BadInput) as caught:
        data.load(dataset, folder, image_size=16)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert '\n' not in message
    checked = CliRunner().invoke(data_command, ['check', str(dataset), *([str(folder)] if folder else [])])
    assert checked.exit_code == 1 and words[-1] in checked.output, checked.output
    return message


# ---- names and folders --------------------------------------------------------------------------------------------


def test_unknown_name_has_a_suggestion():
    with pytest.raises(UnknownName, match=r"unknown dataset 'ham1000'; did you mean 'ham10000'\? .*medpeft data list"):
        data.load('ham1000')


def test_no_such_folder(tmp_path):
    refuses(tmp_path / 'nowhere', 'nowhere', 'no such folder')
    refuses('breastus', 'nowhere', 'Dataset_BUSI_with_GT', 'no such folder', folder=tmp_path / 'nowhere')
    refuses(tmp_path / 'no.csv', 'no.csv', 'no such file')


def test_folder_that_is_another_dataset(tmp_path):
    refuses('ham10000', str(tmp_path), 'HAM10000_images_part_1', "holds 'HAM10000_metadata.csv'", folder=tmp_path)


def test_folder_without_images(tmp_path):
    refuses(tmp_path, str(tmp_path), 'one folder for each class', 'holds no image')
    draw(tmp_path / 'loose.png', 0)
    refuses(tmp_path, '1 images lie beside each other')
    (tmp_path / 'empty class').mkdir()
    refuses(tmp_path, 'empty class', 'the class folder holds no image')


def test_one_class_only(tmp_path):
    refuses(make_own(tmp_path, classes=1), 'one class only')


def test_fewer_images_than_classes(tmp_path):
    refuses('breastus', 'fewer images (2) than classes (3)', folder=make_busi(tmp_path, {'benign': 1, 'normal': 1}))


def test_class_in_too_few_groups(tmp_path):
    root = make_own(tmp_path, classes=2, images=5)
    draw(root / 'rare' / '1.png', 400)
    refuses(root, 'merge it into another', "class 'rare' has 1 image(s) in 1 group(s)")


def test_class_missing_from_a_download(tmp_path):
    refuses(
        'breastus', 'not whole', "no image of class 'normal'", folder=make_busi(tmp_path, {'benign': 5, 'malignant': 5})
    )


def test_unknown_class(tmp_path):
    root = make_busi(tmp_path)
    draw(root / 'cysts' / '1.png', 7)
    refuses('breastus', 'cysts', 'benign, malignant, normal', folder=root)
    ham = make_ham(tmp_path / 'ham')
    csv = ham / 'HAM10000_metadata.csv'
    csv.write_text(csv.read_text().replace('HAM_mel3,', 'HAM_mel3,', 1).replace(',mel,', ',mell,', 1))
    refuses('ham10000', 'ISIC_', "unknown class 'mell'", folder=ham)


def test_ham10000_with_one_part_missing(tmp_path):
    ham = make_ham(tmp_path)
    (ham / 'HAM10000_images_part_2').rename(tmp_path.parent / 'elsewhere')
    message = refuses('ham10000', 'HAM10000_metadata.csv', 'HAM10000_images_part_2', 'ISIC_0000001', folder=ham)
    assert '41 more' in message


# ---- tables -------------------------------------------------------------------------------------------------------


def test_csv_with_a_missing_column(tmp_path):
    csv = table(tmp_path, GOOD, ('image', 'lable'))
    refuses(csv, str(csv), 'only image, lable', "no column 'label'", "is it 'lable'?")


def test_csv_that_is_none(tmp_path):
    path = tmp_path / 'labels.csv'
    path.write_bytes('image,label\n0.png,bénin\n'.encode('latin-1'))
    refuses(path, 'labels.csv', 'UTF-8')
    path.write_text('')
    refuses(path, 'labels.csv', 'not a CSV table')
    path.write_text('image,label\n')
    refuses(path, 'labels.csv', 'no rows')


@pytest.mark.parametrize(
    ('rows', 'words'),
    [
        ([*GOOD[:-1], ('gone.png', 'a')], ("no file 'gone.png'",)),
        ([*GOOD[:-1], ('8.png', '')], ("no label for '8.png'",)),
        ([*GOOD[:-1], ('', 'a')], ('1 row(s) have no image',)),
        ([*GOOD, ('3.png', 'a')], ("two labels for '3.png'",)),
        ([*GOOD, ('./3.png', 'b')], ("'3.png' is listed twice",)),
        ([*GOOD, ('../../etc/passwd', 'b')], ("'../../etc/passwd' lies outside",)),
        ([*GOOD, ('/etc/passwd', 'b')], ("'/etc/passwd' lies outside",)),
    ],
)
def test_csv_with_a_bad_row(tmp_path, rows, words):
    csv = table(tmp_path, rows)
    refuses(csv, str(csv), *words)


def test_windows_and_absolute_paths_inside_the_folder_are_fine(tmp_path):
    rows = [(str(tmp_path / '0.png'), 'b'), ('.\\1.png', 'a'), *GOOD[2:]]
    loaded = data.load(table(tmp_path, rows), image_size=16)
    assert loaded.manifest['image'].tolist() == [f'{i}.png' for i in range(9)]


@pytest.mark.parametrize(
    ('splits', 'words'),
    [
        (['train'] * 5 + ['validation'] * 2 + ['test', 'exam'], ("unknown split 'exam' of '8.png'",)),
        (['train'] * 5 + ['validation'] * 2 + ['test', ''], ("no split for '8.png'",)),
        (['train', 'train', 'train', 'validation', 'test', 'train', 'test', 'validation', 'train'],
         ("class 'b' is only in train", 'not in validation or test')),
        (['train'] * 6 + ['test'] * 3, ('no image in validation', 'leave the split column out')),
    ],
)  # fmt: skip
def test_given_splits_that_cannot_be_used(tmp_path, splits, words):
    label = ['b', 'b', 'b', 'a', 'a', 'a', 'a', 'a', 'b'] if 'only' in words[0] else [pair[1] for pair in GOOD]
    rows = [(f'{i}.png', label[i], splits[i]) for i in range(9)]
    csv = table(tmp_path, rows, ('image', 'label', 'split'))
    refuses(csv, str(csv), *words)


def test_group_that_spans_given_splits(tmp_path):
    rows = [(f'{i}.png', 'abc'[i // 3], f'p{i % 4}', ('train', 'val', 'test')[i % 3]) for i in range(9)]
    csv = table(tmp_path, rows, ('image', 'label', 'group', 'split'))
    refuses(csv, str(csv), "group 'p0' and 3 more", 'spans several splits')


def test_same_file_across_given_splits_is_told(tmp_path, caplog):
    rows = [(f'{i}.png', 'abc'[i // 3], ('train', 'val', 'test')[i % 3]) for i in range(9)]
    csv = table(tmp_path, rows, ('image', 'label', 'split'))
    (tmp_path / '1.png').write_bytes((tmp_path / '0.png').read_bytes())
    assert len(data.load(csv, image_size=16)) == 9
    assert '1 images are the same file in several of the given splits' in caplog.text
    assert '1 of these sets span the given splits' in CliRunner().invoke(data_command, ['check', str(csv)]).output


# ---- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp', '.tif'])
@pytest.mark.parametrize('share', [0.5, 0.9])
def test_image_cut_short(tmp_path, suffix, share):
    root = make_own(tmp_path)
    image = draw(root / 'class 1' / f'cut{suffix}', 3, 'RGB', (64, 48))
    content = image.read_bytes()
    image.write_bytes(content[: int(share * len(content))])
    refuses(root, 'fetch it again', str(image))


def test_text_and_empty_files_named_as_images(tmp_path):
    root = make_own(tmp_path)
    text = root / 'class 2' / 'a note.png'
    text.write_text('this is no image')
    refuses(root, 'is not an image', 'this is no', str(text))
    text.write_bytes(b'')
    refuses(root, 'is empty', str(text))


def test_a_bad_image_harms_nothing_that_is_stored(tmp_path):
    root, store = make_own(tmp_path / 'own'), tmp_path / 'cache'
    before = np.array(data.load(root, image_size=16, cache=store).images)
    bad = root / 'class 0' / 'bad.png'
    bad.write_text('no image')
    with pytest.raises(BadInput, match=r'bad\.png'):
        data.load(root, image_size=16, cache=store)
    bad.unlink()
    assert (data.load(root, image_size=16, cache=store).images == before).all()


RAMP = np.linspace(0, 255, 32 * 32).reshape(32, 32)


def image_of(mode: str) -> Image.Image:
    """A ramp from black to white in a Pillow mode."""
    grey = Image.fromarray(RAMP.round().astype(np.uint8))
    if mode == 'I;16':
        return Image.fromarray((RAMP / 255 * 4095).astype(np.uint16))  # 12 of 16 bits, as in many radiographs
    if mode == 'I':
        return Image.fromarray((RAMP * 100 - 5000).astype(np.int32))
    if mode == 'F':
        return Image.fromarray((RAMP / 255).astype(np.float32))
    if mode == 'P':
        return grey.convert('RGB').quantize(256)
    return grey.convert('RGB').convert(mode) if mode in ('CMYK', 'YCbCr', 'RGBA') else grey.convert(mode)


@pytest.mark.parametrize(
    ('mode', 'suffix'),
    [('L', '.png'), ('RGB', '.png'), ('I;16', '.png'), ('I;16', '.tif'), ('I', '.tif'), ('F', '.tif'), ('P', '.png'),
     ('P', '.gif'), ('CMYK', '.jpg'), ('CMYK', '.tif'), ('YCbCr', '.tif'), ('RGBA', '.png'), ('LA', '.png'),
     ('L', '.jpg'), ('L', '.webp')],
)  # fmt: skip
def test_every_mode_becomes_the_same_picture(tmp_path, mode, suffix):
    path = tmp_path / f'image{suffix}'
    image_of(mode).save(path, **({'quality': 95} if suffix == '.jpg' else {}))
    picture = decode.read_image(path, 32)
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
    assert np.abs(picture.astype(float) - RAMP[..., None]).mean() < 4


def test_every_mode_in_one_dataset_is_read_and_counted(tmp_path):
    kinds = {'I;16': '.png', 'P': '.png', 'CMYK': '.jpg', 'RGBA': '.png', 'L': '.png', 'RGB': '.png'}
    for label in 'ab':
        (tmp_path / label).mkdir()
        for i, (mode, suffix) in enumerate(kinds.items()):
            turned = image_of(mode).transpose(Image.Transpose.ROTATE_90) if label == 'b' else image_of(mode)
            turned.crop((0, 0, 32, 32 - i)).save(tmp_path / label / f'{i}{suffix}')
    loaded = data.load(tmp_path, image_size=16)
    assert loaded.images.shape == (12, 16, 16, 3) and loaded.images.std(axis=(1, 2, 3)).min() > 30
    checked = CliRunner().invoke(data_command, ['check', str(tmp_path), '--json'])
    report = json.loads(checked.output)
    assert checked.exit_code == 0 and report['modes'] == dict.fromkeys(report['modes'], 2) and len(report['modes']) == 6
    assert any('images of several modes' in remark for remark in report['remarks'])


def test_bilevel_image(tmp_path):
    Image.fromarray(RAMP > 127).save(tmp_path / 'a.png')
    assert set(np.unique(decode.read_image(tmp_path / 'a.png', 32))) == {0, 255}


def test_transparent_parts_become_black(tmp_path):
    pixels = np.full((16, 16, 4), 200, np.uint8)
    pixels[:, :8, 3], pixels[:, 8:, 3] = 0, 255
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    picture = decode.read_image(tmp_path / 'a.png', 16)
    assert (picture[:, :6] == 0).all() and (picture[:, 10:] == 200).all()
    palette = Image.fromarray(np.full((16, 16), 200, np.uint8)).convert('P')
    palette.save(tmp_path / 'p.png', transparency=palette.getpixel((0, 0)))
    assert (decode.read_image(tmp_path / 'p.png', 16) == 0).all()


def test_pixels_that_are_no_number(tmp_path):
    Image.fromarray(np.full((16, 16), np.nan, np.float32)).save(tmp_path / 'a.tif')
    with pytest.raises(BadInput, match=r'a\.tif: holds pixels that are no number'):
        decode.read_image(tmp_path / 'a.tif', 16)


def test_photographs_are_turned_upright(tmp_path):
    upright = np.zeros((20, 10, 3), np.uint8)
    upright[:10] = 255
    turned = Image.fromarray(np.rot90(upright))  # as a camera held sideways stores it
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise to see it upright
    turned.save(tmp_path / 'a.jpg', exif=exif, quality=95)
    picture = decode.read_image(tmp_path / 'a.jpg', 16).mean(axis=2)
    assert picture[:6].mean() > 250 and picture[10:].mean() < 5


def test_the_whole_image_is_kept(tmp_path):
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, :6] = pixels[:, -6:] = 255  # marks at the rim, which a centre crop would cut
    Image.fromarray(pixels).save(tmp_path / 'wide.png')
    picture = decode.read_image(tmp_path / 'wide.png', 45)
    assert (picture[:, 0] > 240).all() and (picture[:, -1] > 240).all() and (picture[:, 10:-10] < 5).all()


def test_draft_mode_sees_the_same_picture(tmp_path):
    smooth = np.stack([np.add.outer(np.arange(600), np.arange(800)) / 1400 * 255] * 3, axis=2).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / 'large.jpg', quality=95)
    Image.fromarray(smooth).save(tmp_path / 'large.png')
    small, exact = (decode.read_image(tmp_path / f'large{suffix}', 64).astype(int) for suffix in ('.jpg', '.png'))
    assert np.abs(small - exact).mean() < 2
