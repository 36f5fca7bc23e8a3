"""Several saved adapters over one backbone in memory, one of them at work at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from medpeft_utils.core.errors import BadInput, UnknownName
from medpeft_utils.methods.adapted import Adapted, load, read
from medpeft_utils.methods.base import head_names, replace_module
from medpeft_utils.methods.structure import Structure, unchanged_on_error


class Adapters:
    """Adapters by name over one backbone, whose frozen weights they share.

        adapters = Adapters(backbone.model, backbone.family, backbone.hash)
        adapters.add('lesions', 'lesions/adapter.safetensors')
        logits = adapters.use('lesions')(images)

    `use` changes which modules the one network consists of, and computes nothing: the outputs are those of the adapter
    loaded alone, bit for bit, and memory holds the backbone and what each adapter adds or trains. Each may have a head
    of its own number of classes.

    Args:
        model: the backbone; it is the object that `use` returns.
        family: of the backbone.
        base_hash: of the backbone (`Backbone.hash`); not compared where None.
    """

    def __init__(self, model: nn.Module, family: str, base_hash: str | None = None):
        if hasattr(model, 'medpeft_method'):
            raise BadInput(f'the network has method {model.medpeft_method!r}; load the backbone again')
        self.model, self.family, self.base_hash = model, family, base_hash
        self.current: str | None = None
        self._base = Structure(model.requires_grad_(False))
        self._added: dict[str, tuple[Structure, Structure]] = {}  # what to put in, and what to put back

    def add(self, name: str, path: str | Path) -> Adapted:
        """Load a saved adapter under a name, and put it to work.

        Raises BadInput where the name is taken, and what `methods.load` raises; what was at work then goes on.
        """
        if name in self._added:
            raise BadInput(f'there is an adapter {name!r} already; give it another name')
        with unchanged_on_error(self.model):
            self._base.restore()
            _fit_head(self.model, read(Path(path))[1])
            adapted = load(self.model, path, self.family, self.base_hash)
        whole = Structure(self.model)
        self._added[name] = whole.differing(self._base), self._base.differing(whole)
        self.current = name
        return adapted

    def use(self, name: str | None) -> nn.Module:
        """Put an adapter to work, or the backbone alone (None); the network. Raises UnknownName."""
        if name is not None and name not in self._added:
            raise UnknownName('adapter', name, self._added)
        if name != self.current:
            if self.current is not None:
                self._added[self.current][1].restore()
            if name is not None:
                self._added[name][0].restore()
            self.current = name
        return self.model

    def __iter__(self) -> Iterator[str]:
        return iter(self._added)

    def __len__(self) -> int:
        return len(self._added)


def _fit_head(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Give the network a head of as many classes as the file's."""
    for name in head_names(model):
        prefix, _, leaf = name.rpartition('.')
        head = model.get_submodule(prefix)
        saved = tensors.get(name)
        if leaf == 'weight' and type(head) is nn.Linear and saved is not None and saved.shape != head.weight.shape:
            place = {'device': head.weight.device, 'dtype': head.weight.dtype}
            replace_module(model, prefix, nn.Linear(head.in_features, len(saved), head.bias is not None, **place))
