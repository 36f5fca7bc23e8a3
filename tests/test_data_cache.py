"""The packed cache: written whole or not at all, made once, never stale, never harmed by a failure."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_datasets import draw, make_busi

from medpeft_utils import data
from medpeft_utils.data import cache
from medpeft_utils.errors import BadInput

ROOT = Path(__file__).resolve().parents[1]


def decoded_files(monkeypatch) -> list[Path]:
    """A list that fills with every file that is decoded from now on."""
    seen: list[Path] = []
    original = cache.read_image
    monkeypatch.setattr(cache, 'read_image', lambda path, size: seen.append(path) or original(path, size))
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


def test_interrupted_packing_leaves_nothing_half(tmp_path, monkeypatch):
    root, store = make_busi(tmp_path / 'set'), tmp_path / 'cache'
    monkeypatch.setattr(cache, 'BLOCK', 4)
    original, calls = cache.read_image, []

    def interrupted(path, size):
        calls.append(path)
        if len(calls) > 9:
            raise KeyboardInterrupt
        return original(path, size)

    monkeypatch.setattr(cache, 'read_image', interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.load('breastus', root, 16, cache=store)
    assert not list(store.rglob('*.npy*'))
    monkeypatch.setattr(cache, 'read_image', original)
    assert len(data.load('breastus', root, 16, cache=store)) == 19


def test_full_disk_is_named_and_harms_nothing(tmp_path, monkeypatch):
    root, store = make_busi(tmp_path / 'set'), tmp_path / 'cache'
    data.load('breastus', root, 16, cache=store)

    def full(path, shape, blocks):
        path.write_bytes(b'some')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(cache, '_write_blocks', full)
    with pytest.raises(BadInput, match=r'images_24.*No space left on device.*MEDPEFT_CACHE'):
        data.load('breastus', root, 24, cache=store)
    assert not list(store.rglob('*.partial'))
    assert len(data.load('breastus', root, 16, cache=store)) == 19


def test_several_processes_pack_once(tmp_path):
    root = make_busi(tmp_path / 'set')
    code = (
        'import sys; from medpeft_utils import data; from medpeft_utils.data import cache\n'
        'original = cache.read_image\n'
        'cache.read_image = lambda path, size: (print("decoded"), original(path, size))[1]\n'
        'loaded = data.load("breastus", sys.argv[1], 16, cache=sys.argv[2]); print(loaded.images.sum())'
    )
    command = [sys.executable, '-c', code, str(root), str(tmp_path / 'cache')]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
    outputs = [run.communicate(timeout=60)[0].split() for run in runs]
    assert sum(output.count('decoded') for output in outputs) == 19
    assert len({output[-1] for output in outputs}) == 1


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
