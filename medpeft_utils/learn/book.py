"""The learning notebooks: which there are, whether their outputs are of today's code, and running them."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import os
import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat

from medpeft_utils.core.code import Code, imported
from medpeft_utils.core.errors import MedpeftError, UnknownName
from medpeft_utils.study.paths import notebooks_folder

STAMP = 'medpeft'  # the key in a notebook's metadata
DATASET = 'synthetic_ham10000'  # that of a lesson
DRAWN = 6000  # colours that a chart has at the most, its soft edges among them; photographs have more
RECTANGLE = re.compile(r'M (\S+) (\S+) L (\S+) \2 L \3 (\S+) L \1 \4 z ')  # as matplotlib writes it
PROGRESS = re.compile(r'it/s|steps/s|images/s|\d%\||TqdmWarning')  # a bar is for who looks on


class LessonFailed(MedpeftError, RuntimeError):
    """A cell of a learning notebook raised an error."""


@dataclass(frozen=True)
class Page:
    """A learning notebook."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def notebook(self) -> nbformat.NotebookNode:
        return nbformat.read(self.path, as_version=4)

    @property
    def title(self) -> str:
        """Its first heading."""
        return re.search(r'(?m)^# (.+)$', self.notebook.cells[0].source).group(1).strip()

    @property
    def seconds(self) -> float:
        """How long its last run took, on the machine that made its outputs; 0 where it was never run."""
        return self.notebook.metadata.get(STAMP, {}).get('seconds', 0.0)

    @property
    def is_stale(self) -> bool:
        """Whether its outputs are missing, or of other cells or other code than today's."""
        return self.notebook.metadata.get(STAMP, {}).get('of') != stamp(self.notebook)


def pages(folder: str | Path | None = None) -> list[Page]:
    """The learning notebooks in the order of reading, of notebooks/learn by default. Raises UnknownName without any."""
    folder, usual = Path(folder or notebooks_folder() / 'learn'), 'notebooks/learn'
    found = sorted(folder.glob('[0-9]*.ipynb'))
    if not found:
        raise UnknownName('folder of learning notebooks', str(folder), [usual], 'run this from the repository')
    return [Page(path) for path in found]


def chosen(names: tuple[str, ...], folder: str | Path | None = None) -> list[Page]:
    """The pages of some names, such as '05_lora' or 'lora'; all of them where none is given. Raises UnknownName."""
    known = pages(folder)
    by_name = {page.name: page for page in known} | {page.name.partition('_')[2]: page for page in known}
    for name in names:
        if name not in by_name:
            raise UnknownName('learning notebook', name, [page.name for page in known])
    return [by_name[name] for name in names] or known


def _quoted(source: str) -> set[str]:
    """The strings in Python source; a magic is no Python."""
    tree = ast.parse(re.sub(r'(?m)^\s*[%!].*$', '', source))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def stamp(notebook: nbformat.NotebookNode) -> str:
    """Hash over a notebook's code and the package's code that decides what its cells show.

    Words between the cells may be mended without a run. Of the methods only the files of those count whose keys the
    notebook names.
    """
    from medpeft_utils import methods

    code = [cell.source for cell in notebook.cells if cell.cell_type == 'code']
    plain = '\n'.join(re.sub(r'(?m)^\s*[%!].*$', '', source) for source in code)
    named = sorted(_quoted(plain) & set(methods.names())) or ['']
    imports, now = imported(plain), Code.now()
    versions = [now.version({'method': method, 'dataset': DATASET}, imports) for method in named]
    return hashlib.sha256('\0'.join([*code, *versions]).encode()).hexdigest()[:16]


def run(page: Page, target: str | Path | None = None, timeout: int = 600) -> float:
    """Execute a learning notebook from top to bottom and write it with its outputs, whole or not at all.

    Args:
        page: the notebook.
        target: where to write; the notebook itself where None.
        timeout: seconds for a cell.
    Returns:
        Seconds that it took, the start of its kernel included.
    Raises:
        LessonFailed: a cell raised an error; nothing is written.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook, started = nbformat.read(page.path, as_version=4), time.monotonic()
    how = {'kernel_name': 'python3', 'record_timing': False, 'extra_arguments': ['--log-level=ERROR']}
    client = NotebookClient(notebook, timeout=timeout, coalesce_streams=True, **how)
    folder = page.path.resolve().parent  # as JupyterLab does
    try:
        client.execute(cwd=str(folder), env=dict(os.environ))
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise LessonFailed(f'{page.path}: {error}') from error
    seconds = time.monotonic() - started
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            cell.outputs = [slim(output) for output in cell.outputs if not _is_progress(output)]
    notebook.metadata.pop('widgets', None)
    notebook.metadata['language_info'] = {'name': 'python'}
    notebook.metadata[STAMP] = {'of': stamp(notebook), 'seconds': round(seconds)}
    _write(notebook, Path(target or page.path))
    return seconds


def _is_progress(output: nbformat.NotebookNode) -> bool:
    text = output.get('text', '')
    return output.get('name') == 'stderr' and (PROGRESS.search(text) is not None or not text.strip())


def slim(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output without addresses in memory, its photographs as JPEG and its drawings terse, to be small."""
    data = output.get('data', {})
    if 'image/svg+xml' in data:
        data['image/svg+xml'] = terse(data['image/svg+xml'])
    if 'text/plain' in data:
        data['text/plain'] = re.sub(r' at 0x[0-9a-f]+', '', data['text/plain'])
    if 'image/png' in data and 'image/svg+xml' not in data:
        kind, content = smaller(base64.b64decode(data.pop('image/png')))
        data[kind] = base64.b64encode(content).decode()
    return output


def terse(svg: str) -> str:
    """The same drawing on one line, without its metadata and the zeros at the end of its coordinates."""
    svg = re.sub(r'(?s)<metadata>.*?</metadata>', '', svg)
    svg = RECTANGLE.sub(r'M\1 \2H\3V\4H\1z', svg)
    svg = re.sub(r'<[^>]*>', lambda tag: re.sub(r'(\d\.\d)0(?!\d)', r'\1', tag.group()), svg)
    return re.sub(r'\s*\n\s*', ' ', svg).replace('> <', '><')


def smaller(png: bytes) -> tuple[str, bytes]:
    """A PNG with few colours as PNG of a palette, one with photographs as JPEG: its MIME type and content."""
    from PIL import Image

    image, buffer = Image.open(io.BytesIO(png)).convert('RGB'), io.BytesIO()
    if image.getcolors(DRAWN) is not None:
        image.quantize(64, dither=Image.Dither.NONE).save(buffer, 'PNG', optimize=True)
        return 'image/png', buffer.getvalue()
    image.save(buffer, 'JPEG', quality=72, optimize=True)
    return 'image/jpeg', buffer.getvalue()


def _write(notebook: nbformat.NotebookNode, path: Path) -> None:
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    nbformat.write(notebook, partial)
    os.replace(partial, path)
