"""Tiny random networks for the methods' tests, the cases to go through, and every method's count as a formula.

The U-Nets are in `tiny_unets.py`.
"""

from __future__ import annotations

from collections.abc import Callable
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
    Case('vit', 'lora', (('start', 'gaussian'),)),
    Case('bottleneck', 'lora', (('rank', 3), ('alpha', 8))),
    Case('vit', 'dora', (('rank', 3), ('alpha', 8), ('parts', 'qv'))),
    Case('vit', 'pissa', (('parts', 'qkvo'),)),
    Case('vit', 'vera', (('rank', 5), ('parts', 'qkvo'))),
    Case('bottleneck', 'lokr', (('rank', 1),)),
    Case('vit', 'fourierft', (('zero_start', False), ('frequencies', 50), ('scaling', 30))),
    Case('vit', 'last_blocks', (('blocks', 2),)),
    Case('vit', 'apla', (('columns', 7),)),
    Case('vit_other', 'convpass', (('width', 3), ('scale', 0.3))),
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
    """A few steps with an optimizer that gets every parameter: only freezing protects the rest."""
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


def run(model: nn.Module, seed: int = 1, dtype: torch.dtype | None = None) -> torch.Tensor:
    return predict(model, seed, dtype) if is_unet(model) else model(images(seed=seed).to(dtype))


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


def factors(size: int) -> tuple[int, int]:
    """The two divisors of a number nearest to its root, the smaller first (Yeh et al. 2024, f = -1)."""
    first = max(d for d in range(1, int(size**0.5) + 1) if size % d == 0)
    return first, size // first


def lokr(inputs: int, outputs: int, rank: int, kernel: int = 1) -> int:
    """W1 of the smaller factors; W2 of the larger, and of the kernel, in two parts where the rank is below half."""
    (small_in, large_in), (small_out, large_out) = factors(inputs), factors(outputs)
    whole = rank >= max(large_in, large_out) / 2
    second = large_out * large_in * kernel**2 if whole else rank * (large_out + large_in * kernel**2)
    return small_in * small_out + second


def every_convolution(name: str) -> list[tuple[int, int, int]]:
    """Those of the blocks and of the downsamples; the stem's is left out."""
    outputs = [p * EXPANSION[name] for p in CHANNELS]
    return convolutions(name) + [(i, o, 1) for i, o in zip([STEM, *outputs], outputs, strict=False)]


def cnn_lora(name: str, config: Any) -> int:
    return sum(config.rank * (i * k * k + o) for i, o, k in every_convolution(name))


CNN_COUNTS = {
    'full_ft': lambda name, config: resnet_parameters(name),
    'linear_probing': lambda name, config: 0,
    'tsa': lambda name, config: sum(
        i * o for i, o, kernel in convolutions(name) if config.convolutions == 'every' or kernel == 3
    ),
    'bn_tuning': lambda name, config: 2 * normalised_channels(name),
    'bias_tuning': lambda name, config: normalised_channels(name),
    'ssf': lambda name, config: 2 * normalised_channels(name),
    'lora': cnn_lora,
    'rslora': cnn_lora,
    'dora': lambda name, config: cnn_lora(name, config) + sum(o for _, o, _ in every_convolution(name)),
    'lokr': lambda name, config: sum(lokr(i, o, config.rank, k) for i, o, k in every_convolution(name)),
    'last_blocks': lambda name, config: last_residual_block(name),
}


def last_residual_block(name: str) -> int:
    """The only block of the last stage: its convolutions, its downsample, and the norms behind each."""
    planes, before, width = CHANNELS[-1], CHANNELS[-2] * EXPANSION[name], features(name)
    block = [*convolutions(name)[-3 if name == 'bottleneck' else -2 :], (before, width, 1)]
    assert block[0][0] == before
    assert planes == block[0][1]
    return sum(i * o * k * k + 2 * o for i, o, k in block)


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


def adapted_matrices(config: Any) -> list[tuple[int, int]]:
    """(in, out) of the matrices that an update is added to in a block."""
    fused = [(WIDTH, WIDTH)] * 2 if config.parts == 'qv' else [(WIDTH, 3 * WIDTH)]
    return fused + ([(WIDTH, WIDTH)] if config.parts == 'qkvo' else [])


def per_matrix(formula: Callable[[int, int, Any], int]) -> Callable[[str, Any], int]:
    return lambda name, config: DEPTH * sum(formula(i, o, config) for i, o in adapted_matrices(config))


def vit_last_blocks(name: str, config: Any) -> int:
    """The last blocks with the norm behind them."""
    block = (vit_parameters(name, config) - outside_blocks(name)) // DEPTH
    return config.blocks * block + 2 * WIDTH


def outside_blocks(name: str) -> int:
    """Patch embedding, position embedding, class token, the final norm, and the one before the blocks."""
    norms = 2 * WIDTH * (2 if name == 'vit_other' else 1)
    return 3 * PATCH**2 * WIDTH + patch_bias(name) + (TOKENS + 1) * WIDTH + norms


def apla(name: str, config: Any) -> int:
    return DEPTH * (config.columns or WIDTH) * (WIDTH + 1)


def convpass(name: str, config: Any) -> int:
    h = config.width
    return DEPTH * 2 * ((WIDTH * h + h) + (9 * h * h + h) + (h * WIDTH + WIDTH))


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
    'dora': per_matrix(lambda i, o, config: config.rank * (i + o) + o),
    'rslora': per_matrix(lambda i, o, config: config.rank * (i + o)),
    'pissa': per_matrix(lambda i, o, config: config.rank * (i + o)),
    'vera': per_matrix(lambda i, o, config: config.rank + o),
    'ia3': lambda name, config: DEPTH * (2 * WIDTH + RATIO * WIDTH),
    # blocks of b rotated features, each a skew-symmetric matrix; 32 does not divide 24
    'oft': per_matrix(lambda i, o, config: WIDTH // 24 * (24 * 23 // 2) if config.block_size == 32 else 0),
    'lokr': per_matrix(lambda i, o, config: lokr(i, o, config.rank)),
    # enough products of rank r for the full rank of the matrix, each with a diagonal on either side
    'randlora': per_matrix(lambda i, o, config: -(-min(i, o) // config.rank) * (config.rank + min(i, o))),
    'fourierft': per_matrix(lambda i, o, config: config.frequencies),
    'last_blocks': vit_last_blocks,
    'vpt_shallow': lambda name, config: config.tokens * WIDTH,
    'vpt_deep': lambda name, config: DEPTH * config.tokens * WIDTH,
    'apla': apla,
    'convpass': convpass,
}


def count(case: Case, config: Any) -> tuple[int, int]:
    """Trained parameters of a case by its formula, and those of the head."""
    if case.family == 'unet':
        return unet_counts(UNETS[case.backbone], config)[case.key], 0
    formula = CNN_COUNTS if case.family == 'cnn' else VIT_COUNTS
    width = WIDTH if case.family == 'vit' else features(case.backbone)
    return formula[case.key](case.backbone, config), width * CLASSES + CLASSES
