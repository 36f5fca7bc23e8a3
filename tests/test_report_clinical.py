"""Clinical numbers equal scikit-learn's and their formulas; gaps between subgroups keep their promise by simulation."""

from __future__ import annotations

import json
import math
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import special, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve
from test_report_invented import records_with_rows

from medpeft_utils import report
from medpeft_utils.core.errors import BadInput
from medpeft_utils.report import clinical, cost, paper, source, subgroups
from medpeft_utils.report.inference import TestSplit
from medpeft_utils.training import rows

HERE = Path(__file__).parent
made = SimpleNamespace(**runpy.run_path(HERE / 'reference' / 'clinical.py'))


def rates_at(y: np.ndarray, p: np.ndarray, threshold: float) -> tuple[float, float]:
    """Sensitivity and specificity, by their definition."""
    return (p[y == 1] >= threshold).mean(), (p[y == 0] < threshold).mean()


def case(seed: int, count: int = 400, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y = (random.random(count) < 0.3).astype(int)
    p = special.expit(random.normal(1.5 * y - 1, 1.2))
    return y, p.round(2) if ties else p


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('ties', [False, True])
def test_numbers_are_scikit_learn_s(seed: int, ties: bool):
    y, p = case(seed, ties=ties)
    split = TestSplit(y[:, None], np.arange(len(y)))
    assert clinical.average_precision(y, p) == pytest.approx(average_precision_score(y, p), abs=1e-12)
    assert clinical.drawn_auroc(split, y, p)[0] == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert clinical.drawn_brier(split, y, p)[0] == pytest.approx(brier_score_loss(y, p), abs=1e-12)


@pytest.mark.parametrize('seed', range(3))
def test_the_calibration_line_is_that_of_a_logistic_regression(seed: int):
    y, p = case(seed)
    slope, intercept = clinical.calibration_line(y, p)
    fitted = LogisticRegression(C=np.inf, solver='newton-cholesky', tol=1e-13).fit(special.logit(p)[:, None], y)
    assert slope == pytest.approx(fitted.coef_[0, 0], abs=1e-9)
    assert special.expit(special.logit(p) + intercept).mean() == pytest.approx(y.mean(), abs=1e-9)
    assert all(map(math.isnan, clinical.calibration_line(np.ones(5), np.full(5, 0.5))))


@pytest.mark.parametrize('wanted', [0.9, 0.95])
def test_thresholds_reach_what_is_wanted_and_no_more(wanted: float):
    y, p = case(1)
    at = clinical.threshold_at_specificity(y, p, wanted)
    sensitivity, specificity = rates_at(y, p, at)
    false, true, _ = roc_curve(y, p, drop_intermediate=False)
    assert specificity >= wanted and sensitivity == pytest.approx(true[1 - false >= wanted].max())
    at = clinical.threshold_at_sensitivity(y, p, wanted)
    sensitivity, specificity = rates_at(y, p, at)
    assert sensitivity >= wanted and specificity == pytest.approx(1 - false[true >= wanted].min())


def test_bins_of_equal_mass_are_their_formula():
    y, p = case(2, 301)
    counts = np.bincount(clinical.equal_mass(p))
    assert len(counts) == 15 and set(counts) == {20, 21}
    split = TestSplit(y[:, None], np.arange(len(y)))
    expected = sum(
        abs(y[rows].mean() - p[rows].mean()) * len(rows) for rows in np.array_split(np.argsort(p), 15)
    ) / len(y)
    assert clinical.drawn_calibration_error(split, y, p)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('expected', json.loads((HERE / 'reference' / 'clinical.json').read_text()))
def test_decision_curves_and_subgroups_are_dcurves_and_fairlearn_s(expected: dict):
    """`reference/clinical.py` made the numbers, and says by which command."""
    y, p, of = made.case(expected['seed'])
    split, at = TestSplit(y[:, None], np.arange(len(y)), draws=5), np.array(made.THRESHOLDS)
    for name, scores in (('model', p), ('all', np.ones(len(p)))):
        net = clinical.drawn_net_benefit(split, y, scores, at)[0]
        assert net == pytest.approx(expected['net_benefit'][name], abs=1e-12)
    names = sorted(expected['auroc'])
    areas = subgroups.areas(split, y[:, None], p[:, None], of, names, [0])
    assert areas[0] == pytest.approx([expected['auroc'][name] for name in names], abs=1e-12)
    high, low = subgroups.ends([areas])
    assert areas[0, high] - areas[0, low] == pytest.approx(expected['gap'], abs=1e-12)
    for name in names:
        rows = of == name
        part = TestSplit(y[rows, None], np.arange(rows.sum()), draws=5)
        found = [rate[0] for rate in clinical.drawn_rates(part, y[rows], p[rows], 0.3)]
        assert found == pytest.approx(
            [expected['rates'][name][rate] for rate in ('sensitivity', 'specificity')], abs=1e-12
        )


def test_a_temperature_undoes_overconfidence():
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 3))
    p = special.softmax(logits, axis=1)
    labels = (p.cumsum(axis=1) > random.random((4000, 1))).argmax(axis=1)
    sharp = special.softmax(3 * logits, axis=1)
    odds = special.logit(np.clip(sharp, 1e-12, 1 - 1e-12))
    found = clinical.temperature(labels, odds)
    assert found == pytest.approx(3, rel=0.06)
    assert clinical.class_probabilities(odds, False, found) == pytest.approx(p, abs=0.03)


