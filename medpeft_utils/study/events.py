"""The stream of what happens in a study: results/<profile>/events.jsonl, a JSON object a line, for other tools.

Every runner on the folder adds to it, each line by one write. It tells what happens and decides nothing: what is done
is what has a record. Every event has `time` (UTC, ISO 8601), `runner` (which of those side by side) and `event`:

| event | when | what else it holds |
| --- | --- | --- |
| study | a runner begins | runs (to do), settled (counts by status), jobs (at a time) |
| ready | what runs are forked from has its imports | ready (seconds), faults (imports that failed), tasks (threads) |
| start | a run is started | run (its hash), label, attempt |
| end | a run has ended | run, label, status (done, failed, died), seconds, cpu_seconds, error (type, message, ...) |
| lost | another runner took a run over | run |
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from medpeft_utils.core.errors import BadInput
from medpeft_utils.study.paths import StudyFolder

LOOK_SECONDS = 0.5


def stream(path: Path, follow: bool = False) -> Iterator[str]:
    """The lines of an events file, whole ones only; with `follow` also those to come, for ever."""
    place, pending = 0, b''
    while True:
        if path.is_file():
            with path.open('rb') as file:
                file.seek(place)
                chunk = file.read()
            place += len(chunk)
            *lines, pending = (pending + chunk).split(b'\n')
            yield from (line.decode() for line in lines)
        if not follow:
            return
        time.sleep(LOOK_SECONDS)


def find(profile: str, results: Path, follow: bool) -> Path:
    """The events of a study; with `follow` also of one that is not begun yet. Raises BadInput where there are none."""
    path = StudyFolder(results / profile).events
    if not follow and not path.is_file():
        there = ', '.join(sorted(found.parent.name for found in results.glob(f'*/{path.name}'))) or 'none'
        raise BadInput(f'no events of {profile!r} in {results} (there: {there}); medpeft run {profile}, or --follow')
    return path
