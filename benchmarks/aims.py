"""What the project aims at, beside what was measured; nothing here knows a result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

OVER_PLAIN = {'vit': 3.0, 'cnn': 1.7}  # on a CPU; the one of ViTs was set for a processor with AMX
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
        at_least: the value should reach the target; else stay at or below it.
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
        """Whether it is reached; None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured >= self.target if self.at_least else self.measured <= self.target

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self) | {'met': self.met}


def judge(parts: dict[str, Any], about: dict[str, Any]) -> list[Aim]:
    """Every aim of the parts that were measured.

    Args:
        parts: part -> what was measured, or {'error': text}.
        about: of the device (`device.describe`).
    """
    aims: list[Aim] = []
    for name, judged in JUDGES.items():
        found = parts.get(name)
        if found and not (isinstance(found, dict) and 'error' in found):
            aims += judged(found, about)
    return aims


def _of_steps(rows: list[dict[str, Any]], about: dict[str, Any]) -> list[Aim]:
    aims = []
    for row in rows:
        subject = f'{row["label"]} on {row["backbone"]}'
        full = row.get('time_of_full_ft')
        if about['kind'] == 'cpu':
            no_amx = row['family'] == 'vit' and about['amx'] is False
            remark = 'set for a CPU with AMX; this one has none' if no_amx else ''
            value, target = row.get('speedup_over_plain'), OVER_PLAIN[row['family']]
            aims.append(Aim('steps', subject, 'times the images/s of plain code', value, target, remark=remark))
        aims.append(Aim('steps', subject, 'of the images/s of the best loop', row.get('speed_of_best'), OF_BEST))
        if row['kind'] != 'baseline':
            aims.append(Aim('steps', subject, "of full FT's step time", full, OF_FULL_FT, at_least=False))
    return aims


def _of_startup(found: dict[str, Any], about: dict[str, Any]) -> list[Aim]:
    words = 'seconds that a run costs over its work'
    return [Aim('startup', 'a run', words, found['forked_seconds_with_runner'], STARTUP_SECONDS, at_least=False)]


def _of_loader(rows: list[dict[str, Any]], about: dict[str, Any]) -> list[Aim]:
    aims = []
    for row in rows:
        if row['image_size'] in LOADER:
            remark = 'set for two cores, measured on one' if row['threads'] < 2 else ''
            target = LOADER[row['image_size']]
            aims.append(
                Aim('loader', f'{row["image_size"]} px', 'images/s', row['images_per_second'], target, True, remark)
            )
    return aims


def _of_scaling(found: dict[str, Any], about: dict[str, Any]) -> list[Aim]:
    remark = 'set for two cores; this machine has one' if about['cores'] < 2 else ''
    return [Aim('scaling', 'two workers', 'times the runs of one', found['ratio'], SCALING, True, remark)]


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
