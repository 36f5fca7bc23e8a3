"""Clinical metrics of each class, reliability and decision curves, and whether PEFT calibrates worse than full FT."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from medpeft_utils.core.drawing import plain
from medpeft_utils.report import clinical, cxr_scores, paper, provenance, scores, style
from medpeft_utils.report.claims import CONSEQUENCE
from medpeft_utils.report.inference import Interval, Sample, TestSplit
from medpeft_utils.report.output import MISSING, Figure, Nothing, Output, Row, Table, renderer
from medpeft_utils.report.style import bar, legend, sheet

SHOWN = ('Full FT', 'Linear Probing', 'LoRA', 'SSF', 'BitFit', 'Bias Tuning')
NO_ROWS = 'These records hold no rows of validation and test: clinical metrics are not available.'
OF_INTEREST = ('malignant', 'mel', 'melanoma', 'glaucoma', 'pneumonia', 'lung opacity', 'effusion')
NOT_CLINICAL = 'This is not a clinical evaluation: the images are retrospective, and no reader saw them.'


_TEMPERATURES: dict[tuple[str, str], float] = {}


@dataclass(frozen=True)
class Run:
    """A run that holds its rows: where it belongs, and labels, groups and log-odds of both splits."""

    encoder: str
    data: str
    method: str
    split: str
    seed: int
    ratio: float
    synthetic: bool
    record: dict

    @property
    def classes(self) -> list[str]:
        return list(self.record['data']['classes'])

    def rows(self, split: str):
        return scores.test_rows(self.record, split)

    @property
    def temperature(self) -> float:
        """Fitted on validation, once for equal rows."""
        key = self.record['rows']['validation']['labels'], self.record['rows']['validation']['scores']
        if key not in _TEMPERATURES:
            labels, _, _, odds = self.rows('validation')
            _TEMPERATURES[key] = clinical.temperature(labels, odds)
        return _TEMPERATURES[key]

    @property
    def test(self) -> TestSplit:
        labels, groups, *_ = self.rows('test')
        return scores.split_of(labels, groups, len(self.classes))

    def probabilities(self, split: str, scaled: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Labels as 0 and 1 [N, K] and probabilities [N, K]; scaled by the temperature fitted on validation."""
        labels, _, _, odds = self.rows(split)
        several = labels.ndim > 1
        p = clinical.class_probabilities(odds, several, self.temperature if scaled else 1.0)
        return (labels if several else np.eye(p.shape[1], dtype=int)[labels]), p


def runs_with_rows(records: pd.DataFrame, f1: str = 'weighted') -> list[Run]:
    """The runs of the tables, and of the radiographs, that hold rows of validation and test."""
    if 'record' not in records:
        return []
    whole = records.drop_duplicates('run').set_index('run')['record']
    radiographs = cxr_scores.one_rank(cxr_scores.runs(records))
    words = [
        f'{data}, {100 * share:g} %' for data, share in zip(radiographs['data'], radiographs['fraction'], strict=True)
    ]
    data = radiographs['data'].where(radiographs['fraction'] == 1, words)
    radiographs = radiographs.assign(data=data, split=[split for split, *_ in radiographs['split']])
    runs, names = [], [name for name in Run.__dataclass_fields__ if name != 'record']
    for table in (scores.table_scores(records, f1), radiographs):
        for one in table.to_dict('records'):
            record = whole[one['run']]
            if isinstance(record, dict) and {'validation', 'test'} <= set(record.get('rows') or {}):
                runs.append(Run(record=record, **{name: one[name] for name in names}))
    return runs


def cells(runs: list[Run]) -> Iterator[tuple[tuple[str, str], dict[str, list[Run]]]]:
    """((encoder, data), {method: its runs}), methods in the order of the paper."""
    keys = dict.fromkeys((run.encoder, run.data) for run in runs)
    known = tuple(dict.fromkeys((*paper.VIT_METHODS, *paper.CNN_METHODS)))
    for key in keys:
        here = [run for run in runs if (run.encoder, run.data) == key]
        methods = scores.in_order((run.method for run in here), known)
        yield key, {method: [run for run in here if run.method == method] for method in methods}


