"""What each method costs, from the records, and scores against costs: `medpeft cost P` and a figure."""

from __future__ import annotations

import math
from pathlib import Path

import click
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.report import paper, provenance, scores, source
from medpeft_utils.report.figure3 import draw_points, front_of, on_complete_sets
from medpeft_utils.report.output import MISSING, Figure, Nothing, Output, Row, Table, renderer
from medpeft_utils.report.style import sheet
from medpeft_utils.study.paths import project_root

NO_COST = 'These records hold no costs.'
# A step is a forward pass and at most two of its size backward. What is above that was counted wrongly: torch takes
# the weight gradients of grouped convolutions for those of full ones.
MOST_OF_A_STEP = 3.2
MISCOUNTED = 'Operations of a step are left open where torch miscounts grouped convolutions.'
COSTS = {  # field: heading, divisor, digits
    'forward_flops': ('Forward, GFLOP', 1e9, 2),
    'step_flops': ('Step, GFLOP', 1e9, 2),
    'adapter_bytes': ('Adapter, KB', 1e3, 1),
    'total_bytes': ('All, MB', 1e6, 1),
    'peak_memory_mb': ('Peak memory, MB', 1, 0),
    'train_images_per_second': ('Training, images/s', 1, 1),
    'unmerged_1': ('Batch 1, images/s', 1, 1),
    'unmerged_64': ('Batch 64, images/s', 1, 1),
    'merged_1': ('Merged, batch 1', 1, 1),
    'merged_64': ('Merged, batch 64', 1, 1),
    'energy_joules': ('Energy, J', 1, 0),
    'search_seconds': ('Search, s', 1, 0),
    'total_seconds': ('Run, s', 1, 0),
}
FRONT = {
    'step_flops': 'operations of a step and image',
    'adapter_bytes': 'bytes to keep',
    'search_seconds': 'seconds of search',
}


def run_costs(records: pd.DataFrame, f1: str = 'weighted') -> pd.DataFrame:
    """A row for each run of the tables that holds costs: encoder, data, method, device, memory_of, and COSTS."""
    chosen = scores.table_scores(records, f1)
    if chosen.empty or 'record' not in records:
        return pd.DataFrame()
    whole, rows = records.drop_duplicates('run').set_index('run')['record'], []
    for one in chosen.itertuples():
        record = whole[one.run]
        found = record.get('cost') if isinstance(record, dict) else None
        if not found:
            continue
        row = {'encoder': one.encoder, 'backbone': one.backbone_label, 'data': one.data, 'method': one.method}
        row |= {'family': one.family, 'device': (record.get('environment') or {}).get('device', '')}
        row |= {'memory_of': found.get('peak_memory_of', ''), 'image_size': record['backbone'].get('image_size')}
        row |= {'energy_of': found.get('energy_of', '')}
        rates = found.get('images_per_second') or {}
        flat = {f'{n}_{batch}': rate for n, by in rates.items() if isinstance(by, dict) for batch, rate in by.items()}
        seconds = {'total_seconds': (record.get('time') or {}).get('total_seconds')}
        rows.append(row | {name: _number((found | flat | seconds).get(name)) for name in COSTS})
    runs = pd.DataFrame(rows)
    if not runs.empty:
        runs['overcounted'] = runs['step_flops'] > MOST_OF_A_STEP * runs['forward_flops']
        runs['step_flops'] = runs['step_flops'].mask(runs['overcounted'])
    return runs


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


