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


def end_descendants(spared: frozenset[int] | set[int] = frozenset(), seconds: float = 5.0) -> None:
    """Kill all children but the spared ones, and theirs in turn: those become this process' own (`adopt_orphans`)."""
    deadline = time.monotonic() + seconds
    while (members := [pid for pid in children() if pid not in spared]) and time.monotonic() < deadline:
        for pid in members:
            kill(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def kill(pid: int, group: bool = False) -> None:
    """SIGKILL a process, or its group; nothing happens where there is none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)


def ask_children_to_end() -> None:
    """SIGTERM to the direct children: a training writes its checkpoint first."""
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            child.terminate()


def process_mark(pid: int) -> float | None:
    """When a process began, which with its id names it for good; None where there is none, or only a zombie."""
    if LINUX:  # clock ticks since the boot: unlike a time of day, never adjusted
        try:
            fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in 'ZX' else float(fields[19])
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def process_space() -> str:
    """Names the namespace of processes on this machine within which an id means one process, as in containers."""
    try:
        return f'{Path("/proc/self/ns/pid").stat().st_ino:x}'
    except OSError:
        return '0'
