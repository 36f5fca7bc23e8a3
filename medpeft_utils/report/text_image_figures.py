"""Figure 2, and how generated images follow their prompts.

Figure 2 shows ground truth and the best five methods, for the largest and the smallest data size, one prompt.

Runs wrote the pictures beside their records (`text_image.plots`). Pictures of synthetic radiographs are shown and
kept beside the figure. Of a pipeline that was trained on patients' images no figure is shared: its pictures, which may
hold what it memorised, go into one beside the results, which stays local; real images themselves are in neither.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.report import provenance, scores, style
from medpeft_utils.report import text_image_scores as ti
from medpeft_utils.report.output import Figure, Nothing, renderer
from medpeft_utils.report.style import bar, sheet
from medpeft_utils.report.text_image_tables import NO_RUN

PROMPT = 'No acute cardiopulmonary process.'
TRUTH = 'Ground truth'
KEPT = 'figure2_{}.png'  # of a run's pictures, beside the figure
LOCAL = 'figure2_local.png'
PRIVATE = (
    'Trained on images of patients: what is generated may repeat them and is not shared. The pictures are in '
    f'{LOCAL} among the results, to be kept as the data; real images are in neither.'
)
HIDDEN = 'not shown:\npatients’ images'
ABSENT = 'no pictures kept'
EDGE, BLOCK, TOP = 1.15, 1.55, 0.42  # inches: side of a cell, from one line to the next, above the first


@dataclass(frozen=True, kw_only=True)
class Gallery(Figure):
    """A figure of pictures.

    Args:
        strips: file name to pictures, of synthetic images only, kept beside the figure for redrawing.
    """

    strips: Mapping[str, np.ndarray] = field(default_factory=dict)

    def save(self, folder: Path | str) -> list[Path]:
        """As every figure, with the strips."""
        from medpeft_utils.text_image.plots import write_strip

        paths = super().save(folder)
        remove_strips(folder, {Path(folder, name) for name in self.strips})
        return paths + [write_strip(images, Path(folder) / name) for name, images in self.strips.items()]


@dataclass(frozen=True, kw_only=True)
class Withheld(Nothing):
    """A figure of what must not be shared: nothing is written beside the other figures.

    Args:
        local: the figure, None where runs kept no pictures.
        local_path: where it goes: among the results, which git ignores.
    """

    local: object = None
    local_path: Path | None = None

    def save(self, folder: Path | str) -> list[Path]:
        """Write the local figure to its own place, which is none of the paths; remove what lies beside the others."""
        remove_strips(folder)
        if self.local is not None and self.local_path is not None and self.local_path.parent.is_dir():
            with style.drawing():
                self.local.savefig(self.local_path, dpi=200, metadata={'Software': None})
        return super().save(folder)


def remove_strips(folder: Path | str, kept: Collection[Path] = ()) -> None:
    """Remove the pictures of runs that are no longer drawn."""
    for path in (*Path(folder).glob(KEPT.format('[0-9a-f]' * 8 + '*')), Path(folder, KEPT.format('ground_truth'))):
        if path not in kept:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Cell:
    """One place of the figure: its heading, its number beneath, its pictures [K, S, S, 3], or why there are none."""

    title: str
    under: str
    run: str = ''
    images: np.ndarray | None = None
    words: str = ABSENT


def pictures_of(records: pd.DataFrame, run: str, name: str = 'samples.png') -> np.ndarray | None:
    """The pictures that a run wrote, from its folder, or from beside the figures; None where there are none."""
    from medpeft_utils.text_image.plots import SAMPLES, read_strip

    for results, figures in [records.attrs.get('places', ())] if records.attrs.get('places') else []:
        kept = KEPT.format(run if name == SAMPLES else 'ground_truth')
        for path in (*sorted((Path(results) / 'runs' / run).rglob(name)), Path(figures) / kept):
            if path.is_file():
                return read_strip(path)
    return None


def _cell(records: pd.DataFrame, row: pd.Series) -> Cell:
    fids = [sample['fid'] for sample in row['samples']]
    under = f'FID {np.mean(fids):.1f}' if fids else ''
    return Cell(row['method'], under, row['run'], pictures_of(records, row['run']))


def _rows(records: pd.DataFrame, table: pd.DataFrame) -> list[tuple[str, list[Cell]]]:
    """The cells of one set: a line for its largest and one for its smallest data size."""
    from medpeft_utils.text_image.plots import GROUND_TRUTH

    synthetic, truth = bool(table['synthetic'].all()), None
    if synthetic:
        found = (pictures_of(records, run, GROUND_TRUTH) for run in table['run'])
        truth = next((images for images in found if images is not None), None)
    methods, sizes, lines = ti.best(table), list(ti.sizes(table)), []
    for size in dict.fromkeys([sizes[0], sizes[-1]]):
        cells = [Cell(TRUTH, '', images=truth, words=ABSENT if synthetic else HIDDEN)]
        for method in methods:
            here = table[(table['pairs'] == size) & (table['method'] == method)].sort_values('seed')
            cells.append(_cell(records, here.iloc[0]) if len(here) else Cell(method, '', words='not run'))
        lines.append((f'{size:,} pairs', cells))
    return lines


def _mosaic(images: np.ndarray) -> np.ndarray:
    """Up to four pictures [K, S, S, 3] as two by two, with a white line between; one alone as it is."""
    if len(images) < 4:
        return images[0]
    white = images.shape[1] // 32 + 1
    padded = np.pad(images[:4], ((0, 0), (0, white), (0, white), (0, 0)), constant_values=255)
    rows = [np.concatenate([padded[n], padded[n + 1]], axis=1) for n in (0, 2)]
    return np.concatenate(rows)[:-white, :-white]


def _draw(lines: list[tuple[str, list[Cell]]]):
    across = max(len(cells) for _, cells in lines)
    width, height = EDGE * max(across, 6) + 0.6, BLOCK * len(lines) + TOP + style.BENEATH
    figure = style.new_figure(width, height)
    for down, (label, cells) in enumerate(lines):
        for place, cell in enumerate(cells):
            bottom = height - TOP - down * BLOCK - EDGE
            box = [(0.5 + EDGE * place) / width, bottom / height, (EDGE - 0.06) / width, (EDGE - 0.06) / height]
            axes = figure.add_axes(box)
            _fill(axes, cell)
            if not place:
                axes.set_ylabel(label, size=7.5)
    return figure


def _fill(axes, cell: Cell) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(cell.images is None)
        spine.set_color(style.PALE)
    axes.set_title(cell.title, size=7, loc='center', pad=3, weight='normal')
    axes.set_xlabel(cell.under, size=6.5, labelpad=2)
    if cell.images is None:
        axes.text(0.5, 0.5, cell.words, ha='center', va='center', size=6, color=style.GREY, transform=axes.transAxes)
    else:
        axes.imshow(_mosaic(cell.images), interpolation='nearest')


def _numbers(lines: list[tuple[str, list[Cell]]]) -> pd.DataFrame:
    rows = [
        (label, cell.title, cell.run, cell.under, 0 if cell.images is None else len(cell.images))
        for label, cells in lines
        for cell in cells
    ]
    return pd.DataFrame(rows, columns=['row', 'column', 'run', 'number', 'pictures'])


@renderer('figure2', 'Figure 2: images from one prompt', 'Do the images look like radiographs?')
def figure2(records: pd.DataFrame, f1: str = 'weighted') -> Gallery | Withheld:
    """Figure 2 of the paper for the set with most runs: pictures of synthetic data; of patients' data none."""
    table = ti.runs(records)
    if table.empty:
        theirs = scores.is_published(records)
        return Withheld(notes=["The paper's pictures are not held here." if theirs else NO_RUN])
    table = table[table['data'] == table['data'].value_counts().index[0]]
    lines, synthetic = _rows(records, table), bool(table['synthetic'].all())
    about = f'Prompt: "{PROMPT}" The best methods by average rank of FID, and LoRA; the same starting noise for all.'
    notes, data = [about, *ti.describe(records, table)[:1]], _numbers(lines)
    shown = [cell for _, cells in lines for cell in cells if cell.images is not None]
    if synthetic:
        strips = {KEPT.format(cell.run or 'ground_truth'): cell.images for cell in shown}
        how = {'figure': _draw(lines), 'footer': notes, 'kind': 'png', 'strips': strips}
        return Gallery(synthetic=True, notes=notes, data=data, **how)
    if not shown:
        return Withheld(notes=[PRIVATE, *notes], data=data)
    local, path = _draw(lines), Path(records.attrs['places'][0]) / LOCAL
    style.footer(local, notes)
    return Withheld(notes=[PRIVATE, *notes], data=data, local=local, local_path=path)


