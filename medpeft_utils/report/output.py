"""What a renderer gives back: a table or figure that shows itself in a notebook and saves itself; or nothing."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from medpeft_utils.report import style

if TYPE_CHECKING:
    import matplotlib.figure
    from pandas.io.formats.style import Styler

MISSING = '-'
_LATEX = {
    '\\': r'\textbackslash{}',
    '&': r'\&',
    '%': r'\%',
    '_': r'\_',
    '#': r'\#',
    '$': r'\$',
    '{': r'\{',
    '}': r'\}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '±': r'$\pm$',
    '×': r'$\times$',
    '²': r'$^2$',
    '>': r'$>$',
    '<': r'$<$',
    '≥': r'$\geq$',
    '≤': r'$\leq$',
    'χ': r'$\chi$',
    '✓': r'$\checkmark$',
    '−': r'$-$',
    '–': '--',
    '·': r'$\cdot$',
    '△': r'$\triangle$',
    '\n': ' ',
}


def latex_text(text: str) -> str:
    """Text with what LaTeX would misread escaped."""
    return ''.join(_LATEX.get(letter, letter) for letter in str(text))


def _markdown_text(text: str) -> str:
    return str(text).replace('|', '\\|').replace('\n', '<br>')


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding='utf-8')
    return path


def _write_csv(path: Path, data: pd.DataFrame) -> Path:
    data.to_csv(path, index=False, float_format='%.6g', lineterminator='\n')
    return path


def write_pictures(folder: Path, name: str, figure: matplotlib.figure.Figure, kind: str = 'svg') -> list[Path]:
    """Write a figure as `kind` and as PDF; the same numbers give the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f'{name}.{kind}', folder / f'{name}.pdf']
    nameless = {'svg': {'Date': None, 'Creator': None}, 'png': {'Software': None}}
    with style.drawing():
        figure.savefig(paths[0], dpi=200, metadata=nameless[kind])
        figure.savefig(paths[1], metadata={'CreationDate': None, 'Producer': None, 'Creator': None})
    return paths


@dataclass(frozen=True, kw_only=True)
class Output:
    """What tables and figures share.

    Args:
        name: the stem of its files, such as 'table2'.
        title: one line.
        notes: which data, backbone, seeds and runs; what is missing; which rules were followed.
        data: the numbers unrounded, one row a cell, written as CSV.
        further: more of those by suffix: 'f1_macro' is written as `<name>_f1_macro.csv`.
    """

    name: str
    title: str
    notes: Sequence[str]
    data: pd.DataFrame
    further: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def markdown(self) -> str:
        raise NotImplementedError

    def latex(self) -> str:
        raise NotImplementedError

    def save(self, folder: Path | str) -> list[Path]:
        """Write CSV, Markdown and LaTeX into the folder; give back the paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [_write_csv(folder / f'{self.name}.csv', self.data)]
        paths += [_write_csv(folder / f'{self.name}_{suffix}.csv', data) for suffix, data in self.further.items()]
        paths.append(_write(folder / f'{self.name}.md', self.markdown()))
        paths.append(_write(folder / f'{self.name}.tex', self.latex()))
        return paths


@dataclass(frozen=True)
class Row:
    """One row of a table: its headings, its cells as text, which of them are best, and how it stands out."""

    heads: tuple[str, ...]
    cells: Sequence[str]
    best: Sequence[bool] = ()
    muted: bool = False
    rule: bool = False


@dataclass(frozen=True, kw_only=True)
class Table(Output):
    """A table as it is printed, and the numbers behind it.

    Args:
        columns: the headings; the first `heads` of them head rows.
        rows: as printed; a missing cell is '-'.
        left: align cells to the left (text rather than numbers).
        top: sentences above the table, such as the smallest difference that it can show.
    """

    columns: Sequence[str]
    rows: Sequence[Row]
    left: bool = False
    top: Sequence[str] = ()

    @property
    def heads(self) -> int:
        return len(self.rows[0].heads) if self.rows else 1

    @property
    def frame(self) -> pd.DataFrame:
        """The table as text, headings of rows as its first columns."""
        return pd.DataFrame([[*row.heads, *row.cells] for row in self.rows], columns=list(self.columns), dtype=object)

    @property
    def bold(self) -> np.ndarray:
        """Where `frame` is printed in bold, as booleans of its shape."""
        return np.array([[False] * len(row.heads) + (list(row.best) or [False] * len(row.cells)) for row in self.rows])

    @property
    def muted(self) -> list[int]:
        return [number for number, row in enumerate(self.rows) if row.muted]

    @property
    def rules(self) -> list[int]:
        return [number for number, row in enumerate(self.rows) if row.rule]

    def styled(self) -> Styler:
        """The table for a notebook: best in bold, the paper's rows in grey, groups ruled off."""
        css = np.where(self.bold, 'font-weight: bold;', '').astype(object)
        for number in self.muted:
            css[number] += f'color: {style.GREY};'
        for number in self.rules:
            css[number] += f'border-top: 1px solid {style.GREY};'
        frame = self.frame.map(lambda text: html.escape(str(text)).replace('\n', '<br>'))
        styler = frame.style.apply(lambda _: css, axis=None).hide(axis='index')
        return styler.set_properties(**{'text-align': 'left', 'white-space': 'nowrap'})

    def _repr_html_(self) -> str:
        notes = '<br>'.join(html.escape(note) for note in self.notes)
        above = ''.join(f'<br>{html.escape(line)}' for line in self.top)
        return f'<b>{html.escape(self.title)}</b>{above}{self.styled().to_html()}<small>{notes}</small>'

    def markdown(self) -> str:
        """The table in Markdown, title above and notes beneath."""
        lines = [f'**{self.title}**', '', *(f'{line}\n' for line in self.top)]
        lines += ['| ' + ' | '.join(self.columns) + ' |', '| --- ' * len(self.columns) + '|']
        for row, bold in zip(self.frame.to_numpy(), self.bold, strict=True):
            cells = [f'**{_markdown_text(c)}**' if b else _markdown_text(c) for c, b in zip(row, bold, strict=True)]
            lines.append('| ' + ' | '.join(cells) + ' |')
        return '\n'.join([*lines, '', *(f'{note}  ' for note in self.notes), ''])

    def latex(self) -> str:
        """The table for LaTeX (packages booktabs and amssymb), notes in its caption."""
        frame = self.frame.map(latex_text).set_axis([latex_text(column) for column in self.columns], axis=1)
        weight = np.where(self.bold, 'textbf:--rwrap;', '')
        text = len(self.columns) if self.left else self.heads
        return (
            frame.style.apply(lambda _: weight, axis=None)
            .hide(axis='index')
            .to_latex(
                column_format='l' * text + 'c' * (len(self.columns) - text),
                hrules=True,
                position_float='centering',
                caption=latex_text(' '.join([self.title.rstrip('.') + '.', *self.top, *self.notes])),
                label=f'tab:{self.name}',
            )
        )


