"""What the first paper claims of its discriminative half, and what a study's records say to each claim.

Every claim is one function with its decision rule in its docstring; the rules were declared before the runs
(`figures/real/predeclared.md`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from medpeft_utils.report import paper, provenance, scores
from medpeft_utils.report.claims import CONSEQUENCE, CONTRADICTED, REPRODUCED, SMALL, UNDECIDED, Answer, Claims, Part
from medpeft_utils.report.crossover import Crossover
from medpeft_utils.report.inference import FEWEST, Sample, combine, random_effects
from medpeft_utils.report.output import Output, renderer
from medpeft_utils.report.score_tables import TABLE2, TABLE3, TABLE5, Layout
from medpeft_utils.report.tables import crossovers, figure1_scores

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


def _over_encoders(rows: pd.DataFrame, method: str, other: str) -> Sample | None:
    """A method minus another on one data set: the mean over the encoders that have both, on the same test split."""
    found = list(scores.gains_by(rows, method, other, by=('encoder',)).values())
    return combine(found, [1 / len(found)] * len(found)) if found else None


def apart(rows: pd.DataFrame, method: str, other: str, where: str = '') -> list[Part]:
    """A method minus another as parts of a claim: random effects over three data sets or more, else each by itself."""
    found = {}
    for data, group in rows.groupby('data', sort=False):
        one = _over_encoders(group, method, other)
        if one is not None and len(one.values):
            found[data] = one.interval()
    what = f'{where}{": " if where else ""}{method} minus {other}'
    if not found:
        return [Part(f'{what}', None)]
    known = [one for one in found.values() if one.known]
    if len(known) < 3 or len(known) < len(found):
        return [Part(f'{what}, {data}', one) for data, one in found.items()]
    pooled = random_effects(known)
    ends = f'{100 * pooled.prediction[0]:+.1f} to {100 * pooled.prediction[1]:+.1f}'
    return [Part(f'{what}, {pooled.sets} data sets (a further one: {ends})', pooled.mean)]


# ---- Figure 1


def _slope(group: pd.DataFrame, method: str) -> tuple[Sample, float] | None:
    """What each halving of the data adds to the gain, and over how many halvings; None below three sizes."""
    gains = {key[0]: one for key, one in scores.gains_by(group, method, by=('fraction',)).items()}
    if len(gains) < 3:
        return None
    x = np.log2(np.array(list(gains)))
    weights = -(x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return combine(list(gains.values()), list(weights)), float(x.max() - x.min())


@CLAIMS.claim(
    'gains_grow_as_data_shrink', 'The gain of PEFT over full fine-tuning grows as the data shrink.', 'Sec. 4.1, Fig. 1'
)
def gains_grow_as_data_shrink(study: Study) -> Answer:
    """What each halving of the data adds to the gain (LoRA, BitFit minus full FT; the least-squares slope on log2 of
    the size), for each encoder and data set of Figure 1. Of consequence: 2 points over the whole range."""
    parts = []
    for (encoder, data), group in study.curves.groupby(['encoder', 'data'], sort=False):
        for method in PEFT:
            if found := _slope(group, method):
                slope, halvings = found
                what = f'gain of {method} on {encoder}, {data}, for each halving of the data'
                parts.append(Part(what, slope.interval(), consequence=CONSEQUENCE / halvings, digits=2))
    return Answer(parts, caveat="The paper's own curves fall back to no gain at 1 % of the data (75 images).")


@CLAIMS.claim('peft_wins_with_few_images', 'With few images PEFT is better than full fine-tuning.', 'Sec. 4.1, Fig. 1')
def peft_wins_with_few_images(study: Study) -> Answer:
    """The gain of LoRA, and of BitFit, with 5 % and with 10 % of the images, for each encoder of Figure 1."""
    parts = []
    for (encoder, data, fraction), group in study.curves.groupby(['encoder', 'data', 'fraction'], sort=False):
        for method in PEFT:
            if fraction in (0.05, 0.1) and len((found := scores.gain(group, method)).values):
                parts.append(Part(f'{method} on {encoder}, {data}, {100 * fraction:g} %', found.interval()))
    return Answer(parts)


class CrossoverPart(Part):
    """A crossover that should lie between the two sizes next to the paper's."""

    def __init__(self, what: str, cross: Crossover, said: float):
        super().__init__(what, None)
        object.__setattr__(self, 'cross', cross)
        object.__setattr__(self, 'said', said)

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


