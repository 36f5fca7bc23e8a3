"""The readers of FitzPatrick17K, SMDG, RSNA Pneumonia and MedMNIST, and DICOM, on small images in the real layouts."""

from __future__ import annotations

import io
import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1
from tiny_datasets import draw, make_own
from tiny_sources import make_fitzpatrick, make_medmnist, make_rsna, make_smdg, write_dicom

from medpeft_utils import data
from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import arrays, decode, dicom, loading, sources
from medpeft_utils.data.sources import fitzpatrick17k, medmnist, rsna_pneumonia, smdg

ROOT = Path(__file__).resolve().parents[1]
METADATA = ROOT.parent / 'shared' / 'data' / 'metadata'
needs_real = pytest.mark.skipif(not METADATA.is_dir(), reason='the real metadata do not lie beside the repository')


def refuses(name: str, folder: Path, *words: str) -> None:
    """Loading raises BadInput with all the words in its one line."""
    with pytest.raises(BadInput) as caught:
        data.load(name, folder, image_size=16)
    message = str(caught.value)
    assert all(word in message for word in words) and '\n' not in message, message


def rewrite(path: Path, table: pd.DataFrame, **cells) -> None:
    """The table with cells of its first row changed."""
    table = table.astype(dict.fromkeys(cells, object))
    for column, value in cells.items():
        table.loc[0, column] = value
    table.to_csv(path, index=False)


def notes(name: str, folder: Path) -> dict[str, int]:
    return data.open_source(name, folder).frame.attrs['notes']


def counted(name: str, folder: Path, words: str) -> int:
    found = [number for sentence, number in notes(name, folder).items() if words in sentence]
    assert len(found) == 1, f'{words!r} in {list(notes(name, folder))}'
    return found[0]


# ---- FitzPatrick17K -----------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def fitzpatrick(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    return make_fitzpatrick(tmp_path_factory.mktemp('fitzpatrick'))


@pytest.fixture
def table_of(fitzpatrick):
    """Writes another table beside the images, which the original comes back after."""
    folder, table = fitzpatrick
    yield lambda changed, **cells: rewrite(folder / 'fitzpatrick17k.csv', changed, **cells)
    table.to_csv(folder / 'fitzpatrick17k.csv', index=False)


@pytest.mark.parametrize('level', fitzpatrick17k.LEVELS)
def test_fitzpatrick_at_every_level(fitzpatrick, level):
    folder, table = fitzpatrick
    card, column, types = fitzpatrick17k.LEVELS[level]
    loaded = data.load(level, folder, image_size=16)
    expected = table[table['fitzpatrick_scale'].astype(str).isin(types)] if types else table
    assert loaded.counts().sum(axis=1).to_dict() == expected[column].value_counts().to_dict()
    rows = loaded.manifest.set_index('md5hash')
    original = table.set_index('md5hash').loc[rows.index]
    assert (rows['fitzpatrick_scale'] == original['fitzpatrick_scale'].astype(str)).all()  # for subgroup figures
    assert (rows['condition'] == original['label']).all() and (rows['label'] == original[column]).all()
    assert loaded.classes == sorted(card.classes)


def test_fitzpatrick_counts_what_it_leaves_out(fitzpatrick, table_of):
    folder, table = fitzpatrick
    changed = table.assign(
        qc=['3 Wrongly labelled', '4 Other', '1 Diagnostic', '5 Potentially'] + [''] * (len(table) - 4)
    )
    changed.loc[10:14, 'md5hash'] = [f'{i:032x}' for i in range(5)]  # dead links: no file under this name
    table_of(changed)
    assert len(data.load('fitzpatrick17k', folder, 16)) == len(table) - 2 - 5
    assert counted('fitzpatrick17k', folder, 'wrongly labelled') == 2
    assert counted('fitzpatrick17k', folder, 'dead links') == 5
    assert counted('fitzpatrick17k', folder, 'near duplicates (no complete_clusters.txt') == 0


