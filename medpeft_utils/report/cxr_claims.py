"""What the second paper claims, and what a study's records say to each claim.

As `claims.py` does for the first paper: every claim is one function with its decision rule in its docstring.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from medpeft_utils.core.registry import Registry
from medpeft_utils.report import cxr_scores as cxr
from medpeft_utils.report.claims import Claim, Verdict
from medpeft_utils.report.claims_page import COLUMNS, ClaimsPage, printed_row, section
from medpeft_utils.report.cxr_tables import PAPER_GAP, PAPER_TASKS, PAPER_WINS
from medpeft_utils.report.evidence import CONSISTENT, NOT, REPRODUCED, UNANSWERED, pooled
from medpeft_utils.report.renderers import renderer

TITLE = "The second paper's claims, and what these records say"
PAPER_AUROC = 0.806
LISTED = 785  # images in the authors' list of 1 % of NIH ChestX-ray14


class Study:
    """Records as the claims need them: the tasks, and LoRA less full fine-tuning by seed."""

    def __init__(self, records: pd.DataFrame):
        self.runs = cxr.runs(records)
        self.chosen = cxr.one_rank(self.runs)
        self.tasks = cxr.tasks(self.chosen)
        self.compared = self.tasks.dropna(subset='difference')


CLAIMS: Registry[Claim] = Registry('claim')
NO_RUN = Verdict(UNANSWERED, (), 'The records hold no task that was run with both LoRA and full fine-tuning.')


def claim(name: str, text: str, where: str = 'Abstract'):
    """Register a function (Study) -> Verdict as the answer to a claim."""

    def register(answer: Callable[[Study], Verdict]) -> Callable[[Study], Verdict]:
        CLAIMS.register(name, Claim(name, text, where, answer))
        return answer

    return register


def _real_tasks(study: Study) -> int:
    """How many of the paper's 18 tasks were run on real images."""
    real = study.compared[~study.compared['synthetic'].astype(bool)]
    known = set(cxr.wanted_tasks())
    return sum(task in known for task in real[cxr.TASK].itertuples(index=False, name=None))


def _few(study: Study) -> str:
    synthetic = int(study.compared['synthetic'].astype(bool).sum())
    return f'{_real_tasks(study)} of the 18 tasks were run on real images, {synthetic} tasks on synthetic ones.'


@claim('lora_wins_13_of_18', 'LoRA is better than full fine-tuning in 13 of 18 tasks.')
def lora_wins_13_of_18(study: Study) -> Verdict:
    """LoRA less full FT by task. Reproduced: all 18 tasks were run on real images, LoRA has the higher AUROC in 13 or
    more, and the 95 % t interval over seeds of the mean over tasks lies above zero. Consistent: LoRA is better in more
    than half of the tasks that were run and the mean is above zero. Not reproduced: neither."""
    compared = study.compared
    if compared.empty:
        return NO_RUN
    mean = pooled('LoRA less full FT, mean over tasks', cxr.by_seed(study.chosen))
    wins, clear = int((compared['difference'] > 0).sum()), [(compared['low'] > 0).sum(), (compared['high'] < 0).sum()]
    words = f'LoRA has the higher AUROC in {wins} of {len(compared)} tasks (paper: {PAPER_WINS} of {PAPER_TASKS})'
    sure = f'the interval over patients lies above zero in {clear[0]} tasks and below it in {clear[1]}'
    verdict = CONSISTENT if wins > len(compared) / 2 and mean.mean > 0 else NOT
    if _real_tasks(study) == PAPER_TASKS and wins >= PAPER_WINS and mean.side == 'for':
        verdict = REPRODUCED
    return Verdict(verdict, (words, sure, str(mean)), _few(study))


@claim('gap_up_to_2_9_points', 'LoRA is better by up to 2.9 points of AUROC.')
def gap_up_to_2_9_points(study: Study) -> Verdict:
    """The largest difference LoRA less full FT of any task: the task is one of the paper's on real images, and its 95 %
    bootstrap interval over patients lies above zero and holds 2.9 points (reproduced); the difference is above zero
    (consistent)."""
    if study.compared.empty:
        return NO_RUN
    top = study.compared.loc[study.compared['difference'].idxmax()]
    least = study.compared.loc[study.compared['difference'].idxmin()]
    decides = tuple(
        f'{words}: {cxr.points(row["difference"], (row["low"], row["high"]), signed=True)} points, {row["model"]}, '
        f'{row["data"]}, {cxr.percent(row["fraction"])}'
        for words, row in (('largest', top), ('smallest', least))
    )
    verdict = CONSISTENT if top['difference'] > 0 else NOT
    if _real_tasks(study) and not top['synthetic'] and 0 < top['low'] <= PAPER_GAP <= top['high']:
        verdict = REPRODUCED
    return Verdict(verdict, decides, 'The largest of several differences is too large by its choice. ' + _few(study))


