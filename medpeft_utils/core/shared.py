"""Work among processes and machines that share a folder: each piece has one owner, who has its lease.

A lease is a file, created exclusively and touched every few seconds (`filelock.SoftFileLease`). Whoever finds its owner
gone takes it over by an atomic exchange, so of several that notice one wins. An owner on the same machine is gone when
its process is; any other when its file stands still for `PATIENCE` seconds by the clock of the one who looks, hence no
two clocks are compared. An owner that was only asleep still believes in its lease: it has to ask `is_held` before it
writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout
from filelock._identity import host_name, owner_is_stale

from medpeft_utils.core.files import read_json, storage, write_json

BEAT_SECONDS = 10.0
PATIENCE = 180.0  # a network file system may show a file's time of change a minute late
LOOK_SECONDS = 0.25


class Lease:
    """The right to do a piece of work. Keep the object while you wait for it: it remembers what it has seen.

    Args:
        path: of the lease's file; its folder is made.
        patience: seconds; the same for all who ask for this lease.
    """

    def __init__(self, path: Path | str, patience: float = PATIENCE):
        self.path = Path(path)
        self._lock = _lock(self.path, patience)
        self.token = ''

    def take(self) -> bool:
        """Take the lease where nobody has it, or its owner is gone. Raises StorageFault where it cannot be written."""
        with storage(self.path):
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                return False
        self.token = self._lock.token
        return True

    def is_held(self) -> bool:
        """Whether the lease is still this object's, by what its file says now."""
        return is_held(self.path, self.token)

    def release(self) -> None:
        """Give the lease up. Where that cannot be written it is left to be taken over from an owner that is gone."""
        try:
            self._lock.release(force=True)
        except OSError:
            return


def _lock(path: Path, patience: float = PATIENCE) -> SoftFileLease:
    return SoftFileLease(path, lease_duration=patience, heartbeat_interval=min(BEAT_SECONDS, patience / 3))


def is_held(path: Path | str, token: str) -> bool:
    """Whether the lease of this token is in force."""
    owner = _lock(Path(path)).owner
    return owner is not None and owner.token == token


def is_taken(path: Path | str, patience: float = PATIENCE) -> bool:
    """One look at a lease, for displays: by its owner's process where that can be seen, else by the file's age."""
    owner = _lock(Path(path)).owner
    if owner is None:
        return False
    if owner.hostname == host_name():
        return not owner_is_stale(owner.pid, owner.hostname, owner.start)
    try:
        return time.time() - Path(path).stat().st_mtime < patience
    except FileNotFoundError:
        return False


def once(path: Path | str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON at `path`, computed by one process while the others wait for it: what several runs share, as a search.

    Args:
        path: where the result is, or goes by a rename when it is whole; '<path>.lease' lies beside it meanwhile.
        compute: makes the result; called in one process only. Where that process is killed another takes its place.
    Returns:
        The result as read back from its file, hence equal for who computed it and who waited.
    Raises:
        What `compute` raises, in the process that ran it; a process that waited then tries itself.
    """
    path = Path(path)
    lease = Lease(path.with_name(f'{path.name}.lease'))
    while (result := read_json(path)) is None:
        if not lease.take():
            time.sleep(LOOK_SECONDS)
            continue
        try:
            if read_json(path) is None:  # it may have been finished between our look and our lease
                write_json(path, compute())
        finally:
            lease.release()
    return result
