"""Grids: what they expand to, what is refused, and what makes a run the run it is."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path

import pytest
import yaml
from study_project import FINISH, START, Project, write_notebook

import medpeft_utils
from medpeft_utils.core.code import Code, essence, fingerprint, imported
from medpeft_utils.core.errors import BadInput, DoesNotFit, UnknownName
from medpeft_utils.core.hashing import digest
from medpeft_utils.study.check import check, with_data_root
from medpeft_utils.study.grid import dump, identified, key_of, load_grid, selected
from medpeft_utils.study.identity import NO_DEFAULT, code_version, notebook_code, read_parameters, run_hash, same_code
from medpeft_utils.study.paths import StudyFolder, find_grid
from medpeft_utils.study.queue import in_order

ROOT = Path(__file__).resolve().parents[1]
NAMED = """
dataset: str = 'synthetic_breastus'
backbone: str = 'vit_base_mini'
method: str = 'lora'
method_config: str = '{}'
seed: int = 0
fraction: float = 1.0
record_folder: str = ''
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_grid_expands_to_its_combinations(project):
    path = project.grid(
        defaults={'pause': 0.5, 'unheard_of': 1},
        experiments=[
            {
                'notebook': 'toy',
                'parameters': {'search_trials': 2},
                'axes': {'pair': [{'mode': 'fine', 'value': 1}, {'mode': 'exits', 'value': 2}], 'seed': [0, 1, 2]},
                'exclude': [{'mode': 'exits', 'seed': 2}],
                'include': [{'mode': 'raises'}],
            }
        ],
    )
    grid = load_grid(path)
    assert [(run.parameters['mode'], run.parameters['seed']) for run in grid.runs] == [
        *(('fine', 0), ('fine', 1), ('fine', 2), ('exits', 0), ('exits', 1)),
        ('raises', 0),
    ]
    first = grid.runs[0].parameters
    assert first == {'mode': 'fine', 'value': 1.0, 'seed': 0, 'pause': 0.5, 'search_trials': 2}
    assert isinstance(first['value'], float) and not grid.faults
    assert len(selected(grid.runs, {'mode': 'exits', 'seed': '1'})) == 1
    assert len(selected(grid.runs, {'experiment': 'toy', 'value': '1'})) == 4
    with pytest.raises(BadInput, match="'colour' cannot select runs"):
        selected(grid.runs, {'colour': 'red'})
    with pytest.raises(BadInput, match="no run has mode = 'exit'; there are: 'exits', 'fine', 'raises'"):
        selected(grid.runs, {'mode': 'exit'})
    with pytest.raises(BadInput, match="no run has mode = 'raises' and seed = '2' at once"):
        selected(grid.runs, {'mode': 'raises', 'seed': '2'})


def test_settings_replace_values_and_axes_of_every_run(project):
    grid = load_grid(project.grid(), {'seed': 7, 'value': 2}, profile='other')
    assert [run.parameters['seed'] for run in grid.runs] == [7] and grid.profile == 'other'


def test_a_grid_is_written_so_that_it_gives_the_same_runs_elsewhere(project, tmp_path):
    grid = load_grid(project.grid(), {'value': 3.0})
    copy = tmp_path / 'elsewhere' / 'grid.yaml'
    copy.parent.mkdir()
    copy.write_text(dump(grid, copy))
    assert [run.hash for run in load_grid(copy).runs] == [run.hash for run in grid.runs]


