"""The report on generation: Table 4, all metrics, LoRA's controls, Figure 2 and the claims, on invented records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_generation import BASE_FID, paper_like, record, sample, study

from medpeft_utils import report
from medpeft_utils.core.errors import BadInput
from medpeft_utils.report import paper, source, text_image_figures, text_image_tables
from medpeft_utils.report import text_image_scores as ti
from medpeft_utils.text_image.plots import read_strip

NAMES = ('table4', 'generation_metrics', 'lora_controls', 'prompt_following', 'figure2', 'text_image_claims')


@pytest.fixture(scope='module')
def invented(tmp_path_factory) -> pd.DataFrame:
    return study(tmp_path_factory.mktemp('study'), paper_like())


def lines(name: str, records: pd.DataFrame) -> pd.DataFrame:
    table = report.render(name, records)
    return table.frame.set_index(list(table.frame.columns[: table.heads]))


def test_ranks_and_averages_of_the_printed_table_are_the_printed_ones():
    found, printed = ti.summary(ti.published()), paper.read('table4_mimic_summary').set_index('method')
    assert found['average_fid'].sub(printed['average_fid']).abs().max() < 0.007  # two are cut, not rounded
    assert found['average_rank'].sub(printed['average_rank']).abs().max() < 0.006


def test_table4_of_the_paper_is_the_paper():
    frame = lines('table4', paper.records())
    row = frame.loc[('MIMIC-CXR', 'Bias', 'paper')]
    assert row.tolist() == ['0.34M', '20.81', '28.67', '17.87', '22.45', '1.67']


def test_table4_sets_the_study_beside_the_paper(invented: pd.DataFrame):
    frame = lines('table4', invented)
    own = frame.loc[('Chest radiographs', 'Bias', 'this study')]
    assert own['Trained parameters'] == '9,000' and own['Average rank'] == '1.67'
    assert own['Largest'].startswith('20.') and '±' in own['Largest']
    assert frame.loc[('Chest radiographs', 'Bias', 'paper'), 'Largest'] == '20.81'
    assert frame.loc[('Chest radiographs', 'Training pairs', 'this study'), 'Smallest'] == '400'
    assert frame.loc[('Chest radiographs', ti.BASE, 'this study'), 'Middle'] == '401.5 ± 1.3'  # 400 to 403
    assert frame.loc[('Chest radiographs', ti.FLOOR, 'this study'), 'Middle'] == '3.10 ± 0.40'
    notes = ' '.join(report.render('table4', invented).notes)
    assert 'SYNTHETIC' in notes and '4 sampling seeds' in notes and 'AUROC 0.990' in notes


def test_gaps_stay_gaps_and_ranks_are_over_sizes_that_all_have(tmp_path: Path):
    rows = [record('Bias', 4000, [10.0]), record('LoRA', 4000, [20.0]), record('Bias', 400, [30.0])]
    frame = lines('table4', study(tmp_path, rows))
    assert frame.loc[('Chest radiographs', 'LoRA', 'this study')].tolist() == [
        '40,000',
        '20.0',
        '-',
        '-',
        '20.00',
        '2.00',
    ]
    assert frame.loc[('Chest radiographs', 'Bias', 'this study')].tolist()[1:] == ['10.0', '-', '30.0', '10.00', '1.00']
    assert 'DiffFit' not in frame.index.get_level_values('Method')  # it was not run


def test_prompts_and_fid_are_shown_beside_the_untuned_pipeline_and_real_images(invented: pd.DataFrame):
    figure = report.render('prompt_following', invented)
    found = figure.data.set_index(['method', 'pairs'])
    assert {ti.BASE, text_image_figures.REAL, 'LoRA'} <= set(found.index.get_level_values('method'))
    assert found.loc[(text_image_figures.REAL, 400), 'fid'] == pytest.approx(3.1)
    assert found.loc[(ti.BASE, 400), 'fid'] == pytest.approx(BASE_FID, abs=3)
    assert 'synthetic' in figure.title
    assert 'Training steps by pairs: 400 with 4,000, 200 with 2,000, 40 with 400.' in ' '.join(figure.notes)


def _asked(tuned: list[float], untuned: list[float], method: str) -> dict:
    """A record whose prompts are followed so well in each of four resamples, after tuning and before."""
    made = record(method, 400, [10.0])
    for which, drawn in (('samples', tuned), ('base', untuned)):
        agreement = {'auroc': float(np.mean(drawn)), 'accuracy': 0.8, 'by_label': {}, 'resamples': drawn}
        made['metrics'][which] = [sample(10.0) | {'adherence': agreement}]
    return made


def test_prompts_followed_better_after_tuning_are_told_from_chance(tmp_path: Path):
    """Bias gains 0.1 in every resample, though the resamples differ by more; LoRA loses in some."""
    before = [0.4, 0.5, 0.6, 0.7]
    rows = [_asked([x + 0.1 for x in before], before, 'Bias'), _asked([0.5, 0.5, 0.5, 0.7], before, 'LoRA')]
    figure = report.render('prompt_following', study(tmp_path, rows))
    found = figure.data.set_index('method')
    assert found.loc['Bias', ['gain', 'gain_low', 'gain_high']].tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert found.loc['LoRA', 'gain'] == pytest.approx(0) and found.loc['LoRA', 'gain_low'] < 0
    told = ' '.join(figure.notes)
    assert 'mean of 2 methods: +0.050 [' in told and 'By themselves above zero: Bias (400), of 2' in told


def test_two_records_of_a_cell_are_refused(tmp_path: Path):
    rows = [record('Bias', 400, [1.0]), record('Bias', 400, [2.0], run='0' * 16)]
    with pytest.raises(BadInput, match='several records'):
        report.render('table4', study(tmp_path, rows))


def test_the_kid_of_tuned_and_untuned_images_is_paired_over_the_patients(tmp_path: Path):
    """Each resample moves both by the same amount: nothing is left of it in their difference."""
    found = study(tmp_path, [record('Bias', 400, [20.0]), record('LoRA', 400, [30.0])], pictures=False)
    rows = ti.over_untuned(ti.runs(found), 'kid').set_index('method')
    assert rows.loc['Bias', ['gain', 'gain_low', 'gain_high']].tolist() == pytest.approx([3.8] * 3)  # (400 - 20) / 100
    assert rows.loc[ti.ALL, 'gain_low'] == pytest.approx(3.75)
    drawn = report.render('prompt_following', found).data.set_index('method')
    assert drawn.loc['LoRA', 'kid_gain'] == pytest.approx(3.7) and drawn.loc[text_image_figures.REAL, 'kid'] == 0.001


def test_fids_of_different_encoders_are_told(tmp_path: Path):
    rows = [record('Bias', 400, [1.0]), record('LoRA', 400, [2.0])]
    rows[1]['metrics'] = {**rows[1]['metrics'], 'real': {**rows[1]['metrics']['real'], 'encoder': {'hash': 'other'}}}
    assert '2 different encoders' in ' '.join(report.render('table4', study(tmp_path, rows)).notes)


def test_all_metrics_have_the_untuned_pipeline_and_real_images_beside(invented: pd.DataFrame):
    frame = lines('generation_metrics', invented)
    assert frame.loc[('Chest radiographs', '4,000', 'Bias'), 'Findings: AUROC [95 %]'] == '0.900'
    assert frame.loc[('Chest radiographs', '4,000', ti.BASE), 'FID'].startswith('401.5')
    real = frame.loc[('Chest radiographs', '4,000', 'Real test images')]
    assert (real['FID'], real['Findings: AUROC [95 %]'], real['Copies']) == ('3.10', '0.990', '1.0 %')
    findings = report.render('generation_metrics', invented).further['findings']
    assert set(findings['finding']) == {'spot'}


def test_lora_stands_beside_adapters_left_out(invented: pd.DataFrame):
    frame = lines('lora_controls', invented)
    block = frame.loc['Chest radiographs']
    assert block.loc['FID, adapters random, never trained', 'Largest'] == '600.0'
    assert block.loc['FID, trained, not applied', 'Smallest'] == block.loc['FID, untuned pipeline', 'Smallest']
    assert block.loc['Gradient of the adapters (norm)', 'Middle'] == '0.12'
    assert frame.loc[('MIMIC-CXR', 'FID of LoRA, paper')].tolist() == ['439.65', '392.45', '399.28']
    assert 'never trained 0 %' in ' '.join(report.render('lora_controls', invented).notes)


# ---- claims


def verdicts(records: pd.DataFrame) -> dict[str, str]:
    return {name: answer.verdict for name, answer in text_image_tables.CLAIMS.answers(records).items()}


def test_the_printed_numbers_bear_out_what_the_paper_claims():
    assert set(verdicts(paper.records()).values()) == {'undecided'}  # without seeds nothing is decided


def test_a_study_like_the_paper_reproduces_what_its_numbers_show(invented: pd.DataFrame):
    assert set(verdicts(invented).values()) == {'undecided'}  # one training seed decides nothing


def test_three_training_seeds_can_reproduce(tmp_path: Path):
    rows = [
        record(method, 400, [fid + 0.1 * seed], seed=seed)
        for method, fid in (('Full FT', 70.0), ('Bias', 20.0), ('SV-Diff', 24.0), ('LoRA', 410.0))
        for seed in range(3)
    ]
    found = verdicts(study(tmp_path, rows))
    assert found['bias_best_on_generation'] == found['sv_diff_second_on_generation'] == 'reproduced'
    assert found['lora_fails_on_generation'] == 'reproduced'  # the worst, and not better than untuned
    assert found['peft_beats_full_on_generation'] == 'undecided'  # two of the three that were run


def test_a_lora_that_works_contradicts_the_paper(tmp_path: Path):
    rows = [
        record(method, 400, [fid + 0.1 * seed], seed=seed)
        for method, fid in (('Full FT', 70.0), ('Bias', 20.0), ('LoRA', 15.0))
        for seed in range(3)
    ]
    found = text_image_tables.CLAIMS.answers(study(tmp_path, rows))
    answer = found['lora_fails_on_generation']
    assert answer.verdict == 'contradicted' and any('LoRA minus Full FT: -' in line for line in answer.decides)
    assert found['bias_best_on_generation'].verdict == 'contradicted'


def test_without_runs_claims_cannot_be_answered(tmp_path: Path):
    assert set(verdicts(study(tmp_path, [record('Bias', 400, [1.0])])).values()) == {'not run'}


# ---- Figure 2


def test_figure2_shows_the_best_five_and_can_be_drawn_from_what_it_keeps(invented: pd.DataFrame, tmp_path: Path):
    output = report.render('figure2', invented)
    shown = output.data[output.data['row'] == '4,000 pairs']
    assert shown['column'].tolist() == ['Ground truth', 'Bias', 'SV-Diff', 'Norm', 'DiffFit', 'LoRA']
    assert set(output.data['row']) == {'4,000 pairs', '400 pairs'} and (output.data['pictures'] == 4).all()
    folder = tmp_path / 'figures'
    (folder / 'figure2_0123456789abcdef.png').parent.mkdir()
    (folder / 'figure2_0123456789abcdef.png').write_bytes(b'of a run that is gone')
    output.save(folder)
    strips = sorted(folder.glob('figure2_*.png'))
    assert len(strips) == 11 and read_strip(strips[0]).shape == (4, 16, 16, 3)
    again = invented.copy()
    again.attrs['places'] = (str(tmp_path / 'gone'), str(folder))
    assert (report.render('figure2', again).data['pictures'] == 4).all()


def test_nothing_from_patients_is_drawn_into_what_is_shared(tmp_path: Path):
    records = study(tmp_path, paper_like(synthetic=False))
    run = tmp_path / 'results' / 'runs' / records['run'].iloc[0]
    (run / 'ground_truth.png').write_bytes((run / 'samples.png').read_bytes())  # even where somebody put one there
    output = report.render('figure2', records)
    drawn = [axes.get_title() for axes in output.local.axes if axes.images]
    assert len(drawn) == 10 and 'Ground truth' not in drawn
    folder = tmp_path / 'figures'
    report.render('figure2', study(tmp_path / 'before', paper_like())).save(folder)
    assert len(list(folder.glob('figure2*'))) == 16
    assert output.save(folder) == [] and not list(folder.iterdir())
    assert (tmp_path / 'results' / 'figure2_local.png').is_file()
    assert 'images of patients' in ' '.join(output.notes)


@pytest.mark.parametrize('name', NAMES)
def test_an_output_without_a_run_is_the_papers_or_no_file(name: str, tmp_path: Path, invented: pd.DataFrame):
    failed = record('Bias', 400, [1.0], status='failed', error={'type': 'X', 'message': 'x'})
    empty = study(tmp_path, [failed], pictures=False)
    for number, records in enumerate((paper.records(), empty)):
        folder = tmp_path / str(number)
        report.render(name, invented).save(folder)
        output = report.render(name, records)
        paths = output.save(folder)
        if name in ('table4', 'text_image_claims') and number == 0:
            assert {path.suffix for path in paths} >= {'.csv', '.md', '.tex'}
        else:
            assert not paths and not list(folder.iterdir()) and output.title in output._repr_markdown_()


def test_pictures_that_are_missing_leave_a_place(tmp_path: Path):
    output = report.render('figure2', study(tmp_path, paper_like(), pictures=False))
    assert (output.data['pictures'] == 0).all() and not output.strips
    patients = study(tmp_path / 'patients', paper_like(synthetic=False), pictures=False)
    assert report.render('figure2', patients).local is None


def test_the_places_of_pictures_come_with_the_records(tmp_path: Path):
    study(tmp_path, [record('Bias', 400, [1.0])])
    loaded = source.load('invented', tmp_path / 'results', tmp_path / 'figures')
    assert loaded.attrs['places'] == (str(tmp_path / 'results'), str(tmp_path / 'figures'))
