"""The second paper (Lian et al. 2024): its 18 tasks and lists as tables, its figures, and its claims."""

from __future__ import annotations

import math

import pandas as pd

from medpeft_utils.report import cxr_scores as cxr
from medpeft_utils.report import paper, provenance, scores, style
from medpeft_utils.report.claims import CONTRADICTED, NOT_RUN, REPRODUCED, UNDECIDED, Answer, Claims, Part
from medpeft_utils.report.output import MISSING, Figure, Nothing, Output, Row, Table, renderer
from medpeft_utils.report.style import bar, legend, nothing, sheet, size_axis

COLUMNS = ['Model', 'Dataset', 'Labels (images)', 'Full FT', 'LoRA', 'LoRA minus full FT', 'Rank', 'Trained', 'Seeds']
COLUMNS_LISTS = [
    *('Dataset', 'List', 'Images', 'Patients', 'No finding', 'Rarest finding', 'Commonest finding'),
    *('In the 10 % list', 'Patients in other splits'),
]
_SHARES = {'train_1': '1 % of the labels', 'train_10': '10 %', 'train_list': '100 %'}
LISTS = _SHARES | {'val_list': 'validation', 'test_list': 'test'}
PAPER_WINS, PAPER_TASKS = 13, 18


def _row(found: dict) -> Row:
    apart, ran = found['difference'], not math.isnan(found['rank'])
    sides = (found[side] for side in ('full', 'lora'))
    cells = [MISSING if math.isnan(one.value) else one.text(signed=False) for one in sides]
    cells += [apart.text(), f'{found["rank"]:.0f}' if ran else MISSING]
    cells += [provenance.percent(found['trainable'] / found['total'], 2) if ran else MISSING, f'{found["seeds"]:.0f}']
    heads = (found['encoder'], found['data'], f'{cxr.percent(found["fraction"])} ({found["train_images"]:,.0f})')
    return Row(heads, cells, [apart.high < 0, apart.low > 0, False, False, False, False])


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
    counts = (
        f'LoRA has the higher mean in {ahead} of {len(both)} tasks, detectably in {won}; full FT detectably in {lost}. '
        f'The paper: LoRA in {PAPER_WINS} of {PAPER_TASKS}, by up to 2.9 points.'
    )
    bold = (
        'Bold: detectably better. Trained: share of all parameters, the head left out. Rank: the authors’ for the task '
        'where it was run, else the best on validation. The paper’s own table is not held here '
        f'({cxr.CITATION}).'
    )
    return Table(
        synthetic=provenance.is_synthetic(shown),
        columns=COLUMNS,
        rows=[_row(row) for row in table],
        notes=[*cxr.describe(records, shown), counts, bold],
        top=top,
        data=table,
        further={'runs': shown.drop(columns=['draws', 'split', 'undefined', 'printed'])},
    )


def _list_row(dataset: str, name: str, values: pd.Series) -> Row:
    """One list: `values` by what they are, as `data_prep/lian_lists.py` names them."""

    def share(part: float) -> str:
        return MISSING if pd.isna(part) else f'{part:,.0f} ({provenance.percent(part / values["images"], 1)})'

    def count(what: str) -> str:
        return f'{values[what]:,.0f}' if what in values else MISSING

    positives = values[values.index.str.startswith('positives: ')].rename(lambda what: what.split(': ')[1])
    ends = [f'{one.replace("_", " ")} {share(positives[one])}' for one in (positives.idxmin(), positives.idxmax())]
    inside = share(values['in_10']) if name == 'train_1' else MISSING
    cells = [count('images'), count('patients'), share(values['without_finding']), *ends, inside]
    return Row((dataset, LISTS[name]), [*cells, count('patients_elsewhere')])


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
        lists = lists.assign(list=lists['list'].str.removesuffix('.txt'))
        table = lists.pivot(index='list', columns='what', values='value')
        names = [name for name in LISTS if name in table.index]
        rows += [_list_row(dataset.split(' (')[0], name, table.loc[name].dropna()) for name in names]
    return Table(
        columns=COLUMNS_LISTS,
        rows=rows,
        notes=[
            'These are the lists that the authors publish, of real data; the table needs no image and no run. There is '
            'no 100 % list of CheXpert, and the file names of RSNA Pneumonia do not tell patients apart.',
            'The 1 % lists are not subsets of the 10 % lists, so a higher AUROC with 10 % does not come from added '
            f'labels alone. The shares of positives differ between the splits of RSNA Pneumonia. {cxr.CITATION}.',
        ],
        data=data,
    )


