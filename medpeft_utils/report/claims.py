"""What the paper claims of its discriminative half, and what a study's records say to each claim.

Every claim is one function with its decision rule in its docstring; `evidence.judge` turns intervals into a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medpeft_utils.core.registry import Registry
from medpeft_utils.report import paper, ranks, scores
from medpeft_utils.report.evidence import CONSISTENT, NOT, REPRODUCED, UNANSWERED, Evidence, judge, pooled
from medpeft_utils.report.tables import crossovers, figure1_scores

VITS = ('ViT-Base', 'ViT-Large', 'ViT-Huge')
SELF_SUPERVISED = ('ViT-Base MAE', 'ViT-Base CLIP')
CNN = ('ResNet50',)


@dataclass(frozen=True)
class Verdict:
    """The answer to a claim: the verdict, the figures that decide, and what to keep in mind."""

    verdict: str
    decides: tuple[str, ...] = ()
    caveat: str = ''


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: where it stands, in which words, and what answers it."""

    name: str
    text: str
    where: str
    answer: Callable[[Study], Verdict]

    @property
    def rule(self) -> str:
        """How the claim is decided: the docstring of its function."""
        return ' '.join((self.answer.__doc__ or '').split())


class Study:
    """Records as the claims need them: scores at all data, scores over data sizes."""

    def __init__(self, records: pd.DataFrame, f1: str = 'weighted'):
        self.records, self.f1 = records, f1
        self.printed = scores.is_published(records)
        every = scores.seed_scores(records, f1, prefer=scores.TABLE_EXPERIMENTS)
        self.full = every[every['fraction'] == 1.0]
        self.curves = figure1_scores(records, f1)
        self.crossovers = crossovers(records, f1)

    def blocks(self, encoders: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
        """Means of complete (encoder, data) blocks, a column a method."""
        return scores.complete(scores.grid(self.full, methods, encoders))

    def difference(self, method: str, other: str, encoders: Sequence[str], what: str = '') -> Evidence | None:
        """How much better a method is than another on these encoders with all data, pooled over data sets."""
        gains = scores.gains(self.full[self.full['encoder'].isin(encoders)], method, other)
        return pooled(what or f'{method} less {other}', gains, printed=self.printed)


CLAIMS: Registry[Claim] = Registry('claim')


def claim(name: str, text: str, where: str):
    """Register a function (Study) -> Verdict as the answer to a claim."""

    def register(answer: Callable[[Study], Verdict]) -> Callable[[Study], Verdict]:
        CLAIMS.register(name, Claim(name, text, where, answer))
        return answer

    return register


def _judged(parts: Sequence[Evidence | None], caveat: str = '', more: Sequence[str] = ()) -> Verdict:
    parts = [part for part in parts if part is not None]
    return Verdict(
        judge(parts), (*map(str, parts), *more), caveat if parts else 'The records hold no run that bears on it.'
    )


def _slopes(gains: pd.DataFrame) -> pd.DataFrame:
    """What each halving of the data adds to the gain, by seed: minus the least-squares slope on log2 of the size."""
    rows = []
    for seed, group in gains.groupby('seed'):
        if group['fraction'].nunique() >= 3:
            slope = np.polyfit(np.log2(group['fraction']), group['gain'], 1)[0]
            rows.append({'seed': seed, 'gain': -slope})
    return pd.DataFrame(rows, columns=['seed', 'gain'])


@claim(
    'gains_grow_as_data_shrink', 'The gain of PEFT over full fine-tuning grows as the data shrink.', 'Sec. 4.1, Fig. 1'
)
def gains_grow_as_data_shrink(study: Study) -> Verdict:
    """The slope of the gain (LoRA, BitFit less full FT) on log2 of the data size, by seed, for each encoder and data
    set of Figure 1, is negative: every 95 % t interval over seeds excludes zero (reproduced); none excludes it on the
    other side and the mean slope is negative (consistent)."""
    parts, smallest = [], []
    for (encoder, data), group in study.curves.groupby(['encoder', 'data'], sort=False):
        for method in ('LoRA', 'BitFit'):
            gains = scores.gains(group, method)
            name = f'gain of {method} on {encoder}, {data}, for each halving of the data'
            parts.append(pooled(name, _slopes(gains), printed=study.printed))
            least = gains[gains['fraction'] == gains['fraction'].min()]
            if len(least):
                smallest.append(
                    f'{method} on {encoder} at {100 * least["fraction"].iloc[0]:g} %: {100 * least["gain"].mean():+.1f}'
                )
    more = [f'gain at the smallest size: {"; ".join(smallest)} points'] if smallest else []
    caveat = "The paper's own curves fall back to no gain at 1 % of the data (75 images): the growth ends somewhere."
    return _judged(parts, caveat, more)


@claim(
    'gains_grow_with_the_model',
    'The gain of PEFT grows with the model: 4 points for ViT-Base, 6 for ViT-Huge.',
    'Sec. 4.2',
)
def gains_grow_with_the_model(study: Study) -> Verdict:
    """The gain of LoRA over full FT, averaged over the data sets that both have, on the largest ViT less that on the
    smallest: the 95 % t interval over seeds lies above zero (reproduced)."""
    gains = scores.gains(study.full[study.full['encoder'].isin(VITS)], 'LoRA')
    have = [encoder for encoder in VITS if encoder in set(gains['encoder'])]
    if len(have) < 2:
        return _judged([])
    tables = gains.pivot_table(index=['data', 'seed'], columns='encoder', values='gain')[[have[0], have[-1]]].dropna()
    grown = (tables[have[-1]] - tables[have[0]]).rename('gain').reset_index()
    each = [f'gain on {encoder} {100 * tables[encoder].mean():+.1f}' for encoder in tables]
    more = ['; '.join(each) + ' points' if len(tables) else 'no data set in common']
    part = pooled(f'gain of LoRA on {have[-1]} less on {have[0]}', grown, printed=study.printed)
    return _judged([part], 'Sizes compared: ' + ' and '.join([have[0], have[-1]]) + '.', more)


def _neighbours(percent: float) -> tuple[int, int]:
    """The sizes of Figure 1 next to one of them, in %: the crossover that the paper reads there lies between."""
    sizes = [1, 5, 10, 20, 30, 50, 80, 100]
    place = sizes.index(percent)
    return sizes[place - 1], sizes[place + 1]


def _crossover(study: Study, encoder: str, method: str) -> tuple[str, str] | None:
    """The verdict on one crossover of the paper, and the figures that decide it; None where there is no such curve."""
    found = study.crossovers
    found = found[(found['encoder'] == encoder) & (found['method'] == method)]
    if found.empty:
        return None
    said = paper.CROSSOVERS[encoder, method]
    below, above = _neighbours(said)
    cross = found['crossover'].iloc[0]
    what = f'{method} on {encoder}, {found["data"].iloc[0]}: {cross} (paper {said} %: between {below} and {above} %)'
    if below <= 100 * cross.low and 100 * cross.high <= above:  # false where there is no interval
        return REPRODUCED, what
    near = below <= 100 * cross.estimate <= above or cross.low <= said / 100 <= cross.high
    return (CONSISTENT if near else NOT), what


def _crossovers(study: Study, encoder: str, methods: Sequence[str]) -> Verdict:
    answers = [answer for method in methods if (answer := _crossover(study, encoder, method))]
    if not answers:
        return _judged([])
    worst = max((verdict for verdict, _ in answers), key=[REPRODUCED, CONSISTENT, NOT].index)
    caveat = 'A share of the training images says little by itself on another backbone or another number of images.'
    return Verdict(worst, tuple(what for _, what in answers), caveat)


@claim(
    'crossover_vit_base', 'On ViT-Base, LoRA and BitFit cross full fine-tuning at 50 % of the data.', 'Sec. 4.1, Fig. 1'
)
def crossover_vit_base(study: Study) -> Verdict:
    """The 95 % bootstrap interval of the crossover lies between the sizes next to the paper's, 30 % and 80 %
    (reproduced); the estimate lies there, or the interval holds the paper's size (consistent). The worse of LoRA and
    BitFit counts."""
    return _crossovers(study, 'ViT-Base', ('LoRA', 'BitFit'))


@claim(
    'crossover_vit_large_lora', 'On ViT-Large, LoRA crosses full fine-tuning at 80 % of the data.', 'Sec. 4.1, Fig. 1'
)
def crossover_vit_large_lora(study: Study) -> Verdict:
    """As for ViT-Base; the sizes next to the paper's are 50 % and 100 %."""
    return _crossovers(study, 'ViT-Large', ('LoRA',))


@claim(
    'crossover_vit_large_bitfit',
    'On ViT-Large, BitFit crosses full fine-tuning at 20 % of the data.',
    'Sec. 4.1, Fig. 1',
)
def crossover_vit_large_bitfit(study: Study) -> Verdict:
    """As for ViT-Base; the sizes next to the paper's are 10 % and 30 %."""
    return _crossovers(study, 'ViT-Large', ('BitFit',))


def _over(blocks: pd.DataFrame) -> str:
    return f'over {len(blocks)} block{"s" if len(blocks) != 1 else ""}'


def _extreme(study: Study, method: str, encoders: Sequence[str], methods: Sequence[str], worst: bool = False):
    """Evidence that a method is the best (or worst) of all on average, and its average rank in words; or None."""
    blocks = study.blocks(encoders, methods)
    if method not in blocks or blocks.shape[1] < 3 or not len(blocks):
        return None
    rank = ranks.average_rank(blocks, 'average')
    means = blocks.mean().drop(method)
    rival = means.idxmin() if worst else means.idxmax()
    inside = pd.MultiIndex.from_frame(study.full[['encoder', 'data']]).isin(blocks.index)
    pair = (rival, method) if worst else (method, rival)
    gains = scores.gains(study.full[inside], *pair)
    where = encoders[0] if len(encoders) == 1 else 'ViTs'
    what = f'{where}: {pair[0]} less {pair[1]}, the next {"worst" if worst else "best"}'
    place = int(rank.rank(method='min')[method])
    words = f'average rank of {method} on {where} {rank[method]:.1f}, place {place} of {len(rank)}, {_over(blocks)}'
    return pooled(what, gains, printed=study.printed), words, place == (len(rank) if worst else 1)


def _extreme_verdict(found: Sequence, caveat: str) -> Verdict:
    found = [item for item in found if item is not None]
    if not found:
        return _judged([])
    verdict = judge([part for part, _, _ in found])
    if verdict == REPRODUCED and not all(first for _, _, first in found):
        verdict = CONSISTENT
    decides = [text for part, words, _ in found for text in (str(part), words)]
    return Verdict(verdict, tuple(decides), caveat)


FEW = (
    'The rival is chosen by its mean, which makes the interval a little strict. Data sets on which a method is missing '
    'are left out.'
)


@claim('ssf_best_on_cnn', 'SSF is the best method on the CNN, average rank 1.2.', 'Sec. 4.2, Table 2')
def ssf_best_on_cnn(study: Study) -> Verdict:
    """SSF less the best other method, pooled over data sets by seed: the 95 % t interval lies above zero and SSF has
    the lowest average rank (reproduced); the mean is above zero (consistent)."""
    return _extreme_verdict([_extreme(study, 'SSF', CNN, paper.CNN_METHODS)], FEW)


@claim('ssf_gains_22_points_on_breastus', 'SSF gains 22 points over full fine-tuning on BreastUS.', 'Sec. 4.2, Table 2')
def ssf_gains_22_points_on_breastus(study: Study) -> Verdict:
    """SSF less full FT on BreastUS with the CNN: the 95 % t interval over seeds lies above zero and holds 22 points
    (reproduced); the mean is above zero (consistent)."""
    here = study.full[(study.full['encoder'] == 'ResNet50') & (study.full['data'] == 'BreastUS')]
    part = pooled('SSF less full FT on BreastUS', scores.gains(here, 'SSF'), printed=study.printed)
    answer = _judged([part], 'The size of a gain depends on how far full fine-tuning was tuned.')
    if part is not None and answer.verdict == REPRODUCED and not part.low <= 0.22 <= part.high:
        return Verdict(CONSISTENT, answer.decides, 'Better by another amount. ' + answer.caveat)
    return answer


@claim('lora_best_on_vits', 'LoRA is the best method on vision transformers, average rank 2.4.', 'Sec. 4.2, Table 3')
def lora_best_on_vits(study: Study) -> Verdict:
    """LoRA less the best other method, pooled over (data set, encoder) blocks by seed: the 95 % t interval lies above
    zero and LoRA has the lowest average rank (reproduced); the mean is above zero (consistent)."""
    return _extreme_verdict([_extreme(study, 'LoRA', VITS, paper.VIT_METHODS)], FEW)


@claim('lora_best_self_supervised', 'LoRA is also best on encoders pre-trained by MAE and by CLIP.', 'App. A, Table 5')
def lora_best_self_supervised(study: Study) -> Verdict:
    """As for the ViTs of Table 3, for each of the two encoders, judged together."""
    return _extreme_verdict(
        [_extreme(study, 'LoRA', (encoder,), paper.VIT_METHODS) for encoder in SELF_SUPERVISED], FEW
    )


@claim('linear_probing_worst', 'Linear probing is the worst strategy.', 'Sec. 4.2, Tables 2 and 3')
def linear_probing_worst(study: Study) -> Verdict:
    """The worst other method less linear probing, pooled over data sets by seed, on the CNN and on the ViTs: both 95 %
    t intervals lie above zero and linear probing has the highest average rank (reproduced); no interval lies below zero
    and the mean of both is above it (consistent)."""
    families = ((CNN, paper.CNN_METHODS), (VITS, paper.VIT_METHODS))
    return _extreme_verdict([_extreme(study, 'Linear Probing', *family, worst=True) for family in families], FEW)


@claim('adaptformer_weak', 'AdaptFormer does not perform well.', 'Sec. 4.2, Table 3')
def adaptformer_weak(study: Study) -> Verdict:
    """Full FT less AdaptFormer, pooled over (data set, encoder) blocks by seed: the 95 % t interval lies above zero and
    AdaptFormer's average rank is in the worse half (reproduced); the mean is above zero (consistent)."""
    blocks = study.blocks(VITS, paper.VIT_METHODS)
    answer = _judged(
        [study.difference('Full FT', 'AdaptFormer', VITS)], "The paper's bottleneck is narrow (6, by its counts)."
    )
    if answer.verdict == UNANSWERED or 'AdaptFormer' not in blocks or not len(blocks):
        return answer
    rank = ranks.average_rank(blocks, 'average')
    words = f'average rank {rank["AdaptFormer"]:.1f} of {len(rank)} methods {_over(blocks)}'
    weak = rank['AdaptFormer'] > (len(rank) + 1) / 2
    verdict = CONSISTENT if answer.verdict == REPRODUCED and not weak else answer.verdict
    return Verdict(verdict, (*answer.decides, words), answer.caveat)


@claim('three_methods_beat_full_ft', 'TSA, SSF and LoRA consistently improve on full fine-tuning.', 'Sec. 4.2')
def three_methods_beat_full_ft(study: Study) -> Verdict:
    """TSA and SSF on the CNN, SSF and LoRA on the ViTs, each less full FT, pooled over blocks by seed: every 95 % t
    interval lies above zero and each wins most of its blocks (reproduced); no interval lies below zero and the mean
    over the four is above it (consistent)."""
    parts, wins, most = [], [], True
    for method, encoders, where in (
        ('TSA', CNN, 'CNN'),
        ('SSF', CNN, 'CNN'),
        ('SSF', VITS, 'ViTs'),
        ('LoRA', VITS, 'ViTs'),
    ):
        parts.append(study.difference(method, 'Full FT', encoders, f'{method} less full FT on the {where}'))
        means = scores.gains(study.full[study.full['encoder'].isin(encoders)], method)
        means = means.groupby(['encoder', 'data'])['gain'].mean()
        won = int((means.round(ranks.DECIMALS) > 0).sum())
        most = most and (not len(means) or won > len(means) / 2)
        wins += [f'{method} on the {where} {won} of {len(means)}'] if len(means) else []
    answer = _judged(parts, 'The gain depends on how well full fine-tuning was tuned.')
    decides = (*answer.decides, 'blocks won: ' + ', '.join(wins)) if wins else answer.decides
    return Verdict(CONSISTENT if answer.verdict == REPRODUCED and not most else answer.verdict, decides, answer.caveat)


def answers(records: pd.DataFrame, f1: str = 'weighted') -> dict[str, Verdict]:
    """The verdict on every claim, by its name."""
    study = Study(records, f1)
    return {name: claim.answer(study) for name, claim in CLAIMS.items()}