def test_every_fault_is_listed(project):
    write_notebook(project.root / 'notebooks' / 'experiments' / 'named.ipynb', START, FINISH, parameters=NAMED)
    named = {'dataset': 'synthetic_breastus', 'backbone': 'vit_base_mini', 'method': 'lora'}
    path = project.grid(
        colour='red',
        experiments=[
            {'notebook': 'toy', 'parameters': {'vaule': 1}, 'axis': {}},
            {'notebook': 'toy', 'parameters': {'seed': 'zero'}},
            {'notebook': 'toy', 'parameters': {'value': True}},
            {'notebook': 'named', 'parameters': {'dataset': 'synthetic_breastus', 'backbone': 'vit_base_mini'}},
            {'notebook': 'named', 'parameters': named, 'axes': {'dataset': ['ham1000']}},
            {'notebook': 'named', 'parameters': named, 'axes': {'method': ['lora', 'lroa', 'tsa']}},
            {'notebook': 'named', 'parameters': named, 'axes': {'backbone': ['vit_base_mimi'], 'seed': [0, 1]}},
            {'notebook': 'named', 'parameters': {**named, 'method_config': '{"rnak": 4}'}},
            {'notebook': 'unwritten', 'parameters': {'seed': 0}},
        ],
    )
    grid = load_grid(path)
    with pytest.raises(BadInput) as refusal:
        check(grid, grid.runs)
    printed = str(refusal.value)
    for fault in (
        "unknown key 'colour'",
        "toy: unknown key 'axis'",
        "toy: unknown parameter 'vaule'",
        "seed = 'zero' is a str, and must be a whole number (int)",
        'value = True is a bool, and must be a finite number (float)',
        "named: missing parameter 'method'",
        "unknown dataset 'ham1000'; did you mean 'ham10000'?",
        "unknown method 'lroa'; did you mean 'lora'?",
        "method 'tsa' does not fit backbone 'vit_base_mini' (vit)",
        "unknown backbone 'vit_base_mimi'",
        "has no option 'rnak'",
        'unwritten: not available yet',
    ):
        assert fault in printed, f'{fault}\n{printed}'
    assert '(2 runs)' in printed


WRONG = [
    *(('seed', -1), ('split_seed', 2**40), ('learning_rate', float('nan')), ('learning_rate', float('inf'))),
    *(('learning_rate', 'fast'), ('class_weighting', 'no'), ('class_weighting', 1), ('epochs', 1.5), ('epochs', None)),
    *(('batch_size', 0), ('fraction', 50), ('image_size', 50), ('augmentation', 'strong'), ('seed', [0, 1])),
    *(('method_config', '[8]'), ('method_config', '{"dropout": 5}'), ('method_config', '{"rank": NaN}')),
    *(
        ('method_config', '{"rank": 1000000000}'),
        ('method_config', '{"alpha": 1e308}'),
        ('dataset', ''),
        ('dataset', ' '),
    ),
    *(
        ('learning_rate', 10**9),
        ('batch_size', 10**9),
        ('image_size', 10**8),
        ('search_trials', 10**7),
        ('folds', 10**6),
    ),
    *(('max_steps', 10**12), ('data_folder', 'half \ud800'), ('backbone', 'vit_base_mini:0'), ('seed', '1:30')),
    *(('method_config', '{"alpha": 0}'), ('batch_size', -3), ('fraction', float('nan')), ('image_size', 7)),
    *(('method_config', 'null'), ('method_config', '{"rank": [4]}'), ('method_config', '{"rank": true}')),
    *(('method_config', {'rank': 8}), ('dataset', 'a\0b'), ('dataset', '~nobody/x'), ('dataset', 'x' * 5000)),
]


@pytest.mark.parametrize(('name', 'value'), WRONG, ids=lambda value: str(value)[:20])
def test_a_value_that_cannot_be_is_refused_by_the_grid_before_anything_is_loaded(project, name, value):
    named = {'dataset': 'synthetic_breastus', 'backbone': 'vit_base_mini', 'method': 'lora'} | {name: value}
    content = {'profile': 'x', 'experiments': [{'notebook': 'vit', 'parameters': named}]}
    path = project.root / 'x.yaml'
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(BadInput) as refusal:
        grid = load_grid(path)
        check(grid, grid.runs)
    assert re.search(r'x\.yaml is (refused, nothing was started|not YAML)', str(refusal.value))


