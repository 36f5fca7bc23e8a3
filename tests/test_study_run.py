"""Runs executed for real: what is recorded when they succeed, fail, die, are killed, or are run twice at once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from study_project import FINISH, START, TRAINS, WORK, Project, write_notebook

from medpeft_utils.core.shared import Lease
from medpeft_utils.study.machine import cores
from medpeft_utils.study.processes import is_alive

KILLS = int(os.environ.get('MEDPEFT_KILLS', 8))  # two of each kind of process
linux = pytest.mark.skipif(not Path('/proc/self').exists(), reason='needs Linux')


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def wait_for(condition, seconds: float = 60.0):
    """The first true value of `condition()`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, 'it did not happen in time'
        time.sleep(0.02)
    return found


def test_every_way_to_end_is_recorded_as_what_it_was(project):
    project.grid(axes={'mode': ['fine', 'raises', 'killed', 'exits', 'flaky', 'forks', 'large'], 'seed': [0]})
    printed = project.medpeft('run', 'tiny', '--jobs', '2', code=1)
    found = project.records()
    assert {name.split('/')[0]: record['status'] for name, record in found.items()} == {
        **dict.fromkeys(('fine', 'flaky', 'forks'), 'done'),
        **{'raises': 'failed', 'exits': 'failed', 'large': 'failed', 'killed': 'died'},
    }
    assert '3 done · 3 failed · 1 died · 0 running · 0 left' in printed

    raised = found['raises/1.0/0']['error']
    assert (raised['type'], raised['message'], raised['cell']) == ('ValueError', 'the numbers do not add up', 3)
    assert raised['last_lines'][-1] == 'ValueError: the numbers do not add up'
    assert found['exits/1.0/0']['error']['type'] == 'NoRecord'
    assert 'signal 9' in found['killed/1.0/0']['error']['message']
    assert found['killed/1.0/0']['attempt'] == 2, 'what died is tried once more'
    assert found['flaky/1.0/0']['attempt'] == 2 and found['raises/1.0/0']['attempt'] == 1
    large = found['large/1.0/0']
    assert large['attempt'] == 2 and "can't allocate memory" in large['error']['message'], 'there may be room later'
    forked = next(project.results.glob('tiny/runs/*/*/child'))
    assert not is_alive(int(forked.read_text())), 'a process that a run left behind still lives'

    # Once more: nothing is started, and what failed is not tried again unless asked for.
    before = len(project.events())
    project.medpeft('run', 'tiny', '--jobs', '2', code=1)
    assert [event['event'] for event in project.events()[before:]] == ['study']
    again = project.medpeft('retry', '--failed', 'tiny', '--only', 'mode=raises', code=1)
    assert '1 to do' in again and project.records()['raises/1.0/0']['attempt'] == 2
    _check_displays(project, found)


def _check_displays(project: Project, found: dict) -> None:
    shown = project.medpeft('status', 'tiny', '--failed')
    assert [line.split() for line in shown.splitlines()[1:4]] == [
        ['family', 'runs', 'done', 'failed', 'died', 'left'],
        ['toy', '7', '3', '3', '1', '·'],
        ['all', '7', '3', '3', '1', '·'],
    ]
    assert '| ValueError: the numbers do not add up' in shown
    assert len(project.medpeft('status', 'tiny', '--where', 'mode=fine', '--list').splitlines()) == 6
    rows = json.loads(project.medpeft('status', 'tiny', '--json'))['runs']
    assert {row['given']['mode']: row['state'] for row in rows}['killed'] == 'died'
    run = found['fine/1.0/0']['run']
    one = project.medpeft('show', run[:8])
    assert 'f1_macro' in one and 'train_loss' in one and 'fine' in one
    assert re.search(rf'{run}/1-\w+/notebook.ipynb', one)


def test_plain_kernels_do_the_same(project):
    project.grid(axes={'mode': ['fine', 'killed'], 'seed': [0]})
    project.medpeft('run', 'tiny', '--plain-kernels', '--jobs', '2', code=1)
    assert project.records()['killed/1.0/0']['status'] == 'died'
    record = project.records()['fine/1.0/0']
    assert record['status'] == 'done' and record['metrics']['test']['f1_macro'] == 0.0


@linux
def test_a_run_knows_nothing_of_the_one_before(project):
    cell = """
import sys, builtins, os
assert not hasattr(builtins, 'left_behind') and 'LEFT' not in os.environ and not hasattr(Path, 'left')
builtins.left_behind = Path.left = os.environ['LEFT'] = 'something'
os.chdir('/')
"""
    write_notebook(project.notebook, START, cell, "assert os.environ['OMP_NUM_THREADS'] == '1'", FINISH)
    project.grid(axes={'seed': [0, 1, 2]})
    assert '3 done' in project.medpeft('run', 'tiny', '--threads', '1', '--jobs', 'auto')


