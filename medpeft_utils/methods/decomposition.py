"""The singular value decomposition of a backbone's weights, computed once and kept in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file


class Decomposition(NamedTuple):
    """A weight as a matrix [M, N] = left [M, K] diag(sigma [K]) right [K, N], K = min(M, N), in float32."""

    left: torch.Tensor
    sigma: torch.Tensor
    right: torch.Tensor


def decompose(weight: torch.Tensor) -> Decomposition:
    """Decompose a weight: [M, ...] as the matrix [M, N], [N] as the matrix [1, N].

    In double precision, which places the singular vectors of close singular values alike on all machines.
    """
    matrix = weight.flatten(1) if weight.dim() > 1 else weight[None]  # [M, N]
    parts = torch.linalg.svd(matrix.double(), full_matrices=False)
    return Decomposition(*(part.float().contiguous() for part in parts))


def decomposed(
    weights: dict[str, torch.Tensor], folder: str | Path | None = None
) -> Iterator[tuple[str, Decomposition]]:
    """Name and decomposition of each weight, on its device.

    Args:
        weights: by name.
        folder: where the decomposition is kept, in a file named by a hash of the weights; several processes may share
            it: one computes, the others wait. For Stable Diffusion v1.5 it is 4.3 GB, and about ten minutes of one CPU
            core. Computed here where None.
    """
    if folder is None:
        yield from ((name, decompose(weight)) for name, weight in weights.items())
        return
    path = _computed_once(weights, Path(folder))
    with safe_open(path, framework='pt') as file:
        for name, weight in weights.items():
            parts = (file.get_tensor(f'{name}.{part}').to(weight.device) for part in Decomposition._fields)
            yield name, Decomposition(*parts)


def hash_of(weights: dict[str, torch.Tensor]) -> str:
    """16 hex digits of SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f'{name} {weight.dtype} {tuple(weight.shape)}'.encode())
        digest.update(weight.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _computed_once(weights: dict[str, torch.Tensor], folder: Path) -> Path:
    from medpeft_utils.core.shared import once

    path = folder / f'svd-{hash_of(weights)}.safetensors'
    note = path.with_suffix('.json')
    if not path.is_file():
        note.unlink(missing_ok=True)  # someone freed the space: what it says is no longer so
    once(note, lambda: _write(weights, path))
    return path


def _write(weights: dict[str, torch.Tensor], path: Path) -> dict[str, int | str]:
    tensors = {}
    for name, weight in weights.items():
        for part, tensor in decompose(weight)._asdict().items():
            tensors[f'{name}.{part}'] = tensor.cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    save_file(tensors, partial)
    os.replace(partial, path)
    return {'file': path.name, 'weights': len(weights), 'bytes': path.stat().st_size}
