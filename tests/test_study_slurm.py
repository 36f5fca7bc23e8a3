"""A study on a real SLURM of this session's own: what is sent, done once, requeued, cancelled and refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import cluster, crash, why_not
from study_project import FINISH, START, TRAINS, Project, write_notebook

from medpeft_utils.core.errors import BadInput
from medpeft_utils.study import slurm
from medpeft_utils.study.paths import StudyFolder

KILLS = int(os.environ.get('MEDPEFT_SLURM_KILLS', 3))  # each takes some 12 s; 20 were done in 405 s on a busy machine
needs_slurm = pytest.mark.skipif(bool(why_not()), reason=why_not() or 'it is here')


@pytest.fixture(scope='module')
def configuration(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp('slurm')) as path:
        yield path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def on_slurm(project: Project, configuration: Path, monkeypatch) -> Project:
    monkeypatch.setenv('SLURM_CONF', str(configuration))
    yield project
    subprocess.run(['scancel', '--signal=KILL', '--user=root'], capture_output=True)
    subprocess.run(['scancel', '--user=root'], capture_output=True)


def send(project: Project, *more: str, workers: int = 2, code: int = 0) -> str:
    return project.medpeft('run', 'tiny', '--executor', 'slurm', '--workers', str(workers), *more, code=code)


def wait_for_all(project: Project, number: int, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while len(project.records()) < number:
        assert time.monotonic() < deadline, logs(project)
        time.sleep(0.5)
    assert len(project.records()) == number
    ends = [event['run'] for event in project.events() if event['event'] == 'end']
    assert len(ends) == len(set(ends)), 'a run was done twice'


def logs(project: Project) -> str:
    found = sorted(project.results.glob('tiny/slurm/*.log'))
    return '\n'.join(f'{path.name}\n{path.read_text()}' for path in found)


def test_times_are_read_as_slurm_writes_them():
    for text, seconds in (('30', 30), ('1:30', 90), ('04:00:00', 14400), ('2-03:00:00', 183_600), ('1-12', 129_600)):
        assert slurm.parse_time(text) == seconds
    assert slurm.parse_time('10', minutes_alone=True) == 600
    assert slurm.parse_time('UNLIMITED') is None and slurm.parse_time('') is None


def test_a_task_is_told_early_enough_whatever_its_time(tmp_path):
    folder = StudyFolder(tmp_path / 'tiny')
    for given, notice in (({}, 120), ({'time': '04:00:00'}, 120), ({'time': '1'}, 15), ({'time': '4'}, 60)):
        script = slurm.Array(8, given, '#SBATCH --account=us\nmodule load python', ['x.yaml']).script(folder)
        assert f'#SBATCH --signal=B:TERM@{notice}' in script
    assert '#SBATCH --array=0-7' in script and '#SBATCH --requeue' in script and '#SBATCH --time=4' in script
    assert script.index('#SBATCH --account=us') < script.index('module load python') < script.index('exec ')


def test_a_job_starts_what_fits_and_comes_back_for_the_rest(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(slurm.time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(slurm, 'ask', lambda *command, **more: '1:00:00')
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    monkeypatch.delenv('MEDPEFT_SLURM_NOTICE', raising=False)
    job = slurm.Job()
    assert job.left() == 3480 and job.has_time_for(9e9), 'the first goes on from its checkpoint in the next job'
    now[0] = 3000.0
    assert job.left() == 480 and job.has_time_for(400) and not job.has_time_for(500) and job.has_time_for(None)
    assert not job.is_over(), 'a signal now is that of a user, or of a more urgent job'
    now[0] = 3420.0
    assert job.is_over() and not job.has_time_for(61)
    now[0] = 3500.0
    assert job.is_over() and not job.has_time_for(None)


IN_A_JOB = """
from medpeft_utils import cli
from medpeft_utils.study import slurm
class Job:
    number, notice = '7', 5
    def has_time_for(self, expected): return False
    def is_over(self): return False
    def requeue(self): print('queued')
