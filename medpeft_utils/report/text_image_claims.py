"""What the first paper claims of generation, and what a study's records say to each claim.

As `claims.py` does for the classification half: every claim is one function with its decision rule in its docstring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd

from medpeft_utils.core.registry import Registry
from medpeft_utils.report import scores
from medpeft_utils.report import text_image_scores as ti
from medpeft_utils.report.claims import Claim, Verdict
from medpeft_utils.report.claims_page import COLUMNS, ClaimsPage, printed_row, section
from medpeft_utils.report.evidence import CONSISTENT, NOT, REPRODUCED, UNANSWERED, Evidence, judge, pooled
from medpeft_utils.report.renderers import renderer

TITLE = "The paper's claims on generation, and what these records say"
MISSING_RUNS = Verdict(UNANSWERED, (), 'The records hold no run that bears on it.')
FEWEST_SEEDS = 3  # of training, for 'reproduced'
SEEDS = (
    'With fewer than three training seeds the intervals are over sampling seeds, the chance of training is not in '
    'them, and no verdict is better than consistent.'
)
PAPER_BETTER, PAPER_PEFT = 6, 7  # PEFT methods with a lower average FID than full fine-tuning's, of how many


class Study:
    """Records as the claims need them: FID by set, data size, method and seed; the paper's own for its records."""

    def __init__(self, records: pd.DataFrame):
        self.runs, self.printed = ti.runs(records), scores.is_published(records)
        self.values = ti.published() if self.printed else ti.against_base(self.runs)
        self.methods = [m for m in ti.METHODS if m in set(self.values['method'])]
        self.few = self.printed or self.values.groupby(ti.CELL)['seed'].nunique().min() < FEWEST_SEEDS

    def gain(self, better: str, worse: str) -> Evidence | None:
        """By how much the FID of one method lies below another's, over sets and data sizes."""
        apart = ti.gains(self.values, better, worse)
        return pooled(f'FID of {worse} less {better}', apart, printed=self.printed, scale=1.0, unit='FID')

    def gains(self, better: str, others: Sequence[str]) -> list[Evidence]:
        """`gain` over each of the others that was run."""
        found = (self.gain(better, other) for other in others if other != better)
        return [one for one in found if one is not None]

    def capped(self, verdict: str) -> str:
        """A verdict that is no better than the training seeds allow."""
        return CONSISTENT if verdict == REPRODUCED and self.few else verdict

    @property
    def order(self) -> str:
        """The methods by average rank, in words, for each set."""
        told = []
        own = self.values[self.values['method'] != ti.BASE]
        for data, group in own.groupby('data', sort=False):
            ranked = ti.summary(group).sort_values(['average_rank', 'average_fid'])
            told.append(f'{data}: ' + ', '.join(f'{m} {r:.2f}' for m, r in ranked['average_rank'].items()))
        return 'average ranks: ' + '; '.join(told)


CLAIMS: Registry[Claim] = Registry('claim')


def claim(name: str, text: str, where: str = 'Sec. 4.3, Table 4'):
    """Register a function (Study) -> Verdict as the answer to a claim."""

    def register(answer: Callable[[Study], Verdict]) -> Callable[[Study], Verdict]:
        CLAIMS.register(name, Claim(name, text, where, answer))
        return answer

    return register


@claim('bias_best_on_generation', 'Bias tuning is the best method on text-to-image generation.')
def bias_best_on_generation(study: Study) -> Verdict:
    """FID of every other method less that of bias tuning, paired by seed, pooled over sets and data sizes: every 95 % t
    interval lies above zero (reproduced); none lies below it and the mean is above it (consistent)."""
    parts = study.gains(ti.BIAS, study.methods)
    if not parts:
        return MISSING_RUNS
    return Verdict(study.capped(judge(parts)), (*map(str, parts), study.order), SEEDS)


@claim('sv_diff_second_on_generation', 'SV-Diff is second, after bias tuning.')
def sv_diff_second_on_generation(study: Study) -> Verdict:
    """FID of SV-Diff less that of bias tuning, and FID of every other method less that of SV-Diff, paired by seed:
    every 95 % t interval lies above zero (reproduced); none lies below it and the mean is above it (consistent)."""
    first = study.gain(ti.BIAS, ti.SV_DIFF)
    parts = study.gains(ti.SV_DIFF, [m for m in study.methods if m != ti.BIAS])
    if first is None or not parts:
        return MISSING_RUNS
    return Verdict(study.capped(judge([first, *parts])), (str(first), *map(str, parts), study.order), SEEDS)