@pytest.mark.parametrize(('name', 'value'), WRONG[:17], ids=lambda value: str(value)[:20])
def test_the_same_value_is_refused_by_the_notebook_itself(name, value):
    from medpeft_utils.training.classification import Settings

    named = {'dataset': 'synthetic_breastus', 'backbone': 'vit_base_mini', 'method': 'lora'}
    with pytest.raises((BadInput, UnknownName, DoesNotFit)):
        Settings.of({**named, name: value})


def test_values_as_text_are_what_they_say():
    from medpeft_utils.training.classification import Settings

    named = {'dataset': 'synthetic_breastus', 'backbone': 'vit_base_mini', 'method': 'lora'}
    settings = Settings.of({**named, 'class_weighting': 'false', 'learning_rate': '1e-3', 'epochs': 2.0, 'seed': '3'})
    found = settings.class_weighting, settings.learning_rate, settings.epochs, settings.seed
    assert found == (False, 0.001, 2, 3) and [type(value) for value in found] == [bool, float, int, int]


GRIDS = {
    'no YAML': 'a: [',
    'a list': '[1, 2]',
    'nothing': '',
    'a number': '7',
    'no experiments': 'profile: x',
    'experiments as a map': 'experiments: {notebook: toy}',
    'an experiment as text': 'experiments: [toy]',
    'a notebook as a number': 'experiments: [{notebook: 5}]',
    'a notebook elsewhere': 'experiments: [{notebook: ../../etc/x}]',
    'a key twice': 'experiments: [{notebook: toy, axes: {seed: [0]}, axes: {seed: [1]}}]',
    'a key that is no text': 'experiments: [{notebook: toy, parameters: {1: 2}}]',
    'parameters as a list': 'experiments: [{notebook: toy, parameters: [a]}]',
    'an axis as text': 'experiments: [{notebook: toy, axes: {mode: fine}}]',
    'include as text': 'experiments: [{notebook: toy, include: fine}]',
    'exclude as a map': 'experiments: [{notebook: toy, exclude: {a: 1}}]',
    'defaults as a list': 'defaults: [1]\nexperiments: [{notebook: toy}]',
    'a date by tag': 'experiments: [{notebook: toy, parameters: {mode: !!timestamp 2024-01-01}}]',
    'binary data': 'experiments: [{notebook: toy, parameters: {mode: !!binary aGk=}}]',
    'Python': 'experiments: !!python/object/apply:os.getcwd []',
    'an alias in itself': 'experiments: &a [*a]',
    'half a character': 'title: "\\ud800"\nexperiments: [{notebook: toy}]',
    'nested deeply': 'experiments: ' + '[' * 5000,
    'a million runs': 'a: &a ['
    + ', '.join(map(str, range(100)))
    + ']\nexperiments: [{notebook: toy, axes: {value: *a, seed: *a, pause: *a}}]',
    'aliases that multiply': '\n'.join(
        ['a: &a [x, x, x, x, x, x, x, x, x, x]']
        + [f'{new}: &{new} [{", ".join([f"*{old}"] * 10)}]' for old, new in zip('abcdefgh', 'bcdefghi', strict=True)]
        + ['experiments: *i']
    ),
}


def test_a_setting_is_over_everything_that_the_file_says(project):
    """Also over axes of several parameters, single runs, and rules of what is left out."""
    path = project.grid(
        experiments=[
            {
                'notebook': 'toy',
                'axes': {'pair': [{'mode': 'fine', 'value': 1}, {'mode': 'exits', 'value': 2}], 'seed': [0, 1]},
                'exclude': [{'mode': 'exits', 'seed': 1}, {'mode': 'fine', 'seed': 0}],
                'include': [{'mode': 'raises', 'seed': 5}],
            }
        ]
    )
    grid = load_grid(path, {'mode': 'exits'})
    found = {(run.parameters['mode'], run.parameters['value'], run.parameters['seed']) for run in grid.runs}
    assert found == {('exits', 1.0, 0), ('exits', 2.0, 0), ('exits', 1.0, 5)} and not grid.faults
    copy = project.root / 'copy.yaml'
    copy.write_text(dump(grid, copy))
    assert [run.hash for run in load_grid(copy).runs] == [run.hash for run in grid.runs] and not load_grid(copy).faults


