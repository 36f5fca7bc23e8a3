"""What a comparison will run: the backbone, the methods, and as much training as the time allows, equal for all.

Nothing is guessed about the machine: a training step and the answer to an image are timed for every method, on random
pixels, before anything is planned.
"""

from __future__ import annotations

import math
import platform
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medpeft_utils import backbones, methods
from medpeft_utils.core.errors import BadInput, DoesNotFit
from medpeft_utils.core.hashing import json_digest
from medpeft_utils.core.shared import once
from medpeft_utils.report.inference import FEWEST
from medpeft_utils.study.machine import cores
from medpeft_utils.study.progress import duration

SHIPPED = 'vit_base_mini'
# Published networks in order of choice: one is taken where the images are larger than FEW_PIXELS and the budget
# allows it ENOUGH optimizer steps and rates that are tried.
PUBLISHED = (
    *('vit_base_patch14_dinov2', 'vit_small_patch14_dinov2', 'vit_base_patch16_224.augreg_in21k'),
    *('tf_efficientnet_lite2', 'tf_efficientnet_lite1', 'tf_efficientnet_lite0'),
)
FEW_PIXELS, ENOUGH = 64, (100, 4)
SIDES = (112, 168, 224)  # pixels given to a network that takes any: the first that holds the images' shorter side
USUAL = {
    'vit': ('linear_probing', 'full_ft', 'lora', 'ssf', 'last_blocks'),
    'cnn': ('linear_probing', 'full_ft', 'lora', 'bn_tuning', 'last_blocks'),
}
# From much training to little: optimizer steps, and rates that are tried for each method.
LEVELS = ((300, 12), (300, 8), (200, 8), (150, 8), (100, 8), (100, 6), ENOUGH, (60, 4), (60, 0), (30, 0))
PLANNED = 0.75  # of the budget; the rest is for what other programs take, and for the page
EPOCHS = 40  # passes over the training images beyond which nothing is gained on few of them
EVALUATIONS = 6  # of the validation split in one training, as in the notebooks
START_SECONDS = 4.0  # of a run, before and after its training: kernel, network, record, pictures
PRUNED = 0.7  # of a search's steps that are done, since bad rates are given up early
SCALING = 0.8  # of speed with threads: two are 1.7 times as fast as one, and two runs of one thread twice
MOST_JOBS, RUN_BYTES = 5, 3e9  # runs at a time of the shipped network, and the memory of one
TIMED_IMAGES, TIMED_STEPS = {'cpu': 16, 'cuda': 64}, 3
GLANCE = 4  # images that tell whether timing the training of a network is worth it
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


def asked_for(name: str, side: int = 0) -> Network:
    """The backbone that the user names.

    Raises:
        UnknownName, DoesNotFit: no such backbone.
        BadInput: its weights are not available; the message says how to get them and what to use meanwhile.
    """
    backbones.family_of(name)
    try:
        backbones.weights_path(name)
    except BadInput as error:
        raise BadInput(f'{error}; meanwhile --backbone {SHIPPED} works without a download') from error
    return Network(name, _input_side(name, side), 'as asked for')