def test_a_temperature_of_several_findings_undoes_overconfidence_too():
    random = np.random.default_rng(0)
    odds = random.normal(size=(4000, 3))
    labels = (random.random((4000, 3)) < special.expit(odds)).astype(int)
    assert clinical.temperature(labels, (12 * odds).clip(-12, 12).astype(np.float32)) > 4
    assert clinical.temperature(labels, (3 * odds).astype(np.float32)) == pytest.approx(3, rel=0.06)


def test_the_linear_bootstrap_of_auroc_has_the_exact_one_s_spread():
    y, p = case(3, 600)
    groups = np.repeat(np.arange(200), 3)
    split = TestSplit(y[:, None], groups, draws=2000)
    exact, linear = split.auroc(p[:, None]), clinical.drawn_auroc(split, y, p)
    assert linear[1:].std() == pytest.approx(exact[1:].std(), rel=0.05)
    assert np.corrcoef(linear[1:], exact[1:])[0, 1] > 0.99


# ---- subgroups


def two_groups(random: np.random.Generator, gap: float, each: int = 300):
    """Labels, probabilities and two subgroups whose AUROC differs by about `gap`; an image a patient."""
    of = np.repeat(['a', 'b'], each)
    y = (random.random(2 * each) < 0.4).astype(int)
    apart = np.where(of == 'a', stats.norm.ppf(0.85), stats.norm.ppf(0.85 - gap)) * math.sqrt(2)
    p = special.expit(random.normal(apart * y, 1.0))
    return y[:, None], p[:, None], of


def test_the_permutation_of_subgroups_keeps_its_level():
    random, small = np.random.default_rng(0), 0
    for seed in range(500):
        y, p, of = two_groups(random, 0.0, 100)
        small += subgroups.permuted(y, p, of, np.arange(len(y)), ['a', 'b'], [0], seed, times=99) <= 0.05
    assert 0.03 <= small / 500 <= 0.07


def test_a_planted_gap_is_found():
    random, found, inside = np.random.default_rng(1), 0, 0
    for seed in range(40):
        y, p, of = two_groups(random, 0.15)
        split = TestSplit(y, np.arange(len(y)), draws=400)
        areas = subgroups.areas(split, y, p, of, ['a', 'b'], [0])
        assert areas[0] == pytest.approx([roc_auc_score(y[of == n, 0], p[of == n, 0]) for n in 'ab'], abs=1e-12)
        low, high = np.quantile(areas[1:, 0] - areas[1:, 1], [0.025, 0.975])
        found += subgroups.permuted(y, p, of, np.arange(len(y)), ['a', 'b'], [0], seed, times=199) <= 0.05 and low > 0
        inside += low <= 0.15 <= high
    assert found >= 36 and inside >= 34


def test_attributes_are_divided_as_asked():
    ages, skin = pd.Series(['30', '60', '71.5', '']), pd.Series(['1', '4', '6', 'x'])
    assert subgroups.By.parse('age:60').groups(ages).tolist() == ['under 60', '60 and over', '60 and over', '']
    assert subgroups.By.parse('skin:12-34-56').groups(skin).tolist() == ['12', '34', '56', '']
    assert subgroups.By.parse('sex').groups(pd.Series(['F', 'M'])).tolist() == ['F', 'M']
    with pytest.raises(BadInput, match='age:60'):
        subgroups.By.parse('age:60:70')


# ---- from records


@pytest.fixture(scope='module')
def study() -> pd.DataFrame:
    return records_with_rows({'Full FT': 0.65, 'LoRA': 0.85, 'BitFit': 0.65}, patients=300)


