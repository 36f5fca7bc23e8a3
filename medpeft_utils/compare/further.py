"""What a comparison's page shows beyond its answer: clinical metrics, subgroups, costs and checklists of `report/`."""

from __future__ import annotations

from collections.abc import Sequence

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


def further(found: Evidence, by: Sequence[str] = ()) -> list[Section]:
    """The sections that the records of a comparison allow.

    Args:
        found: the comparison.
        by: attributes that make subgroups, such as 'sex' or 'age:60'; those that the records hold where empty.
    """
    if found.answer is None:
        return []
    table = _table(found, by)
    sections = []
    for title, names in SECTIONS.items():
        blocks = [block for name in names for block in _blocks(renderers.render(name, table, 'macro'))]
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
        rows = output.frame.astype(str).to_numpy().tolist()
        return [Words(output.title, strong=True), *map(Words, output.top), Table(list(output.columns), rows), *notes]
    if isinstance(output, Figure):
        return [Drawing(svg(output.figure), output.title), *notes]
    return notes