def test_fitzpatrick_without_most_images(fitzpatrick, table_of):
    folder, table = fitzpatrick
    gone = table.index > 100
    changed = table.assign(md5hash=table['md5hash'].where(~gone, 'f' * 27 + table.index.astype(str).str.zfill(5)))
    table_of(changed)
    refuses('fitzpatrick17k', folder, 'fitzpatrick17k.csv', 'fffffffff', f'{gone.sum() - 1} more of {len(table)}')


def test_fitzpatrick_images_named_after_their_links(fitzpatrick, table_of, tmp_path):
    folder, table = fitzpatrick
    for row in table.itertuples():
        (tmp_path / row.url_alphanum).write_bytes((folder / 'images' / f'{row.md5hash}.jpg').read_bytes())
    table.to_csv(tmp_path / 'fitzpatrick17k.csv', index=False)
    assert len(data.open_source('fitzpatrick17k', tmp_path).checked()) == len(table)


def test_fitzpatrick_published_lists_of_duplicates_and_errors(tmp_path):
    folder, table = make_fitzpatrick(tmp_path)
    digits = [f'li-pl_f{row % 7}_{row}_{digest[:8]}' for row, digest in enumerate(table['md5hash'])]
    (folder / 'complete_clusters.txt').write_text(f'{digits[:3]}\n{digits[10:12]}\n{digits[2:5]}\n')
    (folder / 'selected_outliers.txt').write_text(f'{digits[20]}\n{digits[21]}\n')
    loaded = data.load('fitzpatrick17k', folder, 16)
    assert len(loaded) == len(table) - 2
    rows = loaded.manifest.set_index('md5hash')
    for cluster in (table['md5hash'][:5], table['md5hash'][10:12]):  # the first and the third line share an image
        assert rows.loc[cluster, 'group'].nunique() == 1 and rows.loc[cluster, 'split'].nunique() == 1
    assert rows['group'].nunique() == len(table) - 2 - 4 - 1
    assert counted('fitzpatrick17k', folder, 'each cluster in one split') == 7
    assert counted('fitzpatrick17k', folder, 'selected_outliers.txt') == 2
    for name in ('selected_outliers.txt', 'complete_clusters.txt'):
        (folder / name).write_text("['no-ne_f1_1_zzzzzzzz', 'no-ne_f1_2_yyyyyyyy']\n")
        refuses('fitzpatrick17k', folder, name, 'none of its 2 images is in this download')


def test_fitzpatrick_faulty_tables(fitzpatrick, table_of):
    folder, table = fitzpatrick
    table_of(table.rename(columns={'three_partition_label': 'three_partition'}))
    refuses('fitzpatrick17k', folder, 'fitzpatrick17k.csv', "no column 'three_partition_label'")
    table_of(table, three_partition_label='')
    refuses('fitzpatrick17k', folder, 'no label for', table['md5hash'][0])
    table_of(table, three_partition_label='bening')
    refuses('fitzpatrick17k', folder, "unknown class 'bening'", "did you mean 'benign'")
    other = table.iloc[[0]].assign(three_partition_label='malignant')
    table_of(pd.concat([table.assign(three_partition_label=['benign', *table['three_partition_label'][1:]]), other]))
    refuses('fitzpatrick17k', folder, 'two labels for', table['md5hash'][0])


# ---- SMDG ---------------------------------------------------------------------------------------------------------


def test_smdg_leaves_suspects_out_and_keeps_patients_together(tmp_path):
    folder, table = make_smdg(tmp_path)
    loaded = data.load('smdg', folder, image_size=16)
    assert len(loaded) == len(table) - 2 and set(loaded.manifest['label']) == {'glaucoma', 'no glaucoma'}
    assert loaded.manifest['image'].str.startswith('full-fundus/').all()  # not the masks of the same name
    assert (loaded.images[0] == decode.read_image(folder / loaded.manifest['image'][0], 16)).all()
    sizes = loaded.manifest.groupby('group').agg(images=('image', 'size'), splits=('split', 'nunique'))
    assert sizes['splits'].max() == 1
    assert (sizes['images'] == 2).sum() == 3 * 6 + 1 and (sizes['images'] == 1).sum() == 6
    assert set(loaded.manifest['subset']) == {'PAPILA', 'OIA-ODIR', 'CRFO', 'REFUGE', 'BEH'}
    assert counted('smdg', folder, 'suspects left out') == 2
    assert counted('smdg', folder, 'patient is known') == 36
    assert loaded.manifest['age'].notna().sum() == 12 and set(loaded.manifest['eye']) == {'OD', 'OS', ''}


