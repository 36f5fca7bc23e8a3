"""Initialise the `fc_norm` of a network that averages its tokens: every feature gets variance 1 over images.

The average of a masked autoencoder's tokens is nearly the same for every image: here its part that varies is 2 % of the
whole. Behind a fresh `fc_norm` (weight 1, bias 0) a head would see features that vary by 0.02, and learn nothing in
hundreds of steps. He et al. 2022, arXiv:2111.06377, App. A.1, put a BatchNorm without parameters before a linear head
for this reason. Here the same standardisation is written into the weight and the bias of `fc_norm`, once, from images
of the pre-training and no labels; LoRA and full fine-tuning both start from it, and both train it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from medpeft_utils.backbones.small import SMALL_BACKBONES
from medpeft_utils.training.augment import normalise, resize

IMAGES = 2_000
MEAN = STD = (0.5, 0.5, 0.5)


def averages_tokens(name: str) -> bool:
    """Whether the shipped network of that name averages its patch tokens, so it has an `fc_norm`."""
    return SMALL_BACKBONES[name].architecture.get('global_pool') == 'avg'


@torch.no_grad()
def calibrated_norm(
    name: str, encoder: dict[str, torch.Tensor], images: np.ndarray, batch: int = 250
) -> dict[str, torch.Tensor]:
    """The weight and bias, [D] float32 each, with which every output of `fc_norm` has mean 0 and deviation 1.

    Args:
        name: of a network that averages its tokens.
        encoder: its tensors as they will be stored.
        images: [N, S, S, 3] uint8, of which the first `IMAGES` count.
    """
    model = SMALL_BACKBONES[name].build(num_classes=0).eval()
    model.load_state_dict({key: value.float() for key, value in encoder.items()}, strict=False)
    mean, std, size = torch.tensor(MEAN), torch.tensor(STD), SMALL_BACKBONES[name].image_size
    parts = []
    for start in range(0, min(len(images), IMAGES), batch):
        x = normalise(torch.from_numpy(images[start : min(start + batch, IMAGES)]), mean, std)
        pooled = model.pool(model.forward_features(resize(x, size)))  # [B, D]
        parts.append(F.layer_norm(pooled, pooled.shape[-1:], eps=model.fc_norm.eps))
    features = torch.cat(parts)
    deviation = features.std(dim=0).clamp(min=1e-4)
    return {'fc_norm.weight': 1 / deviation, 'fc_norm.bias': -features.mean(dim=0) / deviation}
