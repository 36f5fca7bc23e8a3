"""Which training pairs are loaded so that the smaller subsets of a study lie within one packed set."""

from __future__ import annotations

from medpeft_utils.text_image.cards import CARDS


def packed_pairs(dataset: str, wanted: int) -> int | None:
    """How many training pairs `load_pairs` is asked for by a run that trains on `wanted` (0: all).

    All of them (None), but for a set whose card names the paper's numbers: of MIMIC-CXR the largest of these, within
    which the smaller ones lie, so that runs of all sizes share packed images, latents and the encoder that judges them.
    """
    paper = CARDS[dataset].paper_train_pairs if dataset in CARDS else ()
    return max(*paper, wanted) if paper and wanted else None
