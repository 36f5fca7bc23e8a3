"""Kept records that are checked and run again, and a study as one archive: the same numbers, the same bytes."""

from __future__ import annotations

import copy
import subprocess
import zipfile

import numpy as np
import pytest
from study_project import Project

from medpeft_utils.study import records, verify
from medpeft_utils.study.identity import run_hash
from medpeft_utils.training import rows


def invented(**changes) -> dict:
    """A whole record of three classes that agrees with itself."""
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 3, 40), rng.dirichlet(np.ones(3), 40)
    section = rows.write(labels, np.arange(40), probabilities)
    parameters = {'dataset': 'synthetic_smdg', 'method': 'lora', 'seed': 0}
    record = {
        **{'schema': 1, 'status': 'done', 'experiment': 'vit', 'parameters': parameters, 'code_version': 'a.b'},
        **{'data': {'split_hash': 'x'}, 'backbone': {'family': 'vit'}, 'method': {'key': 'lora'}},
        **{'learning_rate': {'value': 0.1}, 'time': {}, 'environment': {}, 'rows': {'test': section}},
    }
    record['run'] = run_hash('vit', parameters, 'a.b', 'x')
    record['metrics'] = {'test': verify._scores_of_rows(record, 'test')}
    return record | changes


def test_a_record_that_was_changed_contradicts_itself():
    record = invented()
    assert not records.faults(record) and verify.tampered(record) == ''
    for place, value in (
        (('metrics', 'test', 'f1_macro'), 0.9),
        (('metrics', 'test', 'accuracy'), record['metrics']['test']['accuracy'] + 1e-4),
        (('parameters', 'seed'), 1),
        (('parameters', 'method'), 'ssf'),
        (('data', 'split_hash'), 'y'),
        (('code_version',), 'a.c'),
    ):
        changed = part = copy.deepcopy(record)
        for name in place[:-1]:
            part = part[name]
        part[place[-1]] = value
        assert 'changed' in verify.tampered(changed), place


def test_a_repetition_holds_within_the_tolerance():
    kept = invented()

    def beside(by: float) -> verify.Verdict:
        again = copy.deepcopy(kept)
        again['metrics']['test']['f1_macro'] += by
        return verify.compare(kept, again, 0.02)

    assert beside(0).holds and 'equal to the last bit' in beside(0).message
    assert beside(0.01).holds and beside(0.01).difference == pytest.approx(0.01)
    assert not beside(0.03).holds and 'test f1_macro differs by 0.0300' in beside(0.03).message
    assert not verify.compare(kept, None, 0.02).holds
    assert not verify.compare(kept, kept | {'data': {'split_hash': 'z'}}, 0.02).holds


def test_a_sample_is_spread_over_families_and_methods_and_always_the_same():
    kinds = [('cnn', 'cnn'), ('vit', 'vit'), ('low', 'vit')]
    found = [
        invented(run=f'{experiment}{method}{seed}', experiment=experiment, backbone={'family': family})
        | {'method': {'key': method}}
        for experiment, family in kinds
        for method in ('lora', 'ssf')
        for seed in range(4)
    ]
    chosen = verify.sample(found, 6)
    assert {(record['experiment'], record['method']['key']) for record in chosen} == {
        (experiment, method) for experiment, _ in kinds for method in ('lora', 'ssf')
    }
    assert {record['experiment'] for record in verify.sample(found, 3)} == {'cnn', 'vit', 'low'}
    assert verify.sample(found[::-1], 6) == chosen


def test_an_archive_is_the_same_bytes_twice_and_holds_no_image(tmp_path):
    project = Project(tmp_path)
    project.grid(axes={'seed': [0, 1]})
    project.medpeft('run', 'tiny')
    figures = project.root / 'figures' / 'tiny'
    figures.mkdir(parents=True)
    (figures / 'figure1.svg').write_text('<svg><path d=""/></svg>')
    (figures / 'figure2.svg').write_text('<svg><image href="data:image/png;base64,AAAA"/></svg>')
    (figures / 'figure2.png').write_bytes(b'\x89PNG')
    (figures / 'table1.csv').write_text('a,b\n')
    for name in ('a', 'b'):
        project.medpeft('artefact', 'tiny', '--out', f'{name}.zip')
    one, two = ((project.root / f'{name}.zip').read_bytes() for name in ('a', 'b'))
    assert one == two
    with zipfile.ZipFile(project.root / 'a.zip') as archive:
        names = set(archive.namelist())
        assert {'records.jsonl', 'SHA256SUMS', 'README.md', 'figures/figure1.svg', 'figures/table1.csv'} <= names
        assert not any(name.endswith(('.png', 'figure2.svg')) for name in names)
        assert str(tmp_path) not in archive.read('records.jsonl').decode(), 'where it lay on this machine'
        archive.extractall(tmp_path / 'out')
    check = subprocess.run(['sha256sum', '--check', '--quiet', 'SHA256SUMS'], cwd=tmp_path / 'out')
    assert check.returncode == 0
    assert 'no records of' in project.medpeft('artefact', 'tinny', code=2)
