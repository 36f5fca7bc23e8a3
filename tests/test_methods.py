"""The contract of every method, over the registry: a new entry is tested by being there."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_backbones import (
    CASES,
    CLASSES,
    DEFAULTS,
    DEPTH,
    FAMILIES,
    Case,
    backbone,
    count,
    images,
    output,
    over,
    perturb,
    run,
    train,
)
from torch import nn

from medpeft_utils import methods
from medpeft_utils.core.errors import BadInput, DoesNotFit, MedpeftError, UnknownName
from medpeft_utils.methods.base import METHODS, head_names
from medpeft_utils.report import paper

HASH = '0123456789abcdef'
ONE_EACH = [case for case in DEFAULTS if case.backbone in ('vit', 'basic', 'unet')]  # every method of a family once


def batchnorm_buffers(model: nn.Module) -> set[str]:
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return {f'{name}.{leaf}' for name in norms for leaf in ('running_mean', 'running_var', 'num_batches_tracked')}


# --- the contract -----------------------------------------------------------------------------------------------------


@over(DEFAULTS)
def test_starts_at_the_base_model(case: Case):
    base = output(backbone(case.backbone))
    adapted = output(case.apply().eval().model)
    assert adapted.shape == base.shape == ((4, 4, 8, 8) if case.family == 'unet' else (4, CLASSES))
    if METHODS[case.key].identity_at_start:
        tolerance = METHODS[case.key].start_tolerance
        torch.testing.assert_close(adapted, base, rtol=tolerance, atol=tolerance)  # of 0: equal to the last bit
    else:
        assert not torch.equal(adapted, base)


@over(CASES)
def test_count_is_that_of_the_formula(case: Case):
    adapted = case.apply()
    trained, head = count(case, adapted.config)
    assert adapted.count() == trained
    assert adapted.count(head=True) == trained + head
    assert set(adapted.head_names) <= set(adapted.trainable())
    assert bool(adapted.head_names) == bool(head)


@over(CASES)
def test_trains_what_it_declares_and_nothing_else(case: Case):
    adapted = case.apply()
    before = {name: tensor.clone() for name, tensor in adapted.model.state_dict().items()}
    trained = set(adapted.trainable())
    train(adapted)
    assert {name for name, p in adapted.model.named_parameters() if p.grad is not None} == trained
    after = adapted.model.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    buffers = batchnorm_buffers(adapted.model)
    assert changed - buffers == trained
    assert changed & buffers == (buffers if METHODS[case.key].updates_batchnorm else set())


@over(CASES)
def test_save_and_load_give_the_same_outputs(case: Case, tmp_path: Path):
    adapted = train(case.apply())
    path = adapted.save(tmp_path / 'deep' / 'adapter.safetensors', HASH)
    saved = load_file(path)
    assert set(saved) == set(adapted.trainable()) | batchnorm_buffers(adapted.model)
    assert [file.name for file in path.parent.iterdir()] == ['adapter.safetensors']

    loaded = methods.load(backbone(case.backbone), path, case.family, HASH).eval()
    assert (loaded.method, loaded.config, loaded.family) == (adapted.method, adapted.config, adapted.family)
    assert set(loaded.trainable()) == set(adapted.trainable())
    assert torch.equal(output(loaded.model), output(adapted.model))


@over(CASES)
def test_merge_gives_the_original_architecture_with_the_same_outputs(case: Case):
    adapted = perturb(train(case.apply()))
    before = output(adapted.model)
    if not METHODS[case.key].mergeable:
        with pytest.raises(DoesNotFit, match=r'cannot be merged.*tsa'):
            adapted.merge()
        return
    merged = adapted.merge().eval()
    torch.testing.assert_close(output(merged), before, rtol=1e-4, atol=1e-5)
    assert torch.equal(output(adapted.model), before)  # merging leaves the adapted model as it was

    base = backbone(case.backbone)
    extra = {name for name in merged.state_dict() if name not in base.state_dict()}
    if (case.backbone, case.key) == ('vit_other', 'ssf'):  # where a layer had no bias to take the shift
        assert {name.removeprefix('blocks.0.') for name in extra} >= {'attn.qkv.bias', 'patch_embed.proj.bias'}
        return
    assert not extra
    base.load_state_dict(merged.state_dict(), strict=True)
    torch.testing.assert_close(output(base), before, rtol=1e-4, atol=1e-5)


@over(ONE_EACH)
def test_trains_in_float32_on_a_half_precision_network(case: Case):
    """A step of 1e-4 on a weight near 1 is below what bfloat16 can tell from no step."""
    model = backbone(case.backbone).bfloat16()
    frozen = {name: tensor.clone() for name, tensor in model.named_parameters()}
    adapted = case.apply(model)
    assert {parameter.dtype for parameter in adapted.trainable().values()} == {torch.float32}
    before = {name: parameter.clone() for name, parameter in adapted.trainable().items()}
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=1e-4, weight_decay=0.0)
    adapted.train()
    for step in range(3):
        optimizer.zero_grad()
        out = run(adapted.model, step, torch.bfloat16)
        assert out.dtype == torch.bfloat16
        out.float().square().mean().backward()
        optimizer.step()
    still = {name for name, p in adapted.trainable().items() if p.grad.any() and torch.equal(p, before[name])}
    assert not still
    for name, parameter in adapted.model.named_parameters():
        if name in frozen and name not in adapted.trainable():
            assert parameter.dtype == torch.bfloat16
            assert torch.equal(parameter, frozen[name])
    kept = adapted.state()
    assert all(kept[name].dtype == torch.float32 for name in adapted.trainable())


@over([case for case in [*ONE_EACH, Case('vit_other', 'ssf')] if METHODS[case.key].mergeable])
def test_a_merged_half_precision_network_is_plain(case: Case):
    """Nothing that trained in float32 is left: no hook, no parameter of another precision than the base has."""
    adapted = perturb(case.apply(backbone(case.backbone).bfloat16())).eval()
    merged = adapted.merge().eval()
    for module in merged.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert not [name for name in vars(module) if name.startswith('float32')]
    assert {t.dtype for t in merged.state_dict().values() if t.is_floating_point()} == {torch.bfloat16}
    with torch.no_grad():
        before, after = (run(model, 0, torch.bfloat16).float() for model in (adapted.model, merged))
    torch.testing.assert_close(after, before, rtol=0.05, atol=0.05)


@over(ONE_EACH)
def test_can_be_switched_off_and_taken_off(case: Case):
    model = backbone(case.backbone)
    before, names, base = {n: t.clone() for n, t in model.state_dict().items()}, modules_of(model), output(model)
    adapted = methods.apply(model, case.key, case.family, dict(case.config), keep=True)
    perturb(train(adapted))
    trained = output(model)
    assert not torch.equal(trained, base)
    with adapted.disable() as off:
        assert torch.equal(output(off), base)
    assert torch.equal(output(model), trained)
    assert adapted.unload() is model
    assert modules_of(model) == names
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    methods.apply(model, 'full_ft', case.family)  # a plain network again


@over(ONE_EACH)
def test_a_failure_leaves_the_network_as_it_was(case: Case, monkeypatch: pytest.MonkeyPatch):
    model = backbone(case.backbone)
    base, names = output(model), modules_of(model)
    monkeypatch.setattr('medpeft_utils.methods.adapted.train_in_float32', lambda *_: 1 / 0)  # when all is attached
    with pytest.raises(ZeroDivisionError):
        case.apply(model)
    assert modules_of(model) == names
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(output(model), base)
    monkeypatch.undo()
    case.apply(model)


def modules_of(model: nn.Module) -> list[tuple[str, type, list[str], int]]:
    """All that a method may leave behind: modules, their classes and attributes, hooks."""
    return [
        (name, type(module), sorted(vars(module)), len(module._forward_hooks) + len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('key', METHODS)
def test_does_not_fit_another_family(name: str, key: str):
    if FAMILIES[name] in METHODS[key].families:
        return
    with pytest.raises(DoesNotFit, match=rf"method '{key}' does not fit backbone.*methods that fit: .*full_ft"):
        methods.apply(backbone(name), key, FAMILIES[name])


@pytest.mark.parametrize('key', METHODS)
def test_is_documented(key: str):
    method = METHODS[key]
    assert method.kind in {'baseline', 'selective', 'additive'}
    assert 'arXiv:' in method.paper
    assert method.summary.endswith('.')
    assert set(method.learning_rate) == set(method.families)
    assert method.learning_rate_source
    for option in dataclasses.fields(METHODS[key].Config):
        assert option.metadata['description']
        assert option.metadata['source']


@pytest.mark.parametrize('key', METHODS)
def test_wrong_options_raise_one_clear_error(key: str):
    with pytest.raises(BadInput, match=rf"method '{key}' has no option 'no_such'"):
        METHODS[key].configure({'no_such': 1})
    for option in dataclasses.fields(METHODS[key].Config):
        with pytest.raises(BadInput, match=rf"option '{option.name}' of method '{key}' is \[\]; it must be a"):
            METHODS[key].configure({option.name: []})


# --- what is particular -----------------------------------------------------------------------------------------------


def test_linear_probing_keeps_every_feature_as_it_is():
    adapted = Case('bottleneck', 'linear_probing').apply().train()
    assert adapted.model.training
    assert not any(m.training for m in adapted.model.modules() if isinstance(m, nn.BatchNorm2d))
    assert torch.equal(adapted.model(images()), backbone('bottleneck')(images()))


def test_lora_leaves_the_patch_embedding_alone_and_its_adapters_are_trainable():
    adapted = Case('vit', 'lora').apply()
    names = [name for name in adapted.trainable() if name not in adapted.head_names]
    assert all('.attn.qkv.lora_' in name for name in names)
    assert len(names) == 2 * DEPTH
    assert isinstance(adapted.model.patch_embed.proj, nn.Conv2d)


@over([Case('vit', 'ssf'), Case('vit', 'lora'), Case('vit', 'adaptformer'), Case('basic', 'tsa')])
def test_additions_compute_in_the_precision_of_the_features(case: Case):
    adapted, dtypes = case.apply().train(), set()
    for module in adapted.model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) or type(module).__name__ in {'ScaledOutput', 'AdaptedConv'}:
            module.register_forward_hook(lambda module, inputs, out: dtypes.add(out.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        loss = adapted.model(images().to(memory_format=torch.channels_last)).float().sum()
    loss.backward()
    assert dtypes == {torch.bfloat16}
    assert all(parameter.grad.dtype is torch.float32 for parameter in adapted.trainable().values())


def test_the_seed_decides_the_start_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (Case('vit', 'lora').apply(seed=seed).state() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    name = 'blocks.0.attn.qkv.lora_A.default.weight'
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_apply_refuses_a_backbone_that_has_a_method():
    adapted = Case('vit', 'ssf').apply()
    with pytest.raises(BadInput, match="has method 'ssf' already; load the backbone again to apply 'lora'"):
        methods.apply(adapted.model, 'lora', 'vit')
    merged = adapted.merge()
    methods.apply(merged, 'lora', 'vit')  # what is merged is a plain network again


def test_a_merged_network_holds_nothing_of_peft():
    merged = perturb(Case('vit', 'lora').apply()).merge()
    assert not any('peft' in name for name in vars(merged))
    assert not any('peft' in type(module).__module__ for module in merged.modules())


@pytest.mark.parametrize(('key', 'family', 'name'), [('tsa', 'cnn', 'vgg11'), ('lora', 'vit', 'coatnet_0_rw_224')])
def test_does_not_fit_a_network_without_the_parts(key: str, family: str, name: str):
    with torch.device('meta'):
        model = timm.create_model(name, num_classes=2)
    with pytest.raises(DoesNotFit, match=f"backbone '{name}': it needs .*blocks"):
        methods.apply(model, key, family)


def test_what_does_not_fit_is_known_before_weights_are_loaded():
    methods.check_fit('bn_tuning', 'resnet50_mini')
    methods.check_fit('ssf', 'convnext_atto')
    with pytest.raises(DoesNotFit, match="'bn_tuning' does not fit backbone 'convnext_atto': it needs BatchNorm"):
        methods.check_fit('bn_tuning', 'convnext_atto')


def test_every_head_of_a_distilled_network_is_its_head():
    with torch.device('meta'):
        model = timm.create_model('deit_tiny_distilled_patch16_224', num_classes=2)
    assert head_names(model) == ['head.weight', 'head.bias', 'head_dist.weight', 'head_dist.bias']


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return Case('vit', 'lora').apply().save(tmp_path / 'adapter.safetensors', HASH)


def test_a_file_says_what_it_is(saved: Path):
    with safe_open(saved, framework='pt') as file:
        about = file.metadata()
    assert (about['method'], about['family'], about['base_hash']) == ('lora', 'vit', HASH)
    assert '"rank": 16' in about['config']


def test_load_refuses_another_base(saved: Path):
    with pytest.raises(DoesNotFit, match=f'trained over backbone {HASH}, this one is ffff'):
        methods.load(backbone('vit'), saved, 'vit', 'ffff')
    with pytest.raises(DoesNotFit, match="on family 'vit', this backbone is of family 'cnn'"):
        methods.load(backbone('basic'), saved, 'cnn')
    with pytest.raises(DoesNotFit, match=r'head\.weight is .* build it with num_classes=3'):
        methods.load(_vit_with_classes(5), saved, 'vit')


def test_load_refuses_names_that_do_not_fit(saved: Path, tmp_path: Path):
    with safe_open(saved, framework='pt') as file:
        about = file.metadata()
    tensors = load_file(saved)
    save_file(tensors | {'blocks.0.extra': torch.zeros(1)}, tmp_path / 'more.safetensors', about)
    with pytest.raises(DoesNotFit, match=r'it has no blocks\.0\.extra'):
        methods.load(backbone('vit'), tmp_path / 'more.safetensors', 'vit')
    del tensors['head.bias']
    save_file(tensors, tmp_path / 'less.safetensors', about)
    with pytest.raises(DoesNotFit, match=r'the file lacks head\.bias'):
        methods.load(backbone('vit'), tmp_path / 'less.safetensors', 'vit')


@pytest.mark.parametrize('name', ['vit', 'basic', 'unet'])
def test_several_adapters_over_one_backbone_compute_what_each_computes_alone(name: str, tmp_path: Path):
    family, keys = FAMILIES[name], methods.names(FAMILIES[name])
    for seed, key in enumerate(keys):
        perturb(train(Case(name, key).apply(seed=seed)), seed).save(tmp_path / key, HASH)
    alone = {key: output(methods.load(backbone(name), tmp_path / key, family).eval().model) for key in keys}
    model = backbone(name)
    base, frozen = output(model), {n: p.data_ptr() for n, p in model.named_parameters()}
    adapters = methods.Adapters(model, family, HASH)
    for key in keys:
        adapters.add(key, tmp_path / key)
    for key in [*keys, *reversed(keys)]:
        assert torch.equal(output(adapters.use(key)), alone[key]), key
        assert torch.equal(output(adapters.use(None)), base)
    assert list(adapters) == keys
    assert {n: p.data_ptr() for n, p in adapters.use(None).named_parameters()} == frozen
    shared = {p.data_ptr() for p in adapters.use('lora').parameters()} & set(frozen.values())
    assert len(shared) >= len(frozen) - 2  # all but the head's
    with pytest.raises(UnknownName, match="unknown adapter 'lorra'; did you mean 'lora'"):
        adapters.use('lorra')


def test_adapters_over_one_backbone_have_heads_of_their_own(tmp_path: Path, saved: Path):
    five = Case('vit', 'ssf').apply(_vit_with_classes(5)).save(tmp_path / 'five', HASH)
    adapters = methods.Adapters(backbone('vit'), 'vit')
    adapters.add('five', five)
    adapters.add('three', saved)
    assert [output(adapters.use(name)).shape[1] for name in ('five', 'three', None)] == [5, CLASSES, CLASSES]
    adapters.use('five')
    with pytest.raises(BadInput, match='no file'):
        adapters.add('none', tmp_path / 'none')
    assert output(adapters.model).shape[1] == 5


def test_load_refuses_leave_the_network_unchanged(saved: Path):
    model = _vit_with_classes(5)
    before, base = modules_of(model), output(model)
    with pytest.raises(DoesNotFit):
        methods.load(model, saved, 'vit')
    assert modules_of(model) == before
    assert torch.equal(output(model), base)


def test_only_what_was_kept_can_be_taken_off():
    with pytest.raises(BadInput, match=r"'full_ft' trains weights .* apply it with keep=True"):
        Case('vit', 'full_ft').apply().unload()


@pytest.mark.parametrize(
    ('about', 'said'),
    [
        ({'config': '{'}, 'is not JSON'),
        ({'config': '[1]'}, 'not options by name'),
        ({'config': '{"rank": 1000000000}'}, "option 'rank' is 1000000000, but its largest tensor has 1152 numbers"),
        ({'config': '{"rank": "no"}'}, "option 'rank' of method 'lora' is 'no'"),
        ({'method': 'os.system'}, "unknown method 'os.system'"),
        ({'base_hash': None}, 'was not written by medpeft'),
    ],
)
def test_hostile_metadata_are_one_clear_error(saved: Path, tmp_path: Path, about: dict, said: str):
    with safe_open(saved, framework='pt') as file:
        metadata = file.metadata() | about
    save_file(load_file(saved), tmp_path / 'hostile', {k: v for k, v in metadata.items() if v is not None})
    with pytest.raises(MedpeftError, match=said):
        methods.load(backbone('vit'), tmp_path / 'hostile', 'vit')


SPOILT = {
    'not a number': lambda x: x.fill_(float('nan')),
    'infinite': lambda x: x.fill_(float('inf')),
    'too large for float32': lambda x: x.double().fill_(1e300),
    'integers': lambda x: x.int(),
    'truth values': lambda x: x > 0,
    'complex': lambda x: x.to(torch.complex64),
    'eight bits': lambda x: x.to(torch.float8_e4m3fn),
    'a number': lambda x: torch.zeros(()),
    'nothing': lambda x: torch.zeros(0),
    'another shape': lambda x: torch.zeros(3, 5, 7),
}


@pytest.mark.parametrize('spoil', SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize('case', [Case('vit', 'lora'), Case('basic', 'bn_tuning')], ids=str)
def test_a_tensor_that_cannot_be_is_refused_whatever_its_name(case: Case, spoil, tmp_path: Path):
    saved = case.apply().save(tmp_path / 'adapter.safetensors', HASH)
    with safe_open(saved, framework='pt') as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in [name for name, tensor in tensors.items() if tensor.is_floating_point()]:
        save_file(tensors | {name: spoil(tensors[name].clone())}, saved, about)
        with pytest.raises(MedpeftError, match=re.escape(name)):
            methods.load(backbone(case.backbone), saved, case.family)


@pytest.mark.parametrize('text', ['', 'x', '[' * 100_000, '{"a":' * 50_000, '9' * 5000, '[1]', 'null'])
@pytest.mark.parametrize('name', ['config', 'method', 'family', 'base_hash', 'schema'])
def test_metadata_may_be_anything(saved: Path, tmp_path: Path, name: str, text: str):
    with safe_open(saved, framework='pt') as file:
        about = file.metadata() | {name: text}
    save_file(load_file(saved), tmp_path / 'hostile', about)
    with pytest.raises(MedpeftError) as refusal:
        methods.load(backbone('vit'), tmp_path / 'hostile', 'vit', HASH)
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize('value', [10**9, -1, 2**70, float('nan'), float('inf'), 1e308, '8', None, [8], True])
@pytest.mark.parametrize('key', methods.names('vit'))
def test_no_option_takes_what_no_option_can_be(key: str, value):
    for field in dataclasses.fields(METHODS[key].Config):
        kind, known = type(field.default), field.metadata
        if kind is bool and isinstance(value, bool):
            continue
        if value == -1 and kind is not str and known['minimum'] is None:
            continue  # a sign may be any
        if value == 10**9 and (kind is float or field.name.endswith('seed')) and known['below'] is None:
            continue
        with pytest.raises(BadInput, match=f"option '{field.name}' of method '{key}'"):
            METHODS[key].configure({field.name: value}, 'vit')


def test_load_refuses_files_that_are_not_ours(tmp_path: Path):
    with pytest.raises(BadInput, match='no file'):
        methods.load(backbone('vit'), tmp_path / 'none.safetensors', 'vit')
    (tmp_path / 'text.safetensors').write_text('not a tensor')
    with pytest.raises(BadInput, match='is not a whole safetensors file'):
        methods.load(backbone('vit'), tmp_path / 'text.safetensors', 'vit')
    save_file({'a': torch.zeros(1)}, tmp_path / 'other.safetensors')
    with pytest.raises(BadInput, match='was not written by medpeft'):
        methods.load(backbone('vit'), tmp_path / 'other.safetensors', 'vit')


def _vit_with_classes(classes: int) -> nn.Module:
    model = backbone('vit')
    model.reset_classifier(classes)
    return model


# --- the registry -----------------------------------------------------------------------------------------------------


def test_names_and_labels_are_the_columns_of_the_paper():
    columns = {
        family: [methods.label(key, family) for key in methods.names(family)] for family in ('cnn', 'vit', 'unet')
    }
    assert [label for label in columns['cnn'] if label in paper.CNN_METHODS] == list(paper.CNN_METHODS)
    assert columns['vit'][: len(paper.VIT_METHODS)] == list(paper.VIT_METHODS)
    table4 = 'Full FT,Attention,Bias,Norm,Bias+Norm+Attention,LoRA,SV-Diff,DiffFit'
    assert columns['unet'] == table4.split(',')
    with pytest.raises(UnknownName, match="unknown family 'vti'; did you mean 'vit'"):
        methods.names('vti')
    with pytest.raises(DoesNotFit, match="method 'tsa' is not for family 'vit'"):
        methods.label('tsa', 'vit')


def test_table1_has_a_row_for_each_method_of_the_paper():
    rows = {row['label']: row for row in methods.table1()}
    assert rows['SSF']['families'] == ['cnn', 'vit']
    assert 'TinyTL' in rows['Bias Tuning']['paper']
    assert 'BitFit' in rows['BitFit']['paper']
    additive = {label for label, row in rows.items() if row['kind'] == 'additive'}
    assert additive >= {'TSA', 'SSF', 'LoRA', 'AdaptFormer', 'SV-Diff', 'DiffFit'}
    assert rows['LoRA']['families'] == ['vit', 'unet', 'cnn']


def test_a_second_method_of_one_key_is_refused():
    with pytest.raises(ValueError, match="method 'lora' is registered already"):
        methods.register(type(METHODS['lora']))


def test_a_new_method_is_one_class(monkeypatch: pytest.MonkeyPatch):
    """Also of a family that nothing else knows of, on a network without a head."""
    monkeypatch.setitem(METHODS, 'gains', None)  # in the end it is gone again
    monkeypatch.delitem(METHODS, 'gains')

    @methods.register
    class Gains(methods.SelectiveMethod):
        key, labels, order = 'gains', {'other': 'Gains'}, 5

        def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
            return [name for name, _ in model.named_parameters() if name.endswith('weight')]

    assert methods.names('other') == ['gains']
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4))
    before = copy.deepcopy(network)
    adapted = methods.apply(network, 'gains', 'other')
    assert (adapted.count(), adapted.head_names) == (3 * 4 + 4, [])
    assert torch.equal(output(adapted.merge()), output(before))
