"""How much GPU memory a training of Stable Diffusion v1.5 needs, computed without a GPU.

    weights      4 bytes a parameter of the U-Net and of what the method adds, its frozen factors too (SV-Diff)
    gradients    4 bytes a trained parameter
    optimizer    8 bytes a trained parameter (AdamW's two moments)
    activations  what autograd keeps for the backward pass, counted tensor by tensor on the meta device, which has
                 shapes and no memory. Part of it is the same for any batch; the rest grows with the batch
    copies       2 bytes a parameter: autocast's copies of the weights in bfloat16
    context      1 GiB for CUDA itself, libraries, and working space

The sum is an upper bound: it counts activations in float32 and all attention scores, while bfloat16 and the fused
kernels keep half of that or less. VAE and text encoder have finished their work and lie in the computer's own memory.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache

import torch
from torch import nn

from medpeft_utils import methods
from medpeft_utils.methods.unet import STABLE_DIFFUSION_V1_5, build

GIB = 2**30
IMAGE_SIZE, SHRINKING, TOKENS = 224, 8, 77  # px of Dutt et al. 2024; px to a place of the latents; CLIP's tokens


@dataclass(frozen=True)
class Memory:
    """Bytes by their use, and the pairs that pass through the network at a time."""

    method: str
    trained: int
    micro_batch: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    copies: int
    context: int = GIB

    def row(self) -> dict[str, float | int | str]:
        """A row of a table, in gibibytes rounded to a tenth."""
        about = {'method': self.method, 'trained_parameters': self.trained, 'micro_batch': self.micro_batch}
        parts = {name: size for name, size in asdict(self).items() if name not in ('method', 'trained', 'micro_batch')}
        parts['total'] = sum(parts.values())
        return about | {name: round(size / GIB, 1) for name, size in parts.items()}


def kept_bytes(model: nn.Module, batch: int, side: int, width: int) -> int:
    """Bytes that autograd keeps of a forward pass of a U-Net on the meta device, parameters and buffers left out.

    Args:
        batch: pairs.
        side: of the latents.
        width: of the text embeddings.
    """
    weights = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # while we hold it, no other storage gets its number
        return tensor

    with torch.device('meta'), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        inputs = torch.empty(batch, 4, side, side), torch.empty(batch), torch.empty(batch, TOKENS, width)
        model(inputs[0], inputs[1], encoder_hidden_states=inputs[2])
    return sum(storage.nbytes() for storage in kept.values())


@cache
def _measured(method: str, image_size: int) -> tuple[int, int, int, int]:
    """Parameters and buffers, trained parameters, bytes that are kept for any batch, and bytes for each pair."""
    with torch.device('meta'):
        adapted = methods.apply(build(STABLE_DIFFUSION_V1_5), method, 'unet')
    adapted.train()
    side, width = image_size // SHRINKING, STABLE_DIFFUSION_V1_5['cross_attention_dim']
    one, two = (kept_bytes(adapted.model, batch, side, width) for batch in (1, 2))
    numbers = sum(t.numel() for t in (*adapted.model.parameters(), *adapted.model.buffers()))
    return numbers, adapted.count(), 2 * one - two, two - one


def estimate(method: str, micro_batch: int = 8, image_size: int = IMAGE_SIZE) -> Memory:
    """The memory of a training step of Stable Diffusion v1.5 with a method.

    Args:
        method: a key of the registry.
        micro_batch: pairs that pass through the network at a time; a batch of 512 has many such parts.
        image_size: pixels.
    """
    numbers, trained, fixed, each = _measured(method, image_size)
    activations = fixed + micro_batch * each
    return Memory(method, trained, micro_batch, 4 * numbers, 4 * trained, 8 * trained, activations, 2 * numbers)


def table(micro_batch: int = 8, image_size: int = IMAGE_SIZE) -> list[dict]:
    """A row for each method of the U-Net, in gibibytes."""
    return [estimate(method, micro_batch, image_size).row() for method in methods.names('unet')]
