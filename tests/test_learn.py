"""The learning notebooks run, show what today's code gives, and read as the others do; the book and its pages."""

from __future__ import annotations

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from click.testing import CliRunner

import medpeft_utils
from medpeft_utils.core.code import Code
from medpeft_utils.core.errors import UnknownName
from medpeft_utils.data.cards import names as datasets
from medpeft_utils.learn import book, pages
from medpeft_utils.learn.book import LessonFailed, Page
from medpeft_utils.learn.commands import book as commands

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'notebooks' / 'learn'
PAGES = book.pages(FOLDER)
METHODS = [page for page in PAGES if page.name[:2] not in ('00', '01', '11', '12')]
MOST_BYTES, MOST_SECONDS = 300 * 1000, 600
NAMES = [
    *('00_start_here', '01_baselines', '02_bias_tuning', '03_norm_tuning', '04_attention_tuning', '05_lora', '06_ssf'),
    *('07_tsa', '08_adaptformer', '09_sv_diff', '10_difffit', '11_combinations', '12_choose_a_method'),
]
TOLD = ['**Question.**', '**Paper.**', '**Time.**']
SECTIONS = ['The idea', 'Written anew', 'Where it sits', 'What becomes trainable', 'See it learn']
SECTIONS += ['Pitfalls that people meet', 'What to notice', 'Exercises']
LINK = re.compile(r'\]\(([^)\s]+)\)')


def by_name(page: Page) -> str:
    return page.name


def text(page: Page) -> str:
    """The whole text of a notebook."""
    return '\n\n'.join(cell.source for cell in page.notebook.cells if cell.cell_type == 'markdown')


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    """Errors and what was written to stderr, warnings among it."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    bad = [o for o in outputs if o.output_type == 'error' or o.get('name') == 'stderr']
    return [str(o.get('text') or o.get('evalue')) for o in bad]


def shapes(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """Of every cell, what kinds of output it has; their values differ a little between machines."""
    return [[output.output_type for output in cell.outputs] for cell in code_cells(notebook)]


def test_the_notebooks_are_all_there():
    assert [page.name for page in PAGES] == NAMES


# A page without training and one with it run here. The stamps below say that what the others show was made by today's
# code; they run by MEDPEFT_LESSONS=all make test, in a quarter of an hour of two cores.
RUN = PAGES if os.environ.get('MEDPEFT_LESSONS') == 'all' else [PAGES[number] for number in (0, 3)]


@pytest.mark.slow
@pytest.mark.timeout(MOST_SECONDS)
@pytest.mark.parametrize('page', RUN, ids=by_name)
def test_a_notebook_runs_from_top_to_bottom(page: Page, tmp_path: Path):
    before = page.path.read_bytes()
    book.run(page, tmp_path / page.path.name)
    again = Page(tmp_path / page.path.name)
    assert faults(again.notebook) == []
    assert shapes(again.notebook) == shapes(page.notebook)
    assert not again.is_stale and again.seconds > 0
    assert page.path.read_bytes() == before


@pytest.mark.parametrize('page', PAGES, ids=by_name)
def test_outputs_are_committed_and_of_todays_code(page: Page):
    cells = code_cells(page.notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert faults(page.notebook) == []
    assert sum('image/' in str(output.get('data', {}).keys()) for cell in cells for output in cell.outputs) >= 2
    assert not page.is_stale, f'run: medpeft book run {page.name}'


@pytest.mark.parametrize('page', PAGES, ids=by_name)
def test_a_notebook_is_small(page: Page):
    assert page.path.stat().st_size < MOST_BYTES


@pytest.mark.parametrize('page', PAGES, ids=by_name)
def test_a_notebook_begins_and_ends_as_the_others_do(page: Page):
    first, told = page.notebook.cells[0].source, text(page)
    assert first.startswith(f'# {page.title}\n')
    assert [words for words in TOLD if words not in first] == []
    assert 'versions()' in code_cells(page.notebook)[0].source
    assert '## Exercises' in told
    exercises = told.partition('## Exercises')[2]
    answers = re.findall(r'<details><summary>Answer</summary>\n\n(.+?)\n\n</details>', exercises, re.DOTALL)
    assert len(answers) == exercises.count('<details>') == len(re.findall(r'(?m)^\*\*\d\.\*\* ', exercises)) == 2
    assert page is PAGES[-1] or '**Next:**' in told.splitlines()[-1]


@pytest.mark.parametrize('page', METHODS, ids=by_name)
def test_a_method_has_all_sections_in_order(page: Page):
    headings = re.findall(r'(?m)^## ([^:\n]+)', text(page))
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS
    assert '**Limits.**' in text(page)


@pytest.mark.parametrize('page', PAGES, ids=by_name)
def test_links_lead_somewhere(page: Page):
    links = [link for link in LINK.findall(text(page)) if not link.startswith(('https://', '#'))]
    assert links
    assert [link for link in links if not (FOLDER / unquote(link.partition('#')[0])).exists()] == []


@pytest.mark.parametrize('page', PAGES, ids=by_name)
def test_pictures_are_of_synthetic_images_only(page: Page):
    code = '\n'.join(cell.source for cell in code_cells(page.notebook))
    assert [name for name in datasets() if repr(name) in code and not name.startswith('synthetic_')] == []


# The book


def written(path: Path, *cells: str) -> Page:
    """A notebook with a title and these cells of code."""
    parts = [nbformat.v4.new_markdown_cell(f'# {path.stem}'), *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=parts), path)
    return Page(path)


def test_running_keeps_outputs_and_drops_progress_bars_and_addresses(tmp_path: Path):
    warn = 'import sys\nprint("take care", file=sys.stderr)'
    bar = 'print("100%|####| 5/5 [00:01, 4.9it/s]", file=sys.stderr)'
    page = written(tmp_path / '00_first.ipynb', 'print(6 * 7)\nlambda x: x', bar.join(['import sys\n', '']), warn)
    assert page.is_stale and page.seconds == 0
    book.run(page)
    again = Page(page.path)
    assert not again.is_stale
    outputs = [cell.outputs for cell in code_cells(again.notebook)]
    assert (
        outputs[0][0].text == '42\n'
        and outputs[0][1].data['text/plain'].startswith('<function')
        and ' at 0x' not in str(outputs)
    )
    assert outputs[1] == []
    assert faults(again.notebook) == ['take care\n']


def test_a_failing_cell_is_named_and_the_notebook_stays_as_it_was(tmp_path: Path):
    page = written(tmp_path / '00_first.ipynb', 'print("fine")', 'assert 1 + 1 == 3, "no such sum"')
    before = page.path.read_bytes()
    with pytest.raises(LessonFailed, match=r'00_first\.ipynb(.|\n)*no such sum'):
        book.run(page)
    assert page.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [page.path.name]


def test_a_kernel_has_one_thread_and_the_cache_of_the_tests(tmp_path: Path, cache_of_the_session: Path):
    ask = 'import os\nimport torch\n\nprint(torch.get_num_threads(), os.environ["MEDPEFT_CACHE"])'
    page = written(tmp_path / '00_first.ipynb', ask)
    book.run(page)
    assert code_cells(Page(page.path).notebook)[0].outputs[0].text == f'1 {cache_of_the_session}\n'


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that decides about stamps."""
    copy = tmp_path / 'medpeft_utils'
    left_out = shutil.ignore_patterns('__pycache__', '*.safetensors')
    shutil.copytree(Path(medpeft_utils.__file__).parent, copy, ignore=left_out)
    now = Code.now
    monkeypatch.setattr(book.Code, 'now', lambda: now(copy))
    return copy


