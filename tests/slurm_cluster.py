"""A SLURM of this session's own: a controller and two nodes on this machine, all files in one folder.

It needs root and the packages slurmctld, slurmd, slurm-client and munge (`apt-get install --no-install-recommends`);
nothing outside the folder is written, and the daemons end with the session. Both nodes have two CPUs and two cards that
are none (/dev/null, /dev/zero); partition `urgent` pre-empts `main`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NEEDED = 'slurmctld', 'slurmd', 'sbatch', 'munged'
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MpiDefault=none
ReturnToService=2
KillWait=3
MaxArraySize=5
SlurmctldTimeout=10
SlurmdTimeout=10
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10
"""


def why_not() -> str:
    """Why there can be no cluster here, or ''."""
    if os.geteuid() != 0:
        return 'a private SLURM needs root'
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f'no {", ".join(missing)}: apt-get install slurmctld slurmd slurm-client munge' if missing else ''


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(('127.0.0.1', 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def cluster(folder: Path, crashing: bool = False) -> Iterator[Path]:
    """A running SLURM; the path of its configuration, for SLURM_CONF.

    Args:
        folder: where its files go.
        crashing: node n2 is a process namespace of its own: `crash` ends it with all its processes at once.
    """
    for name in ('state', 'spool.n1', 'spool.n2'):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    (folder / 'munge.key').write_bytes(os.urandom(1024))
    (folder / 'munge.key').chmod(0o400)
    port, first, second = _free_ports(3)
    host = socket.gethostname().partition('.')[0]
    config = folder / 'slurm.conf'
    config.write_text(CONFIG.format(host=host, port=port, first=first, second=second, folder=folder))
    gres = [f'NodeName={node} Name=gpu File=/dev/{card}' for node in ('n1', 'n2') for card in ('null', 'zero')]
    (folder / 'gres.conf').write_text('\n'.join(gres) + '\n')
    environment = os.environ | {'SLURM_CONF': str(config)}
    munge = [
        f'--{key}={folder}/munge{suffix}'
        for key, suffix in (
            ('key-file', '.key'),
            ('socket', '.sock'),
            ('log-file', 'd.log'),
            ('seed-file', 'd.seed'),
            ('pid-file', 'd.pid'),
        )
    ]
    try:
        subprocess.run(['munged', '--force', *munge], check=True)
        for command in (['slurmctld'], ['slurmd', '-N', 'n1'], *([] if crashing else [['slurmd', '-N', 'n2']])):
            subprocess.run(command, check=True, env=environment)
        if crashing:
            apart = ['unshare', '--pid', '--fork', '--mount-proc', 'slurmd', '-D', '-N', 'n2']
            node = subprocess.Popen(apart, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            (folder / 'node').write_text(str(node.pid))
        deadline = time.monotonic() + 30
        ask = ['sinfo', '-h', '-N', '-p', 'main', '-o', '%T']
        while subprocess.run(ask, env=environment, capture_output=True, text=True).stdout.split() != ['idle', 'idle']:
            assert time.monotonic() < deadline, (folder / 'slurmctld.log').read_text()[-2000:]
            time.sleep(0.2)
        yield config
    finally:
        crash(folder)
        subprocess.run(['scancel', '--signal=KILL', '--user=root'], env=environment, capture_output=True)
        for path in folder.glob('*.pid'):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)
        for path in Path('/proc').glob('[0-9]*/cwd'):  # the keepers of jobs, which wait for their controller
            with contextlib.suppress(OSError):
                if path.readlink().is_relative_to(folder) and (path.parent / 'comm').read_text().startswith('slurm'):
                    os.kill(int(path.parent.name), signal.SIGKILL)


def crash(folder: Path) -> None:
    """End node n2 of a crashing cluster, and all that runs there, as a power cut does."""
    if (folder / 'node').is_file():
        children = Path(f'/proc/{(folder / "node").read_text()}/task').glob('*/children')
        for pid in ' '.join(path.read_text() for path in children).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        (folder / 'node').unlink()
