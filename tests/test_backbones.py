"""Backbones from files in published formats, made for the test; nothing is downloaded."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from medpeft_utils import backbones, methods
from medpeft_utils.backbones.checkpoints import fill, read_state
from medpeft_utils.backbones.small import SMALL_BACKBONES
from medpeft_utils.core.errors import BadInput, DoesNotFit, MedpeftError, UnknownName

TINY = 'vit_tiny_patch16_224'  # 12 blocks of width 192: the smallest of timm's with the paper's layout


def tiny_vit(size: int = 32, **more) -> torch.nn.Module:
    torch.manual_seed(1)
    return timm.create_model(TINY, img_size=size, num_classes=10, **more).eval()


def features(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval().forward_head(model.forward_features(x), pre_logits=True)


def same_features(backbone: backbones.Backbone, model: torch.nn.Module, size: int) -> bool:
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return torch.allclose(features(backbone.model, x), features(model, x), atol=1e-5)


@pytest.mark.parametrize('suffix', ['safetensors', 'pth', 'bin'])
def test_timm_state_dict_from_a_file(tmp_path, suffix):
    model, path = tiny_vit(), tmp_path / f'weights.{suffix}'
    (save_file if suffix == 'safetensors' else torch.save)(model.state_dict(), path)
    backbone = backbones.load(TINY, num_classes=3, image_size=32, weights=str(path))
    assert same_features(backbone, model, 32)
    assert backbone.model.get_classifier().out_features == 3


def test_resnet_from_a_file_with_batchnorm_statistics(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model('resnet26', num_classes=10)
    model.train()(torch.randn(4, 3, 64, 64))  # moves the running statistics
    save_file(model.state_dict(), tmp_path / 'r.safetensors')
    backbone = backbones.load('resnet26', num_classes=2, weights=str(tmp_path / 'r.safetensors'))
    assert same_features(backbone, model, 64)


def test_mae_file_with_its_decoder(tmp_path):
    model = tiny_vit()
    state = {name: t for name, t in model.state_dict().items() if not name.startswith('head')}
    state |= {'mask_token': torch.zeros(1, 1, 64), 'decoder_embed.weight': torch.zeros(64, 192)}
    torch.save({'model': state, 'epoch': 3}, tmp_path / 'mae.pth')
    assert same_features(backbones.load(TINY, 5, 32, str(tmp_path / 'mae.pth')), model, 32)


def clip_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A timm state dict under the names of OpenAI's CLIP files."""
    swaps = [
        ('patch_embed.proj.', 'visual.conv1.'),
        ('norm_pre.', 'visual.ln_pre.'),
        ('blocks.', 'visual.transformer.resblocks.'),
    ]
    swaps += [
        ('attn.qkv.', 'attn.in_proj_'),
        ('attn.proj.', 'attn.out_proj.'),
        ('mlp.fc1.', 'mlp.c_fc.'),
        ('mlp.fc2.', 'mlp.c_proj.'),
    ]
    swaps += [('.norm1.', '.ln_1.'), ('.norm2.', '.ln_2.')]
    out = {}
    for name, tensor in state.items():
        if name == 'cls_token':
            out['visual.class_embedding'] = tensor[0, 0]
        elif name == 'pos_embed':
            out['visual.positional_embedding'] = tensor[0]
        elif name.startswith('norm.'):
            out[name.replace('norm.', 'visual.ln_post.')] = tensor
        elif not name.startswith('head'):
            for old, new in swaps:
                name = name.replace(old, new)
            out[name] = tensor
    return out


def test_clip_file(tmp_path):
    name = 'vit_xsmall_patch16_clip_224'
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=64, num_classes=0).eval()
    state = clip_names(model.state_dict()) | {'logit_scale': torch.tensor(1.0), 'visual.proj': torch.zeros(256, 512)}
    torch.save(state, tmp_path / 'clip.pt')
    assert same_features(backbones.load(name, 4, 64, str(tmp_path / 'clip.pt')), model, 64)


