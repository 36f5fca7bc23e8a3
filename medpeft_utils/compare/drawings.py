"""The figures of a comparison's page, as SVG: scores and differences with their intervals, and learning curves."""

from __future__ import annotations

import io
from collections.abc import Sequence

from medpeft_utils.compare.answer import BETTER, SCORE, WORSE, Answer, Growth, negative
from medpeft_utils.report import style
from medpeft_utils.report.inference import Interval

ROW, MARGIN = 0.34, 0.95  # inches: of a method, and of axes and titles
DETECTED, COLOURS = '#b3432b', ('#0072b2', '#d55e00', '#009e73', '#cc79a7')  # the last from Okabe and Ito 2008


def svg(figure) -> str:
    """A matplotlib figure as an SVG element, the same bytes every time."""
    import matplotlib

    content = io.StringIO()
    with matplotlib.rc_context({'svg.hashsalt': 'medpeft', 'svg.fonttype': 'path'}):
        figure.savefig(content, format='svg', bbox_inches='tight', pad_inches=0.05, metadata={'Date': None})
    text = content.getvalue()
    return text[text.index('<svg') :]


def scores(answer: Answer) -> list[str]:
    """Two panels: each method's score on the test split, and its difference from the chosen one."""
    names = [one.label for one in answer.candidates]
    colours = [style.INK, *(DETECTED if r.verdict in (WORSE, BETTER) else style.GREY for r in answer.relations)]
    differences = [Interval(0.0), *(negative(relation.lead) for relation in answer.relations)]
    panels = (
        ([one.score for one in answer.candidates], SCORE, 'Score with its 95 % interval'),
        (differences, f'difference in {SCORE}', f'Difference from {answer.chosen.label} (intervals hold together)'),
    )
    return [_panel(found, names, colours, words, title) for found, words, title in panels]


def _panel(found: Sequence[Interval], names: Sequence[str], colours: Sequence[str], words: str, title: str) -> str:
    with style.drawing():
        figure = style.new_figure(4.4, ROW * len(names) + MARGIN)
        axes = figure.subplots()
        if words != SCORE:
            axes.axvline(0, color=style.INK, linewidth=0.8)
        for row, (one, colour) in enumerate(zip(found, colours, strict=True)):
            axes.plot([one.low, one.high], [row, row], color=colour, linewidth=2, solid_capstyle='butt')
            axes.plot([one.value], [row], marker='o', color=colour, markersize=6)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=False, axis='y')
        axes.set(xlabel=f'{words}, test split', title=title)
        axes.tick_params(axis='x', labelsize=8)
        figure.tight_layout()
        return svg(figure)


def curves(growths: Sequence[Growth]) -> str:
    """The score of each method over the number of training images, with its band."""
    with style.drawing():
        figure = style.new_figure(6.0, 3.2)
        axes = figure.subplots()
        for number, one in enumerate(growths):
            colour, found = COLOURS[number % len(COLOURS)], list(one.scores.values())
            apart = 1 + 0.03 * (number - (len(growths) - 1) / 2)  # side by side, where two curves are nearly one
            images = [apart * count for count in one.scores]
            axes.plot(images, [p.value for p in found], label=one.label, color=colour, marker='os^D'[number % 4])
            low, high = [p.low for p in found], [p.high for p in found]
            axes.fill_between(images, low, high, color=colour, alpha=0.15, linewidth=0)
        ticks = sorted({count for one in growths for count in one.scores})
        axes.set_xscale('log')
        axes.set_xticks(ticks, [f'{count:,}' for count in ticks])
        axes.minorticks_off()
        axes.set(xlabel='training images', ylabel=f'{SCORE}, test split')
        axes.legend(frameon=False, fontsize=8)
        figure.tight_layout()
        return svg(figure)
