"""What the first paper claims of its discriminative half, and what a study's records say to each claim.

Every claim is one function with its decision rule in its docstring; the rules were declared before the runs
(`figures/real/predeclared.md`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medpeft_utils.report import paper, provenance, scores
from medpeft_utils.report.claims import CONSEQUENCE, CONTRADICTED, REPRODUCED, UNDECIDED, Answer, Claims, Part
from medpeft_utils.report.crossover import Crossover
from medpeft_utils.report.figure1 import crossovers, figure1_scores
from medpeft_utils.report.inference import FEWEST, combine, random_effects
from medpeft_utils.report.output import Output, renderer
from medpeft_utils.report.score_tables import TABLE2, TABLE3, TABLE5, Layout

PEFT = ('LoRA', 'BitFit')
# The data sets that decide the claims of each figure and table, by study, where one declared them before its runs
# (figures/real/predeclared.md); others that were run are left out of these claims.
_FOLDS = 'BreastUS', 'SMDG (subset)', 'RSNA Pneumonia (subset)'
_GROWTH = 'BreastUS', 'HAM10000, 10 %'
DECLARED = {
    'real': {
        'Figure 1': ('HAM10000',),
        'Table 2': (*_FOLDS, 'HAM10000'),
        'Table 3': _FOLDS,
        'Table 5': _FOLDS,
        'CNNs by size': _GROWTH,
        'ViTs by size': _GROWTH,
    },
}


class Study:
    """Records as the claims need them: scores with all data by family, and over data sizes, of the declared data sets.

    `left_out` holds the data sets that were run and not declared, by figure or table.
    """

    def __init__(self, records: pd.DataFrame, f1: str = 'weighted'):
        self.declared, self.left_out = DECLARED.get(records.attrs.get('study'), {}), {}
        every = scores.table_scores(records, f1)
        self.cnns_by_size = self._of('CNNs by size', TABLE2.of(every))
        self.vits_by_size = self._of('ViTs by size', TABLE3.of(every))
        full = every[every['fraction'] == 1]
        self.cnn, self.vit, self.without_labels = (
            _compared(self._of(layout.title.split(':')[0], layout.of(full))) for layout in (TABLE2, TABLE3, TABLE5)
        )
        self.curves = self._of('Figure 1', figure1_scores(records, f1))
        self.crossovers = crossovers(self.curves)

    def _of(self, part: str, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of the data sets that the study declared for this part; all where it declared none."""
        if part not in self.declared or rows.empty:
            return rows
        kept = rows['data'].isin(self.declared[part])
        if not kept.all() and 'size' not in part:  # growth is asked of some of the sets of the tables
            self.left_out[part] = list(rows[~kept]['data'].unique())
        return rows[kept]


def _compared(rows: pd.DataFrame) -> pd.DataFrame:
    """The encoders on which methods are compared: four methods or more, where there is such an encoder. Others were run
    with a few for growth, and would shift the mean of these alone."""
    methods = rows.groupby('encoder')['method'].transform('nunique') if len(rows) else pd.Series(dtype=float)
    return rows[methods >= 4] if (methods >= 4).any() else rows


CLAIMS = Claims(Study)
FIGURE1 = 'Sec. 4.1, Fig. 1'


def apart(rows: pd.DataFrame, method: str, other: str, where: str) -> list[Part]:
    """A method minus another as parts of a claim: random effects over three data sets or more, else each by itself.

    On one data set it is the mean over the encoders that have both, on the same test split.
    """
    found, what = {}, f'{where}: {method} minus {other}'
    for data, group in rows.groupby('data', sort=False):
        each = list(scores.gains_by(group, method, other, by=('encoder',)).values())
        if each and len((one := combine(each, [1 / len(each)] * len(each))).values):
            found[data] = one.interval()
    if not found:
        return [Part(what, None)]
    if len(found) < 3 or not all(one.known for one in found.values()):
        return [Part(f'{what}, {data}', one) for data, one in found.items()]
    pooled = random_effects(list(found.values()))
    ends = f'{100 * pooled.prediction[0]:+.1f} to {100 * pooled.prediction[1]:+.1f}'
    return [Part(f'{what}, {pooled.sets} data sets (a further one: {ends})', pooled.mean)]


# ---- Figure 1


