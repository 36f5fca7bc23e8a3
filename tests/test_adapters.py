"""Adapters for other tools and from them: loaded by peft and diffusers, hostile files, cards, predictions."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import tiny_pipeline
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_backbones import FAMILIES, Case, backbone, output, over, perturb, train
from torch import nn

from medpeft_utils import cli, methods
from medpeft_utils.adapters import exchange, store
from medpeft_utils.adapters.predict import predict
from medpeft_utils.core.errors import BadInput, DoesNotFit, MedpeftError
from medpeft_utils.core.files import write_json
from medpeft_utils.methods import lora
from medpeft_utils.methods.adapted import install, read
from medpeft_utils.training import recording
from medpeft_utils.training.classification import Classification, Settings
from medpeft_utils.training.precision import PLAIN

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
        ({'peft_type': 'ADALORA'}, "peft_type='ADALORA' with these settings is not supported"),
        ({'peft_type': None}, 'with these settings is not supported'),
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


@pytest.mark.parametrize('value', [7, 'head', [7], {'a': 1}])
def test_modules_to_save_are_a_list_of_names(peft_folder: Path, value):
    path = peft_folder / exchange.PEFT_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {'modules_to_save': value}))
    with pytest.raises(DoesNotFit, match='modules_to_save='):
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


# ---- from a run to a prediction


@pytest.fixture(scope='module')
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classification]:
    """The folder of a run on two classes of brightness with its record and adapter, and the run itself."""
    root, generator = tmp_path_factory.mktemp('run'), np.random.default_rng(0)
    for name, level in (('dark', 70), ('light', 185)):
        (root / 'images' / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.clip(generator.normal(level, 40, (48, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / 'images' / name / f'{i}.png')
    chosen = {'dataset': str(root / 'images'), 'backbone': 'vit_base_mini', 'method': 'lora', 'save_adapter': True}
    run = Classification(Settings(**chosen, min_steps=4, max_steps=4, evaluations=1, batch_size=8), root / 'cache')
    run.__dict__['precision'] = PLAIN
    run.train(quiet=True)
    begun = {'run': 'ab' * 8, 'experiment': 'vit', 'parameters': asdict(run.settings), 'folder': '1-x'}
    write_json(root / 'record.json', begun | recording.parts(run, run.evaluate(), 0.0))
    (root / '1-x').mkdir()
    recording.write_files(run, root / '1-x')
    return root, run


def medpeft(*arguments: object) -> str:
    """Output of a command that must succeed."""
    done = CliRunner().invoke(cli.medpeft, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize('form', ['run', 'file', 'exported'])
def test_predictions_are_those_of_the_run(finished: tuple[Path, Classification], tmp_path: Path, form: str):
    folder, run = finished
    what = {'run': folder, 'file': folder / '1-x' / 'adapter.safetensors', 'exported': tmp_path / 'peft'}[form]
    if form == 'exported':
        medpeft('adapter', 'export', folder, what)
    rows = run.rows('test')
    images = [folder / 'images' / run.data.manifest['image'].iloc[row] for row in rows]
    printed = medpeft('predict', what, *images, '--csv', tmp_path / 'out.csv')
    table = pd.read_csv(tmp_path / 'out.csv')
    assert table['image'].tolist() == [str(path) for path in images]
    found = table[['p_dark', 'p_light']].to_numpy()
    np.testing.assert_allclose(found, run.probabilities['test'], atol=1e-5)
    assert (table['predicted'] == np.array(['dark', 'light'])[found.argmax(axis=1)]).all()
    assert 'p_dark' in printed


def test_an_exported_folder_says_what_it_is_and_names_no_folder_of_this_machine(finished, tmp_path: Path):
    folder, run = finished
    medpeft('adapter', 'export', folder, tmp_path / 'peft')
    names = {'README.md', 'medpeft.json', 'adapter_config.json', 'adapter_model.safetensors'}
    assert {path.name for path in (tmp_path / 'peft').iterdir()} == names
    card = (tmp_path / 'peft' / 'README.md').read_text()
    groups = len(set(run.data.groups[run.rows('test')]))
    for text in ('Not for clinical use', run.data.split_hash, run.backbone.hash, f'| test | {len(run.rows("test"))} |'):
        assert text in card
    assert f'| {groups} |' in card
    value = 100 * json.loads((folder / 'record.json').read_text())['metrics']['test']['f1_macro']
    assert re.search(rf'\| macro F1 \| {value:.1f} \[[\d.]+, [\d.]+\] \|', card)
    for path in (tmp_path / 'peft').glob('*.*'):
        assert str(folder).encode() not in path.read_bytes(), path
    with pytest.raises(BadInput, match='is not empty; give a new folder'):
        store.export(store.find(folder), tmp_path / 'peft', 'peft')

    said = medpeft('adapter', 'load', tmp_path / 'peft', '--save', tmp_path / 'again.safetensors')
    assert f'{run.adapted.count():,} parameters' in said
    again = load_file(tmp_path / 'again.safetensors')
    assert all(torch.equal(again[name], tensor) for name, tensor in run.adapted.state().items())


def test_a_lora_of_a_text_to_image_run_is_exported_for_diffusers(tmp_path: Path):
    adapted = perturb(methods.apply(tiny_pipeline.parts()['unet'].eval(), 'lora', 'unet'))
    adapted.save(tmp_path / 'run' / 'adapter.safetensors', HASH)
    backbone = {'name': 'tiny', 'label': 'Tiny', 'family': 'unet', 'hash': HASH, 'image_size': 16}
    data = {'name': 'mimic_cxr', 'label': 'MIMIC-CXR', 'split_hash': 'ab12', 'counts': {'train': 8}, 'synthetic': False}
    method = {'key': 'lora', 'label': 'LoRA', 'config': asdict(adapted.config), 'trainable_parameters': adapted.count()}
    record = {'run': 'r', 'backbone': backbone, 'data': data, 'method': method, 'parameters': {'weights': '/home/me/w'}}
    write_json(tmp_path / 'run' / 'record.json', record)
    medpeft('adapter', 'export', tmp_path / 'run', tmp_path / 'out', '--to', 'diffusers')
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert 'library_name: diffusers' in card
    assert 'keep to the agreement' in card
    assert '/home/me' not in (tmp_path / 'out' / 'medpeft.json').read_text()
    pipeline = tiny_pipeline.diffusers_pipeline()
    pipeline.load_lora_weights(tmp_path / 'out')
    assert (noise_of(pipeline.unet) - noise_of(adapted.model.eval())).abs().max() <= 5e-7
    with pytest.raises(DoesNotFit, match='`medpeft generate` does that'):
        predict(store.find(tmp_path / 'run'), [tmp_path / 'out' / 'README.md'])


def test_a_foreign_adapter_is_loaded_over_a_named_backbone(finished, tmp_path: Path):
    """Without `medpeft.json`, as other tools write it; the classes are those of its head."""
    medpeft('adapter', 'export', finished[0], tmp_path / 'peft')
    (tmp_path / 'peft' / 'medpeft.json').unlink()
    with pytest.raises(BadInput, match='does not name its backbone; give --backbone'):
        store.network(store.find(tmp_path / 'peft'))
    assert 'LoRA over vit_base_mini' in medpeft('adapter', 'load', tmp_path / 'peft', '--backbone', 'vit_base_mini')


def test_what_does_not_match_is_refused(finished, tmp_path: Path):
    folder, _ = finished
    image = folder / 'images' / 'dark' / '0.png'
    other = json.loads((folder / 'record.json').read_text())
    other['backbone']['hash'] = 'f' * 16
    write_json(tmp_path / 'record.json', other)
    (tmp_path / 'adapter.safetensors').write_bytes((folder / '1-x' / 'adapter.safetensors').read_bytes())
    with pytest.raises(DoesNotFit, match=r'was trained over vit_base_mini with weights ffff.* found here are'):
        predict(store.find(tmp_path), [image])
    with pytest.raises(BadInput, match=r'no image nowhere\.png'):
        predict(store.find(folder), [Path('nowhere.png')])
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(BadInput, match=r'text\.png: is not an image'):
        predict(store.find(folder), [image, tmp_path / 'text.png'])
    (tmp_path / 'alone').mkdir()
    with pytest.raises(BadInput, match='holds no adapter; run it with save_adapter'):
        store.find(tmp_path / 'alone')
    alone = tmp_path / 'alone' / 'adapter.safetensors'
    alone.write_bytes((folder / '1-x' / 'adapter.safetensors').read_bytes())
    with pytest.raises(BadInput, match='no file beside it names its'):
        predict(store.Saved(alone, 'medpeft', {}), [image])


# ---- the Hub


class Hub:
    """What `HfApi` is asked for."""

    calls: ClassVar[list[tuple]] = []
    private = True

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> str:
        self.calls.append(('create', name, private))
        return f'https://huggingface.co/{name}'

    def repo_info(self, name: str):
        return self

    def upload_folder(self, repo_id: str, folder_path: Path, allow_patterns: list[str]) -> None:
        self.calls.append(('upload', repo_id, sorted(allow_patterns)))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    monkeypatch.setattr(Hub, 'calls', [])
    monkeypatch.setattr(Hub, 'private', True)
    monkeypatch.setattr('huggingface_hub.HfApi', Hub)
    return Hub


def test_push_is_private_by_default(finished, tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch):
    medpeft('adapter', 'export', finished[0], tmp_path / 'peft')
    assert 'https://huggingface.co/me/it' in medpeft('adapter', 'push', tmp_path / 'peft', 'hf:me/it')
    assert hub.calls[0] == ('create', 'me/it', True)
    assert [call[0] for call in hub.calls] == ['create', 'upload']
    medpeft('adapter', 'push', tmp_path / 'peft', 'hf:me/it', '--public')
    assert hub.calls[2] == ('create', 'me/it', False)
    with pytest.raises(BadInput, match="'me/it' is not an address on the Hub; give hf:owner/name"):
        medpeft('adapter', 'push', tmp_path / 'peft', 'me/it')
    monkeypatch.setattr(Hub, 'private', False)
    with pytest.raises(BadInput, match='me/it exists already and is public'):
        medpeft('adapter', 'push', tmp_path / 'peft', 'hf:me/it')


@pytest.mark.parametrize('name', ['mimic_cxr', 'chexpert'])
def test_push_refuses_what_was_trained_under_an_agreement(finished, tmp_path: Path, hub: type[Hub], name: str):
    medpeft('adapter', 'export', finished[0], tmp_path / 'peft')
    about = json.loads((tmp_path / 'peft' / 'medpeft.json').read_text())
    about['data'] |= {'name': name, 'label': name}
    write_json(tmp_path / 'peft' / 'medpeft.json', about)
    with pytest.raises(DoesNotFit, match=rf'was trained on {name}, whose licence is: .*give --allow-restricted'):
        medpeft('adapter', 'push', tmp_path / 'peft', 'hf:me/it')
    assert not hub.calls
    medpeft('adapter', 'push', tmp_path / 'peft', 'hf:me/it', '--allow-restricted')
    assert hub.calls[0] == ('create', 'me/it', True)


def test_a_push_that_fails_is_one_line(finished, tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch):
    medpeft('adapter', 'export', finished[0], tmp_path / 'peft')

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError('no route to host\nmore')

    monkeypatch.setattr(Hub, 'create_repo', offline)
    with pytest.raises(BadInput, match=r'me/it was not pushed: no route to host; `hf auth login`'):
        medpeft('adapter', 'push', tmp_path / 'peft', 'hf:me/it')