def chosen(side: int, work: Work, listed: str, budget: float, cache: Path, threads: int) -> Network:
    """The backbone that fits the images and the machine: the first published one available that the budget allows, by
    its measured speed, else the shipped one; with the reason.

    Args:
        side: the usual shorter side of the images, in pixels; 0 where it is not known.
        work: what is to be computed, one run at a time.
        listed: the methods, as asked for; a network that one of them does not fit is passed over.
        budget: in seconds.
        cache: where speeds are kept.
        threads: of a run.
    """
    needed, settings = {}, work.settings(*ENOUGH)
    at_hand = [name for name in PUBLISHED if side > FEW_PIXELS and _is_at_hand(name)]
    for name in at_hand:
        try:
            keys = methods_of(listed, name)
        except DoesNotFit:
            continue
        one = Network(name, _input_side(name, side), 'published, and its weights are here')
        answer = glance(one, threads, cache)
        seconds = total_seconds(work, dict.fromkeys(keys, Speed(answer, answer)), settings)  # a step takes longer
        if seconds <= PLANNED * budget:
            seconds = total_seconds(work, speeds(one, keys, threads, cache), settings)
            if seconds <= PLANNED * budget:
                return replace(one, why=f'{one.why}; the budget allows it, by the time of its steps here')
        else:
            seconds = total_seconds(work, dict.fromkeys(keys, Speed(3 * answer, answer)), settings)
        needed[name] = seconds
    own = backbones.image_size_of(SHIPPED)
    lost = f'; it sees {own} of the {side} px of your images' if side > own else ''
    if needed:
        other = min(needed, key=needed.get)
        minutes = math.ceil(needed[other] / PLANNED / 60 * 1.05)
        longer = f'{minutes}m' if minutes < 100 else f'{math.ceil(minutes / 60)}h'
        why = f'{other} is here and sees more, but a comparison of use needs about {longer} here: --budget {longer}'
    else:
        why = f'a published network usually does better: medpeft backbones fetch {PUBLISHED[-1]}'
    return Network(SHIPPED, 0, f'shipped with the package{lost} ({why})')


def _input_side(name: str, side: int) -> int:
    """The side to give a network, 0 for its own: of one that takes any, what the images' size asks for."""
    if 'patch14' not in name and 'efficientnet_lite' not in name:
        return 0
    return next((one for one in SIDES if side and side <= one), SIDES[-1])


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


def speeds(network: Network, keys: Sequence[str], threads: int, cache: Path) -> dict[str, Speed]:
    """Each method's speed on this machine, with so many threads on a CPU; measured once and kept in `cache`."""
    found = {key: _measured(network, key, threads, cache) for key in keys}
    return {key: Speed(found[key]['step'], found[key]['answer']) for key in keys}


def glance(network: Network, threads: int, cache: Path) -> float:
    """Seconds of the network's answer to an image, by a few images."""
    return _measured(network, '', threads, cache)['answer']


def _measured(network: Network, key: str, threads: int, cache: Path) -> dict[str, float]:
    import torch

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    place = torch.cuda.get_device_name() if device.type == 'cuda' else platform.processor() or platform.machine()
    name = json_digest([network.name, network.image_size, key, place, torch.__version__])
    found = once(cache / 'speeds' / f'{name}.json', lambda: _timed(network, key, device))
    faster = threads**SCALING if device.type == 'cpu' else 1.0
    return {what: seconds / faster for what, seconds in found.items()}


def _timed(network: Network, key: str, device: Any) -> dict[str, float]:
    """Seconds an image of a step by a method, and of an answer; of an answer alone where `key` is ''.

    On one thread: how long several take depends on what else the machine does.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        side = network.image_size or backbones.image_size_of(network.name)
        family = backbones.family_of(network.name)
        model = backbones.build(network.name, 2, side if family == 'vit' else None)
        model = (methods.apply(model, key, family, {}, seed=0).model if key else model).to(device)
        images = torch.rand(TIMED_IMAGES[device.type] if key else GLANCE, 3, side, side, device=device)
        parts = {'step': True, 'answer': False} if key else {'answer': False}
        return {part: statistics.median(_rounds(model, images, train)) / len(images) for part, train in parts.items()}
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


def jobs_here(network: Network, graphics: bool) -> int:
    """Runs at a time on this machine: of the shipped network on a CPU as many as cores and memory allow, else one."""
    import psutil

    if graphics or network.name != SHIPPED:
        return 1
    return max(1, min(cores(), MOST_JOBS, int(psutil.virtual_memory().total / RUN_BYTES)))


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
            if seconds <= PLANNED * budget:
                fewer = _fewer(work, seeds, speed_of, settings) if seeds < work.seeds else ''
                return Plan(settings, seeds, seconds, fewer)
    slowest = max(speed_of, key=lambda key: speed_of[key].step)
    raise BadInput(
        f'--budget {duration(budget)}: one short run of each of the {len(speed_of)} methods needs about '
        f'{duration(seconds / PLANNED)} on this machine, {slowest} the longest; give a larger --budget, fewer '
        f'--methods, or --backbone {SHIPPED}'
    )
