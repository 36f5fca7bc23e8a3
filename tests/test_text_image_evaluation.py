"""Evaluation of generated images: against formulas, by hand on small numbers, and on images whose flaws are known."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg
from tiny_generation import make_pairs, spots
from torchmetrics.image.kid import poly_mmd

from medpeft_utils import auroc
from medpeft_utils.core.errors import BadInput
from medpeft_utils.text_image import evaluation, plots
from medpeft_utils.text_image.evaluation import Evaluator, distances
from medpeft_utils.text_image.evaluation import encoder as encoders
from medpeft_utils.text_image.evaluation.adherence import adherence, labels_of
from medpeft_utils.text_image.evaluation.encoder import Encoder, Schedule, encode, encoder_rows, key_of, train

SHORT = Schedule(max_steps=40, batch_size=32, evaluations=4)


def features(count: int, shift: float = 0.0, size: int = 6, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.normal(shift, 1, (count, size)) @ np.diag(np.linspace(0.5, 2, size))


# ---- distances


def test_fid_is_the_frechet_distance_of_two_gaussians():
    one, other = features(300), features(200, 0.7, seed=1) * 1.3
    m1, m2, c1, c2 = one.mean(0), other.mean(0), np.cov(one.T), np.cov(other.T)
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert distances.fid(one, other) == pytest.approx(expected, rel=1e-6)
    assert distances.fid(one, one[::-1]) == pytest.approx(0, abs=1e-6)
    shifted = one + np.array([3, 0, 0, 0, 0, 4.0])  # the covariance is the same: |(3, 4)|² is left
    assert distances.fid(one, shifted) == pytest.approx(25, rel=1e-6)
    with pytest.raises(BadInput, match='two or more'):
        distances.fid(one, one[:1])


def unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Gretton et al. 2012, Eq. 3, summed pair by pair, with the kernel (x·y / D + 1)³."""

    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    m = len(x)
    inside = sum(kernel(side[i], side[j]) for side in (x, y) for i, j in itertools.permutations(range(m), 2))
    across = sum(kernel(a, b) for a in x for b in y)
    return inside / (m * (m - 1)) - 2 * across / m**2


def test_kid_is_the_unbiased_estimate_pair_by_pair():
    one, other = features(20, size=3), features(20, 0.5, size=3, seed=1)
    found = distances.kid(one, other)
    assert found['kid'] == pytest.approx(unbiased_mmd(one, other))
    assert found['kid_low'] <= found['kid'] <= found['kid_high'] and len(found['kid_resamples']) == 400
    theirs = poly_mmd(*(torch.from_numpy(side) for side in (one, other))).item()
    assert found['kid'] == pytest.approx(theirs)


def test_a_resample_counts_each_image_as_often_as_its_patient_was_drawn():
    """By hand: every pair of different images as often as both were drawn."""
    groups = np.repeat(np.arange(12), 2)
    one, other = features(24, size=3), features(24, 0.5, size=3, seed=1)
    times = auroc.resamples(groups, 3)
    assert (times.sum(axis=1) == 24).all() and (times[:, ::2] == times[:, 1::2]).all()
    for weights in times:
        rows = np.flatnonzero(weights)
        inside = across = pairs = 0.0
        for i in rows:
            for j in rows:
                kernel = [(a[i] @ b[j] / 3 + 1) ** 3 for a, b in ((one, one), (other, other), (one, other))]
                weight = weights[i] * weights[j]
                across += weight * kernel[2]
                if i != j:
                    inside, pairs = inside + weight * (kernel[0] + kernel[1]), pairs + weight
        expected = inside / pairs - 2 * across / weights.sum() ** 2
        assert distances.mmd(one, other, (weights[None], weights[None]))[0] == pytest.approx(expected)


def test_kid_of_equal_distributions_is_zero_on_average_and_its_interval_holds_it():
    found = distances.kid(features(400), features(400, seed=1))
    assert found['kid_low'] < 0 < found['kid_high'] and abs(found['kid']) < 0.05
    apart = distances.kid(features(400), features(400, 1.0, seed=1))
    assert apart['kid_low'] > found['kid_high']