@linux
@pytest.mark.parametrize(
    ('given', 'threads', 'waiting'),
    [({'OMP_NUM_THREADS': '3', 'OMP_WAIT_POLICY': 'ACTIVE'}, '3', 'ACTIVE'), ({}, None, 'PASSIVE')],
)
def test_the_users_threads_are_honoured_and_waiting_ones_sleep(project, monkeypatch, given, threads, waiting):
    for name in ('OMP_NUM_THREADS', 'OMP_WAIT_POLICY'):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen = "(context.folder / 'threads').write_text(os.environ['OMP_NUM_THREADS'] + os.environ['OMP_WAIT_POLICY'])"
    write_notebook(project.notebook, START, seen, FINISH)
    project.grid(axes={'seed': [0]})
    project.medpeft('run', 'tiny')
    written = next(project.results.glob('tiny/runs/*/*/threads')).read_text()
    assert written == (threads or str(max(1, cores()))) + waiting


@linux
def test_killed_anywhere_it_is_resumed_with_every_run_once(project):
    """The runner, what it forks from, a run and a kernel in turn, at random moments while there is work."""
    values = [number / 2 for number in range(KILLS)]
    project.grid(axes={'mode': ['fine'], 'value': values, 'seed': [0, 1, 2], 'pause': [0.3]})
    rng, process = random.Random(2024), None
    for number in range(KILLS):
        if process is None or process.poll() is not None:
            process = project.start('run', 'tiny', '--jobs', '2', stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.1, 1.5))
        depth = number % 4
        victim = wait_for(lambda process=process, depth=depth: _descendants(process.pid, depth))[0]
        assert process.poll() is None, 'nothing was left to be killed'
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself meanwhile
            os.kill(victim, signal.SIGKILL)
        if depth == 0:
            process.communicate()
    process.communicate(timeout=300)
    project.medpeft('run', 'tiny', '--jobs', '2', code=None)
    project.medpeft('retry', '--failed', 'tiny', '--jobs', '2')
    found = project.records()  # which makes sure that none is there twice
    assert len(found) == 3 * KILLS and all(record['status'] == 'done' for record in found.values())
    for record in found.values():
        given = record['parameters']
        assert record['metrics']['test']['f1_macro'] == (given['value'] * 7 + given['seed']) % 1
    done = [event['run'] for event in project.events() if event['event'] == 'end' and event['status'] == 'done']
    assert len(done) == len(set(done)), 'a run that was done was done again'


def _descendants(pid: int, depth: int) -> list[int]:
    """Processes `depth` generations below: 0 the runner, 1 what runs are forked from, 2 runs, 3 their kernels."""
    from medpeft_utils.study.processes import children

    found = [pid]
    for level in range(depth):
        found = [child for parent in found for child in children(parent)]
        if level == 0:
            found = [child for child in found if b'forkserver' in Path(f'/proc/{child}/cmdline').read_bytes()]
    return found


@linux
def test_kernels_end_with_their_runner(project):
    project.grid(axes={'mode': ['fine'], 'seed': [0], 'pause': [60.0]})
    process = project.start('run', 'tiny')
    began = wait_for(lambda: next(project.results.glob('tiny/runs/*/*/began'), None))
    kernel = int(wait_for(began.read_text))
    assert is_alive(kernel)
    assert 'running' in project.medpeft('status', 'tiny')
    process.kill()
    process.communicate()
    wait_for(lambda: not is_alive(kernel), seconds=20)
    assert 'running' not in project.medpeft('status', 'tiny')


@linux
@pytest.mark.parametrize('victim', ['runner', 'fork server'])
def test_what_a_notebook_left_running_ends_with_whoever_is_killed(project, victim):
    """The kernel has a daemon of its own, in its own session; neither its run nor the kernel ends it."""
    project.grid(axes={'mode': ['forks'], 'seed': [0], 'pause': [1.0]})
    write_notebook(project.notebook, START, WORK, 'time.sleep(60)', FINISH)
    process = project.start('run', 'tiny', '--limit', '1')
    path = wait_for(lambda: next(project.results.glob('tiny/runs/*/*/child'), None))
    daemon = int(wait_for(path.read_text))
    assert is_alive(daemon)
    os.kill(process.pid if victim == 'runner' else _descendants(process.pid, 1)[0], signal.SIGKILL)
    wait_for(lambda: not is_alive(daemon), seconds=20)
    process.kill()
    process.communicate()


