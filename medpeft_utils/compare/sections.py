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
from medpeft_utils.compare.answer import (
    BETTER,
    UNDETECTED,
    WORSE,
    Answer,
    Candidate,
    Relation,
    negative,
    number,
    spread,
)
from medpeft_utils.compare.evidence import Evidence
from medpeft_utils.compare.page import Block, Drawing, Listed, Page, Section, Table, Words
from medpeft_utils.report import source
from medpeft_utils.report.output import Figure, Output
from medpeft_utils.report.output import Table as Tabled
from medpeft_utils.study import records
from medpeft_utils.study.progress import duration
from medpeft_utils.training.rows import read_attributes

SCORE = 'macro F1'
NOT_CLINICAL = 'Not a clinical evaluation.'
LIMITS = (
    'The scores hold for images like those of the test split: the same devices, hospitals and patients. Another '
    'hospital can give others.',
    'One split into training, validation and test was used; intervals are over its test patients and the training '
    'seeds, not over other splits.',
    'The method was chosen by its score on validation and reported on test. Do not choose again by the test scores.',
    'A tool for patient care needs an evaluation on independent data, with the threshold, the prevalence and the '
    'readers of its place of use.',
)


def page_of(found: Evidence, about: dict[str, Any]) -> Page:
    """The page of a comparison.

    Args:
        found: what its runs show.
        about: `title` of the page, `data` (a line on the images), `remarks` of the data's check, `network` (a line on
            the backbone), `command` to run it again.
    """
    if found.answer is None:
        blocks = [Words('No run has finished, so there is nothing to compare yet.', strong=True)]
        sections = [Section('Answer', blocks, short=True)]
    else:
        sections = [_answer(found), _table(found)]
        if found.growths:
            sections.append(_growth(found))
    if found.older:
        again = f'{found.older} finished runs were made by older code; the same command does them again.'
        sections[0].blocks.append(Words(again))
    if found.failures:
        left = 'These runs failed; the others are compared.'
        sections.append(Section('Failures', [Words(left), Listed(found.failures)], short=True))
    sections.append(_data(found, about))
    if found.answer is not None:
        sections.append(_how(found, about))
    sections.append(Section('What this does not say', [Listed([NOT_CLINICAL, *LIMITS])]))
    return Page(about['title'], sections)


# ---- the answer


def _answer(found: Evidence) -> Section:
    answer = found.answer
    blocks = [Words(answer.recommendation(), strong=True)]
    blocks.append(Listed([_chosen_line(answer), *(_line(answer, r) for r in answer.relations)]))
    blocks.append(Words(f'{_basis(found)} {NOT_CLINICAL}'))
    if found.waiting:
        blocks.append(Words(f'{found.waiting} runs are not done yet: this is what the others say so far.'))
    return Section('Answer', blocks, short=True)


def _chosen_line(answer: Answer) -> str:
    best = ', the best of them' if answer.best else ''
    return f'{answer.chosen.label}: {spread(answer.chosen.score)}; chosen on validation{best}.'


def _line(answer: Answer, relation: Relation) -> str:
    words = {
        UNDETECTED: f'{UNDETECTED} ({spread(relation.lead)})',
        WORSE: f'worse by {spread(relation.lead)}',
        BETTER: f'{BETTER} by {spread(negative(relation.lead))}',
    }[relation.verdict]
    costs = _costs(relation.other, answer.chosen)
    return f'{relation.other.label}: {spread(relation.other.score)}; {words}{"; " if costs else ""}{costs}.'


def _costs(one: Candidate, than: Candidate) -> str:
    parts = []
    if one.adapter_bytes and than.adapter_bytes:
        parts.append(times(one.adapter_bytes / than.adapter_bytes, 'bytes'))
    if one.step_seconds and than.step_seconds:
        parts.append(times(one.step_seconds / than.step_seconds, 'step time'))
    return ', '.join(parts)


def times(ratio: float, of: str) -> str:
    """A ratio in words: 'a quarter of the bytes', '1.4 times the step time'."""
    for value, words in ((1.0, 'the same'), (0.5, 'half the'), (1 / 3, 'a third of the'), (0.25, 'a quarter of the')):
        if abs(ratio - value) <= 0.05 * value:
            return f'{words} {of}'
    if ratio < 0.001:
        return f'under 0.1 % of the {of}'
    if ratio < 1:
        return f'{100 * ratio:.{1 if ratio < 0.01 else 0}f} % of the {of}'
    return f'{ratio:,.{1 if ratio < 10 else 0}f} times the {of}'


