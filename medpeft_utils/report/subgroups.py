"""Scores by subgroup, the gap between subgroups, and how a method changes the gap of full fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medpeft_utils import auroc
from medpeft_utils.core.errors import BadInput
from medpeft_utils.report import clinical, provenance
from medpeft_utils.report.clinical_tables import BARS, NO_ROWS, Run, cells, forest, runs_with_rows, sample, verdicts
from medpeft_utils.report.inference import TestSplit
from medpeft_utils.report.output import MISSING, Figure, Nothing, Output, Row, Table, renderer

BY = ('sex', 'age:60')  # unless `records.attrs['by']` names others
FEWEST = 10  # positives, and negatives, in every subgroup, or it is not judged
PERMUTATIONS = 500


_LAST: list = []  # records, what was asked of them, and the answer


@dataclass(frozen=True)
class By:
    """An attribute and how it is divided: 'sex' by values, 'age:60' below and from 60, 'skin:12-34-56' by ranges."""

    column: str
    cuts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> By:
        """From 'column', 'column:number' or 'column:ab-cd'. Raises BadInput for what is neither."""
        column, _, cuts = text.partition(':')
        if not column.strip() or text.count(':') > 1:
            raise BadInput(f'--by {text!r}: give a column, or a column with its cuts: sex, age:60, skin_type:12-34-56')
        return cls(column.strip(), tuple(cut for cut in cuts.replace(',', '-').split('-') if cut))

    def groups(self, values: pd.Series) -> np.ndarray:
        """The subgroup of each row, '' where its value is unknown."""
        text = values.astype(str).str.strip()
        if not self.cuts:
            return text.where(values.notna(), '').to_numpy(dtype=object)
        numbers = pd.to_numeric(text, errors='coerce')
        if len(self.cuts) == 1:
            under = np.where(numbers < float(self.cuts[0]), f'under {self.cuts[0]}', f'{self.cuts[0]} and over')
            return np.where(numbers.notna(), under, '').astype(object)
        of_digit = {digit: cut for cut in self.cuts for digit in cut}
        return numbers.map(lambda number: of_digit.get(f'{number:g}', '')).to_numpy(dtype=object)


def subgroups(run: Run, by: By) -> np.ndarray | None:
    """The subgroup of each test row, '' where unknown; None where the record holds no such column."""
    from medpeft_utils.training import rows

    attributes = rows.read_attributes(run.record, 'test')
    return by.groups(attributes[by.column]) if by.column in attributes else None


def judged(y: np.ndarray, of: np.ndarray) -> tuple[list[str], list[int]]:
    """Subgroups, and classes with ten positives and ten negatives in each of them.

    A subgroup that has too few of every class is left out.
    """
    names = [name for name in dict.fromkeys(sorted(of)) if name]
    enough = {n: [FEWEST <= y[of == n, k].sum() <= (of == n).sum() - FEWEST for k in range(y.shape[1])] for n in names}
    names = [name for name in names if any(enough[name])]
    return names, [k for k in range(y.shape[1]) if names and all(enough[name][k] for name in names)]


def areas(split: TestSplit, y: np.ndarray, p: np.ndarray, of: np.ndarray, names: Sequence[str], classes: Sequence[int]):
    """[1 + draws, subgroups] mean AUROC over the classes, by subgroup; from `clinical.drawn_auroc` of its rows."""
    found = []
    for name in names:
        rows = of == name
        part = object.__new__(TestSplit)  # the rows of a subgroup, under the resamples of the whole split's groups
        part.of, part.groups, part.weights = split.of[rows], split.groups, split.weights
        found.append(np.mean([clinical.drawn_auroc(part, y[rows, k], p[rows, k]) for k in classes], axis=0))
    return np.stack(found, axis=1)


def ends(of_runs: Sequence[np.ndarray]) -> tuple[int, int]:
    """The subgroups with the largest and the smallest mean over runs of [1 + draws, subgroups]: their gap is followed
    in every run and resample, because a gap of each run's own order could only be above zero."""
    order = np.argsort(np.mean([one[0] for one in of_runs], axis=0))
    return int(order[-1]), int(order[0])


def permuted(y, p, of, groups, names, classes, seed: int = 0, times: int = PERMUTATIONS) -> float:
    """p of the gap: how often subgroups shuffled between patients of one class have as large a gap.

    Args:
        y, p: [N, K] of 0 and 1, and probabilities.
        of: [N] the subgroup of each row, of `names`; others are left alone.
        classes: those that count.
        groups: [N] the patient of each row; a patient keeps one subgroup, that of the first row.
    """
    generator = np.random.default_rng(seed)
    _, first, patient = np.unique(groups, return_index=True, return_inverse=True)
    label = y[first].argmax(axis=1) if y.shape[1] > 1 else y[first, 0]
    numbers = np.array([names.index(name) if name in names else -1 for name in of])
    own = numbers[first]
    drawn = np.tile(own, (times + 1, 1))
    for value in np.unique(label):
        places = np.flatnonzero((label == value) & (own >= 0))
        for row in drawn[1:]:
            row[places] = own[generator.permutation(places)]
    by_row = drawn[:, patient]  # [1 + permutations, N]
    found = np.zeros((len(names), len(drawn)))
    for number in range(len(names)):
        inside = (by_row == number).astype(float)
        found[number] = np.mean([auroc.weighted(y[:, k], p[:, k], inside) for k in classes], axis=0)
    gaps = found.max(axis=0) - found.min(axis=0)
    return float((1 + (gaps[1:] >= gaps[0] - 1e-12).sum()) / (1 + times))


