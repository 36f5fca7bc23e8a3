"""Images that lie as rows in one NumPy archive (.npz), addressed as if each were a file.

'pathmnist_64.npz/train/000012' is row 12 of the array 'train_images' of that archive. The arrays are compressed, so
that a row is reached by inflating all before it: rows are read in blocks, and who asks in ascending order goes on where
the last block ended. Nothing is unpickled.
"""

from __future__ import annotations

import os
import struct
import threading
import zipfile
import zlib
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from medpeft_utils.core.errors import BadInput

BLOCK = 256  # rows read at a time
KEPT = 2  # blocks of an array that are kept in memory, 77 MB at 224 pixels
DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, struct.error)


def is_row(path: str | os.PathLike) -> bool:
    """Whether a path leads into an archive."""
    return '.npz' + os.sep in os.fspath(path)


def parts(path: str | os.PathLike) -> tuple[Path, str, int]:
    """Archive, split and row of a path that leads into one."""
    archive, _, inside = os.fspath(path).rpartition('.npz' + os.sep)
    split, _, row = inside.rpartition(os.sep)
    if not (split and row.isdecimal()):
        raise BadInput(f'{path}: a row of an archive is written ARCHIVE.npz/SPLIT/ROW')
    return Path(f'{archive}.npz'), split, int(row)


def _state(archive: Path) -> tuple[int, int]:
    found = os.stat(archive)
    return found.st_size, found.st_mtime_ns


def _damaged(archive: Path, error: Exception) -> BadInput:
    return BadInput(f'{archive}: cut off or damaged ({type(error).__name__}: {error}); fetch it again')


class _Rows:
    """The rows of one array of an archive, inflated from the first one on and kept in a few blocks."""

    def __init__(self, archive: Path, name: str):
        self.archive, self.name, self.at = archive, name, 0
        self._lock, self._blocks = threading.Lock(), OrderedDict()
        self._open()

    def _open(self) -> None:
        with zipfile.ZipFile(self.archive) as opened:
            self._file = opened.open(f'{self.name}.npy')  # stays open when the archive is closed
        version = np.lib.format.read_magic(self._file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, fortran, self.dtype = read(self._file)
        if fortran or self.dtype.hasobject:
            raise ValueError(f'array {self.name} of type {self.dtype} is not one of plain rows')
        self.at = 0

    def _take(self) -> np.ndarray:
        """The next block, [up to `BLOCK`, ...]."""
        rows = min(BLOCK, self.shape[0] - self.at)
        size = rows * int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        content = self._file.read(size)
        if len(content) != size:
            raise EOFError(f'array {self.name} ends in row {self.at + len(content) * rows // max(size, 1)}')
        self.at += rows
        if self.at == self.shape[0]:  # read to its end: the file need not stay open
            self._file.close()
        return np.frombuffer(content, dtype=self.dtype).reshape(rows, *self.shape[1:])

    def _read(self, start: int) -> np.ndarray:
        """The block that begins with a row."""
        try:
            if self.at > start or self._file.closed:
                self._file.close()
                self._open()
            while self.at < start:
                self._take()
            return self._take()
        except BaseException:
            self._file.close()
            raise

    def __getitem__(self, row: int) -> np.ndarray:
        start = row - row % BLOCK
        with self._lock:
            if start not in self._blocks:
                self._blocks[start] = self._read(start)
            self._blocks.move_to_end(start)
            while len(self._blocks) > KEPT:
                self._blocks.popitem(last=False)
            return self._blocks[start][row - start]


@lru_cache(maxsize=3)  # the splits of one archive
def _rows(archive: Path, state: tuple[int, int], name: str) -> _Rows:
    return _Rows(archive, name)


@lru_cache(maxsize=64)
def _shapes(archive: Path, state: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    with zipfile.ZipFile(archive) as opened:
        names = [name.removesuffix('.npy') for name in opened.namelist()]
    found = {name: _Rows(archive, name) for name in names}
    return {name: (rows.shape, rows.dtype) for name, rows in found.items()}


def shapes(archive: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of an archive. Raises BadInput if it is none, is cut off, or holds objects."""
    try:
        return _shapes(archive, _state(archive))
    except DAMAGED as error:
        if not archive.is_file():
            raise BadInput(f'{archive}: no such file') from error
        raise _damaged(archive, error) from error


def column(archive: Path, name: str) -> np.ndarray:
    """A whole array that fits into memory, such as the labels. Raises BadInput as `shapes`."""
    try:
        with np.load(archive, allow_pickle=False) as opened:
            return opened[name]
    except DAMAGED as error:
        raise _damaged(archive, error) from error


def read_row(path: Path) -> Image.Image:
    """The image of one row, mode L or RGB. Raises BadInput where the archive is damaged or has no such row."""
    archive, split, row = parts(path)
    found = shapes(archive).get(f'{split}_images')
    if found is None or not 0 <= row < found[0][0]:
        raise BadInput(f'{path}: {archive.name} has no such row')
    try:
        pixels = _rows(archive, _state(archive), f'{split}_images')[row]
    except DAMAGED as error:
        raise _damaged(archive, error) from error
    if pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (3,)):
        raise BadInput(
            f'{path}: an image of shape {pixels.shape} and type {pixels.dtype}, not [H, W] or [H, W, 3] bytes'
        )
    return Image.fromarray(pixels)


def is_there(path: str | os.PathLike) -> bool:
    """Whether an image is there: a file, or a row of an archive."""
    if not is_row(path):
        return os.path.isfile(path)
    try:
        archive, split, row = parts(path)
        found = shapes(archive).get(f'{split}_images')
    except BadInput:
        return False
    return found is not None and row < found[0][0]


def state_of(path: str | os.PathLike) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds of the file that an image lies in."""
    return _state(parts(path)[0] if is_row(path) else Path(path))


def bytes_of(path: Path) -> bytes:
    """What two rows that show the same share: shape and pixels of an image. Raises BadInput as `read_row`."""
    picture = read_row(path)
    return f'{picture.mode} {picture.size} '.encode() + picture.tobytes()
