"""What makes a run the run it is: its notebook's code and parameters, the package's code, and the data's split."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from medpeft_utils.core.code import Code, essence, fingerprint, imported
from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.files import parse_json, plain
from medpeft_utils.core.hashing import digest, json_digest
from medpeft_utils.core.schema import checked
from medpeft_utils.core.values import TYPES, typed

NO_DEFAULT = object()
# Where a run's files lie says nothing about its result; the data themselves are identified by their split.
PLACES = 'record_folder', 'data_folder'


@dataclass(frozen=True)
class Parameter:
    """One line of the `parameters` cell: `name: type = default`.

    Args:
        type: a name of `TYPES`, or '' where the line tells none.
        default: `NO_DEFAULT` where a grid must give the value.
    """

    name: str
    type: str
    default: Any

    def cast(self, value: Any) -> Any:
        """The value in the notebook's type, hence 1 and 1.0 are one run. Raises BadInput where it has another."""
        return typed(self.name, self.type, value) if self.type else value


@dataclass(frozen=True)
class ExperimentNotebook:
    """The parts of a notebook file that a grid is checked and a run identified by."""

    path: Path
    parameters: dict[str, Parameter]
    code: str


def read_notebook(path: Path) -> ExperimentNotebook:
    """Read a notebook's parameters and code. Raises BadInput where it is none, or its code is no Python."""
    from pydantic import BaseModel, Field

    class Cell(BaseModel):
        cell_type: str
        source: str | list[str] = ''
        metadata: dict[str, Any] = Field(default_factory=dict)

    class Notebook(BaseModel):
        cells: list[Cell]

    try:
        content = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise BadInput(f'{path} is not a notebook: {error}') from error
    code, parameters = [], {}
    for number, cell in enumerate(checked(Notebook, content, f'{path} is not a notebook').cells):
        source = cell.source if isinstance(cell.source, str) else ''.join(cell.source)
        if cell.cell_type != 'code':
            continue
        if 'parameters' in (cell.metadata.get('tags') or []):
            parameters = read_parameters(source, path)
        else:  # defaults are no part of the code: every run records all of its parameters
            code.append(_as_python(source, f'{path}, cell {number}'))
    return ExperimentNotebook(path, parameters, '\n'.join(code))


def _as_python(source: str, where: str) -> str:
    """A cell's code as Python: lines of magics left out, other IPython syntax as the calls that it stands for.

    Raises BadInput where it is neither: the run would fail in that cell.
    """
    plain = '\n'.join(line for line in source.splitlines() if not re.match(r'\s*[%!]', line))
    if not source.lstrip().startswith('%%') and _syntax_fault(plain) is None:
        return plain
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        code = TransformerManager().transform_cell(source)
    except (SyntaxError, ValueError, RecursionError):
        code = source
    if fault := _syntax_fault(code):
        raise BadInput(f'{where}: {fault}')
    return code


def _syntax_fault(source: str) -> str | None:
    try:
        ast.parse(source)
    except SyntaxError as error:
        return f'{error.msg} in line {error.lineno}: {(error.text or "").strip()[:60]!r}'
    except (ValueError, RecursionError, MemoryError) as error:
        return f'cannot be read as Python ({error})'
    return None


def read_parameters(source: str, path: Path | str = '') -> dict[str, Parameter]:
    """The parameters that a cell declares, in its order. Raises BadInput for a line that is none."""
    if fault := _syntax_fault(source):
        raise BadInput(f'{path}, the parameters cell: {fault}')
    declared = {}
    for line in ast.parse(source).body:
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            continue  # words on the cell
        match line:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                kind = ast.unparse(line.annotation) if isinstance(line, ast.AnnAssign) else ''
            case _:
                raise BadInput(f'{path}: {ast.unparse(line)!r} in the parameters cell is not `name: type = value`')
        try:
            default = NO_DEFAULT if line.value is None else ast.literal_eval(line.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            reason = f'{ast.unparse(line.value)!r} in the parameters cell is not a plain value'
            raise BadInput(f'{path}: {reason}') from error
        kind = kind or type(default).__name__
        declared[name] = Parameter(name, kind if kind in TYPES else '', default)
    return declared


def notebook_code(path: Path) -> str:
    """The essence of a notebook's code cells, its parameters cell apart, as Python."""
    return _notebook_code(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _notebook_code(path: Path, changed: int) -> str:
    return essence(read_notebook(path).code)


def code_version(notebook: Path | None, parameters: dict[str, Any] | None = None, code: Code | None = None) -> str:
    """'<package>.<notebook>' for a record's `code_version`.

    Args:
        notebook: the experiment's; None if it is not here: 'none.none'.
        parameters: the run's.
        code: the package's files, for many calls; read again where None.
    """
    if notebook is None:
        return 'none.none'
    source, code = notebook_code(notebook), code or Code.now()
    return f'{code.version(parameters, imported(source))}.{_notebook_version(source)}'


@lru_cache(maxsize=64)  # a grid asks for each of its runs
def _notebook_version(source: str) -> str:
    return digest(fingerprint(source), length=8)


def same_code(one: str, other: str) -> bool:
    """Whether two code versions agree in the parts that both of them know."""
    parts = zip(one.split('.'), other.split('.'), strict=False)
    return all(a == b or 'none' in (a, b) for a, b in parts)


def without_places(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters without those that only name places of files."""
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
