"""The paper's own numbers, as data of this package.

Dutt et al. 2024, MIDL, arXiv:2305.08252, CC BY 4.0; `paper/README.md` says which file holds what.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import pandas as pd

from medpeft_utils.core.errors import BadInput

PUBLISHED = 'published'  # the profile of `records()`: numbers as printed, not a study of ours

TRAINING_IMAGES = {'BreastUS': 584, 'FitzPatrick17K': 5809, 'HAM10000': 7511, 'SMDG': 9852, 'RSNA Pneumonia': 20412}
DATASETS = tuple(TRAINING_IMAGES)
ENCODERS = ('ResNet50', 'ViT-Base', 'ViT-Large', 'ViT-Huge', 'ViT-Base MAE', 'ViT-Base CLIP')
CNN_METHODS = ('Full FT', 'Linear Probing', 'TSA', 'BN Tuning', 'Bias Tuning', 'SSF')
VIT_METHODS = (
    'Full FT',
    'Linear Probing',
    'Attention Tuning',
    'BitFit',
    'LoRA',
    'SSF',
    'AdaptFormer',
    'LayerNorm Tuning',
)
# Section 4.1: the share of the training images (in percent) at which each method and full fine-tuning are equal.
CROSSOVERS = {
    ('ViT-Base', 'BitFit'): 50,
    ('ViT-Base', 'LoRA'): 50,
    ('ViT-Large', 'BitFit'): 20,
    ('ViT-Large', 'LoRA'): 80,
}
CITATION = 'Dutt et al. 2024, arXiv:2305.08252'


@cache
def _read(name: str) -> pd.DataFrame:
    with resources.files('medpeft_utils.report').joinpath('paper', name + '.csv').open(encoding='utf-8') as file:
        return pd.read_csv(file, keep_default_na=False, na_values=[''])


def read(name: str) -> pd.DataFrame:
    """A copy of one of the paper's files by its name without `.csv`, such as 'table2_resnet50_f1'."""
    return _read(name).copy()


def _as_records(cells: pd.DataFrame, experiment: str) -> pd.DataFrame:
    cells = cells.assign(
        run='',
        status='done',
        profile=PUBLISHED,
        experiment=experiment,
        dataset=cells['dataset'],
        dataset_label=cells['dataset'],
        synthetic=False,
        backbone=cells['encoder'],
        backbone_label=cells['encoder'],
        encoder_role=cells['encoder'],
        family=cells['encoder'].map(lambda encoder: 'cnn' if encoder == 'ResNet50' else 'vit'),
        method=cells['method'],
        method_label=cells['method'],
        seed=0,
    )
    cells['train_images'] = (cells['dataset'].map(TRAINING_IMAGES) * cells['fraction']).round().astype(int)
    for average in ('macro', 'weighted', 'micro'):
        cells[f'f1_{average}'] = cells['f1']  # the paper does not say which of the three it prints
    return cells.drop(columns=['encoder', 'f1'])


def records() -> pd.DataFrame:
    """Every classification score of the paper, in the columns of a study's records.

    Tables 2, 3 and 5 are the experiments 'cnn' and 'vit', Figure 1 (digitised) is 'low_data_regime'. `f1_spread` is the
    printed spread as a fraction of one (Table 5 and Figure 1 have none). Each cell is one row: the seeds are not known.
    """
    parts = []
    for name, experiment in (
        ('table2_resnet50_f1', 'cnn'),
        ('table3_vit_f1', 'vit'),
        ('table5_self_supervised_f1', 'vit'),
    ):
        cells = read(name).assign(fraction=1.0)
        if 'f1_spread' in cells:
            cells['f1_spread'] /= 100
        parts.append(_as_records(cells, experiment))
    curve = read('figure1_digitised').drop(columns='note').assign(dataset='HAM10000')
    curve['fraction'] = curve.pop('percent_of_ham10000') / 100
    parts.append(_as_records(curve, 'low_data_regime'))
    return pd.concat(parts, ignore_index=True)


def methods_of(chosen: pd.DataFrame) -> tuple[str, ...]:
    """The paper's methods for the family of these runs."""
    return CNN_METHODS if chosen['family'].iloc[0] == 'cnn' else VIT_METHODS


def printed_averages(encoder: str) -> pd.Series:
    """The averages of F1 that the paper prints for an encoder, by method; empty where it prints none."""
    if encoder == 'ResNet50':
        return read('table2_resnet50_summary').set_index('method')['average_f1']
    summary = read('table3_vit_summary')
    return summary[summary['encoder'] == encoder].set_index('method')['average_f1']


def printed_ranks(encoder: str) -> pd.Series:
    """The average ranks that the paper prints, by method: of an encoder, or 'combined' (the three ViTs of Table 3)."""
    if encoder == 'combined':
        return read('table3_vit_combined_rank').set_index('method')['combined_average_rank']
    if encoder == 'ResNet50':
        return read('table2_resnet50_summary').set_index('method')['average_rank']
    summary = read('table5_self_supervised_rank')
    return summary[summary['encoder'] == encoder].set_index('method')['average_rank']


def printed_parameters(encoder: str) -> pd.Series:
    """The trainable parameters that the paper prints for an encoder, by method, as strings such as '23.5M'."""
    if encoder == 'ResNet50':
        return read('table2_resnet50_summary').set_index('method')['trainable_parameters']
    table = read('table6_vit_trainable_parameters').set_index('encoder')
    return table.loc[encoder.split(' ')[0]]


def parse_count(text: str) -> float:
    """A printed count as a number: '23.5M' is 23.5e6; of a range such as '3.8-7.2K' the geometric middle."""
    units = {'K': 1e3, 'M': 1e6}
    if not text or text[-1] not in units:
        raise BadInput(f'parameter count {text!r} does not end in K or M, such as 59.1K or 3.8-7.2K')
    ends = [float(end) * units[text[-1]] for end in text[:-1].split('-')]
    return (ends[0] * ends[-1]) ** 0.5
