"""The table of the second paper's 18 tasks: LoRA against full fine-tuning on radiograph models, with intervals."""

from __future__ import annotations

import math

import pandas as pd

from medpeft_utils.report import cxr_scores as cxr
from medpeft_utils.report import paper, provenance
from medpeft_utils.report.output import MISSING, Row, Table
from medpeft_utils.report.renderers import renderer

TITLE = 'LoRA against full fine-tuning on chest-radiograph models, 18 tasks: AUROC in points'
COLUMNS = ['Model', 'Dataset', 'Labels (images)', 'Full FT', 'LoRA', 'LoRA less full FT', 'Rank', 'Trained', 'Seeds']
TITLE_LISTS = "The second paper's published lists: counts, prevalence, overlap"
COLUMNS_LISTS = [
    'Dataset',
    'List',
    'Images',
    'Patients',
    'No finding',
    'Rarest finding',
    'Commonest finding',
    'In the 10 % list',
    'Patients in other splits',
]
LISTS = {
    'train_1': '1 % of the labels',
    'train_10': '10 %',
    'train_list': '100 %',
    'val_list': 'validation',
    'test_list': 'test',
}
PAPER_WINS, PAPER_TASKS, PAPER_GAP = 13, 18, 0.029


def _row(task: tuple, found: pd.Series | None, rule: bool) -> Row:
    model, data, fraction = task
    if found is None:
        return Row((model, data, cxr.percent(fraction)), [MISSING] * 6, rule=rule)
    cells = [cxr.points(found[side], (found[f'{side}_low'], found[f'{side}_high'])) for side in ('full', 'lora')]
    cells.append(cxr.points(found['difference'], (found['low'], found['high']), signed=True))
    lora = not math.isnan(found['rank'])
    cells += [f'{found["rank"]:.0f}' if lora else MISSING]
    cells += [f'{found["trainable"] / found["total"]:.2%}'.replace('%', ' %') if lora else MISSING]
    best = [False] * 6
    if not math.isnan(found['difference']):
        best[:2] = [found['difference'] <= 0, found['difference'] >= 0]
    heads = (model, data, f'{cxr.percent(fraction)} ({found["train_images"]:,.0f})')
    return Row(heads, [*cells, f'{found["seeds"]:.0f}'], best, rule=rule)


def _summary(table: pd.DataFrame) -> list[Row]:
    """Tasks won and the largest gap, ours and the paper's."""
    both = table.dropna(subset='difference')
    won = f'LoRA in {(both["difference"] > 0).sum()} of {len(both)}' if len(both) else MISSING
    gap = cxr.points(both['difference'].max(), signed=True) if len(both) else MISSING
    rows = []
    for place, (label, wins, largest) in enumerate(
        (
            ('this study', won, gap),
            ('paper', f'LoRA in {PAPER_WINS} of {PAPER_TASKS}', cxr.points(PAPER_GAP, signed=True)),
        )
    ):
        cells = [MISSING, wins, largest, MISSING, MISSING, MISSING]
        rows.append(Row(('Tasks won, largest gap', label, ''), cells, muted=label == 'paper', rule=place == 0))
    return rows


