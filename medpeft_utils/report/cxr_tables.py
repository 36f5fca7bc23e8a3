"""The table of the second paper's 18 tasks: LoRA against full fine-tuning on radiograph models, with intervals."""

from __future__ import annotations

import math

import pandas as pd

from medpeft_utils.report import cxr_scores as cxr
from medpeft_utils.report import paper, provenance, scores
from medpeft_utils.report.output import MISSING, Nothing, Output, Row, Table, renderer

COLUMNS = ['Model', 'Dataset', 'Labels (images)', 'Full FT', 'LoRA', 'LoRA minus full FT', 'Rank', 'Trained', 'Seeds']
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
PAPER_WINS, PAPER_TASKS = 13, 18


def _row(found: dict) -> Row:
    full, lora = found['full'], found['lora']
    cells = [MISSING if math.isnan(one.value) else one.text(signed=False) for one in (full, lora)]
    ran = not math.isnan(found['rank'])
    share = f'{found["trainable"] / found["total"]:.2%}'.replace('%', ' %') if ran else MISSING
    cells += [found['difference'].text(), f'{found["rank"]:.0f}' if ran else MISSING, share, f'{found["seeds"]:.0f}']
    bold = [found['difference'].high < 0, found['difference'].low > 0, False, False, False, False]
    heads = (found['encoder'], found['data'], f'{cxr.percent(found["fraction"])} ({found["train_images"]:,.0f})')
    return Row(heads, cells, bold)


@renderer(
    'cxr_tasks',
    'LoRA against full fine-tuning on chest radiographs: AUROC in points',
    'On a radiograph model, is LoRA better than full fine-tuning, task by task?',
)
def cxr_tasks(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """The tasks of Lian et al. 2024 that were run, and others; how many LoRA wins, detectably or not."""
    shown = cxr.one_rank(cxr.runs(records))
    table = cxr.tasks(shown)
    if not table:
        return Nothing(notes=cxr.describe(records, shown))
    both = [row['difference'] for row in table if not math.isnan(row['difference'].value)]
    top = ['No interval is known: no task has rows of its test split, or three seeds.']
    if any(one.known for one in both):
        least = provenance.from_to(100 * round(one.smallest, 3) for one in both if one.known)
        top = [f'Smallest difference that would be detected in four of five such studies: {least} points.']
    won, lost = sum(one.low > 0 for one in both), sum(one.high < 0 for one in both)
    ahead = sum(one.value > 0 for one in both)
    won = f'LoRA has the higher mean in {ahead} of {len(both)} tasks, detectably in {won}; full FT detectably in '
    won += f'{lost}. The paper: LoRA in {PAPER_WINS} of {PAPER_TASKS}, by up to 2.9 points.'
    bold = 'Bold: detectably better. Trained: share of all parameters, the head left out. Rank: the authors’ for the '
    bold += (
        f'task where it was run, else the best on validation. The paper’s own table is not held here ({cxr.CITATION}).'
    )
    return Table(
        synthetic=provenance.is_synthetic(shown),
        columns=COLUMNS,
        rows=[_row(row) for row in table],
        notes=[*cxr.describe(records, shown), won, bold],
        top=top,
        data=table,
        further={'runs': shown.drop(columns=['draws', 'split', 'undefined', 'printed'])},
    )


def _share(part: float, whole: float) -> str:
    return MISSING if pd.isna(part) else f'{part:,.0f} ({part / whole:.1%})'.replace('%', ' %')


def _list_row(dataset: str, name: str, values: pd.Series) -> Row:
    """One list: `values` by what they are, as `data_prep/lian_lists.py` names them."""
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
    return Row((dataset, LISTS[name]), cells)


@renderer(
    'cxr_lists',
    "The second paper's published lists: counts, prevalence, overlap",
    'What do the published lists hold, and do they overlap?',
)
def cxr_lists(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Counts of the lists that Lian et al. 2024 publish, by `data_prep/lian_lists.py`; no image is needed for it."""
    data, rows = paper.read('lian2024_lists'), []
    if not scores.is_published(records) and cxr.runs(records).empty:
        return Nothing(notes=cxr.describe(records, cxr.runs(records)))
    for dataset, lists in data.groupby('dataset', sort=False):
        tables = lists.assign(list=lists['list'].str.removesuffix('.txt')).pivot(
            index='list', columns='what', values='value'
        )
        names = [name for name in LISTS if name in tables.index]
        rows += [_list_row(dataset.split(' (')[0], name, tables.loc[name].dropna()) for name in names]
    return Table(
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
