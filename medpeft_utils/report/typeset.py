"""A table drawn as a figure: rules above, below and under the heading, the paper's rows in grey, the best in bold."""

from __future__ import annotations

import textwrap

from medpeft_utils.report import style

SIZE, LINE, GAP, PAD = 7.5, 0.14, 0.06, 0.16  # points; inches a line, between rows, between columns
BREAK_ABOVE = 14  # characters in a heading


def _heading(text: str) -> str:
    return '\n'.join(textwrap.wrap(text, 12)) if len(text) > BREAK_ABOVE else text


def _shown(frame, heads: int) -> list[list[str]]:
    """The cells with a row heading left empty where it and all to its left repeat the row above."""
    rows, above = [], []
    for values in frame.astype(str).to_numpy().tolist():
        same = 0
        while same < heads - 1 and above and values[: same + 1] == above[: same + 1]:
            same += 1
        rows.append([''] * same + values[same:])
        above = values
    return rows


def _widths(figure, cells: list[list[str]], bold: list[list[bool]]) -> list[float]:
    """The width in inches that each column needs."""
    from matplotlib.font_manager import FontProperties

    renderer = figure.canvas.get_renderer()
    fonts = {strong: FontProperties(size=SIZE, weight='bold' if strong else 'normal') for strong in (True, False)}
    widths = [0.0] * len(cells[0])
    for number, row in enumerate(cells):
        for column, text in enumerate(row):
            font = fonts[number == 0 or bold[number - 1][column]]
            for line in text.split('\n'):
                width = renderer.get_text_width_height_descent(line, font, ismath=False)[0]
                widths[column] = max(widths[column], 1.03 * width / figure.dpi)  # hinting differs with the resolution
    return widths


def draw(table):
    """A Figure of a `Table`, with its title above and its notes beneath."""
    with style.drawing():
        figure = style.new_figure(1, 1)
        header = [c if n < table.heads else _heading(c) for n, c in enumerate(table.frame.columns)]
        cells = [header, *_shown(table.frame, table.heads)]
        bold = table.bold.tolist()
        widths = _widths(figure, cells, bold)
        lines = [max(cell.count('\n') + 1 for cell in row) for row in cells]
        width = max(sum(widths) + PAD * (len(widths) + 1), 4.5)
        title = textwrap.wrap(table.title, int(width * 13))
        notes = [line for note in table.notes for line in textwrap.wrap(note, int(width * 17.5))]
        height = LINE * (sum(lines) + 1.5 * len(title) + 0.8 * len(notes)) + GAP * (len(lines) + len(table.rules)) + 0.3
        figure.set_size_inches(width, height)
        _fill(figure, table, cells, bold, widths, lines, title, notes)
    return figure


def _fill(figure, table, cells, bold, widths, lines, title, notes) -> None:
    width, height = figure.get_size_inches()
    spare = (width - PAD * (len(widths) + 1) - sum(widths)) / len(widths)
    lefts = [PAD + sum(widths[:i]) + (PAD + spare) * i for i in range(len(widths))]

    def write(x, y, text, **how):
        for number, line in enumerate(text.split('\n')):
            figure.text(x / width, (y - LINE * number) / height, line, **{'size': SIZE, 'va': 'baseline', **how})

    def rule(y, weight=0.5, colour=style.GREY):
        ends = [PAD / 2 / width, 1 - PAD / 2 / width]
        figure.add_artist(_line(ends, [y / height] * 2, weight, colour))

    y = height - 0.22
    write(PAD / 2, y, '\n'.join(title), size=SIZE + 1.5, weight='bold')
    y -= LINE * len(title) - 0.03
    rule(y, 1.0, style.INK)
    for number, row in enumerate(cells):
        if number == 1 or number - 1 in table.rules:
            rule(y - GAP / 2)
            y -= GAP
        colour = style.GREY if number - 1 in table.muted else style.INK
        for column, text in enumerate(row):
            strong = number == 0 or bold[number - 1][column]
            left = column < table.heads or table.left
            x = lefts[column] if left else lefts[column] + widths[column] / 2
            how = {'ha': 'left' if left else 'center', 'weight': 'bold' if strong else 'normal', 'color': colour}
            write(x, y - LINE, text, **how)
        y -= LINE * lines[number] + GAP
    rule(y - GAP / 2, 1.0, style.INK)
    for number, note in enumerate(notes):
        write(PAD / 2, y - GAP / 2 - LINE - 0.8 * LINE * number, note, size=SIZE - 1.3, color=style.GREY)


def _line(x, y, weight, colour):
    from matplotlib.lines import Line2D

    return Line2D(x, y, linewidth=weight, color=colour)
