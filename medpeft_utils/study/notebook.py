"""What a study needs to know of an experiment notebook: its parameters, and the code that decides its result."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpeft_utils.core.errors import BadInput

TYPES = {'str': str, 'int': int, 'float': float, 'bool': bool, 'list': list, 'dict': dict}
NO_DEFAULT = object()


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

    def fault(self, value: Any) -> str:
        """Why `value` cannot be this parameter's, or ''."""
        if not self.type:
            return ''
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = {
            'float': number,
            'int': number and float(value).is_integer(),
            'bool': isinstance(value, bool),
        }.get(self.type, isinstance(value, TYPES[self.type]))
        return '' if fits else f'{self.name} = {value!r} is a {type(value).__name__}, the notebook wants {self.type}'

    def cast(self, value: Any) -> Any:
        """The value in the notebook's type, so that 1 and 1.0 are one run."""
        return TYPES[self.type](value) if self.type in ('int', 'float') and not self.fault(value) else value


@dataclass(frozen=True)
class ExperimentNotebook:
    """The parts of a notebook file that a grid is checked and a run identified by."""

    path: Path
    parameters: dict[str, Parameter]
    code: str


def read_notebook(path: Path) -> ExperimentNotebook:
    """Read a notebook's parameters and code. Raises BadInput where it has no usable `parameters` cell."""
    try:
        cells = json.loads(path.read_text())['cells']
    except (ValueError, KeyError) as error:
        raise BadInput(f'{path} is no notebook: {error}') from error
    code, parameters = [], {}
    for cell in cells:
        if cell['cell_type'] != 'code':
            continue
        source = ''.join(cell['source'])
        if 'parameters' in cell.get('metadata', {}).get('tags', []):
            parameters = read_parameters(source, path)
        else:  # defaults are no part of the code: every run records all of its parameters
            code.append(source)
    return ExperimentNotebook(path, parameters, '\n'.join(code))


def read_parameters(source: str, path: Path | str = '') -> dict[str, Parameter]:
    """The parameters that a cell declares, in its order. Raises BadInput for a line that is none."""
    found = {}
    for line in ast.parse(source).body:
        name, annotation, value = _declaration(line)
        if not name:
            raise BadInput(f'{path}: {ast.unparse(line)!r} in the parameters cell is not `name: type = value`')
        default = NO_DEFAULT if value is None else _literal(value, path)
        typed = annotation or type(default).__name__
        found[name] = Parameter(name, typed if typed in TYPES else '', default)
    return found


def _declaration(line: ast.stmt) -> tuple[str, str, ast.expr | None]:
    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
        return line.target.id, ast.unparse(line.annotation), line.value
    if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
        return line.targets[0].id, '', line.value
    return '', '', None


def _literal(value: ast.expr, path: Path | str) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError as error:
        raise BadInput(f'{path}: {ast.unparse(value)!r} in the parameters cell is not a plain value') from error