def sample(runs: list[Run], measure: Callable[[Run], np.ndarray]) -> Sample:
    """A quantity over runs, from what gives [1 + draws] of one; without draws where the runs are of several splits."""
    found = {(run.split, run.seed): np.asarray(measure(run), dtype=float) for run in runs}
    if len({split for split, _ in found}) > 1:
        return Sample(tuple(found), np.array([one[0] for one in found.values()]), None, 0, runs[0].ratio)
    return Sample.of_runs(found, runs[0].test.groups, runs[0].ratio)


def differences(methods: dict[str, list[Run]], measure: Callable[[Run], np.ndarray]) -> dict[str, Interval]:
    """{method: its mean quantity minus that of full FT}, paired; nothing where full FT was not run."""
    if scores.FULL not in methods:
        return {}
    found = {method: sample(own, measure) for method, own in methods.items()}
    base = found.pop(scores.FULL)
    return {method: (one - base).interval() for method, one in found.items()}


def positive(classes: list[str]) -> int:
    """The class that curves are drawn of: one of clinical interest by its name, else the last."""
    names = [name.lower() for name in classes]
    return next((names.index(wanted) for wanted in OF_INTEREST if wanted in names), len(classes) - 1)


# ---- the table


def _measured(runs: list[Run], k: int) -> dict[str, Interval | float]:
    """The numbers of one class over the runs of one method."""
    test, warm, valid = (
        {id(run): [part[:, k] for part in run.probabilities(*which)] for run in runs}
        for which in (('test',), ('test', True), ('validation',))
    )

    def mean(measure: Callable) -> float:
        return _mean([measure(*test[id(run)]) for run in runs])

    def drawn(measure: Callable, of: dict = test) -> Interval:
        return sample(runs, lambda run: measure(run.test, *of[id(run)])).interval()

    found: dict[str, Interval | float] = {
        'prevalence': mean(lambda y, p: float(y.mean())),
        'auroc': drawn(clinical.drawn_auroc),
        'auprc': mean(clinical.average_precision),
        'brier': drawn(clinical.drawn_brier),
        'ece': drawn(clinical.drawn_calibration_error),
        'ece_scaled': drawn(clinical.drawn_calibration_error, warm),
        'slope': mean(lambda y, p: clinical.calibration_line(y, p)[0]),
        'intercept': mean(lambda y, p: clinical.calibration_line(y, p)[1]),
    }
    for wanted in (0.9, 0.95):
        for name, place, other in (('specificity', 0, 'sensitivity'), ('sensitivity', 1, 'specificity')):
            find = getattr(clinical, f'threshold_at_{name}')
            rates = {id(r): clinical.drawn_rates(r.test, *test[id(r)], find(*valid[id(r)], wanted)) for r in runs}
            reached = sample(runs, lambda run, of=rates, place=place: of[id(run)][place]).interval()
            kept = _mean([rates[id(run)][1 - place][0] for run in runs])
            found |= {f'{other}_at_{name}_{100 * wanted:g}': reached, f'{name}_reached_{100 * wanted:g}': kept}
    return found


def _auroc(run: Run, k: int) -> np.ndarray:
    y, p = (part[:, k] for part in run.probabilities('test'))
    return clinical.drawn_auroc(run.test, y, p)


def _mean(values: list[float]) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _text(found: Interval | float, digits: int = 2) -> str:
    if isinstance(found, Interval):
        inside = replace(found, low=np.maximum(found.low, 0.0), high=np.minimum(found.high, 1.0))
        return inside.text(1.0, signed=False, digits=digits) if not math.isnan(found.value) else MISSING
    return MISSING if math.isnan(found) else f'{found:.{digits}f}'


