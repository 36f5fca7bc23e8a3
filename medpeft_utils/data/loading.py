"""From a dataset's name, folder or CSV to a `Dataset`: read, check, split, decode once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from medpeft_utils.core.errors import BadInput, UnknownName
from medpeft_utils.data import duplicates, manifest, multi_label, own, sources, splits
from medpeft_utils.data.cache import BLOCK, Store, cache_root, decoded, digests, mapped, write_whole
from medpeft_utils.data.cards import CARDS, DataCard
from medpeft_utils.data.dataset import Dataset
from medpeft_utils.data.decode import examine_image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A dataset as it lies on disk: its card, the folder that image paths start from, its unchecked manifest.

    `where` is the file or folder to name in messages.
    """

    card: DataCard
    root: Path
    frame: pd.DataFrame
    where: Path

    @property
    def key(self) -> str:
        """The name of its cache folder: the dataset, and the place, since two places can hold two versions."""
        place = hashlib.sha256(str(self.where.resolve()).encode()).hexdigest()[:8]
        return f'{self.card.name}-{place}'

    def checked(self) -> pd.DataFrame:
        """The manifest. Raises BadInput with what is wrong with it."""
        return manifest.checked(self.frame, self.root, self.card, str(self.where))

    def paths(self, frame: pd.DataFrame) -> list[Path]:
        return [self.root / image for image in frame['image'].tolist()]


def open_source(dataset: str | os.PathLike, folder: str | os.PathLike | None = None) -> Source:
    """Find a dataset on disk and list it, without opening an image.

    Args:
        dataset: a dataset's name, a folder with a folder per class, or a CSV file.
        folder: for a name, where the published download lies; for a CSV, the folder that its paths start from (that of
            the CSV itself where None).
    Raises:
        UnknownName: neither a name nor a path.
        BadInput: not in the layout that is expected.
    """
    folder = Path(folder).expanduser() if folder else None
    if str(dataset) in CARDS:
        card = CARDS[str(dataset)]
        if card.synthetic:
            raise BadInput(f'dataset {card.name!r} is drawn where it is used and has no folder; leave the folder out')
        root_of, read = sources.reader(card)
        if folder is None:
            raise BadInput(f'dataset {card.name!r}: name the folder of the download; {card.how_to_obtain}')
        root = root_of(folder)
        frame = read(root)
        if card.multi_label:
            frame = multi_label.with_label(frame, card.classes)
        return Source(card, root, manifest.normalised(frame, root), root)
    path = Path(dataset).expanduser()
    if path.suffix.lower() == '.csv':
        root, name = folder or path.parent, path.stem
        frame = own.read_csv(path, root)
    elif path.is_dir() or os.sep in str(dataset):
        root, name = path, path.resolve().name
        frame = own.read_folder(root)
    else:
        raise UnknownName('dataset', str(dataset), CARDS, 'medpeft data list; or a folder per class, or a CSV file')
    frame = manifest.normalised(frame, root)
    return Source(own.card_of(name, path, frame['label']), root, frame, path)


def _made_splits(frame: pd.DataFrame, card: DataCard, seed: int, folds: int) -> np.ndarray:
    """[M] splits by group, stratified by class, or by the positives of every finding where multi-label."""
    groups = frame['group'].to_numpy(dtype=str)
    rules = multi_label if card.multi_label else splits
    labels = multi_label.matrix(frame, card.classes) if card.multi_label else frame['label'].to_numpy(dtype=str)
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
    spanning = sum(rows['split'].nunique() > 1 for rows in manifest.duplicate_sets(frame))
    if spanning:
        log.warning(
            '%s: %d images are the same file in several of the given splits (medpeft data check)', where, spanning
        )
    return frame.assign(group=np.where(frame['group'] == '', frame['image'], frame['group']))


