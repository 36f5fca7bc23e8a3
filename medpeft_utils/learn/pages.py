"""HTML pages of the learning notebooks: one folder that reads in any browser, without a network.

nbconvert renders cells and outputs; formulas become MathML, which browsers draw themselves.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat

from medpeft_utils.learn.book import Page, pages

FORMULA = re.compile(r'\$\$(.+?)\$\$|(?<![\\$\w])\$([^$\n]+?)\$(?!\w)', re.DOTALL)
CODE = re.compile(r'(```.*?```|`[^`\n]*`)', re.DOTALL)
HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"')
LINK = re.compile(r'(href|src)="(?![a-z]+:|#|//)([^"#]+)(#[^"]*)?"')

STYLE = Path(__file__).with_name('book.css')
FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · medpeft</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
<nav aria-label="pages"><h2>Learn PEFT</h2><ol>
{contents}
</ol></nav>
<main>
{body}
<div class="around">{around}</div>
</main>
</body>
</html>
"""


def build(out: str | Path, folder: str | Path | None = None) -> Path:
    """Write the pages; they replace those of an earlier call.

    Args:
        out: the folder of the pages.
        folder: of the notebooks.
    Returns:
        The page to begin with.
    """
    out, found = Path(out), pages(folder)
    out.mkdir(parents=True, exist_ok=True)
    (out / 'style.css').write_text(STYLE.read_text() + _colours())
    for number, page in enumerate(found):
        around = found[number - 1] if number else None, found[number + 1] if number + 1 < len(found) else None
        text = FRAME.format(
            title=html.escape(page.title),
            contents='\n'.join(_entry(other, other is page) for other in found),
            body=_body(page, out, found),
            around=''.join(_beside(other, words) for other, words in zip(around, ('← ', ' →'), strict=True)),
        )
        (out / f'{page.name}.html').write_text(text)
    first = f'{found[0].name}.html'
    (out / 'index.html').write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={first}">')
    return out / first


def _colours() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=style).get_style_defs('.highlight') for style in ('default', 'github-dark'))
    return f'{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n'


def _entry(page: Page, current: bool) -> str:
    here = ' aria-current="page"' if current else ''
    return f'<li><a href="{page.name}.html"{here}>{html.escape(page.title)}</a></li>'


def _beside(page: Page | None, words: str) -> str:
    if page is None:
        return '<span></span>'
    title = html.escape(page.title)
    text = f'{words}{title}' if words.startswith('←') else f'{title}{words}'
    return f'<a href="{page.name}.html">{text}</a>'


def _body(page: Page, out: Path, found: list[Page]) -> str:
    from nbconvert import HTMLExporter

    notebook = nbformat.from_dict(page.notebook)
    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            cell.source = with_mathml(cell.source)
    body, _ = HTMLExporter(template_name='basic').from_notebook_node(notebook)
    body = LINK.sub(lambda found_link: _link(found_link, page, out, {other.path.name for other in found}), body)
    entries = ''.join(f'<li><a href="#{name}">{title}</a></li>' for name, title in HEADING.findall(body))
    outline = f'<details class="outline"><summary>On this page</summary><ul>{entries}</ul></details>'
    return body.replace('</h1>', f'</h1>{outline}', 1)


def _link(match: re.Match, page: Page, out: Path, names: set[str]) -> str:
    """A relative link as it must read from the pages: to a page, or back into the repository."""
    kind, target, anchor = match.group(1), unquote(match.group(2)), match.group(3) or ''
    if target in names:
        return f'{kind}="{Path(target).stem}.html{anchor}"'
    file = (page.path.parent / target).resolve()
    return f'{kind}="{Path(os.path.relpath(file, out.resolve())).as_posix()}{anchor}"'


def with_mathml(markdown: str) -> str:
    """Markdown with its formulas, $...$ and $$...$$, as MathML; code is left alone."""
    parts = CODE.split(markdown)
    return ''.join(part if part.startswith('`') else FORMULA.sub(_mathml, part) for part in parts)


def _mathml(match: re.Match) -> str:
    from latex2mathml.converter import convert

    display = 'block' if match.group(1) else 'inline'
    return convert((match.group(1) or match.group(2)).strip(), display=display)
