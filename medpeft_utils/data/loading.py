"""From a dataset's name, folder or CSV to a `Dataset`: read, check, split, decode once."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput, DoesNotFit, UnknownName
from medpeft_utils.core.hashing import digest
from medpeft_utils.data import drawn, duplicates, manifest, multi_label, own, sources, splits, texts
from medpeft_utils.data.cache import Store, cache_root, decoded, digests, mapped, write_whole
from medpeft_utils.data.cards import CARDS, DataCard, names
from medpeft_utils.data.dataset import Dataset
from medpeft_utils.data.decode import VERSION, examine_image
from medpeft_utils.data.drawn import generator_hash
from medpeft_utils.data.files import TABLES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What is asked of a dataset: which splits, and of one with texts how many training pairs, and which come first."""

    split_seed: int = 0
    folds: int = 0
    train_pairs: int | None = None
    subset_seed: int = 0

    def rows(self, frame: pd.DataFrame, label: str) -> np.ndarray:
        """Rows of a split manifest that are packed. Raises BadInput where there are too few training pairs."""
        if not self.train_pairs:
            return np.arange(len(frame))
        split, groups = frame['split'].to_numpy(dtype=str), frame['group'].to_numpy(dtype=str)
        train = np.flatnonzero(split == 'train')
        if not 0 < self.train_pairs <= len(train):
            raise BadInput(f'train_pairs={self.train_pairs:,} of {label}: there are {len(train):,}; 0 takes all')
        train = texts.nested_rows(train, groups[train], self.train_pairs, self.subset_seed)
        return np.sort(np.concatenate([train, np.flatnonzero(split != 'train')]))


