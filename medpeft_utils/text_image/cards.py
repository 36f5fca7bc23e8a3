"""Cards of image-text sets: what a set is, where it comes from, what to take care of. The card is the code."""

from __future__ import annotations

from dataclasses import dataclass

from medpeft_utils.core.registry import Registry


@dataclass(frozen=True)
class PairCard:
    """What is known of a set of image-text pairs.

    Args:
        name: the key under which it is asked for.
        label: its name in tables and figures.
        modality: how the images were taken.
        texts: what the text of a pair is.
        group: what stays in one split.
        splits: who made the splits.
        pairs: number of pairs where it is fixed.
        source: the publication.
        how_to_obtain: where the published download is, and how it is laid out.
        licence: the licence of the images and texts.
        known_faults: what is known to be wrong with it, or to be known before a result is read.
        paper_train_pairs: numbers of training pairs in Dutt et al. 2024 (Table 4), largest first.
        credentialed: whether images and texts may be seen by credentialed users only, the packed cache included.
        synthetic: whether it is drawn and written by code.
    """

    name: str
    label: str
    modality: str
    texts: str
    group: str = 'patient'
    splits: str = 'made here by patient: 75 % train, 10 % validation, 15 % test'
    pairs: int | None = None
    source: str = ''
    how_to_obtain: str = ''
    licence: str = ''
    known_faults: tuple[str, ...] = ()
    paper_train_pairs: tuple[int, ...] = ()
    credentialed: bool = False
    synthetic: bool = False


CARDS: Registry[PairCard] = Registry('image-text set', 'medpeft pairs list')
