"""Image-text pairs: reading the published layouts, splits by patient, faults; on the real set if it is installed."""

from __future__ import annotations

import itertools
import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from tiny_datasets import draw
from tiny_pairs import REPORT, make_covid, make_csv, make_mimic

from medpeft_utils.core.errors import BadInput, DoesNotFit, UnknownName
from medpeft_utils.data import CARDS, load, names, prepare, sources
from medpeft_utils.data.commands import data as data_command
from medpeft_utils.data.commands import script
from medpeft_utils.data.decode import read_image
from medpeft_utils.data.sources.covid_chestxray import notes_on_radiograph, prompt
from medpeft_utils.data.sources.mimic_cxr import impression

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / 'shared' / 'data' / 'covid_chestxray'
SPLITS = ('train', 'validation', 'test')


# ---- the impression of a report -----------------------------------------------------------------------------------

CASES = {
    'on the next lines, folded': ('IMPRESSION: \n \n No acute\n  process.', 'No acute process.'),
    'on the same line': ('IMPRESSION:  Small effusion.', 'Small effusion.'),
    'plural': ('IMPRESSIONS: Small effusion.', 'Small effusion.'),
    'small letters': ('Impression: Small effusion.', 'Small effusion.'),
    'alone on its line': ('IMPRESSION\n Small effusion.', 'Small effusion.'),
    'blank before the colon': ('IMPRESSION : Small effusion.', 'Small effusion.'),
    'misspelt': ('IMPRESSOIN: Small effusion.', 'Small effusion.'),
    'first letter lost': ('MPRESSION: Small effusion.', 'Small effusion.'),
    'with the findings': ('FINDINGS AND IMPRESSION: Small effusion.', 'Small effusion.'),
    'with the findings, slash': ('FINDINGS/ IMPRESSION: Small effusion.', 'Small effusion.'),
    'conclusion': ('CONCLUSION: Small effusion.', 'Small effusion.'),
    'in the middle of a line': ('Clear lungs. IMPRESSION: Small effusion.', 'Small effusion.'),
    'ends at the next heading': (
        'IMPRESSION: Small effusion.\n \n RECOMMENDATION(S):  Follow up.\n NOTIFICATION: Dr. ___ was told.',
        'Small effusion.',
    ),
    'ends at a rule': ('IMPRESSION: Small effusion.\n ________________\n DR. ___ ___', 'Small effusion.'),
    'numbered': ('IMPRESSION:\n 1.  Small effusion.\n\n 2. Clear lungs.', '1. Small effusion. 2. Clear lungs.'),
    'blanks of de-identification stay': ('IMPRESSION: As on ___, effusion.', 'As on ___, effusion.'),
    'a colon within is no heading': ('IMPRESSION: Two findings: effusion.', 'Two findings: effusion.'),
    'the last of two': ('IMPRESSION: Old.\n\n ADDENDUM: See ___.\n IMPRESSION: New.', 'New.'),
    'the last that says something': ('IMPRESSION: Small effusion.\n IMPRESSION:  ___\n', 'Small effusion.'),
    'a provisional one is none': ('PROVISIONAL FINDINGS IMPRESSION (PFI): Small effusion.', ''),
    'a preliminary one is none': ('PRELIMINARY IMPRESSION: Edema.\n IMPRESSION: Effusion.', 'Effusion.'),
    'another word is none': ('COMPRESSION: Old fracture of T8.', ''),
    'empty': ('IMPRESSION:\n \n', ''),
    'none': ('', ''),
}


@pytest.mark.parametrize(('text', 'expected'), CASES.values(), ids=CASES)
def test_impression(text, expected):
    assert impression(REPORT.format(impression=text)) == expected


# ---- MIMIC-CXR ----------------------------------------------------------------------------------------------------


def everything_below(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob('*')}


