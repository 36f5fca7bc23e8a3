"""The structure of a network, to be restored when a method fails, is switched off or is replaced by another."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import nn

from medpeft_utils.methods.base import BATCH_NORM, modules_of_type


class Structure:
    """The modules of a network at one moment: their classes, parts, hooks and attributes, and the tensors they hold.

    Nothing is copied: a change in place of a tensor is not undone (`detached` first gives what will change storage of
    its own). Modes of training and the values of attributes that were there before stay as they are.

    Args:
        model: the network; `restore` puts this same object back.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.modules = [(module, type(module), _copied(vars(module))) for module in model.modules()]
        self.parameters = [(p, p.data, p.requires_grad) for p in model.parameters()]
        self.members = [module for module, _, _ in self.modules]  # whose mode and device are those of the network

    def differing(self, other: Structure) -> Structure:
        """The part of this structure in which another one of the same network differs: what to restore after it."""
        kinds = {id(module): (kind, kept) for module, kind, kept in other.modules}
        tensors = {id(p): (data.data_ptr(), data.dtype, trained) for p, data, trained in other.parameters}
        part = copy(self)
        part.modules = [
            (module, kind, kept)
            for module, kind, kept in self.modules
            if id(module) in kinds and not (kind is kinds[id(module)][0] and _same(kept, kinds[id(module)][1]))
        ]
        part.parameters = [
            (p, data, trained)
            for p, data, trained in self.parameters
            if tensors.get(id(p), ()) != (data.data_ptr(), data.dtype, trained)
        ]
        part.members = [module for module, _, _ in part.modules] + [m for m in self.members if id(m) not in kinds]
        return part

    def restore(self) -> nn.Module:
        """Put the network back as it was, in place, on its present device."""
        training, device = self.model.training, next((p.device for p in self.model.parameters()), None)
        for module, kind, kept in self.modules:
            module.__class__ = kind
            held = vars(module)
            for name in held.keys() - kept.keys():
                del held[name]
            for name, value in _copied(kept).items():
                if name not in held or name.startswith('_'):
                    held[name] = value
        for parameter, data, trained in self.parameters:
            parameter.data = data
            parameter.requires_grad_(trained)
        for module in self.members:
            module.training = training
            held = itertools.chain(module._parameters.values(), module._buffers.values())
            if any(tensor is not None and tensor.device != device for tensor in held):
                module.to(device)
        return self.model


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes, the dictionaries among them (torch's: parts and hooks) copied."""
    return {name: value.copy() if type(value) in (dict, OrderedDict) else value for name, value in attributes.items()}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether attributes are the same objects, and those in the dictionaries among them."""
    if one.keys() != other.keys():
        return False
    return all(
        value is other[name]
        or (isinstance(value, dict) and isinstance(other[name], dict) and _same(value, other[name]))
        for name, value in one.items()
        if name != 'training'
    )


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[Structure]:
    """Put the network back as it was where anything raises inside."""
    before = Structure(model)
    try:
        yield before
    except BaseException:
        before.restore()
        raise


@torch.no_grad()
def detached(model: nn.Module, names: Iterable[str]) -> None:
    """Give parameters and BatchNorm statistics new storage; a holder of the old storage keeps the old values."""
    for name in names:
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.clone()
    for _, module in modules_of_type(model, BATCH_NORM):
        for leaf, buffer in module.named_buffers(recurse=False):
            module._buffers[leaf] = buffer.clone()
