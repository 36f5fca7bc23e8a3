"""Adapters for other tools and from them: loaded by peft and diffusers, hostile files, cards, predictions."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny_pipeline
import torch
from safetensors.torch import load_file, save_file
from tiny_backbones import FAMILIES, Case, backbone, output, over, perturb, train
from torch import nn

from medpeft_utils import methods
from medpeft_utils.adapters import exchange
from medpeft_utils.core.errors import BadInput, DoesNotFit, MedpeftError
from medpeft_utils.methods import lora
from medpeft_utils.methods.adapted import install, read

HASH = '0123456789abcdef'
OVER_PEFT = [
    Case(name, key)
    for name in ('vit', 'vit_other', 'basic')
    for key in methods.names(FAMILIES[name])
    if key in exchange.exportable()
] + [
    Case('vit', 'lora', (('rank', 3), ('alpha', 8), ('parts', 'qv'), ('train_final_norm', True))),
    Case('vit', 'lora', (('parts', 'qkvo'),)),
    Case('vit', 'rslora', (('rank', 3), ('parts', 'qv'))),
    Case('vit', 'vera', (('rank', 5), ('parts', 'qkvo'))),
]


@pytest.fixture(autouse=True)
def unfolded(monkeypatch: pytest.MonkeyPatch):
    """Compared is what both compute in the same order; folding rounds otherwise."""
    monkeypatch.setattr(lora, '_folds', lambda layer, x: False)


def exported(case: Case, folder: Path) -> methods.Adapted:
    adapted = perturb(train(case.apply())).eval()
    about, tensors = read(adapted.save(folder / 'adapter.safetensors', HASH))
    exchange.to_peft(about, tensors, folder, case.backbone, backbone(case.backbone))
    return adapted


@over(OVER_PEFT)
def test_peft_itself_loads_what_is_exported(case: Case, tmp_path: Path):
    from peft import PeftModel

    adapted = exported(case, tmp_path)
    theirs = PeftModel.from_pretrained(backbone(case.backbone), tmp_path).eval()
    assert (output(theirs) - output(adapted.model)).abs().max() <= rounding(case)


@over(OVER_PEFT)
def test_what_is_exported_comes_back(case: Case, tmp_path: Path):
    adapted = exported(case, tmp_path)
    about, tensors = exchange.from_peft(tmp_path, backbone(case.backbone), case.family)
    assert about['method'] == case.key
    again = install(backbone(case.backbone), about, tensors, case.family).eval()
    assert (output(again.model) - output(adapted.model)).abs().max() <= rounding(case)


def rounding(case: Case) -> float:
    """Nothing, but where a layer that was split in three is one again: products of other shapes round otherwise."""
    return 1e-6 if dict(case.config).get('parts') == 'qv' else 0.0


def test_an_update_of_q_and_v_apart_is_stacked_to_rank_2r(tmp_path: Path):
    """In double precision: q, k and v rows of W + s B A are those of the three layers."""
    case = Case('vit', 'lora', (('rank', 3), ('alpha', 8), ('parts', 'qv')))
    adapted = exported(case, tmp_path)
    about, tensors = exchange.from_peft(tmp_path, backbone('vit'), 'vit')
    assert (about['config']['rank'], about['config']['alpha']) == (6, 16.0)
    merged, again = adapted.merge(), install(backbone('vit'), about, tensors, 'vit').merge()
    for name, tensor in merged.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


# ---- diffusers


@pytest.mark.parametrize('parts', ['qkvo', 'qv'])
def test_diffusers_itself_loads_what_is_exported(parts: str, tmp_path: Path):
    unet = tiny_pipeline.parts()['unet'].eval()
    adapted = perturb(methods.apply(unet, 'lora', 'unet', {'rank': 4, 'alpha': 6.0, 'parts': parts})).eval()
    about, tensors = read(adapted.save(tmp_path / 'adapter.safetensors', HASH))
    exchange.to_diffusers(about, tensors, tmp_path / 'out')
    pipeline = tiny_pipeline.diffusers_pipeline()
    before = noise_of(pipeline.unet)
    pipeline.load_lora_weights(tmp_path / 'out')
    assert (noise_of(pipeline.unet) - before).abs().max() > 1e-3
    assert (noise_of(pipeline.unet) - noise_of(adapted.model)).abs().max() <= 5e-7

    found, names = exchange.from_diffusers(tmp_path / 'out', tiny_pipeline.parts()['unet'])
    again = install(tiny_pipeline.parts()['unet'], found, names, 'unet').eval()
    assert torch.equal(noise_of(again.model), noise_of(adapted.model))


def test_loras_of_older_diffusers_are_read(tmp_path: Path):
    adapted = perturb(methods.apply(tiny_pipeline.parts()['unet'].eval(), 'lora', 'unet')).eval()
    older = {
        'unet.' + name.replace('.lora_A.default', '.lora.down').replace('.lora_B.default', '.lora.up'): tensor
        for name, tensor in adapted.state().items()
    }
    save_file(older, tmp_path / exchange.DIFFUSERS_WEIGHTS)
    found, names = exchange.from_diffusers(tmp_path, tiny_pipeline.parts()['unet'])
    assert found['config'] == {'rank': 4, 'alpha': 4.0, 'parts': 'qkvo'}
    again = install(tiny_pipeline.parts()['unet'], found, names, 'unet').eval()
    assert torch.equal(noise_of(again.model), noise_of(adapted.model))


def noise_of(unet: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, texts = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 12, 8, generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([1, 900]), texts).sample


@over([Case('vit', 'ssf'), Case('basic', 'tsa'), Case('vit', 'lora')])
def test_what_another_tool_has_no_layout_for_is_refused(case: Case, tmp_path: Path):
    about, tensors = read(case.apply().save(tmp_path / 'adapter', HASH))
    if case.key != 'lora':
        with pytest.raises(DoesNotFit, match=f"method '{case.key}' has no layout in peft; these have: .*lora"):
            exchange.to_peft(about, tensors, tmp_path / 'out', 'net', backbone(case.backbone))
    with pytest.raises(DoesNotFit, match='has no layout in diffusers, which reads LoRA on a U-Net alone'):
        exchange.to_diffusers(about, tensors, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


# ---- hostile and foreign files


@pytest.fixture
def peft_folder(tmp_path: Path) -> Path:
    exported(Case('vit', 'lora'), tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'r': 10**9}, "option 'rank' is 1000000000, but its largest tensor"),
        ({'r': 8}, 'lora_A.default.weight is'),
        ({'r': 'many'}, "option 'rank' of method 'lora' is 'many'"),
        ({'peft_type': 'ADALORA'}, "peft_type='ADALORA' as it is set there is no method here"),
        ({'peft_type': None}, 'there is no method here'),
        ({'use_dora': True}, 'the file lacks'),
        ({'rank_pattern': {'qkv': 3}}, 'rank_pattern='),
        ({'lora_bias': True}, 'lora_bias=True'),
        ({'bias': 'all'}, "bias='all'"),
        ({'target_modules': '(a+)+$'}, 'only a list of names is read'),
        ({'target_modules': ['nowhere']}, 'no layer of those that it names'),
        ({'target_modules': ['fc1']}, 'it adapts 2 layers .*fc1'),
        ({'target_modules': [1]}, 'only a list of names is read'),
        ({'a_field_of_tomorrow': 3}, 'a_field_of_tomorrow=3'),
    ],
)
def test_a_foreign_config_is_one_clear_error(peft_folder: Path, changes: dict, said: str):
    path = peft_folder / exchange.PEFT_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    model = backbone('vit')
    before = output(model)
    with pytest.raises(MedpeftError, match=said):
        about, tensors = exchange.from_peft(peft_folder, model, 'vit')
        install(model, about, tensors, 'vit')
    assert torch.equal(output(model), before)


@pytest.mark.parametrize('text', ['', 'no JSON', '[1]', '{"peft_type": ', '[' * 100_000, '\x00'])
def test_a_spoilt_config_is_one_clear_error(peft_folder: Path, text: str):
    (peft_folder / exchange.PEFT_CONFIG).write_text(text)
    with pytest.raises(BadInput, match=r'adapter_config\.json'):
        exchange.from_peft(peft_folder, backbone('vit'), 'vit')


def test_a_config_that_names_a_foreign_class_imports_nothing(peft_folder: Path, monkeypatch: pytest.MonkeyPatch):
    (peft_folder / 'evil_library.py').write_text('raise SystemExit("imported")')
    monkeypatch.syspath_prepend(peft_folder)
    path = peft_folder / exchange.PEFT_CONFIG
    named = {'auto_mapping': {'base_model_class': 'Evil', 'parent_library': 'evil_library'}}
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    about, _ = exchange.from_peft(peft_folder, backbone('vit'), 'vit')
    assert about['method'] == 'lora'
    assert 'evil_library' not in sys.modules


def test_weights_in_a_pickle_are_not_read(peft_folder: Path):
    tensors = load_file(peft_folder / exchange.PEFT_WEIGHTS)
    (peft_folder / exchange.PEFT_WEIGHTS).unlink()
    torch.save(tensors, peft_folder / 'adapter_model.bin')
    with pytest.raises(BadInput, match='other formats than safetensors are not read'):
        exchange.from_peft(peft_folder, backbone('vit'), 'vit')
