"""The small backbones that the project trains itself and ships.

Each has the depth and the layout of the timm network that it stands for, so that every method applies to it
unchanged; only the width, the number of heads and the input are smaller. `medpeft_utils/pretraining` trains them and
`medpeft_utils/backbones/weights` holds the weights, each beside its card.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

WEIGHTS_FOLDER = Path(__file__).parent / 'weights'


# Narrow networks, trained for tens of steps, want rates about ten times those of the networks that they stand for: on
# synthetic_ham10000 (80 steps of 32 images, one seed, validation macro-F1) 10 times the default was the best of 3, 10
# and 30 times, or within 0.05 of it, for every method but SSF on the ViT, which was best at 3 times.
LEARNING_RATE_FACTOR = 10.0


@dataclass(frozen=True)
class SmallBackbone:
    """The architecture of one shipped backbone.

    Args:
        name: how `backbones.load` knows it.
        stands_for: the timm network whose depth and layout it has.
        family: 'cnn' or 'vit'.
        image_size: side of the square input in pixels.
        architecture: the keyword arguments of timm's `ResNet` or `VisionTransformer`.
    """

    name: str
    stands_for: str
    family: str
    image_size: int
    architecture: dict[str, Any]

    @property
    def weights(self) -> Path:
        return WEIGHTS_FOLDER / f'{self.name}.safetensors'

    def build(self, num_classes: int = 0, image_size: int | None = None, in_channels: int = 3, **overrides):
        """A randomly initialised network: [B, C, H, W] images to [B, num_classes] logits ([B, D] features for 0)."""
        if self.family == 'cnn':
            from timm.models.resnet import Bottleneck, ResNet

            return ResNet(
                block=Bottleneck, num_classes=num_classes, in_chans=in_channels, **(self.architecture | overrides)
            )
        import torch
        from timm.models.vision_transformer import VisionTransformer

        settings = self.architecture | overrides
        return VisionTransformer(
            img_size=image_size or self.image_size,
            num_classes=num_classes,
            in_chans=in_channels,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            **settings,
        )


def _vit(depth: int, **more: Any) -> dict[str, Any]:
    return {'patch_size': 8, 'embed_dim': 96, 'depth': depth, 'num_heads': 2} | more


SMALL_BACKBONES: dict[str, SmallBackbone] = {
    backbone.name: backbone
    for backbone in (
        SmallBackbone('resnet50_mini', 'resnet50', 'cnn', 64, {'layers': (3, 4, 6, 3), 'channels': (16, 32, 64, 128)}),
        SmallBackbone('vit_base_mini', 'vit_base_patch16_224', 'vit', 48, _vit(12)),
        SmallBackbone('vit_large_mini', 'vit_large_patch16_224', 'vit', 48, _vit(24)),
        SmallBackbone('vit_huge_mini', 'vit_huge_patch14_224', 'vit', 48, _vit(32)),
        SmallBackbone('vit_base_mini_mae', 'vit_base_patch16_224.mae', 'vit', 48, _vit(12)),
        SmallBackbone('vit_base_mini_clip', 'vit_base_patch16_clip_224', 'vit', 48, _vit(12, pre_norm=True)),
        SmallBackbone('vit_base_mini_cxr_mae', 'vit_base_patch16_224.cxr_mae', 'vit', 48, _vit(12, global_pool='avg')),
        SmallBackbone('vit_base_mini_mrm', 'vit_base_patch16_224.mrm', 'vit', 48, _vit(12, global_pool='avg')),
    )
}
