"""Claims: one owner for a piece of work, without locks, on a network file system too.

The claim on `x` is a file `x.1`, created exclusively, which its owner rewrites every few seconds. Who finds that owner
gone creates `x.2`, again exclusively: the highest number is in force, so of several that notice one wins, and an owner
that was only asleep sees at its next beat that it has lost. Nobody's clock is compared with another's: an owner on the
same machine is gone when its process is, any other when its beat has not changed for `GONE_AFTER` seconds.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from medpeft_utils.core.files import read_json, storage, write_json

BEAT_SECONDS = 5.0
GONE_AFTER = 60.0
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@lru_cache(maxsize=1)
def _process_space() -> str:
    """Names the machine, its boot and its process namespace: within one, process ids mean the same thing."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path('/proc/sys/kernel/random/boot_id').read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink('/proc/self/ns/pid'))
    return ' '.join(parts)


def process_mark(pid: int) -> float | None:
    """When a process began, which with its id names it for good; None where there is none, or only a zombie."""
    stat = Path(f'/proc/{pid}/stat')
    if sys.platform == 'linux':  # clock ticks since the boot: unlike a time of day, never adjusted
        try:
            fields = stat.read_text().rpartition(')')[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in 'ZX' else float(fields[19])
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def is_here(holder: dict[str, Any]) -> bool:
    """Whether the holder's process ids can be looked up from here."""
    return holder.get('space') == _process_space()


def is_alive(holder: dict[str, Any]) -> bool:
    """Whether the process that holds a claim still lives; meaningful only where `is_here`."""
    return process_mark(holder.get('pid', -1)) == holder.get('began', 0.0)


class Claim:
    """A claim in force that this process owns. Made by `Claims.take`.

    `taken_from` is the content of the claim that it took over, if any: that owner's processes may need to be ended.
    """

    def __init__(self, base: Path, number: int, holder: dict[str, Any], taken_from: dict[str, Any] | None):
        self.base, self.number, self.holder, self.taken_from = base, number, holder, taken_from
        self.last_beat = time.monotonic()

    @property
    def path(self) -> Path:
        return numbered(self.base, self.number)

    def beat(self, force: bool = False, **details: Any) -> bool:
        """Show that the owner lives; False where another has taken the claim over. Cheap to call often."""
        if not force and not details and time.monotonic() - self.last_beat < BEAT_SECONDS:
            return True
        if numbered(self.base, self.number + 1).exists():
            return False
        self.holder = {**self.holder, **details, 'beat': self.holder['beat'] + 1}
        write_json(self.path, self.holder, durable=False)
        self.last_beat = time.monotonic()
        return True

    def release(self, settled: bool) -> None:
        """Give the claim up.

        Args:
            settled: the work's result is written, and whoever claims next sees it: the files can go. Otherwise the
                claim stays, marked as released, so that its number is never used twice.
        """
        if not settled:
            if not numbered(self.base, self.number + 1).exists():
                write_json(self.path, {**self.holder, 'released': True}, durable=False)
            return
        for number in range(1, self.number + 1):
            with contextlib.suppress(FileNotFoundError):
                numbered(self.base, number).unlink()


def numbered(base: Path, number: int) -> Path:
    """The file of the claim on `base` with this number."""
    return base.with_name(f'{base.name}.{number}')


def holder_of(base: Path) -> tuple[int, dict[str, Any] | None]:
    """The number and the content of the claim in force; (0, None) where nobody ever claimed."""
    numbers = [0]
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(base.parent):
            name, _, number = entry.name.rpartition('.')
            if name == base.name and number.isdigit():
                numbers.append(int(number))
    top = max(numbers)
    return top, read_json(numbered(base, top)) if top else None


class Claims:
    """What this process claims, and what it has seen of the claims of others.

    Args:
        gone_after: seconds without a new beat after which an owner on another machine counts as gone.
    """

    def __init__(self, gone_after: float = GONE_AFTER):
        self.gone_after = gone_after
        self.owner = uuid.uuid4().hex[:12]
        self._seen: dict[Path, tuple[Any, float]] = {}

    def take(self, base: Path, **details: Any) -> Claim | None:
        """Claim `base`, with `details` for others to read; None while another owns it."""
        number, holder = holder_of(base)
        if number and not self.is_gone(base, number, holder):
            return None
        mine = {
            'owner': self.owner,
            'space': _process_space(),
            'pid': os.getpid(),
            'began': process_mark(os.getpid()),
            'beat': 0,
            **details,
        }
        if not _create(numbered(base, number + 1), mine):
            return None
        self._seen.pop(base, None)
        return Claim(base, number + 1, mine, holder)

    def is_gone(self, base: Path, number: int, holder: dict[str, Any] | None) -> bool:
        """Whether the owner of a claim has released it or no longer lives."""
        if holder is not None and holder.get('released'):
            return True
        if holder is not None and is_here(holder):
            return not is_alive(holder)
        # No content: its owner died between creating and writing, or is about to write; the wait tells which.
        mark = (number, holder and holder['beat'])
        before, since = self._seen.get(base, (None, 0.0))
        if before != mark:
            self._seen[base] = (mark, time.monotonic())
            return False
        return time.monotonic() - since > self.gone_after


def _create(path: Path, content: dict[str, Any]) -> bool:
    """Create a file that nobody else has created; False where it is there already."""
    text = json.dumps(content).encode()
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:8]}')
        whole.write_bytes(text)
        try:
            os.link(whole, path)  # exclusive as O_EXCL is, and never seen empty
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _create_plainly(path, text)
        finally:
            whole.unlink()
        return True


def _create_plainly(path: Path, text: bytes) -> bool:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, 'wb') as stream:
        stream.write(text)
    return True


def seems_alive(holder: dict[str, Any] | None, path: Path, gone_after: float = GONE_AFTER) -> bool:
    """One look at a claim, for displays: by its process where that can be seen, else by the file's age."""
    if holder is None or holder.get('released'):
        return False
    if is_here(holder):
        return is_alive(holder)
    try:
        return time.time() - path.stat().st_mtime < gone_after
    except FileNotFoundError:
        return False
