"""Every method on every family of networks: trained parts move, added parts are used, left-out parts are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from tiny_families import FAMILIES, FAMILY_OF, NETWORKS, applied, page
from torch.nn import functional as F

from medpeft_utils import backbones, methods

PAGE = Path(__file__).parents[1] / 'docs' / 'methods.md'
CASES = [(name, key) for family, members in FAMILIES.items() for name in members for key in methods.names(family)]


@pytest.mark.parametrize(('name', 'key'), CASES, ids=['-'.join(case) for case in CASES])
def test_what_is_trained_moves_and_what_is_added_is_used(name: str, key: str):
    tiny, adapted = NETWORKS[name], applied(name, key)
    if adapted is None:
        return  # the page says so, and is tested
    base = tiny.build()(tiny.images()).detach()
    start = adapted.eval().model(tiny.images()).detach()
    if adapted.method.identity_at_start:
        torch.testing.assert_close(start, base, rtol=1e-3, atol=1e-4)
    before = {name: p.detach().clone() for name, p in adapted.train().trainable().items()}
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=1e-2, weight_decay=0)
    for step in range(3):
        optimizer.zero_grad()
        F.cross_entropy(adapted.model(tiny.images(seed=step)), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    assert [name for name, p in adapted.trainable().items() if torch.equal(p, before[name])] == []
    adapted.eval()
    head = set(adapted.head_names)
    body = [p for name, p in adapted.trainable().items() if name not in head]
    with torch.no_grad():  # the head alone would change outputs, so it goes back to where it was
        for name, p in adapted.trainable().items():
            if name in head:
                p.copy_(before[name])
    after = adapted.model(tiny.images()).detach()
    assert not body or not torch.allclose(after, start, rtol=1e-4, atol=1e-5)
    if adapted.method.mergeable:
        torch.testing.assert_close(adapted.merge().eval()(tiny.images()), after, rtol=1e-3, atol=1e-4)


def test_the_page_of_methods_by_networks_is_that_of_the_code():
    assert PAGE.read_text() == page(), 'run: python tests/tiny_families.py docs/methods.md'


@pytest.mark.parametrize('name', NETWORKS)
def test_the_family_is_read_from_the_structure(name: str):
    assert backbones.family_of(NETWORKS[name].architecture) == FAMILY_OF[name]


@pytest.mark.parametrize('name', ['botnet26t_256', 'resnet50_clip', 'fastvit_t8', 'mixer_s32_224'])
def test_some_attention_makes_no_transformer(name: str):
    assert backbones.family_of(name) == 'cnn'


def test_what_tsa_passes_by_is_said():
    for name, kind in (('Res2Net', '.convs.'), ('ResNeSt', '.conv2.')):
        adapted = applied(name, 'tsa')
        assert adapted.left_out and all(kind in part for part in adapted.left_out)
    assert applied('ResNet', 'tsa').left_out == ()


def test_norms_without_a_bias_and_pooling_attentions_are_said_to_be_left_out():
    model = timm.create_model('vit_tiny_patch16_224', depth=1, num_classes=3, norm_layer='rmsnorm')
    assert 'blocks.0.norm1' in methods.apply(model, 'ssf', 'vit').left_out
    assert any('attn_pool' in part for part in applied('SigLIP', 'attention_tuning').left_out)


def test_ssf_on_convnext_and_swin_is_where_its_own_code_has_it():
    """After the stem's and each downsampling's convolution, the depthwise one, both Linear, and every norm."""
    adapted = applied('ConvNeXt', 'ssf')
    after = {name.rpartition('.')[0] for name in adapted.trainable() if name.endswith('.scale')}
    block = {f'stages.{i}.blocks.0.{part}' for i in range(4) for part in ('conv_dw', 'norm', 'mlp.fc1', 'mlp.fc2')}
    down = {f'stages.{i}.downsample.{part}' for i in (1, 2, 3) for part in '01'}
    assert after == block | down | {'stem.0', 'stem.1', 'head.norm'}
    swin = applied('Swin', 'ssf')
    after = {name.rpartition('.')[0] for name in swin.trainable() if name.endswith('.scale')}
    parts = ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')
    blocks = {f'layers.{i}.blocks.{j}.{part}' for i, j in ((0, 0), (0, 1), (1, 0)) for part in parts}
    outside = {
        'patch_embed.proj',
        'patch_embed.norm',
        'layers.1.downsample.norm',
        'layers.1.downsample.reduction',
        'norm',
    }
    assert after == blocks | outside
