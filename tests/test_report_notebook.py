"""The notebook of figures and tables runs from start to end on the paper's own numbers and writes every file."""

from __future__ import annotations

from pathlib import Path

import nbformat
import papermill

from medpeft_utils import report
from medpeft_utils.report import paper
from medpeft_utils.report.output import Nothing

NOTEBOOK = Path(__file__).resolve().parents[1] / 'notebooks' / 'figures_and_tables.ipynb'


def test_it_is_kept_without_outputs():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == 'code']
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert cells[0].metadata.tags == ['parameters']


def test_it_draws_everything_and_runs_nothing(tmp_path: Path):
    figures = tmp_path / 'figures'
    given = {'profile': 'paper', 'results_folder': str(tmp_path / 'none'), 'figures_folder': str(figures)}
    papermill.execute_notebook(
        NOTEBOOK, tmp_path / 'done.ipynb', given, kernel_name='python3', cwd=tmp_path, progress_bar=False
    )
    cells = nbformat.read(tmp_path / 'done.ipynb', as_version=4).cells
    assert [out.text for cell in cells for out in cell.get('outputs', []) if out.get('name') == 'stderr'] == []
    names = {path.name for path in figures.iterdir()}
    something = [name for name in report.RENDERERS if not isinstance(report.render(name, paper.records()), Nothing)]
    assert names >= {f'{name}.{kind}' for name in something for kind in ('csv', 'md', 'tex')}
    assert {'figure1', 'figure3', 'table2', 'table3', 'table5', 'claims', 'text_image_claims', 'table4'} <= set(
        something
    )
