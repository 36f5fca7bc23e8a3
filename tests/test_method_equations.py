"""Every additive method against the equation of its paper, written again on the base model."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from timm.models.resnet import Bottleneck, ResNet
from tiny_backbones import (
    CHANNELS,
    CLASSES,
    DEPTH,
    FAMILIES,
    LAYERS,
    STEM,
    WIDTH,
    Case,
    backbone,
    images,
    output,
    perturb,
)
from torch import nn
from torch.nn import functional as F

from medpeft_utils import methods


@pytest.mark.parametrize('parts', ['qkv', 'qv'])
def test_lora_is_w0_plus_ba(parts: str):
    """Hu et al. 2022, Eq. 3: W0 + alpha / r * B A; with 'qv' on the rows of q and of v."""
    adapted = perturb(Case('vit', 'lora', (('rank', 3), ('alpha', 8), ('parts', parts))).apply()).eval()
    base, tensors = backbone('vit'), dict(adapted.model.named_parameters())
    base.head.load_state_dict(adapted.model.head.state_dict())
    for i, block in enumerate(base.blocks):
        for part in ('',) if parts == 'qkv' else ('q', 'v'):
            start = {'q': 0, 'v': 2 * WIDTH}.get(part, 0)
            rows = slice(start, start + (WIDTH if part else 3 * WIDTH))
            prefix = f'blocks.{i}.attn.qkv.' + (f'{part}.' if part else '')
            update = tensors[f'{prefix}lora_B.default.weight'] @ tensors[f'{prefix}lora_A.default.weight']
            block.attn.qkv.weight.data[rows] += 8 / 3 * update.detach()
    torch.testing.assert_close(output(adapted.model), output(base), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', [name for name, family in FAMILIES.items() if family != 'unet'])
@pytest.mark.parametrize('training', [False, True])
def test_ssf_is_scale_times_output_plus_shift(name: str, training: bool):
    """Lian et al. 2022, Eq. 2: y = gamma * x + beta after an operation, in either mode of BatchNorm."""
    adapted = perturb(Case(name, 'ssf', (('start', 'normal'),)).apply()).train(training)
    base, state = backbone(name).train(training), adapted.model.state_dict()
    base.get_classifier().load_state_dict(adapted.model.get_classifier().state_dict())

    def modulate(prefix: str, module: nn.Module, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        shape = (-1, 1, 1) if out.dim() == 4 and not isinstance(module, nn.LayerNorm) else (-1,)
        return state[f'{prefix}.scale'].view(shape) * out + state[f'{prefix}.shift'].view(shape)

    sites = [prefix.removesuffix('.scale') for prefix in state if prefix.endswith('.scale')]
    for prefix in sites:
        base.get_submodule(prefix).register_forward_hook(partial(modulate, prefix))
    torch.testing.assert_close(output(adapted.model), output(base), rtol=1e-4, atol=1e-5)
    assert len(sites) == {'vit': 6 * DEPTH + 2, 'vit_other': 8 * DEPTH + 3}.get(name, len(sites))


@pytest.mark.parametrize('layer_norm', [False, True])
def test_adaptformer_is_the_mlp_and_a_bottleneck_in_parallel(layer_norm: bool):
    """Dutt et al. 2024, Eq. 3 and 4, with the biases that the original code has."""
    adapted = perturb(Case('vit', 'adaptformer', (('layer_norm', layer_norm), ('scale', 0.3))).apply()).eval()
    base, state = backbone('vit'), adapted.model.state_dict()
    base.head.load_state_dict(adapted.model.head.state_dict())
    x = base.norm_pre(base._pos_embed(base.patch_embed(images())))
    for i, block in enumerate(base.blocks):
        prefix = f'blocks.{i}.mlp.adapter.'
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        x = x + block.attn(block.norm1(x))
        inner = F.layer_norm(x, (WIDTH,), own['norm.weight'], own['norm.bias']) if layer_norm else x
        adapt = F.relu(inner @ own['down.weight'].T + own['down.bias']) @ own['up.weight'].T + own['up.bias']
        x = block.mlp(block.norm2(x)) + 0.3 * adapt + x
    torch.testing.assert_close(output(adapted.model), base.forward_head(base.norm(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['bottleneck', 'basic'])
@pytest.mark.parametrize('training', [False, True])
def test_tsa_adds_a_convolution_in_parallel(name: str, training: bool):
    """Dutt et al. 2024, Eq. 2: r(h) + f(h), r a 1x1 convolution of the same stride."""
    adapted = perturb(Case(name, 'tsa').apply()).train(training)
    base, state = backbone(name).train(training), adapted.model.state_dict()
    base.fc.load_state_dict(adapted.model.fc.state_dict())

    def add(prefix: str, module: nn.Conv2d, inputs: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        return out + F.conv2d(inputs[0], state[f'{prefix}.alpha'], stride=module.stride)

    sites = [prefix.removesuffix('.alpha') for prefix in state if prefix.endswith('.alpha')]
    for prefix in sites:
        base.get_submodule(prefix).register_forward_hook(partial(add, prefix))
    assert len(sites) == sum(LAYERS) * (3 if name == 'bottleneck' else 2)
    assert not any('downsample' in prefix for prefix in sites)
    torch.testing.assert_close(output(adapted.model), output(base), rtol=1e-4, atol=1e-5)


def test_tsa_starts_at_a_small_identity_or_at_zero():
    alpha = Case('bottleneck', 'tsa').apply().model.layer1[0].conv1.alpha
    assert torch.equal(alpha[:, :, 0, 0], 1e-4 * torch.eye(CHANNELS[0], STEM))
    at_zero = Case('bottleneck', 'tsa', (('initial_scale', 0.0),)).apply().eval()
    assert torch.equal(output(at_zero.model), output(backbone('bottleneck')))


def test_tsa_keeps_the_groups_of_a_convolution():
    def grouped() -> ResNet:
        torch.manual_seed(0)
        return ResNet(Bottleneck, (1, 1, 1, 1), CLASSES, channels=(8, 8, 8, 8), cardinality=2, base_width=64).eval()

    adapted = perturb(methods.apply(grouped(), 'tsa', 'cnn')).eval()
    assert adapted.model.layer1[0].conv2.alpha.shape[1] == adapted.model.layer1[0].conv2.base.in_channels // 2
    torch.testing.assert_close(output(adapted.merge()), output(adapted.model), rtol=1e-4, atol=1e-5)