def _basis(found: Evidence) -> str:
    score, test = found.answer.chosen.score, found.test
    images, patients = len(test.labels), test.groups
    of = f' of {patients:,} groups (such as patients)' if patients < images else ''
    seeds = f'{score.seeds} seed{"s" if score.seeds != 1 else ""}'
    smallest = found.answer.smallest
    shows = f'; this test can show a difference of {number(smallest)}' if smallest else ''
    return f'{SCORE[0].upper()}{SCORE[1:]}, 95 % intervals; {seeds}, 1 split, {images:,} test images{of}{shows}.'


# ---- the table


def _table(found: Evidence) -> Section:
    answer = found.answer
    header = ['method', 'validation', f'test {SCORE} [95 %]', f'minus {answer.chosen.label}', 'AUROC']
    header += ['kept', 'step', 'trained', 'seeds']
    leads = {relation.other.label: relation.lead for relation in answer.relations}
    rows = []
    for one in [answer.chosen, *(relation.other for relation in answer.relations)]:
        runs, lead = found.records[one.label], leads.get(one.label)
        aurocs = [run['metrics']['test'].get('auroc') for run in runs]
        rows.append(
            [
                one.label,
                number(one.validation),
                spread(one.score),
                spread(negative(lead)) if lead else '·',
                number(statistics.fmean(aurocs)) if None not in aurocs else '',
                size_of(one.adapter_bytes),
                f'{1000 * one.step_seconds:,.0f} ms' if one.step_seconds else '·',
                f'{runs[0]["method"]["trainable_parameters"]:,}',
                str(len(runs)),
            ]
        )
    notes = (
        'kept: bytes of what is trained and the head, by which the cheapest is found; step: of training, on this '
        'machine; trained: parameters beside the head. Differences are paired over the same test images; their '
        'intervals hold together.'
    )
    drawing = Drawing(
        drawings.scores(answer, SCORE),
        f'{SCORE} on the test split with 95 % intervals, and differences from {answer.chosen.label}; red: detectable.',
    )
    return Section('Methods', [Table(header, rows), Words(notes), drawing], short=True)


def size_of(count: int | None) -> str:
    """Bytes in words: '3.4 MB'."""
    if count is None:
        return ''
    return f'{count / 1e6:,.1f} MB' if count >= 1e5 else f'{count / 1e3:,.1f} kB'


def _growth(found: Evidence) -> Section:
    lines = [one.sentence() for one in found.growths]
    lines.append('The learning rate of every share is that of all training images.')
    drawing = Drawing(
        [drawings.curves(found.growths, SCORE)], f'{SCORE} over the number of training images, with 95 % bands.'
    )
    return Section('Would more data help?', [Listed(lines), drawing], short=True)


# ---- what it was made of


def _data(found: Evidence, about: dict[str, Any]) -> Section:
    blocks = [Words(about['data'])]
    if found.answer is not None:
        counts = found.of_chosen[0]['data']['counts']
        blocks.append(Table(['split', 'images'], [[name, f'{count:,}'] for name, count in counts.items()]))
    if about['remarks']:
        blocks += [Words('What the check of the data found:'), Listed(about['remarks'])]
    return Section('Data', blocks)


def _how(found: Evidence, about: dict[str, Any]) -> Section:
    record = found.of_chosen[0]
    parameters, environment = record['parameters'], record['environment']
    given = ('batch_size', 'epochs', 'min_steps', 'max_steps', 'search_trials', 'augmentation', 'head')
    versions = ', '.join(f'{name} {version}' for name, version in environment['versions'].items())
    every = [run for runs in found.records.values() for run in runs]
    spent = sum(run['time'].get('total_seconds') or 0 for run in every)
    lines = [
        about['network'],
        'For every method the same: ' + ', '.join(f'{k} {parameters[k]}' for k in given if k in parameters) + '.',
        f'{len(every)} runs of {duration(spent)} in all, on {environment.get("device")}.',
        *_edges(found),
        f'Software: {versions}.',
        f'Again, or with more: {about["command"]}',
    ]
    if found.apart:
        lines.append(f'{found.apart} runs of other settings lie in the same study and are not compared with these.')
    header = ['method', 'learning rate', "head's", 'how']
    rows = [[label, *_rate(runs[0]['learning_rate'])] for label, runs in found.records.items()]
    return Section('How it was run', [Listed(lines), Table(header, rows)])


def _rate(rate: dict[str, Any]) -> list[str]:
    return [f'{rate[key]:.2g}' if rate.get(key) else '·' for key in ('value', 'head_value')] + [str(rate.get('how'))]


def _edges(found: Evidence) -> list[str]:
    at_edge = [label for label, runs in found.records.items() if runs[0]['learning_rate'].get('edge')]
    if not at_edge:
        return []
    return [
        f'The best learning rate of {", ".join(at_edge)} lies at the edge of those that were tried, so a longer search '
        'could raise its score.'
    ]


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
    table.attrs['by'] = list(by) or held
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
