"""The packed cache: a dataset's images decoded once, as one array on disk that is mapped into memory.

<root>/<dataset>-<hash of its folder>/   manifest_<source>.parquet   images_<size>_<source>.npy   lock

<source> is the hash of the list, sizes and times of the source's files with their labels: a source that changed has
another, so that a stale pack is never read. A file is written under a partial name and renamed when it is whole; a pack
that was stopped is gone on with (`packing.py`). Writers hold a lock of the operating system, which ends with the
process, and readers need none.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm import tqdm

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import arrays
from medpeft_utils.data.decode import read_image
from medpeft_utils.data.packing import WAY_OUT, Blocks, pack

log = logging.getLogger(__name__)
BLOCK = 256  # images in memory at a time


def cache_root(cache: str | os.PathLike | None = None) -> Path:
    """The folder of all caches: the argument, else $MEDPEFT_CACHE, else ~/.cache/medpeft."""
    return Path(cache or os.environ.get('MEDPEFT_CACHE') or Path.home() / '.cache' / 'medpeft').expanduser()


def threads() -> int:
    """Threads for decoding: the CPUs that this process may use, at most eight."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return min(usable, 8)


def mapped(paths: list[Path], work: Callable, words: str) -> Iterator[list]:
    """`work` over all paths in order, block by block, on several threads, with a progress bar."""
    bar = tqdm(total=len(paths), desc=words, unit=' images', disable=len(paths) < BLOCK)
    with ThreadPoolExecutor(threads()) as pool, bar:
        for start in range(0, len(paths), BLOCK):
            yield list(pool.map(work, paths[start : start + BLOCK]))
            bar.update(min(BLOCK, len(paths) - start))


def decoded(paths: list[Path], size: int, words: str, reduced_to: int = 0) -> Iterator[np.ndarray]:
    """Blocks of decoded images, [up to 256, size, size, 3] uint8 each, reduced to a side first where one is given."""
    for block in mapped(paths, lambda path: read_image(path, size, reduced_to), f'decoding {words}'):
        yield np.stack(block)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises BadInput where it cannot be read."""
    if arrays.is_row(path):
        return hashlib.sha256(arrays.bytes_of(path)).hexdigest()
    try:
        with path.open('rb') as file:
            return hashlib.file_digest(file, 'sha256').hexdigest()
    except OSError as error:
        raise BadInput(
            f'{path}: cannot be read ({error.strerror or error}); mend its permissions or remove it'
        ) from error


def digests(paths: list[Path], words: str) -> list[str]:
    """SHA-256 of every file, in hex: equal for exact duplicates."""
    return [digest for block in mapped(paths, file_digest, f'reading {words}') for digest in block]


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Run `write` on a partial name, then rename: the file is there whole or not at all."""
    partial = path.with_name(path.name + '.partial')
    try:
        write(partial)
        os.replace(partial, path)
    except OSError as error:
        raise BadInput(f'{path}: the cache cannot be written ({error.strerror or error}); {WAY_OUT}') from error
    finally:
        partial.unlink(missing_ok=True)


def _open_pack(path: Path, shape: tuple[int, ...]) -> np.memmap | None:
    """The mapped images, or None where there is no whole pack."""
    if not path.exists():
        return None
    try:
        images = np.load(path, mmap_mode='r')
    except (ValueError, EOFError) as error:
        log.warning('%s: cut short or damaged (%s); the images are decoded again', path, error)
        return None
    if images.shape != shape or images.dtype != np.uint8:
        log.warning('%s: holds %s, not %s; the images are decoded again', path, images.shape, shape)
        return None
    return images


def _open_manifest(path: Path, needed: tuple[str, ...] = ()) -> pd.DataFrame | None:
    """The stored manifest, or None where there is no whole one with the columns needed."""
    if not path.exists():
        return None
    try:
        frame = pd.read_parquet(path)
        return frame if set(needed) <= set(frame) else None
    except (ValueError, OSError) as error:  # pyarrow's own errors are of these
        log.warning('%s: cut short or damaged (%s); it is made again', path, error)
        return None


class Store:
    """The cache folder of one dataset from one folder.

    Args:
        root: folder of all caches.
        key: name of the dataset and hash of where it lies.
        source: hash of the source as it is now.
    """

    def __init__(self, root: Path, key: str, source: str):
        self.folder, self.key, self.source = root / key, key, source

    def _opened(self, look: Callable[[], Any], make: Callable[[], None] | None) -> Any:
        """What `look` finds; where that is nothing and `make` is given, made under the lock of this folder."""
        found = look()
        if found is not None or make is None:
            return found
        lock = FileLock(self.folder / 'lock')
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise BadInput(
                f'{self.folder}: the cache folder cannot be made or written ({error.strerror or error}); {WAY_OUT}'
            ) from error
        try:
            if (found := look()) is None:  # another process may have made it meanwhile
                make()
                found = look()
            return found
        finally:
            lock.release()

    def manifest(
        self, make: Callable[[], pd.DataFrame] | None = None, needed: tuple[str, ...] = ()
    ) -> pd.DataFrame | None:
        """The stored manifest; made and stored where there is none with the columns `needed` and `make` is given."""
        path = self.folder / f'manifest_{self.source}.parquet'

        def write() -> None:
            if any(other != path for other in self.folder.glob('manifest_*.parquet')):
                log.warning('%s: the source has changed since it was packed; it is packed again', self.key)
            write_whole(path, make().to_parquet)
            self._remove_others('manifest_*.parquet', 'images_*.partial', 'images_*.progress')

        return self._opened(lambda: _open_manifest(path, needed), make and write)

    def images(self, size: int, count: int, blocks: Blocks | None = None) -> np.memmap | None:
        """The packed images [count, size, size, 3]; made and stored where there are none and `blocks` is given."""
        path, shape = self.folder / f'images_{size}_{self.source}.npy', (count, size, size, 3)

        def write() -> None:
            pack(path, shape, blocks)
            self._remove_others(f'images_{size}_*.npy')

        return self._opened(lambda: _open_pack(path, shape), blocks and write)

    def sizes(self) -> list[int]:
        """Sizes in pixels at which this source is packed."""
        return sorted(int(path.name.split('_')[1]) for path in self.folder.glob(f'images_*_{self.source}.npy'))

    def _remove_others(self, *patterns: str) -> None:
        """Remove what was made of an earlier state of the source; a process that has it open keeps it."""
        for path in (path for pattern in patterns for path in self.folder.glob(pattern)):
            if self.source not in path.name:
                path.unlink(missing_ok=True)