# ---- AUROC against labels, and against the rank of LoRA

DRAWN = 'Dots: seeds, where there are several; bars: 95 %.'
DRAWN_RANK = (
    'Bars: 95 %. Dashed, and open marks: full fine-tuning. Share: of all parameters, without the head. LoRA trains the '
    'norm before the head too.'
)


def _panel(axes, table: list[dict], shown: pd.DataFrame) -> None:
    """One model and dataset: a line for LoRA and one for full fine-tuning over the shares of the labels."""
    for side, method, aside in (('full', cxr.FULL, 96), ('lora', cxr.LORA, 104)):  # bars must not cover each other
        rows, look = [row for row in table if not math.isnan(row[side].value)], style.look(method)
        x = [row['fraction'] * aside for row in rows]
        for at, row in zip(x, rows, strict=True):
            bar(axes, at, 100 * row[side].low, 100 * row[side].high, look['color'], linewidth=2.5, alpha=0.3)
        how = {'markeredgecolor': 'white', 'markeredgewidth': 0.5, 'zorder': 4, 'label': method}
        axes.plot(x, [100 * row[side].value for row in rows], **how, **look)
        runs = shown[shown['method'] == method]
        if runs['seed'].nunique() > 1:
            dots = {'s': 5, 'color': look['color'], 'alpha': 0.5, 'linewidth': 0, 'zorder': 3}
            axes.scatter(runs['fraction'] * aside, 100 * runs['score'], **dots)
    images = {row['fraction']: row['train_images'] for row in table}
    size_axis(axes, sorted(images), images)


