"""A page for every dataset: its card in words, with pictures and charts of its synthetic stand-in.

`medpeft data pages` writes them into docs/data. No picture of a patient is ever on a page: what it shows is the
stand-in. `examples` and `charts` draw the same of any loaded dataset; notebooks/data.ipynb does so for real ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.core.drawing import drawing, new_figure
from medpeft_utils.core.hashing import digest
from medpeft_utils.data.cards import CARDS, DataCard, names
from medpeft_utils.data.loading import generator_hash, load
from medpeft_utils.data.splits import SPLITS

SHOWN_CLASSES = 14  # of a dataset with more, those with the most images
SHADES = ('#3b6fb6', '#e0a13c', '#8a8a8a')  # train, validation, test: lightness distinguishes them without colour


def indicators(dataset) -> np.ndarray:
    """[N, L] whether an image is of each class, or has each finding."""
    labels = dataset.labels
    return labels.astype(bool) if labels.ndim == 2 else labels[:, None] == np.arange(len(dataset.classes))


def _common(dataset) -> np.ndarray:
    """Numbers of the classes that are shown, in label order."""
    counts = indicators(dataset).sum(axis=0)
    return np.sort(np.argsort(-counts, kind='stable')[:SHOWN_CLASSES])


def _short(name: str, length: int = 30) -> str:
    from medpeft_utils.plots import shorten

    return shorten(name, length)


def examples(dataset, per_class: int = 8, seed: int = 0):
    """A figure of some training images of every class (with every finding), a row a class."""
    shown, rows, classes = indicators(dataset), dataset.rows('train'), _common(dataset)
    generator, side = np.random.default_rng(seed), dataset.image_size + max(1, dataset.image_size // 32)
    sheet = np.full((side * len(classes), side * per_class, 3), 255, dtype=np.uint8)
    for i, k in enumerate(classes):
        own = rows[shown[rows, k]]
        for j, row in enumerate(generator.choice(own, min(per_class, len(own)), replace=False)):
            picture = dataset.images[row]
            sheet[i * side : i * side + len(picture), j * side : j * side + len(picture)] = picture
    with drawing():
        height = 0.63 * len(classes) + 0.25  # inches; 0.63 is the width of a picture
        figure = new_figure(7.0, height)
        axis = figure.add_axes((0.27, 0.0, 0.72, 1 - 0.25 / height))
        axis.imshow(sheet)
        for i in (i for i, k in enumerate(classes) if not shown[rows, k].any()):
            axis.text(5, (i + 0.5) * side, 'no training image', va='center', fontsize=7)
        axis.set_yticks((np.arange(len(classes)) + 0.5) * side, [_short(dataset.classes[k]) for k in classes])
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.grid(False)
        axis.spines[:].set_visible(False)
        figure.text(0.99, 0.99, _what(dataset), ha='right', va='top', fontsize=7, style='italic')
    return figure


def _what(dataset) -> str:
    return f'{dataset.label}: synthetic images, no patients' if dataset.synthetic else dataset.label


def _draw_classes(axis, dataset) -> None:
    shown, classes = indicators(dataset), _common(dataset)
    at = np.arange(len(classes))
    for place, (split, shade) in enumerate(zip(SPLITS, SHADES, strict=True)):
        rows = dataset.rows(split)
        counts = shown[rows][:, classes].sum(axis=0)
        axis.barh(at + 0.27 * (place - 1), counts, 0.25, color=shade, label=f'{split} ({len(rows):,})')
    axis.set_yticks(at, [_short(dataset.classes[k]) for k in classes])
    axis.invert_yaxis()
    axis.set_xscale('symlog', linthresh=10)
    axis.set_xlim(left=0)
    axis.set(xlabel='images (log scale)', title='Findings' if dataset.card.multi_label else 'Classes')
    axis.grid(axis='y', visible=False)


def _draw_groups(axis, dataset) -> None:
    images = pd.Series(dataset.groups).value_counts().value_counts().sort_index()  # images of a group -> groups
    axis.bar(images.index.astype(str), images.to_numpy(), color=SHADES[0])
    axis.set_yscale('log')
    axis.set_ylim(0.7, images.max() * 2)
    for at, count in enumerate(images.to_numpy()):
        axis.annotate(f'{count:,}', (at, count), ha='center', va='bottom', fontsize=6.5)
    kind = dataset.card.group or 'group'
    axis.set(xlabel=f'images of one {kind}', ylabel=f'{kind}s (log scale)', title=f'{kind.capitalize()}s')
    axis.grid(axis='x', visible=False)


def _draw_sizes(axis, sizes: dict[str, int]) -> None:
    width, height = np.array([name.split('x') for name in sizes], dtype=int).T
    counts = np.array(list(sizes.values()))
    axis.scatter(width, height, s=8 + 60 * counts / counts.max(), color=SHADES[0], alpha=0.5, linewidths=0)
    axis.set(xlabel='width (pixels)', ylabel='height (pixels)', title=f'{len(sizes):,} sizes of files')
    axis.set_xlim(0, width.max() * 1.1)
    axis.set_ylim(0, height.max() * 1.1)


def charts(dataset, sizes: dict[str, int] | None = None):
    """A figure of classes by split, images of a group, and, where given, sizes of the files.

    Args:
        dataset: as loaded.
        sizes: '640x480' to number of images, as `check` reports them; synthetic images have none of their own.
    """
    many = len(set(dataset.groups.tolist())) < len(dataset)
    parts = 1 + many + bool(sizes)
    with drawing():
        height = max(0.24 * min(len(dataset.classes), SHOWN_CLASSES) + 1.4, 2.3)
        figure = new_figure(7.0, height)
        axes = figure.subplots(1, parts, width_ratios=[1.5] + [1] * (parts - 1), squeeze=False)[0]
        _draw_classes(axes[0], dataset)
        if many:
            _draw_groups(axes[1], dataset)
        if sizes:
            _draw_sizes(axes[-1], sizes)
        figure.text(0.99, 0.06 / height, _what(dataset), ha='right', va='bottom', fontsize=6.5, style='italic')
        lines, words = axes[0].get_legend_handles_labels()
        figure.legend(lines, words, frameon=False, fontsize=6.5, loc='lower left', ncols=3, bbox_to_anchor=(0, 0))
        figure.tight_layout(rect=(0, 0.25 / height, 1, 1))
    return figure


# ---- pages


def _state() -> str:
    """Hash of what draws the pictures of a page: this module, and the generator of the stand-ins."""
    return digest(Path(__file__).read_bytes(), generator_hash())


def _stand_in(card: DataCard) -> str | None:
    name = f'synthetic_{card.name}'
    return name if name in CARDS else None


def _classes(card: DataCard) -> list[str]:
    """The table of classes with the published counts."""
    if not card.counts:
        return [', '.join(card.classes)]
    head = 'finding | positives' if card.multi_label else 'class | images'
    total = card.images or sum(card.counts.values())
    rows = [f'| {name} | {count:,} | {count / total:.1%} |' for name, count in card.counts.items()]
    return [f'| {head} | share |', '| --- | ---: | ---: |', *rows]


def facts(card: DataCard) -> dict[str, str]:
    """What a card says, in words, by its heading; what it does not say is left out."""
    together = [f'images of one {card.group}'] if card.group else []
    together += ['files that are the same'] + ['near duplicates'] * card.near_duplicates_together
    shares = ', '.join(
        f'{share:.1%}'.replace('.0%', '%') + f' {split}' for share, split in zip(card.shares, SPLITS, strict=True)
    )
    numbers = [card.paper_train_images] if card.paper_train_images else card.paper_train_pairs
    found = {
        'task': card.task + (' (an image can have several)' if card.multi_label else ''),
        'modality': card.modality,
        'images': f'{card.images:,}' if card.images else '',
        'texts': card.texts,
        'kept together': ', '.join(together) + ('' if card.group else '; the publication tells of no groups'),
        'splits': card.splits or f'those that the publication gives, else {shares}',
        'subgroups': ', '.join(card.subgroups),
        'source': card.source,
        'obtain': card.how_to_obtain,
        'licence': card.licence,
        'stands for': card.stands_for or '',
        'in the paper': ' / '.join(f'{number:,}' for number in numbers) + ' training images' if numbers else '',
    }
    return {heading: words for heading, words in found.items() if words}


def page(card: DataCard) -> str:
    """The page of a dataset in Markdown."""
    from medpeft_utils.data import sources

    stand_in, reader = _stand_in(card), sources.has_reader(card.name)
    rows = facts(card) | {
        'reader': f'`medpeft data prepare {card.name} FOLDER`' if reader else 'none yet',
        'stand-in': f'`{stand_in}`' if stand_in else 'none',
    }
    lines = [f'# {card.label} (`{card.name}`)', '', '| | |', '| --- | --- |']
    lines += [f'| {key} | {value} |' for key, value in rows.items()]
    lines += ['', '## Classes', '', *_classes(card)]
    if card.known_faults:
        lines += ['', '## Known faults', '', *(f'- {fault}' for fault in card.known_faults)]
    lines += ['', '<!-- made by `medpeft data pages`']
    if stand_in:
        name = card.name
        lines[-1:] = ['## What the stand-in looks like', '', 'Drawn from a seed: **synthetic**, no patient is in it.']
        lines += ['', f'![Synthetic images of every class](figures/{name}_examples.png)']
        lines += ['', f'![Classes and groups of the synthetic stand-in](figures/{name}_charts.png)']
        lines += ['', f'<!-- made by `medpeft data pages`, state {_state()}']
    return '\n'.join([*lines[:-1], f'{lines[-1]} -->', ''])


def index() -> str:
    """The list of all pages in Markdown."""
    lines = ['# Datasets', '', 'Each page is made of the card in the code by `medpeft data pages`.', '']
    lines += ['| dataset | task | classes | images | licence |', '| --- | --- | ---: | ---: | --- |']
    for name in names():
        card = CARDS[name]
        if not card.synthetic:
            images = f'{card.images:,}' if card.images else ''
            lines.append(
                f'| [{card.label}]({name}.md), `{name}` | {card.task} | {len(card.classes)} | {images} '
                f'| {card.licence} |'
            )
    return '\n'.join([*lines, ''])


def stale(folder: Path) -> list[str]:
    """Names of the pages below a folder that are missing or not as they would be written now."""
    wanted = {'README.md': index()} | {f'{n}.md': page(CARDS[n]) for n in names() if not CARDS[n].synthetic}
    there = {path.name: path.read_text(encoding='utf-8') for path in folder.glob('*.md')}
    pictures = [f'figures/{name}_{kind}.png' for name in names() if not CARDS[name].synthetic
                and _stand_in(CARDS[name]) for kind in ('examples', 'charts')]  # fmt: skip
    missing = [name for name in pictures if not (folder / name).is_file()]
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name)) + missing


def write(folder: Path, image_size: int = 64, cache: str | None = None) -> list[Path]:
    """Write the pages that are stale, with their figures, and remove those of datasets that are gone.

    Returns the files written.
    """
    (folder / 'figures').mkdir(parents=True, exist_ok=True)
    todo, written = stale(folder), []
    for name in (name for name in names() if not CARDS[name].synthetic):
        card, drawn = CARDS[name], _stand_in(CARDS[name])
        if not any(
            entry in (f'{name}.md', f'figures/{name}_examples.png', f'figures/{name}_charts.png') for entry in todo
        ):
            continue
        if drawn:
            dataset = load(drawn, image_size=image_size, cache=cache)
            for kind, draw in (('examples', examples), ('charts', charts)):
                written.append(folder / 'figures' / f'{name}_{kind}.png')
                draw(dataset).savefig(written[-1], dpi=110, metadata={'Software': None})
        written.append(folder / f'{name}.md')
        written[-1].write_text(page(card), encoding='utf-8')
    (folder / 'README.md').write_text(index(), encoding='utf-8')
    for path in folder.glob('*.md'):
        if path.stem != 'README' and path.stem not in CARDS:
            path.unlink()
    return written
