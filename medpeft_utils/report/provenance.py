"""What stands beside every figure and table: which data, which backbone, how many seeds and runs, what to beware of."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from medpeft_utils.report import paper, scores

PROBE = 'Linear Probing'
INTERVALS = {
    'patients and seeds': 'Intervals: 95 %, patients (or lesions) and seeds resampled together, differences paired.',
    'patients': 'Intervals: 95 % over patients (or lesions), one seed: training randomness is not included.',
    'seeds': 'Intervals: 95 % over seeds alone. Intervals over patients are not available: these records hold no rows.',
    'splits': 'Intervals: 95 % over splits, with the variance of Nadeau and Bengio.',
}


def is_synthetic(chosen: pd.DataFrame) -> bool:
    """True where any of these scores is of synthetic images."""
    return len(chosen) > 0 and bool(chosen['synthetic'].fillna(False).astype(bool).any())


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names in a row, each once, the rest counted."""
    names = list(dict.fromkeys(names))
    return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')


def from_to(values: Iterable[float], what: str = '') -> str:
    """'3 seeds', or '1 to 3 seeds'; numbers in three digits."""
    known = [value for value in values if value == value]
    if not known:
        return ''
    low, high = f'{min(known):,.4g}', f'{max(known):,.4g}'
    text = low if low == high else f'{low} to {high}'
    return f'{text} {what}{"s" if what and high != "1" else ""}'.strip()


def percent(part: float, digits: int = 0) -> str:
    """A fraction in words: 0.5 is '50 %'."""
    return f'{100 * part:.{digits}f} %'


def source(records: pd.DataFrame, chosen: pd.DataFrame, about: str, citation: str = paper.CITATION) -> list[str]:
    """Data, backbones, runs and seeds of what is shown, failed runs, and how far it was trained.

    Args:
        records: all records of the study, for runs that failed.
        chosen: the runs that are shown: columns dataset_label, backbone_label, synthetic, seed, and those of CELL.
        about: what the numbers are, such as 'weighted F1 on the test split'.
        citation: of the paper whose numbers stand here where nothing was run.
    """
    failed = records[records['status'] != 'done']
    failures = f' {len(failed)} run{"s" if len(failed) > 1 else ""} of the study failed.' if len(failed) else ''
    if chosen.empty:
        return [f"No run of this study belongs here: the numbers are the paper's ({citation})." + failures]
    synthetic = 'SYNTHETIC images. ' if is_synthetic(chosen) else ''
    data = f'{synthetic}Data: {listed(chosen["dataset_label"])}. Backbones: {listed(chosen["backbone_label"])}.'
    cells = [name for name in (*scores.CELL, 'head', 'steps') if name in chosen]
    # A probe's steps are iterations to convergence: they differ from seed to seed and make no cell of their own.
    by_cell = _without_probe_steps(chosen).groupby(cells, dropna=False)
    folds = from_to(by_cell['split'].nunique(), 'split') if 'split' in chosen else ''
    many = '' if folds in ('', '1 split') else f', {folds}'
    runs = f'{len(chosen)} runs, {from_to(by_cell["seed"].nunique(), "seed")} a cell{many}; {about}.'
    return [f'{data} {runs}{failures}', *trained(chosen), *cautions(chosen)]


def _without_probe_steps(chosen: pd.DataFrame) -> pd.DataFrame:
    return chosen.assign(steps=chosen['steps'].mask(chosen['method'] == PROBE)) if 'steps' in chosen else chosen


def trained(chosen: pd.DataFrame) -> list[str]:
    """Steps and passes over the training images, of all that is shown."""
    if 'steps' not in chosen or chosen['steps'].isna().all():
        return []
    shown = chosen[chosen['method'] != PROBE]
    steps, passes = from_to(shown['steps'].dropna().astype(int), 'step'), from_to(shown['passes'].round(1), '')
    by = sorted({score_name(one) for one in shown['selection'] if one})
    chosen_by = f'; chosen on validation by {" or ".join(by)}' if by else ''
    told = f'Trained for {steps}, {passes} passes over the training images{chosen_by}.'
    return [told] if steps and passes else []


def score_name(name: str) -> str:
    """A score of the records as it is written: 'f1_macro' is macro F1."""
    kind, _, average = name.partition('_')
    return f'{average} F1' if kind == 'f1' else {'auroc': 'AUROC'}.get(name, name.replace('_', ' '))


