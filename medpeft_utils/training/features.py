"""Features of a frozen backbone, computed once for a dataset and shared by every linear probe on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from medpeft_utils.training.augment import normalise, resize
from medpeft_utils.training.batches import View


@torch.no_grad()
def extract(model: nn.Module, images: np.ndarray, view: View, batch_size: int = 128) -> np.ndarray:
    """Pooled features [N, D] float32 of `images` [N, S, S, 3] uint8: what the head of a timm network is given."""
    model.eval()
    mean, std = torch.tensor(view.mean, device=view.device), torch.tensor(view.std, device=view.device)
    parts = []
    for start in range(0, len(images), batch_size):
        x = torch.from_numpy(np.array(images[start : start + batch_size])).to(view.device)
        x = view.precision.images(resize(normalise(x, mean, std), view.image_size))
        with view.precision.autocast(view.device):
            features = model.forward_head(model.forward_features(x), pre_logits=True)
        parts.append(features.float().cpu())
    return torch.cat(parts).numpy()


def shared(model: nn.Module, images: np.ndarray, view: View, key: str, folder: Path) -> np.ndarray:
    """`extract`, computed once for `key` (backbone, data and precision) by whichever process comes first."""
    from medpeft_utils.core.shared import once

    folder = Path(folder)
    path = folder / f'{key}.npy'

    def compute() -> dict:
        folder.mkdir(parents=True, exist_ok=True)
        features = extract(model, images, view)
        with path.open('wb') as file:  # the marker that `once` writes afterwards is what makes it count
            np.save(file, features)
        return {'file': path.name, 'shape': list(features.shape)}

    once(folder / f'{key}.json', compute)
    return np.load(path, mmap_mode='r')
