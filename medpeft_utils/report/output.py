"""The registry of figures and tables, and what they are: each shows itself in a notebook and saves itself.

    @renderer('table7', 'Time and memory', 'What does each method cost?')
    def table7(records, f1): ...        # -> Table or Figure; Nothing, where no record bears on it

One decorated function is all that a new one costs; a module of this folder that declares one is found by itself.
"""

from __future__ import annotations

import html
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, wraps
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import pandas as pd

import medpeft_utils
from medpeft_utils.core.registry import Registry
from medpeft_utils.report import source, style
from medpeft_utils.report.inference import Interval

if TYPE_CHECKING:
    import matplotlib.figure
    from pandas.io.formats.style import Styler

MISSING = '-'
SOFTWARE = f'medpeft {medpeft_utils.__version__}'  # on every page
KINDS = 'svg', 'png', 'pdf', 'csv', 'md', 'tex'
_LATEX = str.maketrans(
    {letter: f'\\{letter}' for letter in '&%_#${}'}
    | {'\\': r'\textbackslash{}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}', '–': '--', '\n': ' '}
    | {'±': r'$\pm$', '×': r'$\times$', '²': r'$^2$', '>': r'$>$', '<': r'$<$', '≥': r'$\geq$', '≤': r'$\leq$'}
    | {'χ': r'$\chi$', '✓': r'$\checkmark$', '−': r'$-$', '·': r'$\cdot$', '△': r'$\triangle$'}
)


def latex_text(text: str) -> str:
    """Text with what LaTeX would misread escaped."""
    return str(text).translate(_LATEX)


def _markdown_text(text: str) -> str:
    return str(text).replace('|', '\\|').replace('\n', '<br>')