def measured(records: pd.DataFrame, f1: str = 'weighted') -> tuple[list[dict], list[str]]:
    """A row for each encoder, data set, attribute and method, and what could not be judged, in sentences."""
    given = (f1, tuple(records.attrs.get('by') or BY))
    if _LAST and _LAST[0] is records and _LAST[1] == given:  # the table and the figure ask for the same
        return _LAST[2]
    rows, missing = [], []
    every = list(cells(runs_with_rows(records, f1))) if 'record' in records else []
    for by in map(By.parse, given[1]):
        for (encoder, data), methods in every:
            about = {'encoder': encoder, 'dataset': data, 'by': by.column}
            found, why = _of_cell(methods, by)
            rows += [about | row for row in found]
            missing += [why.format(**about)] if why else []
    _LAST[:] = [records, given, (rows, list(dict.fromkeys(missing)))]
    return _LAST[2]


def _of_cell(methods: dict[str, list[Run]], by: By) -> tuple[list[dict], str]:
    """A row for each method of one encoder and data set; or why they cannot be judged, to be filled in with both."""
    runs = [run for own in methods.values() for run in own]
    of = {id(run): subgroups(run, by) for run in runs}
    if any(one is None for one in of.values()):
        return [], '{dataset} holds no {by!r}.'
    tested = {id(run): run.probabilities('test') for run in runs}
    fit = [judged(tested[id(run)][0], of[id(run)]) for run in runs]
    names, classes = (sorted(set.intersection(*map(set, parts))) for parts in zip(*fit, strict=True))
    if len(names) < 2 or not classes:
        return [], f'{{dataset}} by {{by}}: too few (under {FEWEST} positives or negatives in a subgroup).'
    found = {id(run): areas(run.test, *tested[id(run)], of[id(run)], names, classes) for run in runs}

    def gap_of(own: list[Run]):
        high, low = ends([found[id(run)] for run in own])
        return sample(own, lambda run: found[id(run)][:, high] - found[id(run)][:, low])

    base, rows = gap_of(methods['Full FT']) if 'Full FT' in methods else None, []
    for method, own in methods.items():
        gaps, first = gap_of(own), own[0]
        groups, y = of[id(first)], tested[id(first)]
        row = {'method': method, 'gap': gaps.interval(), 'synthetic': first.synthetic}
        row['p'] = permuted(*y, groups, first.rows('test')[1], names, classes)
        row['scores'] = {n: sample(own, lambda run, n=i: found[id(run)][:, n]).interval() for i, n in enumerate(names)}
        row['images'] = {name: int((groups == name).sum()) for name in names}
        row['change'] = (gaps - base).interval() if base is not None and method != 'Full FT' else None
        rows.append(row)
    return rows, ''


NOTE = (
    'AUROC, the mean over classes with at least ten positives and negatives in every subgroup. Gap: the best minus the '
    'worst subgroup. p: subgroups shuffled 500 times between patients of one class, first run. Change: paired.'
)


@renderer('subgroups', 'Scores by subgroup, and the gap between subgroups', 'Does a method serve all patients alike?')
def subgroup_table(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """AUROC by subgroup with the gap, its permutation p, and its change against full FT."""
    found, missing = measured(records, f1)
    if not found:
        return Nothing(notes=missing or [NO_ROWS])
    rows, data, least = [], [], []
    for row in found:
        by_group = '; '.join(f'{n} ({row["images"][n]:,}) {s.text(1, False, 2)}' for n, s in row['scores'].items())
        change = row['change'].text(1, digits=3) if row['change'] is not None else ''
        cells_ = [by_group, row['gap'].text(1, False, 3), f'{row["p"]:.3f}', change or MISSING]
        rows.append(Row((row['encoder'], row['dataset'], row['by'], row['method']), cells_))
        about = {name: row[name] for name in ('encoder', 'dataset', 'by', 'method', 'p')}
        about |= {f'auroc {n}': s.value for n, s in row['scores'].items()}
        data.append(about | {name: row[name] for name in ('gap', 'change') if row[name] is not None})
        if row['change'] is not None and row['change'].known:
            least.append((f'{row["dataset"]} by {row["by"]}', row['change'].smallest, row['change'].groups))
    return Table(
        columns=['Encoder', 'Data', 'By', 'Method', 'AUROC by subgroup (images)', 'Gap', 'p', 'Change against full FT'],
        rows=rows,
        notes=[NOTE, *missing],
        top=provenance.least(least, 'of a gap from that of full FT'),
        synthetic=any(row['synthetic'] for row in found),
        data=data,
        left=True,
    )


@renderer(
    'gaps',
    'Does PEFT widen or narrow the gap between subgroups?',
    'Does PEFT treat subgroups more, or less, alike than full fine-tuning?',
)
def gaps(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """The change of the gap against full FT, by method; a panel for each data set and attribute."""
    found, missing = measured(records, f1)
    found, panels = [row for row in found if row['change'] is not None], {}
    for row in found:
        title = f'{row["dataset"]} by {row["by"]}\n{row["encoder"]}'
        panels.setdefault(title, {'gap': {}})['gap'][row['method']] = row['change']
    if not panels:
        return Nothing(notes=missing or [NO_ROWS])
    shown = sorted(panels.items(), key=lambda panel: -len(panel[1]['gap']))[:4]
    counts, synthetic = verdicts([row['change'] for row in found]), any(row['synthetic'] for row in found)
    figure = forest(shown, 'change of the gap\nagainst full FT, points of AUROC', {'gap': 'o'})
    return Figure(
        figure=figure,
        footer=[BARS, counts],
        notes=[counts, 'To the right: a wider gap than that of full FT.', BARS, NOTE, *missing],
        synthetic=synthetic,
        data=[{name: row[name] for name in ('encoder', 'dataset', 'by', 'method', 'change')} for row in found],
    )
