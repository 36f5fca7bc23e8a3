"""Fine-tuning methods: one file each in this folder, found by themselves.

    adapted = methods.apply(backbone.model, 'lora', backbone.family, {'rank': 8}, seed=0)

`METHODS` holds them by key; `names`, `label` and `table1` are for grids, columns and Table 1.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from medpeft_utils.core.errors import DoesNotFit, UnknownName
from medpeft_utils.methods.adapted import Adapted, apply, check_fit, load
from medpeft_utils.methods.base import METHODS, Method, SelectiveMethod, option, register
from medpeft_utils.methods.collection import Adapters

__all__ = [
    'METHODS',
    'Adapted',
    'Adapters',
    'Method',
    'SelectiveMethod',
    'apply',
    'check_fit',
    'families',
    'label',
    'load',
    'names',
    'option',
    'register',
    'table1',
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')


def families() -> list[str]:
    """Every family that some method serves."""
    return sorted({family for method in METHODS.values() for family in method.families})


def names(family: str | None = None) -> list[str]:
    """The keys of the methods (of a family), in the order of the paper's columns."""
    if family is not None and family not in families():
        raise UnknownName('family', family, families())
    chosen = [method for method in METHODS.values() if family is None or family in method.families]
    return [method.key for method in sorted(chosen, key=lambda method: method.order)]


def label(key: str, family: str) -> str:
    """The column of the paper's tables. Raises DoesNotFit where the method does not serve the family."""
    method = METHODS[key]
    if family not in method.labels:
        raise DoesNotFit(f'method {key!r} is not for family {family!r}; methods that are: {", ".join(names(family))}')
    return method.labels[family]


def table1() -> list[dict[str, Any]]:
    """The rows of Table 1: one for each method and, where its papers differ by family, each family."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for key in names():
        method = METHODS[key]
        for family, text in method.labels.items():
            about = {'paper': method.paper, 'summary': method.summary} | method.by_family.get(family, {})
            row = {'key': key, 'label': text, 'kind': method.kind, 'families': []} | about
            rows.setdefault((key, text), row)['families'].append(family)
    return list(rows.values())