@claim('lora_fails_on_generation', 'LoRA fails on generation: its FID is several times that of every other method.')
def lora_fails_on_generation(study: Study) -> Verdict:
    """FID of LoRA less that of every other method, paired by seed. Reproduced: every 95 % t interval lies above zero,
    and LoRA does not improve on the untuned pipeline. Not reproduced: LoRA improves on the untuned pipeline (the
    interval of the improvement lies above zero; with too few seeds for one, the mean), or is not the worst method on
    average. Consistent: else."""
    others = [m for m in study.methods if m != ti.LORA]
    parts = [one for one in (study.gain(other, ti.LORA) for other in others) if one is not None]
    if not parts:
        return MISSING_RUNS
    improved = study.gain(ti.LORA, ti.BASE)
    worst = all(part.mean > 0 for part in parts)
    verdict = study.capped(judge(parts))
    helps = improved is not None and (improved.side == 'for' or (math.isnan(improved.low) and improved.mean > 0))
    if not worst or helps:
        verdict = NOT
    elif verdict == REPRODUCED and improved is not None and improved.mean > 0:
        verdict = CONSISTENT
    decides = [*([str(improved)] if improved else []), *map(str, parts)]
    return Verdict(
        verdict, tuple(decides), 'See the table of LoRA’s controls: trained, never trained, not applied. ' + SEEDS
    )


@claim('peft_beats_full_on_generation', 'Nearly every PEFT method beats full fine-tuning on generation.')
def peft_beats_full_on_generation(study: Study) -> Verdict:
    """FID of full fine-tuning less that of each PEFT method, paired by seed. Reproduced: all but one of seven methods
    have a 95 % t interval above zero. Consistent: all but one of those run have a mean above zero. Not reproduced:
    fewer."""
    methods = [m for m in study.methods if m != ti.FULL]
    parts = [one for one in (study.gain(method, ti.FULL) for method in methods) if one is not None]
    if not parts:
        return MISSING_RUNS
    ahead, sure = sum(part.mean > 0 for part in parts), sum(part.side == 'for' for part in parts)
    verdict = CONSISTENT if ahead >= max(len(parts) - 1, 1) else NOT
    if len(parts) == PAPER_PEFT and sure >= PAPER_BETTER:
        verdict = study.capped(REPRODUCED)
    words = f'{ahead} of {len(parts)} methods have a lower mean FID (paper: {PAPER_BETTER} of {PAPER_PEFT})'
    return Verdict(verdict, (words, *map(str, parts)), SEEDS)


def answers(records: pd.DataFrame) -> dict[str, Verdict]:
    """The verdict on every claim on generation, by its name."""
    study = Study(records)
    return {name: claim.answer(study) for name, claim in CLAIMS.items()}


def _notes(records: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    notes = ti.describe(records, table)
    if len(table) and table['synthetic'].any():
        notes.append(
            'The images are synthetic: these verdicts show that the pipeline answers, and say nothing about medicine.'
        )
    if len(table) and table['backbone_label'].str.contains('mini').any():
        notes.append('A small pipeline and small images: a verdict holds for them, not for Stable Diffusion v1.5.')
    return [*notes, f'Figures are mean [95 % t interval]; {len(CLAIMS)} claims are tested without correction.']


@renderer('text_image_claims', TITLE, 'Which claims of the paper on generation are reproduced?')
def text_image_claims(records: pd.DataFrame, f1: str = 'weighted') -> ClaimsPage:
    """The four claims on generation with their verdicts; for the paper's own numbers, what they bear out."""
    table, rows = ti.runs(records), []
    for name, answer in answers(records).items():
        claim = CLAIMS[name]
        row = {'name': name, 'claim': claim.text, 'where': claim.where, 'verdict': answer.verdict}
        rows.append(row | {'decides': '\n'.join(answer.decides), 'rule': claim.rule, 'caveat': answer.caveat})
    return ClaimsPage(
        name='text_image_claims',
        title=TITLE + (', synthetic images' if len(table) and table['synthetic'].any() else ''),
        columns=COLUMNS,
        rows=[printed_row(row) for row in rows],
        notes=_notes(records, table),
        data=pd.DataFrame(rows),
        sections=tuple(section(row) for row in rows),
        left=True,
    )