def _crossovers(study: Study, encoder: str, methods: Sequence[str], stand_in: bool = False) -> Answer:
    found, caveat = study.crossovers, 'A share says little by itself on another backbone or number of images.'
    here = found[found['encoder'] == encoder]
    if here.empty and stand_in and len(found) and not found['encoder'].isin(paper.ENCODERS).any():
        here = found[found['encoder'] == found['encoder'].iloc[0]]
        caveat = f'{here["encoder"].iloc[0]} stands for {encoder}. ' + caveat
    parts = []
    for one in here.itertuples():
        if one.method in methods:
            said = paper.CROSSOVERS[encoder, one.method]
            parts.append(CrossoverPart(f'{one.method} on {one.encoder}, {one.data}', one.crossover, said))
    parts += [Part(f'{method} on {encoder}', None) for method in methods if method not in set(here['method'])]
    return Answer(parts, caveat=caveat if parts else '')


@CLAIMS.claim(
    'crossover_vit_base', 'On ViT-Base, LoRA and BitFit cross full fine-tuning at 50 % of the data.', 'Sec. 4.1, Fig. 1'
)
def crossover_vit_base(study: Study) -> Answer:
    """The 95 % interval of the crossover lies within the sizes next to the paper's, 30 % and 80 % (reproduced), or
    wholly outside them (contradicted), for LoRA and for BitFit. Below three seeds it is undecided."""
    return _crossovers(study, 'ViT-Base', PEFT, stand_in=True)


@CLAIMS.claim(
    'crossover_vit_large_lora', 'On ViT-Large, LoRA crosses full fine-tuning at 80 % of the data.', 'Sec. 4.1, Fig. 1'
)
def crossover_vit_large_lora(study: Study) -> Answer:
    """As for ViT-Base; the sizes next to the paper's are 50 % and 100 %."""
    return _crossovers(study, 'ViT-Large', ('LoRA',))


@CLAIMS.claim(
    'crossover_vit_large_bitfit',
    'On ViT-Large, BitFit crosses full fine-tuning at 20 % of the data.',
    'Sec. 4.1, Fig. 1',
)
def crossover_vit_large_bitfit(study: Study) -> Answer:
    """As for ViT-Base; the sizes next to the paper's are 10 % and 30 %."""
    return _crossovers(study, 'ViT-Large', ('BitFit',))


# ---- growth with the encoder


def _growth(rows: pd.DataFrame, methods: Sequence[str]) -> Answer:
    """Gains on the largest encoder minus those on the smallest, by method and data set."""
    parts, sizes = [], rows.groupby('encoder')['total_parameters'].max().sort_values()
    for method in methods:
        for data, group in rows.groupby('data', sort=False):
            gains = {key[0]: one for key, one in scores.gains_by(group, method, by=('encoder',)).items()}
            ends = [encoder for encoder in sizes.index if encoder in gains]
            if len(ends) > 1:
                grown = gains[ends[-1]] - gains[ends[0]]
                parts.append(Part(f'{method}, {data}: gain on {ends[-1]} minus on {ends[0]}', grown.interval()))
    return Answer(parts)


@CLAIMS.claim(
    'gains_grow_with_the_model',
    'The gain of PEFT grows with the model: 4 points for ViT-Base, 6 for ViT-Huge.',
    'Sec. 4.2',
)
def gains_grow_with_the_model(study: Study) -> Answer:
    """The gain of LoRA over full FT on the largest vision transformer minus that on the smallest, on each data set that
    both have, paired."""
    return _growth(study.vits_by_size, ('LoRA',))


@CLAIMS.claim('gains_grow_with_the_cnn', 'The gain of PEFT grows with the CNN.', 'our question, after Sec. 4.2')
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


@CLAIMS.claim('ssf_best_on_cnn', 'SSF is the best method on the CNN, average rank 1.2.', 'Sec. 4.2, Table 2')
def ssf_best_on_cnn(study: Study) -> Answer:
    """SSF minus each other method of the paper; random effects over three data sets or more, else each data set."""
    return _best(study.cnn, TABLE2, 'SSF', 'CNN')


@CLAIMS.claim(
    'ssf_gains_22_points_on_breastus', 'SSF gains 22 points over full fine-tuning on BreastUS.', 'Sec. 4.2, Table 2'
)
def ssf_gains_22_points_on_breastus(study: Study) -> Answer:
    """The gain of SSF over full FT on BreastUS with the CNN, minus 20 points, for each CNN: above zero is reproduced;
    an upper end below 22 points is contradicted."""
    parts, here = [], study.cnn[study.cnn['data'] == 'BreastUS']
    for (encoder,), one in scores.gains_by(here, 'SSF', by=('encoder',)).items():
        what = f'SSF minus full FT on BreastUS, {encoder}, minus 20 points'
        parts.append(Part(what, one.interval().minus(0.2)))
    return Answer(parts, caveat='The size of a gain depends on how far full fine-tuning was tuned.' if parts else '')


