"""The training loop, the search and what they are made of, on small networks and images made for the test."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import random
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medpeft_utils.core import packed
from medpeft_utils.core.code import Code
from medpeft_utils.core.errors import BadInput, DoesNotFit, UnknownName
from medpeft_utils.training import augment as aug
from medpeft_utils.training import probe, rows
from medpeft_utils.training.batches import Classifying, ImageBatches, View, predict
from medpeft_utils.training.classification import Classification, Settings, stored_size
from medpeft_utils.training.config import TrainingConfig
from medpeft_utils.training.loop import Diverged, fit
from medpeft_utils.training.objective import MULTI_LABEL, SINGLE_LABEL
from medpeft_utils.training.precision import PLAIN, Precision, candidates, measure
from medpeft_utils.training.search import Trials, search

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
    return Settings(**(base | {'batch_size': 16, 'min_steps': 8, 'max_steps': 8, 'evaluations': 4} | changes))


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


# ---- what a record keeps


@pytest.mark.parametrize('several', [False, True])
def test_rows_come_back_as_they_were(several):
    generator = np.random.default_rng(0)
    odds = generator.normal(0, 4, (300, 5))
    labels = (generator.random((300, 5)) < 0.3).astype(np.uint8) if several else generator.integers(0, 5, 300)
    shares = 1 / (1 + np.exp(-odds)) if several else np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    attributes = pd.DataFrame({'sex': ['f', 'm', ''] * 100, 'age': [30.0, np.nan, 71.0] * 100})
    section = rows.write(labels, np.arange(300) // 2 + 70_000, shares.astype(np.float32), attributes)
    record = json.loads(json.dumps({'rows': {'test': section}}))
    found = rows.read(record)
    assert np.array_equal(found.labels, labels) and np.array_equal(found.groups, np.arange(300) // 2 + 70_000)
    assert np.array_equal(found.arg_max, shares >= 0.5 if several else shares.argmax(axis=1))
    exact = np.clip(np.log(shares) - np.log1p(-shares), -12, 12)
    assert np.abs(found.scores - exact).max() <= 12 / 255 + 1e-3  # half a level
    assert rows.read_attributes(record).iloc[:3].to_dict('list') == {'sex': ['f', 'm', ''], 'age': ['30', '', '71']}


def test_two_thousand_rows_take_some_ten_kilobytes():
    generator = np.random.default_rng(0)
    odds = generator.normal(0, 3, (2000, 7))
    odds[np.arange(2000), np.arange(2000) % 7] += 4
    shares = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    section = rows.write(np.arange(2000) % 7, np.sort(generator.integers(0, 1500, 2000)), shares)
    assert len(json.dumps(section)) < 24_000


def test_a_packed_array_that_is_spoilt_is_refused():
    text = packed.pack(np.arange(10, dtype=np.uint16))
    assert np.array_equal(packed.unpack(text, np.uint16, (2, 5)), np.arange(10).reshape(2, 5))
    assert np.array_equal(packed.unpack(text, np.uint16, (2, -1)), np.arange(10).reshape(2, 5))
    for spoilt, shape in ((text[:-8], (10,)), (text, (11,)), ('!' + text, (10,))):
        with pytest.raises(BadInput, match='cannot be read'):
            packed.unpack(spoilt, np.uint16, shape)


def closed_form(width: int, tokens: int, blocks: int, classes: int, patch: int, hidden: int) -> int:
    """Operations of a ViT's forward pass for one image, two a multiplication: products alone."""
    block = 4 * width**2 * tokens + 2 * tokens**2 * width + 2 * width * hidden * tokens
    return 2 * ((tokens - 1) * 3 * patch**2 * width + blocks * block + width * classes)


