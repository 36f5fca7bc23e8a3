"""The judge of generated images: every number of the evaluation, against the test split of one set."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import Dataset
from medpeft_utils.text_image.evaluation import distances, diversity
from medpeft_utils.text_image.evaluation.encoder import (
    Encoder,
    Schedule,
    encode,
    features_once,
    hash_of,
    probabilities,
    trained_once,
)
from medpeft_utils.text_image.evaluation.inception import Inception, load
from medpeft_utils.text_image.evaluation.targets import Targets, agreement

MOST_REAL = 1000  # test images, as in Dutt et al. 2024


def spread(rows: np.ndarray, most: int = MOST_REAL) -> np.ndarray:
    """At most so many of the rows, spread evenly over them."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def test_rows(pairs: Dataset, most: int = MOST_REAL) -> np.ndarray:
    """Rows of the test split whose texts are the prompts: at most so many, spread evenly over it."""
    return spread(pairs.rows('test'), most)


@dataclass(eq=False)
class Judge:
    """What images are compared with. One encoder for all runs on a set, so that their numbers compare.

    Args:
        pairs: the whole set.
        encoder, targets: as `encoder.trained_once` gives them.
        folder: where features are kept.
        inception: for FID and KID on Inception's features too.
    """

    pairs: Dataset
    encoder: Encoder
    targets: Targets
    folder: Path
    inception: Inception | None = None
    rows: np.ndarray = field(init=False)

    def __post_init__(self):
        self.rows = test_rows(self.pairs)
        distances.require_images(len(self.rows), 'real test')

    @cached_property
    def hash(self) -> str:
        return hash_of(self.encoder)

    @cached_property
    def real_features(self) -> np.ndarray:
        """[R, 112] of the real test images, in the order of `rows`."""
        test = self.pairs.rows('test')
        return features_once(self.encoder, self.pairs, 'test', self.folder)[np.searchsorted(test, self.rows)]

    @cached_property
    def real_inception(self) -> np.ndarray:
        """[R, 2048] of the real test images."""
        return encode(self.inception, self.pairs.images, self.rows)

    def train_features(self, rows: np.ndarray) -> np.ndarray:
        """[T, 112] of some training rows."""
        train = self.pairs.rows('train')
        return features_once(self.encoder, self.pairs, 'train', self.folder)[np.searchsorted(train, rows)]

    def evaluate(self, images: np.ndarray, rows: np.ndarray, train_rows: np.ndarray, seed: int = 0) -> dict:
        """Every number of generated images. Nothing is averaged over sampling seeds here.

        Args:
            images: [N, S, S, 3] uint8 of the set's size; image i was made from the text of row `rows[i]`.
            rows: [N] rows of the test split.
            train_rows: rows that the generator was trained on.
            seed: of KID's subsets and of the pairs whose similarity is taken.
        Returns:
            images, real_images, fid, kid with its interval (`distances.kid`), similarity, agreement (`agreement`),
            nearest distances (`distances.memorising`), and fid_inception, kid_inception where there is Inception.
        Raises:
            BadInput: images of another shape or type, rows that are no test rows, fewer than 20 images.
        """
        self._check(images, rows)
        features = encode(self.encoder, images)
        found = {'images': len(images), 'real_images': len(self.rows)}
        found |= {'fid': distances.fid(self.real_features, features)}
        found |= distances.kid(self.real_features, features, seed=seed)
        found |= {'similarity': diversity.similarity(images, seed=seed)}
        found |= distances.memorising(features, self.real_features, self.train_features(train_rows))
        found |= {'agreement': self._agreement(features, rows)}
        if self.inception is not None:
            features = encode(self.inception, images)
            found['fid_inception'] = distances.fid(self.real_inception, features)
            kid = distances.kid(self.real_inception, features, seed=seed)
            found |= {name.replace('kid', 'kid_inception', 1): kid[name] for name in ('kid', 'kid_low', 'kid_high')}
        return found

    def real(self, train_rows: np.ndarray, images: int | None = None) -> dict:
        """What real test images score, to hold the generated ones against.

        Args:
            train_rows: rows that the generator was trained on.
            images: how many generated images there are, so that the floor is taken on no more.
        Returns:
            images, floor (distance between two halves of them), nearest (median distance to the nearest training
            image), similarity and its measure, agreement (the classifier's own quality), encoder (hash, features,
            labels and their kind).
        """
        near = distances.nearest(self.real_features, self.train_features(train_rows))[0]
        found = {'images': len(self.rows), 'floor': self._floor(images), 'nearest': float(np.median(near))}
        found |= {'similarity': diversity.similarity(self.pairs.images[self.rows])}
        found |= {'similarity_measure': diversity.measure_for(self.pairs.image_size)}
        found |= {'agreement': self._agreement(self.real_features, self.rows)}
        del found['agreement'][
            'resamples'
        ]  # of other images than the generated ones: there is nothing to pair them with
        about = {'hash': self.hash, 'features': self.encoder.num_features, 'labels': list(self.targets.names)}
        return found | {'encoder': about | {'kind': self.targets.kind}}

    def _floor(self, images: int | None) -> dict:
        groups = self.pairs.groups[self.rows]
        found = distances.floor(self.real_features, groups, images)
        if self.inception is not None:
            inception = distances.floor(self.real_inception, groups, images)
            found |= {f'{name}_inception': inception[name] for name in ('fid', 'kid')}
        return found

    def _agreement(self, features: np.ndarray, rows: np.ndarray) -> dict:
        return agreement(self.targets.values[rows], probabilities(self.encoder, features), self.targets.names)

    def _check(self, images: np.ndarray, rows: np.ndarray) -> None:
        wanted = (len(rows), *self.pairs.images.shape[1:])
        if images.shape != wanted or images.dtype != np.uint8:
            raise BadInput(f'generated images are {images.dtype} {images.shape}; {wanted} uint8 is needed')
        if not np.isin(rows, self.pairs.rows('test')).all():
            raise BadInput('prompts must be those of the test split: some of the rows are of training or validation')
        distances.require_images(len(images))


def judge(
    pairs: Dataset,
    folder: Path | str,
    inception: str = '',
    schedule: Schedule | None = None,
    device: torch.device | str = 'cpu',
) -> Judge:
    """The judge for a set, its encoder trained where that was not done before.

    Args:
        pairs: the whole set, at the size of the images to be judged.
        folder: where the encoder and features are kept, for all runs.
        inception: file of Inception's weights; '' for none.
        schedule: how the encoder is trained.
        device: where networks run.
    """
    folder = Path(folder)
    encoder, targets = trained_once(pairs, folder, schedule, device)
    return Judge(pairs, encoder, targets, folder, load(inception).to(device) if inception else None)


def evaluate(
    generated: np.ndarray,
    rows: np.ndarray,
    pairs: Dataset,
    train_rows: np.ndarray,
    folder: Path | str,
    seed: int = 0,
    **how,
) -> dict:
    """All numbers of one set of generated images, and of the real ones as 'real'.

    Args:
        generated: [N, S, S, 3] uint8; image i was made from the text of row `rows[i]`, a test row.
        pairs: the whole set.
        train_rows: rows that the generator was trained on.
        folder: where the encoder and features are kept.
        seed: of random subsets.
        how: inception, schedule, device, as for `judge`.
    Returns:
        `Judge.evaluate` and, under 'real', `Judge.real`.
    """
    by = judge(pairs, folder, **how)
    return by.evaluate(generated, rows, train_rows, seed) | {'real': by.real(train_rows, len(generated))}
