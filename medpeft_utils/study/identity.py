"""What makes a run the run it is: its experiment and parameters, the code that decides its result, the data's split."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from medpeft_utils.core.code import Code, essence, fingerprint, imported
from medpeft_utils.core.files import plain
from medpeft_utils.core.hashing import digest, json_digest
from medpeft_utils.study.notebook import read_notebook

# Where a run's files lie says nothing about its result; the data themselves are identified by their split.
PLACES = 'record_folder', 'data_folder'


def notebook_code(path: Path) -> str:
    """The essence of a notebook's code cells, its parameters cell apart, as Python."""
    return _notebook_code(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _notebook_code(path: Path, changed: int) -> str:
    return essence(read_notebook(path).code)


def code_version(notebook: Path | None, parameters: dict[str, Any] | None = None, code: Code | None = None) -> str:
    """'<package>.<notebook>' for a record's `code_version`.

    Args:
        notebook: the experiment's; None stands for one that is not here, of which nothing is known: 'none.none'.
        parameters: the run's.
        code: the package's files, for many calls; read again where None.
    """
    if notebook is None:
        return 'none.none'
    source, code = notebook_code(notebook), code or Code.now()
    return f'{code.version(parameters, imported(source))}.{_version_of(source)}'


@lru_cache(maxsize=64)  # a grid asks for each of its runs
def _version_of(source: str) -> str:
    return digest(fingerprint(source), length=8)


def same_code(one: str, other: str) -> bool:
    """Whether two code versions agree in the parts that both of them know."""
    parts = zip(one.split('.'), other.split('.'), strict=False)
    return all(a == b or 'none' in (a, b) for a, b in parts)


def without_places(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters but for those that only say where files lie."""
    return {name: value for name, value in parameters.items() if name not in PLACES}


def run_hash(experiment: str, parameters: dict[str, Any], version: str, split: str | None = None) -> str:
    """The identity of a run: 16 hex digits.

    Args:
        experiment: the notebook's stem.
        parameters: all of the notebook's parameters; those that only say where files lie are left out.
        version: `code_version`.
        split: hash of the data's split, where it is known before the run.
    """
    parts = [experiment, plain(without_places(parameters)), version, split]
    return json_digest(parts)
