"""The bench: plain forms equal the package's methods, aims are judged by what is measured, a small run of the whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig
from tiny_backbones import BUILDERS, FAMILIES, backbone, output, perturb
from torch import nn
from torch.nn import functional as F

from benchmarks import aims, device, run, studies, tables
from benchmarks.commands import bench as command
from benchmarks.plain import PLAIN, has_plain, plain_model
from benchmarks.rounds import Broken, Timed, alternate, ratio
from benchmarks.scale import PARTS, scale_for
from medpeft_utils import methods
from medpeft_utils.methods import METHODS, lora, ssf
from medpeft_utils.report import paper
from medpeft_utils.training import augment as aug
from medpeft_utils.training.precision import Precision, candidates, choose

CPU = {'device': 'A CPU', 'kind': 'cpu', 'cpu': 'A CPU', 'cores': 2, 'amx': False, 'date': '2026-01-01', 'versions': {}}


# ---- what is compared


@pytest.mark.parametrize('name', ['vit', 'bottleneck'])
@pytest.mark.parametrize('key', [*PLAIN, 'lora'])
def test_a_plain_form_trains_and_computes_the_same_as_the_packages_method(name: str, key: str):
    if key not in methods.names(FAMILIES[name]):
        pytest.skip('of the other family')
    ours = perturb(methods.apply(backbone(name), key, FAMILIES[name])).train()
    plain = plain_model(backbone(name), key, FAMILIES[name]).train(ours.model.training)
    theirs = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    assert [p.shape for p in theirs] == [p.shape for p in ours.trainable().values()]
    with torch.no_grad():
        for mine, its in zip(ours.trainable().values(), theirs, strict=True):
            its.copy_(mine)
    if key == 'linear_probing':  # the package keeps BatchNorm's statistics there
        plain.eval()
    torch.testing.assert_close(output(plain), output(ours.model), rtol=1e-4, atol=1e-5)


def test_every_method_of_the_papers_tables_has_a_plain_form():
    of_paper = {key for key in METHODS if set(METHODS[key].labels.values()) & {*paper.CNN_METHODS, *paper.VIT_METHODS}}
    assert {key for key in of_paper if not has_plain(key)} == set()


def test_ratios_are_taken_within_rounds():
    """A machine that is four times slower in the second of three rounds changes no ratio."""
    slow, fast = Timed([2.0, 8.0, 2.2]), Timed([1.0, 4.0, 1.1])
    assert ratio(slow, fast) == pytest.approx(2.0)
    assert ratio(slow, Timed(error='out of memory')) is None


# ---- aims


def step_row(**changes) -> dict:
    row = {'label': 'LoRA', 'backbone': 'net', 'family': 'vit', 'method': 'lora', 'kind': 'additive'}
    return row | {'speedup_over_plain': 3.1, 'speed_of_best': 0.9, 'time_of_full_ft': 0.75} | changes


def test_aims_are_met_or_not_by_what_is_measured():
    parts = {
        'steps': [step_row(), step_row(method='linear_probing', kind='baseline')],
        'startup': {'forked_seconds_with_runner': 1.2},
        'loader': [{'image_size': 224, 'images_per_second': 1600.0, 'threads': 2}],
        'scaling': {'ratio': 1.79},
        'memory': {'error': 'the runs ended'},
    }
    judged = aims.judge(parts, CPU)
    assert [(aim.part, aim.met) for aim in judged] == [
        ('steps', True),
        ('steps', False),
        ('steps', True),
        ('steps', True),  # a baseline has no aim against full FT
        ('steps', False),
        ('startup', False),
        ('loader', True),
        ('scaling', False),
    ]
    assert 'this one has none' in judged[0].remark  # a CPU without AMX
    assert aims.judge({'steps': [step_row()]}, CPU | {'amx': True})[0].remark == ''
    assert aims.judge({'steps': [step_row(speedup_over_plain=None)]}, CPU)[0].met is None


def test_the_gain_over_plain_code_on_a_gpu_has_no_aim():
    quantities = [aim.quantity for aim in aims.judge({'steps': [step_row()]}, CPU | {'kind': 'cuda'})]
    assert len(quantities) == 2
    assert not any('plain' in quantity for quantity in quantities)


# ---- the command


def test_a_small_bench_of_steps_and_loader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = ['--quick', '--rounds', '1', '--batch-size', '2', '--method', 'linear_probing', '--method', 'lora']
    options = ['--only', 'steps', '--only', 'loader', '--device', 'cpu', '--json', 'bench.json', '--save']
    done = CliRunner().invoke(command, [*wanted, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / 'bench.json').read_text())
    rows = {(row['method'], row['family']): row for row in found['parts']['steps']}
    assert set(rows) == {(key, family) for key in ('linear_probing', 'lora') for family in ('vit', 'cnn')}
    for row in rows.values():
        for name in ('ours', 'plain', 'best', 'full_ft'):
            assert row[name]['images_per_second'] > 0, row
            assert row[name]['peak_memory_mb'] > 0
        assert row['speedup_over_plain'] == pytest.approx(row['plain']['seconds'][0] / row['ours']['seconds'][0], 1e-2)
    assert rows['linear_probing', 'vit']['time_of_full_ft'] < 0.5  # a head beside a network
    assert [row['images_per_second'] > 0 for row in found['parts']['loader']] == [True, True]
    assert {aim['part'] for aim in found['aims']} == {'steps', 'loader'}
    saved = sorted((tmp_path / 'figures' / 'bench').iterdir())
    assert [path.suffix for path in saved] == ['.json', '.md', '.pdf', '.png']
    assert json.loads(saved[0].read_text()) == found
    assert saved[1].read_text() in done.output
    assert 'LoRA on vit_base_mini' in saved[1].read_text()
    assert all(path.stem.endswith('-quick') and path.stat().st_size > 1000 for path in saved)


def test_what_a_stopped_bench_has_measured_is_kept_and_the_rest_is_added(tmp_path, monkeypatch):
    calls = []
    seconds = 'forked_seconds', 'forked_seconds_with_runner', 'once_a_study_seconds', 'plain_seconds'
    answers = {
        'startup': dict.fromkeys(seconds, 0.5),
        'loader': [{'image_size': 64, 'images_per_second': 6000.0, 'threads': 2}],
        'scaling': {'runs': 2, 'runs_per_minute': {'1': 2.0, '2': 3.8}, 'ratio': 1.9},
    }
    for part, answer in answers.items():
        monkeypatch.setitem(run.MEASURES, part, lambda *_, part=part, answer=answer: calls.append(part) or answer)
    monkeypatch.chdir(tmp_path)
    options = [word for part in answers for word in ('--only', part)] + ['--device', 'cpu', '--save']

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(run.MEASURES, 'loader', stopped)
        assert CliRunner().invoke(command, options).exit_code != 0
    (path,) = (tmp_path / 'figures' / 'bench').glob('*.json')
    assert list(json.loads(path.read_text())['parts']) == calls == ['startup']

    done = CliRunner().invoke(command, [*options, '--missing', '--rounds', '2'], catch_exceptions=False)
    assert done.exit_code == 0 and calls == ['startup', 'loader', 'scaling']
    found = json.loads(path.read_text())
    assert list(found['parts']) == list(found['measured']) == calls and len(found['aims']) == 3
    assert [found['measured'][part]['scale']['rounds'] for part in calls] == [7, 2, 2]
    assert path.with_suffix('.md').read_text().count('minutes.') == 3  # by which command, when, how long


def test_a_candidate_that_breaks_is_told_and_the_others_go_on(tmp_path):
    spec = {'device': 'cpu', 'threads': 1, 'image_size': 32, 'batch_size': 2, 'candidate': 'loader'}
    np.save(tmp_path / 'pack.npy', np.zeros((4, 32, 32, 3), np.uint8))
    specs = {'whole': spec | {'pack': f'{tmp_path}/pack.npy'}, 'missing': spec | {'pack': 'none.npy'}}
    timed = alternate(specs, rounds=2, steps=1)
    assert len(timed['whole'].seconds) == 2
    assert 'FileNotFoundError' in timed['missing'].error
    assert timed['missing'].median is None


def test_runs_of_a_study_are_read_from_its_events():
    with studies.project() as root:
        few = studies.execute(root, 'few', 'trivial', 2, watch=True)
        assert len(few.runs) == 2
        assert 0 < max(few.runs) <= few.seconds
        assert few.ready > 0
        assert max(held for _, held in few.memory) > 100  # MB: torch is imported in what kernels are forked from
        with pytest.raises(Broken, match=r'exit code 2: .*absent'):
            studies.execute(root, 'wrong', 'absent', 1)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--only', 'stepz'], "did you mean 'steps'"),
        (['--method', 'lorra'], "did you mean 'lora'"),
        (['--method', 'lora', '--save'], 'leave --method out'),
        (['--missing'], 'give both'),
        pytest.param(
            ['--device', 'cuda'],
            'torch finds no GPU',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='there is one'),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(options: list[str], words: str):
    done = CliRunner().invoke(command, options)
    assert words in str(done.exception)


def test_a_part_that_breaks_leaves_the_others(monkeypatch):
    def broken(scale, say):
        raise Broken('medpeft run ended with exit code 1')

    monkeypatch.setitem(run.MEASURES, 'startup', broken)
    monkeypatch.setitem(run.MEASURES, 'scaling', lambda scale, say: {'runs': 2, 'runs_per_minute': {}, 'ratio': 1.9})
    text = tables.render(run.bench(scale_for('cpu'), ['startup', 'scaling']))
    assert 'not measured: medpeft run ended with exit code 1' in text
    assert '1 of 1 aims are met' in text


def test_the_scale_of_a_device():
    assert scale_for('cuda').batch_size == 128
    assert scale_for('cuda').backbones[0] == ('vit', 'vit_base_patch16_224')
    assert scale_for('cpu', quick=True, rounds=5, batch_size=None).rounds == 5
    assert set(run.MEASURES) == set(aims.JUDGES) == set(tables.SHOWN) == set(PARTS)


def test_a_device_is_described_and_names_a_file():
    about = device.describe('cpu', 1)
    assert about['cores'] >= 1
    assert torch.__version__.startswith(about['versions']['torch'].partition('+')[0])
    assert (
        device.slug(CPU | {'device': 'Intel(R) Xeon(R) Processor', 'amx': True}) == 'intel-xeon-processor-2-cores-amx'
    )
    assert device.slug(CPU | {'device': 'NVIDIA H200', 'kind': 'cuda'}) == 'nvidia-h200'
    assert 'without AMX' in device.sentence(CPU)


# ---- what the bench made faster


def test_ssf_folded_into_a_product_has_the_gradients_of_its_equation():
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, scale, shift = (
        torch.randn(shape, generator=generator, dtype=torch.double) for shape in [(2, 3, 5), (4, 5), (4,), (4,), (4,)]
    )
    for tensor in (x, scale, shift):
        tensor.requires_grad_()
    torch.testing.assert_close(
        ssf.FoldedLinear.apply(x, weight, bias, scale, shift), scale * F.linear(x, weight, bias) + shift
    )
    assert torch.autograd.gradcheck(ssf.FoldedLinear.apply, (x, weight, bias, scale, shift))


@pytest.mark.parametrize('smallest', [0.0, 0.5])
def test_ssf_has_the_right_gradients_at_a_scale_of_zero_too(smallest: float):
    torch.manual_seed(0)
    base, x = nn.Linear(5, 4).requires_grad_(False), torch.randn(2, 3, 5)
    layer = ssf.ScaledOutput(base, ssf.SSFConfig(start='normal'))
    layer.scale.data[1] = smallest
    assert layer._folds(x) == (smallest > 0)
    layer(x).square().sum().backward()
    scale, shift = (p.detach().clone().requires_grad_() for p in (layer.scale, layer.shift))
    (base(x) * scale + shift).square().sum().backward()
    torch.testing.assert_close(layer.scale.grad, scale.grad)
    torch.testing.assert_close(layer.shift.grad, shift.grad)


def test_lora_folded_into_a_product_has_the_gradients_of_its_equation():
    """Hu et al. 2022, Eq. 3."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, a, b = (
        torch.randn(shape, generator=generator, dtype=torch.double)
        for shape in [(2, 3, 5), (4, 5), (4,), (2, 5), (4, 2)]
    )
    for tensor in (x, a, b):
        tensor.requires_grad_()
    want = F.linear(x, weight, bias) + 0.5 * x @ a.T @ b.T
    torch.testing.assert_close(lora.FoldedUpdate.apply(x, weight, bias, a, b, 0.5), want)
    assert torch.autograd.gradcheck(lora.FoldedUpdate.apply, (x, weight, bias, a, b, 0.5))