def append(file: Path, line: str) -> None:
    file.write_text(f'{file.read_text()}\n{line}\n')


def test_a_stamp_is_of_the_cells_code_and_of_the_code_that_it_uses(tmp_path: Path, code: Path):
    lora = 'from medpeft_utils import methods\nfrom medpeft_utils.learn.diagram import block\n\nblock("vit", "lora")'
    page, stamps = written(tmp_path / '00_first.ipynb', '%matplotlib inline\n' + lora).notebook, []

    def changed() -> bool:
        stamps.append(book.stamp(page))
        return stamps[-1] not in stamps[:-1]

    assert changed() and not changed()
    append(code / 'methods' / 'ssf.py', 'FASTER = True')
    assert not changed(), 'SSF is no part of it'
    append(code / 'methods' / 'lora.py', '# a better comment')
    assert not changed(), 'a comment decides nothing'
    append(code / 'methods' / 'lora.py', 'FASTER = True')
    assert changed()
    append(code / 'learn' / 'diagram.py', 'FASTER = True')
    assert changed()
    page.cells[1].source += '  # drawn'
    assert changed()
    page.cells[0].source += '\n\nMore words.'
    assert not changed(), 'words decide nothing'


def test_a_picture_with_few_colours_stays_sharp_and_a_photograph_gets_small():
    from io import BytesIO

    import numpy as np
    from PIL import Image

    def png(pixels: np.ndarray) -> bytes:
        buffer = BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, 'PNG')
        return buffer.getvalue()

    chart = np.full((200, 200, 3), 255)
    chart[40:60, 20:180] = (1, 115, 178)
    kind, content = book.smaller(png(chart))
    assert kind == 'image/png' and (np.asarray(Image.open(BytesIO(content)).convert('RGB')) == chart).all()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3))
    kind, content = book.smaller(png(noise))
    assert kind == 'image/jpeg' and len(content) < len(png(noise)) / 2