def test_position_embeddings_are_resized(tmp_path):
    model = tiny_vit(64)
    save_file(model.state_dict(), tmp_path / 'w.safetensors')
    backbone = backbones.load(TINY, 4, image_size=96, weights=str(tmp_path / 'w.safetensors'))
    assert backbone.model.pos_embed.shape == (1, 1 + 6 * 6, 192)
    assert torch.equal(backbone.model.pos_embed[:, 0], model.pos_embed[:, 0])  # the class token's is not
    assert backbone.model(torch.zeros(1, 3, 96, 96)).shape == (1, 4)


@pytest.mark.parametrize('name', SMALL_BACKBONES)
def test_shipped_weights_load_by_name(name):
    backbone = backbones.load(name, num_classes=7)
    x = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    assert backbone.model.eval()(x).shape == (2, 7)
    assert backbone.source == 'shipped weights'
    assert backbone.hash != backbones.load(name, num_classes=7, weights='random').hash
    assert backbone.hash == backbones.load(name, num_classes=3, seed=5).hash  # the head is no part of it


def test_shipped_weights_equal_their_cards_and_fit_their_budget():
    from medpeft_utils.backbones.cards import file_hash, read_card

    paths = [small.weights for small in SMALL_BACKBONES.values()]
    assert [read_card(p.stem)['sha256'] for p in paths] == [file_hash(p) for p in paths]
    assert sum(p.stat().st_size for p in paths) <= 30_000_000


@pytest.mark.parametrize('name', SMALL_BACKBONES)
def test_small_backbones_have_the_layout_of_what_they_stand_for(name):
    small = SMALL_BACKBONES[name]
    with torch.device('meta'):
        published = backbones.build(small.stands_for, num_classes=5)
        ours = small.build(num_classes=5)
    # the small ResNet's stem has the 64 channels that its first stage gives, so the first block needs no projection
    wanted = [n for n, _ in published.named_parameters() if not n.startswith('layer1.0.downsample')]
    assert [n for n, _ in ours.named_parameters()] == wanted


def test_random_weights_follow_their_seed():
    first, again, other = (backbones.load('vit_base_mini', 3, weights='random', seed=s) for s in (1, 1, 2))
    assert first.hash == again.hash != other.hash


def test_a_pickle_that_runs_code_is_not_opened(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / 'ran'), 'w'))

    (tmp_path / 'evil.pth').write_bytes(pickle.dumps({'model': Payload()}))
    with pytest.raises(BadInput, match=r'evil\.pth'):
        backbones.load(TINY, 3, 32, weights=str(tmp_path / 'evil.pth'))
    assert not (tmp_path / 'ran').exists()


def test_wrong_weights_are_refused_by_name(tmp_path):
    save_file(tiny_vit().state_dict(), tmp_path / 'w.safetensors')
    with pytest.raises(DoesNotFit, match=r'w\.safetensors.*vit_small_patch16_224'):
        backbones.load('vit_small_patch16_224', 3, 32, weights=str(tmp_path / 'w.safetensors'))
    whole = (tmp_path / 'w.safetensors').read_bytes()
    (tmp_path / 'cut.safetensors').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r'cut\.safetensors'):
        backbones.load(TINY, 3, 32, weights=str(tmp_path / 'cut.safetensors'))
    with pytest.raises(BadInput, match='no such weights file'):
        backbones.load(TINY, 3, 32, weights=str(tmp_path / 'none.pth'))


def test_missing_published_weights_name_the_command_that_fetches_them(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, 'try_to_load_from_cache', lambda *_: None)
    with pytest.raises(BadInput, match=r'medpeft backbones fetch vit_base_patch16_224\.mae'):
        backbones.load('vit_base_patch16_224.mae', 3)


@pytest.mark.parametrize(
    ('arguments', 'error', 'words'),
    [
        ({'name': 'vit_base_mimi'}, UnknownName, "did you mean 'vit_base_mini'"),
        ({'name': 'vit_base_mini:13'}, BadInput, "'vit_base_mini:13' has 12 blocks; 13 cannot be kept, 1 to 12 can"),
        ({'name': 'hiera_tiny_224', 'image_size': 112, 'weights': 'random'}, DoesNotFit, '112 px .*; 224 px fit'),
        ({'name': 'levit_128s', 'image_size': 112, 'weights': 'random'}, DoesNotFit, '112 px .*; 224 px fit'),
        ({'name': 'resnet50_mini:3'}, DoesNotFit, 'only a transformer with one row of blocks can be cut'),
        ({'name': 'swin_tiny_patch4_window7_224:3'}, DoesNotFit, 'only a transformer with one row of blocks'),
        ({'name': 'vit_base_mini', 'image_size': 50}, DoesNotFit, '50 px'),
        ({'name': 'resnet50_mini', 'image_size': 16}, DoesNotFit, '16 px'),
        ({'name': 'vit_base_mini', 'in_channels': 1}, DoesNotFit, '3 channels'),
    ],
)
def test_what_does_not_fit_is_said(arguments, error, words):
    with pytest.raises(error, match=words):
        backbones.load(num_classes=3, **arguments)


