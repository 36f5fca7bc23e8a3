"""The parts of the bench that execute runs: start-up of a run, scaling over workers, memory over many runs.

Each is a real study in a folder of its own, executed by `medpeft run`, and read from the events that it writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.rounds import Broken
from benchmarks.scale import Scale
from medpeft_utils.study.machine import thread_variables
from medpeft_utils.study.processes import children

LOOK_SECONDS = 0.2
PARAMETERS = """
steps: int = 1  # training steps
seed: int = 0
record_folder: str = ''
"""
# What every experiment imports; with a fresh kernel these imports are most of a run's start.
TRIVIAL = """
import pandas, peft, timm, torch
from medpeft_utils.study import records
from medpeft_utils.training.classification import Classification, Settings

context = records.start(dict(steps=steps, seed=seed, record_folder=record_folder), experiment='trivial')
learning_rate, metrics, curve = {'value': 0.1, 'how': 'given', 'trials': []}, dict.fromkeys(records.SCORES, 0.5), []
"""
TRAINING = """
from medpeft_utils.study import records
from medpeft_utils.training.classification import Classification, Settings

context = records.start(dict(steps=steps, seed=seed, record_folder=record_folder), experiment='training')
run = Classification(Settings(
    dataset='synthetic_breastus', backbone='vit_base_mini', method='lora', seed=seed,
    batch_size=32, min_steps=steps, max_steps=steps, evaluations=2,
))
curve, learning_rate = run.train(quiet=True).curve, run.learning_rate
metrics = run.evaluate()['test']
"""
FINISH = """
metrics = {'validation': metrics, 'test': metrics}
context.finish(
    data={'name': 'bench', 'label': 'Bench', 'synthetic': True, 'split_hash': 'none', 'counts': {'train': 1}},
    backbone={'name': 'bench', 'family': 'vit'}, method={'key': 'bench'},
    learning_rate=learning_rate, metrics=metrics, curve=curve,
)
"""


@dataclass
class Study:
    """What a study's events tell.

    Args:
        ready: seconds until the process that kernels are forked from had its imports; 0 with plain kernels.
        seconds: from there, or from the first start, to the end of the last run.
        runs: how long each took, from its start to its end.
        memory: (runs ended, MB held by the runner and the process that kernels are forked from), as time went on.
    """

    ready: float
    seconds: float
    runs: list[float]
    memory: list[tuple[int, float]] = field(default_factory=list)


def _write_project(root: Path) -> None:
    import nbformat

    for name, work in (('trivial', TRIVIAL), ('training', TRAINING)):
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [nbformat.v4.new_code_cell(source.strip()) for source in (PARAMETERS, work, FINISH)]
        notebook.cells[0].metadata['tags'] = ['parameters']
        path = root / 'notebooks' / 'experiments' / f'{name}.ipynb'
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)


@contextlib.contextmanager
def project() -> Iterator[Path]:
    """A folder with the bench's notebooks and a cache of its own; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix='medpeft-bench-') as folder:
        _write_project(Path(folder))
        yield Path(folder)


def execute(
    root: Path, name: str, notebook: str, runs: int, steps: int = 1, watch: bool = False, options: tuple[str, ...] = ()
) -> Study:
    """Execute `runs` runs of a notebook under a profile of its own. Raises Broken where one of them is not done."""
    grid = root / f'{name}.yaml'
    axes = {'seed': list(range(runs)), 'steps': [steps]}
    grid.write_text(
        json.dumps({'profile': name, 'experiments': [{'notebook': notebook, 'axes': axes}]})
    )  # JSON is YAML
    command = [
        sys.executable,
        '-m',
        'medpeft_utils.cli',
        'run',
        str(grid),
        '--results',
        str(root / 'results'),
        *options,
    ]
    environment = os.environ | {'MEDPEFT_CACHE': str(root / 'cache')} | thread_variables(1)
    events, memory = root / 'results' / name / 'events.jsonl', []
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None:
                if watch:
                    _look(process.pid, events, memory)
                time.sleep(LOOK_SECONDS)
        except BaseException:
            process.terminate()  # it ends its runs itself
            process.wait(30)
            raise
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors='replace').strip().splitlines()[-3:]
            raise Broken(f'medpeft run ended with exit code {process.returncode}: {" / ".join(lines)}')
    return _study(events, memory)