def test_operations_are_those_of_the_closed_form_on_a_vit_of_two_blocks():
    import timm

    from medpeft_utils import methods
    from medpeft_utils.training import cost

    shape = {'img_size': 32, 'patch_size': 8, 'embed_dim': 48, 'depth': 2, 'num_heads': 3, 'num_classes': 5}
    expected = closed_form(width=48, tokens=17, blocks=2, classes=5, patch=8, hidden=192)
    counted = {}
    for key in ('full_ft', 'linear_probing', 'lora'):
        model = timm.create_model('vit_tiny_patch16_224', **shape)
        adapted = methods.apply(model, key, 'vit')
        counted[key] = cost.flops(adapted, 32, torch.device('cpu'))
        assert model.blocks[0].attn.fused_attn and all(p.grad is None for p in model.parameters())
    assert counted['full_ft']['forward_flops'] == expected
    images = 2 * 16 * 3 * 64 * 48  # no gradient is asked for of the input
    assert counted['full_ft']['step_flops'] == 3 * expected - images
    assert counted['linear_probing']['step_flops'] == expected + 2 * 48 * 5  # of the head's weight alone
    assert expected < counted['lora']['forward_flops'] < 1.2 * expected
    assert counted['lora']['step_flops'] < 0.8 * counted['full_ft']['step_flops']


def test_operations_of_a_step_leave_out_what_frozen_parts_do_not_need():
    import timm

    from medpeft_utils import methods
    from medpeft_utils.training import cost

    shape = {'img_size': 32, 'patch_size': 8, 'embed_dim': 48, 'depth': 2, 'num_heads': 3, 'num_classes': 5}
    linear, attention, head = 2 * 17 * (4 * 48**2 + 2 * 48 * 192), 4 * 17**2 * 48, 2 * 48 * 5
    forward = closed_form(width=48, tokens=17, blocks=2, classes=5, patch=8, hidden=192)
    for key, config, backward in (
        ('last_blocks', {'blocks': 1}, 2 * (linear + attention) + 2 * head),  # gradients end at its first norm
        ('bias_tuning', {}, 2 * linear + 4 * attention + 2 * head),  # no frozen matrix has a gradient of its own
    ):
        adapted = methods.apply(timm.create_model('vit_tiny_patch16_224', **shape), key, 'vit', config)
        assert cost.flops(adapted, 32, torch.device('cpu'))['step_flops'] == forward + backward


# ---- a training that goes on after a kill


def small_task(backbone: str = 'vit_base_mini', method: str = 'lora', config: dict | None = None) -> Classifying:
    """24 random images for training, 8 for validation, of three classes; every call gives the same."""
    from medpeft_utils import backbones, methods

    family = backbones.family_of(backbone)
    adapted = methods.apply(backbones.build(backbone, 3, 32, drop_path=0.1), method, family, config)
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
    view = View(32, (0.5,) * 3, (0.5,) * 3, aug.Augmentation(), PLAIN, torch.device('cpu'))
    parts = (ImageBatches(images, np.arange(32) % 3, rows, 3, view) for rows in (np.arange(24), np.arange(24, 32)))
    return Classifying(adapted, *parts)


def outcome(task: Classifying, config: TrainingConfig, **more) -> tuple[list[dict], dict[str, torch.Tensor]]:
    curve = fit(task, config, quiet=True, **more).curve
    return curve, {name: tensor.clone() for name, tensor in task.adapted.model.state_dict().items()}


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    ('backbone', 'method', 'options'),
    [
        ('vit_base_mini', 'lora', {'config': {'dropout': 0.2}}),
        ('resnet50_mini', 'full_ft', {}),
        ('resnet50_mini', 'full_ft', {'optimizer_name': 'sgd'}),
    ],
)
def test_an_ended_training_goes_on_to_the_same_bits(tmp_path, backbone, method, options, number):
    """Killed, it has the checkpoint of the last step; told to end, it writes one after the step that is on."""
    config = TrainingConfig(1e-2, **options) if 'config' not in options else TrainingConfig(1e-2)
    config = dataclasses.replace(config, min_steps=10, max_steps=10, batch_size=8, evaluations=3)
    checkpoint, applied = tmp_path / 'checkpoint.safetensors', options.get('config')
    wanted = outcome(small_task(backbone, method, applied), config)
    at = random.randrange(1, 9)  # between two evaluations, the second is selected so far or not

    def doomed() -> None:
        task = small_task(backbone, method, applied)
        whole, steps = task.batch, iter(range(100))

        def batch(rows, generator):
            if next(steps) == at:
                os.kill(os.getpid(), number)
            return whole(rows, generator)

        task.batch = batch
        seconds = 0 if number == signal.SIGKILL else 1e9
        fit(task, config, quiet=True, checkpoint=checkpoint, checkpoint_seconds=seconds)

    process = multiprocessing.get_context('fork').Process(target=doomed)
    process.start()
    process.join()
    assert process.exitcode == -number and checkpoint.is_file()
    seen, task = [], small_task(backbone, method, applied)
    first = task.batch
    task.batch = lambda rows, generator: seen.append(1) or first(rows, generator)
    curve, state = outcome(task, config, checkpoint=checkpoint)
    assert len(seen) == 10 - at - (number == signal.SIGTERM), f'ended at step {at}'
    assert curve == wanted[0], f'ended at step {at}'
    assert all(torch.equal(state[name], tensor) for name, tensor in wanted[1].items())


