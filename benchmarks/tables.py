"""A bench as tables: the same Markdown for the terminal and for the file."""

from __future__ import annotations

from typing import Any

from benchmarks.device import sentence

HOW = """\
*Ours* is the package's training loop with everything in a step (batch, augmentation, schedule, loss). *Plain* is the
same method as a simple script writes it: float32, timm's fused attention, peft's LoRA, unfused modules, AdamW. *Best*
is a loop of forward, backward and optimizer on one prepared batch, in the fastest form and number format for that
method. Plain and best load and augment nothing. Weights are random. Candidates take turns; values are medians over
rounds, and ratios are medians of the ratios within a round. Memory is the peak of each process above its imports (on a
GPU, of the allocator). Linear probing is timed as training through the frozen network; a run of the study computes its
features
once instead."""


def table(heads: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A Markdown table; the first `left` columns are aligned to the left, all others to the right."""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]

    def line(cells: list[str]) -> str:
        padded = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return f'| {" | ".join(padded)} |'

    rule = ['-' * w if i < left else '-' * (w - 1) + ':' for i, w in enumerate(widths)]
    return '\n'.join([line(heads), f'| {" | ".join(rule)} |', *map(line, rows)])


def number(value: float | None, form: str = '') -> str:
    """A formatted value, or a dash for None."""
    return '–' if value is None else format(value, form)


def threads(count: int) -> str:
    """'1 thread', '2 threads'."""
    return f'{count} thread' + ('s' if count > 1 else '')


def render(bench: dict[str, Any]) -> str:
    """The whole bench as Markdown: device, a table for each part, the aims."""
    parts = [
        f'# medpeft bench\n\n{sentence(bench["device"])}.'
        + ('' if not bench['quick'] else ' A quick bench: few and short rounds, so its numbers are rough.')
    ]
    for name, show in SHOWN.items():
        found = bench['parts'].get(name)
        if isinstance(found, dict) and 'error' in found:
            parts.append(f'## {name}\n\nnot measured: {found["error"]}')
        elif found:
            parts.append(f'## {name}\n\n{show(found, bench)}\n\n{_when(bench["measured"][name])}')
    if bench['aims']:
        parts.append(f'## aims\n\n{aims(bench["aims"])}')
    return '\n\n'.join(parts) + '\n'


def aims(rows: list[dict[str, Any]]) -> str:
    """The aims beside what was measured, and how many are met."""
    cells = []
    for row in rows:
        met = {True: 'met', False: 'not met', None: 'not measured'}[row['met']]
        verdict = met + (f' ({row["remark"]})' if row['remark'] else '')
        value = number(row['measured'], ',.0f' if (row['measured'] or 0) >= 100 else '.2f')
        target = f'{"≥" if row["at_least"] else "≤"} {row["target"]:g}'
        cells.append([row['subject'], row['quantity'], verdict, value, target])
    met = sum(row['met'] is True for row in rows)
    heads = ['subject', 'quantity', 'verdict', 'measured', 'aim']
    return f'{met} of {len(rows)} aims are met.\n\n{table(heads, cells, left=3)}'


def _when(measured: dict[str, Any]) -> str:
    return f'`{measured["command"]}`, {measured["date"]}, {measured["seconds"] / 60:.1f} minutes.'


def _steps(rows: list[dict[str, Any]], bench: dict[str, Any]) -> str:
    scale, blocks = bench['measured']['steps']['scale'], []
    for family, backbone in scale['backbones']:
        of_family = [row for row in rows if row['family'] == family]
        if not of_family:
            continue
        ours = next((row['ours']['computes_in'] for row in of_family if 'ours' in row), 'nothing')
        text = f'{backbone}, batches of {scale["batch_size"]}, {threads(scale["threads"])}; ours computes in {ours}'
        blocks.append(f'{text}\n\n{_step_table(of_family)}')
        blocks += [f'{row["label"]}: {text}' for row in of_family for text in _faults(row)]
        blocks += [f'{row["label"]}: no plain form; our module is timed' for row in of_family if not row['plain_form']]
    return '\n\n'.join([*blocks, HOW])


def _step_table(rows: list[dict[str, Any]]) -> str:
    heads = ['method', 'best computes in', 'ours img/s', 'plain', 'best', '× plain', 'of best', "of full FT's step"]
    heads += ['ours MB', 'plain MB', 'best MB']
    cells = []
    for row in rows:
        got = [row.get(name, {}) for name in ('ours', 'plain', 'best')]
        rates = [number(one.get('images_per_second'), ',.0f') for one in got]
        ratios = [number(row.get(name), '.2f') for name in ('speedup_over_plain', 'speed_of_best')]
        full = number(row.get('time_of_full_ft'), '.2f')
        memory = [number(one.get('peak_memory_mb'), ',.0f') for one in got]
        best = f'{got[2].get("computes_in", "–")} ({got[2].get("form", "–")})'
        cells.append([row['label'], best, *rates, *ratios, full, *memory])
    return table(heads, cells, left=2)


def _faults(row: dict[str, Any]) -> list[str]:
    faults = [f'not measured: {row["error"]}'] if 'error' in row else []
    named = ((name, row.get(name, {})) for name in ('ours', 'plain', 'best', 'full_ft'))
    return faults + [f'{name} failed: {got["error"]}' for name, got in named if 'error' in got]


def _startup(found: dict[str, Any], bench: dict[str, Any]) -> str:
    rows = {
        'a run with a forked kernel': found['forked_seconds'],
        'the same with the runner around it': found['forked_seconds_with_runner'],
        'once a study: the imports of the fork server': found['once_a_study_seconds'],
        'a run with plain papermill': found['plain_seconds'],
    }
    return _pairs('Runs that import torch, timm and peft and write a record.', 'seconds', rows, '.2f')


def _loader(rows: list[dict[str, Any]], bench: dict[str, Any]) -> str:
    rates = {f'{row["image_size"]} px': row['images_per_second'] for row in rows}
    return _pairs(f'Augmented batches, {threads(rows[0]["threads"])}.', 'images/s', rates, ',.0f')


def _scaling(found: dict[str, Any], bench: dict[str, Any]) -> str:
    rates = {f'{workers} workers': rate for workers, rate in found['runs_per_minute'].items()}
    text = (
        f'{found["runs"]} runs of training, one thread each; two workers do {found["ratio"]:.2f} times the runs of one.'
    )
    return _pairs(text, 'runs a minute', rates, '.1f')


def _memory(found: dict[str, Any], bench: dict[str, Any]) -> str:
    rows = {'first tenth of the runs': found['first_mb'], 'last tenth': found['last_mb']}
    return _pairs(f'{found["runs"]} runs; memory of the runner and of the fork server.', 'MB', rows, ',.0f')


def _pairs(text: str, unit: str, values: dict[str, float], form: str) -> str:
    """A sentence, and a table of names and values."""
    return f'{text}\n\n{table(["", unit], [[name, number(value, form)] for name, value in values.items()])}'


SHOWN = {'steps': _steps, 'startup': _startup, 'loader': _loader, 'scaling': _scaling, 'memory': _memory}
