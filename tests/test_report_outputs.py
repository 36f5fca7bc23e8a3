"""Figures, tables and the page of claims: what they say, what they leave open, and the files that they write."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from test_report_invented import invented_record, invented_records, records_with_rows

import medpeft_utils
from medpeft_utils import report
from medpeft_utils.core.errors import UnknownName
from medpeft_utils.report import figure3, figure4, paper, paper_claims, style
from medpeft_utils.report.output import Nothing, Row, Table, latex_text

NAMES = {'figure1', 'figure1_crossover', 'figure3', 'table1', 'table2', 'table3', 'table5', 'table6', 'claims'}


@pytest.fixture(scope='module')
def study() -> pd.DataFrame:
    return invented_records(seeds=3, synthetic=True)


def cell(table: Table, method: str, column: str, source: str = 'this study', encoder: str = '') -> str:
    frame = table.frame
    found = frame[(frame['Method'] == method) & (frame['Source'] == source)]
    found = found[found['Encoder'].str.startswith(encoder)]
    return found[next(name for name in frame if name.startswith(column))].iloc[0]


def test_all_are_registered_and_an_unknown_name_is_refused():
    assert set(report.RENDERERS) >= NAMES
    with pytest.raises(UnknownName, match='table2'):
        report.render('table22', paper.records())


# ---- tables


def test_table2_of_the_paper_is_the_paper():
    table = report.render('table2', paper.records())
    assert cell(table, 'SSF', 'FitzPatrick17K', 'paper') == '0.71 ± 0.7'
    assert cell(table, 'Full FT', 'FitzPatrick17K', 'paper') == '0.71 ± 0.4'
    place = [name.startswith('FitzPatrick17K') for name in table.columns].index(True)
    assert set(table.frame['Method'][table.bold[:, place]]) == {'Full FT', 'SSF'}  # both in bold, as printed
    assert 'Full FT on ResNet50 0.77 (cells: 0.782)' in ' '.join(table.notes)


def test_a_study_stands_beside_the_paper_and_what_was_not_run_is_left_out(study: pd.DataFrame):
    table = report.render('table5', study)
    assert cell(table, 'SSF', 'BreastUS') == '-' and cell(table, 'SSF', 'BreastUS', 'paper') == '0.95'
    assert re.fullmatch(r'0\.\d\d \[\.\d\d, 1?\.\d\d\]', cell(table, 'LoRA', 'BreastUS'))
    assert not any(name.startswith('SMDG') for name in table.columns)
    assert 'CLIP' not in ' '.join(table.frame['Encoder'])
    assert 'SYNTHETIC' in ' '.join(table.notes) and 'Smallest difference' in table.markdown().split('|')[0]


def test_a_ninth_method_is_in_the_table_the_ranks_and_the_trade_off():
    accuracy = {'Full FT': 0.6, 'LoRA': 0.7, 'SSF': 0.65, 'NinthPEFT': 0.97}
    records = records_with_rows(accuracy)
    table = report.render('table3', records)
    assert list(dict.fromkeys(table.frame['Method'])) == ['Full FT', 'LoRA', 'SSF', 'NinthPEFT']
    bold = table.frame['Method'][table.bold[:, 3]]
    assert set(bold) == {'NinthPEFT'}
    ranked = report.render('ranks', records).data
    assert ranked['method'][0] == 'NinthPEFT' and ranked['high'][0] == 1
    assert 'NinthPEFT' in set(report.render('figure3', records).data['method'])
    assert '150 patients or lesions' in table.markdown()


def test_folds_are_taken_by_nadeau_and_bengio_and_three_sets_by_random_effects():
    folds = [
        records_with_rows({'Full FT': 0.6, 'LoRA': 0.75}, dataset=name, split=f'{name}{k}', seeds=1, patients=60)
        for name in ('BreastUS', 'SMDG', 'RSNA Pneumonia')
        for k in range(5)
    ]
    table = report.render('table3', pd.concat(folds, ignore_index=True))
    row = table.data.set_index(['dataset', 'method']).loc[('SMDG', 'LoRA')]
    assert row['splits'] == 5 and row['over'] == 'splits' and row['minus_low'] > 0
    apart = cell(table, 'LoRA', 'Minus full FT')
    assert re.fullmatch(r'\+\d+\.\d \[\+\d+\.\d, \+\d+\.\d\]; [+-]\d+ to [+-]\d+', apart)


def test_the_other_averages_of_f1_are_in_further_files(study: pd.DataFrame):
    table = report.render('table2', study, 'macro')
    assert set(table.further) == {'f1_weighted', 'f1_micro'}
    macro, weighted = (
        data.set_index(['dataset', 'method'])['f1'] for data in (table.data, table.further['f1_weighted'])
    )
    at = 'BreastUS', 'SSF'
    assert weighted[at] - macro[at] == pytest.approx(0.2)  # as invented
    assert table.data.set_index(['dataset', 'method']).loc[at, 'paper_f1'] == 0.94


def test_table1_lists_what_the_paper_lists():
    table = report.render('table1', invented_records(seeds=1))
    printed = paper.read('table1_methods')
    assert set(table.frame['Method']) >= set(printed['method'])
    beside = table.frame.set_index('Method')['Beside the paper'][printed['method']]
    assert set(beside[beside != 'as in the paper'].index) <= {'LoRA'}  # serves CNNs too by now


def test_table6_holds_own_counts_and_of_the_paper_printed_and_exact_ones(study: pd.DataFrame):
    frame = report.render('table6', paper.records()).frame.set_index(['Encoder', 'Method'])
    assert frame.loc[('ViT-Base', 'LoRA'), 'Paper, printed'] == '0.6M'
    assert frame.loc[('ViT-Base', 'LoRA'), 'Real architecture, counted'] == '589,824'  # 12 x 16 x (3 x 768 + 768)
    assert frame.loc[('ViT-Base', 'Full FT'), 'Paper and count'] == 'differs'
    own = report.render('table6', study).frame.set_index(['Backbone', 'Method'])
    assert own.loc[('ViT-Base (mini)', 'LoRA'), 'Trained parameters'] == '147,456'
    assert 'ViT-Huge' not in ' '.join(own.index.get_level_values(0))


def test_random_weights_stand_beside_pretrained_ones():
    rows = [
        invented_record('ViT-Base', 'HAM10000', 'LoRA', seed, score + 0.01 * seed, weights=weights)
        for weights, score in (('pretrained', 0.8), ('random', 0.6))
        for seed in range(3)
    ]
    table = report.render('pretraining', pd.DataFrame(rows))
    assert table.frame.iloc[0].to_list()[3:] == ['0.81 [.79, .83]', '0.61 [.59, .63]', '+20.0 [+20.0, +20.0]', '3']
    assert set(report.render('table3', pd.DataFrame(rows)).frame['Encoder']) == {'ViT-Base'}


# ---- figures


def test_figure1_says_synthetic_and_names_the_paper_s_curves(study: pd.DataFrame):
    output = report.render('figure1', study)
    upper, (footer, badge) = output.figure.axes[0], [text.get_text() for text in output.figure.texts]
    assert badge == 'synthetic images'
    names = [text.get_text() for text in output.figure.legends[0].get_texts()]
    assert {'LoRA', 'LoRA, paper', 'Full FT', 'Full FT, paper', 'BitFit', 'BitFit, paper'} == set(names)
    ticks = [text.get_text() for text in output.figure.axes[2].get_xticklabels()]
    assert upper.get_xscale() == 'log' and '1\n75' in ticks and '' in ticks  # what would collide has no label
    row = output.data.set_index(['encoder', 'method', 'fraction']).loc[('ViT-Base', 'LoRA', 0.05)]
    assert row['paper_f1'] == 0.776 and row['seeds'] == 3 and row['train_images'] == 376
    assert footer.count('\n') <= 1 and '…' not in footer and footer.startswith('Bands and bars: 95 % intervals.')


def test_real_images_are_not_called_synthetic():
    output = report.render('figure3', invented_records(seeds=1))
    words = [text.get_text() for text in output.figure.texts]
    assert 'synthetic images' not in words and 'synthetic' not in output.title


def test_the_pareto_front_takes_a_dearer_point_only_where_it_is_detectably_better():
    scores = [0.5, 0.7, 0.71, 0.6]
    better = [[a > b + 0.05 for b in scores] for a in scores]
    assert figure3.pareto([1, 10, 100, 10], better) == [0, 1]


@pytest.fixture(scope='module')
def protocol_study() -> pd.DataFrame:
    """A tied head takes 15 points from full FT and nothing from LoRA; short training the same."""
    parts = []
    for head, loss in (('tied', 0.15), ('own', 0.0)):
        for steps, short in ((60, 0.1), (1200, 0.0)):
            accuracy = {'Full FT': 0.85 - loss - short, 'LoRA': 0.85}
            how = {'head': head, 'steps': steps, 'sizes': (0.1, 1.0), 'experiment': 'protocol', 'seeds': 5}
            parts.append(records_with_rows(accuracy, **how))
    return pd.concat(parts, ignore_index=True)


def test_figure4_tells_the_head_s_effect_from_the_method_s(protocol_study: pd.DataFrame):
    found = figure4.CLAIMS.answers(protocol_study)
    assert found['better_by_a_tied_head'].verdict == 'reproduced'
    assert found['better_by_short_training'].verdict == 'reproduced'
    assert found['better_under_equal_heads'].verdict != 'reproduced'
    assert len(found['better_by_a_tied_head'].parts) == 4 and len(found['better_by_short_training'].parts) == 2
    output = report.render('figure4', protocol_study)
    cell = output.data.set_index(['head', 'steps', 'fraction', 'method']).loc[('tied', 60, 0.1, 'LoRA')]
    assert cell['gain'] == pytest.approx(0.25, abs=0.05) and cell['gain_low'] > 0.1
    assert len(output.figure.axes) == 4  # full FT and LoRA, two sizes
    # the tables do not mix these runs with their own
    assert isinstance(report.render('table3', protocol_study), Nothing)


def test_a_footer_holds_whole_sentences_alone():
    figure, _ = style.sheet(1, 1, width=3.0)
    style.footer(figure, ['One. Two; Three and ' + 'more ' * 60 + 'words. Four.'], synthetic=True)
    footer, badge = (text.get_text() for text in figure.texts)
    assert (footer, badge) == ('One. Two; Four.', 'synthetic images')


def test_the_page_of_figure4_says_what_the_protocol_favours(protocol_study: pd.DataFrame):
    records = protocol_study.copy()
    records['record'] = [r | {'training': r['training'] | {'selection': 'f1_macro'}} for r in records['record']]
    for name in ('figure4', 'protocol'):
        page = report.render(name, records).markdown()
        assert (
            'successive halving' in page and 'chosen by macro F1 on validation, while weighted F1 is reported' in page
        )
        assert 'while macro' not in report.render(name, records, 'macro').markdown()


# ---- every renderer, on little


@pytest.mark.parametrize('name', sorted(NAMES | {'ranks', 'pretraining', 'figure4', 'protocol'}))
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
        assert cell(output, 'LoRA', 'My own (90)') == '0.70'


# ---- files


def test_a_table_is_written_as_numbers_and_text_and_never_as_a_picture(tmp_path, study: pd.DataFrame):
    paths = {path.name for path in report.render('table2', study).save(tmp_path)}
    assert {f'table2.{kind}' for kind in ('csv', 'md', 'tex')} <= paths and 'table2.png' not in paths
    assert {'table2_f1_macro.csv', 'table2_f1_micro.csv'} <= paths
    assert '0.94 ± 0.7' in (tmp_path / 'table2.md').read_text()
    assert (tmp_path / 'table2.md').read_text().endswith(f'Drawn by medpeft {medpeft_utils.__version__}.\n')
    latex = (tmp_path / 'table2.tex').read_text()
    assert '0.94 $\\pm$ 0.7' in latex and '\\textbf{' in latex and '\\toprule' in latex and '±' not in latex
    numbers = pd.read_csv(tmp_path / 'table2.csv')
    assert set(numbers['method']) == set(paper.CNN_METHODS)


def test_a_figure_is_written_as_vectors_and_the_same_twice(tmp_path):
    for folder in ('one', 'two'):
        report.render('figure1', paper.records()).save(tmp_path / folder)
    pdf, svg = ((tmp_path / 'one' / f'figure1.{kind}').read_bytes() for kind in ('pdf', 'svg'))
    assert b'/FontFile2' in pdf and b'/Type3' not in pdf  # TrueType, embedded
    assert b'CreationDate' not in pdf and (tmp_path / 'two' / 'figure1.svg').read_bytes() == svg
    assert 'figure1.svg' in (tmp_path / 'one' / 'figure1.md').read_text()
    assert 'figure1.pdf' in (tmp_path / 'one' / 'figure1.tex').read_text()


def test_latex_is_escaped():
    assert latex_text('95 % of a_b & c ± 1') == '95 \\% of a\\_b \\& c $\\pm$ 1'


def test_a_repeated_heading_is_left_out_in_print_only():
    rows = [Row(('A', 'x'), ['1']), Row(('A', 'y'), ['2'], best=[True])]
    table = Table(notes=[], data=pd.DataFrame(), columns=['E', 'D', 'v'], rows=rows)
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
    return paper_claims.CLAIMS.answers(records)[name].verdict


def test_a_page_of_claims_of_which_none_was_run_is_not_written(tmp_path):
    records = claim_study({'LoRA': 0.1}, 'ViT-Base')
    for name in ('cxr_claims', 'text_image_claims', 'table4', 'cxr_lists', 'protocol'):
        assert not report.render(name, records).save(tmp_path)


def test_every_claim_states_its_rule():
    claims = paper_claims.CLAIMS
    assert len(claims) >= 12
    assert all(len(claim.rule) > 40 and claim.where and claim.text.endswith('.') for claim in claims.values())


def test_without_records_no_claim_was_run():
    empty = invented_records(seeds=1).iloc[:0]
    assert {answer.verdict for answer in paper_claims.CLAIMS.answers(empty).values()} == {'not run'}


@pytest.mark.parametrize(
    ('gain', 'seeds', 'expected'),
    [(0.219, 3, 'reproduced'), (0.10, 3, 'contradicted'), (0.219, 1, 'undecided'), (-0.02, 2, 'undecided')],
)
def test_the_gain_of_ssf_on_breastus(gain: float, seeds: int, expected: str):
    assert verdict('ssf_gains_22_points_on_breastus', claim_study({'SSF': gain}, 'ResNet50', seeds=seeds)) == expected


OTHERS = {'Linear Probing': -0.2, 'BN Tuning': 0.02, 'Bias Tuning': 0.01}


def test_the_best_method_is_better_than_each_other_one():
    first = claim_study({'SSF': 0.2, 'TSA': 0.1, **OTHERS}, 'ResNet50')
    assert verdict('ssf_best_on_cnn', first) == 'reproduced'
    assert verdict('ssf_best_on_cnn', claim_study({'SSF': 0.1, 'TSA': 0.2}, 'ResNet50')) == 'contradicted'
    assert verdict('ssf_best_on_cnn', claim_study({'SSF': 0.2, 'TSA': 0.1}, 'ResNet50')) == 'undecided'  # three not run
    assert verdict('lora_best_on_vits', first) == 'not run'


def test_adaptformer_weak_and_a_part_that_was_not_run_leaves_a_claim_open():
    records = claim_study({'Linear Probing': -0.2, 'AdaptFormer': -0.1, 'LoRA': 0.1, 'SSF': 0.05}, 'ViT-Base')
    assert verdict('adaptformer_weak', records) == 'reproduced'
    assert verdict('three_methods_beat_full_ft', records) == 'undecided'  # no CNN was run
    cnn = claim_study({'TSA': 0.1, 'SSF': 0.05}, 'ResNet50')
    assert verdict('three_methods_beat_full_ft', pd.concat([records, cnn])) == 'reproduced'


def test_the_gain_that_grows_with_the_model():
    small, large = claim_study({'LoRA': 0.02}, 'ViT-Base'), claim_study({'LoRA': 0.1}, 'ViT-Huge')
    large['total_parameters'] *= 10
    large['f1_weighted'] += 0.0005 * large['seed'] * (large['method_label'] == 'LoRA')
    assert verdict('gains_grow_with_the_model', pd.concat([small, large])) == 'reproduced'
    assert verdict('gains_grow_with_the_model', small) == 'not run'


def test_an_encoder_run_for_growth_alone_does_not_move_the_claims_on_methods():
    whole = claim_study({'LoRA': 0.1, 'SSF': 0.05, 'BitFit': 0.02, 'Linear Probing': -0.1}, 'ViT-Small DINOv2')
    cut = claim_study({'LoRA': -0.3}, 'ViT-Small DINOv2, 6 blocks')
    cut['total_parameters'] //= 2
    part = claim_study({'LoRA': -0.3}, 'ViT-Small DINOv2', 'HAM10000').assign(fraction=0.1)
    records = pd.concat([whole, cut, part.assign(run=part['run'] + 'part')], ignore_index=True)
    answers = paper_claims.CLAIMS.answers(records)
    parts = [part for part in answers['three_methods_beat_full_ft'].parts if 'LoRA' in part.what]
    assert [part.found.value for part in parts] == [pytest.approx(0.101)]
    (grown,) = answers['gains_grow_with_the_model'].parts
    assert 'minus on ViT-Small DINOv2, 6 blocks' in grown.what and grown.found.value == pytest.approx(0.4)


def test_a_data_set_that_the_study_did_not_declare_decides_no_claim_of_its_tables():
    declared = claim_study({'LoRA': 0.1, 'SSF': 0.05, 'BitFit': 0.02}, 'ViT-Base', 'BreastUS')
    other = claim_study({'LoRA': -0.1, 'SSF': 0.05, 'BitFit': 0.02}, 'ViT-Base', 'HAM10000')
    records = pd.concat([declared, other], ignore_index=True)
    for name, expected in (('invented', ['BreastUS', 'HAM10000']), ('real', ['BreastUS'])):
        records.attrs['study'] = name
        answer = paper_claims.CLAIMS.answers(records)['lora_best_on_vits']
        assert [part.what.split(', ')[-1] for part in answer.parts if 'SSF' in part.what] == expected
        assert answer.verdict == ('contradicted' if name == 'invented' else 'undecided')
        page = report.render('claims', records).markdown()
        assert ('HAM10000 from the claims of Table 3' in page) == (name == 'real')


def low_data_study(zero: float) -> pd.DataFrame:
    """Records of Figure 1 in which the gain falls by a tenth for every doubling and is zero near the size `zero`."""
    rows = []
    for fraction in (0.1, 0.3, 0.5, 0.8, 1.0):
        for seed in range(3):
            gain = -0.1 * np.log2(fraction / (zero + 0.005 * (seed - 1)))
            for method, score in (('Full FT', 0.5), ('LoRA', 0.5 + gain), ('BitFit', 0.5 + gain * (1 + 0.1 * seed))):
                other = {'fraction': fraction, 'experiment': 'low_data_regime'}
                rows.append(invented_record('ViT-Base', 'HAM10000', method, seed, score, **other))
    return pd.DataFrame(rows)


def test_crossovers_and_slopes_of_a_low_data_study():
    answers = paper_claims.CLAIMS.answers(low_data_study(zero=0.5))
    assert answers['crossover_vit_base'].verdict == 'reproduced'
    assert '+10.00' in ' '.join(answers['gains_grow_as_data_shrink'].decides)
    assert answers['gains_grow_as_data_shrink'].verdict == 'reproduced'
    assert answers['crossover_vit_large_lora'].verdict == 'not run'


@pytest.mark.parametrize(('zero', 'expected'), [(0.31, 'undecided'), (0.2, 'contradicted')])
def test_an_interval_that_only_touches_the_paper_s_range_is_undecided(zero: float, expected: str):
    found = paper_claims.CLAIMS.answers(low_data_study(zero))['crossover_vit_base']
    assert found.verdict == expected
    assert 'paper 50 %: between 30 and 80 %' in found.decides[0]


def test_the_page_of_claims_holds_rule_verdict_and_strip(study: pd.DataFrame, tmp_path):
    output = report.render('claims', study)
    page = output.markdown()
    assert 'The images are synthetic' in page and 'Small networks' in page
    for claim in paper_claims.CLAIMS.values():
        assert f'## {claim.text}' in page and claim.rule in page
    assert {path.suffix for path in output.save(tmp_path)} == {'.svg', '.pdf', '.csv', '.md', '.tex'}
