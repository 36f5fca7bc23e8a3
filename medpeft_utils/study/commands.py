"""`medpeft run`, `retry`, `stop`, `status`, `show` and `events`, and what other commands have in common with them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import click

from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.files import write_bytes
from medpeft_utils.core.schema import parse_yaml
from medpeft_utils.study.grid import Grid, Run, dump, identified, known, load_grid, selected
from medpeft_utils.study.paths import StudyFolder, find_grid, notebooks_folder, project_root

if TYPE_CHECKING:
    from medpeft_utils.study.progress import Progress

RESULTS = click.option(
    '--results', type=click.Path(path_type=Path), default=Path('results'), show_default=True, help='Folder of records.'
)
FIGURES = click.option(
    '--figures', type=click.Path(path_type=Path), default=Path('figures'), show_default=True, help='Folder of figures.'
)
FAILED_EXIT = 1
INTERRUPTED_EXIT = 130


def pairs(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """'key=value' options as a dictionary."""
    given = {}
    for text in values:
        name, sign, value = text.partition('=')
        if not sign:
            raise BadInput(f'{option.opts[0]} {text!r}: give key=value, such as experiment=vit')
        given[name] = value
    return given


def finite(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A number: click takes NaN for one."""
    if value is not None and not math.isfinite(value):
        raise BadInput(f'{option.opts[0]} {value} is not finite')
    return value


class Jobs(click.IntRange):
    """A number, or 'auto', which is 0 (`queue.AUTO`)."""

    name = 'N|auto'

    def convert(self, value: Any, option: click.Parameter | None, context: click.Context | None) -> int:
        return 0 if value in ('auto', 0) else super().convert(value, option, context)


