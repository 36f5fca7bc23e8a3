"""Items of reporting checklists that a tool can fill from records; the rest is left open for people.

After CLAIM 2024 (Tejani et al., Radiology: AI 6:e240300), TRIPOD+AI (Collins et al. 2024, BMJ 385:e078378) and REFORMS
(Kapoor et al. 2024, Science Advances 10:eadk3452). Item texts are short and in our own words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from medpeft_utils.report import provenance, scores
from medpeft_utils.report.output import Nothing, Output, Row, Table, renderer

OPEN = 'for people'
NOT_CLINICAL = 'This is research software and no medical device; nothing here was evaluated prospectively on patients.'


@dataclass(frozen=True)
class Study:
    """The whole records of a study that are done, and its failed runs."""

    records: list[dict]
    failed: int

    def listed(self, find: Callable[[dict], object], most: int = 8) -> str:
        """The distinct answers over records, in words."""
        found = [str(value) for record in self.records if (value := find(record)) not in (None, '', {}, [])]
        return provenance.listed(found, most)


def _ends(counts: set[int]) -> str:
    return f'{min(counts):,}' + (f' to {max(counts):,}' if len(counts) > 1 else '')


def _counts(study: Study) -> str:
    """Images of each partition by data set; a range where runs used shares of the training images."""
    found: dict[str, dict[str, set[int]]] = {}
    for record in study.records:
        for split, count in record['data']['counts'].items():
            found.setdefault(record['data']['label'], {}).setdefault(split, set()).add(count)
    parts = {label: ', '.join(f'{split} {_ends(n)}' for split, n in splits.items()) for label, splits in found.items()}
    return '; '.join(f'{label} ({words})' for label, words in parts.items())


def _partitions(study: Study) -> str:
    """Groups of validation and test, and how many are in both: the rows of the training images are in no record."""
    from medpeft_utils.training import rows

    told = {}
    for record in study.records:
        key = record['data']['label'], record['data'].get('split_hash')
        if key in told or not {'validation', 'test'} <= set(record.get('rows', {})):
            continue
        groups = {split: set(rows.read(record, split).groups.tolist()) for split in ('validation', 'test')}
        counts = [len(found) for found in (*groups.values(), groups['validation'] & groups['test'])]
        told[key] = '{} split {:.8}: {:,} groups in validation, {:,} in test, {:,} in both'.format(*key, *counts)
    text = '; '.join([*told.values()][:6]) + f' and {len(told) - 6} more splits' * (len(told) > 6)
    return f'{text}. Splits are made by group where the data name one; training rows are in no record' if text else ''


def _images(study: Study) -> str:
    sizes = study.listed(lambda r: r['backbone'].get('image_size'))
    augmented = study.listed(lambda r: (r.get('training') or {}).get('augmentation'), 4)
    text = f'resized to squares of {sizes} pixels, normalised as the network asks'
    return f'{text}; training images augmented by: {augmented}' if augmented else text


def _methods(study: Study) -> str:
    """Each method with what it trains: one count, or the range over networks."""
    counts: dict[str, set[int]] = {}
    for record in study.records:
        counts.setdefault(record['method']['label'], set()).add(record['method'].get('trainable_parameters') or 0)
    told = (f'{label} ({_ends(found)})' for label, found in counts.items())
    return f'{", ".join(told)}; in brackets: trainable parameters beside the head'


def _attributes(study: Study) -> str:
    """Sex and age by partition, of the first record of each data set that holds them."""
    from medpeft_utils.training import rows

    told = {}
    for record in study.records:
        label = record['data']['label']
        if label in told or 'rows' not in record:
            continue
        parts = []
        for split in record['rows']:
            table = rows.read_attributes(record, split)
            for name in ('sex', 'age'):
                if name in table and (known := table[name][table[name] != '']).size:
                    ages = pd.to_numeric(known, errors='coerce').dropna()
                    counted = ', '.join(f'{value} {count:,}' for value, count in known.value_counts().head(3).items())
                    parts.append(
                        f'{split} age {ages.mean():.0f} ± {ages.std():.0f}' if len(ages) else f'{split} {counted}'
                    )
        told[label] = f'{label}: {"; ".join(parts)}' if parts else f'{label}: not in the data'
    return '. '.join(told.values())


def _training(study: Study) -> str:
    steps = [scores.training_of(record) for record in study.records]
    heads = provenance.listed(one['head'] for one in steps if one['head'])
    text = provenance.from_to((one['steps'] for one in steps), 'step')
    batch = study.listed(lambda r: r['parameters'].get('batch_size'))
    rates = (record['learning_rate'] for record in study.records)
    searched = provenance.listed(f'{rate.get("how")}, {len(rate.get("trials") or [])} trials' for rate in rates)
    return f'AdamW; {text or "steps unknown"}; batch {batch}; head {heads or "unknown"}; {searched}'


ITEMS: tuple[tuple[str, str, str, Callable[[Study], str] | None], ...] = (
    ('Question and intended use', 'CLAIM', 'TRIPOD+AI', None),
    ('Retrospective or prospective; where images come from', 'CLAIM', 'TRIPOD+AI', None),
    ('Data sets, and images in each partition', 'CLAIM', 'TRIPOD+AI', _counts),
    ('Who was included and excluded; flow of images', 'CLAIM', 'TRIPOD+AI', None),
    ('How images were prepared', 'CLAIM', 'REFORMS', _images),
    ('Reference standard', 'CLAIM', 'TRIPOD+AI', None),
    ('Partitions are by patient or lesion', 'CLAIM', 'REFORMS', _partitions),
    ('Sex and age by partition', 'CLAIM', 'TRIPOD+AI', _attributes),
    ('Networks, and the source of their weights', 'CLAIM', 'REFORMS',
     lambda s: s.listed(lambda r: f'{r["backbone"]["label"]} ({r["backbone"].get("source", "?")})')),
    ('Methods and their settings', 'CLAIM', 'REFORMS', _methods),
    ('Software', 'CLAIM', 'REFORMS',
     lambda s: s.listed(lambda r: ', '.join(map(' '.join, (r['environment'].get('versions') or {}).items())), 2)),
    ('Training and choice of hyperparameters', 'CLAIM', 'REFORMS', _training),
    ('Metrics, and their uncertainty', 'CLAIM', 'TRIPOD+AI',
     lambda s: 'F1 (weighted, macro, micro), AUROC; intervals of 95 % over patients and seeds, or over splits'),
    ('Rows for checking', 'REFORMS', 'TRIPOD+AI',
     lambda s: f'{sum("rows" in r for r in s.records)} of {len(s.records)} records '
               'keep every test row with its patient or lesion'),
    ('Calibration', 'CLAIM', 'TRIPOD+AI', lambda s: 'clinical.md and calibration.md beside this page'),
    ('Subgroups and fairness', 'CLAIM', 'TRIPOD+AI', lambda s: 'subgroups.md beside this page, or why there is none'),
    ('External test data', 'CLAIM', 'TRIPOD+AI', None),
    ('Failed runs, and what was left out', 'CLAIM', 'REFORMS',
     lambda s: f'{s.failed} of {s.failed + len(s.records)} runs failed; each table names runs that answer one class'),
    ('Limits, and what use they allow', 'CLAIM', 'TRIPOD+AI', None),
    ('Code and data that others can have', 'CLAIM', 'TRIPOD+AI',
     lambda s: 'commit ' + s.listed(lambda r: (r['environment'].get('commit') or '')[:10], 4)),
    ('Protocol and registration; funding; interests', 'CLAIM', 'TRIPOD+AI', None),
)  # fmt: skip


@renderer(
    'checklists',
    'Reporting checklists, as far as records fill them',
    'Which items of the reporting checklists are filled?',
)
def checklists(records: pd.DataFrame, f1: str = 'weighted') -> Output:
    """One row an item: what the records say, or that it is for people."""
    done = records[records['status'] == 'done']
    whole = [record for record in done.get('record', pd.Series(dtype=object)) if isinstance(record, dict)]
    whole = [record for record in whole if {'data', 'backbone', 'environment'} <= set(record)]
    if not whole:
        return Nothing(notes=['No whole record is among these.'])
    study, rows, filled = Study(whole, int((records['status'] != 'done').sum())), [], 0
    for item, first, second, fill in ITEMS:
        answer = fill(study) if fill else ''
        filled += bool(answer)
        rows.append(Row((item,), [f'{first}; {second}', answer or f'… ({OPEN})']))
    return Table(
        columns=['Item', 'Where', 'From the records'],
        rows=rows,
        notes=[
            f'{filled} of {len(ITEMS)} items are filled from {len(whole)} records. The published lists hold more, '
            f'in their own words. {NOT_CLINICAL}'
        ],
        data=pd.DataFrame([(row.heads[0], *row.cells) for row in rows], columns=['item', 'where', 'answer']),
        left=True,
    )