slurm.Job = Job
if __name__ == '__main__':
    cli.main(['run', 'tiny', '--in-slurm'])
"""


def test_a_job_with_hours_to_go_that_suffice_for_nothing_comes_back(project):
    project.grid()
    (project.root / 'job.py').write_text(IN_A_JOB)
    done = subprocess.run([sys.executable, 'job.py'], cwd=project.root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.endswith('queued\n'), done.stdout + done.stderr
    assert '2 runs do not fit' in done.stdout and '2 runs are left: job 7 is queued again' in done.stdout


def test_without_slurm_the_error_names_what_is_missing(project, monkeypatch):
    project.grid()
    monkeypatch.setenv('PATH', str(Path(sys.executable).parent))
    printed = send(project, code=2)
    assert 'error: sbatch is not installed' in printed and 'Traceback' not in printed and not project.results.exists()
    with pytest.raises(BadInput, match='no job was sent'):
        slurm.stop(StudyFolder(project.results / 'tiny'))


@needs_slurm
def test_the_script_is_one_that_slurm_takes(on_slurm, tmp_path):
    on_slurm.grid()
    header = tmp_path / 'site.sh'
    header.write_text('#SBATCH --comment=ours\nexport SITE=1\n')
    asked = ('--slurm', 'gpus=1', '--slurm', 'time=10', '--slurm-header', str(header), '--jobs', 'auto')
    printed = send(on_slurm, *asked, '--dry-run')
    assert not on_slurm.results.exists(), 'nothing is written by a dry run'
    done = subprocess.run(
        ['sbatch', '--test-only'], input=printed[printed.index('#!') :], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'export SITE=1' in printed and '--gpus=1' in printed and '--jobs auto' in printed


@needs_slurm
def test_two_workers_share_the_runs_and_the_submitting_host_may_go(on_slurm):
    on_slurm.grid(axes={'mode': ['fine'], 'value': [0.5, 1.5, 2.5, 3.5], 'seed': [0, 1], 'pause': [0.2]})
    printed = send(on_slurm, '--slurm', 'gpus=1', '--slurm', 'time=30')
    assert '8 runs, 2 workers, job' in printed
    assert 'jobs in SLURM' in on_slurm.medpeft('status', 'tiny')
    wait_for_all(on_slurm, 8)
    assert len({event['runner'] for event in on_slurm.events()}) == 2


@needs_slurm
def test_one_minute_jobs_go_on_from_checkpoints_until_all_is_done(on_slurm):
    """The trainings take longer than SLURM lets such a job be; none ends by TIMEOUT, no step is done twice."""
    write_notebook(on_slurm.notebook, START, TRAINS, FINISH)
    on_slurm.grid(axes={'seed': [0, 1], 'pause': [1.0]})
    number = json.loads((send(on_slurm, '--slurm', 'time=1'), jobs_file(on_slurm).read_text())[1])[0]['job']
    wait_for_all(on_slurm, 2, seconds=400)
    shown = subprocess.run(['scontrol', 'show', 'job', number], capture_output=True, text=True).stdout
    assert 'TIMEOUT' not in shown and 'Restarts=' in shown
    assert 'is queued again' in logs(on_slurm)
    assert (on_slurm.results / 'tiny' / 'steps').stat().st_size == 2 * 40


def jobs_file(project: Project) -> Path:
    return project.results / 'tiny' / 'slurm' / 'jobs.json'


@needs_slurm
def test_pre_empted_jobs_lose_nothing(on_slurm):
    on_slurm.grid(axes={'mode': ['fine'], 'seed': [0, 1, 2, 3, 4, 5], 'pause': [3.0]})
    send(on_slurm, '--slurm', 'time=30')
    while not list(on_slurm.results.glob('tiny/runs/*/*/began')):
        time.sleep(0.2)
    urgent = [
        'sbatch',
        '--parsable',
        '--partition=urgent',
        '--nodes=2',
        '--exclusive',
        '--time=1',
        '--output=/dev/null',
    ]
    subprocess.run([*urgent, '--wrap', 'sleep 5'], check=True, capture_output=True)
    wait_for_all(on_slurm, 6)


@needs_slurm
def test_killed_tasks_lose_nothing_and_double_nothing(on_slurm):
    on_slurm.grid(axes={'mode': ['fine'], 'value': [0.5, 1.5], 'seed': list(range(KILLS)), 'pause': [0.5]})
    rng = random.Random(7)
    for _ in range(KILLS):
        send(on_slurm, '--slurm', 'time=30')
        number = json.loads(jobs_file(on_slurm).read_text())[-1]['job']
        time.sleep(rng.uniform(4, 14))
        subprocess.run(['scancel', '--signal=KILL', '--full', number], capture_output=True)
        time.sleep(1)
    send(on_slurm, '--slurm', 'time=30')
    wait_for_all(on_slurm, 2 * KILLS)


@needs_slurm
@pytest.mark.skipif('MEDPEFT_NODE_CRASH' not in os.environ, reason='takes five minutes; MEDPEFT_NODE_CRASH=1 runs it')
def test_what_a_crashed_node_did_is_done_by_another(project, tmp_path, monkeypatch):
    """Its lease stands still, and is taken over after three minutes by a worker that cannot see its processes."""
    with cluster(tmp_path / 'slurm', crashing=True) as configuration:
        monkeypatch.setenv('SLURM_CONF', str(configuration))
        project.grid(axes={'mode': ['fine'], 'seed': list(range(4)), 'pause': [15.0]})
        send(project, '--slurm', 'time=30', '--slurm', 'cpus-per-task=2')
        while len(list(project.results.glob('tiny/runs/*/*/began'))) < 2:
            time.sleep(0.5)
        crash(tmp_path / 'slurm')
        wait_for_all(project, 4, seconds=500)


@needs_slurm
def test_a_study_is_cancelled_and_an_array_above_the_limit_is_split(on_slurm):
    on_slurm.grid(axes={'mode': ['fine'], 'seed': [0, 1], 'pause': [60.0]})
    send(on_slurm, '--slurm', 'time=30', workers=6)
    numbers = [job['job'] for job in json.loads(jobs_file(on_slurm).read_text())]
    assert len(numbers) == 2, 'this site allows arrays of four'
    assert 'jobs in SLURM' in on_slurm.medpeft('status', 'tiny')
    assert all(number in on_slurm.medpeft('stop', 'tiny') for number in numbers)
    deadline = time.monotonic() + 60
    while 'none any more' not in on_slurm.medpeft('status', 'tiny'):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert not on_slurm.records()


@needs_slurm
def test_what_slurm_would_refuse_is_refused_before_or_in_its_words(on_slurm):
    on_slurm.grid()
    assert 'did you mean partition?' in send(on_slurm, '--slurm', 'partiton=main', code=2)
    assert 'the study sets it itself' in send(on_slurm, '--slurm', 'array=1-3', code=2)
    assert 'nvalid partition' in send(on_slurm, '--slurm', 'partition=nowhere', code=2)
    assert not jobs_file(on_slurm).exists()


@needs_slurm
def test_results_that_no_node_sees_are_refused_before_anything_is_sent(on_slurm):
    """The submitting process has a file system over its results that the nodes do not have."""
    own = ['unshare', '--mount']
    if not shutil.which('unshare') or subprocess.run([*own, 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt']).returncode:
        pytest.skip('may not mount a file system')
    on_slurm.grid()
    on_slurm.results.mkdir()
    command = [sys.executable, '-m', 'medpeft_utils.cli', 'run', 'tiny', '--executor', 'slurm']
    script = 'mount -t tmpfs tmpfs results && "$@"; code=$?; ls results/tiny/slurm; exit $code'
    done = subprocess.run([*own, 'sh', '-c', script, 'sh', *command], cwd=on_slurm.root, capture_output=True, text=True)
    assert done.returncode == 2 and 'a node does not see' in done.stderr, done.stdout + done.stderr
    assert 'jobs.json' not in done.stdout