def test_the_interval_of_kid_holds_the_truth_as_often_as_it_says():
    """Patients of two images that are alike, and a distance that is known from many images."""

    def images(patients: int, shift: float, draw: np.random.Generator) -> np.ndarray:
        own = draw.normal(shift, 1, (patients, 4))
        return np.repeat(own, 2, axis=0) + draw.normal(0, 0.5, (2 * patients, 4))

    draw, held = np.random.default_rng(0), 0
    truth = np.mean(
        [
            distances.mmd(images(1000, 0, draw)[::2], images(1000, 0.5, draw)[::2], (np.ones((1, 1000)),) * 2)[0]
            for _ in range(8)
        ]
    )
    groups = np.repeat(np.arange(60), 2)
    for _ in range(60):
        found = distances.kid(images(60, 0, draw), images(60, 0.5, draw), groups, groups)
        held += found['kid_low'] < truth < found['kid_high']
    assert 53 <= held <= 60, held


def test_too_few_images_for_kid_is_said_with_the_number():
    with pytest.raises(BadInput, match='19 generated images are too few for KID, which needs 20'):
        distances.kid(features(50), features(19))
    with pytest.raises(BadInput, match='12 real images'):
        distances.kid(features(12), features(50))


def test_the_floor_is_taken_at_the_rows_own_number_of_images():
    """FID is biased by the number of images and KID is not: a floor at another number would be another floor."""
    real, others = features(300), features(400, seed=1)
    few, many = (distances.floor(real, others, count) for count in (40, 300))
    assert (few['images'], many['images'], few['real_images'], few['draws']) == (40, 300, 300, 5)
    assert few['fid'] > 3 * many['fid'] and abs(few['kid']) < 0.1 > abs(many['kid'])
    assert few == distances.floor(real, others, 40)
    short = distances.floor(real, others[:30], 40)
    assert short['images'] == 30 and short['draws'] == 1 and short['fid_sd'] is None
    assert distances.floor(real, others[:15], 40)['kid'] is None  # below 20 images
    assert distances.floor(real, others[:1], 40)['fid'] is None


def test_memorised_copies_are_noticed():
    train_, real, fresh = features(200), features(150, seed=1), features(150, seed=2)
    honest = distances.memorising(fresh, real, train_)
    assert honest['copies'] < 0.06 and honest['nearest_ratio'] == pytest.approx(1, abs=0.15)
    half = np.concatenate([fresh[:75], train_[:75] + 1e-3])
    copied = distances.memorising(half, real, train_)
    assert copied['copies'] == pytest.approx(0.5, abs=0.05) and copied['nearest_ratio'] < 0.9
    assert (distances.nearest(train_[10:20], train_) == 0).all()


def test_similarity_tells_one_image_from_many():
    noise = spots(np.zeros(12), 0)
    assert distances.similarity(np.repeat(noise[:1], 12, axis=0), pairs=8) == pytest.approx(1)
    assert distances.similarity(noise, pairs=8) < 0.3
    assert distances.measure_for(64) == 'ssim' and distances.measure_for(224) == 'ms-ssim'
    assert distances.similarity(np.repeat(spots(np.zeros(1), 0, 176), 2, axis=0), pairs=2) == pytest.approx(1)


# ---- labels and encoder


def test_adherence_by_hand():
    said = np.array([[1, 1], [0, 1], [1, 1], [0, 1], [-1, 1]])
    seen = np.array([[0.9, 0.2], [0.6, 0.2], [0.4, 0.2], [0.1, 0.2], [0.0, 0.2]])
    found = adherence(said, seen, ('spot', 'always'), np.arange(5))
    # of the four pairs (positive, negative) three are in order; right at 0.5: 0.9 and 0.1
    assert found['by_label'] == {'spot': {'auroc': 0.75, 'accuracy': 0.5, 'positives': 2, 'images': 4}}
    assert found['auroc'] == 0.75
    assert 0 <= found['auroc_low'] < 0.75 < found['auroc_high'] == 1  # some resample has none out of order
    assert len(found['resamples']) == 400 and {0.5, 1.0, None} <= set(found['resamples'])  # None: it has one kind only
    none = adherence(said[:1], seen[:1], ('spot', 'always'), np.arange(1))
    assert none['auroc'] is none['auroc_low'] is None and none['resamples'] == []


