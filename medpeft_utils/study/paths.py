"""Where things lie: the project's notebooks and grids, and the folder of a study."""

from __future__ import annotations

from pathlib import Path

from medpeft_utils.core.errors import BadInput, UnknownName


def project_root(start: Path | None = None) -> Path:
    """The folder that holds notebooks/experiments: the working folder or one above it, else where the package lies."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[2]):
        if (folder / 'notebooks' / 'experiments').is_dir():
            return folder
    return start


def notebooks_folder(start: Path | None = None) -> Path:
    """The project's notebooks and grids; those that travel in the wheel (setup.py) where there is no project."""
    inside, folder = Path(__file__).with_name('notebooks'), project_root(start) / 'notebooks'
    return inside if inside.is_dir() and not folder.is_dir() else folder


def experiments_folder(start: Path | None = None) -> Path:
    """The folder of the experiment notebooks."""
    return notebooks_folder(start) / 'experiments'


def find_grid(name: str, results: Path) -> Path:
    """The file of a grid given by path or by name, as 'demo' for notebooks/grids/demo.yaml.

    A name without such a file is looked up in the results: results/<name>/grid.yaml is the grid as it was run.
    """
    if Path(name).is_file():
        return Path(name)
    folder = notebooks_folder() / 'grids'
    for path in (folder / f'{name}.yaml', results / name / 'grid.yaml'):
        if path.is_file():
            return path
    if Path(name).suffix in ('.yaml', '.yml'):
        raise BadInput(f'no grid file {name!r}; name a file, or one of the grids in {folder}')
    raise UnknownName('grid', name, [path.stem for path in folder.glob('*.yaml')], f'ls {folder}')


class StudyFolder:
    """results/<profile>: one folder a run, and beside them what belongs to the study as a whole.

    A run's folder holds its record, and a folder of its own for each attempt: its notebook, predictions and adapter.
    """

    def __init__(self, root: Path):
        self.root, self.runs, self.searches = root, root / 'runs', root / 'searches'
        self.grid, self.splits, self.events = root / 'grid.yaml', root / 'splits.json', root / 'events.jsonl'

    def run(self, run: str) -> Path:
        return self.runs / run

    def record(self, run: str) -> Path:
        return self.runs / run / 'record.json'

    def lease(self, run: str) -> Path:
        return self.root / 'leases' / run