@renderer(
    'cxr_labels',
    'AUROC against the number of labels, LoRA and full fine-tuning',
    'Does LoRA gain over full fine-tuning as labels become fewer?',
)
def cxr_labels(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Mean test AUROC over the shares of the labels: a row a model, a column a dataset."""
    shown = cxr.one_rank(cxr.runs(records))
    table, notes = cxr.tasks(shown), cxr.describe(records, shown)
    if not table:
        return Nothing(notes=notes)
    models = scores.in_order(shown['encoder'], cxr.MODELS)
    datasets = scores.in_order(shown['data'], tuple(cxr.DATASETS.values()))
    width = 3.6 if len(datasets) == 1 else 2.6
    figure, axes = sheet(len(models), len(datasets), width, 2.2, sharey='col')
    for across, model in zip(axes, models, strict=True):
        for axis, data in zip(across, datasets, strict=True):
            runs = shown[(shown['encoder'] == model) & (shown['data'] == data)]
            axis.set_title(data if model == models[0] else '')
            if runs.empty:
                nothing(axis, 'not run')
                continue
            _panel(axis, [row for row in table if (row['encoder'], row['data']) == (model, data)], runs)
        across[0].set_ylabel(f'{shown[shown["encoder"] == model]["backbone_label"].iloc[0]}\ntest AUROC, points')
    for axis in axes[-1]:
        axis.set_xlabel('labels: per cent, images')
    legend(figure, axes[0])
    return Figure(
        synthetic=provenance.is_synthetic(shown),
        figure=figure,
        footer=[DRAWN, *notes],
        notes=[*notes, DRAWN],
        data=table,
    )


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of the tasks of which LoRA was run with two ranks or more."""
    ranks = table['rank'].where(table['method'] == cxr.LORA).groupby([table[name] for name in cxr.TASK])
    return table[ranks.transform('nunique') > 1] if len(table) else table


def _rank_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds and its interval, of every rank of these tasks, and of full fine-tuning."""
    rows, here = [], table[table['method'].isin([cxr.LORA, cxr.FULL])]
    for key, group in here.groupby([*cxr.TASK, 'method', 'rank'], dropna=False):
        found = scores.sample(group).interval()
        row = dict(zip([*cxr.TASK, 'method', 'rank'], key, strict=True))
        row |= {'auroc': found.value, 'low': found.low, 'high': found.high, 'seeds': group['seed'].nunique()}
        share = (group['trainable'] / group['total']).mean()
        rows.append(row | {'trainable': group['trainable'].iloc[0], 'share': share})
    return pd.DataFrame(rows)


def _draw_ranks(left, right, rows: pd.DataFrame) -> None:
    """A line a task over ranks (left) and over the trained share (right); full fine-tuning as a level and a point."""
    for place, (task, group) in enumerate(rows.groupby(cxr.TASK, sort=False)):
        how = {'color': style.palette()[(0, 1, 2, 4, 7, 9)[place % 6]], 'marker': 'oDs^vP'[place % 6]}
        lora, full = (group[group['method'] == method].sort_values('rank') for method in (cxr.LORA, cxr.FULL))
        name = f'{task[0]}, {task[1]}, {cxr.percent(task[2])}'
        for axes, x in ((left, lora['rank'] * 1.03 ** (place - 1)), (right, 100 * lora['share'])):
            axes.plot(x, 100 * lora['auroc'], markeredgecolor='white', markeredgewidth=0.5, label=name, zorder=4, **how)
            for at, low, high in zip(x, lora['low'], lora['high'], strict=True):
                bar(axes, at, 100 * low, 100 * high, how['color'], linewidth=2.5, alpha=0.25)
        for value, share in zip(100 * full['auroc'], 100 * full['share'], strict=True):
            left.axhline(value, color=how['color'], linestyle=(0, (4, 2)), linewidth=0.9, zorder=1)
            right.plot(share, value, marker=how['marker'], markerfacecolor='white', color=how['color'], zorder=4)
    ranks = sorted(rows['rank'].dropna().unique())
    left.set_xscale('log', base=2)
    left.set_xticks(ranks, [f'{rank:.0f}' for rank in ranks])
    right.set_xscale('log')
    right.xaxis.set_major_formatter(lambda value, position: f'{value:g}')
    for axes, words in ((left, 'rank of LoRA'), (right, 'parameters trained, % of all (log scale)')):
        axes.minorticks_off()
        axes.set_xlabel(words)
    left.set_ylabel('test AUROC, points')
    right.legend(loc='lower right', frameon=False, fontsize=6.5)


@renderer(
    'cxr_rank',
    'AUROC against the rank of LoRA and the share of parameters that it trains',
    'How many parameters does LoRA need on a radiograph model?',
)
def cxr_rank(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Mean test AUROC over ranks, and over the trained share, for the tasks that were run with several ranks."""
    used = _ranked(cxr.runs(records))
    rows, notes = _rank_rows(used), cxr.describe(records, used)
    if rows.empty:
        return Nothing(notes=notes)
    figure, axes = sheet(1, 2, 3.5, 2.7, sharey=True)
    _draw_ranks(*axes[0], rows)
    return Figure(
        synthetic=provenance.is_synthetic(used),
        figure=figure,
        footer=['Bars: 95 % intervals.', *notes],
        notes=[*notes, DRAWN_RANK],
        data=rows,
    )


# ---- the claims, as in `paper_claims.py`

PAPER_AUROC, PAPER_GAP = 0.806, 0.029
LISTED = 785  # images in the authors' list of 1 % of NIH ChestX-ray14


class Study:
    """Records as the claims need them: the tasks, and LoRA minus full fine-tuning on each."""

    def __init__(self, records: pd.DataFrame, f1: str = 'weighted'):
        self.runs = cxr.runs(records)
        self.chosen = cxr.one_rank(self.runs)
        self.tasks = cxr.tasks(self.chosen)
        self.compared = [row for row in self.tasks if not math.isnan(row['difference'].value)]

    @property
    def known(self) -> list[dict]:
        """Tasks of the paper's 18 that were run on real images."""
        real, wanted = [row for row in self.compared if not row['synthetic']], set(cxr.wanted_tasks())
        return [row for row in real if tuple(row[name] for name in cxr.TASK) in wanted]

    def parts(self) -> list[Part]:
        """LoRA minus full FT, a part a task."""
        return [
            Part(f'{row["encoder"]}, {row["data"]}, {cxr.percent(row["fraction"])}', row['difference'])
            for row in self.compared
        ]


CLAIMS = Claims(Study)


@CLAIMS.claim('LoRA is better than full fine-tuning in 13 of 18 tasks.', 'Abstract')
def lora_wins_13_of_18(study: Study) -> Answer:
    """LoRA minus full FT, task by task. Reproduced: its interval lies above zero in 13 of the paper's 18 tasks on real
    images. Contradicted: it lies below 2 points in more than five tasks. Else undecided."""
    parts = study.parts()
    if not parts:
        return Answer()
    verdicts = [part.verdict for part in parts]
    known = {f'{row["encoder"]}, {row["data"]}, {cxr.percent(row["fraction"])}' for row in study.known}
    wins = sum(part.verdict == REPRODUCED and part.what in known for part in parts)
    stated = UNDECIDED
    if wins >= PAPER_WINS:
        stated = REPRODUCED
    elif verdicts.count(CONTRADICTED) > PAPER_TASKS - PAPER_WINS:
        stated = CONTRADICTED
    ahead = sum(row['difference'].value > 0 for row in study.compared)
    words = f'LoRA has the higher AUROC in {ahead} of {len(parts)} tasks; detectably in {verdicts.count(REPRODUCED)}'
    caveat = f'{len(study.known)} of the 18 tasks were run on real images.'
    return Answer(parts, (words,), caveat, stated)


@CLAIMS.claim('LoRA is better by up to 2.9 points of AUROC.', 'Abstract')
def gap_up_to_2_9_points(study: Study) -> Answer:
    """The task with the largest mean difference, LoRA minus full FT: its interval lies above zero (reproduced) or below
    2 points (contradicted). The largest of several differences is too large by its choice."""
    if not study.compared:
        return Answer()
    top = max(study.parts(), key=lambda part: part.found.value)
    return Answer([top], caveat=f'The paper: {100 * PAPER_GAP:.1f} points, over 18 tasks.')


@CLAIMS.claim('AUROC of 80.6 % on NIH ChestX-ray14 with 1 % of its labels.', 'Abstract')
def auroc_80_6_on_nih_with_1_percent(study: Study) -> Answer:
    """Only NIH ChestX-ray14 itself with the authors' list of 785 training images answers: AUROC of the better model's
    LoRA minus 78.6 points, above zero (within 2 points of the paper, or better) or not."""
    one = study.chosen[(study.chosen['method'] == cxr.LORA) & (study.chosen['fraction'] == 0.01)]
    near = one[one['data'] == cxr.DATASETS['nih_chestxray14']]
    real = near[~near['synthetic'].astype(bool) & (near['train_images'] == LISTED)]
    if real.empty:
        instead = near.groupby(['dataset_label', 'backbone_label', 'train_images'], sort=False)['score'].mean()
        lines = [f'instead: {d}, {m}, {n:.0f} images: {100 * value:.1f}' for (d, m, n), value in instead.items()]
        return Answer((), lines, 'It needs the real images of the list and the published weights.', NOT_RUN)
    best = max((scores.sample(group).interval() for _, group in real.groupby('encoder')), key=lambda found: found.value)
    return Answer([Part('LoRA on the better model, minus 78.6 points', best.minus(PAPER_AUROC - 0.02))])


def counted(runs: pd.DataFrame) -> str:
    """The paper's "under 1 % of the parameters", counted and not judged: LoRA on q and v and fc_norm, without head."""
    ranks = cxr.recommended()['lora_rank']
    shares = {rank: cxr.lora_share(rank) for rank in sorted(ranks.unique())}
    under = int((ranks.map(shares) < 0.01).sum())
    each = ', '.join(f'rank {rank} {share:.2%}' for rank, share in shares.items())
    words = f'"Under 1 % of the parameters" is counted, not judged. ViT-B/16: {each}; under 1 % in {under} of '
    words += f'{len(ranks)} tasks. '
    for label, group in runs[runs['method'] == cxr.LORA].groupby('backbone_label', sort=False):
        ends = (group['trainable'] / group['total']).agg(['min', 'max'])
        words += f'{label} in this study: {ends["min"]:.2%} to {ends["max"]:.2%}. '
    return words.replace('%', ' %').replace('1  %', '1 %').strip()


@renderer(
    'cxr_claims',
    "The second paper's claims, and what these records say",
    'Which claims of the second paper are reproduced?',
)
def cxr_claims(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """The claims of Lian et al. 2024, each answered or marked as one that these records cannot answer."""
    every = cxr.runs(records)
    chosen = cxr.one_rank(every)
    return CLAIMS.page(records, f1, cxr.describe(records, chosen), chosen, [counted(every), f'{cxr.CITATION}.'])
