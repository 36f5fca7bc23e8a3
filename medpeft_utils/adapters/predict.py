"""What a saved adapter makes of new inputs: probabilities of images, or a pipeline that draws them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medpeft_utils.adapters import store
from medpeft_utils.adapters.card import data_card
from medpeft_utils.core.errors import BadInput, DoesNotFit

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from medpeft_utils.text_image.pipeline import Pipeline


def predict(saved: store.Saved, images: Sequence[Path], weights: str = '') -> pd.DataFrame:
    """A row for each image: `image`, the probability `p_<class>` of every class, and `predicted`.

    Findings, of which an image may show several, each have a probability of their own, and `predicted` names those of
    0.5 or more. Images are decoded, resized and normalised like those of the test split, and computed in float32.

    Raises:
        BadInput: an image cannot be read, or the classes of the adapter are not known.
        DoesNotFit: the adapter was trained over other weights, or it draws images.
    """
    import pandas as pd

    from medpeft_utils.data.decode import read_image
    from medpeft_utils.training import batches
    from medpeft_utils.training.augment import NONE
    from medpeft_utils.training.classification import stored_size
    from medpeft_utils.training.objective import MULTI_LABEL, SINGLE_LABEL
    from medpeft_utils.training.precision import PLAIN
    from medpeft_utils.training.run import default_device

    if saved.family == 'unet':
        raise DoesNotFit(f'{saved.path} draws images from text; `medpeft generate` does that')
    missing = [str(path) for path in images if not os.path.isfile(path)]
    if missing:
        raise BadInput(f'no image {missing[0][:200]}' + (f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''))
    data = saved.known('data')
    card, device, classes = data_card(data['name']), default_device(), data['classes']
    model, digest, backbone = store.network(saved, weights=weights)
    adapted = store.load(saved, model, digest, backbone.family)
    adapted.model.to(device)
    size, reduced_to = stored_size(backbone.image_size), card.reduced_to if card else 0
    pixels = np.stack([read_image(Path(path), size, reduced_to) for path in images])
    view = batches.View(backbone.image_size, backbone.mean, backbone.std, NONE, PLAIN, device)
    several = bool(card and card.multi_label)
    nothing = np.zeros((len(pixels), len(classes)) if several else len(pixels), dtype=np.int64)
    given = batches.ImageBatches(pixels, nothing, np.arange(len(pixels)), len(classes), view)
    probabilities = batches.predict(adapted, given, MULTI_LABEL if several else SINGLE_LABEL)
    table = pd.DataFrame({'image': [str(path) for path in images]})
    for k, name in enumerate(classes):
        table[f'p_{name}'] = probabilities[:, k]
    names = np.array(classes)
    table['predicted'] = [' '.join(names[p >= 0.5]) if several else names[p.argmax()] for p in probabilities]
    return table


def tuned_pipeline(saved: store.Saved, backbone: str = '', weights: str = '') -> tuple[Pipeline, nn.Module]:
    """A pipeline, and its U-Net with the adapter in it, merged where the method can be.

    Args:
        saved: an adapter of a U-Net.
        backbone, weights: in place of those that the record names; the shipped pipeline where nothing names one.
    Raises:
        UnknownName, BadInput: the pipeline is not known or not on this machine, or the file is no adapter.
        DoesNotFit: the adapter belongs to another backbone, or classifies images.
    """
    from medpeft_utils.text_image.names import MINI, family_of
    from medpeft_utils.training.run import default_device

    known = saved.about.get('backbone', {})
    if known.get('family', 'unet') != 'unet':
        raise DoesNotFit(f'{saved.path} classifies images; `medpeft predict` does that')
    backbone = backbone or known.get('name', MINI)
    family_of(backbone)
    try:
        unet, digest, pipe = store.network(saved, backbone, weights)
        loaded = store.load(saved, unet, digest, 'unet')
    except DoesNotFit as error:
        raise DoesNotFit(f'{error}; this is {backbone}: give the one it was trained on by --backbone') from error
    pipe = pipe.to(default_device())
    merges = loaded.method.mergeable and loaded.method.kind == 'additive'
    return pipe, (loaded.merge() if merges else loaded.model).to(pipe.device)
