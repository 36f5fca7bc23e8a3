"""Parents and children on Linux: who dies with whom, and whose orphans are whose.

Elsewhere these do nothing; there a kernel notices within seconds by itself that its parent is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LINUX = sys.platform == 'linux'


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), 'prctl')


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Let this process get a signal, SIGKILL by default, when `parent`, its parent, ends in whatever way."""
    if not LINUX:
        return
    _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends, so none escapes."""
    if LINUX:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_with(parent: int, told: Callable[[], object] = lambda: None) -> None:
    """Adopt all descendants, and end them and this process when `parent` ends: what they left behind dies with it.

    While the parent lives, a request to end (SIGTERM) calls `told` instead: a scheduler asks all processes at once, and
    the parent decides what becomes of them.
    """

    def end(*_: object) -> None:
        if os.getppid() == parent:
            told()
            return
        end_descendants()
        os._exit(1)

    adopt_orphans()
    signal.signal(signal.SIGTERM, end)
    die_with(parent, signal.SIGTERM)


def children(pid: int | None = None) -> list[int]:
    """Process ids of the direct children, those of zombies included."""
    pid, members = pid or os.getpid(), []
    for task in Path(f'/proc/{pid}/task').glob('*/children'):
        with contextlib.suppress(OSError):  # the thread ended meanwhile
            members += [int(child) for child in task.read_text().split()]
    return members


def end_descendants(spared: set[int] = frozenset(), seconds: float = 5.0) -> None:
    """Kill all children but the spared ones, and theirs in turn: those become this process' own (`adopt_orphans`)."""
    deadline = time.monotonic() + seconds
    while (members := [pid for pid in children() if pid not in spared]) and time.monotonic() < deadline:
        for pid in members:
            kill(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def kill(pid: int, group: bool = False) -> None:
    """SIGKILL a process, or its group; do nothing if it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of one that its parent has not looked at yet."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