@dataclass(frozen=True, kw_only=True)
class Figure(Output):
    """A drawn figure, and the numbers that are drawn.

    Args:
        figure: drawn by matplotlib.
        kind: of its file, 'svg', or 'png' where it is made of pictures.
    """

    figure: matplotlib.figure.Figure
    kind: str = 'svg'

    def save(self, folder: Path | str) -> list[Path]:
        """As every output, with the picture as SVG (or PNG, 200 dpi) for pages and as PDF for LaTeX."""
        return [*write_pictures(Path(folder), self.name, self.figure, self.kind), *super().save(folder)]

    def _repr_png_(self) -> bytes:
        from io import BytesIO

        buffer = BytesIO()
        with style.drawing():
            self.figure.savefig(buffer, format='png', dpi=130)
        return buffer.getvalue()

    def markdown(self) -> str:
        """The figure's picture, notes and numbers in Markdown."""
        shown = self.data.map(lambda value: f'{value:.4g}' if isinstance(value, float) else _markdown_text(value))
        shown = shown.replace('nan', MISSING)
        lines = [
            f'**{self.title}**',
            '',
            f'![{self.title}]({self.name}.{self.kind})',
            '',
            *(f'{note}  ' for note in self.notes),
        ]
        lines += ['', '| ' + ' | '.join(shown.columns) + ' |', '| --- ' * len(shown.columns) + '|']
        lines += ['| ' + ' | '.join(map(str, row)) + ' |' for row in shown.to_numpy()]
        return '\n'.join([*lines, ''])

    def latex(self) -> str:
        """The figure for LaTeX, notes in its caption."""
        caption = latex_text(' '.join([self.title.rstrip('.') + '.', *self.notes]))
        include = f'\\includegraphics[width=\\linewidth]{{{self.name}.pdf}}'
        lines = ['\\begin{figure}', '\\centering', include, f'\\caption{{{caption}}}', f'\\label{{fig:{self.name}}}']
        return '\n'.join([*lines, '\\end{figure}', ''])


@dataclass(frozen=True, kw_only=True)
class Nothing(Output):
    """What a renderer gives back where no record bears on it: it says so in a notebook, and no file is written.

    Args:
        suffixes: of the further CSVs that the renderer writes where there is something.
    """

    data: pd.DataFrame = field(default_factory=pd.DataFrame)
    suffixes: Sequence[str] = ()

    def markdown(self) -> str:
        """Title and notes."""
        return '\n\n'.join([f'**{self.title}**', *self.notes]) + '\n'

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def save(self, folder: Path | str) -> list[Path]:
        """Write nothing, and remove what an earlier report wrote under this name."""
        names = [f'{self.name}.{kind}' for kind in ('svg', 'png', 'pdf', 'csv', 'md', 'tex')]
        for name in [*names, *(f'{self.name}_{suffix}.csv' for suffix in self.suffixes)]:
            Path(folder, name).unlink(missing_ok=True)
        return []
