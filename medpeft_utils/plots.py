"""Pictures for the experiment notebooks: data, what becomes trainable, curves, confusion.

Each function draws one figure and returns it. Colours are seaborn's colour-blind palette.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medpeft_utils.core.drawing import plain

PALETTE = sns.color_palette('colorblind')
INK, MUTED = '#222222', '#8a8a8a'


def finish(figure: Figure, synthetic: bool = False) -> Figure:
    """The figure, marked if its images are synthetic, for a cell to return."""
    if synthetic:
        figure.text(0.995, 0.005, 'synthetic images', ha='right', va='bottom', fontsize=8, color=MUTED, style='italic')
    plt.close(figure)  # a notebook shows what a cell returns, and would show an open figure again
    return figure


def shorten(name: str, length: int = 20) -> str:
    """A name cut to this length, with an ellipsis; its dollar signs begin no formula."""
    return plain(name if len(name) <= length else name[: length - 1] + '…')


def preview(data, per_class: int = 6, seed: int = 0) -> Figure:
    """`per_class` training images of every class in one picture, a row for each class."""
    generator, rows, gap = np.random.default_rng(seed), data.rows('train'), 2
    classes, side = list(data.classes), data.images.shape[1] + gap
    sheet = np.full((side * len(classes), side * per_class, 3), 255, dtype=np.uint8)
    counts = []
    for k in range(len(classes)):
        of_class = rows[data.labels[rows] == k]
        counts.append(len(of_class))
        for j, row in enumerate(generator.choice(of_class, min(per_class, len(of_class)), replace=False)):
            sheet[k * side : (k + 1) * side - gap, j * side : (j + 1) * side - gap] = data.images[row]
    figure, axis = plt.subplots(figsize=(1.1 * per_class + 1.6, 1.1 * len(classes) + 0.15))
    axis.imshow(sheet)
    labels = [f'{shorten(name)}\nn={count:,}' for name, count in zip(classes, counts, strict=True)]
    axis.set_yticks([(k + 0.5) * side for k in range(len(classes))], labels, fontsize=9)
    axis.set_xticks([])
    axis.tick_params(length=0)
    sns.despine(figure, left=True, bottom=True)
    figure.tight_layout()
    return finish(figure, data.synthetic)


def class_counts(data, used_rows: np.ndarray) -> Figure:
    """Images of every class, or with every finding, in the three splits, and how many training images this run uses."""
    shown, names = _indicators(data), [shorten(name, 32) for name in data.classes]
    figure, axis = plt.subplots(figsize=(7, 0.4 * len(names) + 1.2))
    for place, split in enumerate(('train', 'validation', 'test')):
        rows = data.rows(split)
        at = np.arange(len(names)) + 0.27 * (place - 1)
        axis.barh(at, shown[rows].sum(axis=0), 0.25, color=PALETTE[place], alpha=0.85, label=f'{split} ({len(rows):,})')
    for k, count in enumerate(shown[used_rows].sum(axis=0)):
        label = f'used by this run ({len(used_rows):,})' if k == 0 else None
        axis.plot([count, count], [k - 0.4, k - 0.13], color=INK, lw=2, label=label)
    axis.set_xscale('symlog', linthresh=10)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlabel='images (log scale)')
    axis.legend(title='split (images)', frameon=False, fontsize=8, loc='upper left', bbox_to_anchor=(1, 1))
    sns.despine(figure)
    figure.tight_layout()
    return finish(figure, data.synthetic)


finding_counts = class_counts  # as the notebook of findings calls it


def _indicators(data) -> np.ndarray:
    """[M, L] whether each image has each finding; for one class an image, whether it is of each class."""
    return data.labels.astype(bool) if data.labels.ndim == 2 else data.labels[:, None] == np.arange(len(data.classes))


def trainable_by_part(adapted) -> Figure:
    """Trainable and frozen parameters of every part of the network, from input to head (log scale)."""
    trainable = set(adapted.trainable())
    counts: dict[str, list[int]] = {}
    for name, parameter in adapted.model.named_parameters():
        part = part_of(name)
        counts.setdefault(part, [0, 0])[0 if name in trainable else 1] += parameter.numel()
    names, values = list(counts), np.array(list(counts.values()))
    figure, axis = plt.subplots(figsize=(max(5, 0.32 * len(names) + 1.5), 2.9))
    x = np.arange(len(names))
    axis.bar(x - 0.2, values[:, 1], 0.4, color='#c9c9c9', label='frozen')
    axis.bar(x + 0.2, values[:, 0], 0.4, color=PALETTE[1], label='trainable')
    axis.set_yscale('symlog', linthresh=10)
    axis.set_xticks(
        x, names, rotation=60 if len(names) > 8 else 0, ha='right' if len(names) > 8 else 'center', fontsize=8
    )
    total, moving = values.sum(), values[:, 0].sum()
    axis.set(
        ylabel='parameters (log scale)', title=f'{moving:,} of {total:,} parameters are trained ({moving / total:.2%})'
    )
    axis.title.set_fontsize(10)
    axis.legend(frameon=False, fontsize=8, loc='upper left', bbox_to_anchor=(1, 1))
    sns.despine(figure)
    figure.tight_layout()
    return finish(figure)


def part_of(name: str) -> str:
    """The part of the network that a parameter belongs to: 'block 3', 'layer2', 'head', ..."""
    pieces = name.removeprefix('base_model.model.').split('.')
    if pieces[0] == 'blocks':
        return f'block {int(pieces[1]) + 1}'
    if pieces[0] in ('down_blocks', 'up_blocks'):  # of a U-Net
        return f'{pieces[0].removesuffix("_blocks")} {int(pieces[1]) + 1}'
    if pieces[0].startswith('layer'):
        return pieces[0]
    if pieces[0] in ('head', 'fc'):
        return 'head'
    return 'stem' if pieces[0] in ('conv1', 'bn1', 'patch_embed', 'cls_token', 'pos_embed', 'norm_pre') else pieces[0]


def curve(rows: Sequence[dict], best: int | None = None, title: str = '', synthetic: bool = False) -> Figure:
    """Training and validation loss, and validation macro-F1, over steps, with the selected evaluation marked.

    For a converged linear probe over C, which sets its penalty.
    """
    figure, axis = _losses(rows, best, title, {'f1_macro': 'macro-F1', 'f1_weighted': 'weighted F1'})
    axis.set(ylabel='validation F1', ylim=(0, 1))
    return finish(figure, synthetic)


def auroc_curve(rows: Sequence[dict], best: int | None = None, title: str = '', synthetic: bool = False) -> Figure:
    """Like `curve`, with the mean validation AUROC."""
    figure, axis = _losses(rows, best, title, {'auroc': 'mean AUROC'})
    axis.axhline(0.5, color=MUTED, lw=0.8, ls=':')
    lowest = pd.Series([row['validation_auroc'] for row in rows], dtype=float).min()
    axis.set(ylabel='validation AUROC', ylim=(0.4 if np.isnan(lowest) else min(0.4, lowest - 0.02), 1))
    return finish(figure, synthetic)


def _losses(rows: Sequence[dict], best: int | None, title: str, scores: dict[str, str]) -> tuple[Figure, Axes]:
    """Losses on the left, scores (name to label) on the right; the selected row is marked on the first score."""
    table = pd.DataFrame(rows).astype(float)
    along = 'C' if 'C' in table else 'step'
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
    left.plot(table[along], table['train_loss'], color=MUTED, marker='o', ms=3, label='training')
    left.plot(table[along], table['validation_loss'], color=PALETTE[0], marker='o', ms=3, label='validation')
    left.set(ylabel='loss (nats)')
    for (name, label), colour, marker in zip(scores.items(), PALETTE[::2], 'os', strict=False):
        right.plot(table[along], table[f'validation_{name}'], color=colour, marker=marker, ms=3, label=label)
    if best is not None:
        point = table[along][best], table[f'validation_{next(iter(scores))}'][best]
        right.plot(*point, 'o', ms=10, mfc='none', mec=INK, label='selected')
    for axis in (left, right):
        axis.set(xlabel=along, xscale='log' if along == 'C' else 'linear')
        axis.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    sns.despine(figure)
    figure.tight_layout()
    return figure, right


def confusion(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], synthetic: bool = False) -> Figure:
    """What fraction of each true class (row) got each predicted class, with the numbers of images."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=np.arange(len(classes)))
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = 0.62 * len(classes) + 2.4
    figure, axis = plt.subplots(figsize=(side + 0.8, side))
    names = [shorten(name) for name in classes]
    sns.heatmap(
        shares,
        annot=counts,
        fmt='d',
        cmap='crest',
        vmin=0,
        vmax=1,
        square=True,
        ax=axis,
        xticklabels=names,
        yticklabels=names,
        cbar_kws={'label': 'share of the true class', 'shrink': 0.7},
    )
    axis.set(xlabel='predicted', ylabel='true')
    axis.tick_params(axis='x', rotation=45)
    axis.tick_params(axis='y', rotation=0)
    for tick in axis.get_xticklabels():
        tick.set_ha('right')
    figure.tight_layout()
    return finish(figure, synthetic)