@CLAIMS.claim('The gain of PEFT over full fine-tuning grows as the data shrink.', FIGURE1)
def gains_grow_as_data_shrink(study: Study) -> Answer:
    """What each halving of the data adds to the gain (LoRA, BitFit minus full FT; the least-squares slope on log2 of
    the size), for each encoder and data set of Figure 1. Of consequence: 2 points over the whole range."""
    parts = []
    for (encoder, data), group in study.curves.groupby(['encoder', 'data'], sort=False):
        for method in PEFT:
            gains = scores.gains_by(group, method, by=('fraction',))
            if len(gains) >= 3:
                halvings = np.log2([fraction for (fraction,) in gains])
                from_mean = halvings - halvings.mean()
                slope = combine(list(gains.values()), list(-from_mean / (from_mean**2).sum()))
                what = f'gain of {method} on {encoder}, {data}, for each halving of the data'
                parts.append(Part(what, slope.interval(), consequence=CONSEQUENCE / np.ptp(halvings), digits=2))
    return Answer(parts, caveat="The paper's own curves fall back to no gain at 1 % of the data (75 images).")


@CLAIMS.claim('With few images PEFT is better than full fine-tuning.', FIGURE1)
def peft_wins_with_few_images(study: Study) -> Answer:
    """The gain of LoRA, and of BitFit, with 5 % and with 10 % of the images, for each encoder of Figure 1."""
    few = study.curves[study.curves['fraction'].isin([0.05, 0.1])]
    return Answer(
        [
            Part(f'{method} on {encoder}, {data}, {100 * fraction:g} %', gain.interval())
            for (encoder, data, fraction), group in few.groupby(['encoder', 'data', 'fraction'], sort=False)
            for method in PEFT
            if len((gain := scores.gain(group, method)).values)
        ]
    )


@dataclass(frozen=True)
class CrossoverPart(Part):
    """A crossover that should lie between the two sizes next to the paper's, `said` in percent."""

    cross: Crossover | None = None
    said: int = 50

    @property
    def ends(self) -> tuple[float, float]:
        sizes = [1, 5, 10, 20, 30, 50, 80, 100]
        place = sizes.index(self.said)
        return sizes[place - 1] / 100, sizes[place + 1] / 100

    @property
    def verdict(self) -> str:
        cross, (below, above) = self.cross, self.ends
        if math.isnan(cross.low) or cross.seeds < FEWEST:
            return UNDECIDED
        if below <= cross.low and cross.high <= above:
            return REPRODUCED
        return CONTRADICTED if cross.low > above or cross.high < below else UNDECIDED

    @property
    def needs(self) -> str:
        return f'at least {FEWEST} seeds' if self.cross.seeds < FEWEST else 'more seeds and test patients'

    def __str__(self) -> str:
        below, above = (f'{100 * end:g}' for end in self.ends)
        return f'{self.what}: {self.cross} (paper {self.said} %: between {below} and {above} %)'


def _crossovers(study: Study, encoder: str, methods: Sequence[str]) -> Answer:
    found, caveat = study.crossovers, 'A share says little by itself on another backbone or number of images.'
    here = found[found['encoder'] == encoder]
    if here.empty and encoder == 'ViT-Base' and len(found) and not found['encoder'].isin(paper.ENCODERS).any():
        here = found[found['encoder'] == found['encoder'].iloc[0]]  # a study of other encoders: its first
        caveat = f'{here["encoder"].iloc[0]} stands for {encoder}. ' + caveat
    parts = [
        CrossoverPart(f'{one.method} on {one.encoder}, {one.data}', None, cross=one.crossover, said=said)
        for one in here.itertuples()
        if one.method in methods and (said := paper.CROSSOVERS[encoder, one.method])
    ]
    parts += [Part(f'{method} on {encoder}', None) for method in methods if method not in set(here['method'])]
    return Answer(parts, caveat=caveat)


@CLAIMS.claim('On ViT-Base, LoRA and BitFit cross full fine-tuning at 50 % of the data.', FIGURE1)
def crossover_vit_base(study: Study) -> Answer:
    """The 95 % interval of the crossover lies within the sizes next to the paper's, 30 % and 80 % (reproduced), or
    wholly outside them (contradicted), for LoRA and for BitFit. Below three seeds it is undecided."""
    return _crossovers(study, 'ViT-Base', PEFT)


