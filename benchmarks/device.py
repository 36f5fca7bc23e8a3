"""What a bench ran on, in words that let somebody else judge its numbers."""

from __future__ import annotations

import platform
import re
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import medpeft_utils
from medpeft_utils.study.machine import cores

PACKAGES = ('torch', 'timm', 'peft', 'numpy')


def _processor() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; none where there is no such file."""
    path = Path('/proc/cpuinfo')
    text = path.read_text().split('\n\n')[0] if path.is_file() else ''
    pairs = (line.partition(':') for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def describe(device: str, threads: int) -> dict[str, Any]:
    """Device, processor, cores, number formats of the processor, versions and date.

    `amx` and `avx512_bf16` tell whether the processor computes bfloat16 products itself; None where it is not known.
    """
    import torch

    processor = _processor()
    flags = processor.get('flags', '').split()
    name = processor.get('model name') or platform.processor() or platform.machine()
    return {
        'device': torch.cuda.get_device_name() if device == 'cuda' else name,
        'kind': device,
        'cpu': name,
        'cores': cores(),
        'amx': 'amx_tile' in flags if flags else None,
        'avx512_bf16': 'avx512_bf16' in flags if flags else None,
        'threads': threads,
        'platform': platform.system(),
        'versions': {'python': platform.python_version(), 'medpeft': medpeft_utils.__version__}
        | {package: metadata.version(package) for package in PACKAGES},
        'date': datetime.now(UTC).date().isoformat(),
    }


def slug(about: dict[str, Any]) -> str:
    """A file name for a device, such as 'intel-xeon-processor-2-cores'."""
    words = re.sub(r'\((r|tm)\)|[^a-z0-9]+', ' ', about['device'].lower()).split()
    extra = [] if about['kind'] == 'cuda' else [str(about['cores']), 'cores', *(['amx'] if about['amx'] else [])]
    return '-'.join(words + extra)


def sentence(about: dict[str, Any]) -> str:
    """The device in a line for a table's head."""
    versions = ', '.join(f'{name} {version}' for name, version in about['versions'].items())
    amx = {True: 'with AMX', False: 'without AMX', None: 'AMX unknown'}[about['amx']]
    card = f'{about["device"]}; ' if about['kind'] == 'cuda' else ''
    return f'{card}{about["cpu"]}, {about["cores"]} cores, {amx}; {about["date"]}; {versions}'