def test_the_clinical_table_has_every_class_and_takes_thresholds_from_validation(study):
    table = report.render('clinical', study)
    assert set(table.data['class']) == {'a', 'b', 'c'} and len(table.frame) == 3
    row = table.data.set_index(['method', 'class']).loc[('LoRA', 'c')]
    record = study[study['method_label'] == 'LoRA'].iloc[0]['record']
    labels, _, _, odds = rows.read(record, 'test')
    on, _, _, theirs = rows.read(record, 'validation')
    p, q = (clinical.class_probabilities(o, False)[:, 2] for o in (odds, theirs))
    at = clinical.threshold_at_specificity((on == 2).astype(int), q, 0.9)
    one = rates_at((labels == 2).astype(int), p, at)[1]
    assert row['specificity_reached_90'] == pytest.approx(one, abs=0.05)
    assert row['auroc_low'] < row['auroc'] < row['auroc_high'] and row['prevalence'] == pytest.approx(
        (labels == 2).mean()
    )


def test_what_calibrates_better_is_told(study):
    data = report.render('calibration', study).data.set_index(['method', 'kind'])
    assert data.loc[('LoRA', 'as trained'), 'difference_high'] < 0
    assert not np.isnan(data.loc[('BitFit', 'as trained'), 'difference_low'])
    assert 'detectably smaller' in report.render('calibration', study).notes[0]


def test_subgroups_come_from_the_rows_and_a_missing_column_is_one_line(study):
    table = report.render('subgroups', study)
    assert set(table.data['by']) == {'sex', 'age'} and {'auroc F', 'auroc M'} <= set(table.data.columns)
    assert table.data['change'].notna().sum() == 4
    asked = study.copy()
    asked.attrs['by'] = ['sex', 'site']
    assert "holds no 'site'" in ' '.join(report.render('subgroups', asked).notes)
    few = records_with_rows({'Full FT': 0.65, 'LoRA': 0.85}, patients=20)
    assert 'too few' in ' '.join(report.render('subgroups', few).notes)


def test_records_without_rows_say_so():
    for name in ('clinical', 'clinical_curves', 'calibration', 'subgroups', 'gaps', 'cost', 'cost_front'):
        assert 'hold no' in report.render(name, paper.records()).markdown()


def radiographs(seeds: int = 3) -> pd.DataFrame:
    """Records of the radiograph experiment with rows of three findings; LoRA is better by a planted amount."""
    random = np.random.default_rng(5)
    groups = np.repeat(np.arange(120), random.integers(1, 9, 120))
    labels = (random.random((len(groups), 3)) < [0.4, 0.3, 0.2]).astype(int)
    sex = pd.DataFrame({'sex': np.where(np.arange(120) % 2, 'M', 'F')[groups]})
    found = []
    for label, skill in (('Full FT', 0.6), ('LoRA', 1.6)):
        for seed in range(seeds):
            sections, area = {}, 0.0
            for part in ('validation', 'test'):
                p = special.expit(random.normal(skill * labels - 1, 1.0))
                sections[part] = rows.write(labels, groups, p, sex)
                area = float(np.mean([roc_auc_score(labels[:, k], p[:, k]) for k in range(3)]))
            record = {
                'run': f'{label}{seed}',
                'parameters': {'fraction': 0.1, 'seed': seed},
                'backbone': {'role': '', 'label': 'ViT-Small DINOv2'},
                'data': {'name': 'nih_chestxray14_samples', 'label': 'NIH ChestX-ray14 (samples)', 'synthetic': False,
                         'split_hash': 'x', 'counts': {'train': 150, 'test': len(labels)}, 'classes': ['u', 'v', 'w']},
                'method': {'label': label, 'config': {'rank': 8} if label == 'LoRA' else {},
                           'trainable_parameters': 1, 'total_parameters': 9},
                'metrics': {'test': {'auroc': area}, 'validation': {'auroc': area}},
                'learning_rate': {'edge': None},
                'rows': sections,
            }  # fmt: skip
            found.append({'run': record['run'], 'status': 'done', 'profile': 'x', 'experiment': 'cxr_lora_vs_full',
                          'backbone_label': 'ViT-Small DINOv2', 'encoder_role': '', 'fraction': 0.1,
                          'dataset_label': 'NIH', 'method_label': label, 'seed': seed, 'f1_weighted': 0.0,
                          'record': record})  # fmt: skip
    return pd.DataFrame(found)


