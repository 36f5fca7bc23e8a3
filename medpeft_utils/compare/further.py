"""What a comparison's page shows beyond its answer: clinical metrics, subgroups, costs and checklists of `report/`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medpeft_utils import report
from medpeft_utils.compare.drawings import svg
from medpeft_utils.compare.evidence import Evidence
from medpeft_utils.compare.page import Block, Drawing, Section, Table, Words
from medpeft_utils.report import source
from medpeft_utils.report.output import Figure, Output
from medpeft_utils.report.output import Table as Tabled
from medpeft_utils.study import records
from medpeft_utils.training.rows import read_attributes

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
    table = _table(found, by)
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


def _table(found: Evidence, by: Sequence[str]) -> pd.DataFrame:
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
        return [Drawing([svg(output.figure)], output.title), *notes]
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
