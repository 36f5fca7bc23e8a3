"""What the fork server of `multiprocessing` imports before the first run: everything that runs need, once.

The runner names this module as the server's only preload, and tells it more by the environment (`pool.py`). It runs
nothing, starts no thread and does not touch a graphics card: what it did would be in every run that is forked from it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import time
from pathlib import Path

import medpeft_utils
from medpeft_utils.core.code import Code
from medpeft_utils.study import records
from medpeft_utils.study.processes import end_with

ORDERS = 'MEDPEFT_FORK_SERVER'  # {"parent": pid, "modules": [names], "folder": where its report and its output go}
REPORT, OUTPUT = 'fork_server.json', 'fork_server.log'
# What executes a notebook.
ENGINE = [
    'medpeft_utils.cli',  # the main module of the runner, which `multiprocessing` runs again in each of its processes
    'papermill',
    'nbclient',
    'jupyter_client',
    'ipykernel.kernelapp',
    'ipykernel.ipkernel',
    'IPython.core.pylabtools',
]


def preload(names: list[str]) -> list[str]:
    """Import modules, of medpeft_utils all; the faults of those that could not be."""
    faults, package = [], []
    if 'medpeft_utils' in names:  # all that a notebook may import from it, so code edited meanwhile reaches no run
        modules = pkgutil.walk_packages(medpeft_utils.__path__, 'medpeft_utils.', onerror=lambda name: None)
        package = [module.name for module in modules if not module.name.startswith(('medpeft_utils.cli', __name__))]
    for name in [*ENGINE, *names, *package]:
        try:
            importlib.import_module(name)
        except Exception as error:  # not fatal here: the notebook that needs it fails by it, and its record says so
            faults.append(f'{name}: {type(error).__name__}: {error}')
    if package:  # what every run would do again
        Code.now().version()  # parses every file: 1 s
        records.faults({})  # builds the schema of records: 0.2 s
    return faults


def _be_fork_server(parent: int, modules: list[str], folder: str) -> None:
    began = time.monotonic()
    end_with(parent)
    os.setsid()  # a Ctrl-C at the terminal is the runner's to handle
    output = os.open(Path(folder) / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):  # what an import prints is not for the user's terminal
        os.dup2(output, stream)
    faults = preload(modules)
    gc.collect()
    gc.freeze()  # keeps the pages that are shared with the runs untouched
    about = {'ready': round(time.monotonic() - began, 2), 'faults': faults, 'tasks': len(os.listdir('/proc/self/task'))}
    (Path(folder) / REPORT).write_text(json.dumps(about))


if ORDERS in os.environ:
    _be_fork_server(**json.loads(os.environ.pop(ORDERS)))
