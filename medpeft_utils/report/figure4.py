"""Figure 4 and its page: what makes PEFT look better? The gain over full fine-tuning by head, steps and data size."""

from __future__ import annotations

import pandas as pd

from medpeft_utils.report import provenance, scores, style
from medpeft_utils.report.claims import CONSEQUENCE, Answer, Claims, Part
from medpeft_utils.report.inference import Sample
from medpeft_utils.report.output import Figure, Nothing, Output, numbers, renderer
from medpeft_utils.report.style import bar, legend, sheet

PAGE = 'What makes PEFT look better? The head, the steps, or the method'
HEADS = {  # name in the records: what it is, its place in the palette, marker
    'tied': ('tied to the body', 3, 's'),
    'own': ('rate of its own', 0, 'o'),
    'probe': ('own, starts from the probe', 2, 'D'),
}
METHODS = ('LoRA', 'BitFit')
CELLS = ['encoder', 'data', 'fraction', 'steps', 'head']
DRAWN = (
    'Above: score of full fine-tuning. Beneath: gain of each method over full fine-tuning under the same head and as '
    'many steps, paired; bars of 95 %; band: no difference of consequence (2 points).'
)
BARS = 'Bars: 95 % intervals. Grey: no difference of consequence (2 points).'


def protocol_scores(records: pd.DataFrame, f1: str = 'weighted') -> pd.DataFrame:
    """The runs of Figure 4: `scores.run_scores` of its experiment, that say their head and steps."""
    chosen = scores.run_scores(records[records['experiment'] == scores.PROTOCOL], f1)
    return chosen[chosen['head'].isin(HEADS) & chosen['steps'].notna()].drop(columns='second').reset_index(drop=True)


class Study:
    """Gains over full fine-tuning by encoder, data, fraction, steps, head and method."""

    def __init__(self, records: pd.DataFrame, f1: str = 'weighted'):
        self.chosen = protocol_scores(records, f1)
        self.methods = scores.in_order(set(self.chosen['method']) - {scores.FULL}, METHODS)
        self.gains = {method: scores.gains_by(self.chosen, method, by=CELLS) for method in self.methods}

    def changes(self, axis: str, of: object, to: object) -> list[tuple[str, Sample]]:
        """Gains in the cells where `axis` is `of` minus those where it is `to`, all else equal; with what each is."""
        place, found = CELLS.index(axis), []
        for method, gains in self.gains.items():
            for key, gain in gains.items():
                other = (*key[:place], to, *key[place + 1 :])
                if key[place] == of and other in gains:
                    found.append((self.words(method, key, without=axis), gain - gains[other]))
        return found

    @staticmethod
    def words(method: str, key: tuple, without: str = '') -> str:
        """A cell in words: 'LoRA, HAM10000 10 %, 300 steps, own head'."""
        _, data, fraction, steps, head = key
        told = {'steps': f'{steps:,.0f} steps', 'head': f'{head} head'}
        return ', '.join([method, f'{data} {100 * fraction:g} %', *(w for n, w in told.items() if n != without)])


CLAIMS = Claims(Study)
OURS = 'our question'


@CLAIMS.claim('PEFT looks better when body and head share one rate.', OURS)
def better_by_a_tied_head(study: Study) -> Answer:
    """The gain over full FT with a tied head minus that with a head of its own, at each data size and number of steps,
    paired."""
    return Answer([Part(what, one.interval()) for what, one in study.changes('head', 'tied', 'own')])


@CLAIMS.claim('PEFT looks better in short training.', OURS)
def better_by_short_training(study: Study) -> Answer:
    """The gain over full FT with the fewest steps minus that with the most, with a head of its own, paired."""
    steps = sorted(study.chosen['steps'].unique())
    if len(steps) < 2:
        return Answer()
    parts = [(what, one) for what, one in study.changes('steps', steps[0], steps[-1]) if 'own head' in what]
    return Answer([Part(what, one.interval()) for what, one in parts])


@CLAIMS.claim('PEFT is better under a head of its own and enough steps.', OURS)
def better_under_equal_heads(study: Study) -> Answer:
    """The gain over full FT with a head of its own and the most steps, at each data size, paired."""
    if study.chosen.empty:
        return Answer()
    most = study.chosen['steps'].max()
    return Answer(
        [
            Part(study.words(method, key), one.interval())
            for method, gains in study.gains.items()
            for key, one in gains.items()
            if key[3] == most and key[4] == 'own'
        ]
    )


