"""What makes a run the run it is: its experiment and parameters, the code that decides its result, the data's split."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import medpeft_utils
from medpeft_utils.study.files import plain
from medpeft_utils.study.notebook import read_notebook

# The parts of the package that decide a result. The runner, the report and the command line do not.
DECIDING = 'backbones', 'methods', 'data', 'training', 'metrics.py'
# Folders of which a run takes one file, by a parameter: another method, dataset or backbone decides nothing for it, and
# a new one leaves the records of all others as they are. The files named here are shared by all.
CHOICES = {
    'methods': ('method', {'__init__', 'base', 'adapted'}),
    'data/sources': ('dataset', {'__init__'}),
    'backbones/weights': ('backbone', set()),
}
SYNTHETIC = 'data/synthetic', 'synthetic_'  # this folder decides for datasets whose name begins so
NO_CODE = {'.md', '.pyc', '.txt', '.png'}
COMMANDS = {'commands.py', 'counts.py'}
# Where a run's files lie says nothing about its result; the data themselves are identified by their split.
PLACES = 'record_folder', 'data_folder'


def _digest(*parts: bytes, length: int) -> str:
    return hashlib.sha256(b'\0'.join(parts)).hexdigest()[:length]


def essence(source: str) -> str:
    """Python source without what cannot change a result: comments, layout, docstrings.

    So that a better comment does not make the records of days stale.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, 'body', None)
        if not isinstance(body, list) or isinstance(node, ast.If):
            continue
        first = body[0] if body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def deciding_files(package: Path | None = None) -> list[Path]:
    """The package's files that decide a result, weights and tables among them, in a fixed order."""
    package = package or Path(medpeft_utils.__file__).parent
    found = []
    for name in DECIDING:
        place = package / name
        inside = place.rglob('*') if place.is_dir() else [place]
        found += [file for file in inside if file.is_file() and _decides(file)]
    return sorted(found)


def _decides(file: Path) -> bool:
    return file.suffix not in NO_CODE and file.name not in COMMANDS and not file.name.startswith('.')


@lru_cache(maxsize=4096)
def _content(file: Path, changed: int, size: int) -> bytes:
    content = file.read_bytes()
    return essence(content.decode()).encode() if file.suffix == '.py' else hashlib.sha256(content).digest()


def _concerns(place: PurePath, parameters: dict[str, Any]) -> bool:
    """Whether a run with these parameters can use a file of the package."""
    folder, prefix = SYNTHETIC
    if place.parent.as_posix() == folder:
        return str(parameters.get('dataset', prefix)).startswith(prefix)
    parameter, shared = CHOICES.get(place.parent.as_posix(), ('', set()))
    return parameter not in parameters or place.stem in shared or place.stem == parameters[parameter]


def package_version(parameters: dict[str, Any] | None = None, package: Path | None = None) -> str:
    """Hash of the package's deciding files, 12 hex digits; of those alone that concern a run's `parameters`."""
    package = package or Path(medpeft_utils.__file__).parent
    parts = []
    for file in deciding_files(package):
        place = file.relative_to(package)
        if _concerns(place, parameters or {}):
            stat = file.stat()
            parts += [place.as_posix().encode(), _content(file, stat.st_mtime_ns, stat.st_size)]
    return _digest(*parts, length=12)


def notebook_version(path: Path) -> str:
    """Hash of a notebook's code cells, its parameters cell apart: 8 hex digits."""
    code = '\n'.join(line for line in read_notebook(path).code.splitlines() if not re.match(r'\s*[%!]', line))
    return _digest(essence(code).encode(), length=8)


def code_version(notebook: Path | None, parameters: dict[str, Any] | None = None, package: Path | None = None) -> str:
    """'<package>.<notebook>' for a record's `code_version`; 'none' stands for a notebook that is not here."""
    version = package_version(parameters, package)
    return f'{version}.{notebook_version(notebook) if notebook else "none"}'


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
    return _digest(json.dumps(parts, sort_keys=True).encode(), length=16)