COLUMNS = {
    'AUROC': ('auroc', 2),
    'AUPRC': ('auprc', 2),
    'Prevalence': ('prevalence', 3),
    'Sensitivity at specificity .90': ('sensitivity_at_specificity_90', 2),
    'Specificity reached': ('specificity_reached_90', 2),
    'Specificity at sensitivity .95': ('specificity_at_sensitivity_95', 2),
    'Sensitivity reached': ('sensitivity_reached_95', 2),
    'Brier': ('brier', 3),
    'Slope': ('slope', 2),
    'Intercept': ('intercept', 2),
    'ECE': ('ece', 3),
    'ECE, scaled': ('ece_scaled', 3),
}
TABLE_NOTE = (
    'Thresholds come from validation; "reached" is what they reach on test. ECE: class-wise, equal-mass bins; scaled: '
    'after a temperature fitted on validation. Slope and intercept: of a logistic recalibration, ideally 1 and 0. '
)


@renderer('clinical', 'Clinical metrics, a class against the rest', 'What would a clinician ask of these classifiers?')
def clinical_table(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """AUROC, AUPRC, operating points, Brier score and calibration of each class, by encoder, data set and method."""
    runs = [run for run in runs_with_rows(records, f1) if run.method in records.attrs.get('methods', SHOWN)]
    if not runs:
        return Nothing(notes=[NO_ROWS])
    rows, data, least = [], [], []
    for (encoder, name), methods in cells(runs):
        classes = next(iter(methods.values()))[0].classes
        shown = positive(classes)
        apart = differences(methods, lambda run, k=shown: _auroc(run, k)).values()
        known = [one for one in apart if one.known]
        if known:
            least.append((f'{name}: {classes[shown]}', float(np.median([o.smallest for o in known])), known[0].groups))
        # of two classes the second one says it all; of many findings the CSV would be long, and holds eight
        for k in range(1 if len(classes) == 2 else 0, min(len(classes), 8)):
            for method, own in methods.items():
                found = _measured(own, k)
                row = {'encoder': encoder, 'dataset': name, 'class': classes[k], 'method': method, 'runs': len(own)}
                data.append(row | found)
                if k == shown:
                    heads = (encoder, f'{name}: {classes[k]}', method)
                    cell = [_text(found[key], digits) for key, digits in COLUMNS.values()]
                    rows.append(Row(heads, cell))
    return Table(
        synthetic=any(run.synthetic for run in runs),
        columns=['Encoder', 'Data: class', 'Method', *COLUMNS],
        rows=rows,
        top=provenance.least(least, 'in AUROC from full FT'),
        notes=[TABLE_NOTE + 'Every class and operating point is in the CSV. ' + NOT_CLINICAL, *over(runs)],
        data=data,
    )


def over(runs: list[Run]) -> list[str]:
    """What the intervals of these runs are over."""
    kinds = set()
    for _, methods in cells(runs):
        for own in methods.values():
            splits, seeds = len({run.split for run in own}), len({run.seed for run in own})
            kinds.add('splits' if splits > 1 else 'patients and seeds' if seeds > 1 else 'patients')
    return [words for kind, words in provenance.INTERVALS.items() if kind in kinds]


# ---- curves


def _curves(axes, methods: dict[str, list[Run]], k: int) -> list[dict]:
    """Reliability (left) and net benefit (right) of one class with their bands; gives back the drawn numbers."""
    left, right = axes
    thresholds, drawn = np.linspace(0.02, 0.8, 40), []
    left.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    first = next(iter(methods.values()))
    every = np.concatenate([run.probabilities('test')[1][:, k] for run in first])
    edges = np.unique(np.quantile(every, np.linspace(0, 1, 9)))
    edges[0], edges[-1] = 0.0, 1.0
    for method, runs in methods.items():
        look, ready = style.look(method), {id(run): [part[:, k] for part in run.probabilities('test')] for run in runs}
        inside = [[p[(p >= a) & (p <= b)] for a, b in itertools.pairwise(edges)] for _, p in ready.values()]
        x = np.array([[part.mean() if len(part) else math.nan for part in parts] for parts in inside])
        bands = (
            (left, np.nanmean(x, axis=0), clinical.drawn_reliability, edges, 'reliability'),
            (right, thresholds, clinical.drawn_net_benefit, thresholds, 'net benefit'),
        )
        for axis, at, measure, given, name in bands:
            tables = {id(run): measure(run.test, *ready[id(run)], given) for run in runs}
            found = [sample(runs, lambda run, n=n, t=tables: t[id(run)][:, n]).interval() for n in range(len(at))]
            values, low, high = (np.array([getattr(one, end) for one in found]) for end in ('value', 'low', 'high'))
            marker = look['marker'] if axis is left else ''
            marks = {'marker': marker, 'markeredgecolor': 'white', 'markeredgewidth': 0.4}
            axis.plot(at, values, color=look['color'], label=method, zorder=4, **marks)
            if axis is left:  # a frequency
                low, high = np.maximum(low, 0), np.minimum(high, 1)
            axis.fill_between(at, low, high, color=look['color'], alpha=0.15, linewidth=0)
            drawn += [{'method': method, 'curve': name, 'at': a, 'value': v, 'low': lo, 'high': hi}
                      for a, v, lo, hi in zip(at, values, low, high, strict=True)]  # fmt: skip
    y = np.concatenate([run.probabilities('test')[0][:, k] for run in first])
    everyone = y.mean() - (1 - y.mean()) * thresholds / (1 - thresholds)
    right.plot(thresholds, everyone, color=style.GREY, linewidth=0.8, label='treat all')
    right.axhline(0, color=style.INK, linewidth=0.8)
    right.set_ylim(-0.1 * y.mean(), 1.15 * y.mean())
    return drawn


@renderer(
    'clinical_curves',
    'Reliability and decision curves',
    'Can the probabilities be trusted, and do they help a decision?',
)
def clinical_curves(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Reliability and decision curves of full FT and two others, for the class of interest of up to three data sets."""
    runs = runs_with_rows(records, f1)
    wanted = ('Full FT', 'LoRA', 'SSF', 'Linear Probing')
    chosen = [(key, {m: methods[m] for m in wanted if m in methods}) for key, methods in cells(runs)]
    chosen = sorted((one for one in chosen if len(one[1]) > 1), key=lambda one: -sum(map(len, one[1].values())))[:3]
    if not chosen:
        return Nothing(notes=[NO_ROWS])
    drawn, used = [], [run for _, methods in chosen for own in methods.values() for run in own]
    figure, axes = sheet(len(chosen), 2, 3.5, 2.5)
    for across, ((encoder, data), methods) in zip(axes, chosen, strict=True):
        methods = dict(list(methods.items())[:3])
        classes = next(iter(methods.values()))[0].classes
        k = positive(classes)
        for row in _curves(across, methods, k):
            drawn.append({'encoder': encoder, 'dataset': data, 'class': classes[k]} | row)
        across[0].set_title(plain(f'{data}: {classes[k]}, {encoder}'))
        across[0].set_ylabel('observed frequency')
        across[1].set_ylabel('net benefit')
        across[1].legend(frameon=False, fontsize=6.5, loc='upper right')
    axes[-1, 0].set_xlabel('predicted probability')
    axes[-1, 1].set_xlabel('threshold probability')
    return Figure(
        synthetic=any(run.synthetic for run in used),
        figure=figure,
        footer=['Bands: 95 %.', *over(used)],
        notes=[*over(used), 'Bands: 95 %. Dashed: perfect calibration. ' + NOT_CLINICAL],
        data=pd.DataFrame(drawn),
    )


# ---- differences from full fine-tuning as dots with bars: does PEFT calibrate worse?

BARS = 'Bars: 95 % intervals. Grey: no difference of consequence (2 points).'


def class_wise_error(run: Run, scaled: bool) -> np.ndarray:
    """[1 + draws] expected calibration error, the mean over the classes that occur."""
    y, p = run.probabilities('test', scaled)
    split = run.test
    here = [k for k in range(y.shape[1]) if 0 < y[:, k].sum() < len(y)]
    return np.mean([clinical.drawn_calibration_error(split, y[:, k], p[:, k]) for k in here], axis=0)


def forest(figures: list[tuple[str, dict[str, dict[str, Interval]]]], words: str, marks: dict[str, str]):
    """A panel a data set, a row a method: differences from full FT with their bars; `marks` are kind to marker."""
    methods = list(dict.fromkeys(method for _, found in figures for kind in found.values() for method in kind))
    size = max(2.1, 7 / len(figures)), 0.21 * len(methods) + 1.25
    figure, axes = sheet(1, len(figures), *size, sharex=True, sharey=True)
    for axis, (title, found) in zip(axes[0], figures, strict=True):
        axis.axvspan(-100 * CONSEQUENCE, 100 * CONSEQUENCE, color=style.PALE, alpha=0.35, linewidth=0, zorder=0)
        axis.axvline(0, color=style.INK, linewidth=0.8, zorder=1)
        for aside, (kind, by_method) in enumerate(found.items()):
            for method, one in by_method.items():
                at = methods.index(method) + 0.26 * (aside - (len(found) - 1) / 2)
                colour = style.palette()[(0, 1)[aside % 2]]
                bar(axis, at, 100 * one.low, 100 * one.high, colour, across=True)
                label = kind if method == next(iter(by_method)) else None
                how = {'color': colour, 'marker': marks[kind], 'linestyle': '', 'markeredgecolor': 'white', 'zorder': 4}
                axis.plot(100 * one.value, at, label=label, **how)
        axis.set_title(title)
        axis.set_xlabel(words)
        axis.grid(axis='y', visible=False)
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].set_ylim(len(methods) - 0.4, -0.6)
    if len(marks) > 1:
        legend(figure, axes[0, :1])
    return figure


@renderer(
    'calibration',
    'Does PEFT calibrate worse than full fine-tuning?',
    'Are the probabilities of PEFT less reliable than those of full FT?',
)
def calibration(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Class-wise calibration error minus that of full FT, before and after a temperature fitted on validation."""
    runs = runs_with_rows(records, f1)
    panels, data = [], []
    for (encoder, name), methods in cells(runs):
        found = {}
        for kind, scaled in (('as trained', False), ('after a temperature', True)):
            found[kind] = differences(methods, lambda run, scaled=scaled: class_wise_error(run, scaled))
            about = {'encoder': encoder, 'dataset': name, 'kind': kind}
            data += [about | {'method': m, 'difference': one, 'over': one.over} for m, one in found[kind].items()]
        if found['as trained']:
            panels.append((f'{name}\n{encoder}', found))
    if not panels:
        return Nothing(notes=[NO_ROWS])
    panels = sorted(panels, key=lambda panel: -len(panel[1]['as trained']))[:4]
    counts, synthetic = verdicts([row['difference'] for row in data]), any(run.synthetic for run in runs)
    figure = forest(panels, 'calibration error minus\nfull FT, points', {'as trained': 'o', 'after a temperature': 'D'})
    return Figure(
        synthetic=synthetic,
        figure=figure,
        footer=[BARS, counts, *over(runs)],
        notes=[counts, *over(runs), 'To the right: worse than full FT.', BARS],
        data=data,
    )


def verdicts(found: Sequence[Interval]) -> str:
    """How many of these differences are detectable, and of consequence, in a sentence."""
    known = [one for one in found if one.known]
    worse, better = sum(one.low > 0 for one in known), sum(one.high < 0 for one in known)
    none = sum(one.low > -CONSEQUENCE and one.high < CONSEQUENCE for one in known)
    return (
        f'Of {len(known)} differences from full FT, {worse} are detectably larger and {better} detectably smaller; '
        f'{none} exclude a difference of consequence (2 points). Not corrected for their number.'
    )