def test_the_area_is_that_of_all_pairs_of_all_labels():
    """By hand over the resamples too: every image as often as it was drawn, every pair of every label counted."""
    draw = np.random.default_rng(1)
    said, seen = draw.integers(-1, 2, (30, 3)), draw.random((30, 3)).round(1)  # ties, and some unknown
    groups = np.arange(30) // 3
    times = auroc.resamples(groups)
    found = adherence(said, seen, ('a', 'b', 'c'), groups)

    def by_hand(rows) -> float:
        right = [
            (seen[i, k] > seen[j, k]) + 0.5 * (seen[i, k] == seen[j, k])
            for k in range(3)
            for i in rows
            for j in rows
            if said[i, k] == 1 and said[j, k] == 0
        ]
        return float(np.mean(right))

    assert found['auroc'] == pytest.approx(by_hand(range(30)))
    for number in (0, 7, 399):
        assert found['resamples'][number] == pytest.approx(by_hand(np.repeat(np.arange(30), times[number])), abs=1e-4)
    assert (found['auroc_low'], found['auroc_high']) == pytest.approx(
        np.quantile(found['resamples'], [0.025, 0.975]), abs=1e-3
    )


def test_the_interval_of_adherence_holds_the_truth_as_often_as_it_says():
    """Scores of two normals one apart: the area is Phi(1 / sqrt 2) = 0.760."""
    draw, held = np.random.default_rng(0), 0
    for _ in range(30):
        said = draw.integers(0, 2, (120, 2))
        found = adherence(said, draw.normal(size=(120, 2)) + said, ('a', 'b'), np.arange(120))
        held += found['auroc_low'] < 0.760 < found['auroc_high']
    assert 25 <= held <= 30


def test_labels_are_findings_or_else_words():
    pairs = make_pairs()
    assert labels_of(pairs, pairs.rows('train')).names == ('spot',)
    words = labels_of(make_pairs(findings=False), pairs.rows('train'))
    assert words.kind == 'words' and set(words.names) == {'bright', 'spot', 'nothing', 'but', 'noise'}
    same = make_pairs(findings=False)
    same.texts[:] = ['No acute process.'] * len(same)
    with pytest.raises(BadInput, match='finding:NAME'):
        labels_of(same, same.rows('train'))


@pytest.fixture(scope='module')
def by(tmp_path_factory) -> Evaluator:
    return evaluation.evaluator(make_pairs(), tmp_path_factory.mktemp('encoder'), schedule=SHORT)


def test_the_encoder_never_sees_the_test_split_and_one_seed_gives_one(by: Evaluator):
    pairs = make_pairs()
    pairs.images = pairs.images.copy()
    pairs.images[pairs.rows('test')] = 0
    pairs.images[pairs.rows('validation')] = 0
    rows = encoder_rows(pairs)
    both = np.union1d(*rows)
    labels = labels_of(pairs, both)
    assert set(both) == set(pairs.rows('train')) and len(rows[1]) == 32  # a fifth of 80 patients of two
    assert not set(pairs.groups[rows[0]]) & set(pairs.groups[rows[1]])
    assert key_of(pairs, both, labels, SHORT) == key_of(by.pairs, both, by.labels, SHORT)
    again, about = train(pairs, rows, labels, SHORT, torch.device('cpu'))
    assert about == by.about
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), by.encoder.state_dict().values(), strict=True)
    )
    assert encode(again, pairs.images, rows[0]).mean(axis=0) == pytest.approx(0, abs=1e-4)


def test_an_encoder_that_learns_by_heart_is_stopped_before(tmp_path):
    """Labels that no image tells: the kept state is of the lowest loss on patients held out, and the scores say it."""
    pairs = make_pairs()
    pairs.findings = np.random.default_rng(0).integers(0, 2, (len(pairs), 1)).astype(np.int8)
    found = evaluation.evaluator(
        pairs, tmp_path, schedule=Schedule(max_steps=160, epochs=80, batch_size=32, evaluations=8)
    )
    losses = [row['validation_loss'] for row in found.about['curve']]
    assert found.about['best_step'] == found.about['curve'][int(np.argmin(losses))]['step'] < 160
    assert found.about['training_auroc'] < 0.95 and 0.3 < found.about['held_out_auroc'] < 0.7
    assert f'AUROC {found.about["training_auroc"]:.3f} on its 128 training images' in str(found)


