"""The machine that runs are on: cores, cards, memory, versions, and the commit of the code."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import medpeft_utils

PACKAGES = ('torch', 'torchvision', 'timm', 'peft', 'numpy', 'pandas', 'scikit-learn', 'optuna')
PACKAGES += ('diffusers', 'transformers')


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def threads_for(jobs: int) -> int:
    """Threads of a run among `jobs` at a time: as OMP_NUM_THREADS says, else the cores shared out."""
    given = os.environ.get('OMP_NUM_THREADS', '').partition(',')[0]
    return int(given) if given.isdigit() and int(given) else max(1, cores() // jobs)


def thread_variables(threads: int) -> dict[str, str]:
    """The environment variables by which numerical libraries learn how many threads to use, and how to wait.

    Threads that wait for others sleep (PASSIVE) unless the user says otherwise: spinning, they take the cores from each
    other as soon as anything else runs. 25 steps of LoRA with two threads on two cores under a load of 7 took 123 and
    192 s spinning, 19 and 22 s asleep, 15 s with one thread; on an idle machine all are alike.
    """
    libraries = 'OMP', 'MKL', 'OPENBLAS', 'NUMEXPR'
    waiting = os.environ.get('OMP_WAIT_POLICY', 'PASSIVE')
    return {**{f'{library}_NUM_THREADS': str(threads) for library in libraries}, 'OMP_WAIT_POLICY': waiting}


def graphics_cards() -> list[str]:
    """The cards that runs may share, as values for CUDA_VISIBLE_DEVICES; without loading a driver."""
    if os.environ.get('CUDA_VISIBLE_DEVICES') is not None:
        return [card for card in os.environ['CUDA_VISIBLE_DEVICES'].split(',') if card.strip()]
    cards = Path('/proc/driver/nvidia/gpus')
    return [str(number) for number in range(len(list(cards.iterdir())))] if cards.is_dir() else []


def free_memory(cards: list[str]) -> list[float | None]:
    """Free MB of each card, asked of nvidia-smi since a process that is forked later must not load the driver; where
    there is no card, of this machine, a SLURM job or a container."""
    return [_of_card(card) for card in cards] if cards else [_of_machine()]


def _of_card(card: str) -> float | None:
    ask = ['nvidia-smi', f'--id={card}', '--query-gpu=memory.free', '--format=csv,noheader,nounits']
    try:
        return float(subprocess.run(ask, capture_output=True, text=True, timeout=60, check=True).stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _of_machine() -> float:
    import psutil

    limits = [psutil.virtual_memory().available / 2**20]
    for name, times in (('SLURM_MEM_PER_NODE', 1), ('SLURM_MEM_PER_CPU', cores())):
        with contextlib.suppress(KeyError, ValueError):
            limits.append(float(os.environ[name]) * times)
    with contextlib.suppress(OSError, ValueError):  # of a container; 'max' is no number
        group = Path('/sys/fs/cgroup')
        limits.append((int((group / 'memory.max').read_text()) - int((group / 'memory.current').read_text())) / 2**20)
    return min(limit for limit in limits if limit > 0)


def environment() -> dict[str, Any]:
    """What the run runs on: versions, platform, device and threads, the last two as far as torch is loaded anyway."""
    torch = sys.modules.get('torch')
    cuda = torch is not None and torch.cuda.is_available()
    return {
        'versions': {'python': platform.python_version(), 'medpeft': medpeft_utils.__version__, **_versions()},
        'platform': platform.platform(),
        'device': torch.cuda.get_device_name() if cuda else 'cpu',
        'threads': torch.get_num_threads() if torch else None,
    }


def _versions() -> dict[str, str]:
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an optional one
    return installed


def commit() -> str | None:
    """The commit of the package's repository, with '+' where files have changed since; None outside of one."""
    folder = Path(medpeft_utils.__file__).parent
    ask = ['git', '-C', str(folder), 'describe', '--always', '--abbrev=40', '--exclude=*', '--dirty=+']
    quiet = {**os.environ, 'GIT_OPTIONAL_LOCKS': '0'}  # only look, do not write the index
    try:
        described = subprocess.run(ask, capture_output=True, text=True, timeout=10, env=quiet)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git here, or a repository on a disk that does not answer
    return described.stdout.strip() or None
