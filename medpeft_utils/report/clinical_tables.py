"""Clinical metrics of each class, reliability and decision curves, and whether PEFT calibrates worse than full FT."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from medpeft_utils.core.drawing import plain
from medpeft_utils.report import clinical, cxr_scores, paper, provenance, scores, style
from medpeft_utils.report.inference import Interval, Sample, TestSplit
from medpeft_utils.report.output import MISSING, Figure, Nothing, Output, Row, Table, renderer
from medpeft_utils.report.style import sheet

SHOWN = ('Full FT', 'Linear Probing', 'LoRA', 'SSF', 'BitFit', 'Bias Tuning')
NO_ROWS = 'These records hold no rows of validation and test: clinical metrics are not available.'
OF_INTEREST = ('malignant', 'mel', 'melanoma', 'glaucoma', 'pneumonia', 'lung opacity', 'effusion')
NOT_CLINICAL = 'No clinical evaluation: retrospective images, no prospective patient, no reader.'


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
    record: dict
    backbone: str
    synthetic: bool

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
        several, warmth = labels.ndim > 1, 1.0
        if scaled:
            warmth = self.temperature
        p = clinical.class_probabilities(odds, several, warmth)
        return (labels if several else np.eye(p.shape[1], dtype=int)[labels]), p


def runs_with_rows(records: pd.DataFrame, f1: str = 'weighted') -> list[Run]:
    """The runs of the tables, and of the radiographs, that hold rows of validation and test."""
    if 'record' not in records:
        return []
    whole = records.drop_duplicates('run').set_index('run')['record']
    table = scores.table_scores(records, f1)
    found = [(r.run, r.encoder, r.data, r.method, r.split, r.seed, r.ratio, r.backbone_label, r.synthetic)
             for r in table.itertuples()]  # fmt: skip
    for r in cxr_scores.one_rank(cxr_scores.runs(records)).itertuples():
        data = r.data if r.fraction == 1 else f'{r.data}, {100 * r.fraction:g} %'
        found.append((r.run, r.encoder, data, r.method, r.split[0], r.seed, r.ratio, r.backbone_label, r.synthetic))
    runs = []
    for run, encoder, data, method, split, seed, ratio, backbone, synthetic in found:
        record = whole[run]
        if isinstance(record, dict) and {'validation', 'test'} <= set(record.get('rows') or {}):
            runs.append(Run(encoder, data, method, split, seed, ratio, record, backbone, bool(synthetic)))
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
    base = sample(methods[scores.FULL], measure)
    return {
        method: (sample(own, measure) - base).interval() for method, own in methods.items() if method != scores.FULL
    }


def positive(classes: list[str]) -> int:
    """The class that curves are drawn of: one of clinical interest by its name, else the last."""
    names = [name.lower() for name in classes]
    return next((names.index(wanted) for wanted in OF_INTEREST if wanted in names), len(classes) - 1)


# ---- the table


def _measured(runs: list[Run], k: int) -> dict[str, Interval | float]:
    """The numbers of one class over the runs of one method."""
    ready = {id(run): (run.test, *(part[:, k] for part in run.probabilities('test'))) for run in runs}
    warm = {id(run): run.probabilities('test', scaled=True)[1][:, k] for run in runs}
    valid = {id(run): [part[:, k] for part in run.probabilities('validation')] for run in runs}

    def mean(measure: Callable) -> float:
        return _mean([measure(*ready[id(run)][1:]) for run in runs])

    found: dict[str, Interval | float] = {
        'prevalence': mean(lambda y, p: float(y.mean())),
        'auroc': sample(runs, lambda run: clinical.drawn_auroc(*ready[id(run)])).interval(),
        'auprc': mean(clinical.average_precision),
        'brier': sample(runs, lambda run: clinical.drawn_brier(*ready[id(run)])).interval(),
        'ece': sample(runs, lambda run: clinical.drawn_calibration_error(*ready[id(run)])).interval(),
        'ece_scaled': sample(
            runs, lambda run: clinical.drawn_calibration_error(*ready[id(run)][:2], warm[id(run)])
        ).interval(),
        'slope': mean(lambda y, p: clinical.calibration_line(y, p)[0]),
        'intercept': mean(lambda y, p: clinical.calibration_line(y, p)[1]),
    }
    for wanted in (0.9, 0.95):
        for name, place, other in (('specificity', 0, 'sensitivity'), ('sensitivity', 1, 'specificity')):
            find = getattr(clinical, f'threshold_at_{name}')
            at = {id(run): find(*valid[id(run)], wanted) for run in runs}

            def rates(run: Run, at=at) -> tuple[np.ndarray, np.ndarray]:
                return clinical.drawn_rates(*ready[id(run)], at[id(run)])

            reached = sample(runs, lambda run, place=place, rates=rates: rates(run)[place]).interval()
            kept = _mean([rates(run)[1 - place][0] for run in runs])
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
        look, ready = style.look(method), {}
        for run in runs:
            y, p = (part[:, k] for part in run.probabilities('test'))
            ready[run.split, run.seed] = (run, y, p)
        x = np.array([[p[(p >= a) & (p <= b)].mean() if ((p >= a) & (p <= b)).any() else math.nan
                       for a, b in itertools.pairwise(edges)] for _, _, p in ready.values()])  # fmt: skip
        bands = (
            (left, np.nanmean(x, axis=0), clinical.drawn_reliability, edges, 'reliability'),
            (right, thresholds, clinical.drawn_net_benefit, thresholds, 'net benefit'),
        )
        for axis, at, measure, given, name in bands:
            tables = {key: measure(run.test, y, p, given) for key, (run, y, p) in ready.items()}
            found = [
                sample(runs, lambda run, n=n, t=tables: t[run.split, run.seed][:, n]).interval() for n in range(len(at))
            ]
            values, low, high = (np.array([getattr(one, end) for one in found]) for end in ('value', 'low', 'high'))
            marks = {
                'marker': look['marker'] if axis is left else '',
                'markeredgecolor': 'white',
                'markeredgewidth': 0.4,
            }
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
