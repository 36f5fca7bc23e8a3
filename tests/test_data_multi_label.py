"""Images with several findings: labels [M, L], splits and shares that keep patients together, published lists."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tiny_datasets import draw

from medpeft_utils import data
from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import multi_label, sources
from medpeft_utils.data.cards import CARDS

CLASSES = ('Atelectasis', 'Effusion', 'Mass')


def card(name: str = 'three_findings', classes: tuple[str, ...] = CLASSES) -> data.DataCard:
    return data.DataCard(name, name, 'findings', 'noise', classes, group='patient', multi_label=True)


@pytest.fixture
def findings(tmp_path, monkeypatch):
    """A registered multi-label dataset of 40 images of 20 patients; its reader returns the list that it holds."""
    for image in range(40):
        draw(tmp_path / f'{image:02d}.png', image)
    frame = pd.DataFrame(
        {
            'image': [f'{i:02d}.png' for i in range(40)],
            'labels': [f'{int(i % 2 == 0)} {int(i % 3 == 0)} {int(i < 2)}' for i in range(40)],
            'group': [f'p{i // 2}' for i in range(40)],
        }
    )
    monkeypatch.setitem(CARDS, 'three_findings', card())
    monkeypatch.setitem(
        sources._READERS, 'three_findings', (lambda folder: folder, lambda root: frame, lambda root: [])
    )
    return tmp_path, frame


def test_labels_are_a_matrix_and_counts_are_positives(findings):
    root, frame = findings
    loaded = data.load('three_findings', root, image_size=16)
    assert loaded.labels.dtype == np.uint8 and loaded.labels.shape == (40, 3)
    assert loaded.labels[6].tolist() == [1, 1, 0] and loaded.manifest['label'][6] == 'Atelectasis|Effusion'
    assert loaded.manifest['label'][1] == 'Mass' and loaded.manifest['label'][5] == 'none'
    assert loaded.counts().sum(axis=1).to_dict() == {'Atelectasis': 20, 'Effusion': 14, 'Mass': 2}
    assert loaded.manifest.groupby('group')['split'].nunique().max() == 1
    assert min(len(loaded.rows(split)) for split in data.SPLITS) >= 4
    frame['labels'] = frame['labels'].str.replace('1 1 1', '1 0 1')
    assert data.load('three_findings', root, image_size=16).split_hash != loaded.split_hash  # labels are part of it


def test_given_splits_and_lists_are_taken_as_they_are(findings):
    root, frame = findings
    frame['split'] = ['train'] * 30 + ['validation'] * 4 + ['test'] * 6
    frame['share'] = ['1', '1 10'] + ['10'] * 4 + [''] * 34  # not nested, as the published ones
    loaded = data.load('three_findings', root, image_size=16)
    assert [len(loaded.rows(split)) for split in data.SPLITS] == [30, 4, 6]
    assert loaded.train_rows(0.01, seed=5).tolist() == [0, 1]
    assert loaded.train_rows(0.1).tolist() == [1, 2, 3, 4, 5]
    assert len(loaded.train_rows(1.0)) == 30
    half = loaded.train_rows(0.5, seed=1)
    assert 14 <= len(half) <= 16 and set(loaded.train_rows(0.2, seed=1)) < set(half)
    assert pd.Series(loaded.groups[half]).value_counts().eq(2).all()  # patients stay whole


def test_lists_of_images_with_one_class_each():
    frame = pd.DataFrame({'image': [f'{i}' for i in range(40)], 'label': ['a', 'b'] * 20, 'split': 'train'})
    frame = frame.assign(group=frame['image'], share=['5 20'] * 3 + ['20'] * 7 + ['100'] * 30)
    dataset = data.Dataset(data.DataCard('x', 'x', '', '', ('a', 'b')), np.zeros((40, 1, 1, 3), np.uint8), frame)
    assert dataset.train_rows(0.05).tolist() == [0, 1, 2] and len(dataset.train_rows(0.2, 3)) == 10
    assert len(dataset.train_rows(0.15)) == 6 and len(dataset.train_rows(1.0)) == 40
    with pytest.raises(BadInput, match=r'fraction=0.1 of x means its published 10 % list .*no training image is in it'):
        dataset.train_rows(0.1)  # random images in place of the list would pass for it


@pytest.mark.parametrize(
    ('labels', 'words'),
    [('1 0', "labels '1 0' of '03.png' are not 3 times 0 or 1"), ('1 2 0', "'1 2 0'"), ('', "labels ''")],
)
def test_labels_that_cannot_be_read(findings, labels, words):
    root, frame = findings
    frame.loc[3, 'labels'] = labels
    with pytest.raises(BadInput, match=words):
        data.load('three_findings', root, image_size=16)
    del frame['labels']
    with pytest.raises(BadInput, match='has no column labels'):
        data.load('three_findings', root, image_size=16)


@pytest.mark.parametrize('seed', range(3))
def test_splits_hold_the_shares_of_every_finding(seed):
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(1500), generator.choice([1, 2, 3, 12], 1500, p=[0.6, 0.2, 0.15, 0.05])).astype(str)
    labels = (generator.random((len(groups), 4)) < [0.4, 0.1, 0.02, 0.01]).astype(np.uint8)
    made = multi_label.assign(labels, groups, seed)
    assert pd.Series(made).groupby(groups).nunique().max() == 1
    for split, share in zip(data.SPLITS, data.SHARES, strict=True):
        own = made == split
        assert abs(own.mean() - share) < 0.01
        positives = labels[own].sum(axis=0)
        assert (np.abs(positives - share * labels.sum(axis=0)) <= 3 + 0.02 * labels.sum(axis=0)).all()
    assert (made == multi_label.assign(labels, groups, seed)).all()
    assert (made != multi_label.assign(labels, groups, seed + 1)).any()


def test_one_finding_only_is_enough(findings, monkeypatch):
    root, frame = findings
    monkeypatch.setitem(CARDS, 'three_findings', card(classes=('Pneumonia',)))
    frame['labels'] = ['0', '1'] * 20
    loaded = data.load('three_findings', root, image_size=16)
    assert loaded.labels.shape == (40, 1) and loaded.classes == ['Pneumonia'] and loaded.labels.sum() == 20


def test_check_counts_positives(findings):
    from medpeft_utils.data.check import check

    report = check('three_findings', findings[0])
    assert report.usable and report.classes == {'Atelectasis': 20, 'Effusion': 14, 'Mass': 2}
    assert report.splits['train'].keys() == set(CLASSES)


def test_synthetic_multi_label(monkeypatch, tmp_path):
    from medpeft_utils.data import synthetic

    def generate(name, image_size=64, seed=0, n=None, indices=None):
        rows = np.asarray(list(indices))
        labels = np.stack([rows % 2, rows % 3 == 0, rows < 4], axis=1).astype(np.uint8)
        extra = pd.DataFrame({'group': [f'p{row}' for row in rows], 'split': np.array(data.SPLITS)[rows % 3]})
        return np.zeros((len(rows), image_size, image_size, 3), np.uint8), labels, extra

    monkeypatch.setattr(synthetic, 'generate', generate)
    monkeypatch.setattr(synthetic, 'default_size', lambda name: 30)
    import dataclasses

    drawn = dataclasses.replace(card('synthetic_findings'), synthetic=True)
    monkeypatch.setitem(CARDS, 'synthetic_findings', drawn)
    loaded = data.load('synthetic_findings', image_size=16, cache=tmp_path)
    assert loaded.labels.shape == (30, 3) and [len(loaded.rows(split)) for split in data.SPLITS] == [10, 10, 10]
