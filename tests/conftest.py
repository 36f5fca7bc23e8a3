"""What every test shares: one thread, no display, no network, and a cache of its own.

Tests may run side by side (`make test`, pytest-xdist): each worker has its own folders and one thread. Some
tests mostly wait, hence one worker more than cores. No test may depend on how fast the machine is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from medpeft_utils.study.machine import cores

ROOT = Path(__file__).resolve().parents[1]
MOST_WORKERS = 8  # each imports torch, some 0.5 GB

# Before anything imports torch or matplotlib; kernels and other processes that tests start inherit it.
for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(variable, '1')
os.environ['MPLBACKEND'] = 'Agg'
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
os.environ.pop('MEDPEFT_HOME', None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many workers `--numprocesses auto` starts: one more than the cores that this process may use."""
    return min(cores() + 1, MOST_WORKERS)


@pytest.fixture(scope='session', autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Packed data goes into a folder that only this session uses, and that all its tests share."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp('cache')
        patch.setenv('MEDPEFT_CACHE', str(folder))
        yield folder


@pytest.fixture(scope='session', autouse=True)
def ports_of_the_session() -> None:
    """Each of several workers gives other ports to its kernels: one is looked for long before its kernel takes it."""
    workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
    if workers > 1:
        from jupyter_client.connect import LocalPortCache

        mine = int(os.environ['PYTEST_XDIST_WORKER'].removeprefix('gw')) % workers
        taken = {port for port in range(1 << 16) if port // 2 % workers != mine}  # Linux gives ports of one parity
        LocalPortCache.instance().currently_used_ports |= taken


@pytest.fixture(scope='session')
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the smoke grid was run and reported: once, also for several workers of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if 'PYTEST_XDIST_WORKER' in os.environ else folder) / 'smoke'
    with FileLock(f'{folder}.lock'):
        if not (folder / 'figures').is_dir():
            from study_project import medpeft

            medpeft('run', 'smoke', '--results', folder / 'results', cache=folder / 'cache')
            medpeft('report', 'smoke', '--results', folder / 'results', '--figures', folder / 'figures')
    return folder
