"""Pre-trained against random weights: does a backbone have to have learned anything before it is adapted?"""

from __future__ import annotations

import pandas as pd

from medpeft_utils.report import provenance, scores
from medpeft_utils.report.evidence import pooled
from medpeft_utils.report.output import MISSING, Row, Table
from medpeft_utils.report.renderers import renderer
from medpeft_utils.report.score_tables import score

TITLE = 'Pre-trained against random weights'
COLUMNS = ['Encoder', 'Dataset', 'Method', 'Pre-trained', 'Random', 'Difference in points [95 %]', 'Seeds']


def _cells(chosen: pd.DataFrame) -> list[dict]:
    """The cells that were run from both: means, spreads, and the difference paired by seed."""
    summary = scores.summarise(chosen).set_index(scores.CELL)
    found = []
    for encoder, data, method, fraction in summary.index:
        other = (encoder + scores.RANDOM, data, method, fraction)
        if other not in summary.index:
            continue
        here = chosen[(chosen[['data', 'method', 'fraction']] == [data, method, fraction]).all(axis=1)]
        by_seed = here.pivot_table(index='seed', columns='encoder', values='score')
        gains = (by_seed[encoder] - by_seed[other[0]]).dropna().rename('gain').reset_index()
        ours, random, gain = summary.loc[(encoder, data, method, fraction)], summary.loc[other], pooled('', gains)
        row = {'encoder': encoder, 'dataset': data, 'method': method, 'fraction': fraction}
        row |= {
            'pretrained': ours['mean'],
            'pretrained_sd': ours['sd'],
            'random': random['mean'],
            'random_sd': random['sd'],
        }
        found.append(row | {'difference': gain.mean, 'ci95_low': gain.low, 'ci95_high': gain.high, 'seeds': gain.seeds})
    return found


def _row(cell: dict) -> Row:
    difference = f'{100 * cell["difference"]:+.1f}'
    if cell['ci95_low'] == cell['ci95_low']:  # not NaN: three seeds or more
        difference += f' [{100 * cell["ci95_low"]:+.1f}, {100 * cell["ci95_high"]:+.1f}]'
    values = [score(cell['pretrained'], cell['pretrained_sd']), score(cell['random'], cell['random_sd'])]
    return Row((cell['encoder'], cell['dataset'], cell['method']), [*values, difference, str(cell['seeds'])])


@renderer('pretraining', TITLE, 'Does pre-training help the methods at all?')
def pretraining(records: pd.DataFrame, f1: str = 'weighted') -> Table:
    """F1 from pre-trained and from random weights, for every cell that was run from both."""
    chosen = scores.seed_scores(records, f1, prefer=scores.TABLE_EXPERIMENTS)
    cells = _cells(chosen)
    bare = chosen['encoder'].str.removesuffix(scores.RANDOM)
    both = pd.MultiIndex.from_arrays([bare, chosen['data'], chosen['method'], chosen['fraction']])
    used = chosen[both.isin([(c['encoder'], c['dataset'], c['method'], c['fraction']) for c in cells])]
    notes = provenance.describe(records, used, f1) if cells else ['Nothing was run from random weights.']
    return Table(
        name='pretraining',
        title=TITLE + (', synthetic images' if provenance.is_synthetic(used) else ''),
        columns=COLUMNS,
        rows=[_row(cell) for cell in cells] or [Row((MISSING,) * 3, [MISSING] * 4)],
        notes=notes,
        data=pd.DataFrame(cells, columns=None if cells else ['encoder', 'dataset', 'method']),
    )
