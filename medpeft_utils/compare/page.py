"""The page of a comparison: written down once as sections; then text, Markdown, or one HTML file without a network."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH = 100  # columns of the terminal


@dataclass(frozen=True)
class Words:
    """A paragraph; `strong` for what a reader should see first."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Listed:
    """Lines that belong together, each on its own."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column to the left, the others to the right, or to the left where they are prose."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    prose: bool = False


@dataclass(frozen=True)
class Drawing:
    """The panels of a figure as SVG, with what it shows in words for those who do not see it."""

    panels: Sequence[str]
    caption: str


Block = Words | Listed | Table | Drawing


@dataclass
class Section:
    """A heading with its blocks; `short` ones are shown in the terminal, the others on the page alone."""

    title: str
    blocks: list[Block] = field(default_factory=list)
    short: bool = False


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
                parts += [f'\n{section.title}', *(_text(block) for block in section.blocks)]
        return '\n'.join(part for part in parts if part)

    def markdown(self) -> str:
        """All but the drawings."""
        parts = [f'# {_escaped(self.title)}']
        for section in self.sections:
            parts += [f'## {section.title}', *(_markdown(block) for block in section.blocks)]
        return '\n\n'.join(part for part in parts if part) + '\n'

    def html(self) -> str:
        """One file: styles and drawings are in it."""
        body = [f'<h1>{html.escape(self.title)}</h1>']
        for section in self.sections:
            inside = '\n'.join(_html(block) for block in section.blocks)
            if section.short:
                body.append(f'<section><h2>{html.escape(section.title)}</h2>\n{inside}</section>')
            else:
                body.append(f'<details><summary>{html.escape(section.title)}</summary>\n{inside}</details>')
        return _FRAME.format(title=html.escape(self.title), style=_STYLE, body='\n'.join(body))


def _text(block: Block) -> str:
    if isinstance(block, Words):
        return textwrap.fill(block.text, WIDTH, break_long_words=False, break_on_hyphens=False)
    if isinstance(block, Listed):
        return '\n'.join(
            textwrap.fill(line, WIDTH, initial_indent='  ', subsequent_indent='      ', break_on_hyphens=False)
            for line in block.lines
        )
    if isinstance(block, Table):
        rows = [list(block.header), *map(list, block.rows)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        left = '<', *'>' * (len(widths) - 1)
        lines = ['  '.join(map('{:{}{}}'.format, row, left, widths)) for row in rows]
        return '\n'.join(f'  {line.rstrip()}' for line in lines)
    return ''


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    for letter in '\\`*_|<>#$[]':
        text = text.replace(letter, f'\\{letter}')
    return text


def _markdown(block: Block) -> str:
    if isinstance(block, Words):
        return f'**{_escaped(block.text)}**' if block.strong else _escaped(block.text)
    if isinstance(block, Listed):
        return '\n'.join(f'- {_escaped(line)}' for line in block.lines)
    if isinstance(block, Table):
        rule = ['---', *['---:'] * (len(block.header) - 1)]
        rows = [block.header, rule, *block.rows]
        return '\n'.join(f'| {" | ".join(cell if row is rule else _escaped(cell) for cell in row)} |' for row in rows)
    return ''


def _html(block: Block) -> str:
    if isinstance(block, Words):
        kind = ' class="strong"' if block.strong else ''
        return f'<p{kind}>{html.escape(block.text)}</p>'
    if isinstance(block, Listed):
        return '<ul>' + ''.join(f'<li>{html.escape(line)}</li>' for line in block.lines) + '</ul>'
    if isinstance(block, Table):
        head = ''.join(f'<th scope="col">{html.escape(cell)}</th>' for cell in block.header)
        rows = (
            f'<tr><th scope="row">{html.escape(row[0])}</th>'
            + ''.join(f'<td>{html.escape(cell)}</td>' for cell in row[1:])
            + '</tr>'
            for row in block.rows
        )
        kind = 'wide prose' if block.prose else 'wide'
        return f'<div class="{kind}"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    caption = html.escape(block.caption)
    panels = ''.join(block.panels)
    return f'<figure role="img" aria-label="{caption}"><div>{panels}</div><figcaption>{caption}</figcaption></figure>'


_FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
_STYLE = """
:root { color-scheme: light dark;
  --ink: #1d1f24; --muted: #60646c; --paper: #ffffff; --card: #f5f6f8; --line: #d9dce1; --mark: #0a6b5a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ec; --muted: #a2a8b3; --paper: #16181c; --card: #1f2227; --line: #363b43; --mark: #5fd0b8; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2, summary { font-size: 1.1rem; font-weight: 650; margin: 1.6rem 0 .4rem; }
summary { cursor: pointer; padding: .3rem 0; }
details { border-top: 1px solid var(--line); margin-top: 1rem; }
p.strong { font-size: 1.15rem; font-weight: 600; border-left: 4px solid var(--mark); padding: .2rem 0 .2rem .9rem; }
ul { padding-left: 1.2rem; }
li { margin: .25rem 0; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem .35rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; font-weight: 550; }
thead th { color: var(--muted); font-weight: 550; white-space: normal; vertical-align: bottom; }
.prose th, .prose td { text-align: left; white-space: normal; vertical-align: top; }
figure { color-scheme: only light; margin: 1rem 0; padding: .8rem; background: #ffffff;
  border: 1px solid var(--line); border-radius: 6px; }
figure div { display: flex; flex-wrap: wrap; justify-content: center; gap: .8rem; }
figure svg { flex: 0 1 auto; max-width: 100%; height: auto; }
figcaption { color: #60646c; font-size: .88rem; margin-top: .5rem; }
@media print { details { display: block; } }
"""
