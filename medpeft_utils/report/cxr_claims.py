"""What the second paper claims, and what a study's records say to each claim, as `paper_claims.py` for the first."""

from __future__ import annotations

import math

import pandas as pd

from medpeft_utils.report import cxr_scores as cxr
from medpeft_utils.report import scores
from medpeft_utils.report.claims import CONTRADICTED, NOT_RUN, REPRODUCED, UNDECIDED, Answer, Claims, Part
from medpeft_utils.report.cxr_tables import PAPER_TASKS, PAPER_WINS
from medpeft_utils.report.output import Output, renderer

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
