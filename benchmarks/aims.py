"""The aims of the project beside what was measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

OVER_PLAIN = {'vit': 3.0, 'cnn': 1.7}  # on a CPU; the aim for ViTs is meant for a processor with AMX
OF_BEST = 0.95
OF_FULL_FT = 0.75
STARTUP_SECONDS = 1.0
LOADER = {64: 5000.0, 224: 1500.0}  # on two cores
SCALING = 1.8
MEMORY_GROWTH = 0.05


@dataclass(frozen=True)
class Aim:
    """One measured value and its aim.

    Args:
        part: of the bench.
        subject: what was measured, such as 'LoRA on vit_base_mini'.
        quantity: in words, with its unit.
        measured: the value; None where it could not be measured.
        target: the aim.
        at_least: whether the target is the least value; otherwise it is the largest.
        remark: what the reader should know, or ''.
    """

    part: str
    subject: str
    quantity: str
    measured: float | None
    target: float
    at_least: bool = True
    remark: str = ''

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured >= self.target if self.at_least else self.measured <= self.target

    def plain(self) -> dict[str, Any]:
        """The aim as JSON holds it."""
        return asdict(self) | {'met': self.met}


def judge(parts: dict[str, Any], about: dict[str, Any]) -> list[Aim]:
    """Every aim of the parts that were measured.

    Args:
        parts: part -> what was measured, or {'error': text}.
        about: the device (`device.describe`).
    """
    measured = {name: part for name, part in parts.items() if part and 'error' not in part}
    return [aim for name, judged in JUDGES.items() if name in measured for aim in judged(measured[name], about)]


def _of_steps(rows: list[dict[str, Any]], about: dict[str, Any]) -> list[Aim]:
    aims = []
    for row in rows:
        subject = f'{row["label"]} on {row["backbone"]}'
        if about['kind'] == 'cpu':
            no_amx = row['family'] == 'vit' and about['amx'] is False
            remark = 'meant for a CPU with AMX; this one has none' if no_amx else ''
            value, target = row.get('speedup_over_plain'), OVER_PLAIN[row['family']]
            aims.append(Aim('steps', subject, 'times the images/s of plain code', value, target, remark=remark))
        aims.append(Aim('steps', subject, 'of the images/s of the best loop', row.get('speed_of_best'), OF_BEST))
        if row['kind'] != 'baseline':
            value = row.get('time_of_full_ft')
            aims.append(Aim('steps', subject, "of full FT's step time", value, OF_FULL_FT, at_least=False))
    return aims


def _of_loader(rows: list[dict[str, Any]], about: dict[str, Any]) -> list[Aim]:
    return [
        Aim(
            'loader',
            f'{size} px',
            'images/s',
            row['images_per_second'],
            LOADER[size],
            remark=_two_cores(row['threads']),
        )
        for row in rows
        if (size := row['image_size']) in LOADER
    ]


def _two_cores(cores: int) -> str:
    return 'meant for two cores, measured on one' if cores < 2 else ''


def _of_startup(found: dict[str, Any], about: dict[str, Any]) -> list[Aim]:
    value = found['forked_seconds_with_runner']
    return [Aim('startup', 'a run', 'seconds that a run costs over its work', value, STARTUP_SECONDS, at_least=False)]


def _of_scaling(found: dict[str, Any], about: dict[str, Any]) -> list[Aim]:
    remark = _two_cores(about['cores'])
    return [Aim('scaling', 'two workers', 'times the runs of one', found['ratio'], SCALING, remark=remark)]


def _of_memory(found: dict[str, Any], about: dict[str, Any]) -> list[Aim]:
    words = 'growth of memory from the first tenth to the last'
    return [Aim('memory', f'{found["runs"]} runs', words, found['growth'], MEMORY_GROWTH, at_least=False)]


JUDGES = {
    'steps': _of_steps,
    'startup': _of_startup,
    'loader': _of_loader,
    'scaling': _of_scaling,
    'memory': _of_memory,
}
