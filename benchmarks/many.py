"""What a study of very many runs asks of `medpeft status` and `medpeft run`: `python -m benchmarks.many 1000 10000`.

The records are invented, 12 KB each as those of a run on 2,000 test images; no run is executed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.studies import FINISH, PARAMETERS
from medpeft_utils.study.grid import load_grid
from medpeft_utils.study.paths import StudyFolder

# Predictions of a record, 12 KB as those of 2,000 images.
ROWS = {'n': 2000, 'classes': 7, 'multi_label': False, **dict.fromkeys(('labels', 'groups', 'arg_max'), '')}
ROWS['scores'] = 'x' * 12_000


def write_study(root: Path, number: int) -> None:
    """A project with a grid of `number` runs and a record of each."""
    import nbformat

    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source.strip()) for source in (PARAMETERS, FINISH)]
    notebook.cells[0].metadata['tags'] = ['parameters']
    (root / 'notebooks' / 'experiments').mkdir(parents=True)
    nbformat.write(notebook, root / 'notebooks' / 'experiments' / 'trivial.ipynb')
    axes = {'seed': list(range(-(-number // 10))), 'steps': list(range(1, 11))}
    grid = root / 'many.yaml'
    grid.write_text(json.dumps({'profile': 'many', 'experiments': [{'notebook': 'trivial', 'axes': axes}]}))
    folder = StudyFolder(root / 'results' / 'many')
    scores = dict.fromkeys(('f1_macro', 'accuracy', 'auroc'), 0.5)
    for run in load_grid(grid).runs[:number]:
        record = {
            **{'schema': 1, 'run': run.hash, 'status': 'done', 'profile': 'many', 'experiment': run.experiment},
            **{'parameters': run.parameters, 'code_version': run.code, 'attempt': 1, 'time': {'total_seconds': 1.0}},
            **{'data': {}, 'backbone': {}, 'method': {}, 'learning_rate': {'value': 0.1}, 'environment': {}},
            **{'metrics': {'test': scores, 'validation': scores}, 'rows': {'test': ROWS}},
        }
        folder.run(run.hash).mkdir(parents=True)
        folder.record(run.hash).write_text(json.dumps(record))


def measure(root: Path, *command: str) -> tuple[float, float]:
    """CPU seconds of a command, and the most memory it held, in MB."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'medpeft_utils.cli', *command], cwd=root, env=os.environ, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f'{command} ended with status {status}')
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    print(
        '| records | `medpeft status` | its memory | `medpeft run`, nothing to do | its memory |\n' + '| --- ' * 5 + '|'
    )
    for number in map(int, sys.argv[1:] or ['1000', '10000']):
        with tempfile.TemporaryDirectory() as folder:
            write_study(Path(folder), number)
            measure(Path(folder), 'status', 'many.yaml')  # once for the disk's cache
            status = measure(Path(folder), 'status', 'many.yaml')
            run = measure(Path(folder), 'run', 'many.yaml')
        print(f'| {number:,} | {status[0]:.1f} CPU s | {status[1]:.0f} MB | {run[0]:.1f} CPU s | {run[1]:.0f} MB |')


if __name__ == '__main__':
    main()
