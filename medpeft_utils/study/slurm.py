"""A study on SLURM: an array of runners on one shared folder. SLURM starts, ends and requeues them; leases do the rest.

Each task of the array is `medpeft run`, as on one machine. It starts no run that its time does not suffice for, ends
before SLURM ends it, and requeues itself while runs are left (`Job`).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from medpeft_utils.core.errors import BadInput, MedpeftError
from medpeft_utils.core.files import read_json, write_bytes, write_json
from medpeft_utils.study.paths import StudyFolder

SIGNAL_SECONDS = 120  # how long before its end a task is warned
OURS = {'array', 'requeue', 'signal', 'open-mode', 'output', 'job-name', 'chdir', 'parsable', 'test-only', 'wrap'}
PROFILE = Path('medpeft') / 'slurm.sh'  # below the user's configuration folder
ASK_SECONDS = 60


class SlurmFault(MedpeftError):
    """SLURM is not here, or refuses; the message has its own words."""


def ask(*command: str, text: str | None = None, fail: bool = True) -> str:
    """What one of SLURM's commands prints. Raises SlurmFault with its words where it fails, and `fail` is not False."""
    if shutil.which(command[0]) is None:
        raise SlurmFault(
            f'{command[0]} is not installed: run this on a host of a SLURM cluster, or without --executor slurm'
        )
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=ASK_SECONDS * 2)
    except subprocess.TimeoutExpired:
        raise SlurmFault(f'{command[0]} gave no answer in {ASK_SECONDS * 2} s') from None
    if done.returncode and fail:
        raise SlurmFault(f'{command[0]}: {(done.stderr or done.stdout).strip()}')
    return done.stdout.strip() if not done.returncode else ''


@dataclass(frozen=True)
class Array:
    """What is asked of SLURM.

    Args:
        workers: tasks of the array, each a runner.
        settings: options of sbatch, such as {'partition': 'gpu', 'time': '04:00:00'}; '' for one without a value.
        header: lines of the site (account, modules, an image), before the command.
        command: arguments of `medpeft run` in a task.
    """

    workers: int
    settings: dict[str, str]
    header: str
    command: list[str]

    def script(self, folder: StudyFolder, first: int = 0, last: int | None = None) -> str:
        """The batch script. A header may set MEDPEFT_COMMAND, as to `apptainer exec medpeft.sif medpeft`."""
        place = (folder.root / 'slurm').resolve()
        tasks = f'{first}-{self.workers - 1 if last is None else last}'
        options = {
            **{'job-name': f'medpeft-{folder.root.name}', 'array': tasks, 'requeue': '', 'open-mode': 'append'},
            **{'signal': f'B:TERM@{self.notice()}', 'output': f'{place}/%A_%a.log', **self.settings},
        }
        lines = [f'#SBATCH --{name}{f"={value}" if value else ""}' for name, value in options.items()]
        marker = shlex.quote(str(place / 'here'))
        usual = shlex.join([sys.executable, '-m', 'medpeft_utils.cli'])
        return '\n'.join(
            [
                *('#!/bin/bash', *lines, self.header.rstrip()),
                f'[ -e {marker} ] || {{ echo "results must be on a disk that this node sees: {place}"; exit 75; }}',
                f'export MEDPEFT_SLURM_NOTICE={self.notice()}',
                # `exec`: the runner itself gets SLURM's signal.
                f'exec ${{MEDPEFT_COMMAND:-{usual}}} {shlex.join(["run", *self.command])}',
                '',
            ]
        )

    def notice(self) -> int:
        """Seconds before its end at which a task is warned: two minutes, or a quarter of its time if shorter."""
        seconds = parse_time(self.settings.get('time', ''), minutes_alone=True)
        return SIGNAL_SECONDS if seconds is None else max(5, min(SIGNAL_SECONDS, int(seconds / 4)))


def parse_time(text: str, minutes_alone: bool = False) -> float | None:
    """Seconds of SLURM's '4', '30:00', '04:00:00', '1-12', '2-03:00:00'; None where it is no such time.

    Args:
        minutes_alone: a lone number means minutes, as for --time; else seconds, as squeue prints.
    """
    match = re.fullmatch(r'(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?', text.strip())
    if not match:
        return None
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:  # days-hours[:minutes[:seconds]]
        numbers = [*numbers, 0, 0][:3]
    elif len(numbers) == 1:
        numbers = [0, *numbers, 0] if minutes_alone else [0, 0, *numbers]
    elif len(numbers) == 2:
        numbers = [0, *numbers]
    return int(days or 0) * 86400.0 + numbers[0] * 3600 + numbers[1] * 60 + numbers[2]


def header_of(path: Path | None) -> str:
    """The site's lines: of a file, else of slurm.sh in the user's configuration folder, else none."""
    config = Path(os.environ.get('XDG_CONFIG_HOME') or Path.home() / '.config')
    path = path or (config / PROFILE if (config / PROFILE).is_file() else None)
    if path is None:
        return ''
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f'--slurm-header {path}: {error}') from error


def check_settings(settings: dict[str, str]) -> None:
    """Raise BadInput for what sbatch does not know, or what this program sets itself."""
    known = set(re.findall(r'--([a-z][\w-]+)', ask('sbatch', '--help')))
    for name, value in settings.items():
        if name in OURS:
            raise BadInput(f'--slurm {name}: the study sets it itself; give other options of sbatch')
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f'; did you mean {close[0]}?' if close else ''
            raise BadInput(f'--slurm {name}: sbatch has no such option{hint} (sbatch --help)')
        if re.search(r'[\n\r\0]', value):
            raise BadInput(f'--slurm {name}: a value must be one line')


