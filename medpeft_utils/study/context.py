"""A run seen from inside its notebook: what it is called, where its record goes, and on what it runs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import medpeft_utils
from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.files import check_writable, plain, read_json
from medpeft_utils.study.identity import code_version, run_hash, without_places
from medpeft_utils.study.places import experiments_folder, project_root

PLAN = 'run.json'  # written by the runner into a run's folder before its notebook starts
PACKAGES = [
    'torch',
    'torchvision',
    'timm',
    'peft',
    'numpy',
    'pandas',
    'scikit-learn',
    'optuna',
    'diffusers',
    'transformers',
]


@dataclass
class RunContext:
    """A run that has begun. `finish` writes its record; without it the run did not happen.

    Args:
        run: identity, 16 hex digits.
        folder: where the record goes, and what belongs beside it (predictions, adapter).
        profile: of the study, 'by_hand' outside of one.
        searches: folder of what runs share; see `study.shared.once`.
        environment: versions, platform, device, threads, and the commit of the code where there is one.
        attempt: 1, or more where earlier ones died or failed.
    """

    run: str
    experiment: str
    parameters: dict[str, Any]
    code_version: str
    folder: Path
    profile: str
    searches: Path
    environment: dict[str, Any]
    attempt: int = 1
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock: float = field(default_factory=time.monotonic)

    def finish(self, **parts: Any) -> Path:
        """Write the record, whole or not at all; the path of its file.

        Args:
            parts: data, backbone, method, learning_rate, metrics, curve, best_epoch, time, peak_memory_mb, predictions.
                `environment` is added to what is known already; time's `total_seconds` is measured where not given.
        Raises:
            BadInput: a part is missing.
            StorageFault: the disk is full or the folder read-only.
        """
        from medpeft_utils.study import records

        spent = {'total_seconds': round(time.monotonic() - self.clock, 3)}
        begun = {
            'run': self.run,
            'status': 'done',
            'profile': self.profile,
            'experiment': self.experiment,
            'parameters': self.parameters,
            'code_version': self.code_version,
            'attempt': self.attempt,
            'started': self.began.isoformat(timespec='seconds'),
        }
        parts['time'] = {**spent, **parts.get('time', {})}
        parts['environment'] = {**self.environment, **parts.get('environment', {})}
        return records.write({**begun, **parts}, self.folder)


def start(parameters: dict[str, Any], experiment: str) -> RunContext:
    """Begin a run. Raises at once where its record could not be written later.

    Args:
        parameters: the notebook's parameters, `record_folder` among them; '' there for stepping through by hand, whose
            record goes to results/by_hand.
        experiment: the notebook's stem.
    Raises:
        BadInput: `record_folder` is the folder of another run.
        StorageFault: the folder cannot be written.
    """
    folder = parameters.get('record_folder') or ''
    plan = read_json(Path(folder) / PLAN) if folder else None
    parameters = plain({name: value for name, value in parameters.items() if name != 'record_folder'})
    context = _planned(plan, parameters, Path(folder)) if plan else _by_hand(parameters, experiment, folder)
    check_writable(context.folder)
    return context


def _planned(plan: dict[str, Any], parameters: dict[str, Any], folder: Path) -> RunContext:
    """The runner's own account of the run, provided the notebook indeed got those parameters."""
    planned, given = without_places(plan['parameters']), without_places(parameters)
    wrong = [name for name in planned if name in given and given[name] != planned[name]]
    if wrong:
        told = ', '.join(f'{name} {given[name]!r} instead of {planned[name]!r}' for name in wrong)
        raise BadInput(f'{folder} is the folder of another run: {told}; give another record_folder')
    return RunContext(
        run=plan['run'],
        experiment=plan['experiment'],
        parameters=plan['parameters'],
        code_version=plan['code_version'],
        folder=folder,
        profile=plan['profile'],
        searches=folder.parent.parent / 'searches',
        environment={**environment(), 'commit': plan.get('commit')},
        attempt=plan['attempt'],
    )


def _by_hand(parameters: dict[str, Any], experiment: str, folder: str) -> RunContext:
    notebook = experiments_folder() / f'{experiment}.ipynb'
    version = code_version(notebook if notebook.is_file() else None, parameters)
    run = run_hash(experiment, parameters, version)
    root = project_root() / 'results' / 'by_hand'
    return RunContext(
        run=run,
        experiment=experiment,
        parameters=parameters,
        code_version=version,
        folder=Path(folder) if folder else root / 'runs' / run,
        profile='by_hand',
        searches=root / 'searches',
        environment={**environment(), 'commit': commit()},
    )


def environment() -> dict[str, Any]:
    """What the run runs on: versions, platform, device, threads."""
    return {
        'versions': {'python': platform.python_version(), 'medpeft': medpeft_utils.__version__, **_versions()},
        'platform': platform.platform(),
        **_device(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an optional one
    return found


def _device() -> dict[str, Any]:
    """Device and threads, as far as torch is loaded anyway."""
    torch = sys.modules.get('torch')
    if torch is None:
        return {'device': 'cpu', 'threads': None}
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu'
    return {'device': name, 'threads': torch.get_num_threads()}


def commit() -> str | None:
    """The commit of the package's repository, with '+' where files have changed since; None outside of one."""
    folder = Path(medpeft_utils.__file__).parent
    ask = ['git', '-C', str(folder), 'describe', '--always', '--abbrev=40', '--exclude=*', '--dirty=+']
    quiet = {**os.environ, 'GIT_OPTIONAL_LOCKS': '0'}  # only look, do not write the index
    try:
        found = subprocess.run(ask, capture_output=True, text=True, timeout=10, env=quiet)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git here, or a repository on a disk that does not answer
    return found.stdout.strip() or None