@CLAIMS.claim('On ViT-Large, LoRA crosses full fine-tuning at 80 % of the data.', FIGURE1)
def crossover_vit_large_lora(study: Study) -> Answer:
    """As for ViT-Base; the sizes next to the paper's are 50 % and 100 %."""
    return _crossovers(study, 'ViT-Large', ('LoRA',))


@CLAIMS.claim('On ViT-Large, BitFit crosses full fine-tuning at 20 % of the data.', FIGURE1)
def crossover_vit_large_bitfit(study: Study) -> Answer:
    """As for ViT-Base; the sizes next to the paper's are 10 % and 30 %."""
    return _crossovers(study, 'ViT-Large', ('BitFit',))


# ---- growth with the encoder


def _growth(rows: pd.DataFrame, methods: Sequence[str]) -> Answer:
    """Gains on the largest encoder minus those on the smallest, by method and data set."""
    parts, sizes = [], rows.groupby('encoder')['total_parameters'].max().sort_values()
    for method in methods:
        for data, group in rows.groupby('data', sort=False):
            gains = scores.gains_by(group, method, by=('encoder',))
            ends = [encoder for encoder in sizes.index if (encoder,) in gains]
            if len(ends) > 1:
                grown = gains[ends[-1],] - gains[ends[0],]
                parts.append(Part(f'{method}, {data}: gain on {ends[-1]} minus on {ends[0]}', grown.interval()))
    return Answer(parts)


@CLAIMS.claim('The gain of PEFT grows with the model: 4 points for ViT-Base, 6 for ViT-Huge.', 'Sec. 4.2')
def gains_grow_with_the_model(study: Study) -> Answer:
    """The gain of LoRA over full FT on the largest vision transformer minus that on the smallest, on each data set that
    both have, paired."""
    return _growth(study.vits_by_size, ('LoRA',))


@CLAIMS.claim('The gain of PEFT grows with the CNN.', 'our question, after Sec. 4.2')
def gains_grow_with_the_cnn(study: Study) -> Answer:
    """The gain of each method over full FT on the largest CNN minus that on the smallest, on each data set that both
    have, paired."""
    rows = study.cnns_by_size
    return _growth(rows, scores.in_order(set(rows['method']) - {scores.FULL}, paper.CNN_METHODS))


# ---- the tables


def _rivals(rows: pd.DataFrame, layout: Layout, method: str) -> list[str]:
    """The paper's other methods, run or not (one that was not run leaves its part open); none without the method."""
    return [name for name in layout.methods if name != method] if method in set(rows['method']) else []


def _best(rows: pd.DataFrame, layout: Layout, method: str, where: str) -> Answer:
    return Answer([part for rival in _rivals(rows, layout, method) for part in apart(rows, method, rival, where)])


@CLAIMS.claim('SSF is the best method on the CNN, average rank 1.2.', 'Sec. 4.2, Table 2')
def ssf_best_on_cnn(study: Study) -> Answer:
    """SSF minus each other method of the paper; random effects over three data sets or more, else each data set."""
    return _best(study.cnn, TABLE2, 'SSF', 'CNN')


@CLAIMS.claim('SSF gains 22 points over full fine-tuning on BreastUS.', 'Sec. 4.2, Table 2')
def ssf_gains_22_points_on_breastus(study: Study) -> Answer:
    """The gain of SSF over full FT on BreastUS with the CNN, minus 20 points, for each CNN: above zero is reproduced;
    an upper end below 22 points is contradicted."""
    gains = scores.gains_by(study.cnn[study.cnn['data'] == 'BreastUS'], 'SSF', by=('encoder',))
    what = 'SSF minus full FT on BreastUS, {}, minus 20 points'
    parts = [Part(what.format(encoder), one.interval().minus(0.2)) for (encoder,), one in gains.items()]
    return Answer(parts, caveat='The size of a gain depends on how far full fine-tuning was tuned.' if parts else '')


@CLAIMS.claim('LoRA is the best method on vision transformers, average rank 2.4.', 'Sec. 4.2, Table 3')
def lora_best_on_vits(study: Study) -> Answer:
    """LoRA minus each other method of the paper, the mean over the encoders of a data set; random effects over three
    data sets or more, else each data set."""
    return _best(study.vit, TABLE3, 'LoRA', 'ViTs')