@linux
def test_a_run_that_was_taken_over_is_not_recorded_by_the_late_one(project):
    """Its tree stands still; another runner, which cannot see its processes, takes its lease; then it goes on."""
    project.grid(axes={'mode': ['fine'], 'seed': [0], 'pause': [2.0]})
    with project.start('run', 'tiny') as process:
        wait_for(lambda: next(project.results.glob('tiny/runs/*/*/began'), None))
        lease = next((project.results / 'tiny' / 'leases').iterdir())
        lease.unlink()
        other = Lease(lease)
        assert other.take()
        wait_for(lambda: any(event['event'] == 'lost' for event in project.events()))
        assert not project.records() and other.is_held()
        other.release()
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and len(project.records()) == 1, out
    assert [event['event'] for event in project.events()].count('end') == 1


def test_the_events_of_a_study_are_printed_and_followed(project):
    project.grid(axes={'mode': ['fine', 'raises'], 'seed': [0]})
    with project.start('events', 'tiny', '--follow') as following:
        project.medpeft('run', 'tiny', code=1)
        seen = [json.loads(following.stdout.readline()) for _ in range(6)]
        following.send_signal(signal.SIGINT)
        assert following.wait(30) == 130
    assert seen == [json.loads(line) for line in project.medpeft('events', 'tiny').splitlines()] == project.events()
    assert all({'time', 'runner'} <= event.keys() for event in seen)
    assert sorted(event['event'] for event in seen) == ['end', 'end', 'ready', 'start', 'start', 'study']
    ended = {event['status']: event for event in seen if event['event'] == 'end'}
    assert ended['done']['error'] is None and ended['failed']['error']['type'] == 'ValueError'
    assert 'there: tiny' in project.medpeft('events', 'tinny', code=2)


def test_two_runners_side_by_side_share_the_runs(project):
    project.grid(axes={'mode': ['fine'], 'value': [0.5, 1.5, 2.5, 3.5], 'seed': [0, 1], 'pause': [0.2]})
    both = [project.start('run', 'tiny') for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
    assert len(project.records()) == 8
    ends = [event for event in project.events() if event['event'] == 'end']
    assert len(ends) == 8, 'a run was done twice'
    assert len({event['runner'] for event in ends}) == 2, 'one runner did everything'


@linux
def test_control_c_finishes_what_runs_and_twice_stops_at_once(project):
    project.grid(axes={'mode': ['fine'], 'seed': [0, 1, 2], 'pause': [4.0]})
    process = project.start('run', 'tiny')
    wait_for(lambda: next(project.results.glob('tiny/runs/*/*/began'), None))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and len(project.records()) == 1, out

    process = project.start('run', 'tiny')
    wait_for(lambda: len(list(project.results.glob('tiny/runs/*/*/began'))) == 2)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: 'Ctrl-C' in process.stdout.readline())
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - began < 4 and len(project.records()) == 1
    project.medpeft('run', 'tiny', '--jobs', '2')
    assert len(project.records()) == 3


@linux
def test_what_trains_is_put_down_at_a_signal_and_goes_on_to_the_same_record(project):
    """SIGTERM to the runner, then Ctrl-C twice, each in the middle of the training; no step is done twice."""
    write_notebook(project.notebook, START, TRAINS, FINISH)
    project.grid(axes={'seed': [0], 'pause': [0.1]})
    steps = project.results / 'tiny' / 'steps'
    for signals, at in (([signal.SIGTERM], random.randrange(1, 10)), ([signal.SIGINT] * 2, random.randrange(12, 25))):
        with project.start('run', 'tiny') as process:
            wait_for(lambda at=at: steps.is_file() and steps.stat().st_size >= at)
            for number in signals:
                process.send_signal(number)
                time.sleep(0.3)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130 and not project.records(), out + err
        assert next(project.results.glob('tiny/searches/*.checkpoint.safetensors'))
    project.medpeft('run', 'tiny')
    assert steps.stat().st_size == 40
    whole = {'context': SimpleNamespace(searches=project.results / 'whole' / 'x', run='x'), 'pause': 0, 'time': time}
    (project.results / 'whole').mkdir()
    exec(TRAINS, whole)
    (record,) = project.records().values()
    assert record['metrics']['test']['f1_macro'] == whole['value'] * 7 % 1 and record['attempt'] == 1


def test_a_full_disk_stops_the_study_with_one_message(project):
    project.grid(axes={'mode': ['full'], 'seed': [0, 1, 2]})
    printed = project.medpeft('run', 'tiny', code=2)
    assert printed.count('error:') == 1 and 'No space left on device' in printed and 'Traceback' not in printed
    assert not project.records()


SMALL_DISK = """
mount -t tmpfs -o size=100k tmpfs results
"$@"; first=$?
mount -o remount,size=100m results
"$@" && cp -r results copy && exit $first
"""


