"""Work that several runs share, such as a search for a learning rate: done once, whoever comes first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medpeft_utils.core.files import read_json, write_json
from medpeft_utils.core.leases import BEAT_SECONDS, Claim, Claims

LOOK_SECONDS = 0.25


def once(path: Path | str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON at `path`, computed by one process while the others wait for it.

    Args:
        path: where the result is, or goes by a rename when it is whole; '<path>.claim.N' lies beside it meanwhile.
        compute: makes the result; called in one process only. Where that process is killed another takes its place.
    Returns:
        The result as read back from its file, hence equal for who computed it and who waited.
    Raises:
        What `compute` raises, in the process that ran it; a process that waited then tries itself.
    """
    path = Path(path)
    claims = Claims()
    while (found := read_json(path)) is None:
        claim = claims.take(path.with_name(f'{path.name}.claim'))
        if claim is None:
            time.sleep(LOOK_SECONDS)
            continue
        _compute(path, claim, compute)
    return found


def _compute(path: Path, claim: Claim, compute: Callable[[], dict[str, Any]]) -> None:
    settled, stop = False, threading.Event()
    beating = threading.Thread(target=_beat, args=(claim, stop), daemon=True)
    beating.start()
    try:
        if read_json(path) is None:  # it may have been finished between our look and our claim
            write_json(path, compute())
        settled = True
    finally:
        stop.set()
        beating.join()
        claim.release(settled)


def _beat(claim: Claim, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        if not claim.beat(force=True):
            return  # taken over while this process was suspended: both results are the same
