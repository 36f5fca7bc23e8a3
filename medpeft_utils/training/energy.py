"""The energy of a training, read from the device's own counter, or why there is no reading. Never an estimate.

A counter is of the whole device: what it takes while idle is in it, and so is what other processes take. A reading is
therefore given only where this process had the device to itself.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import Any

import torch

POWERCAP, STAT = Path('/sys/class/powercap'), Path('/proc/stat')
NVML = 'libnvidia-ml.so.1'
SHORTEST = 1.0  # seconds: counters move in steps of up to a tenth
ALONE = 0.9  # of the machine's busy processor time, from which on a process had the processors to itself
APART = 30.0  # seconds between readings; the smallest range of a package (some 262 kJ) lasts minutes at full load


class Packages:
    """Every package of processors by RAPL: microjoules that wrap around at a range. Most systems let only root read it.

    Args:
        powercap: the kernel's folder of power zones.
        stat: the kernel's file of processor times.
    Raises:
        OSError: no package, or one that may not be read.
    """

    of = 'the processor packages (RAPL), idle included, without memory and the rest of the machine'

    def __init__(self, powercap: Path = POWERCAP, stat: Path = STAT):
        zones = [zone for zone in sorted(powercap.glob('intel-rapl:*')) if _text(zone / 'name').startswith('package')]
        if not zones:
            raise OSError(f'no package of processors in {powercap}')
        self.files = {zone / 'energy_uj': int(_text(zone / 'max_energy_range_uj')) for zone in zones}
        self.last, self.sum, self.stat = {file: int(_text(file)) for file in self.files}, 0, stat
        self.began = self._processor_times()

    def read(self) -> float:
        for file, span in self.files.items():
            now = int(_text(file))
            self.sum += (now - self.last[file]) % span
            self.last[file] = now
        return self.sum / 1e6

    def shared(self) -> str:
        own, every = (now - before for now, before in zip(self._processor_times(), self.began, strict=True))
        return (
            ''
            if own >= ALONE * every
            else f'other processes had over {100 * (1 - ALONE):.0f} % of the busy processor time'
        )

    def _processor_times(self) -> tuple[float, float]:
        """Seconds of this process, and of all: user, nice, system, interrupts."""
        fields = [int(field) for field in _text(self.stat).split('\n')[0].split()[1:]]
        return time.process_time(), (sum(fields[:3]) + sum(fields[5:7])) / os.sysconf('SC_CLK_TCK')


class Board:
    """A graphics card by NVML: millijoules of the whole board since its driver was loaded (from Volta on).

    Args:
        uuid: of the card, 'GPU-...'.
        nvml: the library.
    Raises:
        OSError: no library, no such card, or one without a counter, such as a part of a card (MIG).
    """

    def __init__(self, uuid: str, nvml: Any = None):
        self.nvml, self.card = nvml or ctypes.CDLL(NVML), ctypes.c_void_p()
        self._ask('nvmlInit_v2')
        self._ask('nvmlDeviceGetHandleByUUID', uuid.encode(), ctypes.byref(self.card))
        self.first, self.most = self._millijoules(), 0
        self.read()

    @property
    def of(self) -> str:
        unknown = '' if self.most else '; NVML names no process here, so it may have been shared'
        return f"the GPU's board (NVML), idle included, without the rest of the machine{unknown}"

    def read(self) -> float:
        count = ctypes.c_uint(0)  # without room for their names, the answer is their number and an error code
        self.nvml.nvmlDeviceGetComputeRunningProcesses(self.card, ctypes.byref(count), None)
        self.most = max(self.most, count.value)
        return (self._millijoules() - self.first) / 1e3

    def shared(self) -> str:
        return f'{self.most} processes were on the GPU' if self.most > 1 else ''

    def _millijoules(self) -> int:
        found = ctypes.c_ulonglong(0)
        self._ask('nvmlDeviceGetTotalEnergyConsumption', self.card, ctypes.byref(found))
        return found.value

    def _ask(self, name: str, *arguments: Any) -> None:
        if code := getattr(self.nvml, name)(*arguments):
            raise OSError(f'{name} of NVML answers {code}')


def counter_of(device: torch.device) -> Packages | Board:
    """The counter of a device. Raises OSError where none can be read.

    Its `of` says what it measures, `read` gives joules since it was made, and `shared` says why they are not of this
    process alone, or ''.
    """
    if device.type == 'cuda':
        return Board(f'GPU-{torch.cuda.get_device_properties(device).uuid}')
    return Packages()


class Energy:
    """The energy of what runs from now on, as far as `device` can tell; it never raises.

    Args:
        device: that computes.
        counter: another than the device's own.
    """

    def __init__(self, device: torch.device, counter: Packages | Board | None = None):
        self.began = self.last = time.monotonic()
        self.counter, self.joules, self.why = counter, 0.0, ''
        try:
            self.counter = counter or counter_of(device)
        except (OSError, AttributeError, ValueError) as error:
            self.why = f'no counter: {error}'

    def tick(self, apart: float = APART) -> None:
        """Call this often: it reads the counter when the last reading is `apart` seconds old."""
        now = time.monotonic()
        if self.why or now - self.last < apart:
            return
        self.last = now
        try:
            self.joules = self.counter.read()
        except (OSError, ValueError) as error:
            self.why = f'the counter failed: {error}'

    def spent(self) -> dict[str, Any]:
        """Since the start: `energy_joules`, or None; `energy_of`, what was measured, or why nothing was."""
        self.tick(apart=0)
        if not self.why and self.last - self.began < SHORTEST:
            self.why = f'shorter than {SHORTEST:g} s'
        why = self.why or self.counter.shared()
        if why:
            return {'energy_joules': None, 'energy_of': f'not measured: {why}'}
        return {'energy_joules': round(self.joules, 3), 'energy_of': self.counter.of}


def _text(file: Path) -> str:
    return file.read_text().strip()
