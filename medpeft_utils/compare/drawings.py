"""The figures of a comparison's page, as SVG: scores and differences with their intervals, and learning curves."""

from __future__ import annotations

import io
from collections.abc import Sequence

from medpeft_utils.compare.answer import UNDETECTED, Answer, Growth
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


def _bars(axes, found: Sequence[Interval], colours: Sequence[str], names: Sequence[str]) -> None:
    for row, (one, colour) in enumerate(zip(found, colours, strict=True)):
        if one.known:
            axes.plot([one.low, one.high], [row, row], color=colour, linewidth=2, solid_capstyle='butt')
        axes.plot([one.value], [row], marker='o', color=colour, markersize=6)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis='y')


def scores(answer: Answer, score: str) -> list[str]:
    """Two panels: each method's score on the test split, and its difference from the chosen one."""
    every = [answer.chosen, *(relation.other for relation in answer.relations)]
    colours = [style.INK, *(style.GREY if r.verdict == UNDETECTED else DETECTED for r in answer.relations)]
    differences = [Interval(0.0), *(Interval(-r.lead.value, -r.lead.high, -r.lead.low) for r in answer.relations)]
    panels = []
    for found, words, title in (
        ([one.score for one in every], score, 'Score with its 95 % interval'),
        (differences, f'difference in {score}', f'Minus {answer.chosen.label} (intervals hold together)'),
    ):
        with style.drawing():
            figure = style.new_figure(4.4, ROW * len(every) + MARGIN)
            axes = figure.subplots()
            if found is differences:
                axes.axvline(0, color=style.INK, linewidth=0.8)
            _bars(axes, found, colours, [one.label for one in every])
            axes.set(xlabel=f'{words}, test split', title=title)
            axes.tick_params(axis='x', labelsize=8)
            figure.tight_layout()
            panels.append(svg(figure))
    return panels


def curves(growths: Sequence[Growth], score: str) -> str:
    """The score of each method over the number of training images, with its band."""
    with style.drawing():
        figure = style.new_figure(6.0, 3.2)
        axes = figure.subplots()
        for number, one in enumerate(growths):
            shares, colour = sorted(one.scores), COLOURS[number % len(COLOURS)]
            apart = 1 + 0.03 * (number - (len(growths) - 1) / 2)  # side by side, where two curves are nearly one
            images, found = [apart * one.images[share] for share in shares], [one.scores[share] for share in shares]
            axes.plot(images, [p.value for p in found], label=one.label, color=colour, marker='os^D'[number % 4])
            low, high = [p.low for p in found], [p.high for p in found]
            axes.fill_between(images, low, high, color=colour, alpha=0.15, linewidth=0)
        ticks = sorted({count for one in growths for count in one.images.values()})
        axes.set_xscale('log')
        axes.set_xticks(ticks, [f'{count:,}' for count in ticks])
        axes.minorticks_off()
        axes.set(xlabel='training images', ylabel=f'{score}, test split')
        axes.legend(frameon=False, fontsize=8)
        figure.tight_layout()
        return svg(figure)
