"""What a comparison will run: the backbone, the methods, and as much training as the time allows, equal for all.

Nothing is guessed about the machine: a training step and the answer to an image are timed for every method, on random
pixels, before anything is planned.
"""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medpeft_utils import backbones, methods
from medpeft_utils.core.errors import BadInput, DoesNotFit
from medpeft_utils.core.hashing import json_digest
from medpeft_utils.core.shared import once
from medpeft_utils.report.inference import FEWEST
from medpeft_utils.study.progress import duration

SHIPPED = 'vit_base_mini'
# Published networks that are taken by themselves where their weights are at hand and there is a GPU, the first first.
PUBLISHED = ('vit_base_patch14_dinov2', 'vit_small_patch14_dinov2', 'vit_base_patch16_224.augreg_in21k')
PUBLISHED_SIDE = 224  # pixels: what these are given, and from what size of images on they are worth it
USUAL = {
    'vit': ('linear_probing', 'full_ft', 'lora', 'ssf', 'last_blocks'),
    'cnn': ('linear_probing', 'full_ft', 'lora', 'bn_tuning', 'last_blocks'),
}
# From much training to little: optimizer steps, and rates that are tried for each method.
LEVELS = ((300, 12), (300, 8), (200, 8), (150, 8), (100, 8), (100, 4), (60, 4), (60, 0), (30, 0))
EPOCHS = 40  # passes over the training images beyond which nothing is gained on few of them
EVALUATIONS = 6  # of the validation split in one training, as in the notebooks
START_SECONDS = 4.0  # of a run, before and after its training: kernel, network, record, pictures
PRUNED = 0.7  # of a search's steps that are done, since bad rates are given up early
SCALING = 0.8  # of speed with threads: two are 1.7 times as fast as one
TIMED_IMAGES, TIMED_STEPS = {'cpu': 16, 'cuda': 64}, 3
UNITS = {'s': 1, 'm': 60, 'min': 60, 'h': 3600, 'd': 86400}


def seconds_of(text: str) -> float:
    """A budget such as '30m', '90s', '2h' or '1.5h' in seconds. Raises BadInput."""
    found = re.fullmatch(r'(\d+(?:\.\d+)?)\s*(s|m|min|h|d)', text.strip().lower())
    if not found or not float(found[1]):
        raise BadInput(f'--budget {text!r}: give a number above 0 with s, m, h or d, such as 30m or 1.5h')
    return float(found[1]) * UNITS[found[2]]


def methods_of(listed: str, backbone: str) -> list[str]:
    """The methods' keys in 'usual' or 'lora,ssf', each once. Raises where one is unknown or does not fit."""
    family = backbones.family_of(backbone)
    fitting = methods.names(family)
    if listed.strip() == 'usual':
        return [key for key in USUAL[family] if key in fitting]
    keys = list(dict.fromkeys(key.strip() for key in listed.split(',') if key.strip()))
    if not keys:
        raise BadInput('--methods: name at least one, such as --methods full_ft,lora, or usual')
    for key in keys:
        methods.METHODS[key]  # an unknown name gets its error
        if key not in fitting:
            known = ', '.join(fitting)
            raise DoesNotFit(f'method {key!r} does not fit backbone {backbone!r} ({family}); these do: {known}')
    return keys


@dataclass(frozen=True)
class Network:
    """The backbone of a comparison, the side of its input (0: its own), and why it was taken."""

    name: str
    image_size: int
    why: str


def network(asked: str, side: int, graphics: bool) -> Network:
    """The backbone to use.

    Args:
        asked: by the user; '' for the one that fits.
        side: the usual shorter side of the images, in pixels.
        graphics: whether there is a GPU.
    Raises:
        UnknownName, DoesNotFit: no such backbone.
        BadInput: its weights are not at hand; with the way to them, and what serves meanwhile.
    """
    if asked:
        backbones.family_of(asked)
        try:
            backbones.weights_path(asked)
        except BadInput as error:
            raise BadInput(f'{error}; meanwhile --backbone {SHIPPED} works without a download') from error
        return Network(asked, _input_side(asked), 'as asked for')
    at_hand = [name for name in PUBLISHED if _is_at_hand(name)]
    own = backbones.image_size_of(SHIPPED)
    if graphics and at_hand and side >= PUBLISHED_SIDE // 2:
        return Network(at_hand[0], _input_side(at_hand[0]), 'the largest published network at hand, for a GPU')
    lost = f'; it sees {own} of the {side} px of your images' if side > 2 * own else ''
    if at_hand:
        sharper = at_hand[-1]
        other = f'{sharper} is at hand and sees more, but is slow without a GPU: --backbone {sharper} --budget 5h'
    else:
        other = f'a published network usually does better: medpeft backbones fetch {PUBLISHED[1]}'
    return Network(SHIPPED, 0, f'shipped with the package{lost} ({other})')


def _input_side(name: str) -> int:
    """The side to give a network: its own, or less where it was made for large images."""
    own = backbones.image_size_of(name)
    return PUBLISHED_SIDE if own > PUBLISHED_SIDE and 'patch14' in name else 0


def _is_at_hand(name: str) -> bool:
    try:
        return backbones.weights_path(name) is not None
    except BadInput:
        return False


@dataclass(frozen=True)
class Speed:
    """Seconds of a training step for each image in it, and of the answer to one image."""

    step: float
    answer: float