def test_smdg_faulty_downloads(tmp_path):
    folder, table = make_smdg(tmp_path)
    csv = folder / 'metadata - standardized.csv'
    rewrite(csv, table, types=2)
    refuses('smdg', folder, "unknown class '2'", 'PAPILA-0.png')
    rewrite(csv, table, types='')
    refuses('smdg', folder, 'no label for', 'PAPILA-0.png')
    rewrite(csv, table, fundus='/full-fundus/../../../etc/passwd')  # paths are not followed, names are looked up
    refuses('smdg', folder, 'metadata - standardized.csv', 'lists passwd', 'full-fundus')
    rewrite(csv, table, fundus='')
    refuses('smdg', folder, '1 row(s) have no image')
    table.drop(columns='types').to_csv(csv, index=False)
    refuses('smdg', folder, "has no column 'types'")
    table.to_csv(csv, index=False)
    (folder / 'full-fundus' / 'full-fundus').rename(folder / 'fundus')
    refuses('smdg', folder, 'PAPILA-0.png', '43 more', 'full-fundus')


def test_smdg_subset_takes_what_is_there(tmp_path):
    folder, _ = make_smdg(tmp_path)
    for name in ('PAPILA-0', 'CRFO-v4-2'):
        (folder / 'full-fundus' / 'full-fundus' / f'{name}.png').unlink()
    refuses('smdg', folder, 'PAPILA-0.png', '1 more', 'smdg_subset')
    loaded = data.load('smdg_subset', folder, image_size=16)
    assert len(loaded) == 42 and counted('smdg_subset', folder, 'not there') == 2
    assert counted('smdg_subset', folder, 'suspects left out') == 2 and loaded.card.images is None
    assert loaded.attributes['sex'].eq('F').all() and loaded.attributes['age'].max() == 66
    assert set(loaded.attributes['subset']) == {'PAPILA', 'OIA-ODIR', 'CRFO', 'REFUGE', 'BEH'}


# ---- RSNA Pneumonia -----------------------------------------------------------------------------------------------


def test_rsna_folds_boxes_into_one_label(tmp_path):
    folder, table = make_rsna(tmp_path)
    loaded = data.load('rsna_pneumonia', folder, image_size=16)
    assert loaded.counts().sum(axis=1).to_dict() == {'no pneumonia': 16, 'pneumonia': 8}
    opacities = loaded.manifest[loaded.manifest['label'] == 'pneumonia']
    assert sorted(opacities['boxes']) == sorted(table[table['Target'] == 1].groupby('patientId').size())
    assert (loaded.manifest['boxes'][loaded.manifest['label'] == 'no pneumonia'] == 0).all()
    assert counted('rsna_pneumonia', folder, 'rows folded') == len(table) - 24
    assert len(set(loaded.groups)) == 24


def test_rsna_keeps_persons_together_where_the_mapping_tells(tmp_path):
    folder, table = make_rsna(tmp_path)
    names = list(dict.fromkeys(table['patientId']))
    rows = [{'subset_img_id': name, 'img_id': f'{i // 3:08d}_{i % 3:03d}.png'} for i, name in enumerate(names[:-1])]
    (folder / rsna_pneumonia.MAPPING).write_text(json.dumps(rows))
    details = pd.DataFrame({'patientId': names, 'class': 'Normal'})
    details.to_csv(folder / 'stage_2_detailed_class_info.csv', index=False)
    loaded = data.load('rsna_pneumonia', folder, image_size=16)
    assert loaded.manifest.groupby('group')['split'].nunique().max() == 1
    assert sorted(loaded.manifest.groupby('group').size()) == [1, 2, 3, 3, 3, 3, 3, 3, 3]
    assert counted('rsna_pneumonia', folder, 'whose person') == 23
    assert set(loaded.manifest['detail']) == {'Normal'}
    foreign = [row | {'subset_img_id': f'other-{i}'} for i, row in enumerate(rows)]
    (folder / rsna_pneumonia.MAPPING).write_text(json.dumps(foreign))
    refuses('rsna_pneumonia', folder, rsna_pneumonia.MAPPING, "none of its 23 images is in this download ('other-0'")
    (folder / rsna_pneumonia.MAPPING).write_text('[{"img_id": "1"}]')
    refuses('rsna_pneumonia', folder, rsna_pneumonia.MAPPING, 'subset_img_id')


