"""Tiny random networks for the methods' tests, the cases to go through, and every method's count as a formula.

The U-Nets are in `tiny_unets.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from tiny_unets import UNETS, is_unet, predict, unet, unet_counts
from torch import nn
from torch.nn import functional as F

from medpeft_utils import methods

CLASSES, CHANNELS, STEM = 3, (4, 6, 8, 10), 64
WIDTH, DEPTH, HEADS, PATCH, TOKENS, RATIO = 24, 2, 2, 8, 17, 4


@dataclass(frozen=True)
class Case:
    """A method with a config on a backbone."""

    backbone: str
    key: str
    config: tuple[tuple[str, Any], ...] = ()

    @property
    def family(self) -> str:
        return FAMILIES[self.backbone]

    def apply(self, model: nn.Module | None = None, seed: int = 0) -> methods.Adapted:
        model = backbone(self.backbone) if model is None else model
        return methods.apply(model, self.key, self.family, dict(self.config), seed)

    def __str__(self) -> str:
        return '-'.join([self.backbone, self.key, *(f'{name}={value}' for name, value in self.config)])


def _resnet(block: type) -> ResNet:
    return ResNet(block, layers=(1, 2, 1, 1), num_classes=CLASSES, channels=CHANNELS)


def _vit(**more: Any) -> VisionTransformer:
    size = {'img_size': 32, 'patch_size': PATCH, 'embed_dim': WIDTH, 'depth': DEPTH, 'num_heads': HEADS}
    return VisionTransformer(num_classes=CLASSES, mlp_ratio=RATIO, **size, **more)


BUILDERS = {
    'bottleneck': partial(_resnet, Bottleneck),
    'basic': partial(_resnet, BasicBlock),
    'vit': _vit,
    # what CLIP, DINOv2 and MAE-style networks have and the plain one has not
    'vit_other': partial(_vit, pre_norm=True, init_values=0.5, global_pool='avg', qkv_bias=False, qk_norm=True),
    **{name: partial(unet, name) for name in UNETS},
}
FAMILIES = {'bottleneck': 'cnn', 'basic': 'cnn', 'vit': 'vit', 'vit_other': 'vit'} | dict.fromkeys(UNETS, 'unet')
VARIANTS = [
    Case('bottleneck', 'tsa', (('convolutions', '3x3'), ('initial_scale', 0.0))),
    Case('basic', 'ssf', (('start', 'normal'),)),
    Case('vit', 'ssf', (('start', 'normal'),)),
    Case('vit', 'lora', (('rank', 3), ('alpha', 8), ('parts', 'qv'), ('train_final_norm', True))),
    Case('vit_other', 'lora', (('parts', 'qv'), ('train_final_norm', True))),
    Case('vit', 'lora', (('parts', 'qkvo'),)),
    Case('unet', 'lora', (('rank', 8), ('parts', 'qv'), ('train_final_norm', True))),
    Case('vit', 'adaptformer', (('layer_norm', True), ('bottleneck', 9), ('scale', 1))),
]
# a second U-Net for the methods alone whose rule depends on its structure
STRUCTURAL = {'bias_norm_attention_tuning', 'lora', 'sv_diff', 'difffit'}
DEFAULTS = [
    Case(name, key)
    for name, family in FAMILIES.items()
    for key in methods.names(family)
    if name != 'unet_xl' or key in STRUCTURAL
]
CASES = DEFAULTS + VARIANTS
over = partial(pytest.mark.parametrize, 'case', ids=str)


def backbone(name: str, seed: int = 0) -> nn.Module:
    """A tiny network in which no weight is at a value that hides a mistake (zero, one, running mean 0)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BUILDERS[name]()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean += 0.1 * torch.randn_like(module.running_mean)
                module.running_var += torch.rand_like(module.running_var)
    return model.eval()