def test_radiographs_have_intervals_over_patients_and_seeds_from_their_rows():
    records = radiographs()
    table = report.render('cxr_tasks', records)
    row = table.data.iloc[0]
    assert row['over'] == 'patients and seeds' and row['patients'] == 120 and row['difference_low'] > 0.05
    expected = records.groupby('method_label')['record'].apply(
        lambda rs: np.mean([r['metrics']['test']['auroc'] for r in rs])
    )
    assert row['lora'] == pytest.approx(expected['LoRA']) and row['full'] == pytest.approx(expected['Full FT'])
    assert 'Smallest difference' in table.markdown() and 'ViT-Small DINOv2' in table.markdown()
    assert set(report.render('subgroups', records).data['by']) == {'sex'}
    assert set(report.render('clinical', records).data['class']) == {'u', 'v', 'w'}


# ---- costs and checklists


def test_costs_are_medians_and_what_was_not_measured_is_left_open(study):
    costs = {'forward_flops': 2e9, 'step_flops': 6e9, 'adapter_bytes': 5e5, 'total_bytes': 9e7, 'energy_joules': None}
    costs |= {
        'images_per_second': {'unmerged': {'1': 50.0, '64': 200.0}},
        'search_seconds': 12.0,
        'peak_memory_mb': 700.0,
    }
    records = study.copy()
    records['record'] = [
        one | {'cost': costs | {'step_flops': 6e9 if 'Full' in run else 4e9}, 'backbone': {'image_size': 140},
               'environment': {'device': 'a CPU'}}
        for one, run in zip(records['record'], records['run'], strict=True)
    ]  # fmt: skip
    table = report.render('cost', records)
    frame = table.frame.set_index('Method')
    assert frame.loc['LoRA', 'Step, GFLOP'] == '4.00' and frame.loc['Full FT', 'Batch 64, images/s'] == '200.0'
    assert 'Energy, J' not in frame and 'Energy, J' in table.notes[-1]
    front = report.render('cost_front', records).data
    assert front[(front['cost'] == 'step_flops') & front['on_front']]['method'].to_list()[-1] == 'LoRA'


def test_costs_of_two_devices_are_apart_and_an_impossible_step_is_left_open(study):
    costs = {'forward_flops': 2e9, 'adapter_bytes': 5e5}
    records = study.copy()
    records['record'] = [
        one | {
            'cost': costs | {'step_flops': 40e9 if 'Full' in run else 6e9},  # 3 times a forward pass at most
            'backbone': {'image_size': 140},
            'environment': {'device': f'card {number % 2}'},
        }
        for number, (one, run) in enumerate(zip(records['record'], records['run'], strict=True))
    ]  # fmt: skip
    table = report.render('cost', records)
    devices = {name.rpartition(', ')[2] for name in table.frame['Backbone']}
    assert devices == {'card 0', 'card 1'}
    step = table.frame.groupby('Method')['Step, GFLOP'].agg(set)
    assert step['Full FT'] == {'-'} and step['LoRA'] == {'6.00'}
    assert any('grouped convolutions' in note for note in table.notes)


def test_the_checklists_fill_what_records_hold(study):
    records = study.copy()
    whole = {
        'backbone': {'label': 'ViT-Base', 'source': 'a file', 'image_size': 48},
        'environment': {'versions': {'a': '1'}},
    }
    records['record'] = [one | whole | {'method': {'label': 'LoRA'}} for one in records['record']]
    page = report.render('checklists', records).markdown()
    assert (
        '9 of 9 records keep every test row' in page and re.search(r'test [FM] \d+', page) and '… (for people)' in page
    )
    first = records['record'].iloc[0]
    one, other = (set(rows.read(first, split).groups.tolist()) for split in ('validation', 'test'))
    assert f'{len(one)} groups in validation, {len(other)} in test, {len(one & other)} in both' in page
    assert 'squares of 48 pixels' in page and 'LoRA (0)' in page


def test_medpeft_cost_prints_the_table_or_says_what_is_missing(study, monkeypatch):
    records = study.copy()
    records['record'] = [one | {'cost': {'step_flops': 4e9}, 'backbone': {'image_size': 48}} for one in study['record']]
    monkeypatch.setattr(source, 'load', lambda *given: records)
    done = CliRunner().invoke(cost.command, ['mine'])
    assert done.exit_code == 0 and 'Step, GFLOP' in done.output and 'LoRA' in done.output
    monkeypatch.setattr(source, 'load', lambda *given: study)
    done = CliRunner().invoke(cost.command, ['mine'])
    assert isinstance(done.exception, BadInput) and 'medpeft run mine' in str(done.exception)
