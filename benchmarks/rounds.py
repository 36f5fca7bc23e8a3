"""Candidates in processes of their own, timed in turns.

A machine that is busy at times slows whoever runs then. So every candidate gets short turns, one after the other, over
several rounds; only one process computes at a time; and candidates are compared within a round.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

PRELOAD = ['torch', 'timm', 'peft', 'benchmarks.candidates']
START_SECONDS, TURN_SECONDS = 300.0, 1800.0


class Broken(RuntimeError):
    """A candidate's process raised, or ended; the message says what it said last."""


@dataclass
class Timed:
    """What a candidate took.

    Args:
        seconds: a step's, a value a round.
        peak_memory_mb: on a GPU the allocator's peak; else the process' peak above what it held before it began.
        error: why there is nothing, or ''.
    """

    seconds: list[float] = field(default_factory=list)
    peak_memory_mb: float | None = None
    error: str = ''

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds and not self.error else None


def ratio(above: Timed, below: Timed) -> float | None:
    """The median over rounds of seconds over seconds; None where one of the two failed."""
    if above.error or below.error or not above.seconds:
        return None
    return statistics.median(a / b for a, b in zip(above.seconds, below.seconds, strict=True))


class Process:
    """A candidate or a question in a process of its own, forked from one that has the imports where possible."""

    def __init__(self, spec: dict[str, Any]):
        way = 'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
        context = multiprocessing.get_context(way)
        if way == 'forkserver':
            context.set_forkserver_preload(PRELOAD)
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, spec), daemon=True)
        self.process.start()
        other.close()

    def answer(self, seconds: float) -> Any:
        """What the process sends next. Raises Broken where it sends an error, nothing in time, or has ended."""
        try:
            if not self.connection.poll(seconds):
                raise Broken(f'no answer within {seconds:.0f} s')
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self.process.join(10)
            raise Broken(f'the process ended with exit code {self.process.exitcode}') from error
        if kind == 'error':
            raise Broken(value)
        return value

    def turn(self, steps: int) -> float:
        """Seconds a step over a turn of `steps`."""
        try:
            self.connection.send(steps)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Broken('the process has ended') from error
        return self.answer(TURN_SECONDS)

    def end(self) -> None:
        """Close the connection, which ends the process; one that computes still is killed."""
        self.connection.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def ask(spec: dict[str, Any]) -> dict[str, Any]:
    """A question (`candidates.QUESTIONS`) answered in a process of its own. Raises Broken."""
    process = Process(spec)
    try:
        return process.answer(TURN_SECONDS)
    finally:
        process.end()


def alternate(specs: dict[str, dict[str, Any]], rounds: int, steps: int) -> dict[str, Timed]:
    """Time candidates in turns, after one turn each to warm up.

    Args:
        specs: name to description (`candidates.CANDIDATES`).
        rounds: how many turns each has; every other round goes through them backwards.
        steps: in a turn.
    """
    timed = {name: Timed() for name in specs}
    with contextlib.ExitStack() as stack:
        processes = {name: Process(spec) for name, spec in specs.items()}
        for process in processes.values():
            stack.callback(process.end)
        for name, process in processes.items():
            _attempt(timed[name], lambda process=process: (process.answer(START_SECONDS), process.turn(steps)))
        for order in _orders(list(specs), rounds):
            for name in order:
                if not timed[name].error:
                    _attempt(timed[name], lambda name=name: timed[name].seconds.append(processes[name].turn(steps)))
        for name, process in processes.items():
            if not timed[name].error:
                timed[name].peak_memory_mb = process.turn(0)
    return timed


def _orders(names: list[str], rounds: int) -> Iterator[list[str]]:
    for number in range(rounds):
        yield names[:: -1 if number % 2 else 1]


def _attempt(timed: Timed, work: Any) -> None:
    try:
        work()
    except Broken as broken:
        timed.error = str(broken)


def _serve(connection: Connection, spec: dict[str, Any]) -> None:
    """The process' life: a question is answered at once; a candidate takes turns until the connection is closed."""
    import torch

    from benchmarks.candidates import CANDIDATES, QUESTIONS
    from medpeft_utils.training.loop import peak_memory_mb

    torch.set_num_threads(spec['threads'])
    device = torch.device(spec['device'])
    idle = peak_memory_mb(device) if device.type == 'cpu' else 0.0
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        try:
            if spec['candidate'] in QUESTIONS:
                connection.send(('answer', QUESTIONS[spec['candidate']](spec)))
                return
            turn = CANDIDATES[spec['candidate']](spec)
            connection.send(('answer', 'ready'))
            while True:
                steps = connection.recv()
                connection.send(('answer', _turn(turn, steps, device) if steps else peak_memory_mb(device) - idle))
        except (RuntimeError, ValueError, TypeError, LookupError, MemoryError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            connection.send(('error', f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}'))


def _turn(turn: Any, steps: int, device: Any) -> float:
    """A turn; on a GPU after a step to warm up again, and its memory is given back for whose turn comes next."""
    if device.type != 'cuda':
        return turn(steps)
    import torch

    turn(1)
    seconds = turn(steps)
    gc.collect()
    torch.cuda.empty_cache()
    return seconds