def _complete(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    """The manifest with what the files themselves say: `sha256`, and `near` where the card asks for it."""
    paths, words = source.paths(frame), source.card.label
    frame = frame.assign(sha256=digests(paths, words))
    if not source.card.near_duplicates_together:
        return frame
    looked = mapped(paths, lambda path: examine_image(path, duplicates.SIDE)[2], f'looking at {words}')
    return near_sets(frame, source.card, duplicates.near_pairs(np.stack([grey for block in looked for grey in block])))


def near_sets(frame: pd.DataFrame, card: DataCard, pairs: np.ndarray) -> pd.DataFrame:
    """The manifest with the set of near duplicates of each image as `near` (-1: none), where the card asks for it."""
    return frame.assign(near=duplicates.sets_of(pairs, len(frame))) if card.near_duplicates_together else frame


def _load_listed(source: Source, image_size: int, split_seed: int, root: Path, folds: int = 0) -> tuple[Dataset, Store]:
    card, frame = source.card, source.checked()
    store = Store(root, source.key, manifest.source_hash(frame, source.root))
    needed = ('sha256', 'near') if card.near_duplicates_together else ('sha256',)
    full = store.manifest(lambda: _complete(frame, source), needed)
    split = with_splits(full, card, split_seed, str(source.where), folds)
    paths, words = source.paths(frame), f'{card.label} at {image_size} px'
    images = store.images(
        image_size, len(full), lambda start: decoded(paths[start:], image_size, words, card.reduced_to)
    )
    return Dataset(card, images, split, source.root), store


def _pointer(name: str, root: Path) -> Path:
    return root / f'{name}.json'


def prepared_folder(name: str, cache: str | os.PathLike | None = None) -> Path | None:
    """The folder from which a dataset was prepared on this machine, None where it was not."""
    pointer = _pointer(name, cache_root(cache))
    return Path(json.loads(pointer.read_text())['folder']) if pointer.exists() else None


def _load_prepared(card: DataCard, image_size: int, split_seed: int, root: Path, folds: int) -> Dataset:
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
        return _load_listed(source, image_size, split_seed, root, folds)[0]
    store = Store(root, known['key'], known['source'])
    full = store.manifest(needed=('near',) if card.near_duplicates_together else ())
    images = store.images(image_size, len(full)) if full is not None else None
    if images is None:
        packed = ', '.join(f'{size} px' for size in store.sizes()) or 'none'
        raise BadInput(
            f'dataset {card.name!r} was prepared from {known["folder"]}, which is gone, and is not packed at '
            f'{image_size} px (packed: {packed}); run `medpeft data prepare {card.name} FOLDER` again'
        )
    return Dataset(card, images, with_splits(full, card, split_seed, card.name, folds), None)


def generator_hash() -> str:
    """Hash of the code that draws the synthetic images: another code draws others."""
    from medpeft_utils.data import synthetic

    files = sorted(Path(synthetic.__file__).parent.rglob('*.py'))
    return hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()[:16]


def _drawn(name: str, image_size: int, rows: range) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    from medpeft_utils.data import synthetic

    return synthetic.generate(name, image_size=image_size, seed=0, indices=rows)


def _synthetic_manifest(card: DataCard, count: int) -> pd.DataFrame:
    """Labels, groups and given splits of all synthetic images; they are drawn at the smallest size to be read off."""
    _, labels, extra = _drawn(card.name, 16, range(count))
    frame = extra.reset_index(drop=True).assign(
        image=[f'{card.name}/{row:06d}' for row in range(count)], group=extra['group'].astype(str).to_numpy()
    )
    if 'split' not in frame:
        frame['split'] = ''
    if card.multi_label:
        frame['labels'] = [' '.join(map(str, row)) for row in labels.tolist()]
        frame = multi_label.with_label(frame, card.classes)
    else:
        frame['label'] = np.asarray(card.classes)[labels]
    own_columns = [column for column in frame if column not in manifest.COLUMNS]
    return frame[[*manifest.COLUMNS, *own_columns]]


def _drawn_blocks(card: DataCard, image_size: int, count: int, first: int) -> Iterator[np.ndarray]:
    for start in tqdm(
        range(first, count, BLOCK), desc=f'drawing {card.label} at {image_size} px', unit=f'x{BLOCK} images'
    ):
        yield _drawn(card.name, image_size, range(start, min(start + BLOCK, count)))[0]


def _load_synthetic(card: DataCard, image_size: int, split_seed: int, root: Path, folds: int) -> Dataset:
    from medpeft_utils.data import synthetic

    count = synthetic.default_size(card.name)
    store = Store(root, card.name, generator_hash())
    full = store.manifest(lambda: _synthetic_manifest(card, count))
    images = store.images(image_size, count, lambda start: _drawn_blocks(card, image_size, count, start))
    if folds or (full['split'] == '').all():
        full = full.assign(split=_made_splits(full, card, split_seed, folds))
    return Dataset(card, images, full)


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
) -> Dataset:
    """Load a dataset: checked, split, and decoded into the packed cache where it is not there yet.

    Args:
        dataset: a name (`medpeft data list`), a folder with a folder per class, or a CSV file with columns
            image,label[,group][,split].
        folder: where the published download lies; None or '' for what was prepared before and for synthetic data.
        image_size: side in pixels to which every image is resized whole.
        split_seed: which of the stratified splits that keep groups together; without effect where splits are given.
        cache: folder of the packed cache; else $MEDPEFT_CACHE, else ~/.cache/medpeft.
        near_duplicates_together: whether images that show the same stay in one split where splits are made, even if
            their files differ (`duplicates.py`); as the dataset's card says where None.
        folds: 0 for the given splits, or else those in the card's shares; a number makes folds by group in place of
            both, of which `split_seed` tests one (`splits.assign_folds`).
    Raises:
        UnknownName: no such dataset.
        BadInput: what is wrong with the download, the table or an image, with its name.
    """
    _require_size(image_size)
    if folds and not 2 <= folds <= 100:
        raise BadInput(f'folds={folds}: give 0 for the usual splits, or a number of folds from 2 to 100')
    root = cache_root(cache)
    if str(dataset) in CARDS and not folder:
        card = CARDS[str(dataset)]
        if card.synthetic:
            return _load_synthetic(card, image_size, split_seed, root, folds)
        return _load_prepared(_keeping(card, near_duplicates_together), image_size, split_seed, root, folds)
    source = open_source(dataset, folder)
    source = replace(source, card=_keeping(source.card, near_duplicates_together))
    return _load_listed(source, image_size, split_seed, root, folds)[0]


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
) -> Dataset:
    """Check a download, pack it at every size asked for, and note where it lies, so that its name is enough later.

    Returns the dataset at the last size. Raises as `load` does.
    """
    root = cache_root(cache)
    if str(dataset) in CARDS and CARDS[str(dataset)].synthetic and not folder:
        return [load(dataset, None, size, cache=root) for size in image_sizes][-1]
    for size in image_sizes:
        _require_size(size)
    source = open_source(dataset, folder)
    for size in image_sizes:
        loaded, store = _load_listed(source, size, 0, root)
    write_whole(store.folder / 'manifest.csv', lambda partial: loaded.manifest.to_csv(partial, index=False))
    if loaded.name in CARDS:
        known = {'folder': str(source.root.resolve()), 'key': source.key, 'source': store.source}
        write_whole(_pointer(loaded.name, root), lambda partial: partial.write_text(json.dumps(known)))
    return loaded