@pytest.mark.parametrize('rule', [{'mode': 'fien'}, {'sed': 0}, {'seed': '0'}, {'mode': 'fine', 'seed': 7}], ids=str)
def test_a_rule_that_leaves_out_nothing_is_a_fault(project, rule):
    experiment = {'notebook': 'toy', 'axes': {'mode': ['fine'], 'seed': [0, 1]}, 'exclude': [rule]}
    assert 'leaves out no run' in ' '.join(load_grid(project.grid(experiments=[experiment])).faults)


@pytest.mark.parametrize('rule', [{}, {'mode': 'fine'}], ids=str)
def test_a_rule_that_leaves_out_everything_is_a_fault(project, rule):
    experiment = {'notebook': 'toy', 'axes': {'mode': ['fine'], 'seed': [0, 1]}, 'exclude': [rule]}
    experiment['include'] = [{'mode': 'raises'}]
    assert 'leaves out every run' in ' '.join(load_grid(project.grid(experiments=[experiment])).faults)


@pytest.mark.parametrize(
    'text',
    ['!!bool maybe', '!!int x', '!!float y', '!!binary aGk=', '!!set {a}', '!!omap [a: 1]', '!foo bar', '&a [*a]'],
)
@pytest.mark.parametrize('place', ['profile', 'title', 'defaults', 'preload', 'notebooks', 'family', 'seed', 'axes'])
def test_every_place_of_a_grid_may_hold_any_kind_of_yaml(project, place, text):
    """Wherever it stands: one message that names the file, and no traceback."""
    content = {'profile': 'x', 'title': 't', 'defaults': {'seed': 'HERE'}, 'preload': [], 'notebooks': 'n'}
    content['experiments'] = [{'notebook': 'toy', 'family': 'f', 'axes': {'mode': ['fine']}}]
    where = content['experiments'][0] if place in ('family', 'axes') else content
    where['defaults' if place == 'seed' else place] = {'seed': 'HERE'} if place == 'seed' else 'HERE'
    path = project.root / 'odd.yaml'
    path.write_text(yaml.safe_dump(content).replace('HERE', text))
    with pytest.raises(BadInput, match=r'odd\.yaml'):
        load_grid(path)


def test_what_a_grid_leaves_empty_has_its_usual_value(project):
    path = project.root / 'notebooks' / 'grids' / 'empty.yaml'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        'profile: ~\ntitle:\nnotebooks:\nexperiments: [{notebook: toy, family: ~, axes: {seed: [010, 1e0]}}]'
    )
    grid = load_grid(path)
    assert (grid.profile, grid.title, {run.family for run in grid.runs}) == ('empty', 'empty', {'toy'})
    assert [run.parameters['seed'] for run in grid.runs] == [10, 1], 'YAML 1.2: no octal numbers'


@pytest.mark.parametrize('kind', GRIDS)
def test_a_file_that_is_no_grid_is_one_message_and_at_once(project, kind):
    path = project.root / 'odd.yaml'
    path.write_text(GRIDS[kind])
    began = time.monotonic()
    with pytest.raises(BadInput, match=r'odd\.yaml|YAML'):
        load_grid(path)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    'content', [b'\xff\xfe\x00', b'\x80abc', b'\x00\x00', b'{"cells": [', b'"text"', b'[' * 100_000]
)
def test_a_file_that_is_no_grid_or_notebook_by_its_bytes_is_one_message(project, content):
    (project.root / 'odd.yaml').write_bytes(content)
    with pytest.raises(BadInput):
        load_grid(project.root / 'odd.yaml')
    project.notebook.write_bytes(content)
    with pytest.raises(BadInput, match='not a notebook'):
        load_grid(project.grid())


