"""What the runs of all tasks share: checked parameters, and learning rates that are given, searched or documented.

A task's module has a frozen dataclass of `BaseSettings`, which holds the parameters of its notebook and their defaults
(one source; a test compares them), and a class of `Run` with the notebook's sections as methods.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from medpeft_utils import methods
from medpeft_utils.core.errors import BadInput, DoesNotFit, short
from medpeft_utils.core.values import parse_config, settings_of
from medpeft_utils.training.config import TrainingConfig
from medpeft_utils.training.loop import Fit
from medpeft_utils.training.precision import device_name
from medpeft_utils.training.search import Report, Tell, Trials, search

SEARCH_SEED = 1_000_003  # no run of a study trains with it
BODY, HEAD = 'learning_rate', 'head_learning_rate'


def digest(content: dict) -> str:
    """16 hex digits for a dictionary of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def default_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


@dataclass(frozen=True)
class BaseSettings:
    """The parameters of an experiment notebook that every task has; their help stands there, beside their defaults."""

    dataset: str
    backbone: str
    method: str
    data_folder: str = ''
    weights: str = 'pretrained'
    method_config: str = '{}'
    seed: int = 0
    split_seed: int = 0
    image_size: int = 0
    learning_rate: float = 0.0
    search_trials: int = 0
    save_adapter: bool = False
    record_folder: str = ''

    # What must be at least 1, and what at least 0.
    POSITIVE: ClassVar[tuple[str, ...]] = ()
    NOT_NEGATIVE: ClassVar[tuple[str, ...]] = ('learning_rate', 'search_trials', 'image_size')

    @classmethod
    def of(cls, parameters: dict) -> BaseSettings:
        """The settings among a notebook's variables, each checked, and the weights looked for; nothing is loaded."""
        settings = cls.planned(parameters)
        settings.require_weights()
        return settings

    @classmethod
    def planned(cls, parameters: dict) -> BaseSettings:
        """As `of`, for a run of a grid: its weights may be fetched later."""
        settings = settings_of(cls, parameters)
        settings.check()
        return settings

    @property
    def family(self) -> str:
        """The family of the backbone."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise BadInput, UnknownName or DoesNotFit for the first setting that cannot be used; nothing is loaded."""
        for least, names in ((1, self.POSITIVE), (0, self.NOT_NEGATIVE)):
            for name in names:
                if getattr(self, name) < least:
                    raise BadInput(f'{name}={getattr(self, name)}: give {least} or more')
        method = methods.METHODS[self.method]
        if self.family not in method.families:
            raise DoesNotFit(
                f'method {self.method!r} does not fit backbone {self.backbone!r} ({self.family}); '
                f'fit: {", ".join(methods.names(self.family))}'
            )
        method.configure(self.config(), self.family)

    def require_weights(self) -> None:
        """Raise BadInput where the weights are not there; nothing is read."""
        if self.weights not in ('pretrained', 'random') and not os.path.isfile(self.weights):
            raise BadInput(f"weights={short(self.weights)}: give 'pretrained', 'random', or a file that is there")

    def config(self) -> dict:
        """The method's own settings, from JSON."""
        return parse_config(self.method_config)