def cautions(chosen: pd.DataFrame) -> list[str]:
    """Runs that answer one class for every image, and searches that ended at an edge, counted and named."""
    found = []
    if 'one_class' in chosen and (one := chosen[chosen['one_class'] != '']).shape[0]:
        names = listed(f'{r.method} on {r.data} with {r.encoder} ("{r.one_class}")' for r in one.itertuples())
        found.append(f'{len(one)} of {len(chosen)} runs answer one class for every image: {names}.')
    if 'edge' in chosen and (edge := chosen[chosen['edge'] != '']).shape[0]:
        names = listed(f'{r.method} on {r.data} ({r.edge})' for r in edge.itertuples())
        found.append(f'{len(edge)} of {len(chosen)} runs have a rate at the edge of the widened search: {names}.')
    return found


def describe(records: pd.DataFrame, chosen: pd.DataFrame, f1: str) -> list[str]:
    """`source` for scores of classification, and what their intervals are over."""
    if scores.is_published(records):
        return [f"The paper's own numbers ({paper.CITATION}); it does not say which average of F1 it prints."]
    return [*source(records, chosen, f'{f1} F1 on the test split'), *intervals(chosen)]


def intervals(chosen: pd.DataFrame) -> list[str]:
    """What the intervals of these runs are over, in a sentence; none where there are none."""
    if chosen.empty:
        return []
    over = {scores.sample(group).interval().over for _, group in chosen.groupby(scores.CELL)}
    return [INTERVALS[name] for name in INTERVALS if name in over]


def smallest(chosen: pd.DataFrame) -> list[str]:
    """What stands on top of a table: the smallest difference that each test set can show."""
    found = scores.smallest(chosen)
    rows = [(one.data, one.smallest, one.groups) for one in found.itertuples()]
    return least(rows, 'from full FT' if scores.FULL in set(chosen['method']) else '')


def least(rows: Iterable[tuple[str, float, int]], against: str = 'from full FT', unit: str = 'points') -> list[str]:
    """The smallest detectable differences as a sentence, from (data, difference, groups); points are of 0..1."""
    found, scale = pd.DataFrame(rows, columns=['data', 'smallest', 'groups']).dropna(), 100 if unit == 'points' else 1
    if found.empty:
        return ['No difference can be shown: fewer than three seeds and splits, and no rows of the test split.']
    words = []
    for data, group in found.groupby('data', sort=False):
        of = f' ({group["groups"].max():,} patients or lesions)' if group['groups'].max() else ''
        words.append(f'{data}{of} {from_to((scale * group["smallest"]).round(1))} {unit}'.strip())
    what = f'Smallest difference {against}'.strip()
    return [f'{what} that would be detected in four of five such studies: {"; ".join(words)}.']


def rates(records: pd.DataFrame, chosen: pd.DataFrame) -> list[str]:
    """A sentence on where the learning rates come from, by backbone where they differ; none where records do not say.

    Args:
        records: all records of the study; their column 'record' holds them whole.
        chosen: the scores that are shown, as from `scores.seed_scores`.
    """
    whole = records.drop_duplicates('run').set_index('run').get('record', pd.Series(dtype=object))
    chosen = chosen[chosen['method'] != PROBE]  # fitted to convergence, it has no rate
    by_backbone: dict[str, list[str]] = {}
    for run, label in zip(chosen['run'], chosen['backbone_label'], strict=True):
        if run in whole.index and isinstance(whole[run], dict):
            way = _way(whole[run])
            if way not in by_backbone.setdefault(label, []):
                by_backbone[label].append(way)
    said = {label: ' or '.join(sorted(ways)) for label, ways in by_backbone.items()}
    if len(set(said.values())) > 1:
        return ['Learning rates: ' + '; '.join(f'{label} {ways}' for label, ways in said.items()) + '.']
    return [f'Learning rates: {ways}.' for ways in set(said.values())]


def _way(record: dict) -> str:
    """How a record's learning rate was found, in words."""
    rate, share = record['learning_rate'], record['parameters'].get('search_fraction')
    if rate['how'] != 'searched':
        fixed = {'default': "each method's default", 'given': 'as the grid gives them'}
        return fixed.get(rate['how'], str(rate['how']))
    where = f'once with {100 * share:g} % of the images' if share else 'with each share of the images'
    return f'the best of {len(rate["trials"])} on validation, searched {where}'