class LiveCurve:
    """Draws the training curve in the notebook again after every evaluation; the `report` of `Classification.train`.

    `draw` draws it: `curve`, or `auroc_curve`.
    """

    def __init__(self, title: str = '', synthetic: bool = False, draw: Callable[..., Figure] = curve):
        self.rows: list[dict] = []
        self.title, self.synthetic, self.draw, self._display = title, synthetic, draw, None

    def __call__(self, row: dict) -> None:
        from IPython.display import display

        self.rows.append(row)
        figure = self.draw(self.rows, title=self.title, synthetic=self.synthetic)
        if self._display is None:
            self._display = display(figure, display_id=True)
        elif self._display:
            self._display.update(figure)


def natural_images(source, shown: int = 24, seed: int = 0) -> Figure:
    """Some images of a pre-training source, each with its class in words."""
    rows = np.random.default_rng(seed).choice(len(source.labels), shown, replace=False)
    figure, axes = plt.subplots(3, shown // 3, figsize=(shown // 3 * 1.25, 4.3))
    for axis, row in zip(axes.flat, rows, strict=True):
        axis.imshow(source.images[row])
        axis.set_title(shorten(source.captions[source.labels[row]].split(',')[0], 16), fontsize=7)
        axis.set_axis_off()
    figure.tight_layout()
    return finish(figure)


def pretraining_curve(rows: Sequence[dict], score_name: str, title: str = '') -> Figure:
    """Training loss and the held-out score of a pre-training, over steps."""
    table = pd.DataFrame(rows)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
    losses, scores = table.dropna(subset='loss'), table.dropna(subset='score')
    left.plot(losses['step'], losses['loss'], color=PALETTE[0], lw=1)
    left.set(xlabel='step', ylabel='training loss')
    right.plot(scores['step'], scores['score'], color=PALETTE[2], marker='o', ms=4)
    right.set(xlabel='step', ylabel=score_name.replace('held-out ', 'held-out\n'))
    figure.suptitle(title, fontsize=10)
    sns.despine(figure)
    figure.tight_layout()
    return finish(figure)


def finding_examples(data, per_finding: int = 2, seed: int = 0) -> Figure:
    """Some training images with each finding and some with none, side by side."""
    generator, rows, shown = np.random.default_rng(seed), data.rows('train'), _indicators(data)
    kinds = [(name, rows[shown[rows, k]]) for k, name in enumerate(data.classes)]
    kinds += [('none of these', rows[~shown[rows].any(axis=1)])]
    kinds = [(name, found) for name, found in kinds if len(found)]
    across = min(5, len(kinds))
    lines = -(-len(kinds) // across)
    figure, axes = plt.subplots(lines, across, figsize=(1.9 * across, 1.28 * lines), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, found) in zip(axes.flat, kinds, strict=False):
        chosen = generator.choice(found, min(per_finding, len(found)), replace=False)
        sheet = [np.pad(data.images[row], ((0, 0), (0, 2), (0, 0)), constant_values=255) for row in chosen]
        axis.imshow(np.concatenate(sheet, axis=1))
        axis.set_title(f'{shorten(name)}, n={len(found):,}', fontsize=8)
    figure.tight_layout()
    return finish(figure, data.synthetic)


def auroc_by_finding(per_class: dict[str, dict], title: str = '', synthetic: bool = False) -> Figure:
    """Test AUROC of every finding, with its 95 % interval if there is one, the best at the top."""
    table = pd.DataFrame(per_class).T.astype(float).sort_values('auroc', na_position='first')
    figure, axis = plt.subplots(figsize=(6.4, 0.3 * len(table) + 1.1))
    for place, (_, row) in enumerate(table.iterrows()):
        if np.isnan(row['auroc']):
            axis.annotate(
                'not defined', (0.5, place), (6, 0), textcoords='offset points', color=MUTED, size=8, va='center'
            )
            continue
        if not np.isnan(row.get('auroc_low', np.nan)):
            axis.plot([row['auroc_low'], row['auroc_high']], [place] * 2, color=PALETTE[0], lw=3, alpha=0.35)
        axis.plot(row['auroc'], place, 'o', color=PALETTE[0])
    axis.axvline(0.5, color=MUTED, lw=0.8, ls=':')
    counts = [int(count) for count in table['support']]
    names = [f'{shorten(name, 28)} ({count:,})' for name, count in zip(table.index, counts, strict=True)]
    axis.set_yticks(range(len(table)), names)
    axis.set_ylim(-0.6, len(table) - 0.4)
    axis.set(xlabel='test AUROC; bar: 95 %, DeLong; in brackets: images with the finding')
    axis.set_title(title, fontsize=10)
    sns.despine(figure)
    figure.tight_layout()
    return finish(figure, synthetic)
