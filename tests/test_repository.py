"""What holds the repository together: dependencies, notebooks, sizes, docstrings, imports, and what README promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'medpeft_utils'
SOURCES = sorted(PACKAGE.rglob('*.py'))
NOTEBOOKS = sorted(path for path in (ROOT / 'notebooks').rglob('*.ipynb') if '.ipynb_checkpoints' not in path.parts)
EXPERIMENTS = [path for path in NOTEBOOKS if path.parent.name == 'experiments']

MAX_FILE = 10 * 2**20  # bytes
MAX_NOTEBOOK = 300_000  # bytes
MAX_FUNCTION, MAX_CELL, MAX_CELL_FUNCTION = 60, 25, 15  # lines
MAX_PARAMETERS = 30
IMAGES = {'.png', '.jpg', '.jpeg', '.gif', '.bmp', '.tif', '.tiff', '.webp', '.svg', '.dcm', '.nii', '.npy', '.npz'}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def pyproject() -> dict:
    return tomllib.loads((ROOT / 'pyproject.toml').read_text())


def declared() -> set[str]:
    """The requirements of pyproject.toml, those of the `test` extra too."""
    project = pyproject()['project']
    return set(project['dependencies']) | set(project['optional-dependencies']['test'])


@cache
def files() -> list[Path]:
    """Every file that git holds, or would hold after `git add .`."""
    listing = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    found = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f'not a git repository: {found.stderr.strip()}')
    return [path for name in found.stdout.split('\0') if name and (path := ROOT / name).is_file()]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def length(node: Function) -> int:
    return node.end_lineno - node.lineno + 1


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == 'code']


# ---- dependencies


def test_conda_and_pip_declare_the_same():
    conda = yaml.safe_load((ROOT / 'environment.yml').read_text())['dependencies']
    pip = next(entry['pip'] for entry in conda if isinstance(entry, dict))
    assert {line for line in pip if not line.startswith('-')} == declared()
    python = next(entry for entry in conda if isinstance(entry, str) and entry.startswith('python='))
    assert python.removeprefix('python=') in SpecifierSet(pyproject()['project']['requires-python'])


def test_the_lock_pins_every_dependency_within_its_bounds():
    lines = [line for line in (ROOT / 'requirements.lock').read_text().splitlines() if line and line[0] != '#']
    assert [line for line in lines if not re.fullmatch(r'[a-z0-9-]+==[0-9][0-9a-z.]*', line)] == []
    lock = dict(line.split('==') for line in lines)
    assert len(lock) == len(lines), 'a package is pinned twice'
    wanted = [Requirement(text) for text in declared()]
    wrong = [str(need) for need in wanted if lock.get(canonicalize_name(need.name), '') not in need.specifier]
    assert wrong == []


def test_what_the_package_needs_besides_code_is_installed_with_it():
    patterns = pyproject()['tool']['setuptools']['package-data']['medpeft_utils']
    inside = [path.relative_to(PACKAGE).as_posix() for path in files() if path.is_relative_to(PACKAGE)]
    left_out = [name for name in inside if not any(fnmatch(f'./{name}', p) for p in [*patterns, '**/*.py'])]
    assert left_out == []


def built(folder: Path, source: Path = ROOT) -> set[str]:
    """The files that setuptools puts into a wheel built from `source`."""
    command = [sys.executable, 'setup.py', '-q', 'build', '--build-base', str(folder / 'build')]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path.relative_to(folder / 'build/lib').as_posix() for path in (folder / 'build/lib').rglob('*.*')}


def test_the_wheel_holds_the_package_and_the_notebooks_that_it_runs(tmp_path):
    copied = tmp_path / 'source'
    for path in files():
        if path.is_relative_to(PACKAGE) or path.is_relative_to(ROOT / 'notebooks') or path.parent == ROOT:
            target = copied / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    wheel = built(tmp_path, copied)
    package = {name_of(path) for path in files() if path.is_relative_to(PACKAGE)}
    assert package - wheel == set()
    notebooks = {name.partition('study/')[2] for name in wheel - package}
    assert notebooks >= {name_of(path) for path in [*EXPERIMENTS, *(ROOT / 'notebooks/grids').glob('*.yaml')]}
    assert 'notebooks/figures_and_tables.ipynb' in notebooks and 'notebooks/learn/05_lora.ipynb' in notebooks
    assert all(name.startswith('notebooks/') for name in notebooks), 'and nothing else: no tests, no figures'


def test_the_citation_is_of_this_version_and_of_both_papers():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {entry['identifiers'][0]['value'] for entry in citation['references']} == {
        'arXiv:2305.08252',
        'arXiv:2401.12215',
    }
    assert f"__version__ = '{citation['version']}'" in (PACKAGE / '__init__.py').read_text()
    assert citation['license'] == pyproject()['project']['license'] == 'Apache-2.0'


# ---- notebooks


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_a_notebook_is_valid_and_small(path: Path):
    nbformat.validate(nbformat.read(path, as_version=nbformat.NO_CONVERT))
    assert path.stat().st_size < MAX_NOTEBOOK


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_cells_of_a_notebook_are_short(path: Path):
    cells = code_cells(path)
    sources = [cell.source for cell in cells]
    listed = [cell.source for cell in cells if 'parameters' in cell.metadata.get('tags', [])]  # a table, a line each
    assert [source for source in sources if len(source.splitlines()) > MAX_CELL and source not in listed] == []
    assert [source for source in listed if len(source.splitlines()) > MAX_PARAMETERS] == []
    plain = (re.sub(r'(?m)^\s*[%!].*$', '', source) for source in sources)  # magics are not Python
    found = [function for source in plain for function in functions(ast.parse(source))]
    assert [function.name for function in found if length(function) > MAX_CELL_FUNCTION] == []


@pytest.mark.parametrize('path', EXPERIMENTS, ids=name_of)
def test_an_experiment_has_one_parameters_cell_and_no_outputs(path: Path):
    cells = code_cells(path)
    assert len([cell for cell in cells if 'parameters' in cell.metadata.get('tags', [])]) == 1
    assert [cell.source for cell in cells if cell.outputs or cell.execution_count] == []


# ---- code


@pytest.mark.parametrize('path', SOURCES, ids=name_of)
def test_functions_are_short(path: Path):
    found = functions(ast.parse(path.read_text()))
    assert [f'{node.name}: {length(node)} lines' for node in found if length(node) > MAX_FUNCTION] == []


@pytest.mark.parametrize('path', SOURCES, ids=name_of)
def test_what_is_public_has_a_docstring(path: Path):
    tree = ast.parse(path.read_text())
    public = [node for node in tree.body if isinstance(node, (ast.ClassDef, Function)) and node.name[0] != '_']
    assert [node.name for node in public if not ast.get_docstring(node)] == []
    assert not tree.body or ast.get_docstring(tree), 'no docstring of the module'


NO_TORCH = 'heavy = {"torch", "timm", "peft"} & set(sys.modules); assert not heavy, heavy'
EVERY_HELP = """
import click
from click.testing import CliRunner
from medpeft_utils.cli import medpeft