def test_a_second_evaluator_reads_what_the_first_one_trained(by: Evaluator, monkeypatch):
    monkeypatch.setattr(encoders, 'train', lambda *_: pytest.fail('trained again'))
    assert evaluation.evaluator(make_pairs(), by.folder, schedule=SHORT).hash == by.hash


def test_images_are_resized_to_the_encoder():
    model = Encoder(2).eval()
    large = spots(np.ones(2), 0, 96)
    assert encode(model, large).shape == (2, Encoder.num_features)


# ---- all numbers


def test_evaluate_tells_good_images_from_bad_ones(by: Evaluator):
    pairs, rows = by.pairs, by.rows
    hot = (np.array(pairs.texts)[rows] == 'A bright spot.').astype(int)
    train_rows = pairs.rows('train')
    good = by.evaluate(spots(hot, 7), rows, train_rows)
    wrong = by.evaluate(spots(1 - hot, 7), rows, train_rows)
    dark = by.evaluate(spots(hot, 7) // 3, rows, train_rows)
    real = by.real(train_rows, 42)
    assert good['images'] == good['real_images'] == 60
    assert good['adherence']['auroc'] > 0.99 > 0.1 > wrong['adherence']['auroc']
    assert real['adherence']['auroc'] > 0.99 and real['adherence']['by_label']['spot']['images'] == 54  # six unknown
    assert dark['fid'] > 3 * good['fid'] and good['fid'] < 3 * real['floor']['fid']
    assert dark['kid_low'] > good['kid_high']
    assert good['copies'] < 0.1
    copies = by.evaluate(pairs.images[train_rows[:60]], rows, train_rows)
    assert copies['copies'] == 1 and copies['nearest'] == 0
    assert real['floor']['images'] == 42 == len(by.other_rows)  # of patients held out, and of validation
    assert real['encoder']['hash'] == by.hash and 'held_out_auroc' in real['encoder']
    assert real['encoder']['hash'] == by.hash and real['similarity_measure'] == 'ssim'


def test_what_cannot_be_judged_is_refused(by: Evaluator):
    rows, train_rows = by.rows, by.pairs.rows('train')
    images = by.pairs.images[rows]
    with pytest.raises(BadInput, match=r'\(60, 16, 16, 3\)'):
        by.evaluate(images[:, ::2, ::2], rows, train_rows)
    with pytest.raises(BadInput, match='test split'):
        by.evaluate(images, train_rows[:60], train_rows)
    with pytest.raises(BadInput, match='12 generated'):
        by.evaluate(images[:12], rows[:12], train_rows)


def test_inception_is_never_fetched(tmp_path: Path):
    with pytest.raises(BadInput, match='download Inception'):
        encoders.load_inception(tmp_path / 'none.pth')
    (tmp_path / 'other.pth').write_bytes(b'no weights')
    with pytest.raises(BadInput, match='not the weights of Inception'):
        encoders.load_inception(tmp_path / 'other.pth')
    torch.save({'code': Path('.')}, tmp_path / 'code.pth')  # a pickle of anything but tensors
    with pytest.raises(BadInput, match='not the weights of Inception'):
        encoders.load_inception(tmp_path / 'code.pth')
    torch.save({}, tmp_path / 'empty.pth')
    installed = importlib.util.find_spec('torch_fidelity')
    with pytest.raises(BadInput, match='not the weights' if installed else 'pip install torch-fidelity'):
        encoders.load_inception(tmp_path / 'empty.pth')


def test_test_rows_are_spread_over_the_split():
    pairs = make_pairs()
    assert evaluation.test_rows(pairs, 3).tolist() == [170, 200, 229]
    assert len(evaluation.test_rows(pairs)) == 60


def test_a_strip_comes_back_as_its_pictures(tmp_path: Path):
    images = spots(np.ones(3), 0)
    assert (plots.read_strip(plots.write_strip(images, tmp_path / 'a' / 'strip.png')) == images).all()
    Image.fromarray(images[0, :, :20]).save(tmp_path / 'odd.png')
    with pytest.raises(BadInput, match='20 x 32 px'):
        plots.read_strip(tmp_path / 'odd.png')
