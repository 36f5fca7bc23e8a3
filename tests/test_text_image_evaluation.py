"""Evaluation of generated images: against formulas, by hand on small numbers, and on images whose flaws are known."""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy import linalg
from tiny_generation import make_pairs, spots

from medpeft_utils import methods
from medpeft_utils.cli import medpeft
from medpeft_utils.core.errors import BadInput, DoesNotFit
from medpeft_utils.text_image import evaluation, pipeline, sampling
from medpeft_utils.text_image.evaluation import distances, diversity, inception
from medpeft_utils.text_image.evaluation.encoder import Encoder, Schedule, encode, encoder_rows, key_of, train
from medpeft_utils.text_image.evaluation.judge import Judge
from medpeft_utils.text_image.evaluation.targets import agreement, targets_of

SHORT = Schedule(steps=40, batch_size=32)


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
    found = distances.kid(one, other, subsets=2, seed=3)
    draw = np.random.default_rng(3)
    by_hand = [unbiased_mmd(*(side[draw.permutation(20)[:10]] for side in (one, other))) for _ in range(2)]
    assert found['kid'] == pytest.approx(np.mean(by_hand)) and found['kid_subset_size'] == 10
    assert found['kid_low'] <= found['kid'] <= found['kid_high']


def test_kid_of_equal_distributions_is_zero_on_average_and_its_interval_holds_it():
    found = distances.kid(features(400), features(400, seed=1))
    assert found['kid_low'] < 0 < found['kid_high'] and abs(found['kid']) < 0.05
    apart = distances.kid(features(400), features(400, 1.0, seed=1))
    assert apart['kid_low'] > found['kid_high']


def test_too_few_images_for_kid_is_said_with_the_number():
    with pytest.raises(BadInput, match='19 generated images are too few for KID: 20'):
        distances.kid(features(50), features(19))
    with pytest.raises(BadInput, match='12 real images'):
        distances.kid(features(12), features(50))


def test_the_floor_keeps_patients_apart_and_is_none_with_too_few():
    groups = np.repeat(np.arange(60), 2)
    twins = np.repeat(features(60), 2, axis=0)  # both images of a patient are the same
    found = distances.floor(twins, groups)
    assert found['fid'] > 0.1 and found['images'] == 60 and found['halvings'] == 5
    assert found == distances.floor(twins, groups)
    assert distances.floor(features(3), np.zeros(3))['fid'] is None
    assert distances.floor(features(30), np.arange(30))['kid'] is None  # 15 a half


def test_memorised_copies_are_noticed():
    train_, real, fresh = features(200), features(150, seed=1), features(150, seed=2)
    honest = distances.memorising(fresh, real, train_)
    assert honest['copies'] < 0.06 and honest['nearest_ratio'] == pytest.approx(1, abs=0.15)
    half = np.concatenate([fresh[:75], train_[:75] + 1e-3])
    copied = distances.memorising(half, real, train_)
    assert copied['copies'] == pytest.approx(0.5, abs=0.05) and copied['nearest_ratio'] < 0.9
    distance, place = distances.nearest(train_[10:20], train_)
    assert (distance == 0).all() and place.tolist() == list(range(10, 20))


def test_similarity_tells_one_image_from_many():
    noise = spots(np.zeros(12), 0)
    assert diversity.similarity(np.repeat(noise[:1], 12, axis=0), pairs=8) == pytest.approx(1)
    assert diversity.similarity(noise, pairs=8) < 0.3
    assert diversity.measure_for(64) == 'ssim' and diversity.measure_for(224) == 'ms-ssim'
    assert diversity.similarity(np.repeat(spots(np.zeros(1), 0, 176), 2, axis=0), pairs=2) == pytest.approx(1)


# ---- labels and encoder