def _markdown_table(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = ['| ' + ' | '.join(columns) + ' |', '| --- ' * len(columns) + '|']
    return lines + ['| ' + ' | '.join(map(str, row)) + ' |' for row in rows]


def write_pictures(folder: Path, name: str, figure: matplotlib.figure.Figure, kind: str = 'svg') -> list[Path]:
    """Write a figure as `kind` and as PDF; the same numbers give the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f'{name}.{kind}', folder / f'{name}.pdf']
    nameless = {'svg': {'Date': None, 'Creator': None}, 'png': {'Software': None}}
    with style.drawing():
        figure.savefig(paths[0], dpi=200, metadata=nameless[kind])
        figure.savefig(paths[1], metadata={'CreationDate': None, 'Producer': None, 'Creator': None})
    return paths


def numbers(rows: Sequence[Mapping]) -> pd.DataFrame:
    """Rows as a table of numbers: an `Interval` under 'gain' becomes the columns gain, gain_low and gain_high."""
    flat = []
    for row in rows:
        flat.append({})
        for name, value in row.items():
            several = isinstance(value, Interval)
            ends = {f'{name}_low': value.low, f'{name}_high': value.high} if several else {}
            flat[-1] |= {name: value.value if several else value} | ends
    return pd.DataFrame(flat)


@dataclass(frozen=True, kw_only=True)
class Output:
    """What tables and figures share.

    Args:
        notes: which data, backbone, seeds and runs; what is missing; which rules were followed.
        data: the numbers unrounded, one row a cell, written as CSV; rows as for `numbers`, or a frame.
        further: more of those by suffix: 'f1_macro' is written as `<name>_f1_macro.csv`.
        synthetic: whether images are; the title says so.
        name: the stem of its files, such as 'table2'; the renderer's, as the title is.
        title: one line.
    """

    notes: Sequence[str]
    data: pd.DataFrame = field(default_factory=pd.DataFrame)
    further: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    synthetic: bool = False
    name: str = ''
    title: str = ''

    def __post_init__(self):
        if not isinstance(self.data, pd.DataFrame):
            object.__setattr__(self, 'data', numbers(self.data))

    def markdown(self) -> str:
        raise NotImplementedError

    def latex(self) -> str:
        raise NotImplementedError

    def save(self, folder: Path | str) -> list[Path]:
        """Write CSV, Markdown and LaTeX into the folder; give back the paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        data = {self.name: self.data} | {f'{self.name}_{suffix}': more for suffix, more in self.further.items()}
        for name, numbers_ in data.items():
            numbers_.to_csv(folder / f'{name}.csv', index=False, float_format='%.6g', lineterminator='\n')
        texts = {
            f'{self.name}.md': f'{self.markdown()}\nDrawn by {SOFTWARE}.\n',
            f'{self.name}.tex': f'% drawn by {SOFTWARE}\n{self.latex()}',
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding='utf-8')
        return [folder / name for name in (*(f'{name}.csv' for name in data), *texts)]


@dataclass(frozen=True)
class Row:
    """One row of a table: its headings, its cells as text, which of them are best, and whether it is in grey."""

    heads: tuple[str, ...]
    cells: Sequence[str]
    best: Sequence[bool] = ()
    muted: bool = False


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

    def styled(self) -> Styler:
        """The table for a notebook: best in bold, the paper's rows in grey, groups ruled off."""
        css = np.where(self.bold, 'font-weight: bold;', '').astype(object)
        for number, row in enumerate(self.rows):
            css[number] += f'color: {style.GREY};' if row.muted else ''
            if number and row.heads[0] != self.rows[number - 1].heads[0]:
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
        rows = (
            [f'**{_markdown_text(c)}**' if b else _markdown_text(c) for c, b in zip(row, bold, strict=True)]
            for row, bold in zip(self.frame.to_numpy(), self.bold, strict=True)
        )
        lines = [f'**{self.title}**', '', *(f'{line}\n' for line in self.top), *_markdown_table(self.columns, rows)]
        return '\n'.join([*lines, '', *(f'{note}  ' for note in self.notes), ''])

    def latex(self) -> str:
        """The table for LaTeX (packages booktabs and amssymb), notes in its caption."""
        frame = self.frame.map(latex_text).set_axis([latex_text(column) for column in self.columns], axis=1)
        text = len(self.columns) if self.left else self.heads
        weight = np.where(self.bold, 'textbf:--rwrap;', '')
        styler = frame.style.apply(lambda _: weight, axis=None).hide(axis='index')
        return styler.to_latex(
            column_format='l' * text + 'c' * (len(self.columns) - text),
            hrules=True,
            position_float='centering',
            caption=latex_text(' '.join([self.title.rstrip('.') + '.', *self.top, *self.notes])),
            label=f'tab:{self.name}',
        )


@dataclass(frozen=True, kw_only=True)
class Figure(Output):
    """A drawn figure, and the numbers that are drawn.

    Args:
        figure: drawn by matplotlib.
        footer: sentences for its two lines at the bottom, the most needed first.
        kind: of its file, 'svg', or 'png' where it is made of pictures.
    """

    figure: matplotlib.figure.Figure
    footer: Sequence[str] = ()
    kind: str = 'svg'

    def save(self, folder: Path | str) -> list[Path]:
        """As every output, with the picture as SVG (or PNG, 200 dpi) for pages and as PDF for LaTeX."""
        return [*write_pictures(Path(folder), self.name, self.figure, self.kind), *super().save(folder)]

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        with style.drawing():
            self.figure.savefig(buffer, format='png', dpi=130)
        return buffer.getvalue()

    def markdown(self) -> str:
        """The figure's picture, notes and numbers in Markdown."""
        shown = self.data.map(lambda value: f'{value:.4g}' if isinstance(value, float) else _markdown_text(value))
        lines = [f'**{self.title}**', '', f'![{self.title}]({self.name}.{self.kind})', '']
        lines += [*(f'{note}  ' for note in self.notes), '']
        return '\n'.join([*lines, *_markdown_table(shown.columns, shown.replace('nan', MISSING).to_numpy()), ''])

    def latex(self) -> str:
        """The figure for LaTeX, notes in its caption."""
        caption = latex_text(' '.join([self.title.rstrip('.') + '.', *self.notes]))
        include = f'\\includegraphics[width=\\linewidth]{{{self.name}.pdf}}'
        lines = ['\\begin{figure}', '\\centering', include, f'\\caption{{{caption}}}', f'\\label{{fig:{self.name}}}']
        return '\n'.join([*lines, '\\end{figure}', ''])


@dataclass(frozen=True, kw_only=True)
class Nothing(Output):
    """What a renderer gives back where no record bears on it: it says so in a notebook, and no file is written."""

    def markdown(self) -> str:
        """Title and notes."""
        return '\n\n'.join([f'**{self.title}**', *self.notes]) + '\n'

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def save(self, folder: Path | str) -> list[Path]:
        """Write nothing, and remove what an earlier report wrote under this name."""
        others = tuple(name for name in RENDERERS if name.startswith(f'{self.name}_'))  # figure1_crossover is no part
        further = [path for path in Path(folder).glob(f'{self.name}_*.csv') if not path.stem.startswith(others or '/')]
        for path in (*further, *(Path(folder, f'{self.name}.{kind}') for kind in KINDS)):
            path.unlink(missing_ok=True)
        return []


# ---- the registry


@dataclass(frozen=True)
class Renderer:
    """A figure or table: its name (the stem of its files), title, the question it answers, and what draws it.

    `draw(records, f1)` takes the records of a study (`paper.records()` for the paper's own numbers) and the average of
    F1: 'weighted', 'macro' or 'micro'. The paper's numbers it takes from `medpeft_utils.report.paper`.
    """

    name: str
    title: str
    question: str
    draw: Callable[[pd.DataFrame, str], Output]


RENDERERS: Registry[Renderer] = Registry('figure or table', 'list(medpeft_utils.report.RENDERERS)')


def renderer(name: str, title: str, question: str):
    """Register a function (records, f1) -> Table, Figure or Nothing under a name; name and title become its own."""

    def register(draw: Callable[[pd.DataFrame, str], Output]) -> Callable[[pd.DataFrame, str], Output]:
        @wraps(draw)
        def named(records: pd.DataFrame, f1: str = 'weighted') -> Output:
            with style.drawing():
                output = draw(records, f1)
                if isinstance(output, Figure):
                    style.footer(output.figure, output.footer, output.synthetic)
            return replace(output, name=name, title=title + (', synthetic images' if output.synthetic else ''))

        RENDERERS.register(name, Renderer(name, title, question, named))
        return named

    return register


@cache
def discovered() -> Registry[Renderer]:
    """Every renderer of the folder."""
    import medpeft_utils.report

    for module in sorted(module.name for module in pkgutil.iter_modules(medpeft_utils.report.__path__)):
        importlib.import_module(f'medpeft_utils.report.{module}')
    return RENDERERS


def render(name: str, records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """Draw one figure or table. Raises UnknownName where there is none of that name."""
    return discovered()[name].draw(records, f1)


def draw(profile: str, results: Path, figures: Path, names: Sequence[str]) -> None:
    """Draw these figures and tables of PROFILE into figures/PROFILE, and name each file that shows one."""
    for name in names:
        discovered()[name]
    found = source.load(profile, results / profile, figures / profile)
    for name in names:
        output = render(name, found)
        output.save(figures / profile)
        shown = figures / profile / f'{name}.{output.kind if isinstance(output, Figure) else "md"}'
        click.echo(f'{name}: {" ".join(output.notes)}' if isinstance(output, Nothing) else f'{shown} drawn')