def test_a_checkpoint_of_another_training_is_refused_and_a_broken_one_starts_over(tmp_path):
    path = tmp_path / 'checkpoint.safetensors'
    config = TrainingConfig(1e-2, min_steps=3, max_steps=3, batch_size=8, evaluations=1)
    wanted = outcome(small_task(), config, checkpoint=path, checkpoint_seconds=0)
    with pytest.raises(BadInput, match='delete it'):
        fit(small_task(), dataclasses.replace(config, learning_rate=1e-3), quiet=True, checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    assert outcome(small_task(), config, checkpoint=path)[0] == wanted[0]


def test_no_weight_decay_on_vectors_tokens_and_positions_and_a_rate_of_its_own_for_the_head():
    adapted = small_task(method='full_ft').adapted
    groups = TrainingConfig(1e-3, head_learning_rate=1e-2).optimizer(adapted).param_groups
    of = {id(p): (group['weight_decay'], round(group['scale'], 6)) for group in groups for p in group['params']}
    found = {name: of[id(parameter)] for name, parameter in adapted.model.named_parameters()}
    assert len(found) == len(adapted.trainable())
    assert {found['pos_embed'], found['cls_token'], found['norm.weight'], found['blocks.0.attn.qkv.bias']} == {(0, 1)}
    assert found['blocks.0.attn.qkv.weight'] == found['patch_embed.proj.weight'] == (0.01, 1)
    assert (found['head.weight'], found['head.bias']) == ((0.01, 10), (0, 10))


# ---- the converged linear probe


def blobs(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, 6] of three overlapping classes, on very different scales; labels [n]."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    x = generator.normal(size=(n, 6)) + np.eye(3).repeat(2, axis=1)[labels]
    return (x * [1, 10, 0.1, 1, 5, 1] + [0, 3, 0, -40, 0, 0]).astype(np.float32), labels


@pytest.mark.parametrize('weighted', [False, True])
def test_the_converged_probe_is_scikit_learns(weighted):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = blobs()
    y = np.where(np.arange(len(y)) % 4 == 0, 0, y)  # unequal classes
    held_out = blobs(60, seed=1)
    found = probe.converge((x, y), held_out, 3, SINGLE_LABEL, weighted, strengths=(0.1,))
    scaler = StandardScaler().fit(x.astype(float))
    theirs = LogisticRegression(C=0.1, tol=1e-9, max_iter=5000, class_weight='balanced' if weighted else None)
    theirs.fit(scaler.transform(x), y)
    ours = torch.from_numpy(held_out[0] @ found['weight'].T + found['bias']).softmax(dim=1).numpy()
    assert np.allclose(ours, theirs.predict_proba(scaler.transform(held_out[0])), atol=1e-4)


def test_findings_are_probed_one_against_the_rest():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = blobs()
    findings = np.stack([y == 0, y != 1], axis=1).astype(np.uint8)
    found = probe.converge((x, findings), (x, findings), 2, MULTI_LABEL, strengths=(0.5,))
    scaled = StandardScaler().fit_transform(x.astype(float))
    for k in range(2):
        theirs = LogisticRegression(C=0.5, tol=1e-9, max_iter=5000).fit(scaled, findings[:, k])
        ours = 1 / (1 + np.exp(-(x @ found['weight'][k] + found['bias'][k])))
        assert np.allclose(ours, theirs.predict_proba(scaled)[:, 1], atol=1e-4)


def test_the_strength_of_the_probe_is_chosen_on_validation_and_an_edge_is_named():
    train, held_out = blobs(30), blobs(300, seed=1)
    found = probe.converge(train, held_out, 3, SINGLE_LABEL)
    scores = [(row['validation_f1_macro'], -row['validation_loss']) for row in found['curve']]
    assert found['best'] == scores.index(max(scores)) and found['C'] == found['curve'][found['best']]['C']
    assert probe.converge(train, held_out, 3, SINGLE_LABEL, strengths=(1e-6, 1e-5, 1e-4))['edge'] in ('low', 'high')


def test_linear_probing_is_the_network_with_the_converged_head(folder, tmp_path):
    made = run(folder, tmp_path, method='linear_probing')
    assert made.choose_learning_rate(tmp_path)['how'] == 'converged' and made.augmentation == 'none'
    result = made.train(quiet=True)
    features, rows = made._features(), made.rows('validation')
    found = probe.converge(*((features[r], made.data.labels[r]) for r in (made.rows('train'), rows)), 2, SINGLE_LABEL)
    expected = torch.from_numpy(features[rows] @ found['weight'].T + found['bias']).softmax(dim=1).numpy()
    assert np.allclose(result.validation, expected, atol=1e-4)
    assert np.allclose(predict(made.adapted, made.batches(rows)), result.validation)
    assert made.learning_rate['C'] == found['C']
    assert made.evaluate()['test']['accuracy'] > 0.8


def test_a_head_that_starts_from_the_probe_predicts_like_it(folder, tmp_path):
    probed = run(folder, tmp_path, method='linear_probing')
    probed.train(quiet=True)
    other = run(folder, tmp_path, method='lora', head='probe', learning_rate=1e-12, head_learning_rate=1e-12)
    other.train(quiet=True)
    assert np.allclose(other.result.validation, probed.result.validation, atol=1e-4)
    again = run(folder, tmp_path, method='lora', learning_rate=1e-12, head_learning_rate=1e-12)
    again.train(quiet=True)
    assert not np.allclose(again.result.validation, probed.result.validation, atol=1e-2)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('deit_tiny_distilled_patch16_224', {'img_size': 32, 'depth': 2}),  # two heads, and two features
        ('vit_small_patch14_dinov2', {'img_size': 28, 'depth': 2}),
        ('swin_tiny_patch4_window7_224', {'img_size': 64, 'window_size': 2}),
        ('convnext_atto', {}),
        ('tf_efficientnet_lite0', {}),
        ('resnet18', {}),
    ],
)
def test_a_probe_over_extracted_features_is_the_network_with_that_head(name, options):
    import timm

    torch.manual_seed(0)
    model, size = timm.create_model(name, num_classes=3, **options).eval(), options.get('img_size', 64)
    view = View(size, (0.5,) * 3, (0.5,) * 3, aug.Augmentation(), PLAIN, torch.device('cpu'))
    features = probe.extract(model, picture(3, size).numpy(), view)
    weight, bias = torch.randn(3, features.shape[1]), torch.randn(3)
    probe.place(model, weight.numpy(), bias.numpy())
    with torch.no_grad():
        logits = model(aug.normalise(picture(3, size), HALF, HALF))
    assert torch.allclose(logits, torch.from_numpy(features) @ weight.T + bias, rtol=1e-4, atol=1e-3)


