"""The code that decides a run's result: what the experiment's notebook imports, and what that imports in turn.

Read from the source, without importing anything. So a new dataset, method, backbone, figure or experiment leaves the
records of all other runs as they are, and a change in what a run does use makes its records stale.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import medpeft_utils

# These run, show and measure a study; nothing in them changes what a run finds. The search for near duplicates
# decides by the split alone, whose hash is part of a run's identity.
NOT_DECIDING = {'core', 'study', 'report', 'compare', 'cli', 'plots', 'commands', 'duplicates', 'check', 'pages'}
# Folders of which a run takes the file that registers what a parameter names; a registry finds it, no import does.
CHOICES = {
    'methods': 'method',
    'data/sources': 'dataset',
    'backbones/weights': 'backbone',
}
SYNTHETIC = 'data/synthetic', 'synthetic_'  # this folder decides for datasets whose name begins so


def _stripped(source: str) -> ast.Module:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, 'body', None)
        if not isinstance(body, list) or isinstance(node, ast.If):
            continue
        first = body[0] if body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = body[1:] or [ast.Pass()]
    return tree


def essence(source: str) -> str:
    """Python source without what cannot change a result: comments, layout, docstrings.

    So that a better comment does not make the records of days stale.
    """
    return ast.unparse(_stripped(source))


def fingerprint(source: str) -> bytes:
    """What counts of Python source, the same in every version of Python.

    Python 3.12 writes f-strings with other quotes than 3.11 (`ast.unparse`) and knows fields that 3.11 does not: the
    tree is written here, without fields that are empty. So a record of another machine is as good as one of this.
    """
    return repr(_plain(_stripped(source))).encode()


def _plain(node: Any) -> Any:
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    if isinstance(node, ast.JoinedStr):  # Python 3.12.1 ends the format of an f-string by an empty constant
        node.values = [part for part in node.values if getattr(part, 'value', None) != '']
    fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []) and name != 'kind')
    return (type(node).__name__, *((name, _plain(value)) for name, value in fields))


@lru_cache(maxsize=1024)
def imported(source: str, package: str = 'medpeft_utils') -> frozenset[str]:
    """Dotted names that Python source imports from a package, anywhere in it: modules, and names in them."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    return frozenset(name for name in found if name == package or name.startswith(f'{package}.'))


def _listed(package: Path) -> Iterator[tuple[Path, int, int]]:
    """Every file that may decide, with its time of change in ns and its size."""
    for folder, folders, names in os.walk(package):
        folders[:] = sorted({*folders} - NOT_DECIDING - {'__pycache__'})
        for name in sorted(names):
            if name.partition('.')[0] not in NOT_DECIDING:
                stat = os.stat(os.path.join(folder, name))
                yield Path(folder, name), stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=8)
def _snapshot(package: Path, listed: tuple) -> Code:
    return Code(package)


class _File:
    """A file as it is now, parsed once something asks what counts of it: a run is decided by few files."""

    def __init__(self, path: Path):
        self.path = path
        self.text = path.read_text() if path.suffix == '.py' else None

    @cached_property
    def python(self) -> str | None:
        """Its text; None where it is no Python."""
        try:
            return self.text if self.text is None or ast.parse(self.text) else None
        except SyntaxError:  # being edited; a run that needs it says so itself
            return None

    @cached_property
    def essence(self) -> str:
        return essence(self.python or '')

    @cached_property
    def imports(self) -> frozenset[str]:
        return imported(self.python or '')

    @cached_property
    def counts(self) -> bytes:
        """What counts of its content."""
        if self.python is None:
            return hashlib.sha256(self.path.read_bytes()).digest()
        return fingerprint(self.python)


@lru_cache(maxsize=4096)
def _read(path: Path, changed: int, size: int) -> _File:
    return _File(path)


