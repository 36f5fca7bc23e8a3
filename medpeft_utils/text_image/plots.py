"""Pictures for the text-to-image notebooks: pairs, curves, samples side by side; and strips of a run's samples.

A strip is a PNG of some pictures side by side, which a run writes beside its record for Figure 2.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from medpeft_utils.core.errors import BadInput
from medpeft_utils.plots import INK, MUTED, PALETTE, finish

SAMPLES, GROUND_TRUTH = 'samples.png', 'ground_truth.png'


def sheet(
    rows: Mapping[str, np.ndarray], titles: Sequence[str] = (), synthetic: bool = False, side: float = 1.15
) -> Figure:
    """Images in rows with a label each, and wrapped titles above the columns.

    Args:
        rows: label to images [N, S, S, 3] uint8; N may differ.
        titles: of the columns, such as prompts.
        synthetic: say so in the corner.
        side: of an image, in inches.
    """
    across, height = max(len(images) for images in rows.values()), 0.5 if len(titles) else 0.0
    size = (side * across + 0.9, (side + 0.06) * len(rows) + height + 0.12)
    figure, axes = plt.subplots(len(rows), across, figsize=size, squeeze=False)
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image)
        line[0].text(-0.06, 0.5, label, transform=line[0].transAxes, ha='right', va='center', fontsize=8)
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(textwrap.fill(textwrap.shorten(title, 72, placeholder='…'), 24), fontsize=6)
    figure.subplots_adjust(0.9 / size[0], 0.1 / size[1], 0.995, 1 - height / size[1], wspace=0.04, hspace=0.04)
    return finish(figure, synthetic)


def preview(data, count: int = 6, seed: int = 0) -> Figure:
    """Some training pairs: images with their texts above."""
    rows = np.random.default_rng(seed).choice(data.rows('train'), min(count, len(data.rows('train'))), replace=False)
    return sheet({'': data.images[np.sort(rows)]}, [data.texts[row] for row in np.sort(rows)], data.synthetic, 1.4)


def loss_curve(rows: Sequence[dict], best: int | None = None, title: str = '', synthetic: bool = False) -> Figure:
    """Loss of the prediction over steps: training, validation at fixed noise, the untuned model's as a line."""
    table = pd.DataFrame(rows)
    figure, axis = plt.subplots(figsize=(5.4, 2.8))
    axis.axhline(table['validation_loss'][0], color=INK, lw=0.8, ls=':', label='validation, untuned')
    trained = table.dropna(subset='train_loss')
    axis.plot(trained['step'], trained['train_loss'], color=MUTED, marker='o', ms=3, label='training')
    axis.plot(table['step'], table['validation_loss'], color=PALETTE[0], marker='o', ms=3, label='validation')
    if best is not None:
        at = table['step'][best], table['validation_loss'][best]
        axis.plot(*at, 'o', ms=10, mfc='none', mec=INK, label='selected')
    axis.set(xlabel='step', ylabel='loss of the prediction')
    axis.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    sns.despine(figure)
    figure.tight_layout()
    return finish(figure, synthetic)


def write_strip(images: np.ndarray, path: Path | str) -> Path:
    """Write [K, S, S, 3] uint8 images into one PNG of S x K S pixels."""
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(list(images), axis=1)).save(path, format='PNG')
    return path


def read_strip(path: Path | str) -> np.ndarray:
    """[K, S, S, 3] uint8 images of a strip. Raises BadInput if the file is not a picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        strip = np.array(Image.open(path).convert('RGB'))
    except (OSError, UnidentifiedImageError) as error:
        raise BadInput(f'{path}: cannot be read as a strip of pictures ({error})') from error
    side, width = strip.shape[:2]
    if not side or width % side:
        raise BadInput(f'{path}: {width} x {side} px is no row of square pictures')
    return strip.reshape(side, width // side, side, 3).swapaxes(0, 1)