# ---- published networks, if installed


PUBLISHED = {
    'vit_small_patch14_dinov2': (112, 140, 168, 224),
    'vit_small_patch14_dinov2:6': (112,),
    'tf_efficientnet_lite0': (112, 168, 224),
    'tf_efficientnet_lite1': (112,),
    'tf_efficientnet_lite2': (112,),
}


def step_moves_all(adapted: methods.Adapted, size: int, steps: int = 2) -> set[str]:
    """Names of trained tensors that steps of AdamW leave where they were."""
    before = {name: p.detach().clone() for name, p in adapted.train().trainable().items()}
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=1e-3)
    for step in range(steps):
        x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(adapted.model(x), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    return {name for name, p in adapted.trainable().items() if torch.equal(p, before[name])}


@pytest.mark.skipif('MEDPEFT_WEIGHTS' not in os.environ, reason='MEDPEFT_WEIGHTS names no folder of published weights')
@pytest.mark.parametrize('name', PUBLISHED)
def test_published_networks_take_every_size_and_every_method_that_fits(name):
    for size in PUBLISHED[name]:
        backbone = backbones.load(name, 3, size)
        assert backbone.model.eval()(torch.zeros(1, 3, size, size)).shape == (1, 3)
        assert backbone.label != name and backbone.fresh == ()
    for key in methods.names(backbone.family):
        backbone = backbones.load(name, 3, min(PUBLISHED[name]))
        assert step_moves_all(methods.apply(backbone.model, key, backbone.family), backbone.image_size) == set()


def test_weights_are_found_in_the_folder_that_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.setenv('MEDPEFT_WEIGHTS', str(tmp_path))
    with pytest.raises(BadInput, match=rf'MEDPEFT_WEIGHTS as {TINY}\.safetensors .* weights=FILE'):
        backbones.load(TINY, 3)
    save_file(tiny_vit().state_dict(), tmp_path / f'{TINY}.safetensors')
    for name in (TINY, f'{TINY}.augreg_in21k_ft_in1k'):  # timm's default tag
        assert same_features(backbones.load(name, 3, 32), tiny_vit(), 32)
    with pytest.raises(BadInput, match='neither in a folder'):
        backbones.weights_path(f'{TINY}.augreg_in21k')
    monkeypatch.setenv('MEDPEFT_WEIGHTS', str(tmp_path / 'none'))
    with pytest.raises(BadInput, match='no such folder'):
        backbones.load(TINY, 3)


def test_a_cut_network_is_the_first_blocks_and_the_final_norm(tmp_path):
    model, path = tiny_vit(), tmp_path / 'w.safetensors'
    save_file(model.state_dict(), path)
    backbone = backbones.load(f'{TINY}:4', 3, 32, str(path))
    assert (backbone.family, len(backbone.model.blocks)) == ('vit', 4)
    assert 'left over: blocks (96); starting anew: head (2)' in backbone.report
    model.blocks = model.blocks[:4]
    assert same_features(backbone, model, 32)
    with pytest.raises(DoesNotFit, match='96 of blocks that it has not'):  # a shallow network, and not asked to cut
        save_file(tiny_vit(depth=4).state_dict(), path)
        whole = tmp_path / 'whole.safetensors'
        save_file(tiny_vit().state_dict(), whole)
        fill(tiny_vit(depth=4), read_state(whole), name=TINY, path=whole)


def test_a_published_card_warns_of_images_that_were_trained_on():
    assert 'ImageNet' in backbones.warning('tf_efficientnet_lite0', 'tiny_imagenet')
    assert 'ChestX-ray14' in backbones.warning('vit_base_patch16_224.cxr_mae', 'rsna_pneumonia')
    assert backbones.warning('convnext_tiny.fb_in22k', 'tiny_imagenet')
    assert backbones.warning('tf_efficientnet_lite0', 'breastus') == ''
    assert backbones.warning('vit_base_mini', 'tiny_imagenet') == ''
    for name in PUBLISHED:
        assert backbones.published(name).licence == 'Apache-2.0'


def test_random_weights_leave_no_branch_of_a_resnet_dead():
    model = backbones.build('resnet50_mini', 3)
    assert all(m.weight.any() for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert step_moves_all(methods.apply(model, 'tsa', 'cnn'), 64) == set()


# ---- timm's own registry


@pytest.mark.parametrize('name', SMALL_BACKBONES)
def test_shipped_backbones_are_in_the_registry_of_timm(name):
    backbone = backbones.load(name, 3)
    model = timm.create_model(name, pretrained=True)  # features: the weights have no head
    assert same_features(backbone, model, backbone.image_size)
    assert timm.create_model(name, pretrained=True, num_classes=5).get_classifier().out_features == 5
    config = timm.data.resolve_data_config(model.pretrained_cfg)
    assert (config['input_size'][-1], config['mean']) == (backbone.image_size, (0.5,) * 3)
    assert name in timm.list_models('*_mini*', pretrained=True)


def test_the_registry_takes_another_size_and_depth():
    model = timm.create_model('vit_base_mini', pretrained=True, img_size=64)
    assert same_features(backbones.load('vit_base_mini', 3, 64), model, 64)


@pytest.mark.parametrize('order', ['import timm, medpeft_utils.backbones', 'import medpeft_utils.backbones, timm'])
def test_the_registry_is_filled_in_either_order_of_imports_and_without_torch_until_then(order):
    quiet = "import sys, medpeft_utils.backbones; assert 'torch' not in sys.modules; " if order.endswith('timm') else ''
    code = f"{quiet}{order}; print(timm.create_model('resnet50_mini', pretrained=True).num_features)"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == '512', done.stderr


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('vit_base_mini:0', 'has 12 blocks; 0 cannot be kept'),
        ('vit_base_mini:99', 'has 12 blocks; 99 cannot be kept'),
        ('vit_base_mini:٣', 'unknown backbone'),
        (f'vit_base_mini:{"9" * 5000}', 'unknown backbone'),
        ('vit_base_patch16_224.nope', 'unknown backbone'),
        ('', 'unknown backbone'),
        ('x' * 400, 'unknown backbone'),
        ('a\0b', 'unknown backbone'),
        ('hf-hub:../..', 'no owner/name'),
        ('local-dir:/nowhere', 'holds no config.json'),
    ],
    ids=lambda value: value[:24],
)
def test_a_name_that_is_none_is_one_short_message(name: str, said: str):
    with pytest.raises(MedpeftError, match=said) as refusal:
        backbones.load(name, 2)
    assert len(str(refusal.value)) < 4000


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_weights_of_another_kind_of_number_or_shape_are_refused_in_every_place(suffix: str, tmp_path: Path):
    """Counts in the place of weights, whatever the name of these; a count of another shape; names that are none."""
    state = backbones.load('vit_base_mini:1', 2).model.state_dict()
    path = tmp_path / f'weights{suffix}'
    save = save_file if suffix == '.safetensors' else torch.save
    for name in ('cls_token', 'pos_embed', 'blocks.0.attn.qkv.weight', 'norm.bias'):
        for odd in (torch.zeros_like(state[name], dtype=torch.int64), torch.zeros(()), torch.full((1,), torch.nan)):
            save(state | {name: odd}, path)
            with pytest.raises(MedpeftError):
                backbones.load('vit_base_mini:1', 2, weights=str(path))
    if suffix == '.pth':
        save({7: state['norm.bias'], **state}, path)
        assert backbones.load('vit_base_mini:1', 2, weights=str(path)).hash
        save(dict.fromkeys((7, None), state['norm.bias']), path)
        with pytest.raises(BadInput, match='holds no state dict'):
            backbones.load('vit_base_mini:1', 2, weights=str(path))