def speeds(chosen: Network, keys: Sequence[str], threads: int, cache: Path) -> dict[str, Speed]:
    """Each method's speed on this machine, with so many threads on a CPU; measured once and kept in `cache`."""
    import torch

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    place = torch.cuda.get_device_name() if device.type == 'cuda' else platform.processor() or platform.machine()
    faster = threads**SCALING if device.type == 'cpu' else 1.0
    found = {}
    for key in keys:
        name = json_digest([chosen.name, chosen.image_size, key, place, torch.__version__])
        path = cache / 'speeds' / f'{name}.json'
        measured = once(path, lambda key=key: asdict(_timed(chosen, key, device)))
        found[key] = Speed(measured['step'] / faster, measured['answer'] / faster)
    return found


def _timed(chosen: Network, key: str, device: Any) -> Speed:
    """On one thread: how long several take depends on what else the machine does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        side = chosen.image_size or backbones.image_size_of(chosen.name)
        family = backbones.family_of(chosen.name)
        network = backbones.build(chosen.name, 2, side if family == 'vit' else None)
        model = methods.apply(network, key, family, {}, seed=0).model.to(device)
        images = torch.rand(TIMED_IMAGES[device.type], 3, side, side, device=device)
        return Speed(*(statistics.median(_rounds(model, images, train)) / len(images) for train in (True, False)))
    finally:
        torch.set_num_threads(before)


def _rounds(model: Any, images: Any, train: bool) -> list[float]:
    """Seconds of some steps, or of some answers, the first one left out.

    On a CPU in seconds of this process alone: what others compute on the machine meanwhile is not in them.
    """
    import torch

    seconds, half = [], images.device.type == 'cuda'
    clock = time.perf_counter if half else time.process_time
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
    model.train(train)
    for _ in range(TIMED_STEPS + 1):
        began = clock()
        with torch.set_grad_enabled(train), torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            loss = model(images).float().square().mean()
        if train:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        loss.item()  # waits for a GPU
        seconds.append(clock() - began)
    return seconds[1:]


@dataclass(frozen=True)
class Work:
    """How much is to be computed: images by split, seeds, how many runs at a time, and shares of a learning curve."""

    train: int
    validation: int
    test: int
    seeds: int
    jobs: int = 1
    shares: int = 0

    @property
    def batch(self) -> int:
        """Images of a step: 64, or less where there are so few that an epoch would be a step or two."""
        return next((size for size in (64, 32, 16) if self.train >= 4 * size), 8)

    def settings(self, steps: int, trials: int) -> dict[str, int]:
        """The notebook's parameters for so many steps at most; fewer where more passes over the images gain nothing."""
        enough = max(30, -(-self.train // self.batch) * EPOCHS)
        steps = min(steps, enough)
        return {
            'batch_size': self.batch,
            'epochs': EPOCHS,
            'min_steps': steps,
            'max_steps': steps,
            'search_trials': trials,
        }

    def seconds(self, key: str, speed: Speed, settings: dict[str, int]) -> float:
        """Of all seeds of one method, its search with them."""
        if key == 'linear_probing':  # features once, then a problem that converges in no time
            return self.seeds * START_SECONDS + speed.answer * (self.train + self.validation + self.test)
        once_through = settings['max_steps'] * settings['batch_size'] * speed.step
        once_through += EVALUATIONS * self.validation * speed.answer
        search = PRUNED * settings['search_trials'] * once_through
        return self.seeds * (START_SECONDS + once_through + self.test * speed.answer) + search


def total_seconds(work: Work, speed_of: dict[str, Speed], settings: dict[str, int]) -> float:
    """Of a whole comparison with `work.jobs` runs at a time."""
    every = [work.seconds(key, speed, settings) for key, speed in speed_of.items()]
    known_rate = {**settings, 'search_trials': 0}  # the shares take the rate that was found with all images
    curves = 2 * work.shares * max(work.seconds(key, speed, known_rate) for key, speed in speed_of.items())
    return max(sum(every) / work.jobs, max(every) / min(work.jobs, work.seeds)) + curves / work.jobs


@dataclass(frozen=True)
class Plan:
    """The notebook's parameters for every method, the seeds, how long it takes, and what the budget did not allow."""

    settings: dict[str, int]
    seeds: int
    seconds: float
    remark: str = ''


def _fewer(work: Work, seeds: int, speed_of: dict[str, Speed], settings: dict[str, int]) -> str:
    needed = duration(total_seconds(work, speed_of, settings))
    too_few = ', too few to support a choice' if seeds < FEWEST else ''
    return f'{seeds} of {work.seeds} seeds fit into the budget{too_few}; all of them take about {needed}'


def plan(work: Work, speed_of: dict[str, Speed], budget: float, given: dict[str, Any] | None = None) -> Plan:
    """As much training as fits into the budget: fewer steps and trials first, fewer seeds last.

    Args:
        work: with the seeds that are wanted.
        speed_of: each method's.
        budget: in seconds.
        given: parameters that the user set; they are kept.
    Raises:
        BadInput: not even one run of each method fits.
    """
    for seeds in range(work.seeds, 0, -1):
        these = replace(work, seeds=seeds)
        for steps, trials in LEVELS:
            settings = {**these.settings(steps, trials), **(given or {})}
            seconds = total_seconds(these, speed_of, settings)
            if seconds <= budget:
                fewer = _fewer(work, seeds, speed_of, settings) if seeds < work.seeds else ''
                return Plan(settings, seeds, seconds, fewer)
    slowest = max(speed_of, key=lambda key: speed_of[key].step)
    raise BadInput(
        f'--budget {duration(budget)}: one short run of each of the {len(speed_of)} methods takes about '
        f'{duration(seconds)} on this machine, {slowest} the longest; give a larger --budget, fewer --methods, or '
        f'--backbone {SHIPPED}'
    )