@renderer('protocol', PAGE, 'Which conclusions about PEFT are made by the protocol?')
def protocol(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """The page of Figure 4: each effect with its verdict and interval."""
    chosen = protocol_scores(records, f1)
    if chosen.empty:
        return Nothing(notes=['No run varies head and steps.'])
    notes = [*provenance.describe(records, chosen, f1), *_protocol(chosen, f1)]
    return CLAIMS.page(records, f1, notes, chosen)


def _protocol(chosen: pd.DataFrame, f1: str) -> list[str]:
    """What of the protocol itself favours a method: how rates are searched, and by which score they are chosen."""
    notes = [
        'Rates are searched by successive halving, which stops trials that start slowly: it favours methods and rates '
        'that learn fast.'
    ]
    by = sorted({one for one in chosen['selection'] if one})
    if by and by != [f'f1_{f1}']:
        words = ' or '.join(provenance.score_name(one) for one in by)
        notes.append(f'Rates and steps are chosen by {words} on validation, while {f1} F1 is reported here.')
    return notes


# ---- the figure


def _look(head: str) -> dict[str, object]:
    words, place, marker = HEADS[head]
    return {'color': style.palette()[place], 'marker': marker, 'label': words, 'markeredgecolor': 'white'}


def _lines(axes, found: dict[tuple[float, str], object], steps: list[float]) -> None:
    """A line for each head over steps, from {(steps, head): Interval}, with its bars, side by side."""
    for place, head in enumerate(HEADS):
        have = [n for n in steps if (n, head) in found]
        if not have:
            continue
        look = _look(head)
        x = [n * (1 + 0.06 * (place - 1)) for n in have]
        axes.plot(x, [100 * found[n, head].value for n in have], markeredgewidth=0.5, zorder=4, **look)
        for at, n in zip(x, have, strict=True):
            bar(axes, at, 100 * found[n, head].low, 100 * found[n, head].high, look['color'])
    axes.set_xscale('log')
    axes.set_xticks(steps, [f'{n:,.0f}' for n in steps])
    axes.minorticks_off()
    axes.set_xlim(steps[0] / 1.4, steps[-1] * 1.4)


def _numbers(study: Study) -> pd.DataFrame:
    rows = []
    for method, gains in study.gains.items():
        for key, one in gains.items():
            found = one.interval()
            row = dict(zip(CELLS, key, strict=True)) | {'method': method, 'gain': found}
            rows.append(row | {'seeds': found.seeds, 'groups': found.groups, 'over': found.over})
    means = scores.summarise(study.chosen, [*CELLS, 'method']).rename(columns={'mean': 'f1', 'low': 'f1_low'})
    means = means.rename(columns={'high': 'f1_high'}).drop(columns=['over', 'seeds'])
    return means.merge(numbers(rows), on=[*CELLS, 'method'], how='left')


@renderer(
    'figure4',
    'Figure 4: what makes PEFT look better?',
    'Is the gain of PEFT its own, or that of the head, or of short training?',
)
def figure4(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Figure 4: full FT's score and the gains over it against steps, a line a head, a column a data size."""
    study = Study(records, f1)
    chosen = study.chosen
    if chosen.empty or not study.methods:
        return Nothing(notes=['No run varies head and steps.'])
    first = chosen.groupby(['encoder', 'data']).size().idxmax()  # of several networks the one with most runs is drawn
    here = chosen[(chosen['encoder'] == first[0]) & (chosen['data'] == first[1])]
    fractions, steps = sorted(here['fraction'].unique()), sorted(here['steps'].unique())
    notes = provenance.describe(records, here, f1)
    width = max(2.2, 5.0 / len(fractions))
    figure, axes = sheet(1 + len(study.methods), len(fractions), width, 1.9, sharex=True, sharey='row')
    for column, fraction in enumerate(fractions):
        cells = here[(here['fraction'] == fraction) & (here['method'] == scores.FULL)]
        full = {key: scores.sample(rows).interval() for key, rows in cells.groupby(['steps', 'head'])}
        _lines(axes[0, column], full, steps)
        images = here[here['fraction'] == fraction]['train_images'].max()
        axes[0, column].set_title(f'{100 * fraction:g} %: {images:,.0f} images')
        for axis, method in zip(axes[1:, column], study.methods, strict=True):
            gains = study.gains[method]
            of = {k[3:]: one.interval() for k, one in gains.items() if k[:3] == (*first, fraction)}
            axis.axhspan(-100 * CONSEQUENCE, 100 * CONSEQUENCE, color=style.PALE, alpha=0.35, linewidth=0, zorder=0)
            axis.axhline(0, color=style.INK, linewidth=0.8, zorder=1)
            _lines(axis, of, steps)
        axes[-1, column].set_xlabel('training steps')
    axes[0, 0].set_ylabel(f'full FT\n{f1} F1, points')
    for axis, method in zip(axes[1:, 0], study.methods, strict=True):
        axis.set_ylabel(f'{method} minus full FT\npoints')
    legend(figure, axes[0, :1], title="the head's learning rate")
    about = f'{here["backbone_label"].iloc[0]} on {first[1]}.'
    return Figure(
        synthetic=provenance.is_synthetic(here),
        figure=figure,
        footer=[BARS, *notes],
        notes=[about, *notes, DRAWN, *_protocol(here, f1), 'Verdicts on each effect are in protocol.md.'],
        data=_numbers(study),
    )
