"""The small backbones that the project trains itself and ships.

Each has the depth and the layout of the timm network that it stands for, and every method applies to it unchanged; only
the width, the number of heads and the input are smaller. `recipes/backbones` trains them; each card in
`medpeft_utils/backbones/weights` lies beside its weights.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib import abc, util
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
        architecture: the keyword arguments of timm's `ResNet` or `VisionTransformer` (its LayerNorm's epsilon is 1e-6).
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
        import timm

        register_with_timm()
        size = {'img_size': image_size} if image_size and self.family == 'vit' else {}
        return timm.create_model(self.name, num_classes=num_classes, in_chans=in_channels, **size, **overrides)

    def entry_point(self, pretrained: bool = False, **arguments: Any):
        """What timm calls for this name: the network, with the shipped weights where asked for."""
        from timm.models import build_model_with_cfg, resnet, vision_transformer

        if self.family == 'cnn':
            settings = {'block': resnet.Bottleneck} | self.architecture | arguments
            return build_model_with_cfg(resnet.ResNet, self.name, pretrained, **settings)
        settings = {'img_size': self.image_size} | self.architecture | arguments

        def resized(state: dict, model: Any) -> dict:
            """In float32, and without the norm of masked pre-training, which a network with `fc_norm` lacks."""
            state = {key: value.float() for key, value in state.items()}
            own = model.state_dict()
            return {k: v for k, v in vision_transformer.checkpoint_filter_fn(state, model).items() if k in own}

        network = vision_transformer.VisionTransformer
        return build_model_with_cfg(network, self.name, pretrained, pretrained_filter_fn=resized, **settings)


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


@cache
def register_with_timm() -> None:
    """Enter the shipped backbones into timm's registry: `timm.create_model('vit_base_mini', pretrained=True)`."""
    from timm.models import generate_default_cfgs, register_model

    this = sys.modules[__name__]
    cfgs = {}
    for name, small in SMALL_BACKBONES.items():
        side = small.image_size
        cfgs[name] = {
            'file': str(small.weights),
            'num_classes': 0,
            'input_size': (3, side, side),
            'mean': (0.5,) * 3,
            'std': (0.5,) * 3,
            'classifier': 'fc' if small.family == 'cnn' else 'head',
            'first_conv': 'conv1' if small.family == 'cnn' else 'patch_embed.proj',
        }
    this.default_cfgs = generate_default_cfgs(cfgs)
    for name, small in SMALL_BACKBONES.items():

        def entry(pretrained: bool = False, small: SmallBackbone = small, **arguments: Any):
            return small.entry_point(pretrained, **arguments)

        entry.__name__ = entry.__qualname__ = name
        register_model(entry)


class RegisterOnceTimmIsThere(abc.MetaPathFinder):
    """Registers when timm is imported later: importing it here would cost seconds that most commands do not need."""

    def find_spec(self, name: str, path: Any, target: Any = None):
        if name != 'timm':
            return None
        sys.meta_path.remove(self)
        spec = util.find_spec('timm')
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                register_with_timm()

            spec.loader.exec_module = exec_module
        return spec


if 'timm' in sys.modules:
    register_with_timm()
else:
    sys.meta_path.insert(0, RegisterOnceTimmIsThere())
