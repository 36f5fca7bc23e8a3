"""Natural images for pre-training: any folder-per-class set, as a tree of folders or as tar files of one.

Decoded once into a memory-mapped array, so a restart costs nothing.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

IMAGE_SUFFIXES = ('.jpeg', '.jpg', '.png', '.bmp')


@dataclass
class NaturalImages:
    """Packed images: `images` [N, S, S, 3] uint8, `labels` [N] int64, `classes` folder names in label order.

    `captions` are the classes in words: from a `words.txt` (folder name, tab, words) in the source, else the folders'.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    captions: list[str]

    def split(self, held_out_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers for training and for the held-out accuracy, the same share of every class."""
        generator = np.random.default_rng(seed)
        train, held_out = [], []
        for label in range(len(self.classes)):
            rows = np.flatnonzero(self.labels == label)
            generator.shuffle(rows)
            cut = round(len(rows) * held_out_share)
            held_out.append(rows[:cut])
            train.append(rows[cut:])
        return np.concatenate(train), np.concatenate(held_out)


def _class_of(path: str) -> str:
    """The class folder of an image: its parent, or its grandparent for Tiny ImageNet's `<class>/images/x.JPEG`."""
    parents = Path(path).parts[:-1]
    if not parents:
        raise ValueError(f'{path}: lies in no class folder; expected <class>/<image> or <class>/images/<image>')
    return parents[-2] if parents[-1] == 'images' and len(parents) > 1 else parents[-1]


def _members(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Class, path and file content of every image below `folder`, tar files read in place."""
    for archive in sorted(folder.glob('*.tar')):
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(IMAGE_SUFFIXES):
                    yield _class_of(member.name), f'{archive}:{member.name}', tar.extractfile(member).read()
    for path in sorted(folder.rglob('*')):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            yield _class_of(str(path.relative_to(folder))), str(path), path.read_bytes()


def _decode(content: bytes, name: str, size: int) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(content)).convert('RGB')
    except OSError as error:
        raise ValueError(f'{name}: not a readable image ({error}); remove it or fetch it again') from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))


def pack(folder: str | os.PathLike, cache: str | os.PathLike, size: int = 64) -> NaturalImages:
    """Decode every image below `folder` to [size, size, 3], or read the pack made by an earlier call.

    Raises:
        FileNotFoundError: no folder, or no image in it.
        ValueError: an image that cannot be read, or that lies in no class folder.
    """
    folder, cache = Path(folder), Path(cache)
    index = cache / 'index.json'
    if not index.exists():
        if not folder.is_dir():
            raise FileNotFoundError(f'{folder}: no such folder; give a folder-per-class set of natural images')
        cache.mkdir(parents=True, exist_ok=True)
        _write_pack(folder, cache, size)
    info = json.loads(index.read_text())
    if info['size'] != size or info['folder'] != str(folder.resolve()):
        raise ValueError(f'{cache}: holds {info["folder"]} at {info["size"]} px, not {folder} at {size} px; delete it')
    images = np.load(cache / 'images.npy', mmap_mode='r')
    return NaturalImages(images, np.asarray(info['labels']), info['classes'], _captions(folder, info['classes']))


def _captions(folder: Path, classes: list[str]) -> list[str]:
    words = folder / 'words.txt'
    if not words.exists():
        return [name.replace('_', ' ') for name in classes]
    known = dict(line.split('\t', 1) for line in words.read_text().splitlines() if '\t' in line)
    return [known.get(name, name) for name in classes]


def _write_pack(folder: Path, cache: Path, size: int) -> None:
    """Images first, then the index by a rename: a pack without index is an unfinished one and is made again."""
    pictures, names = [], []
    for name, path, content in tqdm(_members(folder), desc=f'decoding {folder.name}', unit=' images', mininterval=5):
        pictures.append(_decode(content, path, size))
        names.append(name)
    if not pictures:
        raise FileNotFoundError(f'{folder}: holds no {", ".join(IMAGE_SUFFIXES)} image and no tar file of any')
    classes = sorted(set(names))
    number = {name: i for i, name in enumerate(classes)}
    np.save(cache / 'images.npy', np.stack(pictures))
    info = {
        'folder': str(folder.resolve()),
        'size': size,
        'classes': classes,
        'labels': [number[name] for name in names],
    }
    partial = cache / 'index.json.partial'
    partial.write_text(json.dumps(info))
    os.replace(partial, cache / 'index.json')
