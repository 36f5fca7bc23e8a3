"""Draw any figure or table by its name. Importing this module finds every renderer of the folder."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

import medpeft_utils.report
from medpeft_utils.report.renderers import RENDERERS

if TYPE_CHECKING:
    import pandas as pd

    from medpeft_utils.report.output import Output

__all__ = ['RENDERERS', 'render', 'render_all']

for _module in sorted(module.name for module in pkgutil.iter_modules(medpeft_utils.report.__path__)):
    importlib.import_module(f'medpeft_utils.report.{_module}')


def render(name: str, records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Draw one figure or table. Raises UnknownName where there is none of that name."""
    return RENDERERS[name].draw(records, f1)


def render_all(records: pd.DataFrame, folder: Path | str, f1: str = 'weighted') -> list[Path]:
    """Draw and save every figure and table; give back the paths."""
    return [path for name in RENDERERS for path in render(name, records, f1).save(folder)]