def show(command, *words):
    result = CliRunner().invoke(medpeft, [*words, '--help'])
    assert result.exit_code == 0, (words, result.output)
    options = [name for option in command.params for name in option.opts + option.secondary_opts]
    print(' '.join(words), *options, sep='|')
    context = click.Context(command)
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        show(command.get_command(context, name), *words, name)

show(medpeft)
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(('given', 'expected'), [({}, '1 PASSIVE'), ({'OMP_WAIT_POLICY': 'ACTIVE'}, '1 ACTIVE')])
def test_threads_of_a_notebook_by_itself_are_the_users_and_wait_asleep(monkeypatch, given, expected):
    for name in ('OMP_WAIT_POLICY', 'MKL_NUM_THREADS'):
        monkeypatch.delenv(name, raising=False)
    for name, value in {'OMP_NUM_THREADS': '1', **given}.items():
        monkeypatch.setenv(name, value)
    code = 'import os, medpeft_utils, torch; print(torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"])'
    assert python(code).split() == expected.split()


def test_importing_the_package_needs_no_torch():
    python(f'import sys, medpeft_utils; {NO_TORCH}')


@cache
def commands() -> dict[str, set[str]]:
    """The options of every command, as 'run' or 'data list', from the help of each; none of which may import torch."""
    lines = [line.split('|') for line in python(f'import sys\n{EVERY_HELP}\n{NO_TORCH}').splitlines()]
    return {name: {*options, '--help'} for name, *options in lines}


