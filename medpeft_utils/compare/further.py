"""What a comparison's page shows beyond its answer: clinical metrics, subgroups, costs and checklists of `report/`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medpeft_utils.compare.drawings import svg
from medpeft_utils.compare.evidence import Evidence
from medpeft_utils.compare.page import Block, Drawing, Section, Table, Words
from medpeft_utils.report import renderers, source
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
SAME = ('Encoder', 'Data', 'Backbone')  # columns that are left out where every row says the same


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
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', RuntimeWarning)  # of means of nothing: few test images; they show as '-'
            outputs = [renderers.render(name, table, 'macro') for name in names]
        for output in outputs:
            output.save(folder)
        blocks = [block for output in outputs for block in _blocks(output)]
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
    table.attrs['by'] = list(by) or held or None
    return table


def _blocks(output: Output) -> list[Block]:
    """A figure or table of the report on this page; what does not exist is a line that says why."""
    notes = [Words(note) for note in output.notes]
    if isinstance(output, Tabled):
        frame = output.frame.astype(str)
        frame = frame.drop(columns=[name for name in SAME if name in frame and frame[name].nunique() == 1])
        table = Table(list(frame.columns), frame.to_numpy().tolist())
        return [Words(f'{output.title}.'), *map(Words, filter(None, output.top)), table, *notes]
    if isinstance(output, Figure):
        return [Drawing([svg(output.figure)], output.title), *notes]
    return notes