def test_a_head_that_is_not_linear_is_refused():
    import timm

    with pytest.raises(DoesNotFit, match='not linear from 384 features'):
        probe.place(timm.create_model('levit_128s', num_classes=3), np.zeros((3, 384)), np.zeros(3))


def test_features_can_be_averaged_over_augmented_copies():
    model = torch.nn.Module()
    model.forward_features, model.forward_head = (lambda x: x), (lambda x, pre_logits: x.mean(dim=(2, 3)))
    policy = dataclasses.replace(aug.NONE, brightness=0.3)
    view = View(16, (0.0,) * 3, (1.0,) * 3, policy, PLAIN, torch.device('cpu'))
    images = np.full((200, 16, 16, 3), 128, dtype=np.uint8)
    once, often = (probe.extract(model, images, view, copies)[:, 0] for copies in (1, 16))
    assert probe.extract(model, images, view)[:, 0] == pytest.approx(128 / 255)
    assert often.std() == pytest.approx(once.std() / 4, rel=0.2)  # a mean of 16 draws


def test_features_are_computed_once_and_shared(folder, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from medpeft_utils import backbones

    weights = tmp_path / 'weights.safetensors'
    save_file(backbones.build('vit_base_mini', seed=5).state_dict(), weights)
    first = run(folder, tmp_path, method='linear_probing', weights=str(weights))._features().copy()
    monkeypatch.setattr(probe, 'extract', lambda *_, **__: pytest.fail('computed again'))
    again = run(folder, tmp_path, method='linear_probing', weights=str(weights), seed=3)
    assert np.array_equal(again._features(), first)


def test_runs_on_the_same_rows_share_one_probe_and_others_have_their_own(folder, tmp_path, monkeypatch):
    made = run(folder, tmp_path, method='linear_probing')
    found = made._probe(made.rows('train'))
    direct = probe.converge(
        *((made._features()[r], made.data.labels[r]) for r in (made.rows('train'), made.rows('validation'))),
        *(2, SINGLE_LABEL),
    )
    assert np.array_equal(found['weight'], direct['weight']) and np.array_equal(found['bias'], direct['bias'])
    monkeypatch.setattr(probe, 'converge', lambda *_: pytest.fail('computed again'))
    assert np.array_equal(made._probe(made.rows('train'))['weight'], found['weight'])
    with pytest.raises(pytest.fail.Exception, match='computed again'):
        made._probe(made.rows('train')[1:])


def test_a_loss_that_is_not_finite_stops_the_run_with_the_way_out(folder, tmp_path):
    made = run(folder, tmp_path, method='full_ft', learning_rate=1e30)
    with pytest.raises(Diverged, match=r'lower learning_rate \(now 1e\+30\)'):
        made.train(quiet=True)


# ---- rates


def test_search_is_shared_over_seeds_and_given_or_default_rates_need_none(folder, tmp_path, monkeypatch):
    first = run(folder, tmp_path, search_trials=2, seed=0).choose_learning_rate(tmp_path / 's')
    assert first['how'] == 'searched' and first['value'] == first['centre']  # the first trial is the centre
    assert [set(row) for row in first['trials']] == [{'learning_rate', 'head_learning_rate', 'score', 'pruned'}] * 2
    other = run(folder, tmp_path, search_trials=2, seed=7)
    other.trial = lambda *_: pytest.fail('searched again')
    assert other.choose_learning_rate(tmp_path / 's') == first
    monkeypatch.setattr(Code, 'version', lambda *_: 'other code')
    with pytest.raises(pytest.fail.Exception, match='searched again'):
        other.choose_learning_rate(tmp_path / 's')
    given = run(folder, tmp_path, learning_rate=0.5, search_trials=2).choose_learning_rate(tmp_path / 'g')
    assert given['value'] == 0.5 and all('learning_rate' not in row for row in given['trials'])  # the head's alone
    given = run(folder, tmp_path, learning_rate=0.5, head_learning_rate=0.25, search_trials=2).choose_learning_rate()
    assert (given['value'], given['head_value'], given['how'], given['trials']) == (0.5, 0.25, 'given', [])
    default = run(folder, tmp_path).choose_learning_rate()
    assert (default['how'], default['value'], default['head_value']) == ('default', 1e-2, 1e-2)  # 1e-3, small backbone


def test_a_tied_head_has_the_rate_of_the_body(folder, tmp_path):
    made = run(folder, tmp_path, method='full_ft', head='tied', search_trials=2)
    chosen = made.choose_learning_rate(tmp_path / 's')
    assert chosen['head_value'] == chosen['value'] and chosen['head_centre'] is None
    assert {group['scale'] for group in made.training_config(made.rates).optimizer(made.adapted).param_groups} == {1}


def peak(at: dict[str, float], diverges_above: float = math.inf):
    """A score that is best at these rates and a tenth lower for every decade away; four evaluations."""

    def score(rates, tell) -> float:
        if rates['learning_rate'] > diverges_above:
            raise Diverged('too high')
        value = 1 - sum(abs(math.log10(rates[name] / best)) / 10 for name, best in at.items())
        for evaluation in range(1, 5):
            tell(evaluation, value * evaluation / 4)
        return value

    return score


def test_search_finds_a_maximum_and_survives_divergence():
    found = search(peak({'learning_rate': 10**-3.5}, diverges_above=2e-3), {'learning_rate': 1e-3}, trials=16)
    assert abs(math.log10(found['values']['learning_rate']) + 3.5) < 0.3 and found['edge'] == {}
    assert {row['score'] for row in found['trials'] if row['learning_rate'] > 2e-3} == {None}
    assert all(1e-3 / 30 <= row['learning_rate'] <= 1e-3 * 30 for row in found['trials'])
    with pytest.raises(BadInput, match='diverged at all 3 rates'):
        search(peak({}, diverges_above=0), {'learning_rate': 1e-3}, 3)


def test_search_takes_both_rates_and_ends_hopeless_trials_early():
    centres = {'learning_rate': 1e-3, 'head_learning_rate': 1e-3}
    found = search(peak({'learning_rate': 3e-4, 'head_learning_rate': 1e-2}), centres, trials=24)
    assert len(found['trials']) == 24
    assert abs(math.log10(found['values']['learning_rate'] / 3e-4)) < 0.5
    assert abs(math.log10(found['values']['head_learning_rate'] / 1e-2)) < 0.5
    pruned = [row['score'] for row in found['trials'] if row['pruned']]
    assert pruned and max(pruned) < max(row['score'] for row in found['trials'])


def test_an_ended_search_goes_on_to_the_same_end(tmp_path):
    """It is ended at every step of twelve trials, some of which diverge or are pruned."""
    trained: list[tuple[float, int]] = []

    def rows(rates):
        yield from (
            {'step': step, 'score': -abs(math.log10(rates['learning_rate']) + 3) + step / 10} for step in (1, 2, 3, 4)
        )

    def attempt(doomed: int) -> dict:
        trials = Trials(tmp_path / 'x.trials', lambda row: row['score'])

        def train(rates, report, checkpoint):
            done = int(checkpoint.read_text()) if checkpoint.is_file() else 0
            for row in list(rows(rates))[done:]:
                if rates['learning_rate'] > 1e-2:
                    raise Diverged('too high')
                trained.append((rates['learning_rate'], row['step']))
                if len(trained) == doomed and doomed % 2:
                    raise KeyboardInterrupt
                report(row)
                if len(trained) == doomed:
                    raise KeyboardInterrupt
                checkpoint.write_text(str(row['step']))

        found = search(
            lambda rates, tell: trials.score_at(rates, lambda *how: train(rates, *how), tell),
            {'learning_rate': 1e-3},
            12,
        )
        assert trials.seconds > 0
        trials.remove()
        return found

    wanted, whole = attempt(0), list(trained)
    assert not list(tmp_path.iterdir()) and any(row['pruned'] for row in wanted['trials'])
    assert any(row['score'] is None for row in wanted['trials'])
    for doomed in range(1, len(whole) - 1):
        trained.clear()
        try:
            again = attempt(doomed)  # a trial that is pruned at that step is not interrupted
        except KeyboardInterrupt:
            again = attempt(0)
        assert again == wanted and list(dict.fromkeys(trained)) == whole and len(trained) <= len(whole) + 1, doomed


def test_a_best_rate_at_an_edge_widens_the_range_and_one_that_stays_there_is_named():
    beyond = search(peak({'learning_rate': 1e-3 * 150}), {'learning_rate': 1e-3}, trials=16)
    assert beyond['values']['learning_rate'] > 1e-3 * 30 and beyond['edge'] == {}
    assert len(beyond['trials']) == 16  # no more than where nothing was widened
    far = search(peak({'learning_rate': 10.0}), {'learning_rate': 1e-3}, trials=40)
    assert far['edge'] == {'learning_rate': 'high'} or far['values']['learning_rate'] < 0.45
    low = search(peak({'learning_rate': 1e-9}), {'learning_rate': 1e-3}, trials=3)  # too few to widen
    assert low['edge'] in ({}, {'learning_rate': 'low'})


def test_schedule_warms_up_linearly_and_ends_near_zero():
    config = TrainingConfig(learning_rate=1.0, warmup_fraction=0.1)
    rates = [config.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize(('images', 'steps'), [(75, 100), (640, 200), (7511, 300), (10, 100)])
def test_steps_follow_epochs_within_their_bounds(images, steps):
    assert TrainingConfig(1.0, epochs=20, min_steps=100, max_steps=300, batch_size=64).steps(images) == steps


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
        ({'head': 'ties'}, UnknownName, "did you mean 'tied'"),
        ({'head': 'tied', 'head_learning_rate': 0.1}, BadInput, "head='tied'"),
        ({'folds': 1}, BadInput, 'folds=1'),
        ({'method': 'lorra'}, UnknownName, "did you mean 'lora'"),
        ({'backbone': 'vit_base'}, UnknownName, 'vit_base_mini'),
        ({'method': 'tsa'}, DoesNotFit, "'tsa' does not fit backbone 'vit_base_mini'"),
        ({'method_config': '{rank: 4}'}, BadInput, 'method_config'),
        ({'backbone': 'resnet50_mini', 'method': 'ssf', 'batch_size': 1}, BadInput, 'BatchNorm .* needs 2 images'),
        ({'backbone': 'resnet50_mini', 'method': 'ssf', 'image_size': 31}, DoesNotFit, '31 px are too few'),
        ({'method': 'vpt_deep', 'method_config': '{"dropout": 5}'}, BadInput, "'dropout' .* must be below 1"),
        ({'method': 'fourierft', 'method_config': '{"frequencies": 60000}'}, DoesNotFit, 'frequencies.* does not fit'),
        ({'method_config': '{"rnk": 4}'}, BadInput, "did you mean 'rank'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_anything_is_loaded(folder, changes, error, words):
    with pytest.raises(error, match=words):
        settings(folder, **changes).check()


@pytest.mark.parametrize('weights', ['', 'Pretrained', '/nowhere/w.pth', '.'])
def test_weights_that_are_not_there_are_refused_with_the_parameters(weights):
    named = {'dataset': 'synthetic_breastus', 'backbone': 'vit_base_mini', 'method': 'lora', 'weights': weights}
    with pytest.raises(BadInput, match='weights='):
        Settings.of(named)
    assert Settings.planned(named).weights == weights, 'a grid may be planned before its weights are fetched'


def test_images_are_stored_a_little_larger_than_the_input():
    assert [stored_size(size) for size in (48, 64, 224)] == [64, 64, 256]


def test_missing_weights_and_parts_are_said_before_images_are_read(folder, tmp_path, monkeypatch):
    from medpeft_utils import data

    monkeypatch.setattr(data, 'load', lambda *_, **__: pytest.fail('images were read'))
    monkeypatch.setenv('MEDPEFT_WEIGHTS', str(tmp_path))
    with pytest.raises(BadInput, match=r'MEDPEFT_WEIGHTS as vit_tiny_patch16_224\.safetensors'):
        Classification(settings(folder, backbone='vit_tiny_patch16_224', weights='pretrained'), cache=tmp_path)
    with pytest.raises(DoesNotFit, match="'bn_tuning' does not fit backbone 'convnext_atto'"):
        Classification(settings(folder, backbone='convnext_atto', method='bn_tuning'), cache=tmp_path)


@pytest.mark.skipif('MEDPEFT_WEIGHTS' not in os.environ, reason='MEDPEFT_WEIGHTS names no folder of published weights')
@pytest.mark.parametrize('backbone', ['vit_small_patch14_dinov2:2', 'tf_efficientnet_lite0'])
def test_published_networks_train_on_images_of_ones_own(folder, tmp_path, backbone):
    few = {'min_steps': 2, 'max_steps': 2, 'evaluations': 1, 'fraction': 0.3}
    made = run(folder, tmp_path, backbone=backbone, method='ssf', weights='pretrained', image_size=56, **few)
    made.train(quiet=True)
    assert 0 <= made.evaluate()['test']['accuracy'] <= 1
    assert made.backbone.source.startswith('weights file')