@renderer('cost', 'What each method costs', 'What does each method cost in operations, bytes, memory and time?')
def cost(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Costs by backbone, device and method: medians over runs; what was not measured is left open, never estimated."""
    runs = run_costs(records, f1)
    if runs.empty:
        return Nothing(notes=[NO_COST])
    rows, data = [], []
    measured = [name for name in COSTS if runs[name].notna().any()]
    by = ['backbone', 'image_size', 'device']
    for (backbone, size, device), group in runs.groupby(by, sort=False, dropna=False):
        known = paper.methods_of(group)
        for method in scores.in_order(group['method'], known):
            medians = group[group['method'] == method][measured].median()
            cells = [_shown(medians[name], COSTS[name]) for name in measured]
            name = backbone if pd.isna(size) else f'{backbone}, {size:g} px'
            name += f', {device}' if runs['device'].nunique() > 1 else ''
            rows.append(Row((name, method), cells))
            data.append(dict(zip(by, (backbone, size, device), strict=True)) | {'method': method} | medians.to_dict())
    devices, memory = provenance.listed(runs['device']), provenance.listed(filter(None, runs['memory_of']))
    absent = [COSTS[name][0] for name in COSTS if name not in measured]
    notes = [
        f'Median over {len(runs)} runs on {devices}. Peak memory: of {memory or "what the records do not say"}. '
        'Operations: two for a multiplication with addition; a step is forward and backward of one image, without the '
        'optimizer. Bytes of an adapter: what it saves beside the backbone, the head included.',
        *([MISCOUNTED] if runs['overcounted'].any() else []),
        *([f'Not measured, and not estimated: {", ".join(absent)}.'] if absent else []),
        *([f'Energy: {provenance.listed(filter(None, runs["energy_of"]))}.'] if any(runs['energy_of']) else []),
    ]
    columns = ['Backbone', 'Method', *(COSTS[name][0] for name in measured)]
    return Table(columns=columns, rows=rows, notes=notes, data=pd.DataFrame(data))


def _shown(value: float, how: tuple[str, float, int]) -> str:
    return MISSING if math.isnan(value) else f'{value / how[1]:,.{how[2]}f}'


@renderer('cost_front', 'Scores against costs', 'What does a better score cost?')
def cost_front(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Average score against three costs, for the encoder with most methods; a front of detectable steps alone."""
    runs, chosen = run_costs(records, f1), scores.table_scores(records, f1)
    if runs.empty:
        return Nothing(notes=[NO_COST])
    encoder = runs.groupby('encoder')['method'].nunique().idxmax()
    here = chosen[chosen['encoder'] == encoder]
    here, blocks = on_complete_sets(here, list(dict.fromkeys(here['method'])))
    costs = runs[runs['encoder'] == encoder].groupby('method')[list(FRONT)].median()
    costs = costs.loc[[method for method in blocks if method in costs.index]]
    costs = costs.where(costs > 0).dropna(axis='columns', how='all')
    if costs.empty:
        return Nothing(notes=[NO_COST])
    notes, means, data = provenance.describe(records, here, f1), blocks.mean(), []
    figure, axes = sheet(1, costs.shape[1], 3.2 if costs.shape[1] > 1 else 4.5, 2.9, sharey=True)
    for axis, (name, cost_) in zip(axes[0], costs.items(), strict=True):
        front = front_of(cost_.dropna(), scores.block_samples(here))
        rows = pd.DataFrame({'cost': cost_.dropna(), 'score': means}).dropna().loc[cost_.dropna().index].reset_index()
        axis.margins(y=0.12)
        draw_points(axis, rows, front, reach=8, size=6)
        axis.set_xlabel(f'{FRONT[name]} (log scale)')
        rows = rows.assign(encoder=encoder, cost_name=name, on_front=rows['method'].isin(front))
        data.append(rows[['encoder', 'cost_name', 'method', 'cost', 'score', 'on_front']])
    axes[0, 0].set_ylabel(f'average {f1} F1')
    axes[0, 0].set_title(f'{here["backbone_label"].iloc[0]}, {provenance.from_to([len(blocks)], "data set")}')
    more = 'Dashed: the front. A dearer method is on it only where it is detectably better than the one before it.'
    return Figure(
        synthetic=provenance.is_synthetic(here),
        figure=figure,
        footer=notes,
        notes=[*notes, more],
        data=pd.concat(data).rename(columns={'cost': 'value', 'cost_name': 'cost'}),
    )


@click.command('cost')
@click.argument('profile')
@click.option(
    '--results', type=click.Path(path_type=Path), help='Folder of records; by default results of this project.'
)
@click.option(
    '--figures', type=click.Path(path_type=Path), help='Folder of figures; by default figures of this project.'
)
def command(profile: str, results: Path | None, figures: Path | None) -> None:
    """Print what each method of PROFILE costs, from its records: operations, bytes, memory, images per second."""
    at, beside = (results or project_root() / 'results') / profile, (figures or project_root() / 'figures') / profile
    found = cost(source.load(profile, at, beside))
    if isinstance(found, Nothing):
        raise BadInput(f"{profile}: {NO_COST} Runs of today's code hold them: medpeft run {profile}")
    click.echo(found.frame.to_string(index=False))
    click.echo('\n'.join(['', *found.notes]))