def test_ipython_syntax_is_read_as_what_it_stands_for(project):
    for cell in ('files = !ls', '%%bash\necho "hi there"', '?len', 'len?', '%time x = 1', '%%time\nx = 1', 'await f()'):
        write_notebook(project.notebook, START, cell, FINISH)
        assert len(load_grid(project.grid()).runs) == 2, cell
    versions = set()
    for cell in ('files = !ls', 'files = !ls -a'):
        write_notebook(project.notebook, START, cell, FINISH)
        versions.add(code_version(project.notebook))
    assert len(versions) == 2, 'another command is different code'
    write_notebook(project.notebook, START, 'def f(:\n    pass', FINISH)
    with pytest.raises(BadInput, match=r'toy\.ipynb, cell 2: invalid syntax in line 1'):
        load_grid(project.grid())


def test_odd_options_are_one_message(project):
    project.grid()
    odd = ('--set', 'value=['), ('--only', 'seed=['), ('--set', 'value'), ('--time-limit', 'nan'), ('--data-root', 'no')
    for option in (*odd, ('--only', 'mode=fien')):
        printed = project.medpeft('run', 'tiny', *option, code=2)
        assert 'Traceback' not in printed and printed.lower().count('error:') == 1, printed
    assert 'Traceback' not in project.medpeft('events', 'x' * 400, code=2)
    assert 'Traceback' not in project.medpeft('status', 'x' * 400, code=2)


def test_what_is_not_available_is_counted_and_can_be_left_out(project):
    project.grid(experiments=[{'notebook': 'toy', 'axes': {'seed': [0, 1]}}, {'notebook': 'later', 'family': 'unet'}])
    lines = [line.split() for line in project.medpeft('status', 'tiny').splitlines()[1:]]
    assert lines[0] == ['family', 'runs', 'done', 'left', 'not', 'available', 'yet']
    printed = project.medpeft('run', 'tiny', code=2)
    assert 'nothing was started' in printed and 'Traceback' not in printed and not project.results.exists()
    assert lines[1:] == [['toy', '2', '·', '2', '·'], ['unet', '1', '·', '·', '1'], ['all', '3', '·', '2', '1']]
    grid = load_grid(find_grid(str(project.root / 'notebooks/grids/tiny.yaml'), project.results))
    check(grid, selected(grid.runs, {'experiment': 'toy'}))
    with pytest.raises(BadInput, match='later: not available yet'):
        check(grid, grid.runs)


def test_unknown_grids_are_told_apart_from_the_known(project, monkeypatch):
    project.grid()
    monkeypatch.chdir(project.root)
    with pytest.raises(UnknownName, match="unknown grid 'tinny'; did you mean 'tiny'"):
        find_grid('tinny', Path('results'))


def test_identity_is_parameters_code_and_split_but_not_the_place(project):
    parameters = {'seed': 0, 'value': 1.0, 'data_folder': '/here', 'record_folder': '/there'}
    one = run_hash('toy', parameters, 'a.b')
    assert one == run_hash('toy', {**parameters, 'data_folder': '/elsewhere'}, 'a.b') and len(one) == 16
    others = [
        run_hash('toy', {**parameters, 'seed': 1}, 'a.b'),
        run_hash('other', parameters, 'a.b'),
        run_hash('toy', parameters, 'a.c'),
        run_hash('toy', parameters, 'a.b', split='0123'),
    ]
    assert len({one, *others}) == 5


def test_the_code_version_follows_code_and_not_its_comments(project, tmp_path):
    before = code_version(project.notebook)
    write_notebook(project.notebook, START + '\n# why', *_cells(project)[1:])
    assert code_version(project.notebook) == before
    write_notebook(project.notebook, START, *_cells(project)[1:], 'more = 1')
    assert not same_code(code_version(project.notebook), before)
    assert same_code(before, code_version(None))


