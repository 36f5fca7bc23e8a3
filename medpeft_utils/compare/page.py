"""The page of a comparison: written down once as sections; then text, Markdown, or one HTML file without a network.

A block shows itself as text and as Markdown; `page.html` shows it as HTML, by its `kind`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

WIDTH = 100  # columns of the terminal
TEMPLATE = Path(__file__).with_name('page.html')

_wrapped = partial(textwrap.fill, width=WIDTH, break_long_words=False, break_on_hyphens=False)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r'([\\`*_|<>#$\[\]])', r'\\\1', text)


@dataclass(frozen=True)
class Words:
    """A paragraph; `strong` for what a reader should see first."""

    kind: ClassVar = 'words'
    content: str
    strong: bool = False

    def text(self) -> str:
        return _wrapped(self.content)

    def markdown(self) -> str:
        return f'**{_escaped(self.content)}**' if self.strong else _escaped(self.content)


@dataclass(frozen=True)
class Listed:
    """Lines that belong together, each on its own."""

    kind: ClassVar = 'listed'
    lines: Sequence[str]

    def text(self) -> str:
        return '\n'.join(_wrapped(line, initial_indent='  ', subsequent_indent='      ') for line in self.lines)

    def markdown(self) -> str:
        return '\n'.join(f'- {_escaped(line)}' for line in self.lines)


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column to the left, the others to the right, or to the left where they are prose."""

    kind: ClassVar = 'table'
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    prose: bool = False

    def text(self) -> str:
        columns = zip(self.header, *self.rows, strict=True)
        padded = [[cell.rjust(max(map(len, cells))) for cell in cells] for cells in columns]
        padded[0] = [cell.strip().ljust(len(cell)) for cell in padded[0]]
        return '\n'.join(f'  {"  ".join(row).rstrip()}' for row in zip(*padded, strict=True))

    def markdown(self) -> str:
        rule = ['---', *['---' if self.prose else '---:'] * (len(self.header) - 1)]
        rows = [map(_escaped, self.header), rule, *(map(_escaped, row) for row in self.rows)]
        return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


@dataclass(frozen=True)
class Drawing:
    """The panels of a figure as SVG, with what it shows in words for those who do not see it; in HTML alone."""

    kind: ClassVar = 'drawing'
    panels: Sequence[str]
    caption: str

    def text(self) -> str:
        return ''

    markdown = text


Block = Words | Listed | Table | Drawing


@dataclass
class Section:
    """A heading with its blocks; `short` ones are shown in the terminal, and those not `open` in HTML by a click."""

    title: str
    blocks: list[Block] = field(default_factory=list)
    short: bool = False
    open: bool = False


@dataclass
class Page:
    """A title and its sections."""

    title: str
    sections: list[Section]

    def text(self) -> str:
        """For a terminal: the short sections."""
        parts = [self.title]
        for section in self.sections:
            if section.short:
                parts += [f'\n{section.title}', *(block.text() for block in section.blocks)]
        return '\n'.join(filter(None, parts))

    def markdown(self) -> str:
        """All but the drawings."""
        parts = [f'# {_escaped(self.title)}']
        for section in self.sections:
            parts += [f'## {section.title}', *(block.markdown() for block in section.blocks)]
        return '\n\n'.join(filter(None, parts)) + '\n'

    def html(self) -> str:
        """One file: styles and drawings are in it."""
        import jinja2

        template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        return template.from_string(TEMPLATE.read_text()).render(title=self.title, sections=self.sections)
