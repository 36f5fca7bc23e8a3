"""Tiny random networks of timm's families: the same classes, parts and names as the published ones, few and narrow."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from medpeft_utils import methods
from medpeft_utils.core.errors import DoesNotFit

CLASSES = 3
VIT = {'img_size': 32, 'patch_size': 8, 'embed_dim': 24, 'depth': 2, 'num_heads': 2}
STAGES = {'depths': (1, 1, 1, 1), 'embed_dim': 8}


@dataclass(frozen=True)
class Tiny:
    """A timm architecture with arguments that make it small.

    Args:
        architecture: timm's name.
        more: arguments of its class or of its builder.
        size: side of the input in pixels.
    """

    architecture: str
    more: dict[str, Any] = field(default_factory=dict)
    size: int = 32

    def build(self, seed: int = 0) -> nn.Module:
        """The network, with no weight at a value that hides a mistake (zero, one)."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = timm.create_model(self.architecture, num_classes=CLASSES, **self.more)
            for parameter in model.parameters():
                parameter.data += 0.05 * torch.randn_like(parameter)
        return model.eval()

    def images(self, count: int = 4, seed: int = 1) -> torch.Tensor:
        return torch.randn(count, 3, self.size, self.size, generator=torch.Generator().manual_seed(seed))


def _stages(**more: Any) -> dict[str, Any]:
    return {'depths': (1, 1, 1, 1), **more}


FAMILIES: dict[str, dict[str, Tiny]] = {
    'cnn': {
        'ResNet': Tiny('resnet26', {'layers': (1, 1, 1, 1), 'channels': (4, 6, 8, 10)}),
        'ResNet-D, SE': Tiny('seresnet50', {'layers': (1, 1, 1, 1), 'channels': (16, 16, 16, 16)}),
        'Res2Net': Tiny('res2net50_26w_4s', {'layers': (1, 1, 1, 1), 'channels': (4, 6, 8, 10)}),
        'ResNeSt': Tiny('resnest14d', {'layers': (1, 1, 1, 1), 'channels': (16, 16, 16, 16), 'stem_width': 8}),
        'ResNetV2': Tiny('resnetv2_50', {'layers': (1, 1, 1, 1), 'channels': (16, 16, 16, 16), 'stem_chs': 16}),
        'EfficientNet': Tiny('efficientnet_b0'),
        'EfficientNet-Lite': Tiny('tf_efficientnet_lite0'),
        'MobileNetV3': Tiny('mobilenetv3_small_050'),
        'RegNet': Tiny('regnety_002'),
        'DenseNet': Tiny('densenet121', {'growth_rate': 4, 'block_config': (1, 1, 1, 1)}),
        'ConvNeXt': Tiny('convnext_atto', _stages(dims=(8, 16, 16, 16), ls_init_value=0.1)),
        'ConvNeXt V2': Tiny('convnextv2_atto', _stages(dims=(8, 16, 16, 16))),
    },
    'vit': {
        'ViT': Tiny('vit_tiny_patch16_224', VIT),
        'ViT, hybrid': Tiny('vit_tiny_r_s16_p8_224', {'img_size': 64, 'embed_dim': 24, 'depth': 2, 'num_heads': 2}, 64),
        'DeiT III': Tiny('deit3_small_patch16_224', VIT),
        'CLIP': Tiny('vit_base_patch16_clip_224', VIT),
        'SigLIP': Tiny('vit_base_patch16_siglip_224', VIT),
        'DINOv2': Tiny('vit_small_patch14_dinov2', VIT | {'init_values': 0.5}),
        'DINOv2, registers': Tiny('vit_small_patch14_reg4_dinov2', VIT | {'init_values': 0.5}),
        'DINOv3': Tiny('vit_small_patch16_dinov3', VIT | {'init_values': 0.5}),
        'EVA': Tiny('eva_giant_patch14_224', VIT),
        'EVA-02': Tiny('eva02_base_patch14_224', VIT),
        'BEiT': Tiny('beit_base_patch16_224', VIT | {'init_values': 0.5}),
        'BEiT v2': Tiny('beitv2_base_patch16_224', VIT | {'init_values': 0.5}),
        'CaiT': Tiny('cait_xxs24_224', VIT | {'init_values': 0.5}),
        'Swin': Tiny(
            'swin_tiny_patch4_window7_224',
            {'img_size': 32, 'window_size': 4, 'embed_dim': 8, 'depths': (2, 1), 'num_heads': (2, 2)},
        ),
        'Swin V2': Tiny(
            'swinv2_tiny_window8_256',
            {'img_size': 32, 'window_size': 4, 'embed_dim': 8, 'depths': (2, 1), 'num_heads': (2, 2)},
        ),
        'PVT v2': Tiny(
            'pvt_v2_b0', {'depths': (1, 1, 1, 1), 'embed_dims': (8, 16, 16, 16), 'num_heads': (1, 2, 2, 2)}, 64
        ),
        'XCiT': Tiny('xcit_nano_12_p16_224', VIT | {'eta': 0.5}),
    },
}
NETWORKS = {name: tiny for members in FAMILIES.values() for name, tiny in members.items()}
SMALL_ENOUGH = {'fourierft': {'frequencies': 40}}  # the smallest layer has 64 weights
FAMILY_OF = {name: family for family, members in FAMILIES.items() for name in members}


def applied(name: str, key: str) -> methods.Adapted | None:
    """A method on a network; None where it does not fit."""
    try:
        return methods.apply(NETWORKS[name].build(), key, FAMILY_OF[name], SMALL_ENOUGH.get(key))
    except DoesNotFit:
        return None


def table(family: str) -> list[str]:
    """Methods by networks in Markdown: yes, part (something is left out), or – where a method does not fit."""
    keys, notes = methods.names(family), {}
    lines = ['| | ' + ' | '.join(methods.label(key, family) for key in keys) + ' |', '| --- ' * (len(keys) + 1) + '|']
    for name, tiny in FAMILIES[family].items():
        cells = []
        for key in keys:
            adapted = applied(name, key)
            cells.append('–' if adapted is None else 'part' if adapted.left_out else 'yes')
            if adapted is not None and adapted.left_out:
                some = ', '.join(f'`{part}`' for part in adapted.left_out[:2])
                more = f' and {len(adapted.left_out) - 2} more' if len(adapted.left_out) > 2 else ''
                notes.setdefault((name, some + more), []).append(methods.label(key, family))
        lines.append(f'| {name} (`{tiny.architecture}`) | ' + ' | '.join(cells) + ' |')
    return [
        *lines,
        '',
        'What is left out where the table says *part*:',
        '',
        *[f'- {name}; {", ".join(of)}: {what}' for (name, what), of in notes.items()],
        '',
    ]


def page() -> str:
    """docs/methods.md."""
    return '\n'.join(
        [
            '# Which method fits which network',
            '',
            '`python tests/tiny_families.py docs/methods.md` writes this page from tiny versions of the networks.',
            '`tests/test_families.py` checks the page, and that every trained tensor moves, that outputs change and',
            'that merging gives the same outputs. *part*: the method fits but leaves out something of its kind',
            '(`Adapted.left_out`); *–*: it finds nothing to train and raises an error.',
            '',
            '## CNNs',
            '',
            *table('cnn'),
            '## Transformers',
            '',
            *table('vit'),
        ]
    )


if __name__ == '__main__':
    Path(sys.argv[1]).write_text(page())
