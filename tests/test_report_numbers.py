"""Ranks, averages, crossovers and intervals: from the paper's cells its own numbers, and otherwise by formula."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from test_report_invented import invented_record, invented_records, records_with_rows

from medpeft_utils.core.errors import BadInput
from medpeft_utils.report import crossover, paper, provenance, scores, source
from medpeft_utils.report.figure1 import crossovers, figure1_scores
from medpeft_utils.report.inference import Sample

CELLS = scores.seed_scores(paper.records(), prefer=scores.TABLE_EXPERIMENTS)
CELLS = CELLS[CELLS['fraction'] == 1.0]
VITS = ['ViT-Base', 'ViT-Large', 'ViT-Huge']


def blocks_of(encoders: list[str]) -> pd.DataFrame:
    methods = paper.CNN_METHODS if encoders == ['ResNet50'] else paper.VIT_METHODS
    return scores.complete(scores.grid(CELLS, methods, encoders))


# ---- the paper's averages and ranks from the paper's cells


def test_table2_averages_are_the_printed_ones_but_for_full_ft():
    means = blocks_of(['ResNet50']).mean()
    printed = paper.printed_averages('ResNet50')
    assert means['Full FT'] == pytest.approx(0.782) and printed['Full FT'] == 0.77
    rest = printed.index.drop('Full FT')
    assert scores.as_printed(means)[rest].to_dict() == printed[rest].to_dict()


def test_table2_ranks_are_the_printed_ones_with_dense_ties():
    found = scores.average_rank(blocks_of(['ResNet50']), 'dense')
    assert scores.as_printed(found, 1).to_dict() == paper.printed_ranks('ResNet50').to_dict()
    assert found.to_dict() == pytest.approx(
        {'Full FT': 2.8, 'Linear Probing': 5.2, 'TSA': 2.2, 'BN Tuning': 3.2, 'Bias Tuning': 4.6, 'SSF': 1.2}
    )


@pytest.mark.parametrize('encoder', VITS)
def test_table3_averages_are_the_printed_ones(encoder: str):
    means = blocks_of([encoder]).mean()
    assert scores.as_printed(means).to_dict() == paper.printed_averages(encoder).to_dict()


def test_table3_combined_rank_is_the_printed_one_with_average_ties():
    blocks = blocks_of(VITS)
    assert blocks.shape == (15, 8)
    found = scores.average_rank(blocks, 'average')
    assert scores.as_printed(found, 1).to_dict() == paper.printed_ranks('combined').to_dict()


@pytest.mark.parametrize('ties', list(scores.TIES))
def test_table5_ranks_come_out_under_neither_rule(ties: str):
    for encoder in ('ViT-Base MAE', 'ViT-Base CLIP'):
        found = scores.as_printed(scores.average_rank(blocks_of([encoder]), ties), 1)
        assert found.to_dict() != paper.printed_ranks(encoder).to_dict()


def test_every_number_of_the_paper_is_there():
    # 6 x 5, 3 x 8 x 5, 2 x 8 x 5 cells; 2 encoders x 3 methods x 8 sizes
    counts = paper.records().groupby('experiment').size()
    assert counts.to_dict() == {'cnn': 30, 'vit': 120 + 80, 'low_data_regime': 48}
    assert scores.is_published(paper.records()) and not scores.is_published(invented_records(seeds=1))


def test_printed_counts_are_read():
    assert paper.parse_count('23.5M') == 23.5e6
    assert paper.parse_count('3.8-7.2K') == pytest.approx(math.sqrt(3800 * 7200))
    with pytest.raises(BadInput, match='12'):
        paper.parse_count('12')


# ---- ranks


def test_ranks_share_ties_by_the_stated_rule():
    row = pd.DataFrame([[0.9, 0.8, 0.8, 0.7]], columns=list('abcd'))
    assert scores.rank(row, 'dense').iloc[0].to_list() == [1, 2, 2, 3]
    assert scores.rank(row, 'average').iloc[0].to_list() == [1, 2.5, 2.5, 4]
    nearly = row.assign(b=0.801)
    assert scores.rank(nearly, 'dense').iloc[0].to_list() == [1, 2, 2, 3]
    assert scores.rank(nearly, 'dense', decimals=None).iloc[0].to_list() == [1, 2, 3, 4]


def test_ranks_are_not_averaged_over_gaps():
    with pytest.raises(BadInput, match='no score'):
        scores.average_rank(pd.DataFrame({'a': [0.9, np.nan], 'b': [0.8, 0.7]}), 'dense')
    with pytest.raises(BadInput, match='unknown tie rule'):
        scores.rank(pd.DataFrame({'a': [1.0]}), 'min')


# ---- crossover


def test_crossover_is_interpolated_on_the_logarithm_of_the_size():
    assert crossover.locate([0.1, 1.0], [1.0, -1.0]) == pytest.approx(math.sqrt(0.1))
    assert crossover.locate([0.1, 0.2, 0.4], [2.0, 0.0, -1.0]) == pytest.approx(0.2)
    # the last change from plus to minus counts; gaps are left out
    assert crossover.locate([1, 10, 100, 1000], [1, -1, 1, -1]) == pytest.approx(math.sqrt(100 * 1000))
    assert crossover.locate([1, 10, 100], [1, math.nan, -1]) == pytest.approx(10)


def test_no_crossover_is_told_apart_from_one():
    assert crossover.locate([0.1, 1.0], [1.0, 2.0]) == math.inf
    assert crossover.locate([0.1, 1.0], [-1.0, 2.0]) == math.inf
    assert crossover.locate([0.1, 1.0], [-1.0, -2.0]) == 0.0
    assert math.isnan(crossover.locate([1.0], [1.0]))


def test_crossovers_of_the_paper():
    found = crossovers(figure1_scores(paper.records())).set_index(['encoder', 'method'])['crossover']
    # from the digitised values next to each change of sign
    expected = {
        ('ViT-Base', 'LoRA'): 0.5 * (0.8 / 0.5) ** (0.001 / (0.001 + 0.02)),
        ('ViT-Base', 'BitFit'): 0.3 * (0.5 / 0.3) ** (0.014 / (0.014 + 0.004)),
        ('ViT-Large', 'LoRA'): 0.8 * (1.0 / 0.8) ** (0.001 / (0.001 + 0.014)),
        ('ViT-Large', 'BitFit'): 0.1 * (0.2 / 0.1) ** (0.013 / (0.013 + 0.004)),
    }
    assert {key: cross.estimate for key, cross in found.items()} == pytest.approx(expected)
    assert all(math.isnan(cross.low) for cross in found)  # no seeds, no interval


def gains_of(by_seed: dict[int, list[float]]) -> dict[float, Sample]:
    keys, values = tuple(('', seed) for seed in by_seed), np.array(list(by_seed.values()), dtype=float)
    return {fraction: Sample(keys, values[:, place]) for place, fraction in enumerate((0.01, 0.1, 1.0))}


def test_a_crossover_of_equal_seeds_has_no_width():
    found = crossover.estimate(gains_of({seed: [1, 1, -1] for seed in range(3)}))
    assert (found.estimate, found.low, found.high) == pytest.approx((math.sqrt(0.1),) * 3)
    assert found.detectable and found.inside == 1


def test_none_is_an_answer():
    found = crossover.estimate(gains_of({0: [1, 1, -1], 1: [1, 1, -1], 2: [1, 2, 9]}))
    assert found.high == math.inf and found.words(found.high) == '> 100 %' and not found.detectable
    assert str(found).startswith('none')
    never = crossover.estimate(gains_of({seed: [-1, -2, -3] for seed in range(3)}))
    assert never.words(never.estimate) == '< 1 %' and 'ahead at every size' in str(never)
    two = crossover.estimate(gains_of({seed: [1, 1, -1] for seed in range(2)}))
    assert math.isnan(two.low) and 'no interval' in str(two)


def test_a_crossover_is_the_same_again():
    gains = gains_of({0: [1, 1, -1], 1: [2, 1, -3], 2: [1, -1, -2], 3: [3, 2, -1]})
    assert crossover.estimate(gains) == crossover.estimate(gains)


# ---- scores


def test_without_rows_the_interval_is_student_s_over_seeds():
    rows = [invented_record('ResNet50', 'BreastUS', 'SSF', s, v) for s, v in enumerate((0.6, 0.7, 0.8))]
    cell = scores.summarise(scores.seed_scores(pd.DataFrame(rows))).iloc[0]
    assert (cell['mean'], cell['sd'], cell['seeds'], cell['over']) == (
        pytest.approx(0.7),
        pytest.approx(0.1),
        3,
        'seeds',
    )
    assert cell['high'] - 0.7 == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-4)  # t of 2 degrees of freedom


def test_two_records_for_one_cell_and_seed_are_refused():
    rows = [invented_record('ResNet50', 'BreastUS', 'SSF', run=run) for run in ('one', 'two')]
    with pytest.raises(BadInput, match='one, two'):
        scores.seed_scores(pd.DataFrame(rows))
    with pytest.raises(BadInput, match='unknown average'):
        scores.seed_scores(pd.DataFrame(rows[:1]), 'binary')


def test_a_table_takes_its_own_experiment_where_figure_1_holds_the_same_cell():
    own = invented_record('ViT-Base', 'HAM10000', 'LoRA', score=0.8)
    other = invented_record('ViT-Base', 'HAM10000', 'LoRA', score=0.7, experiment='low_data_regime')
    records = pd.DataFrame([other, own])
    assert scores.seed_scores(records, prefer=scores.TABLE_EXPERIMENTS)['score'].to_list() == [0.8]
    assert scores.seed_scores(records, prefer=scores.FIGURE1_EXPERIMENTS)['score'].to_list() == [0.7]


def test_seeds_of_two_experiments_do_not_mix_in_a_cell():
    own = invented_record('ViT-Base', 'HAM10000', 'LoRA', 0, 0.8)
    others = [invented_record('ViT-Base', 'HAM10000', 'LoRA', s, 0.7, experiment='low_data_regime') for s in (0, 1)]
    records = pd.DataFrame([own, *others])
    assert scores.seed_scores(records, prefer=scores.TABLE_EXPERIMENTS)['seed'].to_list() == [0]
    assert scores.seed_scores(records, prefer=scores.FIGURE1_EXPERIMENTS)['score'].to_list() == [0.7, 0.7]


def test_runs_from_random_weights_are_an_encoder_of_their_own():
    rows = [invented_record('ViT-Base', 'HAM10000', 'LoRA', weights=w) for w in ('pretrained', 'random')]
    encoders = scores.seed_scores(pd.DataFrame(rows))['encoder']
    assert encoders.to_list() == ['ViT-Base', 'ViT-Base, random weights']


def test_only_what_is_done_counts_and_roles_are_read_off_labels():
    rows = [
        invented_record('ViT-Base', 'HAM10000', 'LoRA', encoder_role=None),
        invented_record('ViT-Base', 'HAM10000', 'SSF', status='failed', f1_weighted=None),
    ]
    found = scores.seed_scores(pd.DataFrame(rows))
    assert found[['encoder', 'method']].to_numpy().tolist() == [['ViT-Base', 'LoRA']]


def test_averages_take_rows_in_which_nothing_is_missing():
    rows = [
        invented_record('ResNet50', data, method, score=score)
        for data, method, score in [('BreastUS', 'SSF', 0.9), ('BreastUS', 'TSA', 0.8), ('HAM10000', 'SSF', 0.1)]
    ]
    chosen = scores.seed_scores(pd.DataFrame(rows))
    blocks = scores.complete(scores.grid(chosen, paper.CNN_METHODS, ['ResNet50']))
    assert blocks.index.to_list() == [('ResNet50', 'BreastUS')]
    assert blocks.mean().to_dict() == pytest.approx({'SSF': 0.9, 'TSA': 0.8})


def test_gains_are_paired_by_seed():
    values = {('Full FT', 0): 0.5, ('Full FT', 1): 0.6, ('LoRA', 1): 0.7, ('LoRA', 2): 0.9}
    rows = [invented_record('ViT-Base', 'HAM10000', method, seed, v) for (method, seed), v in values.items()]
    gain = scores.gain(scores.seed_scores(pd.DataFrame(rows)), 'LoRA')
    assert gain.keys == (('', 1),) and gain.values == pytest.approx([0.1])


def test_rows_of_the_records_give_intervals_over_patients():
    records = records_with_rows({'Full FT': 0.6, 'LoRA': 0.8}, seeds=3)
    found = scores.summarise(scores.seed_scores(records)).set_index('method')
    assert set(found['over']) == {'patients and seeds'}
    for method in found.index:  # the draws' own score is the score of the record
        of = records[records['method_label'] == method]['f1_weighted']
        assert found.loc[method, 'mean'] == pytest.approx(of.mean(), abs=1e-6)
    least = scores.smallest(scores.seed_scores(records)).iloc[0]
    assert 0.01 < least['smallest'] < 0.3 and least['groups'] == 150
    words = provenance.smallest(scores.seed_scores(records))[0]
    assert 'HAM10000 (150 patients or lesions)' in words


def test_a_run_that_answers_one_class_is_counted_and_named():
    records = records_with_rows({'Full FT': 0.6, 'LoRA': 0.8}, seeds=1)
    records.at[0, 'record'] = records['record'][0] | {
        'metrics': {'per_class': {n: {'recall': float(n == 'a'), 'support': 5} for n in 'abc'}}
    }
    (text,) = provenance.cautions(scores.seed_scores(records))
    assert text == '1 of 2 runs answer one class for every image: Full FT on HAM10000 with ViT-Base ("a").'


def test_a_cell_run_with_several_heads_keeps_its_own_and_the_longest():
    records = records_with_rows({'LoRA': 0.8}, seeds=1)
    variants = []
    for head, steps in (('tied', 300), ('own', 60), ('own', 300)):
        row = records.iloc[0].copy()
        row['run'] = f'{head}{steps}'
        row['record'] = row['record'] | {'training': {'head': head, 'steps': steps}}
        variants.append(row)
    assert scores.seed_scores(pd.DataFrame(variants))['run'].to_list() == ['own300']


# ---- the notes beside the numbers


def test_where_the_learning_rates_come_from_is_said_by_backbone():
    records = invented_records(seeds=1)
    chosen = scores.seed_scores(records, prefer=('cnn', 'vit'))
    assert provenance.rates(records, chosen) == []
    given = {'learning_rate': {'how': 'given', 'trials': []}, 'parameters': {'search_fraction': 0.2}}
    records['record'] = [given] * len(records)
    assert provenance.rates(records, chosen) == ['Learning rates: as the grid gives them.']
    searched = {'learning_rate': {'how': 'searched', 'trials': [{}, {}, {}]}}
    once, each = (searched | {'parameters': {'search_fraction': share}} for share in (0.2, 0.0))
    records['record'] = [each if role == 'ViT-Base' else once for role in records['encoder_role']]
    (text,) = provenance.rates(records, chosen)
    assert 'ViT-Base (mini) the best of 3 on validation, searched with each share of the images;' in text
    assert 'ViT-Large (mini) the best of 3 on validation, searched once with 20 % of the images' in text


def test_description_says_synthetic_seeds_runs_and_failures():
    records = invented_records(seeds=2, synthetic=True)
    records.loc[0, 'status'] = 'failed'
    text = ' '.join(provenance.describe(records, scores.seed_scores(records, prefer=('cnn', 'vit')), 'weighted'))
    assert 'SYNTHETIC' in text and 'ViT-Base (mini)' in text and '1 to 2 seeds' in text and '1 run of' in text


def test_seeds_whose_probe_took_other_iterations_are_one_cell():
    records = records_with_rows({'Linear Probing': 0.7, 'LoRA': 0.8}, seeds=3)
    probe = records['method_label'] == 'Linear Probing'
    records['record'] = [
        one | {'training': one['training'] | {'steps': 100 + seed}} if of else one
        for one, seed, of in zip(records['record'], records['seed'], probe, strict=True)
    ]
    notes = provenance.describe(records, scores.seed_scores(records), 'weighted')
    assert '6 runs, 3 seeds a cell;' in notes[0]


def test_records_are_taken_from_where_they_are(tmp_path):
    assert scores.is_published(source.load('paper', tmp_path / 'none', tmp_path))
    with pytest.raises(BadInput, match='medpeft run demo'):
        source.load('demo', tmp_path / 'none', tmp_path)


def test_a_kept_file_of_records_is_read_with_its_failures(tmp_path):
    metrics = dict.fromkeys(('f1_macro', 'f1_weighted', 'f1_micro', 'accuracy', 'balanced_accuracy', 'auroc'), 0.7)
    record = {
        **{'schema': 1, 'run': 'a', 'status': 'done', 'profile': 'demo', 'experiment': 'vit', 'code_version': '0'},
        'parameters': {'dataset': 'ham10000', 'fraction': 1.0, 'seed': 0, 'weights': 'random'},
        'data': {'name': 'ham10000', 'label': 'HAM10000', 'synthetic': False, 'counts': {'train': 7511}},
        'backbone': {'name': 'vit_base_mini', 'label': 'ViT-Base (mini)', 'role': 'ViT-Base', 'family': 'vit'},
        'method': {'key': 'lora', 'label': 'LoRA', 'trainable_parameters': 1, 'head_parameters': 1},
        **{'learning_rate': {'value': 1e-3}, 'time': {}, 'environment': {}},
        'metrics': {'test': metrics | {'calibration_error': 0.1}},
    }
    lost = record | {'run': 'b', 'status': 'failed', 'error': {'type': 'E', 'message': 'm'}}
    (tmp_path / 'records.jsonl').write_text('\n'.join(map(json.dumps, (record, lost))))
    table = source.load('demo', tmp_path / 'none', tmp_path)
    assert table['status'].to_list() == ['done', 'failed']
    chosen = scores.seed_scores(table)
    assert chosen[['encoder', 'score']].to_numpy().tolist() == [['ViT-Base, random weights', 0.7]]
    assert source.summary(table)[['done', 'failed']].to_numpy().tolist() == [[1, 1]]