@CLAIMS.claim(
    'lora_best_on_vits', 'LoRA is the best method on vision transformers, average rank 2.4.', 'Sec. 4.2, Table 3'
)
def lora_best_on_vits(study: Study) -> Answer:
    """LoRA minus each other method of the paper, the mean over the encoders of a data set; random effects over three
    data sets or more, else each data set."""
    return _best(study.vit, TABLE3, 'LoRA', 'ViTs')


@CLAIMS.claim(
    'lora_best_self_supervised', 'LoRA is also best on encoders pre-trained by MAE and by CLIP.', 'App. A, Table 5'
)
def lora_best_self_supervised(study: Study) -> Answer:
    """As for the vision transformers, on each encoder that was pre-trained without labels (MAE, CLIP, DINO)."""
    parts = []
    for encoder, rows in study.without_labels.groupby('encoder', sort=False):
        parts += _best(rows, TABLE5, 'LoRA', encoder).parts
    return Answer(parts)


@CLAIMS.claim('linear_probing_worst', 'Linear probing is the worst strategy.', 'Sec. 4.2, Tables 2 and 3')
def linear_probing_worst(study: Study) -> Answer:
    """Each other method of the paper minus linear probing, on the CNN and on the vision transformers; random effects
    over three data sets or more, else each data set."""
    parts = []
    for rows, layout, where in ((study.cnn, TABLE2, 'CNN'), (study.vit, TABLE3, 'ViTs')):
        for rival in _rivals(rows, layout, 'Linear Probing'):
            parts += apart(rows, rival, 'Linear Probing', where)
        if 'Linear Probing' not in set(rows['method']):
            parts.append(Part(f'{where}: linear probing', None))
    return Answer(parts, caveat='It depends on whether the probe was fitted to convergence.' if parts else '')


@CLAIMS.claim('adaptformer_weak', 'AdaptFormer does not perform well.', 'Sec. 4.2, Table 3')
def adaptformer_weak(study: Study) -> Answer:
    """Full FT minus AdaptFormer on the vision transformers; random effects over three data sets or more, else each."""
    have = {'Full FT', 'AdaptFormer'} <= set(study.vit['method'])
    parts = apart(study.vit, 'Full FT', 'AdaptFormer', 'ViTs') if have else []
    return Answer(parts, caveat="The paper's bottleneck is narrow (6, by its counts)." if parts else '')


@CLAIMS.claim('three_methods_beat_full_ft', 'TSA, SSF and LoRA consistently improve on full fine-tuning.', 'Sec. 4.2')
def three_methods_beat_full_ft(study: Study) -> Answer:
    """TSA and SSF on the CNN, SSF and LoRA on the vision transformers, each minus full FT; random effects over three
    data sets or more, else each data set."""
    parts = []
    for rows, methods, where in ((study.cnn, ('TSA', 'SSF'), 'CNN'), (study.vit, ('SSF', 'LoRA'), 'ViTs')):
        parts += [part for method in methods for part in apart(rows, method, scores.FULL, where)]
    return Answer(parts, caveat='The gain depends on how well full fine-tuning was tuned.' if parts else '')


# ---- the page


@renderer(
    'claims', "The paper's claims, and what these records say", 'Which of the claims of the paper are reproduced?'
)
def claims(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Every claim of the discriminative half with its verdict; for the paper's own numbers, what they bear out."""
    chosen = scores.seed_scores(records, f1, prefer=scores.TABLE_EXPERIMENTS)
    notes = provenance.describe(records, chosen, f1)
    if chosen['backbone_label'].astype(str).str.contains('mini').any():
        notes.append(SMALL)
    if scores.is_published(records):
        notes.append('The same rules on the printed numbers: without seeds no claim is decided.')
    else:
        notes += [*_left_out(records, f1), _under_another_average(records, f1)]
    return CLAIMS.page(records, f1, notes, provenance.is_synthetic(chosen))


def _left_out(records: pd.DataFrame, f1: str) -> list[str]:
    """Which data sets were run and decide no claim of a figure or table, in a sentence."""
    found = [f'{", ".join(names)} from the claims of {part}' for part, names in Study(records, f1).left_out.items()]
    why = 'Left out, because the study did not declare it for them before its runs'
    return [f'{why}: {"; ".join(found)}.'] if found else []


def _under_another_average(records: pd.DataFrame, f1: str) -> str:
    """Which verdicts differ under macro F1 (or weighted, where macro is reported), in a sentence."""
    other = 'macro' if f1 != 'macro' else 'weighted'
    ours, theirs = CLAIMS.answers(records, f1), CLAIMS.answers(records, other)
    differ = [
        f'"{CLAIMS[name].text}" {theirs[name].verdict}' for name in CLAIMS if ours[name].verdict != theirs[name].verdict
    ]
    return (
        f'Under {other} F1 {len(differ)} of {len(CLAIMS)} verdicts differ{": " if differ else ""}{"; ".join(differ)}.'
    )