def _notes(records: pd.DataFrame, shown: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    notes = cxr.describe(records, shown)
    both = table.dropna(subset='difference')
    have = list(both[cxr.TASK].itertuples(index=False, name=None))
    notes.append(provenance.missing([(m, d, f) for m, d, f in cxr.wanted_tasks()], have))
    if len(both):
        clear = [(both['low'] > 0).sum(), (both['high'] < 0).sum()]
        notes.append(
            f'The interval of the difference lies above zero in {clear[0]} tasks and below it in {clear[1]}, of '
            f'{len(both)}; tests of many tasks are not corrected.'
        )
    notes.append(
        'Mean AUROC over findings on the test split. Brackets: 95 %, bootstrap over its patients, of these trained '
        'networks (mean over seeds), the difference paired; the chance of training is not in it. Trained: share of all '
        'parameters, the head left out. Rank: the authors’ for the task where it was run, else the best on validation. '
        f'The paper’s own table is not held here ({cxr.CITATION}).'
    )
    return notes


@renderer('cxr_tasks', TITLE, 'On a radiograph model, is LoRA better than full fine-tuning, task by task?')
def cxr_tasks(records: pd.DataFrame, f1: str = 'weighted') -> Table:
    """The 18 tasks of Lian et al. 2024, those of the study that are none of them, tasks won and the largest gap."""
    shown = cxr.one_rank(cxr.runs(records))
    table = cxr.tasks(shown)
    found = {tuple(row[cxr.TASK]): row for _, row in table.iterrows()}
    order = [*cxr.wanted_tasks(), *(task for task in found if task not in cxr.wanted_tasks())]
    models, sets = (list(dict.fromkeys(task[place] for task in order)) for place in (0, 1))
    order.sort(key=lambda task: (models.index(task[0]), sets.index(task[1]), task[2]))
    rows = [
        _row(task, found.get(task), rule=bool(place) and order[place - 1][0] != task[0])
        for place, task in enumerate(order)
    ]
    return Table(
        name='cxr_tasks',
        title=TITLE + (', synthetic images' if len(shown) and shown['synthetic'].any() else ''),
        columns=COLUMNS,
        rows=[*rows, *_summary(table)],
        notes=_notes(records, shown, table),
        data=table,
        further={'runs': shown.drop(columns=['draws', 'key', 'undefined'])} if len(shown) else {},
    )


def _share(part: float, whole: float) -> str:
    return MISSING if pd.isna(part) else f'{part:,.0f} ({part / whole:.1%})'.replace('%', ' %')


def _list_row(dataset: str, name: str, values: pd.Series, rule: bool) -> Row:
    """One list: `values` by what they are, as `data.lists.arithmetic` names them."""
    images = values['images']
    positives = values[values.index.str.startswith('positives: ')].rename(lambda what: what.split(': ')[1])
    ends = [
        f'{finding.replace("_", " ")} {_share(positives[finding], images)}'
        for finding in (positives.idxmin(), positives.idxmax())
    ]
    inside = _share(values['in_10'], images) if name == 'train_1' else MISSING
    patients, elsewhere = (values.get(what, math.nan) for what in ('patients', 'patients_elsewhere'))
    counts = [MISSING if pd.isna(count) else f'{count:,.0f}' for count in (patients, elsewhere)]
    cells = [f'{images:,.0f}', counts[0], _share(values['without_finding'], images), *ends, inside, counts[1]]
    return Row((dataset, LISTS[name]), cells, rule=rule)


@renderer('cxr_lists', TITLE_LISTS, 'What do the published lists hold, and do they overlap?')
def cxr_lists(records: pd.DataFrame, f1: str = 'weighted') -> Table:
    """Counts of the lists that Lian et al. 2024 publish, by `medpeft_utils.data.lists`; no image is needed for it."""
    data = paper.read('lian2024_lists')
    rows = []
    for dataset, lists in data.groupby('dataset', sort=False):
        tables = lists.assign(list=lists['list'].str.removesuffix('.txt')).pivot(
            index='list', columns='what', values='value'
        )
        names = [name for name in LISTS if name in tables.index]
        rows += [
            _list_row(dataset.split(' (')[0], name, tables.loc[name].dropna(), rule=bool(rows) and not place)
            for place, name in enumerate(names)
        ]
    return Table(
        name='cxr_lists',
        title=TITLE_LISTS,
        columns=COLUMNS_LISTS,
        rows=rows,
        notes=[
            'The lists that the authors publish, of real data; no image and no run of this study is behind this table. '
            'CheXpert: without a list of 100 %. RSNA Pneumonia: the names of its files tell no patient.',
            'The 1 % lists are no part of the 10 % lists: what AUROC gains from 1 % to 10 % is not of added labels '
            f'alone. Shares of positives differ between the splits of RSNA Pneumonia. {cxr.CITATION}.',
        ],
        data=data,
    )
