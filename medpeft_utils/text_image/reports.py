"""Where the reports of MIMIC-CXR lie: a tree of text files, or the archive as published, read where it is."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cache import threads

ARCHIVE = 'mimic-cxr-reports.zip'
PROBES = 50  # studies that are looked for, to know a folder by


def member(subject: str, study: str) -> str:
    """The published path of a study's report."""
    return f'files/p{subject[:2]}/p{subject}/s{study}.txt'


def _places(root: Path) -> Iterator[Path]:
    """Folders in which the reports may lie: the images' own, beside it, and where PhysioNet's mirror puts them."""
    mirror = root.parent.parent / 'mimic-cxr'
    for base in (root, root.parent, mirror, mirror / '2.0.0'):
        if base.is_dir():
            yield base
            yield from sorted(path for path in base.iterdir() if path.is_dir() and path.name != 'files')


class Reports:
    """The reports that belong to a folder of MIMIC-CXR-JPG.

    Args:
        root: the folder that holds `files/` with the images.
        studies: (subject, study) of all images, of which the first are used to find the place.
    Raises:
        BadInput: neither a tree of reports nor the archive is there.
    """

    def __init__(self, root: Path, studies: list[tuple[str, str]]):
        probes = [member(*study) for study in studies[:: max(1, len(studies) // PROBES)]]
        self.folder = self.archive = None
        for place in _places(root):
            if any((place / probe).is_file() for probe in probes):
                self.folder = place
                return
            if (place / ARCHIVE).is_file():
                self.archive = place / ARCHIVE
                return
        raise BadInput(
            f'{root}: no reports found ({probes[0] if probes else "files/p10/..."} or {ARCHIVE}) in it, beside it, or '
            'in ../../mimic-cxr; put the archive of MIMIC-CXR 2.0.0 there, or unpack it there'
        )

    @property
    def where(self) -> Path:
        """The folder or archive that they are read from."""
        return self.archive or self.folder

    def texts(self, studies: Iterable[tuple[str, str]]) -> list[str | None]:
        """The report of every study in order, None where there is none."""
        paths = [member(*study) for study in studies]
        return self._from_archive(paths) if self.archive else self._from_folder(paths)

    def _from_folder(self, paths: list[str]) -> list[str | None]:
        def read(path: str) -> str | None:
            try:
                return (self.folder / path).read_text(encoding='utf-8', errors='replace')
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(threads()) as pool:
            return list(pool.map(read, paths, chunksize=256))

    def _from_archive(self, paths: list[str]) -> list[str | None]:
        try:
            with zipfile.ZipFile(self.archive) as archive:
                there = {name[name.find('files/') :]: name for name in archive.namelist() if name.endswith('.txt')}
                return [
                    archive.read(there[path]).decode('utf-8', errors='replace') if path in there else None
                    for path in paths
                ]
        except zipfile.BadZipFile as error:
            raise BadInput(f'{self.archive}: cut off or damaged ({error}); fetch it again') from error
