"""Where the records of a profile come from."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.report import paper


def load(profile: str, results: Path | str, figures: Path | str) -> pd.DataFrame:
    """The records of a profile: of its results, else of the records.jsonl kept beside its figures.

    What `records.load` gives, failed runs too, the parameter 'weights', and the whole 'record'; `.attrs['places']` are
    both folders, for pictures that runs wrote, and `.attrs['study']` is the profile. The profile 'paper' without either
    is the paper's own numbers.

    Args:
        profile: the name of a grid, such as 'demo'.
        results: results/<profile>.
        figures: figures/<profile>.
    Raises:
        BadInput: there is nothing to read.
    """
    from medpeft_utils.study import records

    results, kept = Path(results), Path(figures) / 'records.jsonl'
    for place in (results, kept):
        if place.is_file() or (place / 'runs').is_dir():
            table = records.load(place, status=None)
            whole = {one['run']: one for one in records.read_all(place)}
            weights = {run: one['parameters'].get('weights', '') for run, one in whole.items()}
            found = in_order(table.assign(weights=table['run'].map(weights), record=table['run'].map(whole)))
            found.attrs |= {'study': profile, 'places': (str(results), str(figures))}
            return found
    if profile == 'paper':
        return paper.records()
    raise BadInput(f'no records of {profile!r}: neither {results} nor {kept}; `medpeft run {profile}` makes them')


def in_order(records: pd.DataFrame) -> pd.DataFrame:
    """Records in the order of the paper's tables: by encoder, data set, method and share, so figures are too."""
    place = {name: number for number, name in enumerate(paper.ENCODERS)}
    set_place = {name: number for number, name in enumerate(paper.DATASETS)}
    keys = pd.DataFrame(
        {
            'encoder': records['encoder_role'].map(place).fillna(len(place)),
            'dataset': records['dataset_label'].str.replace(' (synthetic)', '', regex=False).map(set_place),
            'method': records['method_label'],
            'fraction': records['fraction'],
            'seed': records['seed'],
        }
    )
    return records.loc[keys.sort_values(list(keys)).index].reset_index(drop=True)


def summary(records: pd.DataFrame) -> pd.DataFrame:
    """How many runs of each experiment are done and have failed, on which data and backbones."""
    if (records['profile'] == paper.PUBLISHED).all():
        return pd.DataFrame({'numbers': [len(records)], 'source': [paper.CITATION]})
    by = ['experiment', 'dataset_label', 'backbone_label']
    named = records.assign(**{name: records[name].fillna('-') for name in by})
    return named.groupby([*by, 'status'], sort=False).size().unstack('status', fill_value=0).reset_index()
