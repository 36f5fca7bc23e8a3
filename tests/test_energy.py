"""Energy: read from invented counters; never a number where none was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medpeft_utils.training import energy
from medpeft_utils.training.energy import Board, Energy, Packages

CPU = torch.device('cpu')


class Machine:
    """A folder of power zones as the kernel lays it out: two packages, a part of one, the platform; processor times."""

    SPAN = 262_143_328_850

    def __init__(self, folder: Path):
        self.powercap, self.stat = folder / 'powercap', folder / 'stat'
        zones = {'intel-rapl:0': 'package-0', 'intel-rapl:0:0': 'core', 'intel-rapl:1': 'package-1'}
        for zone, name in {**zones, 'intel-rapl:2': 'psys', 'intel-rapl-mmio:0': 'package-0'}.items():
            (self.powercap / zone).mkdir(parents=True)
            (self.powercap / zone / 'name').write_text(f'{name}\n')
            (self.powercap / zone / 'max_energy_range_uj').write_text(f'{self.SPAN}\n')
            self.put(zone, 1_000_000)
        self.busy(0)

    def put(self, zone: str, microjoules: int) -> None:
        (self.powercap / zone / 'energy_uj').write_text(f'{microjoules}\n')

    def busy(self, ticks: int) -> None:
        self.stat.write_text(f'cpu  {ticks} 0 0 99999 0 0 0 0 0 0\ncpu0 1 0 0 0 0 0 0 0 0 0\n')

    def counter(self) -> Packages:
        return Packages(self.powercap, self.stat)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_packages_are_added_up_and_their_parts_and_the_platform_are_not(machine: Machine):
    counter = machine.counter()
    for zone, microjoules in (('0', 3_500_000), ('1', 2_000_000), ('0:0', 9e6), ('2', 9e6)):
        machine.put(f'intel-rapl:{zone}', int(microjoules))
    assert counter.read() == 3.5


def test_a_counter_that_begins_anew_is_followed_through_every_turn(machine: Machine):
    machine.put('intel-rapl:0', machine.SPAN - 1_000_000)
    counter, expected = machine.counter(), 0.0
    for microjoules, joules in ((2_000_000, 3.0), (machine.SPAN - 1, (machine.SPAN - 2_000_001) / 1e6), (5, 6e-6)):
        machine.put('intel-rapl:0', microjoules)
        expected += joules
        assert counter.read() == pytest.approx(expected, abs=1e-9)


def test_a_machine_that_others_use_too_gives_no_number(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(energy.time, 'process_time', lambda: 10.0)
    counter = machine.counter()
    monkeypatch.setattr(energy.time, 'process_time', lambda: 20.0)
    machine.busy(1050)  # hundredths of a second
    assert counter.shared() == ''
    machine.busy(2000)
    assert counter.shared() == 'other processes had over 10 % of the busy processor time'


@pytest.mark.parametrize('spoil', ['absent', 'secret', 'words'])
def test_without_a_counter_that_can_be_read_there_is_no_number_and_a_reason(machine, monkeypatch, spoil):
    if spoil == 'absent':
        monkeypatch.setattr(energy, 'counter_of', lambda device: Packages(machine.powercap / 'none', machine.stat))
    else:
        file = machine.powercap / 'intel-rapl:0' / 'energy_uj'
        file.unlink()
        file.mkdir() if spoil == 'secret' else file.write_text('none')  # root may read all: a folder, for nobody
        monkeypatch.setattr(energy, 'counter_of', lambda device: machine.counter())
    found = Energy(CPU).spent()
    assert found['energy_joules'] is None and found['energy_of'].startswith('not measured: no counter: ')


class Nvml:
    """The library's functions, as far as they are asked."""

    def __init__(self, processes: int = 1, code: int = 0):
        self.millijoules, self.processes, self.code = 10_000, processes, code

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle) -> int:
        return 0 if uuid == b'GPU-1' else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, card, found) -> int:
        found._obj.value = self.millijoules
        return self.code

    def nvmlDeviceGetComputeRunningProcesses(self, card, count, names) -> int:
        count._obj.value = self.processes
        return 7 if self.processes else 0


def test_a_board_gives_joules_and_names_its_neighbours():
    nvml = Nvml()
    counter = Board('GPU-1', nvml)
    nvml.millijoules = 12_500
    assert (counter.read(), counter.shared()) == (2.5, '')
    assert 'may have been shared' not in counter.of and 'may have been shared' in Board('GPU-1', Nvml(0)).of
    nvml.processes = 3
    counter.read()
    nvml.processes = 1
    counter.read()
    assert counter.shared() == '3 processes were on the GPU'


@pytest.mark.parametrize(
    ('uuid', 'code', 'words'), [('GPU-2', 0, 'ByUUID of NVML answers 6'), ('GPU-1', 3, 'answers 3')]
)
def test_a_board_without_a_counter_is_an_error(uuid: str, code: int, words: str):
    with pytest.raises(OSError, match=words):
        Board(uuid, Nvml(code=code))


def test_a_training_tells_its_energy_but_not_where_a_part_was_done_before(machine, tmp_path, monkeypatch):
    from test_training import small_task

    from medpeft_utils.training.loop import TrainingConfig, fit

    monkeypatch.setattr(energy, 'counter_of', lambda device: machine.counter())
    monkeypatch.setattr(energy, 'SHORTEST', 0.0)
    config = TrainingConfig(1e-2, min_steps=4, max_steps=4, batch_size=8, evaluations=2)
    spend = lambda row: machine.put('intel-rapl:1', 1_000_000 * (1 + row['step']))  # noqa: E731
    found = fit(small_task(), config, spend, quiet=True)
    assert found.energy == {'energy_joules': 4.0, 'energy_of': Packages.of}
    monkeypatch.setattr(energy, 'SHORTEST', 1e9)
    assert fit(small_task(), config, quiet=True).energy['energy_of'].startswith('not measured: shorter')
    monkeypatch.setattr(energy, 'SHORTEST', 0.0)

    def killed(row: dict) -> None:
        if row['step'] == 4:
            raise KeyboardInterrupt

    checkpoint = tmp_path / 'checkpoint.safetensors'
    with pytest.raises(KeyboardInterrupt):
        fit(small_task(), config, killed, quiet=True, checkpoint=checkpoint, checkpoint_seconds=0.0)
    again = fit(small_task(), config, quiet=True, checkpoint=checkpoint)
    assert again.energy['energy_joules'] is None
    assert 'a part of the training' in again.energy['energy_of']
