"""From an image-text set's name or CSV to `Pairs`: read, check, split, decode once into the packed cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from medpeft_utils.core.errors import BadInput, UnknownName
from medpeft_utils.data.cache import BLOCK, Store, cache_root, decoded, digests, write_whole
from medpeft_utils.data.files import read_table, require_columns
from medpeft_utils.data.manifest import source_hash
from medpeft_utils.text_image import manifest
from medpeft_utils.text_image.cards import CARDS, PairCard
from medpeft_utils.text_image.pairs import Pairs, nested_rows
from medpeft_utils.text_image.sources import READERS, Reading

log = logging.getLogger(__name__)
READING = 'impressions', 'reports', 'manifest', 'loading'  # the code that decides what is read
LAYOUT = 'give a CSV with columns image,text[,group][,split]'


@dataclass(frozen=True)
class Choice:
    """What is asked of a set: which splits, and how many training pairs (None: all) in which order of patients."""

    split_seed: int = 0
    train_pairs: int | None = None
    subset_seed: int = 0

    def kept(self, frame: pd.DataFrame, label: str) -> np.ndarray:
        """Rows of a split manifest to be packed. Raises BadInput where there are too few training pairs."""
        if not self.train_pairs:
            return np.arange(len(frame))
        split, groups = frame['split'].to_numpy(dtype=str), frame['group'].to_numpy(dtype=str)
        train = np.flatnonzero(split == 'train')
        if not 0 < self.train_pairs <= len(train):
            raise BadInput(f'train_pairs={self.train_pairs:,} of {label}: there are {len(train):,}; 0 takes all')
        train = nested_rows(train, groups[train], self.train_pairs, self.subset_seed)
        return np.sort(np.concatenate([train, np.flatnonzero(split != 'train')]))


@dataclass(frozen=True)
class Source:
    """A set as it lies on disk: card, folder that image paths start from, file or folder to name in messages.

    `read` lists it; `stamp` stands for its state where it is too large to be looked at every time, else it is ''.
    """

    card: PairCard
    root: Path
    where: Path
    read: Callable[[], Reading]
    stamp: str = ''

    @property
    def key(self) -> str:
        """The name of its cache folder: the set, and the place, since two places can hold two versions."""
        place = hashlib.sha256(str(self.where.resolve()).encode()).hexdigest()[:8]
        return f'pairs-{self.card.name}-{place}'

    def listed(self) -> Reading:
        """Its pairs, normalised and not yet checked."""
        reading = self.read()
        return Reading(manifest.normalised(reading.frame, self.root), reading.left_out)


def _stamp(files: Sequence[Path]) -> str:
    """Hash of the states of files and of the code that reads them."""
    here = Path(__file__).parent
    code = [here / f'{name}.py' for name in READING] + sorted(here.glob('sources/*.py'))
    states = [f'{path.name} {(s := os.stat(path)).st_size} {s.st_mtime_ns}' for path in files]
    return hashlib.sha256(b'\0'.join([*(path.read_bytes() for path in code), *map(str.encode, states)])).hexdigest()[
        :16
    ]


def read_csv(path: Path) -> Reading:
    """A CSV with columns image and text, and optionally group, split, `finding:NAME` and others, which are kept.

    Raises BadInput where a column is missing or there is no row.
    """
    table = read_table(path)
    table.columns = [column.replace('finding: ', manifest.FINDING) for column in table.columns]
    require_columns(table, ('image', 'text'), path)
    if table.empty:
        raise BadInput(f'{path}: has a header and no rows; {LAYOUT}')
    return Reading(table.drop(columns='stratum', errors='ignore'))


def open_source(name_or_path: str | os.PathLike, folder: str | os.PathLike | None = None) -> Source:
    """Find an image-text set on disk, without listing it.

    Args:
        name_or_path: a set's name, or a CSV file.
        folder: for a name, where the published download lies; for a CSV, the folder that its paths start from (that of
            the CSV itself where None).
    Raises:
        UnknownName: neither a name nor a CSV file.
        BadInput: not in the layout that is expected.
    """
    folder = Path(folder).expanduser() if folder else None
    if str(name_or_path) in CARDS:
        card = CARDS[str(name_or_path)]
        if card.synthetic:
            raise BadInput(f'{card.name!r} is drawn where it is used and has no folder; leave the folder out')
        if folder is None:
            raise BadInput(f'{card.name!r}: name the folder of the download; {card.how_to_obtain}')
        reader = READERS[card.name]
        root = reader.root_of(folder)
        stamp = _stamp(reader.stamps(root)) if reader.stamps else ''
        return Source(card, root, root, lambda: reader.read(root), stamp)
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() != '.csv':
        raise UnknownName('image-text set', str(name_or_path), CARDS, f'medpeft pairs list; or {LAYOUT[5:]}')
    card = PairCard(
        name=path.stem,
        label=path.stem,
        modality='as given',
        texts='as given',
        group='group',
        splits='as given, or made by group where none are',
        source=f'own data: {path}',
        how_to_obtain='it is there already',
        licence='as the owner says',
    )
    return Source(card, folder or path.parent, path, lambda: read_csv(path))


def _make_full(source: Source, reading: Reading) -> pd.DataFrame:
    """The checked manifest as it is stored, with hashes of the files where splits are to be made from it."""
    frame = manifest.checked(reading.frame, source.root, str(source.where))
    if (frame['split'] == '').all():
        paths = [source.root / image for image in frame['image'].tolist()]
        frame = frame.assign(sha256=digests(paths, source.card.label))
    frame.attrs = {'left_out': dict(reading.left_out)}
    return frame


def _full_manifest(source: Source, root: Path) -> tuple[pd.DataFrame, Store]:
    """The set's whole manifest from its store, made where it is not there or the source has changed."""
    if source.stamp:
        store = Store(root, source.key, source.stamp)
        return store.manifest(lambda: _make_full(source, source.listed())), store
    reading = source.listed()
    frame = manifest.checked(reading.frame, source.root, str(source.where))
    store = Store(root, source.key, source_hash(frame, source.root))
    return store.manifest(lambda: _make_full(source, reading)), store