@claim('under_1_percent_of_parameters', 'LoRA trains under 1 % of the parameters.')
def under_1_percent_of_parameters(study: Study) -> Verdict:
    """Arithmetic, no run: parameters of LoRA on q and v and of fc_norm in ViT-B/16, over all of them, at the rank that
    the authors publish for each of the 18 tasks; the head is left out. Under 1 % in all 18 (reproduced), in some
    (consistent), in none."""
    ranks = cxr.recommended()['lora_rank']
    shares = {rank: cxr.lora_share(rank) for rank in sorted(ranks.unique())}
    under = int((ranks.map(shares) < 0.01).sum())
    verdict = REPRODUCED if under == len(ranks) else CONSISTENT if under else NOT
    each = ', '.join(f'rank {rank}: {share:.2%}' for rank, share in shares.items()).replace('%', ' %')
    decides = [f'ViT-B/16: {each}', f'under 1 % in {under} of {len(ranks)} tasks; above it at rank 32']
    lora = study.runs[study.runs['method'] == cxr.LORA]
    for label, group in lora.groupby('model_label', sort=False):
        ends = (group['trainable'] / group['total']).agg(['min', 'max'])
        decides.append(f'{label} in this study: {ends["min"]:.2%} to {ends["max"]:.2%}'.replace('%', ' %'))
    return Verdict(verdict, tuple(decides), 'In a narrow network the same rank is a larger share: compare ranks there.')


@claim('auroc_80_6_on_nih_with_1_percent', 'AUROC of 80.6 % on NIH ChestX-ray14 with 1 % of its labels.')
def auroc_80_6_on_nih_with_1_percent(study: Study) -> Verdict:
    """Only NIH ChestX-ray14 itself with the authors' list of 785 training images answers. The better model's LoRA: its
    95 % bootstrap interval over patients holds 80.6 or lies above it (reproduced); its AUROC is within a point
    (consistent)."""
    one = study.chosen[(study.chosen['method'] == cxr.LORA) & (study.chosen['fraction'] == 0.01)]
    near = one[one['data'] == cxr.DATASETS['nih_chestxray14']]
    real = near[~near['synthetic'].astype(bool) & (near['train_images'] == LISTED)]
    if real.empty:
        instead = near.groupby(['dataset_label', 'model_label', 'train_images'], sort=False)['auroc'].mean()
        told = [f'instead: {d}, {m}, {n:.0f} images: {100 * value:.1f}' for (d, m, n), value in instead.items()]
        return Verdict(UNANSWERED, tuple(told), 'It needs the real images of the list and the published weights.')
    table = cxr.tasks(real)
    best = table.loc[table['lora'].idxmax()]
    words = f'LoRA on {best["model"]}: {cxr.points(best["lora"], (best["lora_low"], best["lora_high"]))}'
    if best['lora_high'] >= PAPER_AUROC:
        return Verdict(REPRODUCED, (words,))
    return Verdict(CONSISTENT if best['lora'] >= PAPER_AUROC - 0.01 else NOT, (words,))


def answers(records: pd.DataFrame) -> dict[str, Verdict]:
    """The verdict on every claim of the second paper, by its name."""
    study = Study(records)
    return {name: claim.answer(study) for name, claim in CLAIMS.items()}


def _notes(records: pd.DataFrame, chosen: pd.DataFrame) -> list[str]:
    notes = cxr.describe(records, chosen)
    if len(chosen) and chosen['synthetic'].any():
        notes.append(
            'The images are synthetic: these verdicts show that the pipeline answers, and say nothing about medicine.'
        )
    if len(chosen) and chosen['model_label'].str.contains('mini').any():
        notes.append('Small models and small images: a verdict holds for them, not for the networks of the paper.')
    return [*notes, f'{cxr.CITATION}. Intervals over patients and t intervals over seeds are told apart in each line.']


@renderer('cxr_claims', TITLE, 'Which claims of the second paper are reproduced?')
def cxr_claims(records: pd.DataFrame, f1: str = 'weighted') -> ClaimsPage:
    """The four claims of Lian et al. 2024, each answered or marked as one that these records cannot answer."""
    chosen, rows = cxr.one_rank(cxr.runs(records)), []
    for name, answer in answers(records).items():
        claim = CLAIMS[name]
        row = {'name': name, 'claim': claim.text, 'where': claim.where, 'verdict': answer.verdict}
        rows.append(row | {'decides': '\n'.join(answer.decides), 'rule': claim.rule, 'caveat': answer.caveat})
    return ClaimsPage(
        name='cxr_claims',
        title=TITLE + (', synthetic images' if len(chosen) and chosen['synthetic'].any() else ''),
        columns=COLUMNS,
        rows=[printed_row(row) for row in rows],
        notes=_notes(records, chosen),
        data=pd.DataFrame(rows),
        sections=tuple(section(row) for row in rows),
        left=True,
    )
