"""From the records of a comparison to what its decision needs: candidates on one test split, costs, what failed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medpeft_utils import methods
from medpeft_utils.compare.answer import Answer, Candidate, Growth, decide, growth, too_few
from medpeft_utils.report.inference import Sample, TestSplit
from medpeft_utils.study import records
from medpeft_utils.study.grid import Run
from medpeft_utils.study.identity import run_hash
from medpeft_utils.study.paths import StudyFolder
from medpeft_utils.training import rows

DRAWS = 2000
# Parameters in which runs that are compared may differ.
APART = 'method', 'backbone', 'seed', 'fraction', 'search_fraction', 'data_folder', 'image_size'


@dataclass
class Evidence:
    """What the finished runs of a comparison show.

    Args:
        answer: None where nothing has finished.
        records: of each candidate, by its label; with all training images.
        growths: the learning curves that were asked for.
        failures: a line for each run that failed or died.
        test: the test split; None where nothing has finished.
        waiting: how many runs are not done yet.
        apart: how many finished runs of this study had other settings, and are left out.
        older: how many runs were done by older code alone.
    """

    answer: Answer | None = None
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    growths: list[Growth] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    test: TestSplit | None = None
    waiting: int = 0
    apart: int = 0
    older: int = 0


def gather(runs: Sequence[Run], latest: Sequence[Run], folder: StudyFolder, with_older: bool = False) -> Evidence:
    """Read what there is of a comparison.

    Args:
        runs: all of the study.
        latest: those of the last command; what was trained by other settings than these is not compared with them.
        folder: of the study.
        with_older: take records of older code where there are no others, for a page that nothing is run for.
    """
    found, same = Evidence(), {_settings(run) for run in latest}
    done: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    every = [one for one in records.read_all(folder.root) if one['status'] == 'done'] if folder.runs.is_dir() else []
    older = {run_hash(record['experiment'], record['parameters'], ''): record for record in every}
    for run in runs:
        record = records.read(folder.record(run.hash))
        if record is None and run.key in older and _settings(run) in same:
            found.older += 1
            record = older[run.key] if with_older else None
        if _settings(run) not in same:
            found.apart += record is not None and record['status'] == 'done'
        elif record is None:
            found.waiting += 1
        elif record['status'] != 'done':
            label = methods.label(run.parameters['method'], run.experiment)
            share = f' with {run.parameters["fraction"]:.1%} of the images' if run.given.get('fraction', 1) != 1 else ''
            error = record['error']
            found.failures.append(f'{label}{share}, seed {run.parameters["seed"]}: {error["type"]}: {error["message"]}')
        else:
            backbone = record['backbone']['label'], record['backbone']['image_size']
            done[record['method']['label'], backbone, run.parameters.get('fraction', 1.0)].append(record)
    if done:
        _compare(found, done)
    return found


def _settings(run: Run) -> str:
    return repr(sorted((name, value) for name, value in run.parameters.items() if name not in APART))


def _compare(found: Evidence, done: dict[tuple, list[dict[str, Any]]]) -> None:
    record = next(iter(done.values()))[0]
    classes, tested = record['data']['classes'], rows.read(record, 'test')
    found.test = TestSplit(tested.labels, tested.groups, len(classes), draws=DRAWS)
    names = _names({backbone for _, backbone, _ in done})
    candidates, curves = [], defaultdict(dict)
    for (method, backbone, fraction), runs in done.items():
        label, test = method + names[backbone], _sample(found.test, runs)
        data = runs[0]['data']
        curves[label][(data.get('used') or data['counts'])['train']] = test
        if fraction == 1.0:
            found.records[label] = runs
            candidates.append(_candidate(label, runs, test))
    found.growths = [growth(label, samples) for label, samples in curves.items() if len(samples) > 1]
    if not candidates:
        return
    commonest = np.bincount(rows.read(record, 'validation').labels).argmax()  # as in training: splits are stratified
    constant = found.test.f1(np.full(len(tested.labels), commonest), 'macro')
    keys = dict.fromkeys(key for one in candidates for key in one.test.keys)
    few = too_few({name: int((tested.labels == k).sum()) for k, name in enumerate(classes)})
    found.answer = decide(candidates, Sample.of_runs(dict.fromkeys(keys, constant), found.test.groups), few)
    found.growths.sort(key=lambda one: one.label != found.answer.chosen.label)


def _names(found: set[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """What to add to a method of each (backbone, pixels): nothing where there is one, its name, or its pixels too."""
    if len(found) == 1:
        return dict.fromkeys(found, '')
    labels = [label for label, _ in found]
    return {(label, side): f' on {label}' + f' at {side} px' * (labels.count(label) > 1) for label, side in found}


def _sample(test: TestSplit, runs: list[dict[str, Any]]) -> Sample:
    """Macro F1 of the runs of one candidate on the test split."""
    scores = {
        (record['data']['split_hash'], record['parameters']['seed']): test.f1(rows.read(record).arg_max, 'macro')
        for record in sorted(runs, key=lambda record: record['parameters']['seed'])
    }
    return Sample.of_runs(scores, test.groups)


def _candidate(label: str, runs: list[dict[str, Any]], test: Sample) -> Candidate:
    validation = float(np.mean([record['metrics']['validation']['f1_macro'] for record in runs]))
    steps = [record['time'].get('step_seconds') for record in runs]
    if runs[0]['method']['key'] == 'linear_probing' or None in steps:  # a probe takes no steps like those of others
        return Candidate(label, validation, test, runs[0]['cost']['adapter_bytes'])
    return Candidate(label, validation, test, runs[0]['cost']['adapter_bytes'], float(np.median(steps)))
