"""Count what the lists of Lian et al. 2024 hold: images, patients, positives, overlap. No image is needed.

`python data_prep/lian_lists.py --source DatasetsSplits --out medpeft_utils/report/paper/lian2024_lists.csv`
"""

from pathlib import Path

import click


@click.command()
@click.option('--source', required=True, type=click.Path(path_type=Path), help="The authors' folder of lists.")
@click.option('--out', required=True, type=click.Path(path_type=Path), help='The CSV to write.')
def count(source: Path, out: Path) -> None:
    """Write images, patients, positives and overlap of every list as CSV."""
    from medpeft_utils.core.errors import MedpeftError
    from medpeft_utils.data.lists import write_csv

    try:
        write_csv(source, out)
    except MedpeftError as error:
        raise click.ClickException(str(error)) from error


if __name__ == '__main__':
    count()
