"""The packed cache: written whole or not at all, made once, never stale, never harmed by a failure."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_datasets import draw, make_busi

from medpeft_utils import data
from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import cache, packing

ROOT = Path(__file__).resolve().parents[1]


def decoded_files(monkeypatch) -> list[Path]:
    """A list that fills with every file that is decoded from now on."""
    seen: list[Path] = []
    original = cache.read_image
    monkeypatch.setattr(cache, 'read_image', lambda path, size, *more: seen.append(path) or original(path, size, *more))
    return seen


def test_decoded_once_and_read_only(tmp_path, monkeypatch):
    root, seen = make_busi(tmp_path), decoded_files(monkeypatch)
    loaded = data.load('breastus', root, 16)
    assert len(seen) == 19
    assert isinstance(data.load('breastus', root, 16).images, np.memmap) and len(seen) == 19
    with pytest.raises(ValueError):
        loaded.images[0] = 0
    data.load('breastus', root, 24)
    assert len(seen) == 38  # another size is another pack


def test_changed_source_is_packed_again(tmp_path, monkeypatch, caplog):
    root, seen = make_busi(tmp_path), decoded_files(monkeypatch)
    old = data.load('breastus', root, 16)
    draw(root / 'benign' / 'benign (1).png', 999, size=(30, 30))
    new = data.load('breastus', root, 16)
    assert len(seen) == 38 and 'has changed' in caplog.text
    row = new.manifest.index[new.manifest['image'] == 'benign/benign (1).png'][0]
    assert (new.images[row] != old.images[row]).any()  # the old one is still whole where it is open
    draw(root / 'normal' / 'normal (77).png', 77)
    assert len(data.load('breastus', root, 16)) == 20


@pytest.mark.parametrize('pattern', ['images_16_*.npy', 'manifest_*.parquet'])
@pytest.mark.parametrize('left', [0, 50, 2000])
def test_cut_cache_is_noticed(tmp_path, caplog, pattern, left):
    root, store = make_busi(tmp_path / 'set'), tmp_path / 'cache'
    whole = data.load('breastus', root, 16, cache=store)
    expected = np.array(whole.images)
    (file,) = store.rglob(pattern)
    with file.open('r+b') as handle:
        handle.truncate(left)
    again = data.load('breastus', root, 16, cache=store)
    assert (again.images == expected).all() and again.split_hash == whole.split_hash
    assert 'cut short' in caplog.text and file.name in caplog.text


KILLED = """
import os, signal, sys
from medpeft_utils import data
from medpeft_utils.data import cache
cache.BLOCK, original, seen = 4, cache.read_image, []
def killing(path, size, *more):
    seen.append(path)
    if len(seen) == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(path, size, *more)
