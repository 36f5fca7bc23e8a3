"""Whether PEFT calibrates worse than full fine-tuning; and forests: differences from full FT as dots with bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medpeft_utils.report import clinical, style
from medpeft_utils.report.claims import CONSEQUENCE
from medpeft_utils.report.clinical_tables import NO_ROWS, Run, cells, differences, over, runs_with_rows
from medpeft_utils.report.inference import Interval
from medpeft_utils.report.output import Figure, Nothing, Output, renderer
from medpeft_utils.report.style import bar, legend, sheet

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
    figure, axes = sheet(1, len(figures), *size, sharey=True)
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
    words = f'Of {len(known)} differences from full FT {worse} are detectably larger and {better} detectably smaller; '
    return words + f'in {none} a difference of consequence (2 points) is excluded. Not corrected for their number.'