def _close(folder: Path, card: PairCard) -> None:
    """Credentialed images and texts are in this cache folder now: close it to other users of the machine."""
    if card.credentialed and folder.is_dir():
        folder.chmod(0o700)


def _packed(card: PairCard, full: pd.DataFrame, store: Store, choice: Choice, size: int, folder: Path | None) -> Pairs:
    """The pairs that a choice takes, their images from the pack (decoded into it where `folder` is given)."""
    split = manifest.with_splits(full, choice.split_seed, card.label)
    rows = choice.kept(split, card.label)
    chosen = split.iloc[rows].reset_index(drop=True)
    if len(rows) < len(full):  # a pack of its own, beside others
        part = hashlib.sha256('\n'.join([store.source, *chosen['image'].tolist()]).encode()).hexdigest()[:16]
        wanted = f'{choice.train_pairs}-{choice.split_seed}-{choice.subset_seed}'
        store = Store(store.folder.parent, f'{store.key}-train{wanted}', part)
    paths = [folder / image for image in chosen['image'].tolist()] if folder else []
    words = f'{card.label} at {size} px'
    images = store.images(size, len(chosen), (lambda start: decoded(paths[start:], size, words)) if folder else None)
    if images is None:
        sizes = ', '.join(f'{size} px' for size in store.sizes()) or 'none'
        raise BadInput(
            f'{card.name!r} was prepared from a folder that is gone, and these pairs are not packed at {size} px '
            f'(packed: {sizes}); run `medpeft pairs prepare {card.name} FOLDER` again'
        )
    _close(store.folder, card)
    return Pairs(card, images, chosen, folder, full.attrs.get('left_out', {}))


def _load_listed(source: Source, size: int, choice: Choice, root: Path) -> tuple[Pairs, Store]:
    full, store = _full_manifest(source, root)
    _close(store.folder, source.card)
    return _packed(source.card, full, store, choice, size, source.root), store


def _pointer(name: str, root: Path) -> Path:
    return root / f'pairs-{name}.json'


def prepared_folder(name: str, cache: str | os.PathLike | None = None) -> Path | None:
    """The folder from which a set was prepared on this machine, None where it was not."""
    pointer = _pointer(name, cache_root(cache))
    return Path(json.loads(pointer.read_text())['folder']) if pointer.exists() else None


def _load_prepared(card: PairCard, size: int, choice: Choice, root: Path) -> Pairs:
    """A set that `prepare_pairs` has seen: from its folder, or from the cache alone where the folder is gone."""
    pointer = _pointer(card.name, root)
    if not pointer.exists():
        raise BadInput(
            f'{card.name!r} is not prepared on this machine: name the folder of the download, or run '
            f'`medpeft pairs prepare {card.name} FOLDER` once; {card.how_to_obtain}'
        )
    known = json.loads(pointer.read_text())
    if Path(known['folder']).is_dir():
        return _load_listed(open_source(card.name, known['folder']), size, choice, root)[0]
    store = Store(root, known['key'], known['source'])
    full = store.manifest()
    if full is None:
        raise BadInput(f'{card.name!r}: both {known["folder"]} and its cache are gone; prepare it again')
    return _packed(card, full, store, choice, size, None)


