"""Figures, tables and the page of claims: what they say, what they leave open, and the files that they write."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_report_invented import invented_record, invented_records

from medpeft_utils import report
from medpeft_utils.core.errors import UnknownName
from medpeft_utils.report import claims, evidence, paper, tradeoff
from medpeft_utils.report.labels import spread_out
from medpeft_utils.report.output import Row, Table, latex_text

NAMES = {'figure1', 'figure1_crossover', 'figure3', 'table1', 'table2', 'table3', 'table5', 'table6', 'claims'}


@pytest.fixture(scope='module')
def study() -> pd.DataFrame:
    return invented_records(seeds=3, synthetic=True)


def rows_of(table: Table, dataset: str, source: str) -> dict[str, str]:
    frame = table.frame
    found = frame[frame['Dataset (training images)'].str.startswith(dataset) & (frame['Source'] == source)]
    return found.iloc[0].to_dict()


def test_all_are_registered_and_an_unknown_name_is_refused():
    assert set(report.RENDERERS) >= NAMES
    with pytest.raises(UnknownName, match='table2'):
        report.render('table22', paper.records())


# ---- tables


def test_table2_of_the_paper_is_the_paper():
    table = report.render('table2', paper.records())
    fitz = rows_of(table, 'FitzPatrick17K', 'paper')
    assert fitz['SSF'] == '0.71 ± 0.7' and fitz['Full FT'] == '0.71 ± 0.4'
    number = table.frame.index[table.frame['Dataset (training images)'] == 'FitzPatrick17K (5,809)'][0]
    best = [column for column, bold in zip(table.frame.columns, table.bold[number], strict=True) if bold]
    assert best == ['Full FT', 'SSF']  # both in bold, as printed
    assert rows_of(table, 'Average F1', 'recomputed')['Full FT'] == '0.78'
    assert rows_of(table, 'Average F1', 'paper, printed')['Full FT'] == '0.77'
    assert 'Full FT on ResNet50 0.77 (cells: 0.782)' in table.notes[-1]
    ranked = rows_of(table, 'Average rank', 'recomputed')
    assert [ranked[m] for m in paper.CNN_METHODS] == ['2.8', '5.2', '2.2', '3.2', '4.6', '1.2']


def test_a_study_stands_beside_the_paper_and_gaps_stay_gaps(study: pd.DataFrame):
    table = report.render('table5', study)
    ours, theirs = rows_of(table, 'BreastUS', 'this study'), rows_of(table, 'BreastUS', 'paper')
    assert ours['SSF'] == '-' and theirs['SSF'] == '0.95'
    assert re.fullmatch(r'0\.\d\d ± \d\.\d', ours['LoRA'])
    assert set(rows_of(table, 'SMDG', 'this study').values()) >= {'-'}
    assert 'ViT-Base MAE BreastUS SSF' in ' '.join(table.notes) and 'SYNTHETIC' in ' '.join(table.notes)
    # BreastUS has a gap, so the averages are HAM10000 alone, the paper's too
    same = rows_of(table, 'Average F1', 'paper, same cells')
    assert same['LoRA'] == '0.87' and same['Linear Probing'] == '0.68'


def test_the_other_averages_of_f1_are_in_further_files(study: pd.DataFrame):
    table = report.render('table2', study, 'macro')
    assert set(table.further) == {'f1_weighted', 'f1_micro'}
    macro, weighted = (
        data.set_index(['dataset', 'method'])['f1'] for data in (table.data, table.further['f1_weighted'])
    )
    cell = 'BreastUS', 'SSF'
    assert weighted[cell] - macro[cell] == pytest.approx(0.2)  # as invented
    assert table.data.set_index(['dataset', 'method']).loc[cell, 'paper_f1'] == 0.94


def test_table1_lists_what_the_paper_lists():
    table = report.render('table1', invented_records(seeds=1))
    printed = paper.read('table1_methods')
    assert set(table.frame['Method']) >= set(printed['method'])
    beside = table.frame.set_index('Method')['Beside the paper'][printed['method']]
    assert set(beside) == {'as in the paper'}


def test_table6_holds_printed_exact_and_own_counts(study: pd.DataFrame):
    frame = report.render('table6', study).frame.set_index(['Encoder', 'Source'])
    assert frame.loc[('ViT-Base', 'paper, printed'), 'LoRA'] == '0.6M'
    assert frame.loc[('ViT-Base', 'real architecture, counted'), 'LoRA'] == '589,824'  # 12 x 16 x (3 x 768 + 768)
    assert frame.loc[('ViT-Base', 'paper and count'), 'Full FT'] == 'differs'
    assert frame.loc[('ViT-Base', 'this study: ViT-Base (mini)'), 'LoRA'] == '147,456'
    assert frame.loc[('ViT-Huge', 'this study'), 'LoRA'] == '-'


def test_random_weights_stand_beside_pretrained_ones():
    rows = [
        invented_record('ViT-Base', 'HAM10000', 'LoRA', seed, score + 0.01 * seed, weights=weights)
        for weights, score in (('pretrained', 0.8), ('random', 0.6))
        for seed in range(3)
    ]
    table = report.render('pretraining', pd.DataFrame(rows))
    assert table.frame.iloc[0].to_list()[3:] == ['0.81 ± 1.0', '0.61 ± 1.0', '+20.0 [+20.0, +20.0]', '3']
    assert report.render('table3', pd.DataFrame(rows)).frame.iloc[4]['LoRA'] == '0.81 ± 1.0'


# ---- figures


def test_figure1_says_synthetic_and_draws_the_paper_thinly(study: pd.DataFrame):
    output = report.render('figure1', study)
    upper = output.figure.axes[0]
    assert 'synthetic images' in [text.get_text() for text in upper.texts]
    dashed = [line for line in upper.lines if line.get_linewidth() < 1]
    assert len(dashed) == 3
    assert upper.get_xscale() == 'log' and '75 · 1 %' in [t.get_text() for t in output.figure.axes[2].get_xticklabels()]
    row = output.data.set_index(['encoder', 'method', 'fraction']).loc[('ViT-Base', 'LoRA', 0.05)]
    assert row['paper_f1'] == 0.776 and row['seeds'] == 3 and row['train_images'] == 376


def test_real_images_are_not_called_synthetic():
    output = report.render('figure3', invented_records(seeds=1))
    words = [text.get_text() for axes in output.figure.axes for text in axes.texts]
    assert 'synthetic images' not in words and 'synthetic' not in output.title


def test_pareto_front_is_what_no_cheaper_point_matches():
    assert tradeoff.pareto([1, 10, 100, 10], [0.5, 0.7, 0.7, 0.6]) == [0, 1]


def test_labels_are_spread_in_their_order():
    moved = np.array(spread_out([0.0, 0.01, 0.02, 1.0], 0.1))
    assert (np.diff(moved) >= 0.1 - 1e-6).all() and moved[3] == 1.0


# ---- every renderer, on little


@pytest.mark.parametrize('name', sorted(NAMES | {'ranks_cnn', 'ranks_vit', 'pretraining'}))
def test_nothing_run_is_said_and_not_an_error(name: str):
    empty = pd.DataFrame(columns=list(invented_record('ViT-Base', 'HAM10000', 'LoRA')))
    output = report.render(name, empty)
    assert output.notes and output.title
    failed = pd.DataFrame([invented_record('ViT-Base', 'HAM10000', 'LoRA', status='failed', dataset_label=None)])
    assert report.render(name, failed).notes


@pytest.mark.parametrize('name', ['figure1', 'figure3', 'table3', 'claims'])
def test_one_run_and_own_data_are_enough(name: str):
    rows = [invented_record('ViT-Base', 'My own', m, train_images=90) for m in ('Full FT', 'LoRA')]
    output = report.render(name, pd.DataFrame(rows))
    if name == 'table3':
        assert rows_of(output, 'My own (90)', 'this study')['LoRA'] == '0.70'


# ---- files


def test_a_table_is_written_as_numbers_and_text_and_never_as_a_picture(tmp_path, study: pd.DataFrame):
    paths = {path.name for path in report.render('table2', study).save(tmp_path)}
    assert {f'table2.{kind}' for kind in ('csv', 'md', 'tex')} <= paths and 'table2.png' not in paths
    assert {'table2_f1_macro.csv', 'table2_f1_micro.csv'} <= paths
    assert '**0.94 ± 0.7**' in (tmp_path / 'table2.md').read_text()
    latex = (tmp_path / 'table2.tex').read_text()
    assert '\\textbf{0.94 $\\pm$ 0.7}' in latex and '\\toprule' in latex and '±' not in latex
    numbers = pd.read_csv(tmp_path / 'table2.csv')
    assert set(numbers['method']) == set(paper.CNN_METHODS)


def test_a_figure_is_written_at_200_dpi_with_its_fonts(tmp_path):
    output = report.render('figure1', paper.records())
    output.save(tmp_path)
    width, height = output.figure.get_size_inches()
    with Image.open(tmp_path / 'figure1.png') as image:
        assert image.size == (round(200 * width), int(200 * height))
    pdf = (tmp_path / 'figure1.pdf').read_bytes()
    assert b'/FontFile2' in pdf and b'/Type3' not in pdf  # TrueType, embedded
    assert b'CreationDate' not in pdf  # the same numbers give the same file
    assert 'figure1.png' in (tmp_path / 'figure1.md').read_text()
    assert 'figure1.pdf' in (tmp_path / 'figure1.tex').read_text()


def test_latex_is_escaped():
    assert latex_text('95 % of a_b & c ± 1') == '95 \\% of a\\_b \\& c $\\pm$ 1'


def test_a_repeated_heading_is_left_out_in_print_only():
    rows = [Row(('A', 'x'), ['1']), Row(('A', 'y'), ['2'], best=[True])]
    table = Table(name='t', title='T', notes=[], data=pd.DataFrame(), columns=['E', 'D', 'v'], rows=rows)
    assert table.frame['E'].to_list() == ['A', 'A'] and '| A | y | **2** |' in table.markdown()


# ---- claims


def claim_study(gains: dict[str, float], encoder: str, dataset: str = 'BreastUS', seeds: int = 3) -> pd.DataFrame:
    """Full FT at 0.70 and methods above or below it, each seed 0.001 apart."""
    rows = []
    for method, gain in {'Full FT': 0.0, **gains}.items():
        for seed in range(seeds):
            score = 0.7 + gain + 0.001 * seed * (method != 'Full FT')
            rows.append(invented_record(encoder, dataset, method, seed, score))
    return pd.DataFrame(rows)


def verdict(name: str, records: pd.DataFrame) -> str:
    return claims.answers(records)[name].verdict


def test_every_claim_states_its_rule():
    assert len(claims.CLAIMS) >= 12
    assert all(len(claim.rule) > 40 and claim.where and claim.text.endswith('.') for claim in claims.CLAIMS.values())


def test_without_records_no_claim_is_answered():
    empty = invented_records(seeds=1).iloc[:0]
    assert {answer.verdict for answer in claims.answers(empty).values()} == {evidence.UNANSWERED}


@pytest.mark.parametrize(
    ('gain', 'seeds', 'expected'),
    [(0.219, 3, 'reproduced'), (0.10, 3, 'consistent'), (0.219, 1, 'consistent'), (-0.02, 3, 'not reproduced')],
)
def test_the_gain_of_ssf_on_breastus(gain: float, seeds: int, expected: str):
    assert verdict('ssf_gains_22_points_on_breastus', claim_study({'SSF': gain}, 'ResNet50', seeds=seeds)) == expected


def test_the_best_method_is_told_from_the_second():
    first = claim_study({'SSF': 0.2, 'TSA': 0.1}, 'ResNet50')
    assert verdict('ssf_best_on_cnn', first) == 'reproduced'
    assert verdict('ssf_best_on_cnn', claim_study({'SSF': 0.1, 'TSA': 0.2}, 'ResNet50')) == 'not reproduced'
    assert verdict('lora_best_on_vits', first) == 'cannot be answered'


def test_linear_probing_worst_and_adaptformer_weak():
    records = claim_study({'Linear Probing': -0.2, 'AdaptFormer': -0.1, 'LoRA': 0.1, 'SSF': 0.05}, 'ViT-Base')
    assert verdict('linear_probing_worst', records) == 'reproduced'
    assert verdict('adaptformer_weak', records) == 'reproduced'
    assert verdict('three_methods_beat_full_ft', records) == 'reproduced'


def test_the_gain_that_grows_with_the_model():
    small, large = claim_study({'LoRA': 0.02}, 'ViT-Base'), claim_study({'LoRA': 0.1}, 'ViT-Huge')
    large['f1_weighted'] += 0.0005 * large['seed'] * (large['method_label'] == 'LoRA')
    assert verdict('gains_grow_with_the_model', pd.concat([small, large])) == 'reproduced'
    assert verdict('gains_grow_with_the_model', small) == 'cannot be answered'


def low_data_study(zero: float) -> pd.DataFrame:
    """Records of Figure 1 in which the gain falls by a tenth for every doubling and is zero near the size `zero`."""
    rows = []
    for fraction in (0.1, 0.3, 0.5, 0.8, 1.0):
        for seed in range(3):
            gain = -0.1 * np.log2(fraction / (zero + 0.02 * (seed - 1)))
            for method, score in (('Full FT', 0.5), ('LoRA', 0.5 + gain), ('BitFit', 0.5 + gain * (1 + 0.1 * seed))):
                other = {'fraction': fraction, 'experiment': 'low_data_regime'}
                rows.append(invented_record('ViT-Base', 'HAM10000', method, seed, score, **other))
    return pd.DataFrame(rows)


def test_crossovers_and_slopes_of_a_low_data_study():
    answers = claims.answers(low_data_study(zero=0.5))
    assert answers['crossover_vit_base'].verdict == 'reproduced'
    assert '+10.0' in ' '.join(answers['gains_grow_as_data_shrink'].decides)
    assert answers['gains_grow_as_data_shrink'].verdict == 'reproduced'
    assert answers['crossover_vit_large_lora'].verdict == 'cannot be answered'


@pytest.mark.parametrize(('zero', 'expected'), [(0.31, 'consistent'), (0.285, 'not reproduced')])
def test_an_interval_that_only_touches_the_paper_s_range_is_not_consistent(zero: float, expected: str):
    found = claims.answers(low_data_study(zero))['crossover_vit_base']
    assert found.verdict == expected
    assert 'paper 50 %: between 30 and 80 %' in found.decides[0]


def test_the_page_of_claims_holds_rule_verdict_and_caveat(study: pd.DataFrame):
    page = report.render('claims', study).markdown()
    assert 'The images are synthetic' in page and 'Small backbones' in page
    for claim in claims.CLAIMS.values():
        assert f'## {claim.text}' in page and claim.rule in page