def test_rsna_subset_reads_the_pictures_of_nih_by_person(tmp_path):
    folder, table = make_rsna(tmp_path)
    names = list(dict.fromkeys(table['patientId']))
    for i, name in enumerate(names):
        (folder / 'stage_2_train_images' / f'{name}.dcm').unlink()
        if i >= 3:
            draw(folder / 'stage_2_train_images' / f'{name}.{("png", "jpg")[i % 2]}', i)
    rows = [{'subset_img_id': name, 'img_id': f'{i // 2:08d}_{i % 2:03d}.png'} for i, name in enumerate(names)]
    (folder / rsna_pneumonia.MAPPING).write_text(json.dumps(rows))
    refuses('rsna_pneumonia', folder, names[0], '2 more', 'rsna_pneumonia_subset')
    loaded = data.load('rsna_pneumonia_subset', folder, image_size=16)
    assert len(loaded) == 21 and counted('rsna_pneumonia_subset', folder, 'not there') == 3
    assert len(set(loaded.groups)) == 11 and loaded.manifest.groupby('group')['split'].nunique().max() == 1


# ---- Kermany pneumonia --------------------------------------------------------------------------------------------


def make_kermany(folder: Path) -> Path:
    """Children of one to three images; the number of every fifth is in train and test."""
    for i in range(20):
        for j in range(1 + i % 3):
            split = 'test' if (i % 5 == 0 and j) or i > 15 else 'val' if i in (6, 7) else 'train'
            names = f'IM-{i:04d}-{j:04d}.jpeg', f'person{i}_{("virus", "bacteria")[i % 2]}_{10 * i + j}.jpeg'
            draw(folder / split / 'NORMAL' / names[0], 100 * i + j)
            draw(folder / split / 'PNEUMONIA' / names[1], 100 * i + 50 + j)
    return folder


def test_kermany_by_person_number_and_as_published(tmp_path):
    folder = make_kermany(tmp_path)
    loaded = data.load('kermany_pneumonia', folder, image_size=16)
    assert loaded.manifest.groupby('group')['split'].nunique().max() == 1 and len(set(loaded.groups)) == 40
    assert set(loaded.manifest['kind']) == {'', 'virus', 'bacteria'}
    published = data.load('kermany_pneumonia_published', folder, image_size=16)
    assert (published.manifest['split'] == loaded.manifest['published_split']).all()
    spanning = (published.manifest.groupby('group')['split'].nunique() > 1).sum()
    assert spanning == counted('kermany_pneumonia', folder, 'several of the published splits') == 4
    folds = data.load('kermany_pneumonia_published', folder, image_size=16, folds=4)
    assert folds.manifest.groupby('group')['split'].nunique().max() == 1
    draw(folder / 'train' / 'NORMAL' / 'other.png', 1)
    refuses('kermany_pneumonia', folder, 'other.png', 'nothing tells the person')


# ---- RSNA Pneumonia, faults ---------------------------------------------------------------------------------------


def test_rsna_faulty_downloads(tmp_path):
    folder, table = make_rsna(tmp_path)
    csv = folder / 'stage_2_train_labels.csv'
    first = table['patientId'][0]
    pd.concat([table, table.iloc[[0]].assign(Target=0)]).to_csv(csv, index=False)
    refuses('rsna_pneumonia', folder, 'stage_2_train_labels.csv', f"two labels for '{first}'")
    rewrite(csv, table, Target='')
    refuses('rsna_pneumonia', folder, 'no label for', first)
    table.drop(columns='Target').to_csv(csv, index=False)
    refuses('rsna_pneumonia', folder, "no column 'target'")
    table.to_csv(csv, index=False)
    write_dicom(folder / 'stage_2_train_images' / f'{first}.dcm', None)
    refuses('rsna_pneumonia', folder, f'{first}.dcm', 'without pixels')
    (folder / 'stage_2_train_images' / f'{first}.dcm').unlink()
    refuses('rsna_pneumonia', folder, f'lists {first} and 0 more', 'stage_2_train_images')