@linux
def test_a_disk_that_fills_up_costs_nothing_that_was_recorded(project):
    """A file system of 100 KB, which only this test's processes see; then it is given room."""
    own = ['unshare', '--mount', '--map-root-user']
    if not shutil.which('unshare') or subprocess.run([*own, 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt']).returncode:
        pytest.skip('may not mount a file system')
    project.grid(axes={'seed': list(range(10))})
    project.results.mkdir()
    command = [*own, 'sh', '-c', SMALL_DISK, 'sh', sys.executable, '-m', 'medpeft_utils.cli', 'run', 'tiny']
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count('error: ') == 1 and 'no space left on device' in done.stderr
    first, second = [int(number) for number in re.findall(r'10 runs, (\d+) to do', done.stdout)]
    assert first == 10 and 0 < second < 10, 'what was recorded on the full disk counts'
    assert len(list(project.root.glob('copy/tiny/runs/*/record.json'))) == 10


FULL_AT_UNLINK = """
import os, sys
from pathlib import Path
from medpeft_utils import cli
left, unlink = int(sys.argv[1]), os.unlink
def full(path, *rest, **more):
    global left
    if 'results' in str(Path(path).absolute()):
        left -= 1
        if left == 0:
            raise OSError(28, 'No space left on device', str(path))
    return unlink(path, *rest, **more)
os.unlink = os.remove = full
if __name__ == '__main__':
    cli.main(sys.argv[2:])
"""


@linux
def test_a_disk_that_is_full_when_a_file_is_removed_is_one_message_or_nothing(project):
    """Some file systems need room even to remove a file. The next run does what is left."""
    project.grid(axes={'seed': [0, 1]})
    (project.root / 'full.py').write_text(FULL_AT_UNLINK)
    for number in (1, 2, 3, 4):
        command = [sys.executable, 'full.py', str(number), 'run', 'tiny', '--results', f'results/{number}']
        done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, timeout=120)
        assert done.returncode in (0, 2) and 'Traceback' not in done.stdout + done.stderr, (number, done)
        assert done.stderr.count('error: ') == (done.returncode == 2), (number, done.stderr)
        if done.returncode:
            project.medpeft('run', 'tiny', '--results', f'results/{number}')
        assert len(list(project.results.glob(f'{number}/tiny/runs/*/record.json'))) == 2
        assert not list(project.results.glob(f'{number}/tiny/leases/*')) or done.returncode == 0


def test_results_that_cannot_be_written_are_told_before_anything_starts(project):
    project.grid()
    (project.root / 'results').write_text('a file where the folder should be')
    printed = project.medpeft('run', 'tiny', code=2)
    assert 'error: cannot write' in printed and 'Traceback' not in printed


def test_a_run_that_takes_too_long_is_ended(project):
    project.grid(axes={'mode': ['fine'], 'pause': [60.0]})
    project.medpeft('run', 'tiny', '--time-limit', '3', code=1)
    assert project.records()['fine/1.0/0']['error']['type'] == 'TimeLimit'


def test_records_of_older_code_are_stale_and_done_again(project):
    project.grid()
    project.medpeft('run', 'tiny')
    write_notebook(project.notebook, START, '"""other words"""', FINISH.replace('value * 7', 'value * 8'))
    assert [line.split() for line in project.medpeft('status', 'tiny').splitlines()[1:3]] == [
        ['family', 'runs', 'done', 'stale', 'left'],
        ['toy', '2', '·', '2', '·'],
    ]
    assert '2 done' in project.medpeft('run', 'tiny')
    from medpeft_utils.study import records

    folder = project.results / 'tiny'
    assert len(records.load(folder)) == 2 and len(records.load(folder, stale=True)) == 4
    assert len(records.collect(folder).read_text().splitlines()) == 2


@linux
def test_figures_are_drawn_as_soon_as_their_family_is_complete(project):
    """Runs that end meanwhile leave the drawing alone, and a figure that cannot be drawn ends no study."""
    shutil.copy(project.notebook, project.notebook.with_name('other.ipynb'))
    axes = {'mode': ['fine', 'killed'], 'seed': [0]}
    project.grid(
        experiments=[
            {'notebook': 'toy', 'axes': {'mode': ['fine']}, 'figures': ['table6']},
            {'notebook': 'other', 'figures': ['table99'], 'axes': {**axes, 'value': [2.0], 'pause': [1.0]}},
        ]
    )
    lines = project.medpeft('run', 'tiny', '--jobs', '2', code=1).splitlines()
    assert any(line.startswith('table6: No run') for line in lines), 'a run that died took the drawing with it'
    assert any(line.startswith("table99: not drawn: error: unknown figure or table 'table99'") for line in lines)