def images(count: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def perturb(adapted: methods.Adapted, seed: int = 2) -> methods.Adapted:
    """Move all that is trained away from its start, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapted.trainable().values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return adapted


def train(adapted: methods.Adapted, steps: int = 3) -> methods.Adapted:
    """A few steps with an optimizer that is offered every parameter, so that only freezing protects the rest."""
    optimizer = torch.optim.AdamW(adapted.model.parameters(), lr=1e-2)
    adapted.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss(adapted.model, step).backward()
        optimizer.step()
    return adapted.eval()


def loss(model: nn.Module, seed: int) -> torch.Tensor:
    out = run(model, seed)
    return F.mse_loss(out, torch.ones_like(out)) if is_unet(model) else F.cross_entropy(out, torch.tensor([0, 1, 2, 0]))


def run(model: nn.Module, seed: int = 1) -> torch.Tensor:
    return predict(model, seed) if is_unet(model) else model(images(seed=seed))


def output(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return run(model)


EXPANSION = {'bottleneck': 4, 'basic': 1}
LAYERS = (1, 2, 1, 1)


def features(name: str) -> int:
    return CHANNELS[-1] * EXPANSION[name]


def convolutions(name: str) -> list[tuple[int, int, int]]:
    """(in, out, kernel) of every convolution that is directly in a block."""
    found, width = [], STEM
    for planes, blocks in zip(CHANNELS, LAYERS, strict=True):
        for _ in range(blocks):
            out = planes * EXPANSION[name]
            bottleneck = [(width, planes, 1), (planes, planes, 3), (planes, out, 1)]
            found += bottleneck if name == 'bottleneck' else [(width, planes, 3), (planes, planes, 3)]
            width = out
    return found


def normalised_channels(name: str) -> int:
    """Channels of all BatchNorms: the stem's, one after every convolution, and one in each stage's downsample."""
    return STEM + sum(out for _, out, _ in convolutions(name)) + sum(p * EXPANSION[name] for p in CHANNELS)


def resnet_parameters(name: str) -> int:
    blocks = sum(i * o * k * k for i, o, k in convolutions(name))
    outputs = [p * EXPANSION[name] for p in CHANNELS]
    downsamples = sum(i * o for i, o in zip([STEM, *outputs], outputs, strict=False))
    return 3 * STEM * 7 * 7 + blocks + downsamples + 2 * normalised_channels(name)


CNN_COUNTS = {
    'full_ft': lambda name, config: resnet_parameters(name),
    'linear_probing': lambda name, config: 0,
    'tsa': lambda name, config: sum(
        i * o for i, o, kernel in convolutions(name) if config.convolutions == 'every' or kernel == 3
    ),
    'bn_tuning': lambda name, config: 2 * normalised_channels(name),
    'bias_tuning': lambda name, config: normalised_channels(name),
    'ssf': lambda name, config: 2 * normalised_channels(name),
}


def vit_norms(name: str) -> int:
    """Width of all LayerNorms together."""
    before_blocks, of_q_and_k = WIDTH, DEPTH * 2 * WIDTH // HEADS
    return (2 * DEPTH + 1) * WIDTH + (before_blocks + of_q_and_k if name == 'vit_other' else 0)


def vit_linears(name: str) -> tuple[int, int]:
    """Weights and biases of the Linear layers of all blocks."""
    weights = DEPTH * (4 + 2 * RATIO) * WIDTH**2
    biases = DEPTH * (5 + RATIO) * WIDTH
    return weights, biases - (DEPTH * 3 * WIDTH if name == 'vit_other' else 0)


def patch_bias(name: str) -> int:
    return 0 if name == 'vit_other' else WIDTH  # none in front of a norm


def vit_attention(name: str, config: Any) -> int:
    biases = 4 * WIDTH if name == 'vit' else WIDTH + 4 * WIDTH // HEADS  # the norms of q and k in the other one
    return DEPTH * (4 * WIDTH**2 + biases) + TOKENS * WIDTH


def vit_parameters(name: str, config: Any) -> int:
    patch = 3 * PATCH**2 * WIDTH + patch_bias(name)
    layer_scale = DEPTH * 2 * WIDTH if name == 'vit_other' else 0
    return sum(vit_linears(name)) + 2 * vit_norms(name) + patch + (TOKENS + 1) * WIDTH + layer_scale


def adaptformer(name: str, config: Any) -> int:
    norm = 2 * WIDTH if config.layer_norm else 0
    return DEPTH * (2 * WIDTH * config.bottleneck + config.bottleneck + WIDTH + norm)


VIT_COUNTS = {
    'full_ft': vit_parameters,
    'linear_probing': lambda name, config: 0,
    'attention_tuning': vit_attention,
    'bias_tuning': lambda name, config: vit_linears(name)[1] + vit_norms(name) + patch_bias(name),
    'lora': lambda name, config: (
        DEPTH * (6 if 'o' in config.parts else 4) * WIDTH * config.rank + (2 * WIDTH if config.train_final_norm else 0)
    ),
    'ssf': lambda name, config: 2 * (DEPTH * (5 + RATIO) * WIDTH + vit_norms(name) + WIDTH),
    'adaptformer': adaptformer,
    'layernorm_tuning': lambda name, config: 2 * vit_norms(name),
}


def count(case: Case, config: Any) -> tuple[int, int]:
    """Trained parameters of a case by its formula, and those of the head."""
    if case.family == 'unet':
        return unet_counts(UNETS[case.backbone], config)[case.key], 0
    formula = CNN_COUNTS if case.family == 'cnn' else VIT_COUNTS
    width = WIDTH if case.family == 'vit' else features(case.backbone)
    return formula[case.key](case.backbone, config), width * CLASSES + CLASSES
