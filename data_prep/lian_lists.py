"""Count what the lists of Lian et al. 2024 hold: images, patients, positives, overlap. No image is needed.

`python data_prep/lian_lists.py --source DatasetsSplits --out medpeft_utils/report/paper/lian2024_lists.csv`
"""

from collections.abc import Callable
from pathlib import Path

import click
import pandas as pd

from medpeft_utils.core.errors import BadInput, MedpeftError
from medpeft_utils.data import lists, multi_label
from medpeft_utils.data.sources import chexpert, nih_chestxray14, rsna_pneumonia_lists
from medpeft_utils.data.splits import SPLITS


def arithmetic(folder: Path, classes: tuple[str, ...], patient_of: Callable[[str], str], name: str) -> pd.DataFrame:
    """What the lists of one set hold, one row a list.

    Returns:
        Columns: dataset, list, images, patients, without_finding; in_train (images that are in the training list, None
        where there is none), in_10 (images that are in the 10 % list); images_elsewhere and patients_elsewhere (those
        that a list of another split has too); and for every finding `positives: NAME` and `prevalence: NAME`.
    """
    names = {
        'train_1': lists.SHARES['1'],
        'train_10': lists.SHARES['10'],
        **{split: lists.FILES[split] for split in SPLITS},
    }
    parts = {key: lists.read(folder / file, classes) for key, file in names.items() if (folder / file).is_file()}
    images = {key: set(part['path']) for key, part in parts.items()}
    patients = {key: {patient_of(path) for path in paths} for key, paths in images.items()}
    rows = []
    for key, part in parts.items():
        others = [other for other in parts if other.split('_')[0] != key.split('_')[0]]
        values = multi_label.matrix(part, classes).astype(int)
        positives = values.sum(axis=0).tolist()
        row = {'dataset': name, 'list': names[key], 'images': len(part), 'patients': len(patients[key])}
        row['without_finding'] = int((values.sum(axis=1) == 0).sum())
        row['in_train'] = len(images[key] & images['train']) if 'train' in images else None
        row['in_10'] = len(images[key] & images['train_10'])
        row['images_elsewhere'] = len(images[key] & set().union(*(images[other] for other in others)))
        row['patients_elsewhere'] = len(patients[key] & set().union(*(patients[other] for other in others)))
        row |= {f'positives: {label}': count for label, count in zip(classes, positives, strict=True)}
        row |= {f'prevalence: {label}': count / len(part) for label, count in zip(classes, positives, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


def long_table(folder: Path) -> pd.DataFrame:
    """`arithmetic` of the three sets below a folder of the authors' lists: columns dataset, list, what, value.

    Patients are left out where the lists do not tell them (RSNA Pneumonia).
    """
    parts = []
    for source in (nih_chestxray14, chexpert, rsna_pneumonia_lists):
        if (folder / source.LISTS).is_dir():
            wide = arithmetic(folder / source.LISTS, source.CARD.classes, source.patient_of, source.CARD.label)
            if source.CARD.group is None:
                wide = wide.drop(columns=['patients', 'patients_elsewhere'])
            parts.append(wide.melt(['dataset', 'list'], var_name='what', value_name='value'))
    if not parts:
        raise BadInput(f'{folder}: holds none of the folders of lists; take them from {lists.WHERE}')
    return pd.concat(parts, ignore_index=True).dropna(subset=['value'])


@click.command()
@click.option('--source', required=True, type=click.Path(path_type=Path), help="The authors' folder of lists.")
@click.option('--out', required=True, type=click.Path(path_type=Path), help='The CSV to write.')
def count(source: Path, out: Path) -> None:
    """Write images, patients, positives and overlap of every list as CSV, prevalences with four decimals."""
    try:
        table = long_table(source)
    except MedpeftError as error:
        raise click.ClickException(str(error)) from error
    shares = table['what'].str.startswith('prevalence')
    numbers = [f'{value:.4f}' if share else f'{value:.0f}' for value, share in zip(table['value'], shares, strict=True)]
    table.assign(value=numbers).to_csv(out, index=False, lineterminator='\n')


if __name__ == '__main__':
    count()
