"""`medpeft compare` without its training: plan, study, page, errors; its records are invented, its images drawn."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from invented_comparison import Invented
from PIL import Image

from medpeft_utils import backbones, data
from medpeft_utils.cli import main
from medpeft_utils.compare import plan
from medpeft_utils.compare.commands import answered, show
from medpeft_utils.compare.plan import Speed, Work
from medpeft_utils.compare.study import profile_of
from medpeft_utils.core.errors import BadInput, DoesNotFit, UnknownName

SKILLS = {'linear_probing': 0.0, 'full_ft': 0.6, 'lora': 2.5, 'ssf': 2.4}


def draw(folder: Path, counts: dict[str, int], side: int = 40, seed: int = 0) -> Path:
    """A folder per class of small grey images, each class of its own brightness."""
    generator = np.random.default_rng(seed)
    for k, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(generator.normal(60 + 60 * k, 30, (side, side)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f'{i}.png')
    return folder


# ---- the plan


@pytest.mark.parametrize(
    ('text', 'seconds'), [('90s', 90), ('30m', 1800), ('1.5h', 5400), ('2 h', 7200), ('1d', 86400)]
)
def test_a_budget_is_a_time(text: str, seconds: float):
    assert plan.seconds_of(text) == seconds


@pytest.mark.parametrize('text', ['', '30', 'soon', '0m', '-5m', 'nan', '1e999h', '5 parsecs'])
def test_what_is_no_time_is_refused(text: str):
    with pytest.raises(BadInput, match='--budget'):
        plan.seconds_of(text)


SPEEDS = {'lora': Speed(0.005, 0.002), 'full_ft': Speed(0.006, 0.002), 'linear_probing': Speed(0.001, 0.002)}


def test_a_larger_budget_never_gives_less_training_and_never_costs_more_than_it_is():
    before = (0, 0)
    for budget in (60, 120, 300, 600, 1200, 3600, 20000):
        made = plan.plan(Work(420, 60, 120, 3), SPEEDS, budget)
        assert made.seconds <= budget
        now = made.seeds, made.settings['max_steps'] * (1 + made.settings['search_trials'])
        assert now >= before
        before = now
    assert made.settings['search_trials'] == 12


def test_seeds_go_last_and_the_plan_says_so():
    made = plan.plan(Work(420, 60, 120, 3), SPEEDS, 50)
    assert made.seeds < 3
    assert made.settings['search_trials'] == 0
    assert made.remark.startswith(f'{made.seeds} of 3 seeds fit into the budget, too few to support a choice; all of')


def test_a_learning_curve_is_part_of_the_budget():
    settings = plan.plan(Work(420, 60, 120, 3), SPEEDS, 600).settings
    alone = plan.total_seconds(Work(420, 60, 120, 3), SPEEDS, settings)
    assert plan.total_seconds(Work(420, 60, 120, 3, fractions=3), SPEEDS, settings) > 1.5 * alone
    assert plan.plan(Work(420, 60, 120, 3, fractions=3), SPEEDS, 600).seconds <= 600


def test_no_time_for_one_run_is_an_error_that_names_time_and_way_out():
    with pytest.raises(BadInput, match=r'--budget 5 s: one short run of each of the 3 methods .*--backbone'):
        plan.plan(Work(420, 60, 120, 3), SPEEDS, 5)


def test_every_method_gets_the_same_training_and_small_sets_small_batches():
    assert [Work(n, 10, 10, 3).batch for n in (20, 64, 200, 256, 5000)] == [8, 16, 32, 64, 64]
    settings = Work(40, 10, 10, 3).settings(300, 4)
    assert settings['min_steps'] == settings['max_steps'] <= 300


def test_the_usual_methods_exist_and_fit():
    for backbone in ('vit_base_mini', 'resnet50_mini'):
        usual = plan.methods_of('usual', backbone)
        assert usual == list(plan.USUAL[backbones.family_of(backbone)])


def test_methods_are_named_once_and_wrong_names_refused():
    assert plan.methods_of('lora, SSF,lora,Full FT', 'vit_base_mini') == ['lora', 'ssf', 'full_ft']
    with pytest.raises(UnknownName, match='lorra'):
        plan.methods_of('lorra', 'vit_base_mini')
    with pytest.raises(DoesNotFit, match='tsa'):
        plan.methods_of('tsa', 'vit_base_mini')
    with pytest.raises(BadInput, match='--methods'):
        plan.methods_of(' , ', 'vit_base_mini')


def choose(side: int, budget: float, listed: str = 'usual', **seconds: float) -> plan.Network:
    """The choice if these networks are installed and need so many seconds an image; a step takes three times that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, '_is_available', lambda name: name in seconds)
        patch.setattr(plan, 'speed', lambda network, *_: Speed(3 * seconds[network.name], seconds[network.name]))
        return plan.chosen(side, Work(420, 60, 120, 3), listed, budget, Path(), 1)


