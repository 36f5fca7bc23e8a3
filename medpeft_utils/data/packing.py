"""Packs of images: written block by block, resumed where stopped, named only when whole; and read by rows.

While it is written there are two files beside its place: NAME.partial with the images so far, and NAME.progress with
a line for each block: its number of images and the CRC-32 of its bytes. A process that is killed leaves both; the next
one takes over the blocks whose bytes are as noted, and no others. Plain writes, since a full disk kills a process that
writes through a memory map.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from medpeft_utils.core.errors import BadInput

log = logging.getLogger(__name__)
Blocks = Callable[[int], Iterable[np.ndarray]]  # from a row on: [b, S, S, 3] uint8 each
WAY_OUT = 'free space there, or name another folder in MEDPEFT_CACHE'


def leftovers(path: Path) -> tuple[Path, Path]:
    """The two files beside a pack while it is written: images and progress."""
    return path.with_name(path.name + '.partial'), path.with_name(path.name + '.progress')


def _header(shape: tuple[int, ...]) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array_header_2_0(content, {'descr': '|u1', 'fortran_order': False, 'shape': shape})
    return content.getvalue()


def _whole_blocks(path: Path, header: bytes, row: int) -> list[str]:
    """Lines of the progress file, as far as the bytes in the partial file are those that it notes."""
    partial, progress = leftovers(path)
    whole: list[str] = []
    if not (partial.exists() and progress.exists()):
        return whole
    with partial.open('rb') as file:
        if file.read(len(header)) != header:
            return whole
        for line in progress.read_text(errors='replace').splitlines():
            rows, _, code = line.partition(' ')
            content = file.read(int(rows) * row) if rows.isdecimal() else b''
            if not content or f'{zlib.crc32(content):08x}' != code:
                break
            whole.append(line)
    return whole


def _require_room(path: Path, size: int) -> None:
    """Raise BadInput where the disk has less room than the pack needs."""
    partial, _ = leftovers(path)
    needed = size - (partial.stat().st_size if partial.exists() else 0)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise BadInput(
            f'{path}: the cache needs {needed / 1e6:,.0f} MB more, and {free / 1e6:,.0f} MB are free; {WAY_OUT}'
        )


def _write(path: Path, shape: tuple[int, ...], blocks: Blocks) -> None:
    header, row = _header(shape), int(np.prod(shape[1:]))
    _require_room(path, len(header) + shape[0] * row)
    (partial, progress), whole = leftovers(path), _whole_blocks(path, header, row)
    done = sum(int(line.partition(' ')[0]) for line in whole)
    if done:
        log.warning('%s: %d of %d images are there from before; goes on', path, done, shape[0])
    with partial.open('r+b' if done else 'wb') as file, progress.open('w') as notes:
        file.write(header)
        file.truncate(len(header) + done * row)
        file.seek(0, os.SEEK_END)
        notes.writelines(f'{line}\n' for line in whole)
        notes.flush()
        for block in blocks(done):
            content = np.ascontiguousarray(block, dtype=np.uint8).data
            file.write(content)
            file.flush()
            notes.write(f'{len(block)} {zlib.crc32(content):08x}\n')
            notes.flush()
            done += len(block)
        os.fsync(file.fileno())
    if done != shape[0]:
        raise RuntimeError(f'{path}: {done} images were written, {shape[0]} were announced')
    os.replace(partial, path)


def pack(path: Path, shape: tuple[int, ...], blocks: Blocks) -> None:
    """Write images as one .npy file.

    Args:
        path: the file; it is there whole or not at all.
        shape: (N, S, S, 3).
        blocks: gives the images from a row on, in blocks.
    Raises:
        BadInput: it cannot be written (a full disk), or an image cannot be read; nothing is left behind then. What an
            interrupt or a kill leaves is taken up by the next call.
    """
    try:
        _write(path, shape, blocks)
    except OSError as error:
        _remove(path)
        raise BadInput(f'{path}: the cache cannot be written ({error.strerror or error}); {WAY_OUT}') from error
    except (BadInput, RuntimeError):
        _remove(path)
        raise
    leftovers(path)[1].unlink(missing_ok=True)


def _remove(path: Path) -> None:
    for left in leftovers(path):
        left.unlink(missing_ok=True)


def take(images: np.ndarray, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The images of some rows, in their order, as an array of their own.

    Three to five times as fast as `np.array(images[rows])`, which copies twice.

    Args:
        images: [N, S, S, 3] uint8, mapped or not.
        rows: [M] row numbers, all from 0 to N - 1.
        out: [M, S, S, 3] uint8 to fill in place of a new array, so that batches need no new memory.
    Returns:
        [M, S, S, 3] uint8.
    """
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(images):
        raise IndexError(f'rows {rows.min()} to {rows.max()} of {len(images)} images')
    return np.take(np.asarray(images), rows, axis=0, out=out, mode='clip')  # 'raise' would fill a copy first
