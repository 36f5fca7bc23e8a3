"""Execute the runs of a grid, in whatever order kills and other runners leave to it.

A run is settled once its record is on disk. What is settled is skipped; whoever starts a run takes its lease first
(`core/shared.py`); whoever finds its owner gone does it again, in a folder of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpeft_utils.core.errors import MedpeftError
from medpeft_utils.core.files import (
    StorageFault,
    append_line,
    cannot_write,
    check_writable,
    storage,
    write_bytes,
    write_json,
)
from medpeft_utils.core.shared import Lease
from medpeft_utils.core.signals import handled
from medpeft_utils.study import records
from medpeft_utils.study.check import with_data_root
from medpeft_utils.study.grid import Grid, Run, dump
from medpeft_utils.study.identity import code_version
from medpeft_utils.study.machine import commit, cores, threads_for
from medpeft_utils.study.paths import StudyFolder
from medpeft_utils.study.pool import Pool
from medpeft_utils.study.progress import Counts, Progress, TimeLeft, Times, duration, earlier_times
from medpeft_utils.study.queue import Queue, Room
from medpeft_utils.study.slurm import Job
from medpeft_utils.study.worker import OUTCOME, PLAN, STORAGE_EXIT, Outcome, described, remove_left_sockets, stamp

CHECK_LEASE = 10.0
SHOW_SECONDS = 0.5
SIGNAL_GRACE = 0.3
STOP_SECONDS = 60.0  # that runs get to write their checkpoints
# Errors that may pass at a second try, as when other runs needed the memory; any other comes again.
PASSING = {'MemoryError', 'OutOfMemoryError', 'KernelDied', 'WorkerDied'}
NO_MEMORY = re.compile(r"can(no|')t allocate memory", re.IGNORECASE)  # torch on a CPU, and the operating system
TRIES = 2


@dataclass(frozen=True)
class Options:
    """How to execute a grid.

    Args:
        jobs: runs at a time; `queue.AUTO` for as many as fit in memory.
        threads: of every run; where 0, OMP_NUM_THREADS if it is set, else the cores shared out among the jobs.
        limit: most runs to start; None for all.
        retry: do runs again that failed or died before.
        plain: start a new kernel for every run instead of forking one.
        time_limit: seconds after which a run is ended and counts as failed; None for never.
        data_root: where the published downloads lie; a relative `data_folder` is looked up in it.
        earlier: records.jsonl of an earlier study, whose times say how long runs take against one another.
        job: the SLURM job whose time runs must fit in; None outside of one.
    """

    jobs: int = 1
    threads: int = 0
    limit: int | None = None
    retry: bool = False
    plain: bool = False
    time_limit: float | None = None
    data_root: Path | None = None
    earlier: Path | None = None
    job: Job | None = None


@dataclass
class Active:
    """A run that this runner executes now; `began` and `checked` (its lease) by the monotonic clock."""

    run: Run
    lease: Lease
    attempt: int
    place: int  # `Room.place_for`
    folder: Path
    began: float
    checked: float
    overdue: bool = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


class Runner:
    """Executes runs of one study.

    Args:
        grid: the grid that they come from.
        runs: those to do, in the order of preference.
        folder: of the study.
        options: how.
        progress: where to show it.
        on_complete: called with the name of a family when the last of its runs has ended; the id of a process that it
            starts, which goes on beside the runs.
    """

    def __init__(
        self,
        grid: Grid,
        runs: list[Run],
        folder: StudyFolder,
        options: Options,
        progress: Progress,
        on_complete: Callable[[str], int | None] = lambda family: None,
    ):
        self.grid, self.folder, self.options, self.progress = grid, folder, options, progress
        self.name, self.commit = uuid.uuid4().hex[:12], commit()
        self.threads = options.threads or threads_for(options.jobs or cores())
        self.room = Room.here(options.jobs, cores() // self.threads)
        self.times, self.counts = Times(earlier_times(self._earlier())), Counts()
        self.active: dict[str, Active] = {}
        self.stopping, self.started, self.fault = 0, 0, None
        self.out_of_time = False  # this job has too little time for any run that is left
        self.put_down_by: float | None = None
        self.said_of_others = False
        self.too_long: set[str] = set()  # for what is left of this job
        self.full = False  # nothing fits beside what is active
        self.shown = 0.0
        self.again = self._failed(runs) if options.retry else {}
        self.queue = Queue((run for run in runs if not self._count(run)), folder)
        self.on_complete, self.families = on_complete, self._families()

    def _earlier(self) -> Iterator[dict[str, Any]]:
        path = self.options.earlier
        for record in records.contents(path) if path and path.is_file() else ():
            if isinstance(record, dict):
                self.room.note(record)
                yield record

    def _failed(self, runs: list[Run]) -> dict[str, int]:
        """Run -> the attempt that failed, which `retry` wants replaced."""
        found = ((run.hash, records.read(self.folder.record(run.hash))) for run in runs)
        return {key: record.get('attempt', 1) for key, record in found if record and record['status'] != 'done'}

    def _count(self, run: Run, seconds: float | None = None) -> bool:
        """Count a run that is settled; False where it is to be done: it has no record, or a second try may better it.

        Args:
            seconds: that it took, where they were measured.
        """
        record = records.read(self.folder.record(run.hash))
        if record is None:
            return False
        status, error, attempt = record['status'], record.get('error') or {}, record.get('attempt', 1)
        if status != 'done':
            passing = error.get('type') in PASSING or NO_MEMORY.search(error.get('message') or '')
            if self.again.get(run.hash) == attempt or (attempt < TRIES and (status == 'died' or passing)):
                return False
        setattr(self.counts, status, getattr(self.counts, status) + 1)
        if status == 'done':
            self.room.note(record)
            search = (record.get('cost') or {}).get('search_seconds')
            self.times.add(run, seconds or record['time'].get('total_seconds'), search)
        return True

    def execute(self) -> Counts:
        """Do all runs, or as many as the options and the user's patience allow.

        Raises:
            StorageFault: results cannot be written. Nothing that is recorded is harmed.
        """
        check_writable(self.folder.root)
        write_bytes(self.folder.grid, dump(self.grid, self.folder.grid).encode())
        self._event('study', runs=len(self.queue), settled=vars(self.counts), jobs=self.options.jobs or 'auto')
        if not self.queue:
            return self._now()
        remove_left_sockets()
        self.pool = Pool(self.threads, self.grid.preload, self.options.plain)
        try:
            with handled({signal.SIGINT: lambda *_: self._stop(1), signal.SIGTERM: lambda *_: self._stop(2)}):
                while self._step():
                    pass
        finally:
            self.pool.close()
            self.progress.close()
            for active in self.active.values():
                active.lease.release()
        if self.fault:
            raise self.fault
        return self._now()

    def _step(self) -> bool:
        """Start what can be started and take note of what has happened; False when nothing is left to do."""
        while not self.stopping and self._start_next():
            pass
        if not self.active and (self.stopping or not self._left()):
            return False
        if self.stopping > 1 and self._has_put_down():
            return False
        for run, code in self.pool.wait(0.2).items():
            active = self.active.pop(run)
            try:
                self._settle(active, code)
            finally:
                active.lease.release()
        for active in self.active.values():
            self._keep(active)
        before, self.families = self.families, self._families()
        for family in before - self.families:
            self.pool.spare(self.on_complete(family))
        if self.progress.live and time.monotonic() - self.shown > SHOW_SECONDS:
            self.shown = time.monotonic()
            self.progress.show(self._now(), self._time_left())
        return True

    def _families(self) -> set[str]:
        """Families of which a run waits or is executed."""
        return {run.family for run in [*self.queue.runs.values(), *(active.run for active in self.active.values())]}

    def _left(self) -> int:
        limit = self.options.limit
        return len(self.queue) if limit is None else min(len(self.queue), max(0, limit - self.started))

    def _now(self) -> Counts:
        self.counts.running, self.counts.left = len(self.active), self._left()
        return self.counts

    def _time_left(self) -> TimeLeft:
        waiting = itertools.islice(self.queue.runs.values(), self._left())
        running = [(active.run, active.seconds) for active in self.active.values()]
        return self.times.left(waiting, running, self.options.jobs or max(1, len(running)))

    # Starting

    def _start_next(self) -> bool:
        """Start the first run that nobody else has claimed; False where there is none at present."""
        if not self._left() or len(self.active) >= self.room.most or self.full:
            return False
        active = list(self.active.values())
        for run in self.queue.candidates({one.run.group for one in active}):
            place = self.room.place_for(run, ((one.run, one.place) for one in active))
            self.full |= place is None
            if place is None or run.hash in self.too_long:
                continue
            if self._count(run):
                self.queue.remove(run)
            elif self.options.job and not self.options.job.has_time_for(self.times.expected(run)):
                self.too_long.add(run.hash)
            elif (lease := self.queue.take(run)) and self._start(run, lease, place):
                return True
        if self.too_long and not self.active:
            self.progress.say(f'{len(self.too_long)} runs do not fit in the time that is left to this job')
            self.stopping, self.out_of_time = 1, True
        elif not self.active and not self.said_of_others and self.queue:
            self.said_of_others = True
            self.progress.say(f'{len(self.queue)} runs are being done by another runner; this one waits, should it end')
        return False

    def _start(self, run: Run, lease: Lease, place: int) -> bool:
        if self._count(run):  # again: its record may have been written until we had the lease
            lease.release()
            return False
        if run.code != code_version(run.notebook, run.parameters):
            reason = f'{run.experiment}: the code has changed since this study was started; start it again'
            self.fault, self.stopping = MedpeftError(reason), max(self.stopping, 1)
            lease.release()
            return False
        earlier, now = records.read(self.folder.record(run.hash)), time.monotonic()
        attempt = earlier.get('attempt', 1) + 1 if earlier else 1
        folder = self.folder.run(run.hash).resolve() / f'{attempt}-{lease.token[:8]}'
        active = self.active[run.hash] = Active(run, lease, attempt, place, folder, began=now, checked=now)
        self.started += 1
        if report := self.pool.start(self._job(active)):
            self._event('ready', **report)
            active.began = time.monotonic()
        self._event('start', run=run.hash, label=run.label, attempt=attempt)
        return True

    def _job(self, active: Active) -> dict[str, Any]:
        """Prepare the attempt's folder; what its process gets to know."""
        run, folder = active.run, active.folder
        with storage(folder):
            folder.mkdir(parents=True)
        for earlier in folder.parent.iterdir():
            if earlier.is_dir() and earlier != folder:
                shutil.rmtree(earlier, ignore_errors=True)  # a half-finished attempt, or a failed one
        parameters = with_data_root(run.parameters, self.options.data_root)
        plan = {
            **{'run': run.hash, 'profile': self.grid.profile, 'experiment': run.experiment, 'family': run.family},
            **{'parameters': parameters, 'code_version': run.code, 'attempt': active.attempt},
            **{'commit': self.commit, 'started': stamp()},
            'lease': {'path': str(active.lease.path.resolve()), 'token': active.lease.token},
        }
        write_json(folder / PLAN, plan, durable=False)
        # Of several cards each run sees one; more runs than cards share them.
        cards = {'CUDA_VISIBLE_DEVICES': self.room.cards[active.place]} if len(self.room.cards) > 1 else {}
        return {
            **{'run': run.hash, 'notebook': str(run.notebook), 'folder': str(folder), 'cwd': str(Path.cwd())},
            **{'parameters': {**parameters, 'record_folder': str(folder)}, 'threads': self.threads},
            'environment': cards,
        }

    # What happens to runs

    def _settle(self, active: Active, code: int) -> None:
        """A run's process has ended: see to it that there is a record, and make room for the next run."""
        run, folder, seconds = active.run, active.folder, active.seconds
        self.full = False
        outcome = Outcome.read(folder)
        record = records.read(self.folder.record(run.hash))
        if record is None or record.get('folder') != folder.name:  # none, or one of an earlier attempt
            record = None
            if code == STORAGE_EXIT and outcome:
                raise StorageFault(outcome.message)
            if code == STORAGE_EXIT:  # not even its account fitted
                raise cannot_write(folder, 'no space left on device, or read-only')
            if outcome is None or outcome.status == 'died':
                time.sleep(SIGNAL_GRACE)  # a scheduler ends a run's processes and this one together
                if self.stopping > 1:
                    self.queue.add(run)
                    return
            if not active.lease.is_held():
                self._event('lost', run=run.hash)
                self.queue.add(run)  # another runner does it: it is looked at again until its record is there
                return
            record = self._record_failure(active, outcome, code)
        with contextlib.suppress(OSError):  # a full disk may refuse even this; the record is there
            (folder / OUTCOME).unlink(missing_ok=True)
        again = not self._count(run, seconds)
        if again:
            self.queue.add(run)
        self._tell(run, record, seconds, again, outcome.cpu_seconds if outcome else None)

    def _record_failure(self, active: Active, outcome: Outcome | None, code: int) -> dict[str, Any]:
        """Record a run whose process has left no record."""
        run, limit = active.run, self.options.time_limit
        if active.overdue:
            reason = f'not finished after {limit:g} s; the limit is --time-limit'
            outcome = Outcome('failed', 'TimeLimit', reason)
        elif outcome is None:
            outcome = Outcome('died', 'WorkerDied', f'the process of the run ended{described(code)}')
        about = {'run': run.hash, 'experiment': run.experiment, 'code_version': run.code, 'attempt': active.attempt}
        about |= {'parameters': run.parameters, 'time': {'total_seconds': round(active.seconds, 3)}}
        record = outcome.record(active.folder, **about)
        records.write(record, active.folder.parent)
        return record

    def _tell(self, run: Run, record: dict[str, Any], seconds: float, again: bool, cpu: float | None) -> None:
        status, error = record['status'], record.get('error')
        about = {'run': run.hash, 'label': run.label, 'status': status, 'seconds': round(seconds, 3)}
        self._event('end', **about, cpu_seconds=cpu, error=error)
        text = f'{status}  {run.label}  {seconds:.1f} s'
        if error:
            more = '; it is tried again' if again else ''
            text += f' (run {run.hash})\n    {error["type"]}: {error["message"]}{more}'
        self.progress.ended(text, self._now(), self._time_left(), notable=error is not None)

    def _keep(self, active: Active) -> None:
        """Show that a run is being worked on; end it where another has taken it over, or where it takes too long."""
        limit = self.options.time_limit
        if limit and not active.overdue and active.seconds > limit:
            active.overdue = True
            self.pool.kill(active.run.hash)
        if time.monotonic() - active.checked > CHECK_LEASE:
            active.checked = time.monotonic()
            if not active.lease.is_held():
                self.pool.kill(active.run.hash)

    # Stopping

    def _stop(self, least: int) -> None:
        """A signal: the first lets runs finish, the second (or SIGTERM) asks them to end, the third ends them."""
        self.stopping = max(least, self.stopping + (least == 1))
        if self.stopping == 1:
            running = list(self.active.values())
            seconds = max(((self.times.expected(active.run) or 0) - active.seconds for active in running), default=0)
            takes = f', {duration(seconds)} to go' if seconds > 0 else ''
            runs = f'{len(running)} run{"s" if len(running) != 1 else ""}'
            self.progress.say(f'finishing {runs}{takes}; press Ctrl-C again to stop now and continue later')

    def _has_put_down(self) -> bool:
        """Ask runs to end, once; whether there is no more time, or patience, to wait for their checkpoints."""
        if self.put_down_by is None:
            job = self.options.job
            self.put_down_by = time.monotonic() + (min(STOP_SECONDS, job.notice / 2) if job else STOP_SECONDS)
            self.pool.ask_to_end()
        return self.stopping > 2 or time.monotonic() > self.put_down_by

    def _event(self, name: str, **details: Any) -> None:
        append_line(self.folder.events, {'time': stamp(), 'runner': self.name, 'event': name, **details})