def test_help_needs_no_torch():
    assert {'run', 'status', 'report', 'params', 'data list'} <= commands().keys()


# ---- what the pages promise

PAGES = sorted(path for path in files() if path.suffix == '.md' or path in NOTEBOOKS)


@cache
def text_of(page: Path) -> str:
    """The Markdown of a page, or of a notebook's cells."""
    if page.suffix == '.md':
        return page.read_text()
    return '\n\n'.join(cell.source for cell in nbformat.read(page, as_version=4).cells if cell.cell_type == 'markdown')


def code_of(page: Path) -> str:
    fenced = re.findall(r'```\w*\n(.*?)```', text_of(page), re.DOTALL)
    indented = re.findall(r'(?m)^ {4}(\S.*)$', text_of(page))
    return '\n'.join([*fenced, *indented, *re.findall(r'`([^`\n]+)`', text_of(page))])


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r'(?m)^#+ (.+)$', text_of(page))
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


def test_every_relative_link_leads_to_a_file_and_a_heading():
    held, lost = set(files()), []
    for page in PAGES:
        for link in re.findall(r'\]\(<?([^)\s>]+)>?(?: "[^"]*")?\)', text_of(page)):
            path, _, heading = link.partition('#')
            target = (page.parent / path).resolve() if path else page
            if re.match(r'[a-z]+:|attachment:', link):
                continue
            known = target in held or any(file.is_relative_to(target) for file in held)
            if not known or (heading and target.suffix == '.md' and heading not in headings(target)):
                lost.append(f'{name_of(page)}: {link}')
    assert lost == []


def test_every_command_that_a_page_names_exists_with_its_options():
    unknown, seen = [], 0
    for page in PAGES:
        for line in re.findall(r'(?m)(?:^|&& |[$] )medpeft ([a-z].*)', code_of(page)):
            seen += 1
            line = re.split(r' #| \| | && ', line)[0]
            names = [name for name in commands() if f'{line} '.startswith(f'{name} ')]
            options = set(re.findall(r'(?<=\s)--[a-z][a-z-]*', line))
            if not names or options - commands()[max(names, key=len)]:
                unknown.append(f'{name_of(page)}: medpeft {line}')
    assert unknown == [] and seen > 100


def test_every_target_and_script_that_a_page_names_exists():
    targets = set(re.findall(r'(?m)^([a-z]+):', (ROOT / 'Makefile').read_text()))
    code = '\n'.join(map(code_of, PAGES))
    named = set(re.findall(r'(?m)^(?:[$] )?make ([a-z]+)', code))
    assert {'reproduce', 'test', 'setup', 'book'} <= named <= targets
    scripts = re.findall(r'(?m)^python ([\w/]+\.py)', code)
    scripts += [f'{name.replace(".", "/")}.py' for name in re.findall(r'(?m)^python -m (benchmarks[\w.]*)', code)]
    assert [name for name in scripts if not (ROOT / name).exists()] == [] != scripts


# ---- what git holds


def test_only_weights_are_large():
    large = {name_of(path) for path in files() if path.stat().st_size > MAX_FILE and path.suffix != '.safetensors'}
    assert large == set()


def test_images_lie_only_where_figures_do():
    """No patient's image gets in: what is a picture, or may hold one, is a figure or a page of the documentation."""
    images = {name_of(path) for path in files() if path.suffix.lower() in IMAGES}
    assert {name for name in images if not name.startswith(('figures/', 'docs/'))} == set()


def test_nothing_names_a_folder_of_this_machine():
    """Records and outputs of notebooks carry paths along only too easily."""
    folders = [str(ROOT)] + [sys.prefix] * (sys.prefix != sys.base_prefix)  # sys.prefix may be /usr: not of a venv
    found = re.compile('|'.join(re.escape(folder) + r'\b' for folder in folders).encode())
    assert [
        name_of(path) for path in files() if path.suffix != '.safetensors' and found.search(path.read_bytes())
    ] == []
