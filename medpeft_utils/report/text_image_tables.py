"""Table 4 of the paper, every number of generated images, LoRA's odd result, and the claims on generation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from medpeft_utils.report import paper, provenance, scores
from medpeft_utils.report import text_image_scores as ti
from medpeft_utils.report.claims import CONTRADICTED, REPRODUCED, UNDECIDED, Answer, Claims, Part
from medpeft_utils.report.inference import Interval, combine, random_effects
from medpeft_utils.report.output import MISSING, Nothing, Output, Row, Table, renderer

NO_RUN = 'These records hold no text-to-image run.'
PLACES = ('Largest', 'Middle', 'Smallest')
OURS, THEIRS = 'this study', 'paper'
COLUMNS4 = ['Data', 'Method', 'Source', 'Trained parameters', *PLACES, 'Average FID', 'Average rank']
NOTES4 = (
    'Mean ± standard deviation over training and sampling seeds. Ranks: 1 for the lowest mean FID, averaged over the '
    'data sizes that every method has; ties share their average rank.',
    'The floor is the distance of the real test images to as many real images of other patients as the rows have '
    'generated ones, none of which the encoder learned from (five draws): what a perfect generator would reach.',
)


def _placed(sizes: list[int], cells: Mapping[int, str]) -> list[str]:
    """Cells of the data sizes under largest, middle, smallest: one size is the largest, two have no middle."""
    shown = [cells.get(size, MISSING) for size in sizes]
    if len(shown) > 3:
        shown = [shown[0], shown[len(shown) // 2], shown[-1]]
    if len(shown) == 2:
        shown.insert(1, MISSING)
    return shown + [MISSING] * (3 - len(shown))


def _fids(sizes: list[int], found: pd.DataFrame) -> list[str]:
    return _placed(sizes, found.groupby('pairs')['fid'].agg(ti.spread))


def _pairs(sizes: list[int]) -> list[str]:
    return _placed(sizes, {size: f'{size:,}' for size in sizes})


def _of_the_paper() -> dict[str, list[str]]:
    """{method: its cells of the paper's Table 4}."""
    fids = ti.published().pivot(index='method', columns='pairs', values='fid')
    printed = paper.read('table4_mimic_summary').set_index('method')
    trained = paper.read('table4_mimic_fid').groupby('method')['trainable_parameters'].first()
    return {
        method: [
            trained[method],
            *(f'{fids[pairs][method]:.2f}' for pairs in ti.PAPER_PAIRS.values()),
            f'{printed["average_fid"][method]:.2f}',
            f'{printed["average_rank"][method]:g}',
        ]
        for method in ti.METHODS
    }


def _block(data: str, table: pd.DataFrame) -> list[Row]:
    """One set: its data sizes, every method above the paper's row, the untuned pipeline and the floor."""
    found, sizes, theirs = ti.values(table), list(ti.sizes(table)), _of_the_paper()
    base = ti.values(table, 'base').drop_duplicates(['pairs', 'sampling_seed'])
    floor = table['real'].iloc[0].get('floor') or {}
    value, deviation = (ti.number(floor.get(name)) for name in ('fid', 'fid_sd'))
    floors = dict.fromkeys(sizes, MISSING if math.isnan(value) else f'{value:.2f} ± {deviation:.2f}')
    ranked, averages = ti.summary(found), ['average_fid', 'average_rank']
    rows = [
        Row((data, 'Training pairs', OURS), [MISSING, *_pairs(sizes), '', '']),
        Row((data, 'Training pairs', THEIRS), [MISSING, *ti.PAPER_PAIRS, '', ''], muted=True),
    ]
    for method in scores.in_order(table['method'], ti.METHODS):
        trained, ends, bold = table[table['method'] == method]['trainable'].max(), [MISSING] * 2, ()
        if method in ranked.index:
            ends = [f'{ranked[name][method]:.2f}' for name in averages]
            bold = [*[False] * 4, *(ranked[name][method] == ranked[name].min() for name in averages)]
        fids = _fids(sizes, found[found['method'] == method])
        rows.append(Row((data, method, OURS), [f'{int(trained):,}', *fids, *ends], bold))
        if method in theirs:
            rows.append(Row((data, method, THEIRS), theirs[method], muted=True))
    rows.append(Row((data, ti.BASE, OURS), ['0', *_fids(sizes, base), '', '']))
    rows.append(Row((data, ti.FLOOR, OURS), ['0', *_placed(sizes, floors), '', '']))
    return rows


def _printed() -> list[Row]:
    """The paper's Table 4 alone, its lowest averages in bold."""
    printed, cells = paper.read('table4_mimic_summary').set_index('method'), _of_the_paper()
    best = printed[['average_fid', 'average_rank']].eq(printed[['average_fid', 'average_rank']].min())
    rows = [Row(('MIMIC-CXR', 'Training pairs', THEIRS), [MISSING, *ti.PAPER_PAIRS, '', ''])]
    bold = {method: [*[False] * 4, *best.loc[method]] for method in cells}
    return rows + [Row(('MIMIC-CXR', method, THEIRS), row, bold[method]) for method, row in cells.items()]


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
    table, published = ti.runs(records), scores.is_published(records)
    rows = [row for data, group in table.groupby('data', sort=False) for row in _block(data, group)]
    if not rows and not published:
        return Nothing(notes=ti.describe(records, table))
    return Table(
        synthetic=provenance.is_synthetic(table),
        columns=COLUMNS4,
        rows=rows or _printed(),
        notes=[*ti.describe(records, table), *(NOTES4 if len(table) else ())],
        top=ti.detectable(ti.values(table)) if len(table) else (),
        data=_numbers4(table),
        further={'samples': ti.against_base(table)} if len(table) else {},
    )


COLUMNS_METRICS = [
    *('Data', 'Training pairs', 'Method', 'KID [95 %, over patients]', 'FID', 'Similarity', 'Findings: AUROC [95 %]'),
    *('Findings: accuracy', 'Nearest: ratio', 'Copies'),
]


def _share(value: float) -> str:
    return MISSING if math.isnan(value) else provenance.percent(value, 1)


def _fixed(value: float, digits: int = 3, low: float = math.nan, high: float = math.nan, ends: int = 3) -> str:
    """A number; with its interval, to so many digits, where there is one."""
    if math.isnan(value):
        return MISSING
    return f'{value:.{digits}f}' + ('' if math.isnan(low) else f' [{low:.{ends}f}, {high:.{ends}f}]')


def _metric_cells(found: pd.DataFrame, inception: bool) -> list[str]:
    mean = found[[*ti.NUMBERS, *ti.ADHERENCE]].mean()
    kid = _fixed(mean['kid'], 3, mean['kid_low'], mean['kid_high'])
    area = _fixed(mean['auroc'], 3, mean['auroc_low'], mean['auroc_high'], 2)
    cells = [kid, ti.spread(found['fid']), _fixed(mean['similarity']), area, _share(mean['accuracy'])]
    cells += [_fixed(mean['nearest_ratio'], 2), _share(mean['copies'])]
    return [*cells, ti.spread(found['fid_inception'])] if inception else cells


def _real_cells(real: dict, inception: bool) -> list[str]:
    floor = {name: ti.number((real.get('floor') or {}).get(name)) for name in ('kid', 'fid', 'fid_inception')}
    adherence = {name: ti.number((real.get('adherence') or {}).get(name)) for name in ('auroc', 'accuracy')}
    cells = [_fixed(floor['kid']), _fixed(floor['fid'], 2), _fixed(ti.number(real.get('similarity')))]
    cells += [_fixed(adherence['auroc']), _share(adherence['accuracy']), '1.00', '1.0 %']
    return [*cells, _fixed(floor['fid_inception'], 2)] if inception else cells


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
    for (data, pairs), here in found.groupby(['data', 'pairs'], sort=False):
        for method, own in here.groupby('method', sort=False):
            rows.append(Row((data, f'{pairs:,}', method), _metric_cells(own, inception)))
        real = table[(table['data'] == data) & (table['pairs'] == pairs)]['real'].iloc[0]
        rows.append(Row((data, f'{pairs:,}', 'Real test images'), _real_cells(real, inception), muted=True))
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
    known = {'ms-ssim': 'MS-SSIM', 'ssim': 'SSIM, the images being too small for MS-SSIM'}
    measures = sorted({known.get(m, m) for m in (one.get('similarity_measure', '') for one in table['real'])})
    return [
        f'Similarity: mean of random pairs of images ({" and ".join(measures)}); near 1 is a generator that has '
        "collapsed. Findings: a classifier's answer on the images against the prompts' findings, all findings pooled, "
        'threshold 0.5 for accuracy; the row of real images is its own quality, its FID and KID those of as many '
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
FIDS = {
    'FID, trained and applied': 'samples',
    'FID, adapters random, never trained': 'untrained',
    'FID, trained, not applied': 'not_applied',
    f'FID, {ti.BASE.lower()}': 'base',
}
CHECKS = {
    'gradient_norm': 'Gradient of the adapters (norm)',
    'output_change': "Change of the U-Net's output by the adapters",
    'merged_difference': 'Merged minus unmerged, output',
}


def _lora_block(data: str, table: pd.DataFrame) -> list[Row]:
    sizes = list(ti.sizes(table))
    cells = {'Training pairs': _pairs(sizes)}
    cells |= {label: _fids(sizes, ti.values(table, which)) for label, which in FIDS.items()}
    for name, label in CHECKS.items():
        known = table['checks'].map(lambda checks, name=name: ti.number(checks.get(name)))
        means = known.groupby(table['pairs']).mean().dropna()
        cells[label] = _placed(sizes, means.map('{:.2g}'.format))
    return [Row((data, label), row) for label, row in cells.items()]


@renderer(
    'lora_controls',
    "LoRA trained, never trained, and not applied: the paper's odd result",
    'Does an FID that hardly depends on the data size come from adapters left out?',
)
def lora_controls(records: pd.DataFrame, f1: str = 'weighted') -> Table | Nothing:
    """LoRA trained and applied, never trained, and not applied, over data sizes, beside the paper's LoRA."""
    table = ti.runs(records)
    table = table[table['method'] == ti.LORA]
    if table.empty:
        return Nothing(notes=[NO_RUN])
    rows = [row for data, group in table.groupby('data', sort=False) for row in _lora_block(data, group)]
    rows.append(Row(('MIMIC-CXR', 'Training pairs, paper'), list(ti.PAPER_PAIRS), muted=True))
    rows.append(Row(('MIMIC-CXR', 'FID of LoRA, paper'), _of_the_paper()[ti.LORA][1:4], muted=True))
    # The smallest difference between LoRA as trained and as never trained that the training seeds can show.
    sides = [ti.values(table).assign(method='trained'), ti.values(table, 'untrained').assign(method=ti.FULL)]
    top = [line.replace('full FT', 'adapters never trained') for line in ti.detectable(pd.concat(sides))]
    parts = {'trained': 'samples', 'untrained': 'untrained', 'not applied': 'not_applied', 'base': 'base'}
    data = [ti.values(table, which).assign(adapters=label) for label, which in parts.items()]
    return Table(
        synthetic=provenance.is_synthetic(table),
        columns=COLUMNS_LORA,
        rows=rows,
        notes=[*ti.describe(records, table), *_notes_lora(table)],
        top=top,
        data=pd.concat(data, ignore_index=True),
    )


def _notes_lora(table: pd.DataFrame) -> list[str]:
    notes = [
        "The paper's FID of LoRA is between 392 and 440 at every data size, 4 to 8 times that of full fine-tuning. "
        'Adapters that are not applied give the untuned pipeline, whose FID does not depend on the data at all; so do '
        'those that peft builds with inference_mode=True, of which none is trainable and whose second factor stays '
        'zero.'
    ]
    return [
        *notes,
        *(f'{data}: {told}' for data, group in table.groupby('data', sort=False) if (told := _pattern(group))),
    ]


def _pattern(table: pd.DataFrame) -> str:
    """How much each kind of LoRA's FID moves over data sizes, in words; '' with one size."""
    told = []
    for label, which in (('trained', 'samples'), ('never trained', 'untrained'), ('not applied', 'not_applied')):
        mean = ti.values(table, which).groupby('pairs')['fid'].mean()
        if len(mean) > 1:
            told.append(f'{label} {(mean.max() - mean.min()) / mean.mean():.0%}')
    said = 'range of FID over data sizes, as a share of its mean: ' + ', '.join(told).replace('%', ' %')
    return f'{said} (paper: 11 %).' if told else ''


# ---- the claims, as in `paper_claims.py`

SEEDS = 'Intervals are over training seeds, paired by sampling seed; with fewer than three seeds nothing is decided.'
PAPER_BETTER, PAPER_PEFT = 6, 7  # PEFT methods with a lower average FID than full fine-tuning's, of how many


class Study:
    """Records as the claims need them: KID (FID where it is not held) by set, size, method and seed."""

    def __init__(self, records: pd.DataFrame, f1: str = 'weighted'):
        self.runs, printed = ti.runs(records), scores.is_published(records)
        self.values = ti.published() if printed else ti.against_base(self.runs)
        self.metric = 'kid' if 'kid' in self.values and self.values['kid'].notna().all() and len(self.values) else 'fid'
        self.methods = [m for m in ti.METHODS if m in set(self.values['method'])]

    def parts(self, better: str, others: Sequence[str]) -> list[Part]:
        """By how much a method's distance lies below those of others: a part for each other, pooled over sets and sizes
        by the mean of a seed (with three sets or more by random effects)."""
        found, words = [], self.metric.upper()
        scale, digits = (1000.0, 1) if self.metric == 'kid' else (1.0, 1)
        for other in others:
            by_set = ti.gains(self.values, better, other, self.metric)
            if other == better or not by_set:
                continue
            each = [one.interval() for one in by_set.values()]
            one = random_effects(each).mean if len(each) > 2 and all(e.known for e in each) else _mean(by_set)
            unit = f'{words}{" (thousandths)" if self.metric == "kid" else ""}'
            found.append(Part(f'{words} of {other} minus {better}', one, scale, unit, 0.0, digits))
        return found

    @property
    def order(self) -> str:
        """The methods by average rank, in words, for each set."""
        told = []
        own = self.values[self.values['method'] != ti.BASE]
        for data, group in own.groupby('data', sort=False):
            ranked = ti.summary(group).sort_values(['average_rank', 'average_fid'])
            told.append(f'{data}: ' + ', '.join(f'{m} {r:.2f}' for m, r in ranked['average_rank'].items()))
        return 'average ranks by FID, as a picture: ' + '; '.join(told)


def _mean(by_set: dict) -> Interval:
    """The mean over one set's sizes, or two sets', by the seeds that all of them have."""
    samples = list(by_set.values())
    return combine(samples, [1 / len(samples)] * len(samples)).interval()


CLAIMS = Claims(Study)
TABLE4 = 'Sec. 4.3, Table 4'


@CLAIMS.claim('Bias tuning is the best method on text-to-image generation.', TABLE4)
def bias_best_on_generation(study: Study) -> Answer:
    """KID (FID in records without it) of every other method minus that of bias tuning, paired by seed."""
    parts = study.parts(ti.BIAS, study.methods)
    return Answer(parts, [study.order] if parts else [], SEEDS if parts else '')


@CLAIMS.claim('SV-Diff is second, after bias tuning.', TABLE4)
def sv_diff_second_on_generation(study: Study) -> Answer:
    """KID of SV-Diff minus that of bias tuning, and of every other method minus that of SV-Diff, paired by seed."""
    first = study.parts(ti.BIAS, [ti.SV_DIFF])
    rest = study.parts(ti.SV_DIFF, [m for m in study.methods if m != ti.BIAS])
    return Answer([*first, *rest], caveat=SEEDS) if first and rest else Answer()


@CLAIMS.claim('LoRA fails on generation: its FID is several times that of every other method.', TABLE4)
def lora_fails_on_generation(study: Study) -> Answer:
    """KID of LoRA minus that of every other method, and minus that of the untuned pipeline, paired by seed: each above
    zero. LoRA detectably better than any of them contradicts it."""
    parts = [one for other in [*study.methods, ti.BASE] for one in study.parts(other, [ti.LORA])]
    return Answer(parts, caveat="See the table of LoRA's controls: trained, never trained, not applied. " + SEEDS)


@CLAIMS.claim('Nearly every PEFT method beats full fine-tuning on generation.', TABLE4)
def peft_beats_full_on_generation(study: Study) -> Answer:
    """KID of full fine-tuning minus that of each PEFT method, paired by seed. Reproduced: above zero for all but one of
    the paper's seven. Contradicted: below zero for two. Else undecided."""
    parts = [one for method in study.methods for one in study.parts(method, [ti.FULL])]
    if not parts:
        return Answer()
    found = [part.verdict for part in parts]
    stated = REPRODUCED if found.count(REPRODUCED) >= PAPER_BETTER else UNDECIDED
    stated = CONTRADICTED if found.count(CONTRADICTED) > PAPER_PEFT - PAPER_BETTER else stated
    ahead = sum(part.found.value > 0 for part in parts)
    words = f'{ahead} of {len(parts)} methods have the lower mean (paper: {PAPER_BETTER} of {PAPER_PEFT})'
    return Answer(parts, [words], SEEDS, stated)


@renderer(
    'text_image_claims',
    "The paper's claims on generation, and what these records say",
    'Which claims of the paper on generation are reproduced?',
)
def text_image_claims(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """The four claims on generation with their verdicts; for the paper's own numbers, what they bear out."""
    table = ti.runs(records)
    return CLAIMS.page(records, f1, ti.describe(records, table), table)
