"""The page of answers: every claim with its verdict, the figures that decide it, the rule and the caveat."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import pandas as pd

from medpeft_utils.report import provenance, scores
from medpeft_utils.report.claims import CLAIMS, answers
from medpeft_utils.report.evidence import CONSISTENT, NOT, REPRODUCED, UNANSWERED
from medpeft_utils.report.output import Row, Table
from medpeft_utils.report.renderers import renderer

TITLE = "The paper's claims, and what these records say"
COLUMNS = ['Claim', 'Where', 'Verdict', 'What decides', 'Caveat']
WRAP = {'claim': 34, 'where': 17, 'decides': 62, 'caveat': 40}
VERDICTS = {
    REPRODUCED: 'every interval that decides lies on the side that the paper claims',
    CONSISTENT: 'the mean lies on that side, but an interval includes zero or there are fewer than three seeds',
    NOT: 'the mean or an interval lies on the other side',
    UNANSWERED: 'the records hold no run that bears on it',
}


@dataclass(frozen=True, kw_only=True)
class ClaimsPage(Table):
    """A table whose Markdown is a page: the summary, then each claim by itself."""

    sections: tuple[str, ...] = ()

    def markdown(self) -> str:
        summary = ['| Claim | Where | Verdict |', '| --- | --- | --- |']
        summary += [f'| {r["claim"]} | {r["where"]} | **{r["verdict"]}** |' for r in self.data.to_dict('records')]
        words = [f'- **{verdict}**: {meaning}.' for verdict, meaning in VERDICTS.items()]
        notes = [f'{note}  ' for note in self.notes]
        return '\n'.join([f'# {self.title}', '', *notes, '', *summary, '', *words, '', *self.sections])


def section(row: dict[str, str]) -> str:
    """A claim by itself, in Markdown: the columns claim, where, verdict, decides, rule and caveat of its row."""
    lines = [f'## {row["claim"]}', '', f'{row["where"]}. **{row["verdict"].capitalize()}.**', '']
    lines += [f'- {line}' for line in row['decides'].split('\n') if line]
    lines += ['', f'Decided by: {row["rule"]}', '']
    return '\n'.join([*lines, *([f'Caveat: {row["caveat"]}', ''] if row['caveat'] else [])])


def _notes(records: pd.DataFrame, f1: str) -> list[str]:
    chosen = scores.seed_scores(records, f1, prefer=scores.TABLE_EXPERIMENTS)
    notes = provenance.describe(records, chosen, f1, spread=False)
    if provenance.is_synthetic(chosen):
        notes.append(
            'The images are synthetic: these verdicts show that the pipeline answers, and say nothing about medicine.'
        )
    if (chosen['backbone_label'].astype(str).str.contains('mini')).any():
        notes.append('Small backbones and small images: a verdict holds for them, not for the networks of the paper.')
    notes.append(f'Figures are mean [95 % t interval over seeds]; {len(CLAIMS)} claims are tested without correction.')
    return notes


@renderer('claims', TITLE, 'Which of the claims of the paper are reproduced?')
def claims(records: pd.DataFrame, f1: str = 'weighted') -> ClaimsPage:
    """Every claim of the discriminative half with its verdict; for the paper's own numbers, what they bear out."""
    rows = []
    for name, answer in answers(records, f1).items():
        claim = CLAIMS[name]
        row = {'name': name, 'claim': claim.text, 'where': claim.where, 'verdict': answer.verdict}
        rows.append(row | {'decides': '\n'.join(answer.decides), 'rule': claim.rule, 'caveat': answer.caveat})
    notes = _notes(records, f1)
    if scores.is_published(records):
        notes.append('The same rules on the printed numbers. Without seeds no claim can be better than consistent.')
    chosen = scores.seed_scores(records, f1, prefer=scores.TABLE_EXPERIMENTS)
    synthetic = ', synthetic images' if provenance.is_synthetic(chosen) else ''
    return ClaimsPage(
        name='claims',
        title=TITLE + synthetic,
        columns=COLUMNS,
        rows=[printed_row(row) for row in rows],
        notes=notes,
        data=pd.DataFrame(rows),
        sections=tuple(section(row) for row in rows),
        left=True,
    )


def printed_row(row: dict[str, str]) -> Row:
    """A claim as a row of the table, its texts wrapped."""
    shown = {
        field: '\n'.join(part for line in row[field].split('\n') for part in textwrap.wrap(line, width))
        for field, width in WRAP.items()
    }
    cells = [shown['where'], row['verdict'], shown['decides'], shown['caveat']]
    return Row((shown['claim'],), cells, [False, True, False, False], rule=True)
