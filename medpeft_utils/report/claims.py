"""One scaffold for the pages of claims: parts and their verdicts, a registry of answers, the page, the strip.

CLAIMS = Claims(Study)

@CLAIMS.claim('SSF is best.', 'Table 2')
def ssf_best(study) -> Answer:
    '''The rule, as it is printed.'''
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medpeft_utils.core.registry import Registry
from medpeft_utils.report import provenance, style
from medpeft_utils.report.inference import FEWEST, Interval
from medpeft_utils.report.output import Nothing, Row, Table, write_pictures

CONSEQUENCE = 0.02  # the smallest difference of a score (0..1) that is of consequence, declared before the runs
REPRODUCED, CONTRADICTED, UNDECIDED, NOT_RUN = 'reproduced', 'contradicted', 'undecided', 'not run'
VERDICTS = (REPRODUCED, CONTRADICTED, UNDECIDED, NOT_RUN)
MEANINGS = {
    REPRODUCED: 'the interval of every part lies above zero',
    CONTRADICTED: 'the interval of a part lies below what is of consequence',
    UNDECIDED: 'anything else, and always with fewer than three seeds or splits; the page says what would decide it',
    NOT_RUN: 'the records hold no run that bears on it',
}
SYNTHETIC = 'The images are synthetic: these verdicts show that the pipeline answers, and say nothing about medicine.'
SMALL = 'Small networks and small images: a verdict holds for them, not for the networks of the paper.'


# ---- parts and verdicts


@dataclass(frozen=True)
class Part:
    """One part of a claim: a quantity that should be above zero; None where it was not run.

    `scale`, `unit` and `digits` are for printing; `consequence` is in the quantity's own unit.
    """

    what: str
    found: Interval | None
    scale: float = 100.0
    unit: str = 'points'
    consequence: float = CONSEQUENCE
    digits: int = 1

    @property
    def verdict(self) -> str:
        """Reproduced: the interval lies above zero. Contradicted: it lies below what is of consequence. Fewer than
        three seeds and splits decide nothing, however narrow the interval is."""
        if self.found is None or math.isnan(self.found.value):
            return NOT_RUN
        if not self.found.decides:
            return UNDECIDED
        if self.found.low > 0:
            return REPRODUCED
        return CONTRADICTED if self.found.high < self.consequence else UNDECIDED

    def __str__(self) -> str:
        if self.verdict == NOT_RUN:
            return f'{self.what}: not run'
        return f'{self.what}: {self.found.text(self.scale, digits=self.digits)} {self.unit} ({about(self.found)})'

    @property
    def numbers(self) -> dict:
        """The part as a row of the CSV."""
        row, found = {'part': self.what, 'verdict': self.verdict}, self.found
        if found is None:
            return row
        row |= {'value': found.value, 'low': found.low, 'high': found.high, 'consequence': self.consequence}
        return row | {name: getattr(found, name) for name in ('over', 'groups', 'seeds', 'splits')}

    @property
    def needs(self) -> str:
        """What would decide it, in words."""
        found = self.found
        if found is None or not found.decides:
            have = 0 if found is None else max(found.seeds, found.splits)
            return f'at least {FEWEST} seeds or splits (there {"is" if have == 1 else "are"} {have})'
        half, target = (found.high - found.low) / 2, max(abs(found.value), self.consequence)
        more = max(half / target, 1.0) ** 2
        of_groups, of_seeds = found.variances
        if found.over == 'data sets':
            return f'more data sets or larger ones: an interval {math.sqrt(more):.1f} times as narrow'
        if found.over == 'patients and seeds' and of_seeds > of_groups:
            return f'about {math.ceil(more * found.seeds):,} seeds'
        if found.groups:
            times, patients = math.ceil(10 * more) / 10, f'{found.groups:,} test patients'
            return f'about {times:g} times the {patients}' if times > 1 else 'somewhat more patients'
        return f'about {math.ceil(more * max(found.seeds, found.splits)):,} seeds'


def about(found: Interval) -> str:
    """What an interval is over, in words: '3 seeds, 412 patients'."""
    if found.over == 'data sets':
        return f'at least {found.seeds} seeds or splits each, {found.groups:,} patients'
    words = {
        f'{found.splits} splits': found.splits > 1,
        f'{found.seeds} seed{"s" if found.seeds > 1 else ""}': found.seeds > 0,
        f'{found.groups:,} patients': found.over.startswith('patients'),
        'patients not drawn': found.over == 'seeds',
    }
    return ', '.join(text for text, holds in words.items() if holds) or 'as printed'


def judge(parts: Sequence[Part]) -> str:
    """The verdict on a claim, each part of which must hold.

    One part contradicted contradicts it; all reproduced reproduce it; a part that was not run leaves it undecided, and
    where no part was run the claim was not run.
    """
    found = [part.verdict for part in parts]
    if CONTRADICTED in found:
        return CONTRADICTED
    if not found or set(found) == {NOT_RUN}:
        return NOT_RUN
    return REPRODUCED if set(found) == {REPRODUCED} else UNDECIDED


# ---- claims and their page


@dataclass(frozen=True)
class Answer:
    """The answer to a claim: its parts, each of which must hold; further lines that decide nothing; what to keep in
    mind. `stated` is a verdict by arithmetic, where there is nothing to measure."""

    parts: Sequence[Part] = ()
    lines: Sequence[str] = ()
    caveat: str = ''
    stated: str = ''

    @property
    def verdict(self) -> str:
        return self.stated or judge(self.parts)

    @property
    def decides(self) -> tuple[str, ...]:
        """Parts and lines in words; of an open part what would decide it."""
        needs = (f'; undecided: needs {part.needs}' if part.verdict == UNDECIDED else '' for part in self.parts)
        return (*(f'{part}{words}' for part, words in zip(self.parts, needs, strict=True)), *self.lines)


@dataclass(frozen=True)
class Claim:
    """A claim of a paper: its words, where it stands, and what answers it."""

    text: str
    where: str
    answer: Callable[..., Answer]

    @property
    def rule(self) -> str:
        """How the claim is decided: the docstring of its function."""
        return ' '.join((self.answer.__doc__ or '').split())


class Claims(Registry[Claim]):
    """The claims of one paper, their answers and their page.

    Args:
        study: (records, f1) -> what the answers take.
    """

    def __init__(self, study: Callable[..., object]):
        super().__init__('claim')
        self.study = study

    def claim(self, text: str, where: str):
        """Register a function (study) -> Answer as the answer to a claim, under its name; its docstring is the rule."""

        def register(answer: Callable[..., Answer]) -> Callable[..., Answer]:
            self.register(answer.__name__, Claim(text, where, answer))
            return answer

        return register

    def answers(self, records: pd.DataFrame, f1: str = 'weighted') -> dict[str, Answer]:
        """The answer to every claim, by its name."""
        study = self.study(records, f1)
        return {name: claim.answer(study) for name, claim in self.items()}

    def page(
        self, records: pd.DataFrame, f1: str, notes: Sequence[str], chosen: pd.DataFrame, more: Sequence[str] = ()
    ):
        """Every claim with its verdict, rule, what decides, and caveat; Nothing where no claim was run.

        Args:
            notes: what `provenance` says of the runs.
            chosen: these runs, for what must be said of small networks and of synthetic images.
            more: further notes, after those on small networks.
        """
        answers = self.answers(records, f1)
        small = len(chosen) > 0 and chosen['backbone_label'].astype(str).str.contains('mini').any()
        synthetic = provenance.is_synthetic(chosen)
        notes = [*notes, *([SMALL] if small else []), *more]
        if all(answer.verdict == NOT_RUN for answer in answers.values()):
            return Nothing(notes=notes)
        rows, parts = [], []
        for name, answer in answers.items():
            claim = self[name]
            row = {'name': name, 'claim': claim.text, 'where': claim.where, 'verdict': answer.verdict}
            rows.append(row | {'decides': '\n'.join(answer.decides), 'rule': claim.rule, 'caveat': answer.caveat})
            parts += [{'name': name} | part.numbers for part in answer.parts]
        shown = ['where', 'verdict', 'decides', 'caveat']
        many = f'{len(self)} claims, each interval of 95 % by itself: nothing is corrected for their number.'
        return ClaimsPage(
            synthetic=synthetic,
            columns=['Claim', 'Where', 'Verdict', 'What decides', 'Caveat'],
            rows=[Row((r['claim'],), [r[name] for name in shown], [False, True, False, False]) for r in rows],
            notes=[*notes, *([SYNTHETIC] if synthetic else []), many],
            data=rows,
            further={'parts': pd.DataFrame(parts)} if parts else {},
            left=True,
        )


@dataclass(frozen=True, kw_only=True)
class ClaimsPage(Table):
    """A table whose Markdown is a page: the strip of verdicts, then each claim by itself."""

    def save(self, folder: Path | str) -> list[Path]:
        """As every table, with the strip as a picture."""
        with style.drawing():
            strip = self.strip()
        return [*write_pictures(Path(folder), self.name, strip), *super().save(folder)]

    def strip(self):
        """Claims against verdicts: a coloured cell under the verdict, with the number of parts that say so."""
        rows = self.data.to_dict('records')
        parts = self.further.get('parts', pd.DataFrame(columns=['name', 'verdict']))
        figure, axes = style.sheet(1, 1, 7.2, 0.4 + 0.3 * len(rows))
        axis = axes[0, 0]
        for place, row in enumerate(rows):
            found = parts[parts['name'] == row['name']]['verdict'].value_counts()
            for column, verdict in enumerate(VERDICTS):
                own, count = verdict == row['verdict'], int(found.get(verdict, 0))
                colour = style.VERDICTS[verdict] if own else '#f4f4f4'
                axis.barh(place, 0.94, left=column + 0.03, height=0.8, color=colour)
                counted = f'{count} of {found.sum()} part{"s" if found.sum() > 1 else ""}'
                words = counted if count else '✓' if own else ''
                ink = 'white' if own and verdict in (REPRODUCED, CONTRADICTED) else style.INK
                how = {'ha': 'center', 'va': 'center', 'size': 6.3, 'weight': 'bold' if own else 'normal'}
                axis.text(column + 0.5, place, words, color=ink, **how)
        axis.set_yticks(range(len(rows)), [textwrap.fill(row['claim'], 62) for row in rows], size=6.5)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlim(0, len(VERDICTS))
        axis.set_xticks([n + 0.5 for n in range(len(VERDICTS))], VERDICTS, weight='bold', size=8)
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
        axis.grid(False)
        axis.spines[:].set_visible(False)
        style.footer(figure, self.notes[:2], self.synthetic)
        return figure

    def markdown(self) -> str:
        summary = ['| Claim | Where | Verdict |', '| --- | --- | --- |']
        rows = self.data.to_dict('records')
        summary += [f'| {r["claim"]} | {r["where"]} | **{r["verdict"]}** |' for r in rows]
        words = [f'- **{verdict}**: {meaning}.' for verdict, meaning in MEANINGS.items()]
        notes = [f'{note}  ' for note in self.notes]
        head = [f'# {self.title}', '', f'![{self.title}]({self.name}.svg)', '', *notes, '', *summary, '', *words, '']
        return '\n'.join([*head, *(_section(row) for row in rows)])


def _section(row: dict[str, str]) -> str:
    """A claim by itself, in Markdown: the columns claim, where, verdict, decides, rule and caveat of its row."""
    lines = [f'## {row["claim"]}', '', f'{row["where"]}. **{row["verdict"].capitalize()}.**', '']
    lines += [f'- {line}' for line in row['decides'].split('\n') if line]
    lines += ['', f'Decided by: {row["rule"]}', '']
    return '\n'.join([*lines, *([f'Caveat: {row["caveat"]}', ''] if row['caveat'] else [])])
