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


def _budget_for(seconds: float) -> str:
    """What to give as --budget for work that takes so long."""
    minutes = math.ceil(1.05 * seconds / PLANNED / 60)
    return f'{minutes}m' if minutes < 100 else f'{math.ceil(minutes / 60)}h'


def methods_of(listed: str, backbone: str) -> list[str]:
    """The methods' keys in 'usual' or 'lora,BitFit', each once. Raises where one is unknown or does not fit."""
    family = backbones.family_of(backbone)
    fitting = methods.names(family)
    if listed.strip() == 'usual':
        return [key for key in USUAL[family] if key in fitting]
    labels = {methods.label(key, family).lower(): key for key in fitting}
    names = filter(None, (name.strip() for name in listed.split(',')))
    keys = list(dict.fromkeys(labels.get(name.lower(), name) for name in names))
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
    """The backbone of a comparison, the image size that is set for it (0: its own), and why it was chosen."""

    name: str
    image_size: int
    why: str

    @property
    def side(self) -> int:
        """Of its input, in pixels."""
        return self.image_size or backbones.image_size_of(self.name)


def asked_for(name: str, side: int = 0) -> Network:
    """The backbone that the user names, for images of a shorter side in pixels.

    Raises:
        UnknownName, DoesNotFit: no such backbone.
        BadInput: its weights are not available; the message says how to get them and what to use meanwhile.
    """
    backbones.family_of(name)
    try:
        backbones.weights_path(name)
    except BadInput as error:
        raise BadInput(f'{error}; meanwhile --backbone {SHIPPED} works without a download') from error
    return Network(name, _image_size(name, side), 'as asked for')


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
    for name in PUBLISHED if side > FEW_PIXELS else ():
        try:
            keys = methods_of(listed, name) if _is_available(name) else []
        except DoesNotFit:
            keys = []
        if not keys:
            continue
        network = Network(name, _image_size(name, side), 'published weights, and fast enough here for the budget')
        answer = speed(network, '', threads, cache).answer  # at least as long as this takes a step, about three times
        least, needed[name] = (
            total_seconds(work, dict.fromkeys(keys, Speed(times * answer, answer)), settings) for times in (1, 3)
        )
        if least <= PLANNED * budget:
            speeds = {key: speed(network, key, threads, cache) for key in keys}
            needed[name] = total_seconds(work, speeds, settings)
            if needed[name] <= PLANNED * budget:
                return network
    own = backbones.image_size_of(SHIPPED)
    coarse = f', but reduces your images from {side} to {own} px' if side > own else ''
    if needed:
        other = min(needed, key=needed.get)
        why = f'{other} is available and sees more detail, but needs --budget {_budget_for(needed[other])} here'
    else:
        why = f'a published network usually does better: medpeft backbones fetch {PUBLISHED[-1]}'
    return Network(SHIPPED, 0, f'shipped with the package{coarse} ({why})')


def _image_size(name: str, side: int) -> int:
    """What to set for a network, 0 for its own: for one that takes any size, what the images' side asks for."""
    if 'patch14' not in name and 'efficientnet_lite' not in name:
        return 0
    return next((one for one in SIDES if side and side <= one), SIDES[-1])


def _is_available(name: str) -> bool:
    try:
        return backbones.weights_path(name) is not None
    except BadInput:
        return False


# ---- how fast this machine is


@dataclass(frozen=True)
class Speed:
    """Seconds of a training step for each image in it, and of the answer to one image."""

    step: float
    answer: float


def speed(network: Network, key: str, threads: int, cache: Path) -> Speed:
    """A method's speed on this machine, with so many threads on a CPU; measured once and kept in `cache`.

    Where `key` is '', only the network's answer is timed, on few images, and the step counts as an answer.
    """
    import torch

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    place = torch.cuda.get_device_name() if device.type == 'cuda' else platform.processor() or platform.machine()
    name = json_digest([network.name, network.image_size, key, place, torch.__version__])
    measured = once(cache / 'speeds' / f'{name}.json', lambda: _timed(network, key, device))
    faster = threads**SCALING if device.type == 'cpu' else 1.0
    return Speed(measured.get('step', measured['answer']) / faster, measured['answer'] / faster)


def _timed(network: Network, key: str, device: Any) -> dict[str, float]:
    """Seconds an image of a step and of an answer, on one thread: how long several take depends on what else runs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        side, family = network.side, backbones.family_of(network.name)
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


# ---- how much is trained


@dataclass(frozen=True)
class Work:
    """How much is to be computed: images by split, seeds, how many runs at a time, and fractions of a curve."""

    train: int
    validation: int
    test: int
    seeds: int
    jobs: int = 1
    fractions: int = 0

    @property
    def batch(self) -> int:
        """Images per step: 64, or fewer if an epoch would be only a step or two."""
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
    every = [work.seconds(key, one, settings) for key, one in speed_of.items()]
    known_rate = {**settings, 'search_trials': 0}  # the fractions take the rate that was found with all images
    curves = 2 * work.fractions * max(work.seconds(key, one, known_rate) for key, one in speed_of.items())
    return max(sum(every) / work.jobs, max(every) / min(work.jobs, work.seeds)) + curves / work.jobs


@dataclass(frozen=True)
class Plan:
    """The notebook's parameters for every method, the seeds, how long it takes, and what the budget did not allow."""

    settings: dict[str, int]
    seeds: int
    seconds: float
    remark: str = ''


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
            if seconds > PLANNED * budget:
                continue
            too_few = ', too few to support a choice' if seeds < FEWEST else ''
            needed = _budget_for(total_seconds(work, speed_of, settings))
            fewer = f'{seeds} of {work.seeds} seeds fit into the budget{too_few}; all of them need --budget {needed}'
            return Plan(settings, seeds, seconds, fewer if seeds < work.seeds else '')
    raise BadInput(
        f'--budget {duration(budget)}: one short run of each of the {len(speed_of)} methods needs about '
        f'{duration(seconds / PLANNED)} on this machine; give a larger --budget, fewer --methods, or a smaller '
        f'--backbone such as {SHIPPED}'
    )
