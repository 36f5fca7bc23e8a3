"""A project of a few trivial notebooks, which papermill executes for real in a fraction of a second."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

PARAMETERS = """
mode: str = 'fine'  # what the notebook does
value: float = 1.0
seed: int = 0
pause: float = 0.0  # seconds
search_trials: int = 0
record_folder: str = ''
"""
START = """
import os, sys, time
from pathlib import Path
from medpeft_utils.study import records
context = records.start(
    dict(mode=mode, value=value, seed=seed, pause=pause, search_trials=search_trials, record_folder=record_folder),
    experiment='toy',
)
"""
WORK = """
(context.folder / 'began').write_text(str(os.getpid()))
time.sleep(pause)
if mode == 'raises':
    print('before the fault')
    raise ValueError('the numbers do not add up')
elif mode == 'killed':
    os.kill(os.getpid(), 9)
elif mode == 'exits':
    sys.exit(0)
elif mode == 'flaky' and not (context.searches / 'second').exists():
    context.searches.mkdir(exist_ok=True)
    (context.searches / 'second').touch()
    os.kill(os.getpid(), 9)
elif mode == 'forks' and os.fork() == 0:
    os.setsid()
    (context.folder / 'child').write_text(str(os.getpid()))
    time.sleep(600)
elif mode == 'large':
    import torch
    torch.empty(2**50)
elif mode == 'full':
    raise OSError(28, 'No space left on device')
"""
FINISH = """
scores = dict.fromkeys(records.SCORES, (value * 7 + seed) % 1)
context.finish(
    data={'name': 'toy', 'label': 'Toy', 'synthetic': True, 'split_hash': 'x', 'counts': {'train': 3}},
    backbone={'name': 'none', 'family': 'vit'},
    method={'key': mode},
    learning_rate={'value': 0.1, 'how': 'given', 'trials': []},
    metrics={'test': scores, 'validation': scores},
    curve=[{'epoch': 0, 'step': 1, 'train_loss': 2.0}, {'epoch': 1, 'step': 2, 'train_loss': 1.0}],
)
"""
# A training of 40 steps by the one loop, each at least `pause` long and noted in a file that all runs share.
TRAINS = """
import torch
from medpeft_utils.training.config import TrainingConfig
from medpeft_utils.training.loop import Evaluation, Task, WholeNetwork, fit

class Small(Task):
    def batch(self, rows, generator):
        with (context.searches.parent / 'steps').open('a') as steps:
            steps.write('.')
        time.sleep(pause)
        return torch.randn(len(rows), 4, generator=generator)
    def loss(self, batch):
        return self.adapted.model(batch).square().mean()
    def evaluate(self):
        weight = self.adapted.model.weight.sum().item()
        return Evaluation((weight,), {'weight': weight})

torch.manual_seed(0)
task = Small(WholeNetwork(torch.nn.Linear(4, 1)), 16, torch.device('cpu'))
config = TrainingConfig(0.1, min_steps=40, max_steps=40, batch_size=4, evaluations=4)
checkpoint = context.searches / f'{context.run}.checkpoint.safetensors'
value = fit(task, config, quiet=True, checkpoint=checkpoint).curve[-1]['weight']
"""


ROOT = Path(__file__).resolve().parents[1]


def medpeft(*arguments: object, cache: Path | None = None, code: int = 0) -> str:
    """Standard output of a command run in the checkout, which must end with `code`; `cache` replaces the session's."""
    command = [sys.executable, '-m', 'medpeft_utils.cli', *map(str, arguments)]
    environment = os.environ | ({'MEDPEFT_CACHE': str(cache)} if cache else {})
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> None:
    """A notebook of a parameters cell and code cells."""
    notebook = nbformat.v4.new_notebook()
    first = nbformat.v4.new_code_cell(parameters.strip())
    first.metadata['tags'] = ['parameters']
    notebook.cells = [first, *(nbformat.v4.new_code_cell(cell.strip()) for cell in cells)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def _heed_control_c() -> None:
    """What a shell starts in the background ignores SIGINT, and hands that on; these tests may run so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Project:
    """Notebooks, grids and results below one folder, and the command line run in it."""

    def __init__(self, root: Path):
        self.root, self.results = root, root / 'results'
        self.notebook = root / 'notebooks' / 'experiments' / 'toy.ipynb'
        write_notebook(self.notebook, START, WORK, FINISH)

    def grid(self, name: str = 'tiny', **content) -> Path:
        """Write a grid; without more, two modes of two seeds that both succeed."""
        path = self.root / 'notebooks' / 'grids' / f'{name}.yaml'
        path.parent.mkdir(parents=True, exist_ok=True)
        axes = {'mode': ['fine'], 'seed': [0, 1]}
        content.setdefault('experiments', [{'notebook': 'toy', 'axes': content.pop('axes', axes)}])
        path.write_text(yaml.safe_dump({'profile': name, 'preload': [], **content}))
        return path

    def start(self, *arguments: str, **more) -> subprocess.Popen:
        command = [sys.executable, '-m', 'medpeft_utils.cli', *arguments]
        pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
        pipes['preexec_fn'] = _heed_control_c
        return subprocess.Popen(command, cwd=self.root, env=os.environ, **{**pipes, **more})

    def medpeft(self, *arguments: str, code: int | None = 0) -> str:
        """What `medpeft ARGUMENTS` prints; its exit code must be `code`, or may be any."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        assert code in (None, process.returncode), f'exit code {process.returncode}\n{out}\n{err}'
        return out + err

    def records(self, profile: str = 'tiny') -> dict[str, dict]:
        """Every record by what its run does: 'mode/value/seed'."""
        found = {}
        for path in sorted(self.results.glob(f'{profile}/runs/*/record.json')):
            record = json.loads(path.read_text())
            name = '{mode}/{value}/{seed}'.format(**record['parameters'])
            assert name not in found, f'{name} is recorded twice'
            found[name] = record
        return found

    def events(self, profile: str = 'tiny') -> list[dict]:
        path = self.results / profile / 'events.jsonl'
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