FILES = {
    '__init__.py': '',
    'metrics.py': 'y = 1\n',
    'training/loop.py': 'from medpeft_utils import data\ndef f():\n    from medpeft_utils.methods import get\n',
    'training/other.py': 'from medpeft_utils.training import loop\n',
    'study/runner.py': 'from medpeft_utils import metrics\n',
    'backbones/__init__.py': '',
    'backbones/weights/vit.safetensors': 'a',
    'backbones/weights/vit.json': 'a',
    'backbones/weights/other.safetensors': 'a',
    'data/__init__.py': 'from medpeft_utils.data import sources, synthetic\nfrom medpeft_utils import backbones\n',
    'data/sources/__init__.py': '',
    'data/sources/ham.py': 'from medpeft_utils.data.sources import register\nTABLE = "ham.csv"\n',
    'data/sources/ham.csv': 'a',
    'data/sources/other.py': 'from medpeft_utils.data.sources import register\nimport medpeft_utils.data.lists\n',
    'data/sources/many.py': 'from medpeft_utils.data.sources import register\nread("many.csv")\n',
    'data/sources/many.csv': 'name,x\nblood,1\npath,2\n',
    'data/lists.py': 'from medpeft_utils.data.sources import other, ham\n',
    'data/synthetic/__init__.py': '',
    'methods/__init__.py': 'from medpeft_utils.methods.base import Method\n',
    'methods/base.py': '',
    'methods/lora.py': 'from medpeft_utils.methods.base import Method, register\nkey = "lora"\n',
    'methods/ssf.py': 'from medpeft_utils.methods.base import register\n',
    'methods/twice.py': 'from medpeft_utils.methods import lora\nfrom medpeft_utils.methods.base import register\n',
    'methods/lora_like.py': 'from medpeft_utils.methods.base import register\nclass A:\n    key = "lora_too"\n',
}
CHOSEN = {'method': 'lora', 'dataset': 'ham', 'backbone': 'vit'}