def check_shared(folder: StudyFolder, settings: dict[str, str]) -> str:
    """Let a node look at the study's folder, if one is free at once; '' or what could not be found out.

    Raises SlurmFault where a node does not see it.
    """
    marker = (folder.root / 'slurm' / 'here').resolve()
    write_bytes(marker, b'a node that sees this file sees the study\n')
    given = [f'--{name}={settings[name]}' for name in ('partition', 'account', 'qos', 'constraint') if name in settings]
    look = ['srun', '--quiet', '--immediate=10', '--nodes=1', '--ntasks=1', '--time=1', *given]
    command = [*look, '/bin/sh', '-c', f'[ -e {shlex.quote(str(marker))} ] && echo seen || echo unseen']
    answer = ask(*command, fail=False)
    if answer == 'unseen':
        raise SlurmFault(f'a node does not see {marker.parent}: give a folder on a shared disk by --results')
    return '' if answer == 'seen' else 'no node was free to look at the folder; each task looks before it starts'


def submit(array: Array, folder: StudyFolder) -> list[str]:
    """Send the array, in parts where the site allows no array that large; the numbers of the jobs."""
    largest = re.search(r'MaxArraySize\s*=\s*(\d+)', ask('scontrol', 'show', 'config'))
    limit, jobs = max(1, int(largest[1]) - 1) if largest else 1000, []
    for first in range(0, array.workers, limit):
        last = min(first + limit, array.workers) - 1
        path = folder.root / 'slurm' / (f'job_{first}.sh' if first else 'job.sh')
        write_bytes(path, array.script(folder, 0, last - first).encode())
        number = ask('sbatch', '--parsable', str(path)).partition(';')[0]
        jobs.append(number)
        known = read_json(_jobs_file(folder)) or []
        write_json(_jobs_file(folder), [*known, {'job': number, 'workers': last - first + 1, 'sent': time.time()}])
    return jobs


def _jobs_file(folder: StudyFolder) -> Path:
    return folder.root / 'slurm' / 'jobs.json'


def jobs_of(folder: StudyFolder) -> list[str]:
    """The numbers of the jobs that were sent for a study."""
    return [job['job'] for job in read_json(_jobs_file(folder)) or []]


def job_lines(folder: StudyFolder) -> list[str]:
    """A line a task that SLURM knows of: number, state, node, time, reason. Empty where nothing was sent."""
    jobs = jobs_of(folder)
    if not jobs:
        return []
    if shutil.which('squeue') is None:
        return [f'jobs {", ".join(jobs)}; no squeue here to ask for their states']
    lines = []
    for job in jobs:  # one by one: squeue refuses all where one is forgotten
        shown = ask('squeue', '--noheader', '--array', f'--jobs={job}', '--format=%i  %T  %N  %M  %r', fail=False)
        lines += shown.splitlines()
    return ['jobs in SLURM', *(f'  {line}' for line in lines)] if lines else ['jobs in SLURM: none any more']


def stop(folder: StudyFolder) -> list[str]:
    """Cancel the jobs of a study; their numbers. Raises BadInput where none were sent."""
    jobs = jobs_of(folder)
    if not jobs:
        raise BadInput(f'no job was sent for {folder.root}; Ctrl-C ends a study that runs at a terminal')
    for job in jobs:
        ask('scancel', job, fail=False)
    return jobs


class Job:
    """The SLURM job in which this runner is a task: how much time it has, and how it comes back."""

    def __init__(self) -> None:
        array, task = (os.environ.get(f'SLURM_ARRAY_{name}') for name in ('JOB_ID', 'TASK_ID'))
        # Not SLURM_JOB_ID: that of the last task is also the number of the whole array.
        self.number = f'{array}_{task}' if task else os.environ.get('SLURM_JOB_ID', '')
        if not self.number:
            raise SlurmFault('--in-slurm outside a SLURM job; only the batch script gives it')
        self.notice = int(os.environ.get('MEDPEFT_SLURM_NOTICE', SIGNAL_SECONDS))
        seconds = None
        with contextlib.suppress(SlurmFault):  # without an answer: until it is told
            seconds = parse_time(ask('squeue', '--noheader', f'--jobs={self.number}', '--format=%L'))
        self.began, self.seconds = time.monotonic(), seconds

    def left(self) -> float | None:
        """Seconds until this task is warned; None without a limit."""
        if self.seconds is None:
            return None
        return self.seconds - self.notice - (time.monotonic() - self.began)

    def has_time_for(self, expected: float | None) -> bool:
        """Whether a run fits; the first in a fresh job always does, since its checkpoint goes on in the next."""
        left = self.left()
        if left is None:
            return True
        fresh = time.monotonic() - self.began < 0.1 * self.seconds
        return left > 0 and (fresh or expected is None or expected < left)

    def is_over(self) -> bool:
        """Whether its time, and not a user or a more urgent job, ends it. SLURM may signal a minute early."""
        left = self.left()
        return left is not None and left < max(60.0, 0.1 * self.seconds)

    def requeue(self) -> None:
        """Let SLURM start this task again, where there is time for it."""
        ask('scontrol', 'requeue', self.number, fail=False)