def test_a_drawing_gets_terse_and_stays_the_same():
    inside = '<path d="M 1.50 2 L 3.25 2 L 3.25 4 L 1.50 4 z "/>\n<text>0.50</text>'
    svg = f'<svg>\n<metadata>\n<a/>\n</metadata>\n{inside}\n</svg>'
    assert book.terse(svg) == '<svg><path d="M1.5 2H3.25V4H1.5z"/><text>0.50</text></svg>'
    assert book.terse(book.terse(svg)) == book.terse(svg)


def test_notebooks_are_found_by_number_or_name_and_others_refused(tmp_path: Path):
    assert [page.name for page in book.chosen(('lora', '12_choose_a_method'), FOLDER)] == ['05_lora', NAMES[-1]]
    assert len(book.chosen((), FOLDER)) == len(PAGES)
    with pytest.raises(UnknownName, match=r"'lorra'; did you mean '05_lora'"):
        book.chosen(('lorra',), FOLDER)
    with pytest.raises(UnknownName, match='run this from the repository'):
        book.pages(tmp_path)


# The pages


def test_formulas_become_mathml_and_code_and_prices_stay():
    made = pages.with_mathml(r'With $W_0$ and $$W = \frac{\alpha}{r} B A$$ it costs $5 or $10; `$HOME` and `a$b$c`.')
    assert made.count('<math') == 2 and made.count('display="block"') == 1
    assert '<mfrac>' in made and '$W' not in made
    assert made.endswith('it costs $5 or $10; `$HOME` and `a$b$c`.')
    block = '```\necho $A and $B\n```'
    assert pages.with_mathml(block) == block
    assert pages.with_mathml(r'\$x\$') == r'\$x\$'


class Found(HTMLParser):
    """Links, pictures and anchors of a page."""

    def __init__(self, file: Path):
        super().__init__()
        self.targets, self.anchors, self.current, self.entries, self._in_nav = [], set(), [], [], False
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self._in_nav = tag == 'nav' or (self._in_nav and tag != 'main')
        self.anchors.add(given.get('id'))
        if target := given.get('href') or given.get('src'):
            self.targets.append(target)
            if self._in_nav:
                self.entries.append(target)
        if 'aria-current' in given:
            self.current.append(given['href'])


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the notebooks, in a folder as deep as in the repository: links back into it must work."""
    return pages.build(tmp_path_factory.mktemp('book') / 'pages', FOLDER).parent


@pytest.mark.parametrize('page', PAGES, ids=by_name)
def test_a_page_has_navigation_and_its_links_resolve(page: Page, site: Path):
    found = Found(site / f'{page.name}.html')
    assert found.entries == [f'{other.name}.html' for other in PAGES]
    assert found.current == [f'{page.name}.html']
    local = [unquote(target) for target in found.targets if not re.match(r'[a-z]+:', target)]
    files = {target.partition('#')[0] for target in local} - {''}
    assert [file for file in files if not (site / file).exists()] == []
    assert {target[1:] for target in local if target.startswith('#')} <= found.anchors
    assert not [file for file in files if file.endswith('.ipynb') and (FOLDER / Path(file).name).exists()]
    assert '$' not in re.sub(r'<(pre|code).*?</\1>', '', (site / f'{page.name}.html').read_text(), flags=re.DOTALL)


def test_the_first_page_is_opened_by_the_index_and_nothing_is_fetched(site: Path):
    assert f'url={PAGES[0].name}.html' in (site / 'index.html').read_text()
    for file in site.glob('*.html'):
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:[^"]+)"', file.read_text())
        assert loaded == [], file.name


def test_the_commands_list_the_notebooks_and_say_which_are_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / 'notebooks' / 'learn'
    folder.mkdir(parents=True)
    (tmp_path / 'notebooks' / 'experiments').mkdir()  # by which a project is known
    written(folder / '00_first.ipynb', 'print(1)')
    written(folder / '01_second.ipynb', '1 / 0')
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(commands, ['run'])
    assert ran.exit_code != 0 and '1 failed: 01_second' in str(ran.output) + str(ran.exception)
    assert 'division by zero' in ran.output
    listed = CliRunner().invoke(commands, ['list']).output.splitlines()
    assert ['stale' in line for line in listed] == [False, True]
    assert 'up to date' in CliRunner().invoke(commands, ['run']).output
    built = CliRunner().invoke(commands, ['html']).output
    assert built.strip().endswith('00_first.html') and (tmp_path / 'build' / 'book' / '01_second.html').is_file()