def _package(folder: Path) -> Path:
    """A package of a few files, as far as its version goes."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_run_is_decided_by_what_its_notebook_imports_and_what_its_parameters_choose(tmp_path):
    code = Code.now(_package(tmp_path / 'medpeft_utils'))
    shared = {name for name in FILES if name.endswith('__init__.py')} - {'data/synthetic/__init__.py'}
    found = code.deciding(CHOSEN, ['medpeft_utils.training.loop'])
    assert set(found) == shared | {
        *('training/loop.py', 'methods/base.py', 'methods/lora.py'),
        *('data/sources/ham.py', 'data/sources/ham.csv', 'backbones/weights/vit.safetensors'),
    }
    drawn = code.deciding({**CHOSEN, 'dataset': 'synthetic_ham'}, ['medpeft_utils.training.loop'])
    assert {*drawn} - {*found} == {'data/synthetic/__init__.py'}
    assert 'methods/lora.py' in code.deciding({**CHOSEN, 'method': 'twice'}, ['medpeft_utils.training.loop'])
    assert 'methods/lora_like.py' in code.deciding({**CHOSEN, 'method': 'lora_too'}, ['medpeft_utils.training.loop'])
    everything = code.deciding()
    assert not {*FILES} - {*everything} - {'study/runner.py', 'backbones/weights/vit.json'}


@pytest.mark.parametrize(
    ('dataset', 'deciding'),
    [
        ('blood', {'many.py', 'many.csv'}),
        ('other', {'other.py'}),
        ('ham_small', {'ham.py', 'ham.csv'}),
        ('/home/me/images', set()),
        ('unheard_of', {'ham.py', 'ham.csv', 'other.py', 'many.py', 'many.csv'}),
    ],
)
def test_a_dataset_is_decided_by_the_file_that_registers_it_or_by_all(tmp_path, dataset, deciding):
    code = Code.now(_package(tmp_path / 'medpeft_utils'))
    found = code.deciding({**CHOSEN, 'dataset': dataset}, ['medpeft_utils.training.loop'])
    sources = {Path(name).name for name in found if name.startswith('data/sources/')}
    assert sources - {'__init__.py'} == deciding


def test_every_registered_name_is_decided_by_the_module_that_registers_it():
    from medpeft_utils import methods
    from medpeft_utils.data import sources

    code = Code.now()
    for name, (_, read, _) in sources._READERS.items():
        found = code.deciding({'dataset': name, 'method': 'lora'}, ['medpeft_utils.training.classification'])
        files = {place for place in found if place.startswith('data/sources/') and place.endswith('.py')}
        module = read.__module__.removeprefix('medpeft_utils.').replace('.', '/') + '.py'
        assert module in files and len(files) <= 3, name  # a reader may use one other's
        assert ('data/sources/nih_chestxray14.py' in files) <= name.startswith('nih_'), name
    for key, method in methods.METHODS.items():
        found = code.deciding({'dataset': 'ham10000', 'method': key}, ['medpeft_utils.training.classification'])
        assert type(method).__module__.removeprefix('medpeft_utils.').replace('.', '/') + '.py' in found, key


def test_the_version_follows_the_files_that_decide_and_no_others(tmp_path):
    package = _package(tmp_path / 'medpeft_utils')

    def version() -> str:
        return Code.now(package).version(CHOSEN, ['medpeft_utils.training.loop'])

    first = version()
    for name in ('training/other.py', 'methods/ssf.py', 'methods/new.py', 'data/sources/new.py', 'metrics.py'):
        (package / name).write_text('x = 2\n')
        assert version() == first, name
    (package / 'methods' / 'lora.py').write_text('"""Words."""\n' + FILES['methods/lora.py'] + '# why\n')
    (package / 'backbones' / 'weights' / 'vit.json').write_text('another card')
    assert version() == first
    versions = {first}
    for name in ('methods/base.py', 'methods/lora.py', 'data/sources/ham.csv', 'backbones/weights/vit.safetensors'):
        (package / name).write_text('x = 3333\n')
        versions.add(version())
    assert len(versions) == 5


def test_the_notebooks_here_are_decided_by_their_training_method_and_weights():
    folder = Path(medpeft_utils.__file__).parent.parent / 'notebooks' / 'experiments'
    parameters = {'method': 'lora', 'dataset': 'ham10000', 'backbone': 'vit_base_mini'}
    for notebook in ('vit', 'low_data_regime'):
        imports = imported(notebook_code(folder / f'{notebook}.ipynb'))
        found = Code.now().deciding(parameters, imports)
        assert {'training/loop.py', 'methods/lora.py', 'methods/adapted.py', 'metrics.py'} <= {*found}
        assert {'data/sources/ham10000.py', 'backbones/weights/vit_base_mini.safetensors'} <= {*found}
        assert not {name for name in found if name.startswith(('study', 'report', 'data/synthetic'))}
        assert {'methods/ssf.py', 'data/sources/breastus.py'}.isdisjoint(found)


def _cells(project: Project) -> list[str]:
    import nbformat

    return [cell.source for cell in nbformat.read(project.notebook, 4).cells[1:]]


def test_essence_keeps_everything_that_runs():
    source = 'def f():\n    "words"\n\nclass A:\n    "words"\n    x = "text"\n\nif 1:\n    "kept"\n'
    assert essence(source) == "def f():\n    pass\n\nclass A:\n    x = 'text'\nif 1:\n    'kept'"


def test_parameters_of_a_notebook_are_read_with_their_types():
    found = read_parameters("a: int = 1  # help\nb = 'x'\nc: str\nd: float = -1.0")
    assert {name: (p.type, p.default) for name, p in found.items()} == {
        'a': ('int', 1),
        'b': ('str', 'x'),
        'c': ('str', NO_DEFAULT),
        'd': ('float', -1.0),
    }
    assert found['d'].cast(2) == 2.0 and isinstance(found['d'].cast(2), float)
    for value in (1.5, True):
        with pytest.raises(BadInput, match=r'a = .* must be a whole number'):
            found['a'].cast(value)
    assert [*read_parameters('"""What this is."""\na = 1')] == ['a'], 'words are no parameter'
    with pytest.raises(BadInput, match='not `name: type = value`'):
        read_parameters('import os')
    with pytest.raises(BadInput, match='not a plain value'):
        read_parameters('a: int = f()')


def test_runs_that_share_a_search_are_apart(project):
    axes = {'value': [1.0, 2.0], 'seed': [0, 1, 2]}
    grid = load_grid(project.grid(axes=axes), {'search_trials': 8})
    order = [(run.parameters['seed'], run.parameters['value']) for run in in_order(grid.runs)]
    assert order == [(seed, value) for seed in (0, 1, 2) for value in (1.0, 2.0)]
    assert len({run.group for run in grid.runs}) == 2
    unsearched = load_grid(project.grid(axes=axes)).runs
    assert in_order(unsearched) == unsearched, 'nothing is shared: the order of the file'


def test_data_are_found_below_their_root_and_split_into_the_identity(project, tmp_path):
    (tmp_path / 'ham10000').mkdir()
    given = {'dataset': 'ham10000', 'data_folder': '', 'split_seed': 0}
    assert with_data_root(given, tmp_path)['data_folder'] == str(tmp_path / 'ham10000')
    assert with_data_root({**given, 'data_folder': 'ham'}, tmp_path)['data_folder'] == str(tmp_path / 'ham')
    assert with_data_root({**given, 'dataset': 'smdg'}, tmp_path)['data_folder'] == ''
    run = dataclasses.replace(load_grid(project.grid()).runs[0], parameters=given)
    same, other = (identified([run], {'["ham10000", 0]': split})[0] for split in ('abc', 'xyz'))
    assert same.split == 'abc' and len({run.hash, same.hash, other.hash}) == 3
    assert identified([run], {})[0] == run
    assert key_of(given) != key_of({**given, 'folds': 5}) != key_of({**given, 'folds': 5, 'split_seed': 1})


def test_the_grid_of_the_paper_is_the_paper():
    """Figure 1: 3 methods, 2 encoders, 8 shares, 3 seeds; Tables 2 and 3, 5 datasets; Table 5, 2 encoders; Table 4.

    Lian et al.: 18 tasks, two methods.
    """
    grid = load_grid(ROOT / 'notebooks' / 'grids' / 'paper.yaml')
    counts: dict[str, int] = {}
    for run in grid.runs:
        counts[run.family] = counts.get(run.family, 0) + 1
    seeds = 3
    assert counts == {
        'low_data_regime': 3 * 2 * 8 * seeds,
        'cnn': 6 * 5 * seeds,
        'vit': 8 * 3 * 5 * seeds,
        'self_supervised': 8 * 2 * 5 * seeds,
        'text_to_image': 8 * 3 * 4,
        'radiographs': 18 * 2 * seeds,
    }
    assert sum(counts.values()) > 700 and not grid.faults
    check(grid, [run for run in grid.runs if run.notebook is not None])
    assert StudyFolder(Path('results') / grid.profile).runs == Path('results/paper/runs')


def test_what_counts_of_code_is_the_same_in_every_python():
    """The hash was computed by Python 3.11, 3.12 and 3.13; ast.unparse writes this f-string in two ways."""
    source = 'def f(x, w):\n    """Words."""\n    return f"{x[\'a\']:<{w}} and {x!r}"  # a comment\n'
    assert digest(fingerprint(source), length=12) == 'bca28846b1d4'
    assert fingerprint(source) == fingerprint(source.replace('Words', 'Other words').replace('a comment', 'another'))
    assert fingerprint(source) != fingerprint(source.replace('<', '>'))
    call = 'x = f(a, [b], {c: d})\n'
    for other in ('x = f(a, "", [b], {c: d})', 'x = f(a, [b, ""], {c: d})', 'x = f(a, [b], {c: d, "": ""})'):
        assert fingerprint(other) != fingerprint(call)
