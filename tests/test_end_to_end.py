"""From a grid file to figures by the command line alone: the smoke grid, and a comparison on a folder of images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from study_project import medpeft

from medpeft_utils.study import records


def test_every_run_of_the_grid_has_a_record_with_metrics(smoke):
    frame = records.load(smoke / 'results' / 'smoke')
    assert len(frame) == 8
    assert frame['synthetic'].all()
    assert frame['f1_macro'].between(0, 1).all()
    assert '8 ' in medpeft('status', 'smoke', '--results', smoke / 'results')


def test_what_is_done_is_not_done_again(smoke):
    before = {path: path.stat().st_mtime_ns for path in smoke.rglob('record.json')}
    assert '0 to do' in medpeft('run', 'smoke', '--results', smoke / 'results')
    assert {path: path.stat().st_mtime_ns for path in smoke.rglob('record.json')} == before


def test_a_repeated_run_has_the_same_metrics_to_the_last_bit(smoke, tmp_path):
    """With a kernel of the other kind, and the number format that was found the fastest before."""
    only = ('--only', 'experiment=vit', '--only', 'method=lora')
    medpeft('run', 'smoke', *only, '--results', tmp_path, '--plain-kernels', cache=smoke / 'cache')
    (again,) = records.read_all(tmp_path / 'smoke')
    before = records.read(smoke / 'results' / 'smoke' / 'runs' / again['run'])
    assert again['started'] > before['started']
    for part in ('metrics', 'curve', 'learning_rate', 'data'):
        assert without_times(again[part]) == without_times(before[part]), part


def without_times(part: object) -> object:
    """What a record says, without how long it took."""
    if isinstance(part, dict):
        return {name: without_times(value) for name, value in part.items() if 'seconds' not in name}
    return [without_times(entry) for entry in part] if isinstance(part, list) else part


def test_one_cell_of_each_family_gives_the_kept_numbers_to_the_last_bit(smoke, tmp_path):
    """The golden test: the smoke grid's records, run again by `medpeft verify`; and one that was changed fails."""
    kept = records.collect(smoke / 'results' / 'smoke', tmp_path / 'records.jsonl')
    printed = medpeft('verify', kept, '--sample', 3, '--results', tmp_path / 'again')
    assert '3 hold, 0 fail' in printed and printed.count('equal to the last bit') == 3
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    test = next(line['metrics']['test'] for line in lines if not line['rows']['test']['multi_label'])
    test['f1_macro'] += 0.001 if test['f1_macro'] < 0.5 else -0.001
    kept.write_text('\n'.join(map(json.dumps, lines)))
    printed = medpeft('verify', kept, '--sample', 0, code=1)
    assert '1 contradict themselves' in printed and 'FAILS' in printed and '0 hold, 1 fail' in printed


TABLES, FIGURES = (
    ['table1', 'table2', 'table3', 'table6', 'clinical', 'cost'],
    ['claims', 'clinical_curves', 'cxr_labels'],
)
FORMATS = [(name, suffix) for name in TABLES + FIGURES for suffix in ('csv', 'md', 'tex')]


@pytest.mark.parametrize(
    ('name', 'suffix'), FORMATS + [(name, suffix) for name in FIGURES for suffix in ('svg', 'pdf')]
)
def test_every_figure_and_table_is_there_in_every_format(smoke, name, suffix):
    path = smoke / 'figures' / 'smoke' / f'{name}.{suffix}'
    assert path.stat().st_size > 100


@pytest.mark.parametrize('name', ['figure1', 'figure3', 'table5'])
def test_a_page_of_which_too_little_was_run_is_not_written(smoke, name):
    """Two sizes of data are no curve, two methods no trade-off, and no encoder was pre-trained without labels."""
    assert list((smoke / 'figures' / 'smoke').glob(f'{name}.*')) == []


def test_results_on_synthetic_images_say_so(smoke):
    for name in ('table2', 'table3', 'claims'):
        assert 'synthetic' in (smoke / 'figures' / 'smoke' / f'{name}.md').read_text().lower()


def test_the_notebook_of_a_run_shows_its_pictures(smoke):
    for path in (smoke / 'results').rglob('notebook.ipynb'):
        cells = json.loads(path.read_text())['cells']
        outputs = [output for cell in cells for output in cell.get('outputs', [])]
        assert sum('image/png' in output.get('data', {}) for output in outputs) == 5


def test_a_folder_of_ones_own_images_is_compared_in_one_command(tmp_path):
    generator, images = np.random.default_rng(0), tmp_path / 'my images é'
    for name, level in (('with finding', 90), ('no finding', 160)):
        (images / name).mkdir(parents=True)
        for i in range(15):
            pixels = np.clip(generator.normal(level, 30, (70, 90)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(images / name / f'{i}.png')  # grey, not square
    few = {'min_steps': 2, 'max_steps': 2, 'evaluations': 1, 'batch_size': 8, 'search_trials': 0}
    settings = [part for name, value in few.items() for part in ('--set', f'{name}={value}')]
    command = ['compare', images, '--seeds', '1', *settings, '--results', tmp_path / 'results']
    medpeft(*command, '--methods', 'linear_probing,lora')
    said = medpeft(*command, '--methods', 'ssf')
    assert '1 runs, 1 to do' in said  # the second command adds to the first
    for words in ('Linear Probing: ', 'LoRA: ', 'SSF: ', 'No choice is supported: ', 'clinical'):
        assert words in said
    (page,) = (tmp_path / 'results').glob('compare-my-images-*/answer.html')
    assert '<svg' in page.read_text()
    assert len(list((tmp_path / 'results').rglob('adapter.safetensors'))) == 3
