"""Trained in float32, computed in the precision of the features: on a half-precision network as well."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

HALF = (torch.float16, torch.bfloat16)


def train_in_float32(model: nn.Module, names: Iterable[str]) -> None:
    """Keep half-precision parameters in float32, in place; their modules compute in the precision of their input.

    A step of AdamW moves a weight near 1 by the learning rate, 1e-3 or less. The numbers next to 1 in bfloat16 are
    0.004 and 0.008 away: a weight that is trained in bfloat16 never moves. Float32 parameters stay as they are.

    Args:
        names: of the trained parameters.
    """
    for name in names:
        parameter = model.get_parameter(name)
        if parameter.dtype not in HALF:
            continue
        half, parameter.data = parameter.dtype, parameter.data.float()
        prefix, _, leaf = name.rpartition('.')
        owner = model.get_submodule(prefix)
        if isinstance(owner, nn.ParameterDict):  # peft's layers, which take float32 adapters themselves
            continue
        if 'float32_parameters' not in vars(owner):
            owner.float32_parameters, owner.float32_kept = {}, []
            lower = owner.register_forward_pre_hook(_lower, with_kwargs=True)
            owner.float32_hooks = lower, owner.register_forward_hook(_raise, always_call=True)
        owner.float32_parameters[leaf] = half


def in_own_precision(model: nn.Module) -> None:
    """Undo `train_in_float32`, in place: parameters get their old precision, and no hook stays."""
    for module in model.modules():
        for leaf, half in vars(module).pop('float32_parameters', {}).items():
            if leaf in module._parameters:  # else it was merged into another
                module._parameters[leaf].data = module._parameters[leaf].data.to(half)
        for hook in vars(module).pop('float32_hooks', ()):
            hook.remove()
        vars(module).pop('float32_kept', None)


def _lower(module: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
    """Put the parameters into the precision of the first features among the arguments, for one call."""
    tensors = [a for a in (*arguments, *named.values()) if isinstance(a, torch.Tensor) and a.is_floating_point()]
    kept = {leaf: module._parameters[leaf] for leaf in module.float32_parameters}
    module.float32_kept.append(kept)
    if tensors and tensors[0].dtype in HALF:
        module._parameters.update({leaf: parameter.to(tensors[0].dtype) for leaf, parameter in kept.items()})


def _raise(module: nn.Module, arguments: tuple, output: Any) -> None:
    module._parameters.update(module.float32_kept.pop())
