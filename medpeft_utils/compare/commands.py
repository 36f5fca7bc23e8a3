"""`medpeft compare`: several methods on one's own images, by the same notebooks, runner and records as the study."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pandas as pd
import yaml

from medpeft_utils.core.errors import BadInput
from medpeft_utils.study.commands import RESULTS, execute, run_options, settings_option
from medpeft_utils.study.grid import load_grid
from medpeft_utils.study.paths import StudyFolder
from medpeft_utils.study.splits import identified, known

SHOWN = {
    'f1_macro': 'macro F1',
    'f1_weighted': 'weighted F1',
    'balanced_accuracy': 'balanced accuracy',
    'auroc': 'AUROC',
}


def grid_content(dataset: str, backbone: str, methods: list[str], seeds: int, profile: str) -> dict[str, Any]:
    """The grid of a comparison: one backbone, one dataset, every method with every seed."""
    from medpeft_utils import backbones
    from medpeft_utils.methods import METHODS

    family = backbones.family_of(backbone)
    for method in methods:
        METHODS[method]  # an unknown name gets its error before a file is written
    return {
        'profile': profile,
        'title': f'{", ".join(methods)} on {dataset}, {backbone}',
        'experiments': [
            {
                'notebook': family,
                'parameters': {'dataset': dataset, 'backbone': backbone, 'save_adapter': True},
                'axes': {'method': methods, 'seed': list(range(seeds))},
            }
        ],
    }


def profile_of(dataset: str) -> str:
    """The study's name for a dataset's name or path: letters, digits and '-'."""
    stem = Path(dataset).resolve().stem if Path(dataset).exists() else dataset
    return 'compare-' + (re.sub(r'[^A-Za-z0-9]+', '-', stem).strip('-') or 'images')


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a method, best macro F1 first: trained parameters and test scores, mean ± standard deviation over seeds."""
    rows = []
    for (label, count), runs in frame.groupby(['method_label', 'trainable_parameters']):
        scores = {words: _spread(runs[column]) for column, words in SHOWN.items()}
        rows.append({'method': label, 'parameters beside the head': f'{count:,}', 'seeds': len(runs), **scores})
        rows[-1]['order'] = runs['f1_macro'].mean()
    return pd.DataFrame(rows).sort_values('order', ascending=False).drop(columns='order').reset_index(drop=True)


def _spread(values: pd.Series) -> str:
    return f'{values.mean():.3f}' + (f' ± {values.std():.3f}' if len(values) > 1 else '')


@click.command()
@click.argument('dataset')
@click.option('--methods', required=True, help='Keys, such as full_ft,lora,ssf.')
@click.option('--backbone', default='vit_base_mini', show_default=True, help='A shipped or a timm name.')
@click.option('--seeds', default=1, show_default=True, type=click.IntRange(1), help='Runs of each method.')
@settings_option
@run_options
@RESULTS
def compare(
    dataset: str, methods: str, backbone: str, seeds: int, settings: dict, results: Path, **options: Any
) -> None:
    """Compare methods on DATASET: a name, a folder with a folder per class, or a CSV file."""
    from medpeft_utils.study import records

    chosen = [key.strip() for key in methods.split(',') if key.strip()]
    if not chosen:
        raise BadInput('--methods: name at least one, such as --methods full_ft,lora')
    if Path(dataset).exists():
        dataset = str(Path(dataset).resolve())
    content = grid_content(dataset, backbone, chosen, seeds, profile_of(dataset))
    folder = StudyFolder(results / content['profile'])
    folder.root.mkdir(parents=True, exist_ok=True)
    path = folder.root / 'compare.yaml'
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    grid = load_grid(path, settings, content['profile'])
    runs = identified(grid.runs, known(folder))
    try:
        execute(grid, runs, folder, retry=False, **options)
    finally:
        frame = records.load(folder.root)
        ours = frame[frame['run'].isin({run.hash for run in identified(grid.runs, known(folder))})]
        if len(ours):
            click.echo(f'\n{grid.title}\ntest split, {ours["train_images"].iloc[0]} training images\n')
            click.echo(table(ours).to_string(index=False))
            click.echo(f'\nnotebooks, predictions and adapters: {folder.runs}')
