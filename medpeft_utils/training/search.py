"""The search for learning rates: Optuna, on the validation split, with the same number of trials for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.files import read_json, write_json
from medpeft_utils.core.hashing import json_digest
from medpeft_utils.training.loop import Diverged

# Every method is searched over the same span around its own default: a factor of thirty either way.
SPAN = 30.0
# A best rate this close to a bound (as a factor) lies at an edge.
CLOSE = 2.0

Tell = Callable[[int, float], None]
Report = Callable[[dict], None]


class Trials:
    """The scores of a search's trials so far, in a file from which a killed search resumes.

    Finished trials are replayed to the sampler instead of trained, and it draws the same rates. The trial that was
    interrupted resumes from its checkpoint.

    Args:
        path: of the file; checkpoints lie beside it.
        score: of a row of a training curve.
    """

    def __init__(self, path: Path, score: Callable[[dict], float]):
        self.path, self.score = path, score
        self.known: dict[str, dict[str, Any]] = read_json(path) or {}  # by rates

    def score_at(self, rates: dict[str, float], train: Callable[[Report, Path], Any], tell: Tell) -> float:
        """The best score of the trial with these rates.

        Args:
            rates: of the trial.
            train: trains it; gets what to call with every new row of the curve, and the file of its checkpoint.
            tell: as in `search`.
        Raises:
            Diverged: as the training did.
        """
        key, started = json_digest(rates), time.perf_counter()
        trial = self.known.setdefault(key, {'scores': {}, 'fault': None, 'whole': False, 'seconds': 0.0})
        before, best = trial['seconds'], -math.inf
        scores = trial['scores'] = {step: math.nan if s is None else s for step, s in trial['scores'].items()}
        for number, score in enumerate(scores.values(), 1):
            best = max(best, score)
            tell(number, best)

        def note() -> None:
            trial['seconds'] = before + time.perf_counter() - started
            write_json(self.path, self.known, durable=False)

        def report(row: dict) -> None:
            nonlocal best
            if row['step'] and str(row['step']) not in scores:  # a checkpoint may be older than the last score
                score = scores[str(row['step'])] = self.score(row)
                best = max(best, score)
                note()
                tell(len(scores), best)

        if not trial['whole']:
            try:
                train(report, self.path.with_name(f'{self.path.name}.{key}.safetensors'))
            except Diverged as fault:
                trial['fault'] = str(fault)
            trial['whole'] = True
            note()
        if trial['fault'] is not None:
            raise Diverged(trial['fault'])
        return best

    @property
    def seconds(self) -> float:
        """What all trials took, those of a killed search among them."""
        return sum(trial['seconds'] for trial in self.known.values())

    def remove(self) -> None:
        """Remove the files, once the result of the search is kept."""
        for path in self.path.parent.glob(f'{self.path.name}*'):
            path.unlink(missing_ok=True)


def search(
    score_at: Callable[[dict[str, float], Tell], float], centres: dict[str, float], trials: int, seed: int = 0
) -> dict:
    """Find the learning rates with the highest validation score.

    The first trial is the centre, then draws, the later half by Optuna's TPE sampler. Successive halving ends a trial
    whose score is in the lower half at its second, fourth, ... evaluation. The last quarter of the trials searches a
    range that is wider by another factor of thirty on the side where the best lies at an edge, if it does.

    Args:
        score_at: trains with these rates and gives the best validation score; calls `tell(evaluation, score)` with the
            best so far after each evaluation, counted from 1, which ends the trial by an exception; may raise Diverged.
        centres: name of a rate -> the centre of its log-uniform interval.
        trials: how many are tried; the same for every method of a study.
        seed: of the sampler.
    Returns:
        `values`, name -> best rate; `trials`, rows of the rates, `score` (None where training diverged) and `pruned`;
        `edge`, name -> 'low' or 'high' where the best still lies at an edge.
    Raises:
        BadInput: no trial asked for, or all of them diverged.
    """
    import optuna

    around = ', '.join(f'{name} {centre:g}' for name, centre in centres.items())
    if trials < 1:
        raise BadInput(f'a search of {trials} trials; give at least 1, or take the default: {around}')
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(2, trials // 2))
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2)
    study = optuna.create_study(direction='maximize', sampler=sampler, pruner=pruner)
    study.enqueue_trial(centres)
    ranges = {name: (centre / SPAN, centre * SPAN) for name, centre in centres.items()}

    def objective(trial: optuna.Trial) -> float:
        rates = {name: trial.suggest_float(name, *bounds, log=True) for name, bounds in ranges.items()}

        def tell(evaluation: int, score: float) -> None:
            trial.report(score, evaluation)
            if trial.should_prune():
                raise optuna.TrialPruned

        return score_at(rates, tell)

    def best() -> dict[str, float]:
        whole = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
        if not whole:
            raise BadInput(f'training diverged at all {len(study.trials)} rates around {around}; check data, backbone')
        return max(whole, key=lambda trial: trial.value).params

    last = trials // 4
    study.optimize(objective, n_trials=trials - last, catch=(Diverged,))
    if last:
        if edges := _edges(best(), ranges):
            study.enqueue_trial(_widen(ranges, edges, best()))
        study.optimize(objective, n_trials=last, catch=(Diverged,))
    rows = [
        {**trial.params, 'score': trial.value, 'pruned': trial.state == optuna.trial.TrialState.PRUNED}
        for trial in study.trials
    ]
    return {'values': best(), 'trials': rows, 'edge': _edges(best(), ranges)}


def _widen(ranges: dict, edges: dict[str, str], best: dict[str, float]) -> dict[str, float]:
    """Widen ranges, in place, where the best lies at an edge; the best, moved to the middle of what was added."""
    moved = dict(best)
    for name, side in edges.items():
        low, high = ranges[name]
        ranges[name] = (low / SPAN, high) if side == 'low' else (low, high * SPAN)
        moved[name] = low / math.sqrt(SPAN) if side == 'low' else high * math.sqrt(SPAN)
    return moved


def _edges(rates: dict[str, float], ranges: dict[str, tuple[float, float]]) -> dict[str, str]:
    found = {}
    for name, (low, high) in ranges.items():
        if rates[name] < low * CLOSE:
            found[name] = 'low'
        elif rates[name] > high / CLOSE:
            found[name] = 'high'
    return found
