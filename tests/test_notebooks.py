"""Every experiment notebook runs from start to end, on small synthetic data, and leaves one whole record."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from pathlib import Path

import pandas as pd
import papermill
import pytest

from medpeft_utils.text_image import adaptation

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted((ROOT / 'notebooks' / 'experiments').glob('*.ipynb'))
CLASSIFICATIONS = [path for path in EXPERIMENTS if path.stem != 'text_to_image']  # that one has other parts

SCORES = ['f1_macro', 'f1_weighted', 'f1_micro', 'accuracy', 'balanced_accuracy', 'auroc', 'calibration_error']
PARTS = {
    'data': {'name', 'label', 'synthetic', 'split_hash', 'counts', 'classes'},
    'backbone': {'name', 'label', 'family', 'source', 'hash', 'image_size'},
    'method': {'key', 'label', 'trainable_parameters', 'head_parameters', 'total_parameters'},
    'learning_rate': {'value', 'head_value', 'how', 'trials', 'edge', 'centre', 'head_centre'},
    'training': {'steps', 'epochs', 'batch_size', 'head', 'augmentation', 'selection'},
    'rows': {'validation', 'test'},
    'cost': {'forward_flops', 'step_flops', 'adapter_bytes', 'total_bytes', 'images_per_second', 'search_seconds'},
    'metrics': {'test', 'validation', 'per_class'},
    'time': {'total_seconds', 'step_seconds', 'train_images_per_second'},
    'environment': {'versions', 'platform', 'commit', 'device', 'precision', 'threads'},
}
WHOLE = {
    *('schema', 'run', 'status', 'experiment', 'parameters', 'code_version', 'curve', 'best_epoch', 'peak_memory_mb'),
    *('predictions', *PARTS),
}


def maker():
    """notebooks/experiments/make.py, which is no package."""
    spec = importlib.util.spec_from_file_location('make', ROOT / 'notebooks' / 'experiments' / 'make.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('notebook', CLASSIFICATIONS, ids=lambda path: path.stem)
def test_an_experiment_is_what_its_source_makes(notebook: Path):
    assert notebook.read_text() == maker().notebook(notebook.stem)


@pytest.mark.parametrize('notebook', EXPERIMENTS, ids=lambda path: path.stem)
def test_parameters_are_the_settings_with_their_defaults(notebook: Path):
    make, given = maker(), {}
    cells = json.loads(notebook.read_text())['cells']
    source = ''.join(next(cell['source'] for cell in cells if 'parameters' in cell['metadata'].get('tags', ())))
    exec(source, given)
    types = given.pop('__annotations__')
    settings, fixed = make.SETTINGS.get(notebook.stem, make.Settings), make.FIXED.get(notebook.stem)
    if notebook.stem == 'text_to_image':  # it has a source of its own
        settings = adaptation.Settings
        fixed = {'dataset': 'synthetic_chest_pairs', 'backbone': 'stable_diffusion_mini', 'method': 'lora'}
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    for name in make.LEFT_OUT.get(notebook.stem, ()):
        del defaults[name]
    assert {name: given[name] for name in types} == defaults | fixed
    assert types == {field.name: field.type for field in dataclasses.fields(settings) if field.name in types}
    assert len(types) <= 30


def test_the_three_experiments_are_there():
    assert {path.stem for path in EXPERIMENTS} >= {'low_data_regime', 'cnn', 'vit'}


FEW = {'epochs': 1, 'min_steps': 1, 'max_steps': 2, 'evaluations': 1, 'batch_size': 8, 'fraction': 0.1}
BY_HAND = [path for path in CLASSIFICATIONS if path.stem in ('protocol', 'cxr_lora_vs_full')]


@pytest.mark.parametrize('notebook', BY_HAND, ids=lambda path: path.stem)
def test_an_experiment_run_by_hand_leaves_a_whole_record(notebook: Path, tmp_path: Path):
    given = FEW | {'dataset': 'synthetic_breastus', 'backbone': 'vit_base_mini', 'record_folder': str(tmp_path)}
    papermill.execute_notebook(
        notebook, tmp_path / 'notebook.ipynb', parameters=given, kernel_name='python3', cwd=ROOT, progress_bar=False
    )
    record = json.loads((tmp_path / 'record.json').read_text())
    del given['record_folder']  # where a run lies is no part of what it is
    assert record['parameters'].items() >= given.items() and record['experiment'] == notebook.stem
    check(record, tmp_path)


@pytest.mark.parametrize('name', sorted({path.stem for path in CLASSIFICATIONS} - {path.stem for path in BY_HAND}))
def test_an_experiment_run_in_a_study_leaves_a_whole_record(smoke: Path, name: str):
    paths = (smoke / 'results').rglob('record.json')
    found = [path for path in paths if json.loads(path.read_text())['experiment'] == name]
    assert found
    for path in found:
        check(json.loads(path.read_text()), path.parent)


def check(record: dict, folder: Path) -> None:
    """Every part is there and agrees with the others and with the predictions, which lie somewhere in `folder`."""
    assert WHOLE - set(record) == set()
    assert {part: names - set(record[part]) for part, names in PARTS.items() if names - set(record[part])} == {}
    assert record['status'] == 'done'
    check_data(record)
    check_method(record)
    (predictions,) = folder.rglob(record['predictions'])
    check_scores(record, pd.read_parquet(predictions))


def check_data(record: dict) -> None:
    """It says that it is synthetic, and every split has images."""
    data = record['data']
    assert data['name'] == record['parameters']['dataset']
    assert data['synthetic'] is True and 'synthetic' in data['label']
    assert len(data['classes']) == {'synthetic_breastus': 3, 'synthetic_ham10000': 7}[data['name']]
    assert all(data['counts'][split] > 0 for split in ('train', 'validation', 'test'))


def check_method(record: dict) -> None:
    """A head of D·K + K parameters is trained beside the method's own, and neither is more than there is."""
    method, classes = record['method'], len(record['data']['classes'])
    assert method['key'] == record['parameters']['method']
    assert method['head_parameters'] % classes == 0
    assert method['trainable_parameters'] + method['head_parameters'] <= method['total_parameters']
    if method['key'] == 'linear_probing':  # it goes to its optimum by L-BFGS
        assert record['learning_rate']['how'] == 'converged'
    else:
        assert record['learning_rate']['value'] > 0 and record['learning_rate']['how'] in ('given', 'default')


def check_scores(record: dict, predictions: pd.DataFrame) -> None:
    """Every score is a share, and the accuracy is that of the stored predictions."""
    for split in ('test', 'validation'):
        scores = record['metrics'][split]
        assert all(0 <= scores[name] <= 1 for name in SCORES)
        assert math.isfinite(scores['loss'])
        rows = predictions[predictions['split'] == split]
        shares = rows[[f'p_{name}' for name in record['data']['classes']]]
        assert shares.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-3)
        assert len(rows) == record['data']['counts'][split]
        assert (shares.idxmax(axis=1) == 'p_' + rows['label']).mean() == pytest.approx(scores['accuracy'], abs=1e-6)