def test_agreement_by_hand():
    said = np.array([[1, 1], [0, 1], [1, 1], [0, 1], [-1, 1]])
    seen = np.array([[0.9, 0.2], [0.6, 0.2], [0.4, 0.2], [0.1, 0.2], [0.0, 0.2]])
    found = agreement(said, seen, ('spot', 'always'))
    # of the four pairs (positive, negative) three are in order; right at 0.5: 0.9 and 0.1
    assert found['by_label'] == {'spot': {'auroc': 0.75, 'accuracy': 0.5, 'positives': 2, 'images': 4}}
    assert found['auroc'] == 0.75
    assert 0 <= found['auroc_low'] < 0.75 < found['auroc_high'] == 1  # some resample has none out of order
    assert len(found['resamples']) == 400 and {0.5, 1.0, None} <= set(found['resamples'])  # None: it has one kind only
    none = agreement(said[:1], seen[:1], ('spot', 'always'))
    assert none['auroc'] is none['auroc_low'] is None and none['resamples'] == []


def test_the_area_is_that_of_all_pairs_of_all_labels():
    """By hand over the resamples too: every image as often as it was drawn, every pair of every label counted."""
    draw = np.random.default_rng(1)
    said, seen = draw.integers(-1, 2, (30, 3)), draw.random((30, 3)).round(1)  # ties, and some unknown
    times = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=400)
    found = agreement(said, seen, ('a', 'b', 'c'))

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


def test_the_interval_of_agreement_holds_the_truth_as_often_as_it_says():
    """Scores of two normals one apart: the area is Phi(1 / sqrt 2) = 0.760."""
    draw, held = np.random.default_rng(0), 0
    for _ in range(30):
        said = draw.integers(0, 2, (120, 2))
        found = agreement(said, draw.normal(size=(120, 2)) + said, ('a', 'b'))
        held += found['auroc_low'] < 0.760 < found['auroc_high']
    assert 25 <= held <= 30


def test_labels_are_findings_or_else_words():
    pairs = make_pairs()
    assert targets_of(pairs, pairs.rows('train')).names == ('spot',)
    words = targets_of(make_pairs(findings=False), pairs.rows('train'))
    assert words.kind == 'words' and set(words.names) == {'bright', 'spot', 'nothing', 'but', 'noise'}
    same = make_pairs(findings=False)
    same.texts[:] = ['No acute process.'] * len(same)
    with pytest.raises(BadInput, match='finding:NAME'):
        targets_of(same, same.rows('train'))


@pytest.fixture(scope='module')
def judge(tmp_path_factory) -> Judge:
    return evaluation.judge(make_pairs(), tmp_path_factory.mktemp('encoder'), schedule=SHORT)


def test_the_encoder_never_sees_the_test_split_and_one_seed_gives_one(judge: Judge):
    pairs = make_pairs()
    pairs.images = pairs.images.copy()
    pairs.images[pairs.rows('test')] = 0
    pairs.images[pairs.rows('validation')] = 0
    rows = encoder_rows(pairs)
    labels = targets_of(pairs, rows)
    assert set(rows) <= set(pairs.rows('train'))
    assert key_of(pairs, rows, labels, SHORT) == key_of(judge.pairs, rows, judge.targets, SHORT)
    again = train(pairs, rows, labels, SHORT, torch.device('cpu'))
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), judge.encoder.state_dict().values(), strict=True)
    )
    assert encode(again, pairs.images, rows).mean(axis=0) == pytest.approx(0, abs=1e-4)


def test_a_second_judge_reads_what_the_first_one_trained(judge: Judge, monkeypatch):
    from medpeft_utils.text_image.evaluation import encoder

    monkeypatch.setattr(encoder, 'train', lambda *_: pytest.fail('trained again'))
    assert evaluation.judge(make_pairs(), judge.folder, schedule=SHORT).hash == judge.hash


def test_images_are_resized_to_the_encoder():
    model = Encoder(2).eval()
    large = spots(np.ones(2), 0, 96)
    assert encode(model, large).shape == (2, Encoder.num_features)


