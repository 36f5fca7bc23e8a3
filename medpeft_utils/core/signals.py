"""Signals: handlers that hold within a block, and a request to end that waits until work can be put down."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def handled(handlers: dict[int, Callable]) -> Iterator[None]:
    """Handlers by signal, within the block. Outside of the main thread, where Python allows none, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deferred(number: int, defer: bool = True) -> Iterator[list[int]]:
    """Within the block the signal is noted in the list that it gives, and takes effect at the block's end.

    Args:
        number: of the signal, as SIGTERM.
        defer: where False, nothing changes and the list stays empty.
    """
    noted: list[int] = []
    try:
        with handled({number: lambda *_: noted.append(number)} if defer else {}):
            yield noted
    finally:
        if noted:
            signal.raise_signal(number)
