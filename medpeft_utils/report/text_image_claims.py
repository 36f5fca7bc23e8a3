"""What the first paper claims of generation, and what a study's records say to each claim, as in `paper_claims.py`."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from medpeft_utils.report import scores
from medpeft_utils.report import text_image_scores as ti
from medpeft_utils.report.claims import CONTRADICTED, REPRODUCED, UNDECIDED, Answer, Claims, Part
from medpeft_utils.report.inference import Interval, combine, random_effects
from medpeft_utils.report.output import Output, renderer

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