def _drawn_blocks(label: str, size: int, count: int, first: int) -> Iterator[np.ndarray]:
    from medpeft_utils.text_image import synthetic

    for start in tqdm(range(first, count, BLOCK), desc=f'drawing {label} at {size} px', unit=f'x{BLOCK} images'):
        yield synthetic.images(size, 0, range(start, min(start + BLOCK, count)))


def _load_synthetic(card: PairCard, size: int, choice: Choice, root: Path) -> Pairs:
    from medpeft_utils.data import synthetic as drawing
    from medpeft_utils.text_image import synthetic

    synthetic.require_size(size)
    files = [*sorted(Path(synthetic.__file__).parent.glob('*.py')), Path(drawing.__file__).parent / 'canvas.py']
    code = hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()[:16]
    frame, hot = synthetic.describe(0)
    columns = [f'{manifest.FINDING}{name}' for name in synthetic.NAMES]
    frame = pd.concat([frame, pd.DataFrame(hot, columns=columns)], axis=1)
    store = Store(root, f'pairs-{card.name}', code)
    images = store.images(size, len(frame), lambda start: _drawn_blocks(card.label, size, len(frame), start))
    rows = choice.kept(frame, card.label)
    chosen = frame.iloc[rows].reset_index(drop=True)
    return Pairs(card, images if len(rows) == len(frame) else images[rows], chosen)


def load_pairs(
    name_or_path: str | os.PathLike,
    folder: str | os.PathLike | None = None,
    image_size: int = 64,
    split_seed: int = 0,
    train_pairs: int | None = None,
    subset_seed: int = 0,
    cache: str | os.PathLike | None = None,
) -> Pairs:
    """Load an image-text set: checked, split by patient, and decoded into the packed cache where it is not there yet.

    Args:
        name_or_path: a name (`medpeft pairs list`), or a CSV file with columns image,text[,group][,split].
        folder: where the published download lies; None or '' for what was prepared before and for synthetic pairs.
        image_size: side in pixels to which every image is resized whole.
        split_seed: which of the splits by patient; without effect where splits are given.
        train_pairs: how many training pairs are wanted (None or 0: all); only they, validation and test are packed.
            The same pairs as `train_rows(train_pairs, subset_seed)` gives of the whole set.
        subset_seed: which patients come first.
        cache: folder of the packed cache; else $MEDPEFT_CACHE, else ~/.cache/medpeft. For credentialed data it holds
            images and texts, and must be kept as the download is.
    Raises:
        UnknownName: no such set.
        BadInput: what is wrong with the download, the table or an image, with its name.
    """
    if not 16 <= image_size <= 4096:
        raise BadInput(f'image_size={image_size}: give a side in pixels from 16 to 4096')
    root, choice = cache_root(cache), Choice(split_seed, train_pairs, subset_seed)
    if str(name_or_path) in CARDS and not folder:
        card = CARDS[str(name_or_path)]
        return (_load_synthetic if card.synthetic else _load_prepared)(card, image_size, choice, root)
    return _load_listed(open_source(name_or_path, folder), image_size, choice, root)[0]


def prepare_pairs(
    name_or_path: str | os.PathLike,
    folder: str | os.PathLike | None = None,
    image_sizes: Sequence[int] = (64,),
    train_pairs: int | None = None,
    cache: str | os.PathLike | None = None,
) -> Pairs:
    """Check a download, pack it at every size asked for, and note where it lies, so that its name is enough later.

    Returns the pairs at the last size. Raises as `load_pairs` does.
    """
    root = cache_root(cache)
    if str(name_or_path) in CARDS and CARDS[str(name_or_path)].synthetic and not folder:
        return [load_pairs(name_or_path, None, size, cache=root) for size in image_sizes][-1]
    source = open_source(name_or_path, folder)
    for size in image_sizes:
        loaded, store = _load_listed(source, size, Choice(train_pairs=train_pairs), root)
    if loaded.name in CARDS:
        known = {'folder': str(source.root.resolve()), 'key': store.key, 'source': store.source}
        write_whole(_pointer(loaded.name, root), lambda partial: partial.write_text(json.dumps(known)))
    return loaded
