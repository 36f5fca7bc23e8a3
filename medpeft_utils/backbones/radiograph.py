"""The two chest-radiograph networks of Lian et al. 2024, whose weights the user brings as a file.

Their authors share them by links that a program cannot fetch, and there is no download here: `load` takes them with
`weights=FILE`. The network is the one in which the papers fine-tune: a ViT-B/16 whose patch tokens are averaged (the
class token left out) and then normalised by `fc_norm` (He et al. 2022, arXiv:2111.06377, fine-tuning code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

HEAD_STD = 2e-5  # the authors' initialisation of the head: logits of about 0, for a soft start of full fine-tuning


@dataclass(frozen=True)
class RadiographBackbone:
    """A published network that is loaded from the user's file.

    Args:
        name: how `backbones.load` knows it.
        label: what Lian et al. 2024 call it.
        architecture: the timm network.
        mean, std: of grey values in 0..1, from the authors' fine-tuning code (`datasets.py`).
        source: the publication.
        how_to_obtain: where to get the file.
    """

    name: str
    label: str
    architecture: str
    mean: float
    std: float
    source: str
    how_to_obtain: str

    def build(self, num_classes: int = 0, image_size: int | None = None, **more: Any) -> nn.Module:
        """The network with random weights: [B, 3, S, S] to [B, num_classes] ([B, D] pooled features for 0 classes)."""
        import timm
        from timm.layers import trunc_normal_

        size = {'img_size': image_size} if image_size else {}
        model = timm.create_model(
            self.architecture, pretrained=False, num_classes=num_classes, global_pool='avg', **size, **more
        )
        if num_classes:
            trunc_normal_(model.head.weight, std=HEAD_STD)
        return model


RADIOGRAPH_BACKBONES: dict[str, RadiographBackbone] = {
    backbone.name: backbone
    for backbone in (
        RadiographBackbone(
            'vit_base_patch16_224.mrm',
            'MRM',
            'vit_base_patch16_224',
            mean=0.4978,
            std=0.2449,
            source='Zhou et al. 2023, Advancing Radiograph Representation Learning with Masked Record Modeling, '
            'arXiv:2301.13155',
            how_to_obtain='take MRM.pth by the link in the README of https://github.com/RL4M/MRM-pytorch',
        ),
        RadiographBackbone(
            'vit_base_patch16_224.cxr_mae',
            'CXR-MAE',
            'vit_base_patch16_224',
            mean=0.4785,
            std=0.2834,
            source='Xiao et al. 2023, Delving into Masked Autoencoders for Multi-Label Thorax Disease Classification, '
            'arXiv:2210.12843',
            how_to_obtain='take CXR_MAE.pth by the link in the README of https://github.com/RL4M/MED-PEFT, or the '
            'ViT-Base/16 of 0.5M X-rays from https://github.com/lambert-x/medical_mae',
        ),
    )
}