cache.read_image, cache.threads = killing, lambda: 1
data.load('breastus', sys.argv[1], 16, cache=sys.argv[2])
"""


def kill_in_packing(root: Path, store: Path) -> None:
    """Pack in a process that is killed while it decodes image 15 of 19; three blocks of four are written by then."""
    store.mkdir()
    killed = subprocess.run([sys.executable, '-c', KILLED, str(root), str(store)], cwd=ROOT, timeout=60)
    assert killed.returncode == -9
    assert not list(store.rglob('*.npy')) and len(list(store.rglob('*.npy.partial'))) == 1


@pytest.fixture(scope='module')
def left_by_a_kill(tmp_path_factory) -> tuple[Path, Path]:
    """A dataset, and the cache that a killed process left of it; to be copied."""
    folder = tmp_path_factory.mktemp('killed')
    kill_in_packing(make_busi(folder / 'set'), folder / 'cache')
    return folder / 'set' / 'Dataset_BUSI_with_GT', folder / 'cache'


def test_killed_and_started_again_it_goes_on(left_by_a_kill, tmp_path, monkeypatch, caplog):
    root, store = left_by_a_kill[0], shutil.copytree(left_by_a_kill[1], tmp_path / 'cache')
    seen = decoded_files(monkeypatch)
    loaded = data.load('breastus', root, 16, cache=store)
    assert len(seen) == 19 - 12 and '12 of 19 images are there from before' in caplog.text
    assert (loaded.images == data.load('breastus', root, 16, cache=tmp_path / 'other').images).all()
    assert not list(store.rglob('*.partial')) and not list(store.rglob('*.progress'))


@pytest.mark.parametrize('harm', ['bytes', 'short', 'header', 'note', 'no notes'])
def test_blocks_that_are_not_as_noted_are_not_counted(left_by_a_kill, tmp_path, monkeypatch, harm):
    root, store = left_by_a_kill[0], shutil.copytree(left_by_a_kill[1], tmp_path / 'cache')
    (partial,), (progress,) = store.rglob('*.partial'), store.rglob('*.progress')
    size, block = partial.stat().st_size, 4 * 16 * 16 * 3
    with partial.open('r+b') as file:
        if harm == 'bytes':  # in the second block, as after a loss of power
            file.seek(size - 2 * block + 5)
            file.write(bytes(64))
        elif harm == 'short':
            file.truncate(size - block // 2)
        elif harm == 'header':
            file.write(b'none')
    if harm == 'note':
        progress.write_text(progress.read_text() + '4 garbage')
    elif harm == 'no notes':
        progress.unlink()
    seen = decoded_files(monkeypatch)
    loaded = data.load('breastus', root, 16, cache=store)
    kept = {'bytes': 4, 'short': 8, 'header': 0, 'note': 12, 'no notes': 0}[harm]
    assert len(seen) == 19 - kept
    assert (loaded.images == data.load('breastus', root, 16, cache=tmp_path / 'other').images).all()


def test_what_was_begun_of_another_source_is_not_gone_on_with(left_by_a_kill, tmp_path, monkeypatch):
    root, store = left_by_a_kill[0], shutil.copytree(left_by_a_kill[1], tmp_path / 'cache')
    added, seen = draw(root / 'benign' / 'benign (99).png', 999), decoded_files(monkeypatch)
    try:
        assert len(data.load('breastus', root, 16, cache=store)) == 20 and len(seen) == 20
    finally:
        added.unlink()
    assert not list(store.rglob('*.partial'))


def test_full_disk_is_named_and_harms_nothing(tmp_path, monkeypatch):
    root, store = make_busi(tmp_path / 'set'), tmp_path / 'cache'
    data.load('breastus', root, 16, cache=store)

    def full(descriptor):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(packing.os, 'fsync', full)
        with pytest.raises(BadInput, match=r'images_24.*No space left on device.*MEDPEFT_CACHE'):
            data.load('breastus', root, 24, cache=store)
    assert not [*store.rglob('*.partial'), *store.rglob('*.progress')]
    assert len(data.load('breastus', root, 16, cache=store)) == 19
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 9000, 9000)
    monkeypatch.setattr(packing.shutil, 'disk_usage', lambda folder: usage)
    with pytest.raises(BadInput, match=r'images_24.* needs 0 MB more, and 0 MB are free; free space.*MEDPEFT_CACHE'):
        data.load('breastus', root, 24, cache=store)  # told before anything is decoded
    assert not list(store.rglob('images_24*'))


@pytest.mark.parametrize('limit', [200, 20_000])
def test_a_write_that_the_system_refuses(tmp_path, limit):
    """A real refusal, by the limit on a file's size: of the manifest, and of the pack (33 KB) in its middle."""
    root, store = make_busi(tmp_path / 'set'), tmp_path / 'cache'
    code = (
        'import resource, sys; from medpeft_utils.cli import main\n'
        f'resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n'
        'main(["data", "prepare", "breastus", sys.argv[1], "--cache", sys.argv[2], "--image-size", "24"])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, str(root), str(store)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f'error: {store}') and 'File too large' in line and 'MEDPEFT_CACHE' in line
    assert not [path for path in store.rglob('*') if path.suffix in ('.npy', '.partial', '.progress', '.json')]
    assert data.prepare('breastus', root, (24,), cache=store).images.shape == (19, 24, 24, 3)


def test_rows_are_read_in_their_order(tmp_path):
    loaded = data.load('breastus', make_busi(tmp_path), 16)
    rows = np.array([7, 0, 18, 7])
    assert (packing.take(loaded.images, rows) == loaded.images[rows]).all()
    buffer = np.empty((4, 16, 16, 3), np.uint8)
    assert packing.take(loaded.images, rows, buffer) is buffer and (buffer == loaded.images[rows]).all()
    for wrong in (np.array([0, 19]), np.array([-1, 0])):
        with pytest.raises(IndexError, match='of 19 images'):
            packing.take(loaded.images, wrong)
    assert len(packing.take(loaded.images, np.array([], dtype=int))) == 0


def test_several_processes_pack_once(tmp_path):
    root = make_busi(tmp_path / 'set')
    code = (
        'import sys; from medpeft_utils import data; from medpeft_utils.data import cache\n'
        'original = cache.read_image\n'
        'cache.read_image = lambda path, *more: (print("decoded"), original(path, *more))[1]\n'
        'loaded = data.load("breastus", sys.argv[1], 16, cache=sys.argv[2]); print(loaded.images.sum())'
    )
    command = [sys.executable, '-c', code, str(root), str(tmp_path / 'cache')]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
    outputs = [run.communicate(timeout=60)[0] for run in runs]
    assert sum(output.count('decoded') for output in outputs) == 19  # threads decode: two may share a line
    assert len({output.split()[-1] for output in outputs}) == 1


def test_several_threads_of_one_process(tmp_path):
    root, results = make_busi(tmp_path / 'set'), []
    work = [
        threading.Thread(target=lambda: results.append(data.load('breastus', root, 16, cache=tmp_path / 'cache')))
        for _ in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len({result.split_hash for result in results}) == 1 and len(results) == 4


def test_prepared_once_known_by_name(tmp_path):
    root, store = make_busi(tmp_path / 'set'), tmp_path / 'cache'
    with pytest.raises(BadInput, match=r'not prepared.*medpeft data prepare breastus'):
        data.load('breastus', cache=store)
    prepared = data.prepare('breastus', root, (16, 24), cache=store)
    assert data.load('breastus', '', 16, cache=store).split_hash == prepared.split_hash
    root.rename(tmp_path / 'moved')
    assert data.load('breastus', None, 24, cache=store).split_hash == prepared.split_hash  # the cache is enough
    with pytest.raises(BadInput, match=r'which is gone, and is not packed at 32 px \(packed: 16 px, 24 px\)'):
        data.load('breastus', None, 32, cache=store)