@CLAIMS.claim('LoRA is also best on encoders pre-trained by MAE and by CLIP.', 'App. A, Table 5')
def lora_best_self_supervised(study: Study) -> Answer:
    """As for the vision transformers, on each encoder that was pre-trained without labels (MAE, CLIP, DINO)."""
    by_encoder = study.without_labels.groupby('encoder', sort=False)
    return Answer([part for name, rows in by_encoder for part in _best(rows, TABLE5, 'LoRA', name).parts])


@CLAIMS.claim('Linear probing is the worst strategy.', 'Sec. 4.2, Tables 2 and 3')
def linear_probing_worst(study: Study) -> Answer:
    """Each other method of the paper minus linear probing, on the CNN and on the vision transformers; random effects
    over three data sets or more, else each data set."""
    parts = []
    for rows, layout, where in ((study.cnn, TABLE2, 'CNN'), (study.vit, TABLE3, 'ViTs')):
        rivals = _rivals(rows, layout, 'Linear Probing')
        parts += [part for rival in rivals for part in apart(rows, rival, 'Linear Probing', where)]
        parts += [] if rivals else [Part(f'{where}: linear probing', None)]
    return Answer(parts, caveat='It depends on whether the probe was fitted to convergence.')


@CLAIMS.claim('AdaptFormer does not perform well.', 'Sec. 4.2, Table 3')
def adaptformer_weak(study: Study) -> Answer:
    """Full FT minus AdaptFormer on the vision transformers; random effects over three data sets or more, else each."""
    have = {'Full FT', 'AdaptFormer'} <= set(study.vit['method'])
    parts = apart(study.vit, 'Full FT', 'AdaptFormer', 'ViTs') if have else []
    return Answer(parts, caveat="The paper's bottleneck is narrow (6, by its counts)." if parts else '')


@CLAIMS.claim('TSA, SSF and LoRA consistently improve on full fine-tuning.', 'Sec. 4.2')
def three_methods_beat_full_ft(study: Study) -> Answer:
    """TSA and SSF on the CNN, SSF and LoRA on the vision transformers, each minus full FT; random effects over three
    data sets or more, else each data set."""
    parts = []
    for rows, methods, where in ((study.cnn, ('TSA', 'SSF'), 'CNN'), (study.vit, ('SSF', 'LoRA'), 'ViTs')):
        parts += [part for method in methods for part in apart(rows, method, scores.FULL, where)]
    return Answer(parts, caveat='The gain depends on how well full fine-tuning was tuned.')


# ---- the page


@renderer(
    'claims', "The paper's claims, and what these records say", 'Which of the claims of the paper are reproduced?'
)
def claims(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Every claim of the discriminative half with its verdict; for the paper's own numbers, what they bear out."""
    chosen = scores.seed_scores(records, f1, prefer=scores.TABLE_EXPERIMENTS)
    notes = provenance.describe(records, chosen, f1)
    if scores.is_published(records):
        more = ['The same rules on the printed numbers: without seeds no claim is decided.']
    else:
        more = [*_left_out(records, f1), _under_another_average(records, f1)]
    return CLAIMS.page(records, f1, notes, chosen, more)


def _left_out(records: pd.DataFrame, f1: str) -> list[str]:
    """Which data sets were run and decide no claim of a figure or table, in a sentence."""
    found = [f'{", ".join(names)} from the claims of {part}' for part, names in Study(records, f1).left_out.items()]
    why = 'Left out, because the study did not declare it for them before its runs'
    return [f'{why}: {"; ".join(found)}.'] if found else []


def _under_another_average(records: pd.DataFrame, f1: str) -> str:
    """Which verdicts differ under macro F1 (or weighted, where macro is reported), in a sentence."""
    other = 'macro' if f1 != 'macro' else 'weighted'
    ours, theirs = (CLAIMS.answers(records, average) for average in (f1, other))
    differ = [f'"{claim.text}" {theirs[name].verdict}' for name, claim in CLAIMS.items()
              if ours[name].verdict != theirs[name].verdict]  # fmt: skip
    listed = f': {"; ".join(differ)}' if differ else ''
    return f'Under {other} F1 {len(differ)} of {len(CLAIMS)} verdicts differ{listed}.'