DINO, LITE = 'vit_small_patch14_dinov2', 'tf_efficientnet_lite0'


def test_without_weights_at_hand_the_error_says_what_serves_meanwhile(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv('MEDPEFT_WEIGHTS', raising=False)
    with pytest.raises(BadInput, match=rf'(?s)medpeft backbones fetch {DINO}.*--backbone vit_base_mini'):
        plan.asked_for(DINO)
    found = choose(224, 600)
    assert found.name == 'vit_base_mini'
    assert 'from 224 to 48 px' in found.why and f'medpeft backbones fetch {LITE}' in found.why


def test_a_published_network_at_hand_is_taken_where_images_and_measured_time_allow_it():
    assert choose(224, 600, **{DINO: 0.0005, LITE: 0.0001}).name == DINO  # as on a GPU
    assert choose(224, 600, **{DINO: 0.2, LITE: 0.0007}).name == LITE
    assert choose(224, 600, 'lora,vpt_deep', **{LITE: 0.0001}).name == 'vit_base_mini'  # tokens do not fit it
    assert choose(64, 600, **{DINO: 0.0005}).name == 'vit_base_mini'
    sides = [choose(side, 600, **{DINO: 0.0005}).image_size for side in (96, 150, 300)]
    assert sides == [112, 168, 224]


def test_a_network_that_is_too_slow_is_named_with_a_budget_that_is_enough_for_it():
    why = choose(224, 600, **{DINO: 0.2, LITE: 0.02}).why
    found = re.search(rf'{LITE} is available and sees more detail, but needs --budget (\w+)', why)
    enough = plan.seconds_of(found[1])
    assert 600 < enough < 24 * 3600
    assert choose(224, enough, **{DINO: 0.2, LITE: 0.02}).name == LITE


def test_steps_and_answers_are_timed_for_each_method(tmp_path: Path):
    chosen = plan.asked_for('vit_base_mini')
    found = plan.speed(chosen, 'lora', 1, tmp_path)
    assert found.step > found.answer > 0
    assert plan.speed(chosen, 'lora', 1, tmp_path) == found  # measured once
    assert plan.speed(chosen, '', 1, tmp_path).answer > 0


# ---- the study and its page


def test_a_study_is_known_by_where_the_data_lie_and_what_they_are(tmp_path: Path):
    one = draw(tmp_path / 'a' / 'images', {'x': 9, 'y': 9})
    other = draw(tmp_path / 'b' / 'images', {'x': 9, 'y': 9})

    def name(folder: Path) -> str:
        return profile_of(str(folder), data.load(folder, image_size=16))

    first = name(one)
    assert first.startswith('compare-images-') and first != name(other)
    for path in one.rglob('*.png'):
        path.touch()
    assert name(one) == first  # another time of change alone is no other data
    draw(one / 'more', {'x': 1}, seed=5)
    (one / 'more' / 'x' / '0.png').rename(one / 'x' / 'new.png')
    (one / 'more' / 'x').rmdir()
    (one / 'more').rmdir()
    assert name(one) != first


def test_the_page_tells_choice_intervals_costs_and_limits_in_all_three_forms(tmp_path: Path):
    invented = Invented(tmp_path)
    invented.add(SKILLS)
    page = answered(invented.folder)[1]
    text, html, markdown = page.text(), page.html(), page.markdown()
    for form in (text, html, markdown.replace('\\', '')):
        for words in (
            'Use SSF',
            'Not a clinical evaluation',
            '3 seeds, 1 split, 240 test images',
            'worse by',
            '24 kB',
        ):
            assert words in form
    assert re.search(r'LoRA: 0\.\d\d \[0\.\d\d, 0\.\d\d\]', text)


def test_the_html_page_needs_no_network_and_shows_text_as_text(tmp_path: Path):
    invented = Invented(tmp_path)
    invented.add(SKILLS)
    html = answered(invented.folder)[1].html()
    assert html.count('<svg') == 2
    assert not re.search(r'(?:src|href)="(?!#)', html.replace('xlink:href="#', ''))
    assert '<script' not in html
    assert '<b>' not in html and '&lt;b&gt;' in html  # of a remark


def test_a_second_command_adds_to_the_table(tmp_path: Path):
    invented = Invented(tmp_path)
    invented.add({'lora': 2.5, 'full_ft': 0.6})
    invented.add({'ssf': 2.4})
    assert all(f'  {name}' in answered(invented.folder)[1].text() for name in ('LoRA', 'Full FT', 'SSF'))
    invented.add({'lora': 2.0}, backbone='resnet50_mini')
    text = answered(invented.folder)[1].text()
    assert 'LoRA on vit_base_mini' in text and 'LoRA on resnet50_mini' in text and 'SSF on vit_base_mini' in text
    invented.add({'lora': 2.0}, image_size=96)
    text = answered(invented.folder)[1].text()
    assert 'LoRA on vit_base_mini at 48 px' in text and 'LoRA on vit_base_mini at 96 px' in text


def test_runs_of_other_settings_are_left_out_and_said(tmp_path: Path):
    invented = Invented(tmp_path)
    invented.add({'lora': 2.5, 'full_ft': 0.6}, max_steps=100)
    invented.add({'ssf': 2.4, 'lora': 2.5}, max_steps=200)
    markdown = answered(invented.folder)[1].markdown()
    assert '6 runs with other settings are in the same study' in markdown
    assert 'Full FT' not in markdown


def test_what_is_refused_does_not_stay_in_the_study(tmp_path: Path):
    invented = Invented(tmp_path)
    invented.add(SKILLS)
    before = (invented.folder.root / 'compare.yaml').read_text()
    with pytest.raises(BadInput, match='epochs'):
        invented.add(SKILLS, epochs='fast')
    assert (invented.folder.root / 'compare.yaml').read_text() == before


def test_more_seeds_are_added_to_those_that_are_done(tmp_path: Path):
    invented = Invented(tmp_path)
    first = invented.add(SKILLS, seeds=3)
    assert len(invented.add(SKILLS, seeds=5)) == 5 * len(SKILLS)
    assert len({run.hash for run in invented.add(SKILLS, seeds=5)} & {run.hash for run in first}) == len(first)
    assert '5 seeds' in answered(invented.folder)[1].text()


def test_learning_curves_are_on_the_page(tmp_path: Path):
    invented = Invented(tmp_path)
    invented.add(SKILLS)
    invented.add({'lora': 2.5, 'ssf': 2.4}, fractions=(1.0, 0.5, 0.25))
    page = answered(invented.folder)[1]
    text = page.text()
    assert 'Would more data help?' in text
    assert 'from 210 to 420 training images, macro F1 rose by' in text
    assert page.html().count('<svg') == 3


def test_a_run_that_failed_is_shown_and_the_others_are_compared(tmp_path: Path):
    from medpeft_utils.study import records

    invented = Invented(tmp_path)
    runs = invented.add(SKILLS)
    broken = next(run for run in runs if run.parameters['method'] == 'full_ft')
    record = records.read(invented.folder.record(broken.hash))
    keep = ('run', 'experiment', 'parameters', 'code_version')
    failure = {'status': 'failed', 'error': {'type': 'Diverged', 'message': 'the loss is NaN'}}
    records.write({name: record[name] for name in keep} | failure, invented.folder.run(broken.hash))
    text = answered(invented.folder)[1].text()
    assert 'These runs failed; the others are compared.' in text
    assert 'Diverged: the loss is NaN' in text
    assert re.search(r'Full FT: 0\.\S+ \[.*\]; too few seeds to decide', text)  # two are left


def test_the_page_holds_clinical_metrics_subgroups_costs_and_checklists(tmp_path: Path):
    invented = Invented(tmp_path)
    invented.add(SKILLS)
    show(invented.folder, by=['sex', 'scanner'])
    markdown = (invented.folder.root / 'answer.md').read_text()
    for words in ('## Clinical metrics', '## Subgroups', '| sex |', '## Costs', '## The papers', 'Sensitivity at'):
        assert words in markdown
    assert '| age |' not in markdown
    assert "no 'scanner'" in markdown
    assert (invented.folder.root / 'tables' / 'clinical.csv').is_file()
    assert (invented.folder.root / 'answer.html').read_text().count('<svg') >= 4


def test_names_of_classes_are_text_on_the_page(tmp_path: Path):
    invented = Invented(tmp_path, classes=['$x_', '<i>a|b</i>', r'\frac{$1$}'])
    invented.add({'lora': 2.5, 'full_ft': 0.6})
    show(invented.folder)
    html = (invented.folder.root / 'answer.html').read_text()
    assert '<i>' not in html


def test_report_on_a_comparison_shows_that_comparison(tmp_path: Path, capsys):
    invented = Invented(tmp_path)
    invented.add(SKILLS)
    with pytest.raises(SystemExit) as end:
        main(['report', invented.folder.root.name, '--results', str(tmp_path)])
    assert end.value.code == 0
    assert 'Use SSF' in capsys.readouterr().out


def test_records_of_older_code_are_not_compared_and_the_page_says_so(tmp_path: Path):
    invented = Invented(tmp_path)
    for run in invented.add(SKILLS):
        older = invented.folder.run(run.hash.replace(run.hash[:4], 'old_'))
        invented.folder.run(run.hash).rename(older)
    text = answered(invented.folder)[1].text()
    assert 'No run has finished' in text
    assert '12 finished runs were made by older code' in text
    text = answered(invented.folder, with_older=True)[1].text()  # as for `medpeft report`, which runs nothing
    assert 'Use SSF' in text and '12 finished runs were made by older code' in text


# ---- errors, by hand


def refused(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as end:
        main(['compare', *map(str, arguments)])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_folders_that_cannot_be_compared_say_why_and_leave_no_study(tmp_path: Path, capsys):
    results = tmp_path / 'results'
    to_results = ('--results', results)
    (tmp_path / 'empty').mkdir()
    assert 'no image' in refused(capsys, tmp_path / 'empty', *to_results)
    assert 'one class only' in refused(capsys, draw(tmp_path / 'one', {'a': 5}), *to_results)
    single = draw(tmp_path / 'single', {'a': 20, 'b': 1})
    assert "'b'" in refused(capsys, single, *to_results) or 'b has' in refused(capsys, single, *to_results)
    assert 'no such folder' in refused(capsys, tmp_path / 'missing', *to_results)
    assert not results.exists()


def test_groups_over_given_splits_are_refused(tmp_path: Path, capsys):
    images = draw(tmp_path / 'images', {'a': 12, 'b': 12})
    lines = ['image,label,group,split']
    for name in 'ab':
        for i in range(12):
            lines.append(
                f'{name}/{i}.png,{name},person {i % 6},{("train", "validation", "test")[i % 3 if i < 9 else 0]}'
            )
    (images / 'list.csv').write_text('\n'.join(lines))
    said = refused(capsys, images / 'list.csv', '--results', tmp_path / 'results')
    assert 'person' in said and 'several splits' in said


def test_a_name_that_is_also_a_folder_here_is_ambiguous(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    draw(tmp_path / 'breastus', {'a': 12, 'b': 12})
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, 'breastus', '--results', tmp_path / 'results')
    assert './breastus' in said and '--data-root .' in said


def test_wrong_options_are_refused_and_leave_no_study(tmp_path: Path, capsys):
    images = draw(tmp_path / 'images', {'a': 12, 'b': 12})
    for options, words in (
        (('--budget', 'soon'), '--budget'),
        (('--methods', 'lorra'), 'lora'),
        (('--backbone', 'vit_bse_mini'), 'vit_base_mini'),
        (('--budget', '1s', '--methods', 'linear_probing'), '--budget'),
        (('--set', 'epochs=fast', '--methods', 'linear_probing'), 'epochs'),
    ):
        assert words in refused(capsys, images, *options, '--results', tmp_path / 'results')
    assert not (tmp_path / 'results').exists()
