"""Checkpoints of other libraries: tiny random ones saved to disk by transformers, and files as others lay them out."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import timm
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from medpeft_utils import backbones, methods
from medpeft_utils.cli import medpeft
from medpeft_utils.core.errors import BadInput, DoesNotFit, MedpeftError

SIZES = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'image_size': 32, 'patch_size': 8}
WIDE = SIZES | {'intermediate_size': 48}
TEXT = {'hidden_size': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 16, 'vocab_size': 50}
MODELS = {
    'vit': lambda: transformers.ViTModel(transformers.ViTConfig(**WIDE, layer_norm_eps=0.03)),
    'vit_classifier': lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**WIDE, num_labels=3)),
    'rad-dino': lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, mlp_ratio=2)),
    'dinov2_giant': lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, use_swiglu_ffn=True)),
    'registers': lambda: transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**SIZES)),
    'clip_vision': lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**WIDE)),
    'clip': lambda: transformers.CLIPModel(transformers.CLIPConfig(vision_config=WIDE, text_config=TEXT)),
    'siglip_vision': lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**WIDE)),
    'medsiglip': lambda: transformers.SiglipModel(transformers.SiglipConfig(vision_config=WIDE, text_config=TEXT)),
}
logging.getLogger('transformers').setLevel(logging.ERROR)


def saved(name: str, folder: Path) -> torch.nn.Module:
    """A tiny random network in a folder of transformers' layout, no parameter at a value that hides a mistake."""
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def pooled(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What transformers hands to a head: the normalised class token, or what the attention pools."""
    tower = getattr(model, 'vision_model', getattr(model, 'vit', model))
    with torch.no_grad():
        out = tower(pixel_values=x)
    keeps = type(model).__name__.startswith(('CLIP', 'Siglip'))
    return out.pooler_output if keeps else out.last_hidden_state[:, 0]


def features(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval().forward_head(model.forward_features(x), pre_logits=True)


def images(size: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('spelling', ['on disk', 'in memory'])
@pytest.mark.parametrize('name', MODELS)
def test_outputs_are_those_of_transformers(name: str, spelling: str, tmp_path: Path):
    model = saved(name, tmp_path)
    if spelling == 'in memory':  # the names since version 5, which some repositories hold
        state = {key: tensor.clone().contiguous() for key, tensor in model.state_dict().items()}
        save_file(state, tmp_path / 'model.safetensors')
    backbone = backbones.load(f'local-dir:{tmp_path}', 3)
    assert (backbone.family, backbone.image_size, backbone.fresh) == ('vit', 32, ())
    difference = (features(backbone.model, images()) - pooled(model, images())).abs().max()
    assert difference <= 1e-6 * max(1.0, float(pooled(model, images()).abs().max()))
    assert not any(part.startswith(('vision_model.', 'encoder')) for part in backbone.left_over)
    adapted = methods.apply(backbone.model, 'lora', 'vit')
    assert adapted.model(images()).shape == (2, 3)


def test_a_file_of_transformers_fills_a_network_of_timm_with_its_epsilon(tmp_path: Path):
    torch.manual_seed(0)
    config = transformers.ViTConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768)
    model = transformers.ViTModel(config).eval()
    model.save_pretrained(tmp_path)
    backbone = backbones.load('vit_tiny_patch16_224', 3, weights=str(tmp_path / 'model.safetensors'))
    assert backbone.model.norm.eps == 1e-12
    assert (features(backbone.model, images(224)) - pooled(model, images(224))).abs().max() <= 1e-5
    assert 'left over: pooler (2); starting anew: head (2)' in backbone.report
    larger = backbones.load('vit_tiny_patch16_224', 3, 32, weights=str(tmp_path / 'model.safetensors'))
    assert larger.model.pos_embed.shape == (1, 5, 192)


def test_a_cut_and_another_size_of_a_folder(tmp_path: Path):
    saved('rad-dino', tmp_path)
    backbone = backbones.load(f'local-dir:{tmp_path}:1', 3, 64)
    assert len(backbone.model.blocks) == 1
    assert backbone.model(images(64)).shape == (2, 3)
    assert backbone.label == f'{tmp_path.name}, 1 blocks'


def test_a_folder_of_timm(tmp_path: Path):
    torch.manual_seed(0)
    model = timm.create_model('resnet10t', num_classes=5).eval()
    config = {'architecture': 'resnet10t', 'num_classes': 5, 'pretrained_cfg': {'mean': [0.1] * 3, 'std': [0.2] * 3}}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / 'model.safetensors')
    backbone = backbones.load(f'local-dir:{tmp_path}', 3)
    assert (backbone.family, backbone.mean) == ('cnn', (0.1,) * 3)
    torch.testing.assert_close(features(backbone.model, images(64)), features(model, images(64)))


def test_open_clip_around_a_timm_network(tmp_path: Path):
    """As BiomedCLIP is laid out."""
    torch.manual_seed(0)
    model = timm.create_model('vit_tiny_patch16_224', num_classes=0).eval()
    state = {f'visual.trunk.{name}': tensor for name, tensor in model.state_dict().items()}
    state |= {'visual.head.proj.weight': torch.zeros(8, 192), 'text.transformer.x': torch.zeros(2)}
    torch.save(state, tmp_path / 'open_clip_pytorch_model.bin')
    tower = {'timm_model_name': 'vit_tiny_patch16_224', 'image_size': 224}
    config = {'model_cfg': {'vision_cfg': tower}, 'preprocess_cfg': {'mean': [0.4] * 3, 'std': [0.3] * 3}}
    (tmp_path / 'open_clip_config.json').write_text(json.dumps(config))
    backbone = backbones.load(f'local-dir:{tmp_path}', 3)
    assert backbone.mean == (0.4,) * 3
    assert backbone.left_over == ('text.transformer.x', 'visual.head.proj.weight')
    torch.testing.assert_close(features(backbone.model, images(224)), features(model, images(224)))


def test_an_mae_file_as_retfound_writes_it(tmp_path: Path):
    torch.manual_seed(0)
    model = timm.create_model('vit_tiny_patch16_224', img_size=32, num_classes=0).eval()
    state = model.state_dict() | {'mask_token': torch.zeros(1, 1, 8), 'decoder_pos_embed': torch.zeros(1, 5, 8)}
    torch.save({'model': state, 'optimizer': {'state': {}}, 'scaler': {'scale': 1.0}}, tmp_path / 'RETFound.pth')
    backbone = backbones.load('vit_tiny_patch16_224', 3, 32, weights=str(tmp_path / 'RETFound.pth'))
    assert backbone.left_over == ('decoder_pos_embed', 'mask_token')
    torch.testing.assert_close(features(backbone.model, images()), features(model, images()))


def test_a_network_that_ssf_was_merged_into_loads_with_its_new_biases(tmp_path: Path):
    for name, size in (('vit_tiny_patch16_224', 32), ('beit_base_patch16_224:2', 32)):
        backbone = backbones.load(name, 3, size, weights='random')
        if 'beit' not in name:
            for block in backbone.model.blocks:
                block.attn.qkv.bias = None
        plain = {key: value.clone() for key, value in backbone.model.state_dict().items()}
        adapted = methods.apply(backbone.model, 'ssf', 'vit', {'start': 'normal'})
        merged = adapted.merge().eval()
        assert 'blocks.0.attn.qkv.bias' in merged.state_dict() and 'blocks.0.attn.qkv.bias' not in plain
        save_file(merged.state_dict(), tmp_path / 'merged.safetensors')
        loaded = backbones.load(name, 3, size, weights=str(tmp_path / 'merged.safetensors'))
        torch.testing.assert_close(features(loaded.model, images()), features(merged, images()), rtol=1e-4, atol=1e-4)


# ---- refusals


def half(tensor: torch.Tensor) -> torch.Tensor:
    tensor[0] = float('nan')
    return tensor


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda t: half(t), 'not finite'),
        (lambda t: t.int(), r'torch\.int32, not weights'),
        (lambda t: t.to(torch.complex64), 'not a plain tensor'),
        (lambda t: t.to_sparse(), 'not a plain tensor'),
        (lambda t: t.to('meta'), 'not a plain tensor'),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), 'not a plain tensor|not a whole'),
        (lambda t: torch.nested.nested_tensor([t, t[:2]]), 'not a plain tensor|not a whole'),
    ],
)
def test_what_is_no_weight_is_refused(change, words: str, tmp_path: Path):
    state = timm.create_model('vit_tiny_patch16_224', img_size=32).state_dict()
    state['norm.weight'] = change(state['norm.weight'].clone())
    torch.save(state, tmp_path / 'odd.pth')
    with pytest.raises(BadInput, match=rf'odd\.pth: .*({words})') as caught:
        backbones.load('vit_tiny_patch16_224', 3, 32, weights=str(tmp_path / 'odd.pth'))
    assert '\n' not in str(caught.value)


def test_what_is_missing_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'cache'))
    with pytest.raises(BadInput, match=r'medpeft backbones fetch hf-hub:microsoft/no-such'):
        backbones.load('hf-hub:microsoft/no-such', 3)
    with pytest.raises(BadInput, match='no owner/name'):
        backbones.load('hf-hub:a/b/c/d', 3)
    with pytest.raises(BadInput, match=r'holds no config\.json'):
        backbones.load(f'local-dir:{tmp_path}', 3)
    (tmp_path / 'config.json').write_text('{')
    with pytest.raises(BadInput, match='not JSON'):
        backbones.load(f'local-dir:{tmp_path}', 3)
    for config, words in (
        ({'model_type': 'bert'}, "of 'bert'; those of timm"),
        ({'model_type': 'vit'}, 'hidden_size: field required'),
        ({'architecture': 'no_such'}, 'cannot be built'),
        ({'model_type': 'vit', **WIDE, 'hidden_act': 'sin'}, "activation 'sin'"),
    ):
        (tmp_path / 'config.json').write_text(json.dumps(config))
        with pytest.raises((BadInput, DoesNotFit), match=words):
            backbones.load(f'local-dir:{tmp_path}', 3)
    saved('vit', tmp_path / 'whole')
    weights = tmp_path / 'whole' / 'model.safetensors'
    state = load_file(weights)
    save_file({key: tensor for key, tensor in state.items() if 'layer.1' not in key}, weights)
    with pytest.raises(DoesNotFit, match='12 tensors missing'):
        backbones.load(f'local-dir:{tmp_path}/whole', 3)
    weights.unlink()
    with pytest.raises(BadInput, match='was the download stopped'):
        backbones.load(f'local-dir:{tmp_path}/whole', 3)


ODD = [10**9, 10**18, -1, 1e308, float('nan'), float('inf'), '8', None, [8], {}]


@pytest.mark.parametrize('key', [*WIDE, 'model_type', 'architecture'])
def test_a_configuration_is_not_taken_at_its_word(key: str, tmp_path: Path):
    """Numbers beyond any network, and what is none, are one message, before anything is built."""
    for value in [*ODD, int('9' * 4000)]:
        (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'vit', **WIDE, key: value}))
        backbones.family_of.cache_clear()
        if (key, value) in (('intermediate_size', None), ('architecture', None)):
            continue
        with pytest.raises(MedpeftError) as refusal:
            backbones.load(f'local-dir:{tmp_path}', 3, weights='random')
        assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'model_args': {'depth': 10**9}}, "'depth' is 1000000000"),
        ({'model_args': {'img_size': 10**5}}, "'img_size' is 100000"),
        ({'model_args': {'embed_dim': 3 * 10**5, 'img_size': 32}}, 'describes .* weights; 10,000,000,000 at most'),
        ({'model_args': {'num_heads': -3, 'img_size': 32}}, 'takes no image|cannot be built'),
        ({'architecture': 'resnet50', 'model_args': {'layers': [3, 4, 10**9, 3]}}, "'layers' is 1000000000"),
        ({'pretrained_cfg': {'std': [0, 1, 1]}}, 'no input size, mean and deviation'),
        ({'pretrained_cfg': {'mean': 'grey'}}, 'no input size, mean and deviation'),
        ({'pretrained_cfg': {'input_size': [3, 10**9, 10**9]}}, "'input_size' is 1000000000"),
    ],
)
def test_a_configuration_of_timm_is_not_taken_at_its_word(change: dict, words: str, tmp_path: Path):
    (tmp_path / 'config.json').write_text(
        json.dumps({'architecture': 'vit_tiny_patch16_224', 'pretrained_cfg': {}} | change)
    )
    with pytest.raises(BadInput, match=words):
        backbones.load(f'local-dir:{tmp_path}', 3, weights='random')


def test_a_network_that_its_file_cannot_hold_is_not_built(tmp_path: Path):
    saved('vit', tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text()) | {'hidden_size': 8192, 'intermediate_size': 8192}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r'describes [\d,]+ weights, and model.safetensors has'):
        backbones.load(f'local-dir:{tmp_path}', 3)


def test_a_repository_in_the_hub_cache_loads_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    repository = tmp_path / 'models--microsoft--rad-dino'
    saved('rad-dino', repository / 'snapshots' / 'abc')
    (repository / 'refs').mkdir()
    (repository / 'refs' / 'main').write_text('abc')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.file_download.constants.HF_HUB_CACHE', str(tmp_path))
    backbone = backbones.load('hf-hub:microsoft/rad-dino', 3)
    assert (backbone.label, len(backbone.model.blocks)) == ('rad-dino', 2)
    assert 'NIH ChestX-ray14' in backbones.warning(backbone.name, 'rsna_pneumonia')
    shown = CliRunner().invoke(medpeft, ['backbones', 'show', 'hf-hub:microsoft/rad-dino'])
    assert 'training_images.csv' in shown.output and 'model.safetensors' in shown.output


@pytest.mark.parametrize(
    ('raised', 'words'),
    [('GatedRepoError', 'is gated: accept its terms'), ('LocalEntryNotFoundError', 'could not be fetched: offline')],
)
def test_what_cannot_be_fetched_is_said_in_a_line(raised: str, words: str, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub
    from huggingface_hub import errors

    def fail(*_: object) -> None:
        kind = getattr(errors, raised)
        error = kind.__new__(kind)
        error.args = ('offline\nand more',)
        raise error

    monkeypatch.setattr(huggingface_hub, 'list_repo_files', fail)
    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', fail)
    for name in ('hf-hub:google/medsiglip-448', 'vit_tiny_patch16_224'):
        done = CliRunner().invoke(medpeft, ['backbones', 'fetch', name])
        assert isinstance(done.exception, BadInput)
        assert words in str(done.exception) and '\n' not in str(done.exception)