class Run:
    """One run, step by step: what an experiment notebook calls.

    A task gives `centres`, `training_config`, `identity` and `trial`; `choose_learning_rate` is the same for all.

    Args:
        settings: the run's parameters.
        cache: folder for what many runs share (packed images, features, timings); the data cache where None.
    """

    # Parameters that do not change which learning rate is best.
    NOT_SEARCHED: ClassVar[tuple[str, ...]] = ('seed', 'record_folder', 'data_folder', 'save_adapter')

    def __init__(self, settings: BaseSettings, cache: Path | None = None):
        from medpeft_utils.data.cache import cache_root

        settings.check()
        settings.require_weights()
        self.settings, self.device = settings, default_device()
        self.cache = Path(cache) if cache else cache_root()
        self.learning_rate: dict[str, Any] = {}
        self.search_seconds = 0.0  # of the search, whichever run did it
        self.result: Fit | None = None

    def centres(self) -> dict[str, float]:
        """The method's documented rates, by 'learning_rate' and, where the head has its own, 'head_learning_rate'."""
        raise NotImplementedError

    def default_learning_rate(self) -> float:
        """The body's rate among `centres`."""
        return self.centres()[BODY]

    def training_config(self, rates: dict[str, float], seed: int | None = None) -> TrainingConfig:
        """How this run is trained at these rates, by its own seed where None."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """What a search depends on beside the parameters: hashes of weights and split."""
        raise NotImplementedError

    def trial(self, rates: dict[str, float], report: Report, checkpoint: Path | None = None) -> Fit:
        """Train a fresh model with SEARCH_SEED."""
        raise NotImplementedError

    def score(self, row: dict) -> float:
        """What a search maximises, of a row of the curve: the score that selects."""
        raise NotImplementedError

    def choose_learning_rate(self, folder: Path | None = None) -> dict[str, Any]:
        """The learning rates to train with: given, searched on validation, or the method's defaults.

        A search depends neither on the run's seed nor on the machine: runs that differ in these alone share one, kept
        in `folder`. A kept record carries its search there (`study.records.adopt`).

        Args:
            folder: of what runs share; below the cache where None.
        Returns:
            What it sets `learning_rate` to: `value`, and `head_value` (None where there is no head); `how` ('given',
            'default', 'searched'); `trials`; `edge`, such as 'low' or 'head high' where a searched rate lies at the
            end of its range, else None; `centre` and `head_centre`, the middle of the search; of a searched rate also
            `search`: the `key` that names the search, its `edge` by rate, `seconds` and `device`.
        """
        from medpeft_utils.core.code import Code
        from medpeft_utils.core.shared import once

        centres, given = self.centres(), self.given_rates()
        asked = {name: centre for name, centre in centres.items() if not given.get(name)}
        rates, trials, edge, self.search_seconds = centres | given, [], None, 0.0
        searched: dict[str, Any] = {}
        how = 'given' if BODY in given else 'default'
        if asked and self.settings.search_trials:
            code = Code.now().version(asdict(self.settings), [type(self).__module__])
            key = digest(self._searched() | self.identity() | {'code': code, 'given': given})
            path = Path(folder or self.cache / 'searches') / f'{key}.json'
            found = once(path, lambda: self._search(asked, given, path.with_suffix('.trials')))
            rates, trials, how = rates | found['values'], found['trials'], 'searched'
            self.search_seconds = found['seconds']
            searched = {'search': {'key': key} | {name: found[name] for name in ('edge', 'seconds', 'device')}}
            edge = ', '.join({BODY: '', HEAD: 'head '}[name] + side for name, side in found['edge'].items()) or None
        tied = rates.get(HEAD, rates[BODY] if self.has_head else None)
        self.learning_rate = {'value': rates[BODY], 'head_value': tied, 'how': how, 'trials': trials, 'edge': edge}
        self.learning_rate |= {'centre': centres[BODY], 'head_centre': centres.get(HEAD)} | searched
        return self.learning_rate

    has_head: ClassVar[bool] = True

    def given_rates(self) -> dict[str, float]:
        """The rates that the parameters fix."""
        given = {name: getattr(self.settings, name, 0.0) for name in (BODY, HEAD)}
        return {name: rate for name, rate in given.items() if rate > 0}

    @property
    def rates(self) -> dict[str, float]:
        """The chosen rates, chosen now where they are not yet."""
        chosen = self.learning_rate or self.choose_learning_rate()
        return {BODY: chosen['value']} | ({HEAD: chosen['head_value']} if chosen['head_value'] else {})

    def _searched(self) -> dict[str, Any]:
        left_out = (*self.NOT_SEARCHED, BODY, HEAD)
        return {name: value for name, value in asdict(self.settings).items() if name not in left_out}

    def _search(self, asked: dict[str, float], given: dict[str, float], path: Path) -> dict[str, Any]:
        trials = Trials(path, self.score)

        def score_at(rates: dict[str, float], tell: Tell) -> float:
            return trials.score_at(rates, lambda *how: self.trial(given | rates, *how), tell)

        found = search(score_at, asked, self.settings.search_trials, seed=SEARCH_SEED)
        trials.remove()
        return found | {'seconds': round(trials.seconds, 3), 'device': device_name(self.device)}