def typed_pairs(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """'key=value' options with values as a grid file would have them."""
    given = pairs(context, option, values)
    return {
        name: parse_yaml(value, f'{option.opts[0]} {name}={value}') if value else '' for name, value in given.items()
    }


def _together(*options: Callable) -> Callable:
    """Several options as one decorator."""

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


KEY_VALUE = {'multiple': True, 'metavar': 'KEY=VALUE'}
settings_option = click.option('--set', 'settings', callback=typed_pairs, help='A parameter of all runs.', **KEY_VALUE)
# What every command takes that works on a grid.
_grid_options = _together(
    click.argument('name', metavar='GRID'),
    click.option('--only', '--where', 'only', callback=pairs, help='Only runs with this value.', **KEY_VALUE),
    settings_option,
    click.option('--profile', default='', help="Name of the study, instead of the grid's."),
    RESULTS,
)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
JOBS_HELP = "Runs at a time; 'auto': as many as fit in the memory of the GPUs, or of the machine."
THREADS_HELP = 'Threads of a run  [default: OMP_NUM_THREADS, else cores / jobs].'
KEPT_HELP = 'records.jsonl of an earlier machine; its runs are done.'
# What every command takes that executes runs.
run_options = _together(
    click.option('--jobs', default='1', show_default=True, type=Jobs(1), help=JOBS_HELP),
    click.option('--threads', default=0, type=click.IntRange(0), help=THREADS_HELP),
    click.option('--data-root', type=FOLDER, help='Folder of the published downloads.'),
    click.option('--limit', type=click.IntRange(1), help='Start at most this many runs.'),
    click.option('--time-limit', type=click.FloatRange(1), callback=finite, help='Seconds after which a run is ended.'),
    click.option('--kept', type=click.Path(path_type=Path), help=KEPT_HELP),
    click.option('--plain-kernels', is_flag=True, help='A new kernel for every run: slow but portable.'),
)


def _open(name: str, only: dict, settings: dict, profile: str, results: Path) -> tuple[Grid, list[Run], StudyFolder]:
    grid = load_grid(find_grid(name, results), settings, profile)
    folder = StudyFolder(results / grid.profile)
    runs = identified(grid.runs, known(folder))
    return grid, selected(runs, only) if only else runs, folder


@click.command()
@_grid_options
@run_options
@click.option('--dry-run', is_flag=True, help='Check the grid and list its runs; with SLURM, show the script.')
@click.option(
    '--executor', type=click.Choice(['here', 'slurm']), default='here', show_default=True, help='Run here or by SLURM.'
)
@click.option('--workers', default=1, show_default=True, type=click.IntRange(1), help='With SLURM: tasks of the array.')
@click.option('--slurm', 'asked', callback=pairs, help='sbatch option, such as partition=gpu.', **KEY_VALUE)
@click.option('--slurm-header', type=click.Path(path_type=Path), help="File of your site's lines for the script.")
@click.option('--in-slurm', is_flag=True, hidden=True)
def run(
    name: str, only: dict, settings: dict, profile: str, results: Path, dry_run: bool, executor: str, **options: Any
) -> None:
    """Execute the runs of GRID (a name such as demo, or a file), except those that are done."""
    from medpeft_utils.study.check import check

    grid, runs, folder = _open(name, only, settings, profile, results)
    array = {key: options.pop(key) for key in ('workers', 'asked', 'slurm_header')}
    if executor == 'slurm':
        _send(grid, runs, folder, only, dry_run, array, options)
    elif dry_run:
        check(grid, runs)
        click.echo('\n'.join(f'{run.hash}  {run.label}' for run in runs))
    else:
        execute(grid, runs, folder, retry=False, **options)


def _send(
    grid: Grid,
    runs: list[Run],
    folder: StudyFolder,
    only: dict[str, str],
    dry_run: bool,
    array: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Check the grid and pack the data here, then let SLURM do the runs."""
    from medpeft_utils.study import slurm
    from medpeft_utils.study.check import check, prepare

    slurm.check_settings(array['asked'])
    check(grid, runs)
    command = [str(folder.grid.resolve()), '--results', str(folder.root.parent.resolve()), '--in-slurm']
    command += [word for name, value in only.items() for word in ('--only', f'{name}={value}')]
    command += ['--jobs', str(options['jobs'] or 'auto')]
    for name in ('threads', 'time_limit', 'data_root', 'kept'):
        if value := options[name]:
            command += [f'--{name.replace("_", "-")}', str(value.resolve() if isinstance(value, Path) else value)]
    command += ['--plain-kernels'] if options['plain_kernels'] else []
    asked = slurm.Array(array['workers'], array['asked'], slurm.header_of(array['slurm_header']), command)
    if dry_run:
        click.echo(asked.script(folder))
        return
    prepare(runs, folder, options['data_root'], click.echo)
    write_bytes(folder.grid, dump(grid, folder.grid).encode())
    if doubt := slurm.check_shared(folder, array['asked']):
        click.echo(doubt)
    jobs = slurm.submit(asked, folder)
    click.echo(f'{grid.title}: {len(runs)} runs, {array["workers"]} workers, job {", ".join(jobs)}')
    click.echo(f'medpeft status {grid.profile} shows where it stands, medpeft stop {grid.profile} cancels it')


@click.command()
@click.argument('profile')
@RESULTS
def stop(profile: str, results: Path) -> None:
    """Cancel the SLURM jobs of PROFILE. Finished runs are recorded; `medpeft run` continues from them."""
    from medpeft_utils.study import slurm

    click.echo(f'cancelled: {", ".join(slurm.stop(StudyFolder(results / profile)))}')


@click.command()
@_grid_options
@run_options
@click.option('--failed', is_flag=True, help='Required: retry the runs that failed or died.')
def retry(name: str, only: dict, settings: dict, profile: str, results: Path, failed: bool, **options: Any) -> None:
    """Repeat the runs of GRID that failed or died, and no others."""
    from medpeft_utils.study.status import states

    if not failed:
        raise BadInput('name what to retry: medpeft retry --failed GRID')
    grid, runs, folder = _open(name, only, settings, profile, results)
    runs = [state.run for state in states(runs, folder) if state.state in ('failed', 'died')]
    if runs:
        execute(grid, runs, folder, retry=True, **options)
    else:
        click.echo('nothing failed')


def execute(
    grid: Grid,
    runs: list[Run],
    folder: StudyFolder,
    plain_kernels: bool,
    kept: Path | None = None,
    in_slurm: bool = False,
    **options: Any,
) -> None:
    """Check, make the data ready, run, and report the result by a line and by the exit code."""
    from medpeft_utils.study import records
    from medpeft_utils.study.check import check, prepare
    from medpeft_utils.study.progress import Progress
    from medpeft_utils.study.runner import Options, Runner
    from medpeft_utils.study.slurm import Job

    check(grid, runs)
    runs = identified(runs, prepare(runs, folder, options['data_root'], click.echo))
    if kept:
        click.echo(f'{kept}: {records.adopt(kept, [run.hash for run in runs], folder.root)} runs taken as done')
    earlier = options.pop('earlier', None) or kept or _records_of(grid)
    job = Job() if in_slurm else None
    chosen = Options(plain=plain_kernels, earlier=earlier, job=job, **options)
    progress = Progress(grid.profile)
    with Drawing(grid, folder, progress) as drawing:
        runner = Runner(grid, runs, folder, chosen, progress, *([] if in_slurm else [drawing.draw]))
        click.echo(f'{grid.title}: {len(runs)} runs, {len(runner.queue)} to do, in {folder.root}')
        counts = runner.execute()
    click.echo(f'{grid.profile}: {counts}')
    if counts.failed or counts.died:
        click.echo(f'failures: medpeft status {grid.profile} --failed · again: medpeft retry --failed {grid.profile}')
    left = len(runner.queue) + len(runner.active)  # these were ended before they could put down what they did
    if job and left and (job.is_over() or runner.out_of_time):
        click.echo(f'{left} runs are left: job {job.number} is queued again')
        job.requeue()
        return
    if runner.stopping:
        raise SystemExit(INTERRUPTED_EXIT)
    if counts.failed or counts.died:
        raise SystemExit(FAILED_EXIT)


def _records_of(grid: Grid) -> Path:
    """Records that are kept of a grid, under whatever profile it is run now; they tell how long its runs take."""
    figures = project_root() / 'figures'
    paths = [figures / name / 'records.jsonl' for name in (grid.profile, grid.path.stem)]
    return next((path for path in paths if path.is_file()), paths[0])


class Drawing:
    """Draws what a grid names for a family (`Grid.figures`) beside the study, in a process of its own.

    Args:
        grid: the grid that is run.
        folder: its results; the figures go into the folder `figures` beside them.
        progress: what is drawn is named there.
    """

    def __init__(self, grid: Grid, folder: StudyFolder, progress: Progress):
        self.grid, self.folder, self.progress = grid, folder, progress
        self.told: list[Thread] = []

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self.told:
            thread.join()

    def draw(self, family: str) -> int | None:
        """Draw the figures of a family whose runs have ended, while the study goes on; the id of the process."""
        if not (names := self.grid.figures.get(family)):
            return None
        results = self.folder.root.parent
        command = [sys.executable, '-m', 'medpeft_utils.cli', 'report', self.grid.profile, '--results', str(results)]
        command += ['--figures', str(results.parent / 'figures'), *(f'--only={name}' for name in names)]
        pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'stdin': subprocess.DEVNULL, 'text': True}
        process = subprocess.Popen(command, env=os.environ | {'OMP_NUM_THREADS': '1'}, **pipes)
        self.told.append(Thread(target=self._tell, args=(names, process)))
        self.told[-1].start()
        return process.pid

    def _tell(self, names: list[str], process: subprocess.Popen) -> None:
        out, err = process.communicate()
        for line in out.splitlines():
            self.progress.say(line)
        if process.returncode:  # a study is not ended by a figure; `medpeft report` says more
            last = (err.strip().splitlines() or [f'exit code {process.returncode}'])[-1]
            self.progress.say(f'{", ".join(names)}: not drawn: {last}')


@click.command()
@_grid_options
@click.option('--failed', is_flag=True, help='Show the runs that failed or died, with their last lines.')
@click.option('--list', 'listed', is_flag=True, help='Print one line per run.')
@click.option('--json', 'as_json', is_flag=True, help='Print the same as JSON.')
def status(name: str, only: dict, settings: dict, profile: str, results: Path, **shown: bool) -> None:
    """Show where the runs of GRID stand."""
    from medpeft_utils.study import status as study
    from medpeft_utils.study.slurm import job_lines

    grid, runs, folder = _open(name, only, settings, profile, results)
    found = study.states(runs, folder)
    if shown['as_json']:
        click.echo(json.dumps(study.as_json(grid, found), indent=1))
        return
    lines = [f'{grid.title} ({folder.root})', *study.count_table(found)]
    lines += [f'the grid file: {fault}' for fault in grid.faults]
    lines += job_lines(folder)
    if shown['failed']:
        lines += ['', *(study.failure_lines(found) or ['nothing failed'])]
    if shown['listed']:
        lines += ['', *study.run_lines(found)]
    click.echo('\n'.join(lines))


@click.command()
@click.argument('run')
@RESULTS
def show(run: str, results: Path) -> None:
    """Show one RUN: parameters, metrics, curve, error, notebook. The first characters of its hash are enough."""
    from medpeft_utils.study.status import describe, find_run

    click.echo('\n'.join(describe(find_run(run, results))))


@click.command()
@click.argument('profile')
@click.option('--follow', is_flag=True, help='Keep printing new events until Ctrl-C.')
@RESULTS
def events(profile: str, follow: bool, results: Path) -> None:
    """Print what happens in PROFILE as JSON lines, for other tools.

    Every line has time, runner and event. The events: study (runs to do, settled, jobs), ready (seconds of imports),
    start (run, label, attempt), end (run, label, status, seconds, cpu_seconds, error), lost (run, to another runner).
    """
    from medpeft_utils.study.status import find_events, stream_events

    for line in stream_events(find_events(profile, results, follow), follow):
        click.echo(line)


def render(profile: str, results: Path, figures: Path, by: tuple[str, ...]) -> None:
    """Render all figures and tables of a study from its records.

    Args:
        by: subgroups: a column, or one with cuts (sex, age:60).
    """
    import papermill

    from medpeft_utils.study import records
    from medpeft_utils.study.worker import own_sockets

    notebook = notebooks_folder() / 'figures_and_tables.ipynb'
    folder, target = (results / profile).resolve(), (figures / profile).resolve()
    if folder.is_dir():
        records.collect(folder, target / 'records.jsonl')
    elif profile != 'paper' and not (target / 'records.jsonl').is_file():  # 'paper': the paper's own numbers alone
        raise BadInput(f'no records of {profile!r}, neither in {folder} nor in {target}; medpeft run {profile}')
    parameters = {'profile': profile, 'results_folder': str(folder), 'figures_folder': str(target)}
    parameters |= {'by': ','.join(by)} if by else {}
    target.mkdir(parents=True, exist_ok=True)
    with own_sockets() as config:
        kernel = {'kernel_name': 'python3', 'language': 'python', 'progress_bar': False, 'config': config}
        papermill.execute_notebook(notebook, target / notebook.name, parameters, **kernel)
    click.echo(f'figures and tables of {profile}: {target}')
