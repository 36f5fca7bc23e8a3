"""The learning-rate search: Optuna, on the validation split, with the same number of trials for every method."""

from __future__ import annotations

import math
from collections.abc import Callable

from medpeft_utils.core.errors import BadInput
from medpeft_utils.training.loop import Diverged

# Every method is searched over the same span around its own default: a factor of ten either way.
SPAN = 10.0
# The first trials, as factors of the default; then Optuna's TPE sampler takes over.
FIRST = (1.0, 10**0.5, 10**-0.5)


def search(score_at: Callable[[float], float], default: float, trials: int, seed: int = 0) -> dict:
    """Find the learning rate with the highest validation score.

    Args:
        score_at: trains with a learning rate and gives the validation score, in 0..1; may raise Diverged.
        default: the method's default learning rate, the centre of the log-uniform search interval.
        trials: how many rates are tried; the same for every method of a study.
        seed: of the sampler.
    Returns:
        `value`, the best rate, and `trials`, a list of {learning_rate, score} (score None where training diverged).
    Raises:
        BadInput: no trial asked for, or all of them diverged.
    """
    import optuna

    if trials < 1:
        raise BadInput(f'a search of {trials} trials; give at least 1, or take the default rate {default:g}')
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction='maximize', sampler=optuna.samplers.TPESampler(seed=seed))
    for factor in FIRST[:trials]:
        study.enqueue_trial({'learning_rate': default * factor})

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float('learning_rate', default / SPAN, default * SPAN, log=True)
        return score_at(rate)

    study.optimize(objective, n_trials=trials, catch=(Diverged,))
    tried = [{'learning_rate': trial.params['learning_rate'], 'score': trial.value} for trial in study.trials]
    scores = [row['score'] if row['score'] is not None else -math.inf for row in tried]
    if max(scores) == -math.inf:
        raise BadInput(f'training diverged at all {trials} rates around {default:g}; check data and backbone')
    return {'value': tried[scores.index(max(scores))]['learning_rate'], 'trials': tried}