# ---- all numbers


def test_evaluate_tells_good_images_from_bad_ones(judge: Judge):
    pairs, rows = judge.pairs, judge.rows
    hot = (np.array(pairs.texts)[rows] == 'A bright spot.').astype(int)
    train_rows = pairs.rows('train')
    good = judge.evaluate(spots(hot, 7), rows, train_rows)
    wrong = judge.evaluate(spots(1 - hot, 7), rows, train_rows)
    dark = judge.evaluate(spots(hot, 7) // 3, rows, train_rows)
    real = judge.real(train_rows)
    assert good['images'] == good['real_images'] == 60
    assert good['agreement']['auroc'] > 0.99 > 0.1 > wrong['agreement']['auroc']
    assert real['agreement']['auroc'] > 0.99 and real['agreement']['by_label']['spot']['images'] == 54  # six unknown
    assert dark['fid'] > 3 * good['fid'] and good['fid'] < 3 * real['floor']['fid']
    assert dark['kid_low'] > good['kid_high']
    assert good['copies'] < 0.1
    copies = judge.evaluate(pairs.images[train_rows[:60]], rows, train_rows)
    assert copies['copies'] == 1 and copies['nearest'] == 0
    assert real['encoder']['hash'] == judge.hash and real['similarity_measure'] == 'ssim'


def test_the_function_gives_the_judges_numbers(judge: Judge):
    images, train_rows = spots(np.ones(60), 3), judge.pairs.rows('train')
    found = evaluation.evaluate(images, judge.rows, judge.pairs, train_rows, judge.folder, schedule=SHORT)
    assert found.pop('real')['images'] == 60
    assert found == judge.evaluate(images, judge.rows, train_rows)


def test_what_cannot_be_judged_is_refused(judge: Judge):
    rows, train_rows = judge.rows, judge.pairs.rows('train')
    images = judge.pairs.images[rows]
    with pytest.raises(BadInput, match=r'\(60, 16, 16, 3\)'):
        judge.evaluate(images[:, ::2, ::2], rows, train_rows)
    with pytest.raises(BadInput, match='test split'):
        judge.evaluate(images, train_rows[:60], train_rows)
    with pytest.raises(BadInput, match='12 generated'):
        judge.evaluate(images[:12], rows[:12], train_rows)


def test_inception_is_never_fetched(tmp_path: Path):
    with pytest.raises(BadInput, match='not fetched here'):
        inception.load(tmp_path / 'none.pth')
    (tmp_path / 'other.pth').write_bytes(b'no weights')
    with pytest.raises(BadInput, match='not the weights of Inception'):
        inception.load(tmp_path / 'other.pth')
    torch.save({'code': Path('.')}, tmp_path / 'code.pth')  # a pickle of anything but tensors
    with pytest.raises(BadInput, match='not the weights of Inception'):
        inception.load(tmp_path / 'code.pth')
    torch.save({}, tmp_path / 'empty.pth')
    installed = importlib.util.find_spec('torch_fidelity')
    with pytest.raises(BadInput, match='not the weights' if installed else 'pip install torch-fidelity'):
        inception.load(tmp_path / 'empty.pth')


def test_test_rows_are_spread_over_the_split():
    pairs = make_pairs()
    assert evaluation.test_rows(pairs, 3).tolist() == [170, 200, 229]
    assert len(evaluation.test_rows(pairs)) == 60


def test_a_strip_comes_back_as_its_pictures(tmp_path: Path):
    images = spots(np.ones(3), 0)
    assert (evaluation.read_strip(evaluation.write_strip(images, tmp_path / 'a' / 'strip.png')) == images).all()
    Image.fromarray(images[0, :, :20]).save(tmp_path / 'odd.png')
    with pytest.raises(BadInput, match='20 x 32 px'):
        evaluation.read_strip(tmp_path / 'odd.png')


# ---- medpeft generate


@pytest.fixture(scope='module')
def tuned(tmp_path_factory) -> tuple[Path, Path]:
    """A pipeline of random weights in the layout of diffusers, and a LoRA adapter over it."""
    folder = tmp_path_factory.mktemp('pipe')
    pipe = pipeline.load('stable_diffusion_mini', 'random')
    for part in ('tokenizer', 'text_encoder', 'vae', 'unet', 'scheduler'):
        getattr(pipe, part).save_pretrained(folder / part)
    parts = {
        part: ['x', type(getattr(pipe, part)).__name__]
        for part in ('tokenizer', 'text_encoder', 'vae', 'unet', 'scheduler')
    }
    (folder / pipeline.INDEX).write_text(json.dumps(parts))
    pipe = pipeline.load(str(folder))
    adapted = methods.apply(pipe.unet, 'lora', 'unet', {'rank': 2})
    for parameter in adapted.trainable().values():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    return folder, adapted.save(folder / 'adapter.safetensors', pipe.hash)


def call(*words) -> tuple[str, Exception | None]:
    result = CliRunner().invoke(medpeft, ['generate', *map(str, words)])
    return result.output, result.exception


def test_generate_writes_what_the_adapter_draws(tuned, tmp_path: Path, caplog):
    folder, adapter = tuned
    words = ('--adapter', adapter, '--backbone', folder, '--steps', 2, '--out', tmp_path)
    with caplog.at_level(logging.WARNING):
        output, error = call(*words, '--prompt', 'No acute process.', '--count', 2, '--prompt', 'opacity ' * 200)
    assert error is None, output
    paths = sorted(tmp_path.glob('*.png'))
    assert len(paths) == 4 and 'cut' in caplog.text
    assert Image.open(paths[0]).info['prompt'] == 'No acute process.'
    pipe = pipeline.load(str(folder))
    loaded = methods.load(pipe.unet, adapter, 'unet', pipe.hash)
    expected = sampling.sample(pipe, loaded.merge(), ['No acute process.'], 0, 4.0, 2)
    assert (np.asarray(Image.open(paths[0])) == expected[0]).mean() > 0.99  # rounding differs with the batch
    base = sampling.sample(
        pipeline.load(str(folder)), pipeline.load(str(folder)).unet, ['No acute process.'], 0, 4.0, 2
    )
    assert (base[0] != expected[0]).any()


def test_generate_takes_a_negative_prompt(tuned, tmp_path: Path):
    folder, adapter = tuned
    words = ('--adapter', adapter, '--backbone', folder, '--steps', 2, '--prompt', 'Clear lungs.')
    pictures = []
    for number, negative in enumerate(('', 'a goldfish')):
        output, error = call(*words, '--negative', negative, '--out', tmp_path / str(number))
        assert error is None, output
        pictures.append(np.asarray(Image.open(next((tmp_path / str(number)).glob('*.png')))))
    assert (pictures[0] != pictures[1]).any()
    assert 'does nothing with --guidance 1' in str(call(*words, '--negative', 'x', '--guidance', 1)[1])


def test_generate_says_what_is_wrong(tuned, tmp_path: Path):
    folder, adapter = tuned
    assert 'no file' in str(call('--adapter', tmp_path / 'none', '--prompt', 'x')[1])
    assert 'empty prompt' in str(call('--adapter', adapter, '--prompt', ' ')[1])
    assert '--count 0' in str(call('--adapter', adapter, '--prompt', 'x', '--count', 0)[1])
    other = tmp_path / 'other.safetensors'
    pipe = pipeline.load(str(folder))
    methods.apply(pipe.unet, 'bias_tuning', 'unet').save(other, 'f' * 16)
    error = call('--adapter', other, '--backbone', folder, '--prompt', 'x')[1]
    assert isinstance(error, DoesNotFit) and 'f' * 16 in str(error) and '--backbone' in str(error)
