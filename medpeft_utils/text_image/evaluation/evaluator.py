"""The evaluator of generated images: compares them with the test split of one set."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.hashing import tensors_digest
from medpeft_utils.data import Dataset
from medpeft_utils.text_image.evaluation import distances
from medpeft_utils.text_image.evaluation.adherence import Labels, adherence
from medpeft_utils.text_image.evaluation.encoder import (
    Encoder,
    Inception,
    Schedule,
    encode,
    encoder_rows,
    features_once,
    load_inception,
    probabilities,
    trained_once,
)

MOST_REAL = 1000  # test images, as in Dutt et al. 2024


def test_rows(pairs: Dataset, most: int = MOST_REAL) -> np.ndarray:
    """At most so many rows of the test split, spread evenly over it; their texts are the prompts."""
    rows = pairs.rows('test')
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


@dataclass(eq=False)
class Evaluator:
    """Compares generated images with real ones. All runs on a set share one encoder, so their numbers compare.

    Args:
        pairs: the whole set.
        encoder, labels, about: results of `encoder.trained_once`.
        folder: where features are kept.
        inception: for KID and FID on Inception's features too.
    """

    pairs: Dataset
    encoder: Encoder
    labels: Labels
    about: dict
    folder: Path
    inception: Inception | None = None
    rows: np.ndarray = field(init=False)

    def __post_init__(self):
        self.rows = test_rows(self.pairs)
        distances.require_images(len(self.rows), 'real test')

    def __str__(self) -> str:
        about = self.about
        return (
            f'encoder of {len(self.labels.names)} {self.labels.kind}: AUROC {about["training_auroc"]:.3f} on its '
            f'{about["training_images"]:,} training images, {about["held_out_auroc"]:.3f} on the '
            f'{about["held_out_images"]:,} images of held-out patients'
        )

    @cached_property
    def hash(self) -> str:
        """16 hex digits over all weights; distances compare between runs with the same hash."""
        return tensors_digest(self.encoder.state_dict())

    @cached_property
    def other_rows(self) -> np.ndarray:
        """Rows of real images outside of the test split from which the encoder did not learn."""
        learned, held_out = encoder_rows(self.pairs)
        return np.union1d(np.setdiff1d(held_out, learned), self.pairs.rows('validation'))

    def features(self, rows: np.ndarray, split: str) -> np.ndarray:
        """[n, 112] of real images, whose rows belong to one split."""
        return features_once(self.encoder, self.pairs, split, self.folder)[
            np.searchsorted(self.pairs.rows(split), rows)
        ]

    @cached_property
    def real_features(self) -> np.ndarray:
        """[R, 112] of the real test images, in the order of `rows`."""
        return self.features(self.rows, 'test')

    @cached_property
    def real_inception(self) -> np.ndarray:
        """[R, 2048] of the real test images."""
        return encode(self.inception, self.pairs.images, self.rows)

    def evaluate(self, images: np.ndarray, rows: np.ndarray, train_rows: np.ndarray, seed: int = 0) -> dict:
        """All measures of the images from one sampling seed.

        Args:
            images: [N, S, S, 3] uint8 of the set's size; the text of row `rows[i]` is the prompt of image i.
            rows: [N] rows of the test split.
            train_rows: rows that the generator was trained on.
            seed: of the pairs that `distances.similarity` draws.
        Returns:
            images, real_images, kid with its interval and resamples (`distances.kid`), fid, similarity, nearest
            distances (`distances.memorising`), adherence (`adherence`), and with Inception kid_inception,
            fid_inception.
        Raises:
            BadInput: images of another shape or type, rows outside of the test split, fewer than 20 images.
        """
        self._check(images, rows)
        features, groups = encode(self.encoder, images), (self.pairs.groups[self.rows], self.pairs.groups[rows])
        numbers = {'images': len(images), 'real_images': len(self.rows)}
        numbers |= distances.kid(self.real_features, features, *groups)
        numbers |= {'fid': distances.fid(self.real_features, features)}
        numbers |= {'similarity': distances.similarity(images, seed=seed)}
        numbers |= distances.memorising(features, self.real_features, self.features(train_rows, 'train'))
        numbers |= {'adherence': self._adherence(features, rows)}
        if self.inception is not None:
            features = encode(self.inception, images)
            numbers['fid_inception'] = distances.fid(self.real_inception, features)
            kid = distances.kid(self.real_inception, features, *groups)
            numbers |= {name.replace('kid', 'kid_inception', 1): kid[name] for name in ('kid', 'kid_low', 'kid_high')}
        return numbers

    def real(self, train_rows: np.ndarray, images: int) -> dict:
        """The same measures of the real test images, for comparison.

        Args:
            train_rows: rows that the generator was trained on.
            images: how many generated images there are; the floor is taken on as many.
        Returns:
            images, floor (distance to other real images), nearest (median distance to the nearest training image),
            similarity and its measure, adherence (the classifier's own quality), encoder (hash, features, labels and
            their kind, and the scores of `encoder.train`).
        """
        near = distances.nearest(self.real_features, self.features(train_rows, 'train'))
        numbers = {'images': len(self.rows), 'floor': self._floor(images), 'nearest': float(np.median(near))}
        numbers |= {'similarity': distances.similarity(self.pairs.images[self.rows])}
        numbers |= {'similarity_measure': distances.measure_for(self.pairs.image_size)}
        numbers |= {'adherence': self._adherence(self.real_features, self.rows)}
        del numbers['adherence']['resamples']  # nothing is paired with these images
        about = {'hash': self.hash, 'features': self.encoder.num_features, 'labels': list(self.labels.names)}
        return numbers | {'encoder': about | {'kind': self.labels.kind} | self.about}

    def _floor(self, images: int) -> dict:
        others = encode(self.encoder, self.pairs.images, self.other_rows)
        numbers = distances.floor(self.real_features, others, images)
        if self.inception is not None:
            others = encode(self.inception, self.pairs.images, self.other_rows)
            inception = distances.floor(self.real_inception, others, images)
            numbers |= {f'{name}_inception': inception[name] for name in ('kid', 'fid')}
        return numbers

    def _adherence(self, features: np.ndarray, rows: np.ndarray) -> dict:
        seen = probabilities(self.encoder, features)
        return adherence(self.labels.values[rows], seen, self.labels.names, self.pairs.groups[rows])

    def _check(self, images: np.ndarray, rows: np.ndarray) -> None:
        wanted = (len(rows), *self.pairs.images.shape[1:])
        if images.shape != wanted or images.dtype != np.uint8:
            raise BadInput(f'generated images are {images.dtype} {images.shape}; give uint8 {wanted}')
        if not np.isin(rows, self.pairs.rows('test')).all():
            raise BadInput('some prompts are rows of training or validation; give rows of the test split alone')
        distances.require_images(len(images))


def evaluator(
    pairs: Dataset,
    folder: Path | str,
    inception: str = '',
    schedule: Schedule | None = None,
    device: torch.device | str = 'cpu',
) -> Evaluator:
    """The evaluator for a set; trains its encoder unless an earlier call has.

    Args:
        pairs: the whole set, at the size of the generated images.
        folder: where the encoder and features are kept, for all runs.
        inception: file of Inception's weights; '' for none.
        schedule: how the encoder is trained.
        device: where networks run.
    """
    trained = trained_once(pairs, Path(folder), schedule, device)
    return Evaluator(pairs, *trained, Path(folder), load_inception(inception).to(device) if inception else None)