@dataclass(frozen=True)
class Source:
    """A dataset as it lies on disk, listed when it is first asked for.

    Args:
        card: its card.
        root: the folder that image paths start from.
        where: the file or folder to name in messages.
        read: lists it.
        stamp: stands for its state where it is too large to be listed every time, else ''.
    """

    card: DataCard
    root: Path
    where: Path
    read: Callable[[], pd.DataFrame] = field(repr=False)
    stamp: str = ''

    @property
    def key(self) -> str:
        """The name of its cache folder: the dataset, and the place, since two places can hold two versions."""
        return f'{self.card.name}-{digest(str(self.where.resolve()), length=8)}'

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The manifest, normalised and not yet checked."""
        return manifest.normalised(self.read(), self.root, self.card.content)

    def checked(self) -> pd.DataFrame:
        """The manifest. Raises BadInput with what is wrong with it."""
        return manifest.checked(self.frame, self.root, self.card, str(self.where))

    def paths(self, frame: pd.DataFrame) -> list[Path]:
        return [self.root / image for image in frame['image'].tolist()]


def _stamp(card: DataCard, root: Path) -> str:
    """Hash of the files that stand for a large dataset, and of the code that lists it; '' for all others."""
    files = sources.stamps(card, root)
    if not files:
        return ''
    code = [Path(sys.modules[sources.reader(card)[1].__module__].__file__), Path(manifest.__file__)]
    states = [f'{path.name} {(s := os.stat(path)).st_size} {s.st_mtime_ns}' for path in files]
    return digest(*(path.read_bytes() for path in (*code, Path(texts.__file__), Path(__file__))), VERSION, *states)


def open_source(
    dataset: str | os.PathLike, folder: str | os.PathLike | None = None, with_texts: bool | None = None
) -> Source:
    """Find a dataset on disk, without opening an image.

    Args:
        dataset: a dataset's name, a folder with a folder per class, or a CSV file.
        folder: for a name, where the published download lies; for a CSV, the folder that its paths start from (that of
            the CSV itself where None).
        with_texts: of a CSV, whether its texts are wanted (`own.read_csv`).
    Raises:
        UnknownName: neither a name nor a path.
        BadInput: not in the layout that is expected.
    """
    folder = Path(os.path.expanduser(folder)) if folder else None
    if str(dataset) in CARDS:
        card = CARDS[str(dataset)]
        if card.synthetic:
            raise BadInput(f'dataset {card.name!r} is drawn where it is used and has no folder; leave the folder out')
        root_of, read = sources.reader(card)
        if folder is None:
            here = f' (a folder of that name here is ./{dataset})' if os.path.isdir(dataset) else ''
            raise BadInput(f'dataset {card.name!r}: name the folder of the download{here}; {card.how_to_obtain}')
        root = root_of(folder)

        def listed() -> pd.DataFrame:
            frame = read(root)
            return multi_label.with_label(frame, card.classes) if card.multi_label else frame

        return Source(card, root, root, listed, _stamp(card, root))
    path, has_texts = Path(os.path.expanduser(dataset)), False
    own.refuse_file(path)
    if path.suffix.lower() in TABLES and not os.path.isdir(path):
        root, name = folder or path.parent, path.stem
        frame, has_texts = own.read_csv(path, root, with_texts)
    elif os.path.isdir(path) or os.sep in str(dataset):  # of a name that is too long, False and no error
        root, name = path, path.resolve().name
        frame = own.read_folder(root)
    else:
        listing = 'medpeft data list; no folder or file of that name is here either'
        raise UnknownName('dataset', str(dataset), CARDS, listing)
    return Source(own.card_of(name, path, frame, has_texts), root, path, lambda: frame)


def _made_splits(frame: pd.DataFrame, card: DataCard, seed: int, folds: int) -> np.ndarray:
    """[M] splits by group, stratified by class, or by the positives of every finding where multi-label."""
    groups = frame['group'].to_numpy(dtype=str)
    rules, labels = splits, frame['label'].to_numpy(dtype=str)
    if card.multi_label:
        rules, labels = multi_label, multi_label.matrix(frame, card.classes)
    elif card.texts:
        labels = frame.get('stratum', pd.Series('image', frame.index)).to_numpy(dtype=str)
        patients, least = len(set(groups.tolist())), max(folds, len(splits.SPLITS))
        if patients < least:
            raise BadInput(
                f'{card.label}: its pairs are of {patients} patient(s) (column group), too few for '
                f'{f"{folds} folds" if folds else "train, validation and test"}; give pairs of {least} or more'
            )
    if folds:
        train, validation, _ = card.shares
        return splits.assign_folds(labels, groups, seed, folds, validation / (train + validation), rules.parts)
    return rules.assign(labels, groups, seed, card.shares)


def with_splits(frame: pd.DataFrame, card: DataCard, seed: int, where: str, folds: int = 0) -> pd.DataFrame:
    """Given splits as they are, else splits made; files that are the same under two names kept in one group.

    With `folds`, splits are made whatever is given, and lists of shares of a given training split count no more.
    """
    if folds or (frame['split'] == '').all():
        dropped = ['share'] * bool(folds) + ['near'] * (not card.near_duplicates_together)
        frame = manifest.grouped(frame.drop(columns=dropped, errors='ignore'))
        return frame.assign(split=_made_splits(frame, card, seed, folds))
    frame = frame.drop(columns='near', errors='ignore')
    same = manifest.duplicate_sets(frame) if 'sha256' in frame else []
    spanning = sum(rows['split'].nunique() > 1 for rows in same)
    if spanning:
        log.warning(
            '%s: %d images are the same file in several of the given splits (medpeft data check)', where, spanning
        )
    return frame.assign(group=np.where(frame['group'] == '', frame['image'], frame['group']))


def _complete(source: Source) -> pd.DataFrame:
    """The manifest with what the files themselves say: `sha256`, and `near` where the card asks for it.

    Of a dataset that is too large to be listed every time neither, where its splits are given.
    """
    frame = source.checked()
    if source.stamp and (frame['split'] != '').all():
        return frame
    paths, words = source.paths(frame), source.card.label
    frame = frame.assign(sha256=digests(paths, words))
    if not source.card.near_duplicates_together:
        return frame
    looked = mapped(paths, lambda path: examine_image(path, duplicates.SIDE)[2], f'looking at {words}')
    return near_sets(frame, source.card, duplicates.near_pairs(np.stack([grey for block in looked for grey in block])))


def near_sets(frame: pd.DataFrame, card: DataCard, pairs: np.ndarray) -> pd.DataFrame:
    """The manifest with the set of near duplicates of each image as `near` (-1: none), where the card asks for it."""
    return frame.assign(near=duplicates.sets_of(pairs, len(frame))) if card.near_duplicates_together else frame


def _load_listed(source: Source, image_size: int, choice: Choice, root: Path) -> tuple[Dataset, Store]:
    state = source.stamp or manifest.source_hash(source.checked(), source.root)
    store = Store(root, source.key, state)
    needed = () if source.stamp else ('sha256', 'near') if source.card.near_duplicates_together else ('sha256',)
    full = store.manifest(lambda: _complete(source), needed)
    _close(store.folder, source.card)
    return _packed(source.card, full, store, choice, image_size, source), store


def _close(folder: Path, card: DataCard) -> None:
    """Credentialed images and texts are in this cache folder now: close it to other users of the machine."""
    if card.credentialed and folder.is_dir():
        folder.chmod(0o700)


def _packed(
    card: DataCard, full: pd.DataFrame, store: Store, choice: Choice, image_size: int, source: Source | None
) -> Dataset:
    """The rows that a choice takes, their images from the pack; decoded into it where there is a source."""
    split = with_splits(full, card, choice.split_seed, str(source.where) if source else card.name, choice.folds)
    rows = choice.rows(split, card.label)
    if len(rows) < len(full):  # a pack of its own, beside others
        split = split.iloc[rows].reset_index(drop=True)
        wanted = f'{choice.train_pairs}-{choice.split_seed}-{choice.subset_seed}'
        part = digest(store.source, *split['image'].tolist())
        store = Store(store.folder.parent, f'{store.key}-train{wanted}', part)
    split.attrs, words = full.attrs, f'{card.label} at {image_size} px'
    paths = source.paths(split) if source else []
    images = store.images(
        image_size,
        len(split),
        (lambda start: decoded(paths[start:], image_size, words, card.reduced_to)) if source else None,
    )
    if images is None:
        packed = ', '.join(f'{size} px' for size in store.sizes()) or 'none'
        raise BadInput(
            f'dataset {card.name!r} was prepared from a folder which is gone, and is not packed at {image_size} px '
            f'(packed: {packed}); run `medpeft data prepare {card.name} FOLDER` again'
        )
    _close(store.folder, card)
    return Dataset(card, images, split, source.root if source else None)


def _pointer(name: str, root: Path) -> Path:
    return root / f'{name}.json'


def prepared_folder(name: str, cache: str | os.PathLike | None = None) -> Path | None:
    """The folder from which a dataset was prepared on this machine, None where it was not."""
    pointer = _pointer(name, cache_root(cache))
    return Path(json.loads(pointer.read_text())['folder']) if pointer.exists() else None


def _load_prepared(card: DataCard, image_size: int, choice: Choice, root: Path) -> Dataset:
    """A dataset that `prepare` has seen: from its folder, or from the cache alone where the folder is gone."""
    pointer = _pointer(card.name, root)
    if not pointer.exists():
        sources.reader(card)  # says so where there is no reader
        raise BadInput(
            f'dataset {card.name!r} is not prepared on this machine: name the folder of the download, or run '
            f'`medpeft data prepare {card.name} FOLDER` once; {card.how_to_obtain}'
        )
    known = json.loads(pointer.read_text())
    if Path(known['folder']).exists():
        source = replace(open_source(card.name, known['folder']), card=card)
        return _load_listed(source, image_size, choice, root)[0]
    store = Store(root, known['key'], known['source'])
    full = store.manifest(needed=('near',) if card.near_duplicates_together else ())
    if full is None:
        raise BadInput(f'dataset {card.name!r}: both {known["folder"]} and its cache are gone; prepare it again')
    return _packed(card, full, store, choice, image_size, None)


def _load_synthetic(card: DataCard, image_size: int, choice: Choice, root: Path) -> Dataset:
    from medpeft_utils.data import synthetic
    from medpeft_utils.data.synthetic import chest_pairs

    if card.texts:
        chest_pairs.require_size(image_size)
    store = Store(root, card.name, generator_hash('chest_pairs' if card.texts else ''))
    count = sum(chest_pairs.SIZES.values()) if card.texts else synthetic.default_size(card.name)
    full = store.manifest(lambda: drawn.manifest_of(card, count))
    images = store.images(image_size, count, lambda start: drawn.blocks(card, image_size, count, start))
    if choice.folds or (full['split'] == '').all():
        full = full.assign(split=_made_splits(full, card, choice.split_seed, choice.folds))
    rows = choice.rows(full, card.label)
    if len(rows) == len(full):
        return Dataset(card, images, full)
    return Dataset(card, images[rows], full.iloc[rows].reset_index(drop=True))


def _require_size(image_size: int) -> None:
    if not 16 <= image_size <= 4096:
        raise BadInput(f'image_size={image_size}: give a side in pixels from 16 to 4096')


def load(
    dataset: str | os.PathLike,
    folder: str | os.PathLike | None = None,
    image_size: int = 64,
    split_seed: int = 0,
    cache: str | os.PathLike | None = None,
    near_duplicates_together: bool | None = None,
    folds: int = 0,
    with_texts: bool | None = None,
    train_pairs: int | None = None,
    subset_seed: int = 0,
) -> Dataset:
    """Load a dataset: checked, split, and decoded into the packed cache where it is not there yet.

    Args:
        dataset: a name (`medpeft data list`), a folder with a folder per class, or a CSV file with columns
            image,label[,group][,split], or image,text[,group][,split].
        folder: where the published download lies; None or '' for what was prepared before and for synthetic data.
        image_size: side in pixels to which every image is resized whole.
        split_seed: which of the stratified splits that keep groups together; without effect where splits are given.
        cache: folder of the packed cache; else $MEDPEFT_CACHE, else ~/.cache/medpeft. Of credentialed data it holds
            images and texts, and must be kept as the download is.
        near_duplicates_together: whether images that show the same stay in one split where splits are made, even if
            their files differ (`duplicates.py`); as the dataset's card says where None.
        folds: 0 for the given splits, or else those in the card's shares; a number makes folds by group in place of
            both, of which `split_seed` tests one (`splits.assign_folds`).
        with_texts: whether images with texts are wanted, or images with labels; None: what the dataset has.
        train_pairs: of a dataset with texts, how many training pairs are wanted (None or 0: all); only they, validation
            and test are packed. The same pairs as `Dataset.train_pairs(train_pairs, subset_seed)` gives of the whole.
        subset_seed: which patients come first.
    Raises:
        UnknownName: no such dataset.
        BadInput: what is wrong with the download, the table or an image, with its name.
        DoesNotFit: it has no texts, or nothing but texts, where the other is wanted.
    """
    _require_size(image_size)
    if folds and not 2 <= folds <= 100:
        raise BadInput(f'folds={folds}: give 0 for the usual splits, or a number of folds from 2 to 100')
    root, choice = cache_root(cache), Choice(split_seed, folds, train_pairs, subset_seed)
    if str(dataset) in CARDS and not folder:
        card = CARDS[str(dataset)]
        _require_texts(card, with_texts)
        if card.synthetic:
            return _load_synthetic(card, image_size, choice, root)
        return _load_prepared(_keeping(card, near_duplicates_together), image_size, choice, root)
    source = open_source(dataset, folder, with_texts)
    _require_texts(source.card, with_texts)
    source = replace(source, card=_keeping(source.card, near_duplicates_together))
    return _load_listed(source, image_size, choice, root)[0]


def _require_texts(card: DataCard, wanted: bool | None) -> None:
    """Raise DoesNotFit where a dataset has no texts though they are wanted, or the other way round."""
    if wanted and not card.texts:
        having = ', '.join(names(texts=True))
        raise DoesNotFit(f'dataset {card.name!r} has classes and no texts; with texts: {having}, or a CSV of your own')
    if wanted is False and card.texts:
        raise DoesNotFit(f'dataset {card.name!r} has texts and no classes; with classes: medpeft data list')


def _keeping(card: DataCard, near_duplicates_together: bool | None) -> DataCard:
    """The card with what a caller asks for in place of what it says itself."""
    return (
        card if near_duplicates_together is None else replace(card, near_duplicates_together=near_duplicates_together)
    )


def prepare(
    dataset: str | os.PathLike,
    folder: str | os.PathLike | None = None,
    image_sizes: Sequence[int] = (64,),
    cache: str | os.PathLike | None = None,
    train_pairs: int | None = None,
) -> Dataset:
    """Check a download, pack it at every size asked for, and note its folder; later its name is enough.

    Returns the dataset at the last size. Raises as `load` does.
    """
    root = cache_root(cache)
    if str(dataset) in CARDS and CARDS[str(dataset)].synthetic and not folder:
        return [load(dataset, None, size, cache=root, train_pairs=train_pairs) for size in image_sizes][-1]
    for size in image_sizes:
        _require_size(size)
    source = open_source(dataset, folder)
    for size in image_sizes:
        loaded, store = _load_listed(source, size, Choice(train_pairs=train_pairs), root)
    if not loaded.card.texts:
        write_whole(store.folder / 'manifest.csv', lambda partial: loaded.manifest.to_csv(partial, index=False))
    if loaded.name in CARDS:
        known = {'folder': str(source.root.resolve()), 'key': source.key, 'source': store.source}
        write_whole(_pointer(loaded.name, root), lambda partial: partial.write_text(json.dumps(known)))
    return loaded