# ---- DICOM --------------------------------------------------------------------------------------------------------

RAMP = np.linspace(0, 255, 64 * 64).reshape(64, 64)
BYTES = RAMP.round().astype(np.uint8)


def encoded(kind: str, **options) -> bytes:
    content = io.BytesIO()
    Image.fromarray(BYTES).save(content, kind, **options)
    return content.getvalue()


def deep(low: float, high: float) -> np.ndarray:
    return (low + RAMP / 255 * (high - low)).astype(np.uint16)


DICOMS = {
    '8 bit': (BYTES, {}),
    'MONOCHROME1': (255 - BYTES, {'photometric': 'MONOCHROME1'}),
    'MONOCHROME1 of 12 bit': (deep(3000, 0), {'photometric': 'MONOCHROME1', 'bits': 12}),
    'colour': (np.stack([BYTES] * 3, axis=2), {'photometric': 'RGB'}),
    '12 of 16 bit without a window': (deep(100, 3000), {'bits': 12}),
    # values below and above the window [1000, 3000] are black and white in every viewer
    'window': (deep(1000, 3000), {'bits': 12, 'WindowCenter': [2000.5, 40], 'WindowWidth': [2001, 80]}),
    'window after rescaling': (
        deep(1024, 3024),
        {'bits': 12, 'RescaleSlope': 1, 'RescaleIntercept': -1024, 'WindowCenter': 1000.5, 'WindowWidth': 2001},
    ),
    'exact window': (
        deep(1000, 3000),
        {'bits': 12, 'WindowCenter': 2000, 'WindowWidth': 2000, 'VOILUTFunction': 'LINEAR_EXACT'},
    ),
    'JPEG': (BYTES, {'syntax': JPEGBaseline8Bit, 'compressed': encoded('JPEG', quality=95)}),
    'JPEG 2000': (BYTES, {'syntax': JPEG2000Lossless, 'compressed': encoded('JPEG2000')}),
}


@pytest.mark.parametrize('kind', DICOMS)
def test_every_dicom_becomes_the_same_picture(tmp_path, kind):
    pixels, options = DICOMS[kind]
    path = write_dicom(tmp_path / 'a.dcm', pixels, **options)
    picture = decode.read_image(path, 64)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert np.abs(picture - RAMP[..., None]).mean() < 1
    mode, size, grey = decode.examine_image(path, 32)
    assert mode.startswith('DICOM ') and size == (64, 64) and grey.shape == (32, 32)


def test_a_window_cuts_what_lies_outside(tmp_path):
    path = write_dicom(tmp_path / 'a.dcm', deep(0, 4000), bits=12, WindowCenter=2000.5, WindowWidth=1001)
    picture = decode.read_image(path, 64)[..., 0].astype(float)
    expected = np.clip((deep(0, 4000).astype(float) - 1500) / 1000, 0, 1) * 255
    assert np.abs(picture - expected).max() <= 1


def test_padding_is_black_and_does_not_stretch(tmp_path):
    pixels = np.where(np.eye(64, dtype=bool), 65535, deep(0, 1000)).astype(np.uint16)
    for photometric in dicom.GREY:
        path = write_dicom(tmp_path / f'{photometric}.dcm', pixels, photometric, PixelPaddingValue=65535)
        picture = decode.read_image(path, 64)[..., 0].astype(float)
        away = ~np.eye(64, dtype=bool)
        expected = RAMP if photometric == 'MONOCHROME2' else 255 - RAMP
        assert np.abs(picture - expected)[away].mean() < 1 and (picture[~away] == 0).all()