# ---- whether images look like real ones and show what their prompts ask for, before and after tuning

REAL = 'Real test images'
DRAWN = (
    "First panel: AUROC of a classifier's answers on the images against the findings that the prompts ask for, all "
    'findings pooled; dashed: chance. Second: its difference from the untuned pipeline, paired over the patients of '
    'the prompts, mean over seeds. Third: KID; dotted: the untuned pipeline; real images show the floor. Fourth: how '
    'far KID falls below that of the untuned pipeline, paired likewise. Bars: 95 % intervals. Paler: fewer training '
    'pairs.'
)


def adherence(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over training and sampling seeds of each set, size and method, with the untuned pipeline and real images.

    Args:
        table: `text_image_scores.runs`.
    Returns:
        Columns data, pairs, method, auroc, auroc_low, auroc_high, kid, kid_low, kid_high, fid (of real images the
        floor), gain, gain_low, gain_high of the AUROC and kid_gain, ... of KID (`text_image_scores.over_untuned`).
    """
    wanted = ['auroc', 'auroc_low', 'auroc_high', 'kid', 'kid_low', 'kid_high', 'fid']
    rows = ti.against_base(table).groupby(ti.CELL, sort=False)[wanted].mean().reset_index()
    rows = rows.merge(ti.over_untuned(table), on=ti.CELL, how='left')
    nearer = ti.over_untuned(table, 'kid').rename(columns=lambda name: name.replace('gain', 'kid_gain'))
    rows = rows.merge(nearer, on=ti.CELL, how='left')
    real = []
    for (data, pairs), group in table.groupby(['data', 'pairs'], sort=False):
        one = group['real'].iloc[0]
        about, floor = one.get('adherence') or {}, one.get('floor') or {}
        row = {name: ti.number(about.get(name)) for name in wanted[:3]}
        row |= {name: ti.number(floor.get(name)) for name in ('kid', 'fid')}
        real.append({'data': data, 'pairs': pairs, 'method': REAL} | row)
    return pd.concat([rows, pd.DataFrame(real, columns=rows.columns)], ignore_index=True)


def better(table: pd.DataFrame) -> list[str]:
    """In words, for each set: the mean gain over the methods, and which of them follow prompts better than before."""
    told = []
    for data, found in ti.over_untuned(table).dropna(subset='gain_low').groupby('data', sort=False):
        means, each = found[found['method'] == ti.ALL], found[found['method'] != ti.ALL]
        if means.empty:
            continue
        sizes = '; '.join(
            f'{one.gain:+.3f} [{one.gain_low:+.3f}, {one.gain_high:+.3f}] with {one.pairs:,} pairs'
            for one in means.itertuples()
        )
        sure = [f'{one.method} ({one.pairs:,})' for one in each[each['gain_low'] > 0].itertuples()]
        told.append(
            f'{data}, AUROC after tuning minus before, mean of {each["method"].nunique()} methods: {sizes}. By '
            f'themselves above zero: {", ".join(sure) or "none"}, of {len(each)} without correction.'
        )
    return told


def _draw_adherence(axes, rows: pd.DataFrame) -> None:
    """A line a method, in the order of the rows; within it a mark for each data size, the largest above."""
    left, middle, right, last = axes
    methods, sizes = list(dict.fromkeys(rows['method'])), sorted(rows['pairs'].unique(), reverse=True)
    for one in rows.itertuples():
        size = sizes.index(one.pairs)
        at = methods.index(one.method) + (size - (len(sizes) - 1) / 2) * 0.22
        plain = {'color': style.INK, 'marker': 'o' if one.method == REAL else 'X'}
        look = plain if one.method in (ti.BASE, REAL) else style.look(one.method)
        how = {'color': look['color'], 'alpha': 1 - 0.3 * size, 'zorder': 4, 'markersize': 5.5}
        for axis, value in ((left, one.auroc), (middle, one.gain), (right, one.kid), (last, one.kid_gain)):
            axis.plot(value, at, marker=look['marker'], markeredgecolor='white', markeredgewidth=0.4, **how)
        bar(left, at, one.auroc_low, one.auroc_high, look['color'], across=True, alpha=0.35)
        bar(middle, at, one.gain_low, one.gain_high, look['color'], across=True, alpha=0.35)
        bar(right, at, one.kid_low, one.kid_high, look['color'], across=True, alpha=0.35)
        bar(last, at, one.kid_gain_low, one.kid_gain_high, look['color'], across=True, alpha=0.35)
    left.axvline(0.5, color=style.GREY, linestyle=(0, (4, 2)), linewidth=0.8, zorder=1)
    for axis in (middle, last):
        axis.axvline(0, color=style.INK, linewidth=0.8, zorder=1)
    right.axvline(
        rows.loc[rows['method'] == ti.BASE, 'kid'].mean(), color=style.INK, linestyle=':', linewidth=0.8, zorder=1
    )
    left.set_yticks(range(len(methods)), methods)
    left.set_ylim(len(methods) - 0.4, -0.6)
    least = rows.loc[rows['method'] != REAL, 'kid'].abs().min()  # KID may lie below zero: a scale that is linear there
    linear = 10 ** math.floor(math.log10(least)) if least > 0 else 0.01
    right.set_xscale('symlog', linthresh=linear)
    right.set_xlim(left=min(rows[['kid', 'kid_low']].min().min(), 0.0) - 0.3 * linear)
    right.minorticks_off()
    if rows['auroc'].isna().all():
        for axis in (left, middle):
            axis.text(0.5, 0.5, 'findings not judged', ha='center', color=style.GREY, transform=axis.transAxes)


@renderer(
    'prompt_following',
    'Do the images follow their prompts, and look like real ones?',
    'After tuning, do prompts say what is drawn?',
)
def prompt_following(records: pd.DataFrame, f1: str = 'weighted') -> Figure | Nothing:
    """AUROC of the findings that prompts ask for, its change, and KID, by method and size: a row a set of pairs."""
    table = ti.runs(records)
    if table.empty:
        return Nothing(notes=[NO_RUN])
    rows, notes = adherence(table), ti.describe(records, table)
    sets = list(dict.fromkeys(rows['data']))
    lines = [rows[rows['data'] == data]['method'].nunique() for data in sets]
    height = 0.27 * sum(lines) / len(sets) + 0.75
    footer = ['Bars: 95 %. Paler: fewer training pairs.', *notes]
    figure, grid = sheet(len(sets), 4, 2.2, height, sharey='row', height_ratios=lines)
    for axes, data in zip(grid, sets, strict=True):
        _draw_adherence(axes, rows[rows['data'] == data])
        sizes = ', '.join(f'{size:,}' for size in sorted(rows[rows['data'] == data]['pairs'].unique())[::-1])
        axes[0].set_title(f'{data}: {sizes} pairs')
    names = 'AUROC of findings', 'AUROC minus untuned', 'KID (lower is better)', 'KID, untuned minus tuned'
    for axis, words in zip(grid[-1], names, strict=True):
        axis.set_xlabel(words)
    notes = [*notes, DRAWN, *better(table)]
    return Figure(synthetic=provenance.is_synthetic(table), figure=figure, footer=footer, notes=notes, data=rows)
