"""Features of Inception v3, on which FID and KID are published, where its weights are at hand. They are never fetched.

What papers report is taken on the network that was ported from TensorFlow (pt_inception-2015-12-05), which
torch-fidelity builds; torchvision's Inception v3 has other weights and would give other numbers.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from medpeft_utils.core.errors import BadInput

FILE = 'weights-inception-2015-12-05-6726825d.pth'
SOURCE = f'https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}'


class Inception(nn.Module):
    """Uint8 images [N, 3, H, W] to the 2,048 features before Inception's classifier; resized to 299 px inside.

    Args:
        network: torchmetrics' NoTrainInceptionV3.
    """

    num_features = 2048

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] uint8 to [N, 2048]."""
        return self.network(images).reshape(len(images), -1)


def load(path: str | os.PathLike) -> Inception:
    """Inception v3 from a weights file on this machine.

    Raises:
        BadInput: no such file, a file of something else, or torch-fidelity is not installed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise BadInput(f'{path}: no such file; Inception’s weights are not fetched here, get them once from {SOURCE}')
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        # torch-fidelity unpickles without restraint: a file that holds anything but tensors is refused before it may.
        torch.load(path, map_location='meta', weights_only=True)
        network = NoTrainInceptionV3('inception-v3-compat', ['2048'], str(path))
    except ModuleNotFoundError as error:
        raise BadInput(
            'FID on Inception needs the package torch-fidelity, which builds its network: pip install torch-fidelity'
        ) from error
    except Exception as error:  # torch raises many kinds for a file that is something else
        raise BadInput(f'{path}: not the weights of Inception v3 ({error}); take {SOURCE}') from error
    return Inception(network).eval()
