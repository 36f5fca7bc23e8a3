"""Puts the notebooks and grids that `medpeft` runs into the wheel; all else is declared in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
TRAVELLING = 'figures_and_tables.ipynb', 'experiments/*.ipynb', 'grids/*.yaml', 'learn/*.ipynb'


class WithNotebooks(build_py):
    """Copies notebooks/ to where `medpeft_utils.study.paths` looks for it outside of a checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for path in (path for pattern in TRAVELLING for path in sorted((ROOT / 'notebooks').glob(pattern))):
            target = Path(self.build_lib, 'medpeft_utils', 'study', path.relative_to(ROOT))
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(path), str(target))


setup(cmdclass={'build_py': WithNotebooks})