def faulty_dicoms(folder: Path) -> dict[str, Path]:
    """Words of the message to the file that is to give it."""
    whole = write_dicom(folder / 'whole.dcm', BYTES).read_bytes()
    jpeg = DICOMS['JPEG']
    packed = write_dicom(folder / 'packed.dcm', jpeg[0], **jpeg[1]).read_bytes()
    for name, content in (
        ('cut.dcm', whole[: len(whole) // 2]),
        ('packed cut.dcm', packed[: len(packed) // 2]),
        ('text.dcm', b'this is no image at all'),
        ('empty.dcm', b''),
    ):
        (folder / name).write_bytes(content)
    return {
        'without pixels (CR)': write_dicom(folder / 'none.dcm', None),
        'holds 3 frames': write_dicom(folder / 'film.dcm', BYTES, NumberOfFrames=3),
        'pylibjpeg': write_dicom(folder / 'rare.dcm', BYTES, syntax=JPEGLosslessSV1, compressed=b'\xff\xd8\xff\xd9'),
        'pixels are cut off': folder / 'cut.dcm',
        'cut off': folder / 'packed cut.dcm',
        'begins with': folder / 'text.dcm',
        'is empty': folder / 'empty.dcm',
        'no such image': folder / 'gone.dcm',
    }


def test_faulty_dicoms_say_what_is_wrong(tmp_path):
    for words, path in faulty_dicoms(tmp_path).items():
        with pytest.raises(BadInput) as caught:
            decode.read_image(path, 16)
        message = str(caught.value)
        assert message.startswith(str(path)) and words in message and '\n' not in message, message
        with pytest.raises(BadInput):
            decode.examine_image(path, 32)


def test_own_folder_of_dicoms(tmp_path):
    root = make_own(tmp_path, classes=2)
    for i in range(3):
        write_dicom(root / 'class 1' / f'scan {i}.dcm', np.rot90(BYTES, i))
    assert len(data.load(root, image_size=16)) == 17


# ---- MedMNIST -----------------------------------------------------------------------------------------------------


def test_medmnist_offers_the_twelve_2d_sets():
    offered = {
        name
        for name in data.names()
        if name in sources._READERS and sources.reader(data.CARDS[name])[1].__module__ == medmnist.__name__
    }
    assert len(offered) == 12 and {'pathmnist', 'chestmnist', 'organsmnist'} <= offered
    # Yang et al. 2023, Table 2
    images = {'pathmnist': 107180, 'chestmnist': 112120, 'dermamnist': 10015, 'octmnist': 109309, 'tissuemnist': 236386}
    classes = {'pathmnist': 9, 'chestmnist': 14, 'dermamnist': 7, 'octmnist': 4, 'tissuemnist': 8}
    assert {name: data.CARDS[name].images for name in images} == images
    assert {name: len(data.CARDS[name].classes) for name in classes} == classes


@pytest.mark.parametrize('size', [28, 64])
def test_medmnist_keeps_splits_and_images(tmp_path, monkeypatch, size):
    path, stored = make_medmnist(tmp_path, 'pathmnist', size, monkeypatch)
    loaded = data.load('pathmnist', path, image_size=size)
    for split, theirs in (('train', 'train'), ('validation', 'val'), ('test', 'test')):
        rows = loaded.rows(split)
        assert (loaded.images[rows] == stored[f'{theirs}_images']).all()  # at its own size nothing is resampled
        assert (loaded.labels[rows] == stored[f'{theirs}_labels'][:, 0]).all()
    smaller = data.load('pathmnist', path, image_size=16)
    assert smaller.split_hash == loaded.split_hash and smaller.images.shape == (350, 16, 16, 3)


def test_medmnist_grey_and_largest_size_of_a_folder(tmp_path, monkeypatch):
    make_medmnist(tmp_path, 'pneumoniamnist', 28, monkeypatch)
    path, stored = make_medmnist(tmp_path, 'pneumoniamnist', 64, monkeypatch)
    loaded = data.load('pneumoniamnist', tmp_path, image_size=64)
    assert loaded.folder == path and (loaded.images[loaded.rows('test')][..., 2] == stored['test_images']).all()
    assert counted('pneumoniamnist', tmp_path, '64 x 64 pixels') == 350


def test_medmnist_with_several_findings(tmp_path, monkeypatch):
    path, stored = make_medmnist(tmp_path, 'chestmnist', 28, monkeypatch)
    loaded = data.load('chestmnist', path, image_size=28)
    assert loaded.labels.shape == (350, 14) and loaded.classes[0] == 'atelectasis'
    assert (loaded.labels[loaded.rows('test')] == stored['test_labels']).all()


def test_medmnist_rows_in_any_order(tmp_path, monkeypatch):
    path, stored = make_medmnist(tmp_path, 'pathmnist', 28, monkeypatch, counts=(3000, 20, 30))
    for row in (2999, 0, 1500, 256, 255, 2047):
        assert (np.asarray(arrays.read_row(path / f'train/{row:06d}')) == stored['train_images'][row]).all()
    assert not arrays.is_there(path / 'train/003000') and not arrays.is_there(path / 'none/000000')


def test_medmnist_prepared_is_known_by_name(tmp_path, monkeypatch):
    path, _ = make_medmnist(tmp_path / 'files', 'pathmnist', 28, monkeypatch)
    prepared = data.prepare('pathmnist', path, (28,), cache=tmp_path / 'cache')
    assert data.load('pathmnist', None, 28, cache=tmp_path / 'cache').split_hash == prepared.split_hash
    assert data.load('pathmnist', None, 16, cache=tmp_path / 'cache').image_size == 16  # the file is still there


def test_medmnist_faulty_files(tmp_path, monkeypatch):
    refuses('pathmnist', tmp_path / 'gone.npz', 'gone.npz', 'zenodo.org/records/10519652')
    refuses('pathmnist', tmp_path, str(tmp_path), 'pathmnist_224.npz', 'pathmnist.npz')
    path, stored = make_medmnist(tmp_path, 'pathmnist', 28, monkeypatch)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refuses('pathmnist', path, str(path), 'MD5', medmnist.INFO.loc['pathmnist', 'md5_28'])

    def published(**changes) -> None:
        """The file with other arrays, as if it had been published so."""
        np.savez_compressed(path, **(stored | changes))
        monkeypatch.setattr(medmnist, '_require_published', lambda archive, name: 28)

    published(val_labels=np.array([[{}]] * 20, dtype=object))
    refuses('pathmnist', path, str(path), 'val_labels of type object')
    published(val_labels=stored['val_labels'][:7])
    refuses('pathmnist', path, '20 images in val', '(7, 1)')
    published(test_labels=stored['test_labels'] + 9)
    refuses('pathmnist', path, 'in test', 'up to 17', '9 classes')
    published(train_images=stored['train_images'].astype(np.float32))
    refuses('pathmnist', path, 'train/000', 'float32')


# ---- decoding, in the layout of a reader --------------------------------------------------------------------------


def test_odd_images_of_a_download_are_read_and_broken_ones_named(tmp_path):
    folder, _ = make_smdg(tmp_path)
    paths = sorted((folder / 'full-fundus').rglob('*.png'))
    grey = Image.fromarray(BYTES)
    for path, image in zip(
        paths,
        [Image.fromarray(deep(0, 4095)), grey.convert('RGB').quantize(64), grey.convert('RGBA'), grey.convert('LA')],
        strict=False,
    ):
        image.save(path)
    grey.convert('CMYK').save(paths[4], 'JPEG', quality=95)  # a JPEG that is named .png
    loaded = data.load('smdg', folder, image_size=64)
    for path in paths[:5]:
        row = loaded.manifest['image'].tolist().index(path.relative_to(folder).as_posix())
        assert np.abs(loaded.images[row] - RAMP[..., None]).mean() < 3
    content = paths[5].read_bytes()
    paths[5].write_bytes(content[: len(content) // 2])
    refuses('smdg', folder, str(paths[5]), 'fetch it again')
    paths[5].write_text('no image')
    refuses('smdg', folder, str(paths[5]), 'is not an image')


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['rsna_pneumonia.py'], '24 images at 16 px'),
        (['smdg.py'], 'metadata - standardized.csv'),
        (['fitzpatrick17k.py', '--dataset', 'fitzpatrick17k_114'], 'fitzpatrick17k.csv'),
        (['medmnist.py', '--dataset', 'organcmnist'], 'organcmnist_224.npz'),
    ],
)
def test_scripts(tmp_path, monkeypatch, capsys, arguments, words):
    folder, _ = make_rsna(tmp_path)
    script, *options = arguments
    path = str(ROOT / 'data_prep' / script)
    monkeypatch.setattr(
        'sys.argv', [path, *options, '--source', str(folder), '--out', str(tmp_path / 'c'), '--image-size', '16']
    )
    with pytest.raises(SystemExit):
        runpy.run_path(path, run_name='__main__')
    said = capsys.readouterr()
    assert words in said.out + said.err


# ---- the real metadata --------------------------------------------------------------------------------------------


def listed(name: str, module, tmp_path: Path, monkeypatch, table: str, images: list[str]) -> tuple[pd.DataFrame, dict]:
    """What the reader makes of the real table, as if all its images were there, and the sizes of its splits."""
    (tmp_path / module.TABLE).symlink_to(METADATA / table)
    monkeypatch.setattr(module, 'images_below', lambda root: images)
    root_of, read = sources.reader(data.CARDS[name])
    frame = read(root_of(tmp_path))
    split = loading._made_splits(frame.assign(group=frame['group'].where(frame['group'] != '', frame['image'])),
                                 data.CARDS[name], 0, 0)  # fmt: skip
    return frame, pd.Series(split).value_counts().to_dict()


def real(table: str, column: str) -> pd.Series:
    return pd.read_csv(METADATA / table, usecols=[column], dtype=str)[column]


@needs_real
def test_real_fitzpatrick17k(tmp_path, monkeypatch):
    table = 'fitzpatrick17k.csv'
    images = [f'images/{name}.jpg' for name in real(table, 'md5hash')]
    for level, (card, column, _) in fitzpatrick17k.LEVELS.items():
        (tmp_path / level).mkdir()
        frame, sizes = listed(level, fitzpatrick17k, tmp_path / level, monkeypatch, table, images)
        assert set(frame['label']) == set(card.classes)
        rejected = next(n for words, n in frame.attrs['notes'].items() if 'wrongly labelled' in words)
        assert len(frame) + rejected == card.images
        if level == 'fitzpatrick17k_types_1_2':
            assert rejected == 9 and sizes['train'] in (5809, 5810)
        else:
            assert rejected == 27 and sizes['train'] == 12413
            assert real(table, column).value_counts().to_dict() == dict(card.counts)
    assert fitzpatrick17k.CARD.classes == tuple(sorted(LEVEL_3)) and set(fitzpatrick17k.LABELS['three']) == set(LEVEL_3)


LEVEL_3 = ('benign', 'malignant', 'non-neoplastic')


@needs_real
def test_real_smdg(tmp_path, monkeypatch):
    table = 'smdg_metadata - standardized.csv'
    images = [f'full-fundus/full-fundus/{name}.png' for name in real(table, 'names')]
    frame, sizes = listed('smdg', smdg, tmp_path, monkeypatch, table, images)
    assert frame['label'].value_counts().to_dict() == dict(data.CARDS['smdg'].counts)
    assert frame.attrs['notes'] == {'glaucoma suspects left out (types -1)': 133, 'images whose patient is known': 4941}
    assert sizes == {'train': 9533, 'validation': 1192, 'test': 1191}
    assert frame[frame['subset'] == 'OIA-ODIR'].groupby('group')[['age', 'sex']].nunique().max().max() == 1


@needs_real
def test_real_rsna_pneumonia(tmp_path, monkeypatch):
    table = 'rsna_stage_2_train_labels.csv'
    images = [f'stage_2_train_images/{name}.dcm' for name in real(table, 'patientId').unique()]
    frame, sizes = listed('rsna_pneumonia', rsna_pneumonia, tmp_path, monkeypatch, table, images)
    assert frame['label'].value_counts().to_dict() == dict(data.CARDS['rsna_pneumonia'].counts)
    assert sizes == {'train': 20413, 'validation': 2268, 'test': 4003}
    assert (
        frame['boxes'].max() == 4 and frame['boxes'].sum() == 9555
    )  # Shih et al. 2019: 9,555 boxes in the training set
