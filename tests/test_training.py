"""The training loop, the search and what they are made of, on small networks and images made for the test."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from medpeft_utils.core.errors import BadInput, DoesNotFit, UnknownName
from medpeft_utils.training import augment as aug
from medpeft_utils.training.classification import Classification, Settings, stored_size
from medpeft_utils.training.loop import Diverged, Protocol
from medpeft_utils.training.precision import PLAIN, Precision, candidates, measure
from medpeft_utils.training.search import search

HALF = torch.tensor([0.5, 0.5, 0.5])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two classes that differ in brightness, 40 images each, as a folder per class."""
    root, generator = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for name, level in (('dark', 70), ('light', 185)):
        (root / name).mkdir()
        for i in range(40):
            pixels = np.clip(generator.normal(level, 40, (48, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f'{i}.png')
    return root


def settings(folder, **changes) -> Settings:
    base = {'dataset': str(folder), 'backbone': 'vit_base_mini', 'method': 'lora', 'weights': 'random'}
    return Settings(**(base | {'batch_size': 16, 'min_steps': 8, 'max_steps': 8, 'checks': 4} | changes))


def run(folder, tmp_path, **changes) -> Classification:
    made = Classification(settings(folder, **changes), cache=tmp_path)
    made.__dict__['precision'] = Precision(fused_attention=False)  # no timing in tests, and the same numbers everywhere
    return made


def test_a_run_learns_and_reads_the_test_split_once(folder, tmp_path):
    made = run(folder, tmp_path, method='full_ft', learning_rate=1e-3, min_steps=24, max_steps=24)
    fit = made.train(quiet=True)
    scores = made.evaluate()
    assert fit.curve[-1]['train_loss'] < 0.8 * math.log(2)
    assert scores['test']['accuracy'] > 0.8  # brightness is easy
    assert [row['step'] for row in fit.curve] == [6, 12, 18, 24]
    with pytest.raises(BadInput, match='read once'):
        made.evaluate()


def test_the_selected_state_is_the_one_that_scored_best_on_validation(folder, tmp_path):
    made = run(folder, tmp_path, method='full_ft', learning_rate=3e-3)
    fit = made.train(quiet=True)
    scores = [(row['validation_f1_macro'], -row['validation_loss']) for row in fit.curve]
    assert fit.best == scores.index(max(scores))
    from medpeft_utils.training.loop import predict

    again = predict(made.adapted, made.batches(made.rows('validation')))
    assert np.allclose(again, fit.validation, atol=1e-6)


@pytest.mark.parametrize(('backbone', 'method'), [('vit_base_mini', 'lora'), ('resnet50_mini', 'bn_tuning')])
def test_a_repeated_run_gives_the_same_bits(folder, tmp_path, backbone, method):
    runs = [run(folder, tmp_path, backbone=backbone, method=method) for _ in range(2)]
    for made in runs:
        made.train(quiet=True)
        made.evaluate()
    assert np.array_equal(runs[0].probabilities['test'], runs[1].probabilities['test'])
    assert [row['train_loss'] for row in runs[0].result.curve] == [row['train_loss'] for row in runs[1].result.curve]


def test_linear_probing_on_features_equals_linear_probing_on_images(folder, tmp_path):
    made = run(folder, tmp_path, method='linear_probing', augmentation='none')
    rows = made.rows('validation')
    features = made.batches(rows)
    from medpeft_utils.training.batches import FeatureBatches, ImageBatches
    from medpeft_utils.training.loop import predict

    images = ImageBatches(made.data.images, made.data.labels, rows, 2, made.view)
    assert isinstance(features, FeatureBatches)
    assert np.allclose(predict(made.adapted, features), predict(made.adapted, images), atol=1e-5)


def test_features_are_computed_once_and_shared(folder, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from medpeft_utils import backbones
    from medpeft_utils.training import features

    weights = tmp_path / 'weights.safetensors'
    save_file(backbones.build('vit_base_mini', seed=5).state_dict(), weights)
    first = run(folder, tmp_path, method='linear_probing', weights=str(weights))._features.copy()
    monkeypatch.setattr(features, 'extract', lambda *_, **__: pytest.fail('computed again'))
    again = run(folder, tmp_path, method='linear_probing', weights=str(weights), seed=3)
    assert np.array_equal(again._features, first)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_way_out(folder, tmp_path):
    made = run(folder, tmp_path, method='full_ft', learning_rate=1e30)
    with pytest.raises(Diverged, match=r'lower learning_rate \(now 1e\+30\)'):
        made.train(quiet=True)


def test_search_is_shared_over_seeds_and_given_or_default_rates_need_none(folder, tmp_path):
    first = run(folder, tmp_path, search_trials=2, seed=0).choose_learning_rate(tmp_path / 's')
    assert first['how'] == 'searched'
    assert len(first['trials']) == 2
    other = run(folder, tmp_path, search_trials=2, seed=7)
    other._search = lambda quiet: pytest.fail('searched again')
    assert other.choose_learning_rate(tmp_path / 's') == first
    assert run(folder, tmp_path, learning_rate=0.5).choose_learning_rate() == {
        'value': 0.5,
        'how': 'given',
        'trials': [],
    }
    assert run(folder, tmp_path).choose_learning_rate()['how'] == 'default'


def test_search_finds_a_maximum_and_survives_divergence():
    def score(rate: float) -> float:
        if rate > 2e-3:
            raise Diverged('too high')
        return 1 - abs(math.log10(rate) + 3.5) / 4  # best at 10 ** -3.5

    found = search(score, default=1e-3, trials=12, seed=0)
    assert abs(math.log10(found['value']) + 3.5) < 0.3
    assert {row['score'] for row in found['trials'] if row['learning_rate'] > 2e-3} == {None}
    assert all(1e-4 <= row['learning_rate'] <= 1e-2 for row in found['trials'])
    with pytest.raises(BadInput, match='diverged at all 3 rates'):
        search(lambda rate: score(1.0), 1e-3, 3)


def test_schedule_warms_up_linearly_and_ends_near_zero():
    protocol = Protocol(learning_rate=1.0, warmup_share=0.1)
    rates = [protocol.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize(('images', 'steps'), [(75, 100), (640, 200), (7511, 300), (10, 100)])
def test_steps_follow_epochs_within_their_bounds(images, steps):
    assert Protocol(1.0, epochs=20, min_steps=100, max_steps=300, batch_size=64).steps(images) == steps


def test_class_weights_are_inverse_frequencies_with_mean_one():
    from medpeft_utils.training.objective import class_weights

    labels = np.array([0] * 6 + [1] * 2)
    weights = class_weights(labels, 3).numpy()
    assert weights == pytest.approx([8 / 12, 8 / 4, 0])
    assert weights[labels].mean() == pytest.approx(1)


def picture(n: int = 4, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_augmentation_that_may_do_nothing_does_nothing():
    images, generator = picture(), torch.Generator().manual_seed(0)
    out = aug.augment(images, 16, HALF, HALF, aug.NONE, generator)
    assert torch.allclose(out, aug.normalise(images, HALF, HALF), atol=1e-5)


def test_a_sure_flip_mirrors():
    policy = dataclasses.replace(aug.NONE, flip=1.0)
    out = aug.augment(picture(), 16, HALF, HALF, policy, torch.Generator().manual_seed(0))
    assert torch.allclose(out, aug.normalise(picture(), HALF, HALF).flip(3), atol=1e-5)


def test_augmentation_follows_its_generator():
    draws = [
        aug.augment(picture(), 12, HALF, HALF, aug.Augmentation(), torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (4, 3, 12, 12)


@pytest.mark.parametrize('family', ['cnn', 'vit'])
def test_every_way_to_compute_gives_the_plain_logits(family):
    from medpeft_utils import backbones

    name = {'cnn': 'resnet50_mini', 'vit': 'vit_base_mini'}[family]
    model = backbones.build(name, 5).eval()
    x = torch.randn(2, 3, backbones.image_size_of(name), backbones.image_size_of(name))
    with torch.no_grad():
        plain = PLAIN.prepare(model)(x)
        for precision in candidates(family):
            with precision.autocast(x.device):
                other = precision.prepare(model)(precision.images(x)).float()
            tolerance = 0.05 if precision.bf16 else 1e-4
            assert (other - plain).abs().max() <= tolerance * plain.abs().max().clamp(min=1)


def test_measuring_leaves_the_model_as_it_was():
    from medpeft_utils import backbones

    model = backbones.build('resnet50_mini', 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seconds = measure(model, 'cnn', torch.randn(2, 3, 64, 64))
    assert set(seconds) == set(candidates('cnn'))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(isinstance(p, Precision) for p in seconds)


@pytest.mark.parametrize(
    ('changes', 'error', 'words'),
    [
        ({'fraction': 0.0}, BadInput, 'fraction=0.0'),
        ({'epochs': 0}, BadInput, 'epochs=0'),
        ({'min_steps': 9}, BadInput, 'min_steps=9'),
        ({'learning_rate': -1.0}, BadInput, 'learning_rate=-1.0'),
        ({'augmentation': 'strong'}, UnknownName, 'augmentation'),
        ({'method': 'lorra'}, UnknownName, "did you mean 'lora'"),
        ({'backbone': 'vit_base'}, UnknownName, 'vit_base_mini'),
        ({'method': 'tsa'}, DoesNotFit, "'tsa' does not fit backbone 'vit_base_mini'"),
        ({'method_config': '{rank: 4}'}, BadInput, 'method_config'),
        ({'method_config': '{"rnk": 4}'}, BadInput, "did you mean 'rank'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_anything_is_loaded(folder, changes, error, words):
    with pytest.raises(error, match=words):
        settings(folder, **changes).check()


def test_images_are_stored_a_little_larger_than_the_input():
    assert [stored_size(size) for size in (48, 64, 224)] == [64, 64, 256]
