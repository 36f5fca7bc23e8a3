"""Table 4 of the paper, all numbers of generated images, and the paper's odd result of LoRA looked into."""

from __future__ import annotations

import math

import pandas as pd

from medpeft_utils.report import paper, provenance, scores
from medpeft_utils.report import text_image_scores as ti
from medpeft_utils.report.output import MISSING, Nothing, Row, Table, renderer

NO_RUN = 'No run of it is among these records.'
PLACES = ('Largest', 'Middle', 'Smallest')
COLUMNS4 = ['Data', 'Method', 'Source', 'Trained parameters', *PLACES, 'Average FID', 'Average rank']
NOTES4 = (
    'Mean ± standard deviation over training and sampling seeds. Ranks: 1 for the lowest mean FID, averaged over the '
    'data sizes that every method has; ties share their average rank.',
    'The floor is the distance of the real test images to as many real images of other patients as the rows have '
    'generated ones, none of which the encoder learned from (five draws): what a perfect generator would reach.',
)


def _placed(pairs: list[int], cells: dict[int, str]) -> list[str]:
    """Cells of the data sizes under largest, middle, smallest: one size is the largest, two have no middle."""
    shown = [cells.get(size, MISSING) for size in pairs]
    if len(shown) > 3:
        shown = [shown[0], shown[len(shown) // 2], shown[-1]]
    if len(shown) == 2:
        shown.insert(1, MISSING)
    return shown + [MISSING] * (3 - len(shown))


def _paper_rows(muted: bool) -> dict[str, Row]:
    """The paper's row of every method, under the data label that it is put beside."""
    cells = ti.published().set_index(['method', 'pairs'])['fid']
    printed = paper.read('table4_mimic_summary').set_index('method')
    trained = paper.read('table4_mimic_fid').drop_duplicates('method').set_index('method')['trainable_parameters']
    rows = {}
    for method in ti.METHODS:
        fids = [f'{cells[method, pairs]:.2f}' for pairs in ti.PAPER_PAIRS.values()]
        ends = [f'{printed["average_fid"][method]:.2f}', f'{printed["average_rank"][method]:g}']
        rows[method] = Row(('', method, 'paper'), [trained[method], *fids, *ends], muted=muted)
    return rows


def _study_row(
    data: str, method: str, found: pd.DataFrame, sizes: list[int], ranked: pd.DataFrame, trained: str
) -> Row:
    here = found[found['method'] == method]
    fids = {size: ti.spread(here[here['pairs'] == size]['fid']) for size in sizes}
    known = method in ranked.index
    ends = [f'{ranked["average_fid"][method]:.2f}', f'{ranked["average_rank"][method]:.2f}'] if known else [MISSING] * 2
    cells = [trained, *_placed(sizes, fids), *ends]
    best = [False] * len(cells)
    if known:
        best[-2:] = [ranked[c][method] == ranked[c].min() for c in ('average_fid', 'average_rank')]
    return Row((data, method, 'this study'), cells, best)


def _block(data: str, table: pd.DataFrame) -> list[Row]:
    """One set: its data sizes, every method beside the paper's row, the untuned pipeline and the floor."""
    found, sizes = ti.values(table), list(ti.sizes(table))
    ranked, theirs = ti.summary(found), _paper_rows(muted=True)
    rows = [
        Row(
            (data, 'Training pairs', 'this study'),
            [MISSING, *_placed(sizes, {s: f'{s:,}' for s in sizes}), '', ''],
        ),
        Row((data, 'Training pairs', 'paper'), [MISSING, *ti.PAPER_PAIRS, '', ''], muted=True),
    ]
    for method in scores.in_order(table['method'], ti.METHODS):
        trained = f'{int(table[table["method"] == method]["trainable"].max()):,}'
        rows.append(_study_row(data, method, found, sizes, ranked, trained))
        if method in theirs:
            rows.append(Row((data, *theirs[method].heads[1:]), theirs[method].cells, muted=True))
    base, floor = ti.values(table, 'base'), _floor(table)
    fids = {size: ti.spread(base[base['pairs'] == size].drop_duplicates('sampling_seed')['fid']) for size in sizes}
    rows.append(Row((data, ti.BASE, 'this study'), ['0', *_placed(sizes, fids), '', '']))
    rows.append(Row((data, ti.FLOOR, 'this study'), ['0', *_placed(sizes, dict.fromkeys(sizes, floor)), '', '']))
    return rows


def _floor(table: pd.DataFrame) -> str:
    floor = table['real'].iloc[0].get('floor') or {}
    value, deviation = (ti.number(floor.get(name)) for name in ('fid', 'fid_sd'))
    return MISSING if math.isnan(value) else f'{value:.2f} ± {deviation:.2f}'


def _numbers4(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers behind Table 4: a row for each set, size and method, with the paper's own of the same method."""
    found = pd.concat([ti.against_base(table), ti.published().assign(data='MIMIC-CXR (paper)')], ignore_index=True)
    rows = found.groupby(ti.CELL, sort=False)['fid'].agg(['mean', 'std', 'count']).reset_index()
    trained = table.groupby(['data', 'method'])['trainable'].max()
    rows['trainable_parameters'] = [trained.get((d, m)) for d, m in zip(rows['data'], rows['method'], strict=True)]
    return rows.rename(columns={'mean': 'fid', 'std': 'fid_sd', 'count': 'values'})


@renderer(
    'table4',
    'Table 4: FID of images generated from the test prompts, lower is better',
    'Which method adapts a text-to-image pipeline best, and on how many pairs?',
)
def table4(records: pd.DataFrame, f1: str = 'weighted') -> Table | Nothing:
    """Table 4: FID of every method and data size beside the paper's, with the untuned pipeline and the floor."""
    table, rows = ti.runs(records), []
    for data, group in ti.sets(table):
        rows += _block(data, group)
    if not rows and not scores.is_published(records):
        return Nothing(notes=ti.describe(records, table))
    if not rows:
        own = [Row(('MIMIC-CXR', 'Training pairs', 'paper'), [MISSING, *ti.PAPER_PAIRS, '', ''])]
        theirs = _paper_rows(muted=False)
        own += [Row(('MIMIC-CXR', *row.heads[1:]), row.cells, _bold(method)) for method, row in theirs.items()]
        rows = own
    return Table(
        synthetic=provenance.is_synthetic(table),
        columns=COLUMNS4,
        rows=rows,
        notes=[*ti.describe(records, table), *(NOTES4 if len(table) else ())],
        top=ti.detectable(ti.values(table)) if len(table) else (),
        data=_numbers4(table),
        further={'samples': ti.against_base(table)} if len(table) else {},
    )


def _bold(method: str) -> list[bool]:
    printed = paper.read('table4_mimic_summary').set_index('method')
    ends = [printed[column][method] == printed[column].min() for column in ('average_fid', 'average_rank')]
    return [False] * 4 + ends


COLUMNS_METRICS = [
    *('Data', 'Training pairs', 'Method', 'KID [95 %, over patients]', 'FID', 'Similarity', 'Findings: AUROC [95 %]'),
    *('Findings: accuracy', 'Nearest: ratio', 'Copies'),
]


def _share(value: float) -> str:
    return MISSING if math.isnan(value) else f'{100 * value:.1f} %'


def _fixed(value: float, digits: int = 3) -> str:
    return MISSING if math.isnan(value) else f'{value:.{digits}f}'


def _metric_cells(found: pd.DataFrame, inception: bool) -> list[str]:
    mean = found[[*ti.NUMBERS, *ti.ADHERENCE]].mean()
    kid = _fixed(mean['kid'])
    if kid != MISSING:
        kid += f' [{mean["kid_low"]:.3f}, {mean["kid_high"]:.3f}]'
    area = _fixed(mean['auroc'])
    if not math.isnan(mean['auroc_low']):
        area += f' [{mean["auroc_low"]:.2f}, {mean["auroc_high"]:.2f}]'
    cells = [kid, ti.spread(found['fid']), _fixed(mean['similarity']), area, _share(mean['accuracy'])]
    cells += [_fixed(mean['nearest_ratio'], 2), _share(mean['copies'])]
    return [*cells, ti.spread(found['fid_inception'])] if inception else cells


def _real_cells(real: dict, inception: bool) -> list[str]:
    floor, adherence = real.get('floor') or {}, real.get('adherence') or {}
    distances = [ti.number(floor.get('kid')), ti.number(floor.get('fid'))]
    cells = [_fixed(distances[0]), _fixed(distances[1], 2), _fixed(ti.number(real.get('similarity')))]
    cells += [_fixed(ti.number(adherence.get('auroc'))), _share(ti.number(adherence.get('accuracy'))), '1.00', '1.0 %']
    return [*cells, _fixed(ti.number(floor.get('fid_inception')), 2)] if inception else cells


@renderer(
    'generation_metrics',
    'Generated images: every number, not FID alone',
    'Do the images follow their prompts, differ, and are they no copies?',
)
def generation_metrics(records: pd.DataFrame, f1: str = 'weighted') -> Table | Nothing:
    """FID, KID, diversity, adherence with the prompt and nearness to training images, by set, size and method."""
    table, rows = ti.runs(records), []
    if table.empty:
        return Nothing(notes=[NO_RUN])
    found = ti.against_base(table)
    inception = bool(found['fid_inception'].notna().any())
    columns = [*COLUMNS_METRICS, *(['FID on Inception'] if inception else [])]
    for (data, pairs), group in table.groupby(['data', 'pairs'], sort=False):
        here = found[(found['data'] == data) & (found['pairs'] == pairs)]
        for method in [*dict.fromkeys(group['method']), ti.BASE]:
            own = here[here['method'] == method]
            if len(own):
                rows.append(Row((data, f'{pairs:,}', method), _metric_cells(own, inception)))
        rows.append(
            Row((data, f'{pairs:,}', 'Real test images'), _real_cells(group['real'].iloc[0], inception), muted=True)
        )
    return Table(
        synthetic=provenance.is_synthetic(table),
        columns=columns,
        rows=rows,
        notes=[*ti.describe(records, table), *_notes_metrics(table)],
        top=ti.detectable(found, 'kid'),
        data=found,
        further={'findings': _findings(table)},
    )


def _notes_metrics(table: pd.DataFrame) -> list[str]:
    measures = {one.get('similarity_measure', '') for one in table['real']}
    measure = ' and '.join(
        sorted(
            {'ms-ssim': 'MS-SSIM', 'ssim': 'SSIM, the images being too small for MS-SSIM'}.get(m, m) for m in measures
        )
    )
    return [
        f'Similarity: mean of random pairs of images ({measure}); near 1 is a generator that has collapsed. Findings: '
        "a classifier's answer on the images against the prompts' findings, all findings pooled, threshold 0.5 for "
        'accuracy; the row of real images is its own quality, its FID and KID those of as many '
        'real images of other patients.',
        'Nearest: median distance to the nearest training image over that of real test images; copies: share nearer '
        'than 99 % of real test images are, 1 % by chance. Well below 1, or well above 1 %: look for memorised images.',
    ]


def _findings(table: pd.DataFrame) -> pd.DataFrame:
    """AUROC and accuracy by finding: of each run's images (mean over sampling seeds), and of real test images."""
    rows = []
    for one in table.itertuples():
        told = [(s.get('adherence') or {}, one.method) for s in one.samples]
        told += [(one.real.get('adherence') or {}, 'Real test images')]
        for adherence, method in told:
            for finding, numbers in (adherence.get('by_label') or {}).items():
                rows.append({'data': one.data, 'pairs': one.pairs, 'method': method, 'finding': finding, **numbers})
    columns = ['data', 'pairs', 'method', 'finding']
    frame = pd.DataFrame(rows, columns=[*columns, 'auroc', 'accuracy', 'positives', 'images'])
    return frame.groupby(columns, sort=False, as_index=False).mean()


COLUMNS_LORA = ['Data', 'LoRA', *PLACES]
CHECKS = {
    'gradient_norm': 'Gradient of the adapters (norm)',
    'output_change': "Change of the U-Net's output by the adapters",
    'merged_difference': 'Merged minus unmerged, output',
}


def _lora_block(data: str, table: pd.DataFrame) -> list[Row]:
    sizes, rows = list(ti.sizes(table)), []
    sources = {
        'FID, trained and applied': ti.values(table),
        'FID, adapters random, never trained': ti.values(table, 'untrained'),
        'FID, trained, not applied': ti.values(table, 'not_applied'),
        f'FID, {ti.BASE.lower()}': ti.values(table, 'base'),
    }
    rows.append(Row((data, 'Training pairs'), _placed(sizes, {s: f'{s:,}' for s in sizes})))
    for label, found in sources.items():
        cells = {size: ti.spread(found[found['pairs'] == size]['fid']) for size in sizes}
        rows.append(Row((data, label), _placed(sizes, cells)))
    for name, label in CHECKS.items():
        known = {p: g.map(lambda c, n=name: ti.number(c.get(n))).mean() for p, g in table.groupby('pairs')['checks']}
        cells = {size: MISSING if math.isnan(value) else f'{value:.2g}' for size, value in known.items()}
        rows.append(Row((data, label), _placed(sizes, cells)))
    return rows


@renderer(
    'lora_controls',
    "LoRA trained, never trained, and not applied: the paper's odd result",
    'Does an FID that hardly depends on the data size come from adapters left out?',
)
def lora_controls(records: pd.DataFrame, f1: str = 'weighted') -> Table | Nothing:
    """LoRA trained and applied, never trained, and not applied, over data sizes, beside the paper's LoRA."""
    table = ti.runs(records)
    table, rows = table[table['method'] == ti.LORA], []
    if table.empty:
        return Nothing(notes=[NO_RUN])
    for data, group in ti.sets(table):
        rows += _lora_block(data, group)
    rows.append(Row(('MIMIC-CXR', 'Training pairs, paper'), list(ti.PAPER_PAIRS), muted=True))
    rows.append(Row(('MIMIC-CXR', 'FID of LoRA, paper'), _paper_lora(), muted=True))
    parts = {'trained': 'samples', 'untrained': 'untrained', 'not applied': 'not_applied', 'base': 'base'}
    data = [ti.values(table, which).assign(adapters=label) for label, which in parts.items()]
    return Table(
        synthetic=provenance.is_synthetic(table),
        columns=COLUMNS_LORA,
        rows=rows,
        notes=[*ti.describe(records, table), *_notes_lora(table)],
        top=_detectable_lora(table),
        data=pd.concat(data, ignore_index=True),
    )


def _detectable_lora(table: pd.DataFrame) -> list[str]:
    """The smallest difference between LoRA as trained and as never trained that the training seeds can show."""
    sides = [ti.values(table).assign(method='trained'), ti.values(table, 'untrained').assign(method=ti.FULL)]
    return [line.replace('full FT', 'adapters never trained') for line in ti.detectable(pd.concat(sides))]


def _paper_lora() -> list[str]:
    found = ti.published().set_index(['method', 'pairs'])['fid']
    return [f'{found[ti.LORA, pairs]:.2f}' for pairs in ti.PAPER_PAIRS.values()]


def _notes_lora(table: pd.DataFrame) -> list[str]:
    notes = [
        "The paper's FID of LoRA is between 392 and 440 at every data size, 4 to 8 times that of full fine-tuning. "
        'Adapters that are not applied give the untuned pipeline, whose FID does not depend on the data at all; so do '
        'those that peft builds with inference_mode=True, of which none is trainable and whose second factor stays '
        'zero.'
    ]
    pattern = [f'{data}: {_pattern(group)}' for data, group in ti.sets(table)]
    return [*notes, *(line for line in pattern if not line.endswith(': '))]


def _pattern(table: pd.DataFrame) -> str:
    """How much each kind of LoRA's FID moves over data sizes, in words; '' with one size."""
    told = []
    for label, which in (('trained', 'samples'), ('never trained', 'untrained'), ('not applied', 'not_applied')):
        mean = ti.values(table, which).groupby('pairs')['fid'].mean()
        if len(mean) > 1:
            told.append(f'{label} {(mean.max() - mean.min()) / mean.mean():.0%}')
    said = 'range of FID over data sizes, as a share of its mean: ' + ', '.join(told).replace('%', ' %')
    return f'{said} (paper: 11 %).' if told else ''