@pytest.mark.parametrize('archive', [False, True], ids=['tree', 'zip'])
def test_mimic_cxr(tmp_path, archive):
    root = make_mimic(tmp_path / 'download', archive=archive)
    before = everything_below(tmp_path / 'download')
    loaded = load('mimic_cxr', root, image_size=16, cache=tmp_path / 'cache')
    # patients 0 to 5 have 1, 2, 3, 1, 2, 3 studies, of each one frontal view; patient 6 has no impression, 7 no report
    assert [len(loaded.rows(split)) for split in SPLITS] == [7, 2, 3]
    assert loaded.notes == {
        'left out, not a frontal view': 8,
        'left out, a folder (p10, ...) that is not there': 1,
        'left out, a report without impression': 1,
        'left out, no report': 2,
    }
    assert set(loaded.texts) == {'No acute cardiopulmonary process.'}
    assert set(loaded.groups[loaded.rows('validation')]) == {'10000036'}
    assert set(loaded.manifest['view']) == {'AP', 'PA'}
    assert (loaded.images[3] == read_image(root / loaded.manifest['image'][3], 16)).all()
    assert loaded.finding_names == ['Pleural Effusion', 'No Finding']
    # there; uncertain; and where there is no finding, none of the diseases is there
    assert loaded.findings[:3].tolist() == [[1, 0], [-1, -1], [0, 1]]
    assert everything_below(tmp_path / 'download') == before, 'the credentialed download is not written to'
    folders = [path for path in (tmp_path / 'cache').iterdir() if path.is_dir()]
    assert folders and {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


def test_mimic_cxr_is_read_again_only_when_it_changes(tmp_path, monkeypatch):
    root = make_mimic(tmp_path / 'download')
    first = load('mimic_cxr', root.parent, image_size=16, cache=tmp_path)  # the folder above is found as well
    monkeypatch.setattr('medpeft_utils.data.sources.mimic_cxr.impression', lambda text: 'Changed.')
    again = load('mimic_cxr', root, image_size=16, cache=tmp_path)
    assert again.texts == first.texts and again.notes == first.notes
    table = root / 'mimic-cxr-2.0.0-split.csv.gz'
    pd.read_csv(table, dtype=str).iloc[::-1].to_csv(table, index=False)
    assert set(load('mimic_cxr', root, image_size=16, cache=tmp_path).texts) == {'Changed.'}


def test_labels_of_another_mimic_cxr_are_refused(tmp_path):
    root = make_mimic(tmp_path)
    table = root / 'mimic-cxr-2.0.0-chexpert.csv.gz'
    labels = pd.read_csv(table, dtype=str)
    labels.assign(study_id=[f'9{study}' for study in labels['study_id']]).to_csv(table, index=False)
    with pytest.raises(BadInput, match=r'chexpert.csv.gz: none of its .* is in this download'):
        load('mimic_cxr', root, image_size=16, cache=tmp_path)


def test_mimic_cxr_says_what_is_missing(tmp_path):
    root = make_mimic(tmp_path)
    shutil.rmtree(tmp_path / 'mimic-cxr')
    with pytest.raises(BadInput, match=r'no reports found \(files/p10/p10000032/s50000000.txt or mimic-cxr-reports'):
        load('mimic_cxr', root, image_size=16, cache=tmp_path)
    (root / 'mimic-cxr-2.0.0-metadata.csv.gz').unlink()
    with pytest.raises(BadInput, match=r'holds mimic-cxr-2.0.0-metadata.csv or .*\.gz; with credentials'):
        load('mimic_cxr', root, image_size=16, cache=tmp_path)


def test_a_missing_image_of_mimic_cxr_is_named(tmp_path):
    root = make_mimic(tmp_path)
    gone = next((root / 'files').rglob('*-pa.jpg'))
    gone.unlink()
    with pytest.raises(BadInput, match=f'no file .*{gone.name}'):
        load('mimic_cxr', root, image_size=16, cache=tmp_path)


# ---- the COVID-19 image data collection ---------------------------------------------------------------------------


def test_covid_chestxray(tmp_path):
    loaded = load('covid_chestxray', make_covid(tmp_path), image_size=16, cache=tmp_path / 'cache')
    assert loaded.notes == {
        'left out, not a frontal radiograph': 2,
        'left out, listed twice': 1,
        'left out, neither finding nor notes on the radiograph': 1,
    }
    texts = dict(zip(loaded.manifest['image'], loaded.texts, strict=True))
    said = 'Chest X-ray shows consolidation in the left lower lobe.'
    assert texts['images/0.jpg'] == f'PA chest radiograph with COVID-19 pneumonia. {said}'
    assert texts['images/1.jpg'] == f'AP chest radiograph. No acute cardiopulmonary process. {said}'
    assert texts['images/3a.jpg'] == 'AP chest radiograph with COVID-19 pneumonia and ARDS.'
    group = dict(zip(loaded.manifest['image'], loaded.groups, strict=True))
    assert group['images/3a.jpg'] == group['images/3.jpg'] and len(set(loaded.groups)) == 12
    assert loaded.manifest.groupby('group')['split'].nunique().max() == 1
    assert all(len(loaded.rows(split)) for split in SPLITS)
    both = loaded.findings[loaded.manifest['image'].tolist().index('images/3a.jpg')]
    assert [name for name, there in zip(loaded.finding_names, both, strict=True) if there] == ['COVID-19', 'ARDS']


def test_the_rule_of_the_covid_prompt():
    assert prompt('AP Supine', 'todo', 'Bilateral infiltrates.') == 'Supine AP chest radiograph. Bilateral infiltrates.'
    assert prompt('PA', 'Pneumonia/Viral/COVID-19', '') == 'PA chest radiograph with COVID-19 pneumonia.'
    assert prompt('PA', 'todo', 'Fever. Serum CRP was 40.') == ''
    long = 'There is consolidation ' + 'and more of it ' * 20
    assert notes_on_radiograph(f'{long}. No pleural effusion (arrow). The CT shows an infiltrate.') == (
        'No pleural effusion.'
    )


@pytest.mark.skipif(not REAL.is_dir(), reason='the real data do not lie beside the repository')
def test_the_real_covid_chestxray(tmp_path):
    from medpeft_utils.data.sources import covid_chestxray

    frame = sources.reader(CARDS['covid_chestxray'])[1](REAL)
    published = pd.read_csv(REAL / 'metadata.csv', dtype=str)
    assert published['filename'].nunique() - len(frame) == 1  # one image with neither finding nor notes
    assert {image.removeprefix('images/') for image in frame['image']} <= set(published['filename'])
    assert frame['image'].is_unique and frame['text'].str.split().str.len().between(4, 50).all()
    shared = published[published['filename'].duplicated(keep=False)]
    assert shared['patientid'].nunique() == 4  # two patients under two numbers each
    for _, rows in shared.groupby('filename'):
        members = covid_chestxray._patients(published)
        assert len({members[row] for row in rows.index}) == 1
    covid = published.drop_duplicates('filename')['finding'].str.contains('COVID-19').sum()
    assert (frame['finding:COVID-19'] == 1).sum() == covid


# ---- a CSV of one's own -------------------------------------------------------------------------------------------


def test_a_csv_of_ones_own(tmp_path):
    path = make_csv(tmp_path)
    table = pd.read_csv(path).assign(scanner='A', **{'finding:effusion': ['1', '0', ''] * 6 + ['1', '1']})
    table.to_csv(path, index=False)
    loaded = load(path, image_size=16, cache=tmp_path)
    assert loaded.name == loaded.label == 'pairs' and not loaded.synthetic
    assert loaded.images.shape == (20, 16, 16, 3) and loaded.images.dtype == np.uint8
    assert isinstance(loaded.images, np.memmap)
    assert loaded.texts[3] == 'Text 1 of 1.' and set(loaded.manifest['scanner']) == {'A'}
    assert loaded.finding_names == ['effusion'] and loaded.findings[:4, 0].tolist() == [1, 0, -1, 1]
    assert loaded.manifest.groupby('group')['split'].nunique().max() == 1
    assert sum(len(loaded.rows(split)) for split in SPLITS) == 20
    other = load(path, image_size=16, split_seed=1, cache=tmp_path)
    assert other.split_hash != loaded.split_hash
    assert load(path, image_size=16, cache=tmp_path).split_hash == loaded.split_hash


def test_the_same_file_under_two_names_stays_in_one_split(tmp_path):
    path = make_csv(tmp_path, patients=12, per_patient=1)
    shutil.copy(tmp_path / 'scans' / '0_0.png', tmp_path / 'scans' / '7_0.png')
    for seed in range(4):
        split = load(path, image_size=16, split_seed=seed, cache=tmp_path).manifest.set_index('image')['split']
        assert split['scans/0_0.png'] == split['scans/7_0.png']


def change(table: pd.DataFrame, row: int, **values: str) -> pd.DataFrame:
    for column, value in values.items():
        table.loc[row, column] = value
    return table


FAULTS = {
    'no text': ({'text': ''}, r"an image without text: 'scans/1_0.png'"),
    'blank text': ({'text': '  '}, r"an image without text: 'scans/1_0.png'"),
    'no image': ({'image': ''}, r"a text without image: 'Text 0 of 1.'"),
    'neither': ({'image': '', 'text': ''}, 'neither image nor text'),
    'no such file': ({'image': 'scans/none.png'}, r"no file 'scans/none.png' below"),
    'outside': ({'image': '../other.png'}, 'lies outside'),
    'twice': ({'image': 'scans/0_0.png'}, r"two texts for 'scans/0_0.png'"),
    'split': ({'split': 'holdout'}, r"unknown split 'holdout' of 'scans/1_0.png'; known: train, validation, test"),
    'split gap': ({'split': ''}, r"no split for 'scans/1_0.png', though other rows have one"),
    'patient in two': ({'split': 'test'}, r"group 'patient 1' spans several splits"),
}


@pytest.mark.parametrize(('values', 'message'), FAULTS.values(), ids=FAULTS)
def test_one_clear_message_for_every_fault(tmp_path, values, message):
    path = make_csv(tmp_path)
    table = pd.read_csv(path).assign(split=['train'] * 16 + ['val'] * 2 + ['test'] * 2)
    change(table, 2, **values).to_csv(path, index=False)
    with pytest.raises(BadInput, match=message):
        load(path, image_size=16, cache=tmp_path)
    result = CliRunner().invoke(data_command, ['check', str(path)])
    assert result.exit_code == 1 and 'FAULT' in result.output


def test_what_is_asked_for_wrongly(tmp_path):
    path = make_csv(tmp_path, patients=2)
    with pytest.raises(BadInput, match=r'pairs are of 2 patient\(s\) \(column group\), too few for train'):
        load(path, image_size=16, cache=tmp_path)
    with pytest.raises(UnknownName, match=r"did you mean 'mimic_cxr'\?"):
        load('mimic', cache=tmp_path)
    with pytest.raises(BadInput, match='not prepared on this machine'):
        load('mimic_cxr', cache=tmp_path)
    with pytest.raises(BadInput, match='image_size=8'):
        load(path, image_size=8, cache=tmp_path)
    pd.read_csv(path).rename(columns={'text': 'report'}).to_csv(path, index=False)
    with pytest.raises(BadInput, match="has no column 'text', only image, report, group"):
        load(path, with_texts=True, cache=tmp_path)
    pd.read_csv(path).rename(columns={'report': 'text'}).assign(**{'finding:x': 'yes'}).to_csv(path, index=False)
    with pytest.raises(BadInput, match="'finding:x' holds 'yes'"):
        load(path, cache=tmp_path)


def test_a_damaged_image_is_named(tmp_path):
    path = make_csv(tmp_path)
    (tmp_path / 'scans' / '4_1.png').write_bytes(b'no image')
    with pytest.raises(BadInput, match=r'4_1\.png: is not an image'):
        load(path, image_size=16, cache=tmp_path)


# ---- parts of the training pairs, and the cache -------------------------------------------------------------------


def test_smaller_parts_lie_in_larger_ones_by_patient(tmp_path):
    loaded = load(make_csv(tmp_path, patients=16, per_patient=3), image_size=16, cache=tmp_path)
    train = loaded.rows('train')
    assert (loaded.train_pairs() == train).all() and (loaded.train_pairs(0) == train).all()
    parts = [loaded.train_pairs(pairs, seed=2) for pairs in (1, 6, 11, 30, len(train))]
    assert [len(part) for part in parts] == [1, 6, 11, 30, len(train)]
    for small, large in itertools.pairwise(parts):
        assert set(small) < set(large)
    for part in parts:
        patients, taken = np.unique(loaded.groups[part], return_counts=True)
        assert (taken < 3).sum() <= 1, 'whole patients, except the last one'
        assert len(patients) == -(-len(part) // 3)
    assert set(loaded.train_pairs(11, seed=2)) != set(loaded.train_pairs(11, seed=3))
    with pytest.raises(BadInput, match=f'there are {len(train)}'):
        loaded.train_pairs(len(train) + 1)


def test_a_part_is_packed_alone(tmp_path):
    path = make_csv(tmp_path, patients=12)
    part = load(path, image_size=16, train_pairs=5, subset_seed=1, cache=tmp_path / 'part')
    whole = load(path, image_size=16, cache=tmp_path / 'whole')
    rows = np.sort(np.concatenate([whole.train_pairs(5, seed=1), whole.rows('validation'), whole.rows('test')]))
    assert part.texts == [whole.texts[row] for row in rows] and (part.images == whole.images[rows]).all()
    assert len(part.images) == len(rows) < len(whole)
    smaller = [part.texts[row] for row in part.train_pairs(3, seed=1)]
    assert smaller == [whole.texts[row] for row in whole.train_pairs(3, seed=1)]
    with pytest.raises(BadInput, match='train_pairs=99 of pairs: there are'):
        load(path, image_size=16, train_pairs=99, cache=tmp_path / 'part')


def test_what_is_prepared_needs_its_name_only(tmp_path):
    root, cache = make_mimic(tmp_path / 'download'), tmp_path / 'cache'
    prepared = prepare('mimic_cxr', root, (16,), cache=cache)
    assert load('mimic_cxr', image_size=16, cache=cache).texts == prepared.texts
    assert load('mimic_cxr', image_size=20, cache=cache).image_size == 20
    shutil.rmtree(tmp_path / 'download')
    left = load('mimic_cxr', image_size=16, cache=cache)
    assert left.split_hash == prepared.split_hash and (left.images == prepared.images).all()
    assert left.notes == prepared.notes
    with pytest.raises(BadInput, match=r'is gone.*not packed at 24 px \(packed: 16 px, 20 px\)'):
        load('mimic_cxr', image_size=24, cache=cache)


def test_a_changed_source_is_noticed(tmp_path):
    path = make_csv(tmp_path)
    first = np.array(load(path, image_size=16, cache=tmp_path).images[0])
    draw(tmp_path / 'scans' / '0_0.png', 777)
    assert (load(path, image_size=16, cache=tmp_path).images[0] != first).any()


# ---- commands and the rest ----------------------------------------------------------------------------------------


def test_commands(tmp_path):
    run = CliRunner().invoke
    assert 'mimic_cxr' in run(data_command, ['list', '--cache', str(tmp_path)]).output
    shown = run(data_command, ['show', 'mimic_cxr']).output
    assert '110,000 / 55,000 / 11,000' in shown and 'credentialed   yes' in shown
    root = make_mimic(tmp_path / 'download')
    result = run(script('mimic_cxr'), ['--source', str(root), '--out', str(tmp_path), '--image-size', '16'])
    assert result.exit_code == 0, result.output
    assert 'left out, a report without impression: 1' in result.output
    assert 'keep it as the download' in result.output
    result = run(script('covid_chestxray'), ['--source', str(tmp_path / 'none')])
    assert result.exit_code == 1 and 'no such folder' in result.output


def test_cards_are_filled_in():
    assert names(texts=True) == ['covid_chestxray', 'mimic_cxr', 'synthetic_chest_pairs']
    for card in map(CARDS.__getitem__, names(texts=True)):
        for text in (card.label, card.modality, card.texts, card.source, card.how_to_obtain, card.licence):
            assert text
    assert CARDS['mimic_cxr'].paper_train_pairs == (110_000, 55_000, 11_000)


def test_texts_and_classes_are_told_apart(tmp_path):
    """A CSV can hold both; a set that lacks what is wanted says so, and is not trained on without it."""
    path = make_csv(tmp_path, patients=12)
    pd.read_csv(path).assign(label=['a', 'b'] * 12).to_csv(path, index=False)
    by_label, by_text = (
        load(path, image_size=16, cache=tmp_path),
        load(path, image_size=16, with_texts=True, cache=tmp_path),
    )
    assert by_label.classes == ['a', 'b'] and by_label.texts == [] and len(by_label.labels) == 24
    assert by_text.classes == [] and by_text.texts[0] == 'Text 0 of 0.' and by_text.labels.shape == (24, 0)
    assert by_label.split_hash != by_text.split_hash
    with pytest.raises(DoesNotFit, match='has classes and no texts; with texts: covid_chestxray, mimic_cxr'):
        load('synthetic_breastus', with_texts=True, cache=tmp_path)
    with pytest.raises(DoesNotFit, match='has texts and no classes'):
        load('mimic_cxr', with_texts=False, cache=tmp_path)


def test_check_of_a_large_set_opens_no_image(tmp_path):
    root = make_mimic(tmp_path / 'download')
    for path in (root / 'files').rglob('*.jpg'):
        path.write_bytes(b'no image')
    result = CliRunner().invoke(data_command, ['check', 'mimic_cxr', str(root)])
    assert 'images that are not opened, since they are many' in result.output and 'in order' in result.output


@pytest.mark.parametrize('name', ['n' * 400, f'folder/{"n" * 400}', f'{"n" * 400}.csv', '~nobody/images', 'a\0b.csv'])
def test_names_of_any_length_and_kind_are_one_message(name, tmp_path):
    for folder in (None, name):
        with pytest.raises((BadInput, UnknownName)):
            load(name, folder, cache=tmp_path)
    with pytest.raises(BadInput, match='no such folder'):
        load('covid_chestxray', name, cache=tmp_path)
