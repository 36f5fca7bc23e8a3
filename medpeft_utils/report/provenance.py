"""What stands beside every figure and table: which data, which backbone, how many seeds and runs, what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from medpeft_utils.report import paper, scores

SPREAD = 'mean ± standard deviation over seeds, in points (hundredths of F1)'


def is_synthetic(chosen: pd.DataFrame) -> bool:
    """True where any of these scores is of synthetic images."""
    return bool(chosen['synthetic'].fillna(False).astype(bool).any())


def _listed(names: Iterable[str], most: int = 8) -> str:
    names = list(dict.fromkeys(names))
    return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')


def _seeds(chosen: pd.DataFrame) -> str:
    counts = chosen.groupby(scores.CELL)['seed'].nunique()
    low, high = counts.min(), counts.max()
    if low == high:
        return f'{high} seed{"s" if high > 1 else ""} a cell'
    return f'{low} to {high} seeds a cell ({int((counts < high).sum())} of {len(counts)} cells have fewer than {high})'


def describe(records: pd.DataFrame, chosen: pd.DataFrame, f1: str, spread: bool = True) -> list[str]:
    """Sentences on data, backbones, seeds and runs.

    Args:
        records: all records of the study, for runs that failed.
        chosen: the scores that are shown, as from `scores.seed_scores`.
        f1: the average of F1 that they hold.
        spread: whether a spread over seeds is shown.
    """
    if scores.is_published(records):
        return [f"The paper's own numbers ({paper.CITATION}); it does not say which average of F1 it prints."]
    failed = records[records['status'] != 'done']
    failures = f' {len(failed)} run{"s" if len(failed) > 1 else ""} of the study failed.' if len(failed) else ''
    if chosen.empty:
        return [f"No run of this study belongs here: the numbers are the paper's ({paper.CITATION})." + failures]
    synthetic = 'SYNTHETIC images. ' if is_synthetic(chosen) else ''
    data = f'{synthetic}Data: {_listed(chosen["dataset_label"])}. Backbones: {_listed(chosen["backbone_label"])}.'
    runs = f'{len(chosen)} runs, {_seeds(chosen)}; {f1} F1 on the test split' + (f', {SPREAD}.' if spread else '.')
    return [data, runs + failures]


def rates(records: pd.DataFrame, chosen: pd.DataFrame) -> list[str]:
    """A sentence on where the learning rates come from, by backbone where they differ; none where records do not say.

    Args:
        records: all records of the study; their column 'record' holds them whole.
        chosen: the scores that are shown, as from `scores.seed_scores`.
    """
    whole = records.set_index('run').get('record', pd.Series(dtype=object))
    by_backbone: dict[str, list[str]] = {}
    for run, label in zip(chosen['run'], chosen['backbone_label'], strict=True):
        if run in whole:
            way = _way(whole[run])
            if way not in by_backbone.setdefault(label, []):
                by_backbone[label].append(way)
    said = {label: ' or '.join(ways) for label, ways in by_backbone.items()}
    if len(set(said.values())) > 1:
        return ['Learning rates: ' + '; '.join(f'{label} {ways}' for label, ways in said.items()) + '.']
    return [f'Learning rates: {ways}.' for ways in set(said.values())]


def _way(record: dict) -> str:
    """How a record's learning rate was found, in words."""
    rate, share = record['learning_rate'], record['parameters'].get('search_fraction')
    if rate['how'] != 'searched':
        return {'default': "each method's default", 'given': 'as the grid gives them'}[rate['how']]
    where = f'once with {100 * share:g} % of the images' if share else 'with each share of the images'
    return f'the best of {len(rate["trials"])} on validation, searched {where}'


def missing(wanted: Sequence[tuple], have: Iterable[tuple]) -> str:
    """A sentence on which of the wanted cells (tuples of names) are missing; a name with no cell is said once."""
    have = set(have)
    absent = [cell for cell in wanted if cell not in have]
    if not absent:
        return f'None of the {len(wanted)} cells is missing.'
    names = []
    for position in range(len(wanted[0])):  # a name under which every cell is missing is said once
        empty = [n for n in dict.fromkeys(c[position] for c in absent) if not any(h[position] == n for h in have)]
        names += [str(name) for name in empty]
        absent = [cell for cell in absent if cell[position] not in empty]
    names += [' '.join(map(str, cell)) for cell in absent]
    count = sum(cell not in have for cell in wanted)
    return f'Missing, shown as "-": {count} of {len(wanted)} cells ({_listed(names)}).'
