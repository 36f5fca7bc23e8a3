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
LINK = re.compile(r'(href|src)="(?![a-z]+:|#|//)([^"#]+)(#[^"]*)?"')

STYLE = """
:root { --ink: #1f2328; --muted: #656d76; --line: #d8dee4; --pale: #f6f8fa; --accent: #0173b2; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); font: 16px/1.6 system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; }
nav { position: fixed; inset: 0 auto 0 0; width: 17rem; padding: 1.4rem 1.2rem; overflow-y: auto;
  background: var(--pale); border-right: 1px solid var(--line); font-size: .9rem; }
nav h2 { margin: 0 0 .8rem; font-size: 1rem; }
nav ol { margin: 0; padding: 0; list-style: none; }
nav a { display: block; padding: .28rem .5rem; border-radius: .3rem; color: var(--ink); text-decoration: none; }
nav a:hover { background: #e9edf1; }
nav a[aria-current] { background: var(--accent); color: white; }
main { margin-left: 17rem; padding: 1.5rem 2.5rem 4rem; max-width: 70rem; }
main h1 { margin: .2rem 0 1rem; font-size: 1.9rem; line-height: 1.25; }
main h2 { margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); font-size: 1.35rem; }
main a { color: var(--accent); }
img, svg { max-width: 100%; height: auto; }
pre { margin: .4rem 0; padding: .7rem .9rem; overflow-x: auto; border-radius: .4rem; font: .84rem/1.5 ui-monospace,
  'SFMono-Regular', Menlo, Consolas, monospace; }
.highlight pre { background: var(--pale); border: 1px solid var(--line); }
.jp-OutputArea-output pre { background: none; padding: .2rem .9rem; color: #3b424a; }
code { font-family: ui-monospace, 'SFMono-Regular', Menlo, Consolas, monospace; font-size: .88em; }
:not(pre) > code { padding: .1em .3em; background: var(--pale); border-radius: .25rem; }
table { border-collapse: collapse; border: 0; margin: .6rem 0; font-size: .88rem; display: block; overflow-x: auto; }
th, td { padding: .3rem .7rem; border: 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
.dataframe th, .dataframe td, td.data, th.col_heading { text-align: right; }
.text_cell pre { background: var(--pale); border: 1px solid var(--line); }
details { margin: .5rem 0; padding: .5rem .9rem; border: 1px solid var(--line); border-radius: .4rem; }
summary { cursor: pointer; font-weight: 600; }
math[display=block] { margin: .9rem 0; font-size: 1.12rem; }
.prompt, .jp-InputPrompt, .jp-OutputPrompt, .anchor-link { display: none; }
.around { display: flex; justify-content: space-between; gap: 1rem; margin-top: 3rem; border-top: 1px solid var(--line);
  padding-top: 1rem; }
@media (max-width: 60rem) {
  nav { position: static; width: auto; border-right: 0; border-bottom: 1px solid var(--line); }
  main { margin-left: 0; padding: 1rem; }
}
@media print { nav, .around { display: none; } main { margin: 0; } }
"""
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
    (out / 'style.css').write_text(STYLE + _colours())
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

    return HtmlFormatter(style='default').get_style_defs('.highlight')


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
    return LINK.sub(lambda found_link: _link(found_link, page, out, {other.path.name for other in found}), body)


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