def _look(runner: int, events: Path, memory: list[tuple[int, float]]) -> None:
    """Note how much the runner and its child, from which kernels are forked, hold now, apart from what they share."""
    import psutil

    ended = events.read_text().count('"event": "end"') if events.is_file() else 0
    held = 0
    for pid in (runner, *children(runner)):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            held += psutil.Process(pid).memory_info().rss
    memory.append((ended, held / 2**20))


def _study(path: Path, memory: list[tuple[int, float]]) -> Study:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    ended = [event for event in events if event['event'] == 'end']
    if not ended or any(event['status'] != 'done' for event in ended):
        errors = [str(event['error']) for event in ended if event['status'] != 'done']
        raise Broken(f'{len(errors)} of {len(ended)} runs are not done: {errors[:1]}')
    ready = next((event for event in events if event['event'] == 'ready'), {})
    began = ready if ready.get('ready') else next(event for event in events if event['event'] == 'start')
    first, last = (datetime.fromisoformat(event['time']) for event in (began, ended[-1]))
    seconds = (last - first).total_seconds()
    return Study(ready.get('ready') or 0.0, seconds, [event['seconds'] for event in ended], memory)


def measure_startup(scale: Scale, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds that a run with nothing to do takes: start, imports, record, end; with forked and with plain kernels."""
    with project() as root:
        say('startup: forked kernels')
        forked = execute(root, 'forked', 'trivial', scale.startup_runs)
        say('startup: plain papermill')
        plain = execute(root, 'plain', 'trivial', scale.plain_runs, options=('--plain-kernels',))
    return {
        'runs': scale.startup_runs,
        'forked_seconds': round(statistics.median(forked.runs), 3),
        'forked_seconds_with_runner': round(forked.seconds / len(forked.runs), 3),
        'once_a_study_seconds': forked.ready,
        'plain_seconds': round(statistics.median(plain.runs), 3),
    }


def measure_scaling(scale: Scale, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs a minute of the same small grid with one worker and with two, one thread each, in turns."""
    turns = 1 if scale.rounds < 3 else 2
    taken: dict[int, list[float]] = {1: [], 2: []}
    with project() as root:
        say('scaling: data and number format, once')
        execute(root, 'first', 'training', 1, steps=2, options=('--threads', '1'))
        for turn in range(turns):
            for workers in (1, 2) if turn % 2 == 0 else (2, 1):
                say(f'scaling: {workers} workers, turn {turn + 1} of {turns}')
                options = ('--jobs', str(workers), '--threads', '1')
                name = f'{workers}_workers_{turn}'
                study = execute(root, name, 'training', scale.scaling_runs, scale.scaling_steps, options=options)
                taken[workers].append(study.seconds)
    rates = {workers: 60 * scale.scaling_runs / statistics.median(seconds) for workers, seconds in taken.items()}
    return {
        'runs': scale.scaling_runs,
        'runs_per_minute': {str(workers): round(rate, 2) for workers, rate in rates.items()},
        'seconds': {str(workers): seconds for workers, seconds in taken.items()},
        'ratio': statistics.median(one / two for one, two in zip(taken[1], taken[2], strict=True)),
    }


def measure_memory(scale: Scale, say: Callable[[str], None]) -> dict[str, Any]:
    """What the runner and the process that kernels are forked from hold after the first runs and after the last."""
    say(f'memory: {scale.memory_runs} runs')
    with project() as root:
        study = execute(root, 'many', 'trivial', scale.memory_runs, watch=True)
    early = max(2, scale.memory_runs // 10)
    before = [held for ended, held in study.memory if early // 2 <= ended <= early]
    after = [held for ended, held in study.memory if ended >= scale.memory_runs - early]
    if not before or not after:
        raise Broken('the runs ended before their memory was looked at')
    first, last = statistics.median(before), statistics.median(after)
    return {
        'runs': scale.memory_runs,
        'first_mb': round(first, 1),
        'last_mb': round(last, 1),
        'growth': last / first - 1,
        'seconds_a_run': round(study.seconds / scale.memory_runs, 3),
    }
