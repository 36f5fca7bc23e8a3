"""The registry of figures and tables: one decorated function is all that a new one costs.

    @renderer('table7', 'Time and memory', 'What does each method cost?')
    def table7(records, f1): ...        # -> Table or Figure; Nothing, where no record bears on it

A module of this folder that declares one is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from medpeft_utils.core.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

    from medpeft_utils.report.output import Output


@dataclass(frozen=True)
class Renderer:
    """A figure or table: its name (the stem of its files), title, the question it answers, and what draws it.

    `draw(records, f1)` takes the records of a study (`paper.records()` for the paper's own numbers) and the average of
    F1: 'weighted', 'macro' or 'micro'. The paper's numbers it takes from `medpeft_utils.report.paper`.
    """

    name: str
    title: str
    question: str
    draw: Callable[[pd.DataFrame, str], Output]


RENDERERS: Registry[Renderer] = Registry('figure or table', 'list(medpeft_utils.report.RENDERERS)')


def renderer(name: str, title: str, question: str):
    """Register a function (records, f1) -> Table or Figure under a name."""

    def register(draw: Callable[[pd.DataFrame, str], Output]) -> Callable[[pd.DataFrame, str], Output]:
        RENDERERS.register(name, Renderer(name, title, question, draw))
        return draw

    return register


@cache
def discovered() -> Registry[Renderer]:
    """Every renderer of the folder."""
    import medpeft_utils.report

    for module in sorted(module.name for module in pkgutil.iter_modules(medpeft_utils.report.__path__)):
        importlib.import_module(f'medpeft_utils.report.{module}')
    return RENDERERS


def render(name: str, records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Draw one figure or table. Raises UnknownName where there is none of that name."""
    return discovered()[name].draw(records, f1)


def render_all(records: pd.DataFrame, folder: Path | str, f1: str = 'weighted') -> list[Path]:
    """Draw and save every figure and table; give back the paths."""
    return [path for name in discovered() for path in render(name, records, f1).save(folder)]