class Code:
    """The package's files as they are now.

    Args:
        package: its folder.
    """

    def __init__(self, package: Path):
        self.package = package
        self._files = {file.relative_to(package).as_posix(): _read(file, *state) for file, *state in _listed(package)}
        self._choices = {place for place, file in self._files.items() if _is_choice(place, file)}
        self._imports: dict[str, set[str]] = {}
        self._versions: dict[tuple, str] = {}

    @classmethod
    def now(cls, package: Path | None = None) -> Code:
        """The files as they are on the disk at this moment; read again only where one has changed."""
        package = package or Path(medpeft_utils.__file__).parent
        return _snapshot(package, tuple(_listed(package)))

    def version(self, parameters: dict[str, Any] | None = None, imports: Iterable[str] | None = None) -> str:
        """Hash of the files that decide, 12 hex digits.

        Args:
            parameters: a run's; of the folders in `CHOICES` it takes the files that they name, all where None.
            imports: dotted names where the search begins, such as a notebook's imports; every module where None.
        """
        chosen = tuple(str((parameters or {}).get(name)) for name in dict.fromkeys(CHOICES.values()))
        key = chosen, None if imports is None else frozenset(imports)
        if key not in self._versions:
            digest = hashlib.sha256()
            for place in self.deciding(parameters, imports):
                digest.update(place.encode() + b'\0' + self._files[place].counts + b'\0')
            self._versions[key] = digest.hexdigest()[:12]
        return self._versions[key]

    def deciding(self, parameters: dict[str, Any] | None = None, imports: Iterable[str] | None = None) -> list[str]:
        """The files of the package that decide, as paths below it, in order; arguments as for `version`.

        A file that registers something is taken where the run's parameters name it, or a file beside it imports it; an
        import from another folder alone does not count, since what it needs is named by the parameters too.
        """
        parameters, found = parameters or {}, set()
        real = not str(parameters.get('dataset', SYNTHETIC[1])).startswith(SYNTHETIC[1])
        chosen = {folder: self._chosen(folder, parameters.get(name)) for folder, name in CHOICES.items()}

        def is_chosen(place: str) -> bool:
            return place not in self._choices or place in chosen[_folder(place)]

        if imports is None:
            waiting = [place for place in self._files if place.endswith('.py') and is_chosen(place)]
        else:
            waiting = [place for name in imports for place in self._modules(name)]
        while waiting:
            place = waiting.pop()
            if place not in found and not (real and place.startswith(f'{SYNTHETIC[0]}/')):
                found.add(place)
                within = _folder(place) if place in self._choices else None
                waiting += [other for other in self._imported(place) if is_chosen(other) or _folder(other) == within]
                waiting += [other for other in self._offers(place) if is_chosen(other)]
        return sorted(found)

    def _chosen(self, folder: str, value: Any) -> set[str]:
        """The files of a folder of `CHOICES` that register `value`; all of them where it is None, or where none fits.

        Tried in turn: the file that declares it (`name='ham10000'`, `key = 'lora'`), the one whose name it begins with
        ('fitzpatrick17k_nine'), and those that hold it, themselves or in a table that they read (`medmnist.csv`).
        """
        files = {place for place in self._choices if _folder(place) == folder}
        if value is None:
            return files
        value = str(value).removeprefix(SYNTHETIC[1])
        if folder.endswith('weights'):  # a backbone that is not shipped has none here
            return {place for place in files if value.startswith(PurePosixPath(place).stem)}
        if '/' in value or '\\' in value or value.endswith('.csv'):  # images of your own: no published reader
            return set()
        quoted = repr(value)
        declaration = re.compile(rf'\b(name|key)\s*=\s*{re.escape(quoted)}')
        declared = {place for place in files if declaration.search(self._files[place].essence)}
        stems = {place for place in files if value.startswith(PurePosixPath(place).stem)}
        longest = {place for place in stems if len(place) == max(map(len, stems))}
        held = {place for place in files if quoted in self._files[place].essence or self._reads(place, value)}
        return declared or longest or held or files

    def _reads(self, place: str, value: str) -> bool:
        """Whether a table that this file reads from its own folder holds `value` as a word."""
        tables = (self.package / other for other in self._imported(place) if not other.endswith('.py'))
        return any(re.search(rf'\b{re.escape(value)}\b', table.read_text(errors='replace')) for table in tables)

    def _imported(self, place: str) -> set[str]:
        """The files that a file imports, or reads by name from its own folder."""
        if place not in self._imports:
            file, folder = self._files[place], _folder(place)
            tables = [other for other in self._files if not other.endswith('.py') and _folder(other) == folder]
            read = {other for other in tables if repr(PurePosixPath(other).name) in file.essence}
            self._imports[place] = read.union(*(self._modules(name) for name in file.imports))
        return self._imports[place]

    def _offers(self, place: str) -> list[str]:
        """The files of `CHOICES` that a registry finds, or a loader opens, by a name that it is given."""
        folder, registry = _folder(place), place.endswith('/__init__.py')
        if not place.endswith('.py'):
            return []
        return [
            other
            for other in self._choices
            if (registry and other.endswith('.py') and _folder(other) == folder)
            or (other.endswith('.safetensors') and _folder(_folder(other)) == folder)
        ]

    def _modules(self, name: str) -> list[str]:
        """The files behind a dotted name: its module, and the packages above it."""
        parts, tried = name.split('.')[1:], ['__init__.py']
        for end in range(1, len(parts) + 1):
            stem = '/'.join(parts[:end])
            tried += [f'{stem}/__init__.py', f'{stem}.py']
        return [place for place in tried if place in self._files]


def _folder(place: str) -> str:
    return place.rpartition('/')[0] or '.'


def _is_choice(place: str, file: _File) -> bool:
    """Whether a file of a folder of `CHOICES` registers something, or holds weights."""
    if _folder(place) not in CHOICES or place.endswith('/__init__.py'):
        return False
    return place.endswith('.safetensors') or any(
        name.rpartition('.')[2].startswith('register') for name in file.imports
    )
