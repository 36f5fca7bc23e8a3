"""What a comparison's page says, section by section."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medpeft_utils import report
from medpeft_utils.compare import drawings
from medpeft_utils.compare.answer import BETTER, SCORE, WORSE, Candidate, Relation, negative, number, size_of, spread
from medpeft_utils.compare.evidence import Evidence
from medpeft_utils.compare.page import Block, Drawing, Listed, Page, Section, Table, Words
from medpeft_utils.report import source
from medpeft_utils.report.output import Figure, Output
from medpeft_utils.report.output import Table as Tabled
from medpeft_utils.study import records
from medpeft_utils.study.progress import duration
from medpeft_utils.training.rows import read_attributes

NOT_CLINICAL = 'Not a clinical evaluation.'
LIMITS = (
    'The scores apply to images like those of the test split: the same devices, hospitals and patients. At another '
    'hospital they may differ.',
    'The data were split once into training, validation and test. The intervals cover the test patients and the '
    'training seeds, not other splits.',
    'The method was chosen by its validation score; its test score is reported. Do not choose again by test scores.',
    'A tool for patient care needs an evaluation on independent data, with the decision threshold, the prevalence and '
    'the readers of the place where it is used.',
)


def page_of(found: Evidence, about: dict[str, Any]) -> Page:
    """The page of a comparison.

    Args:
        found: what its runs show.
        about: `title` of the page, `data` (a line on the images), `remarks` of the data check, `network` (a line on
            the backbone), `command` to repeat it.
    """
    if found.answer is None:
        blocks = [Words('No run has finished, so there is nothing to compare yet.', strong=True)]
        sections = [Section('Answer', blocks, short=True)]
    else:
        sections = [_answer(found), _table(found), *([_growth(found)] if found.growths else [])]
    if found.older:
        again = f'{found.older} finished runs were made by older code; the same command repeats them.'
        sections[0].blocks.append(Words(again))
    if found.failures:
        left = 'These runs failed; the others are compared.'
        sections.append(Section('Failures', [Words(left), Listed(found.failures)], short=True))
    limits = Section('What this comparison cannot tell', [Listed([NOT_CLINICAL, *LIMITS])], open=True)
    how = [_how(found, about)] if found.answer is not None else []
    return Page(about['title'], [*sections, _data(found, about), *how, limits])


# ---- the answer


def _answer(found: Evidence) -> Section:
    answer, chosen = found.answer, found.answer.chosen
    best = ', and detectably better than all others' if answer.best else ''
    lines = [f'{chosen.label}: {spread(chosen.score)}; the highest score on validation{best}.']
    lines += [_line(chosen, relation) for relation in answer.relations]
    blocks = [Words(answer.recommendation(), strong=True), Listed(lines), Words(f'{_basis(found)} {NOT_CLINICAL}')]
    if found.waiting:
        waiting = f'{found.waiting} runs have not finished; the same command continues with them.'
        blocks.append(Words(f'{waiting} This is what the others show so far.'))
    return Section('Answer', blocks, short=True)


def _line(chosen: Candidate, relation: Relation) -> str:
    other, lead, verdict = relation.other, relation.lead, relation.verdict
    difference = f'{verdict} ({spread(lead)})'
    if verdict in (WORSE, BETTER):
        difference = f'{verdict} by {spread(lead if verdict == WORSE else negative(lead))}'
    costs = ', '.join(other.costs(chosen))
    return f'{other.label}: {spread(other.score)}; {difference}{"; " if costs else ""}{costs}.'


def _basis(found: Evidence) -> str:
    score, test, smallest = found.answer.chosen.score, found.test, found.answer.smallest
    images = len(test.labels)
    of = f' of {test.groups:,} groups (such as patients)' if test.groups < images else ''
    seeds = f'{score.seeds} seed{"s" if score.seeds != 1 else ""}'
    shows = f' A test of this size can detect a difference of about {number(smallest)}.' if smallest else ''
    return f'Scores are {SCORE} with 95 % intervals: {seeds}, 1 split, {images:,} test images{of}.{shows}'


# ---- the table


def _table(found: Evidence) -> Section:
    answer = found.answer
    header = ['method', 'validation', f'test {SCORE} [95 %]', f'minus {answer.chosen.label}', 'AUROC']
    header += ['stored', 'step', 'trained', 'seeds']
    differences = {relation.other.label: spread(negative(relation.lead)) for relation in answer.relations}
    rows = []
    for one in answer.candidates:
        runs = found.records[one.label]
        aurocs = [run['metrics']['test'].get('auroc') for run in runs]
        scores = [number(one.validation), spread(one.score), differences.get(one.label, '·')]
        scores.append(number(statistics.fmean(aurocs)) if None not in aurocs else '')
        step = f'{1000 * one.step_seconds:,.0f} ms' if one.step_seconds else '·'
        trained = f'{runs[0]["method"]["trainable_parameters"]:,}'
        rows.append([one.label, *scores, size_of(one.adapter_bytes), step, trained, str(len(runs))])
    notes = (
        'Stored: bytes of the trained parameters and the head, by which the cheapest method is found. Step: time of a '
        'training step on this machine. Trained: parameters without the head. Differences are paired over the same '
        'test images, and their intervals hold together.'
    )
    caption = f'Test {SCORE} with 95 % intervals, and differences from {answer.chosen.label}; red: detectable.'
    blocks = [Table(header, rows), Words(notes), Drawing(drawings.scores(answer), caption)]
    return Section('Methods', blocks, short=True)


def _growth(found: Evidence) -> Section:
    lines = [growth.sentence() for growth in found.growths]
    lines.append('Every fraction is trained with the learning rate that was found with all training images.')
    caption = f'Test {SCORE} over the number of training images, with 95 % bands.'
    blocks = [Listed(lines), Drawing([drawings.curves(found.growths)], caption)]
    return Section('Would more data help?', blocks, short=True)


# ---- what it was made of


def _data(found: Evidence, about: dict[str, Any]) -> Section:
    blocks = [Words(about['data'])]
    if about['remarks']:
        blocks += [Words('The data check remarks:'), Listed(about['remarks'])]
    return Section('Data', blocks)


def _how(found: Evidence, about: dict[str, Any]) -> Section:
    record = found.records[found.answer.chosen.label][0]
    every = [run for runs in found.records.values() for run in runs]
    parameters, environment = record['parameters'], record['environment']
    given = ('batch_size', 'epochs', 'min_steps', 'max_steps', 'search_trials', 'augmentation', 'head')
    settings = ', '.join(f'{name.replace("_", " ")} {parameters[name]}' for name in given if name in parameters)
    spent = duration(sum(run['time'].get('total_seconds') or 0 for run in every))
    versions = ', '.join(f'{name} {version}' for name, version in environment['versions'].items())
    rates = {label: runs[0]['learning_rate'] for label, runs in found.records.items()}
    at_edge = ', '.join(label for label, rate in rates.items() if rate.get('edge'))
    lines = [
        about['network'],
        f'The same for every method: {settings}.',
        f'{len(every)} runs took {spent} in all (device: {environment.get("device")}).',
        *([f'The best learning rate of {at_edge} is at the edge of the range that was tried; a longer search may raise '
           'its score.'] if at_edge else []),
        f'Software: {versions}.',
        f'To repeat or extend this comparison: {about["command"]}',
    ]  # fmt: skip
    if found.apart:
        lines.append(f'{found.apart} runs with other settings are in the same study and are not compared with these.')
    rows = [
        [
            label,
            *(f'{rate[key]:.2g}' if rate.get(key) else '·' for key in ('value', 'head_value')),
            str(rate.get('how')),
        ]
        for label, rate in rates.items()
    ]
    return Section('How it was run', [Listed(lines), Table(['method', 'learning rate', 'of the head', 'how'], rows)])


# ---- what the report of a study shows of the same records


SECTIONS = {
    'Clinical metrics': ('clinical', 'clinical_curves', 'calibration'),
    'Subgroups': ('subgroups', 'gaps'),
    'Costs': ('cost', 'cost_front'),
    "The papers' checklists": ('checklists',),
}
AGE = 'age:60'
SAME = ('Encoder', 'Data', 'Backbone', 'Data: class')  # columns that are left out where every row says the same
MOST_COLUMNS = 7
NO_SUBGROUPS = (
    'The data name nothing by which scores could be reported apart; a CSV can, by columns such as sex, age or site.'
)


def further(found: Evidence, folder: Path, by: Sequence[str] = ()) -> list[Section]:
    """The sections that the records of a comparison allow; each figure and table is also saved by itself.

    Args:
        found: the comparison.
        folder: where figures and tables go, as CSV, Markdown, LaTeX, SVG and PDF.
        by: attributes that make subgroups, such as 'sex' or 'age:60'; those that the records hold where empty.
    """
    if found.answer is None:
        return []
    table = _compared(found, by)
    sections = []
    for title, names in SECTIONS.items():
        if title == 'Subgroups' and not table.attrs['by']:
            sections.append(Section(title, [Words(NO_SUBGROUPS)]))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', RuntimeWarning)  # of means of nothing: few test images; they show as '-'
            outputs = [report.render(name, table, 'macro') for name in names]
        for output in outputs:
            output.save(folder)
        blocks: list[Block] = []
        for block in (block for output in outputs for block in _blocks(output)):
            if not (isinstance(block, Words) and block in blocks):  # a note that stands under each of several
                blocks.append(block)
        if blocks:
            sections.append(Section(title, blocks))
    return sections


def _compared(found: Evidence, by: Sequence[str]) -> pd.DataFrame:
    """The compared records as the renderers take them."""
    every = [record for runs in found.records.values() for record in runs]
    table = pd.DataFrame([records.row(record) for record in every])
    table = table.assign(weights='', record=pd.Series(every, dtype=object))
    table = source.in_order(table)
    held = [AGE if name == 'age' else name for name in read_attributes(every[0])]
    table.attrs |= {'by': list(by) or held, 'methods': set(table['method_label'])}  # all of them, in every table
    return table


def _blocks(output: Output) -> list[Block]:
    """A figure or table of the report on this page; what does not exist is a line that says why."""
    notes = [Words(note) for note in output.notes]
    if isinstance(output, Tabled):
        return [Words(f'{output.title}.'), *map(Words, filter(None, output.top)), *_tabled(output), *notes]
    if isinstance(output, Figure):
        return [Drawing([drawings.svg(output.figure)], output.title), *notes]
    return notes


def _tabled(output: Tabled) -> list[Block]:
    """The table without columns that say the same in every row; turned where it has more measures than fit a page."""
    frame = output.frame.astype(str)
    same = [name for name in SAME if name in frame and frame[name].nunique() == 1]
    said = [Words(frame['Data: class'].iloc[0])] if 'Data: class' in same else []
    frame = frame.drop(columns=same)
    first = frame.columns[0]
    if len(frame.columns) > MOST_COLUMNS and frame[first].is_unique:
        frame = frame.set_index(first).T.rename_axis(first).reset_index()
    return [*said, Table(list(frame.columns), frame.to_numpy().tolist(), output.left)]
