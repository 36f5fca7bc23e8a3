"""Begin a deeper ViT from a trained shallower one of the same width, computing the same function.

Net2DeeperNet (Chen, Goodfellow and Shlens 2016, arXiv:1511.05641), in the residual form: a new block is a copy of its
predecessor whose two output projections are zero, so it passes its input on unchanged and learns from there.
"""

from __future__ import annotations

import torch


def block_plan(shallow: int, deep: int) -> list[tuple[int, bool]]:
    """For every block of the deep network: the block that it copies, and whether it is a new one (an identity)."""
    sources = [i * shallow // deep for i in range(deep)]
    return [(source, i > 0 and sources[i - 1] == source) for i, source in enumerate(sources)]


def deepen(state: dict[str, torch.Tensor], shallow: int, deep: int) -> dict[str, torch.Tensor]:
    """State dict of a ViT with `deep` blocks that gives the same outputs as `state`, which has `shallow`."""
    grown = {name: tensor.clone() for name, tensor in state.items() if not name.startswith('blocks.')}
    for i, (source, new) in enumerate(block_plan(shallow, deep)):
        prefix = f'blocks.{source}.'
        for name, tensor in state.items():
            if name.startswith(prefix):
                silent = new and name.removeprefix(prefix).startswith(('attn.proj.', 'mlp.fc2.'))
                grown[f'blocks.{i}.' + name.removeprefix(prefix)] = (
                    torch.zeros_like(tensor) if silent else tensor.clone()
                )
    return grown
