"""Kernels that are forked from a process which has everything imported, instead of newly started.

A run's process forks its kernel at its very beginning, while it has one thread and nothing else; the kernel waits on a
pipe. When papermill launches a kernel, `ForkedProvisioner` hands it the connection file instead of starting Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from importlib.metadata import EntryPoint
from typing import Any

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

from medpeft_utils.study.processes import die_with, kill

NAME = 'medpeft-forked'


class ForkedKernel(multiprocessing.get_context('fork').Process):
    """A forked child that becomes an IPython kernel when it is told its connection file.

    It has the face of `subprocess.Popen` that jupyter_client asks of a process.
    """

    stdin = stdout = stderr = None

    def __init__(self, threads: int):
        super().__init__()
        self.threads = threads
        self.told, self._orders = multiprocessing.Pipe(duplex=False)
        self.start()
        self.told.close()

    def run(self) -> None:
        """The child's life: never returns into what its parent was doing."""
        code = 1
        try:
            self._orders.close()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # this process' parent ends its descendants by it
            die_with(self._parent_pid)
            os.setpgid(0, 0)  # its own children, such as data loaders, are killed with it
            with contextlib.suppress(EOFError):  # the run ended before it needed a kernel
                serve(*self.told.recv(), self.threads)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def connect(self, connection_file: str, folder: str) -> None:
        """Let it serve the sockets that are named in a connection file, in `folder`."""
        self._orders.send((connection_file, folder))

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self.exitcode

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode

    def send_signal(self, number: int) -> None:
        if self.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        kill(self.pid, group=True)
        super().kill()


def serve(file: str, folder: str, threads: int) -> None:
    """Be an IPython kernel until it is shut down."""
    from ipykernel.kernelapp import IPKernelApp

    class Quiet(IPKernelApp):
        def log_connection_info(self) -> None:
            """No client may connect to it by hand."""

    os.chdir(folder)
    if 'torch' in sys.modules:
        sys.modules['torch'].set_num_threads(threads)
    asyncio.set_event_loop(asyncio.new_event_loop())
    app = Quiet.instance(connection_file=file)
    # No history: hundreds of kernels would write one database, on a network file system perhaps.
    app.config.HistoryManager.enabled = False
    app.initialize([])
    app.start()


class ForkedProvisioner(LocalProvisioner):
    """Gives papermill the kernel that this process has forked."""

    prepared: ForkedKernel | None = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict[str, Any]:
        """Connect the forked kernel. Raises RuntimeError for a second one: a run has one kernel."""
        kernel, ForkedProvisioner.prepared = ForkedProvisioner.prepared, None
        if kernel is None:
            raise RuntimeError('the kernel of this run was launched before')
        kernel.connect(self.parent.connection_file, str(kwargs.get('cwd') or os.getcwd()))
        self.process, self.pid, self.pgid = kernel, kernel.pid, kernel.pid
        return self.connection_info


def use_forked_kernel(threads: int) -> ForkedKernel:
    """Fork this process' kernel and let jupyter_client, hence papermill, launch it. Call it before anything else."""
    kernel = ForkedProvisioner.prepared = ForkedKernel(threads)
    os.environ['JUPYTER_DEFAULT_PROVISIONER_NAME'] = NAME
    entry = EntryPoint(NAME, f'{__name__}:{ForkedProvisioner.__name__}', KernelProvisionerFactory.GROUP_NAME)
    KernelProvisionerFactory.provisioners[NAME] = entry
    return kernel
