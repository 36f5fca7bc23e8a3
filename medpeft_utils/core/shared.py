"""Work that several runs share, such as a search for a learning rate: done once, whoever comes first."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medpeft_utils.core.files import read_json, write_json
from medpeft_utils.core.leases import Lease

LOOK_SECONDS = 0.25


def once(path: Path | str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON at `path`, computed by one process while the others wait for it.

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