@pytest.mark.parametrize(
    ('folds', 'config', 'tokens', 'autocast'),
    [
        (True, {}, 64, False),
        (True, {'use_rslora': True}, 64, False),
        (False, {}, 2, False),  # the weights are larger than the features
        (False, {'lora_dropout': 0.5}, 64, False),
        (False, {'use_dora': True}, 64, False),  # variants of peft compute something else
        (False, {'lora_bias': True}, 64, False),
        (False, {}, 64, True),  # half precision would round the update away
    ],
)
def test_lora_is_folded_where_that_is_exact_and_sooner(folds, config, tokens, autocast):
    model = nn.Sequential(nn.Linear(8, 12)).requires_grad_(False)
    lora.inject(model, LoraConfig(r=2, lora_alpha=16, target_modules=['0'], **config))
    nn.init.normal_(model[0].lora_B['default'].weight)
    x = torch.randn(1, tokens, 8, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        assert lora._folds(model[0], x) == folds
        torch.manual_seed(0)
        ours = model(x)
        torch.manual_seed(0)
        theirs = super(type(model[0]), model[0]).forward(x)  # peft's
    wanted = [x, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    for mine, its in zip(*(torch.autograd.grad(y.square().sum(), wanted) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), super(type(model[0]), model[0]).forward(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('rotate', [0.0, 180.0])
def test_augmentation_is_one_reflecting_sample_and_then_light(rotate: float, monkeypatch):
    """The formula written out for the whole batch; in pieces of two images as well."""
    policy, size = aug.Augmentation(rotate=rotate), 24
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8, generator=generator)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    got = aug.augment(images, size, mean, std, policy, torch.Generator().manual_seed(1))
    monkeypatch.setattr(aug, 'CACHED', 2 * 32 * 32 * 3)
    pieces = aug.augment(images, size, mean, std, policy, torch.Generator().manual_seed(1))
    torch.testing.assert_close(pieces, got, rtol=0, atol=1e-6)
    again = torch.Generator().manual_seed(1)
    grid = F.affine_grid(aug._affine(5, policy, again), [5, 3, size, size], align_corners=False)
    light, contrast = (1 + (torch.rand(5, generator=again) * 0.2 - 0.1).view(5, 1, 1, 1) for _ in range(2))
    x = F.grid_sample(images.permute(0, 3, 1, 2) / 255, grid, padding_mode='reflection', align_corners=False)
    grey = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (((x - grey) * contrast + grey) * light).clamp(0, 1)
    torch.testing.assert_close(got, (x - mean.view(3, 1, 1)) / std.view(3, 1, 1), rtol=0, atol=2e-4)


def test_the_fastest_way_that_was_measured_is_chosen(tmp_path):
    model = BUILDERS['vit']()
    found = choose('tiny', lambda: model, 'vit', 32, 4, torch.device('cpu'), tmp_path)
    timings = json.loads(next(tmp_path.glob('*.json')).read_text())['timings']
    fastest = min(timings, key=lambda row: row['seconds'])
    assert found == Precision(**{name: fastest[name] for name in ('bf16', 'fused_attention', 'channels_last')})
    ways = {(way.bf16, way.fused_attention) for way in candidates('vit')}
    assert ways == {(False, True), (False, False), (True, True), (True, False)}
