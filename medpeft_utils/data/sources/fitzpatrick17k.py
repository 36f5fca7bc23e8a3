"""FitzPatrick17K: clinical photographs of skin conditions over the six skin types, labelled at three levels.

Four datasets are read from the one download; `LEVELS` is the place to add another:

    fitzpatrick17k            three labels: benign, malignant, non-neoplastic
    fitzpatrick17k_nine       nine labels, of which the three are unions
    fitzpatrick17k_114        the 114 conditions, of which the nine are unions
    fitzpatrick17k_types_1_2  three labels, only images of skin types I and II

What the paper used. Dutt et al. 2024 train on 5,809 images and say neither which nor at which level. 114 labels are
ruled out by their scores (F1 up to 0.82, where Groh et al. 2021 report accuracies of about 0.2); the three fit best,
since linear probing at 0.74 is near what always answering the largest class gets right (0.73). No usual share of all
rows is near: 75 % of them are 12,433. Of some 800 rules by skin type and quality control, two come within one image of
5,809 at the 75 % that BreastUS and HAM10000 have. The plainer one: skin types I and II as Scale AI annotated them (on
which Groh et al. train too), without the images that dermatologists found wrongly labelled or off topic, 7,746 in all.
A wider search, over classes, atlases and other shares too, gave some thirty within two images. So this can be chance,
and the paper does not speak of it. Therefore it has a name of its own, and the plain name holds all skin types: dark
skin is not to be left out unsaid.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.files import images_below, read_table, require_columns, require_known
from medpeft_utils.data.sources import locate, register

TABLE = 'fitzpatrick17k.csv'
SKIN = ('fitzpatrick_scale', 'fitzpatrick_centaur')  # 1 to 6, -1 where there is none
COLUMNS = ('md5hash', *SKIN, 'label', 'nine_partition_label', 'three_partition_label', 'qc')
REJECTED = ('3', '4')  # of `qc`: '3 Wrongly labelled', '4 Other' (off topic)
CLUSTERS, OUTLIERS = 'complete_clusters.txt', 'selected_outliers.txt'
# 114 rows: condition, which of the nine and of the three it belongs to, images as published
LABELS = pd.read_csv(Path(__file__).with_name('fitzpatrick17k_labels.csv'))

CARD = DataCard(
    name='fitzpatrick17k',
    label='FitzPatrick17K',
    task='benign, malignant or non-neoplastic skin condition (the coarsest of its three label levels)',
    modality='clinical photographs of skin',
    classes=('benign', 'malignant', 'non-neoplastic'),
    counts={'benign': 2234, 'malignant': 2263, 'non-neoplastic': 12080},
    group=None,
    source='Groh et al. 2021, Evaluating deep neural networks trained on clinical images in dermatology with the '
    'Fitzpatrick 17k dataset, CVPR Workshops (arXiv:2104.09957)',
    how_to_obtain=(
        'take fitzpatrick17k.csv from https://github.com/mattgroh/fitzpatrick17k, which tells how to obtain the '
        'images; each is named after its md5hash (or its url_alphanum), in any folder beside the table. With '
        'complete_clusters.txt and selected_outliers.txt of https://github.com/kakumarabhishek/'
        'Corrected-Skin-Image-Datasets beside it, known near duplicates stay in one split and known erroneous images '
        'are left out'
    ),
    licence='annotations CC BY-NC-SA 3.0; the photographs belong to the two atlases they come from',
    known_faults=(
        '16,577 rows under 114, 9 or 3 labels; the paper trains on 5,809 images and does not say which level or rows: '
        '75 % of what is read here are 12,413; fitzpatrick17k_types_1_2 gives 5,809 or 5,810',
        '41 rows have no link, other links are dead: rows without an image are left out and counted',
        'of 504 images that dermatologists looked at, 17 are wrongly labelled and 10 off topic (column qc, Groh et al. '
        '2021): these 27 are left out, the other 16,073 were not looked at',
        '565 images have no skin type by Scale AI (fitzpatrick_scale -1), 1,073 none by Centaur Labs; the two agree '
        'on 7,293 of the 16,577',
        'about 21 % near duplicates, 22 % label errors and 4 % off-topic images (Gröger et al. 2025, CleanPatrick); '
        'no test split of its own, and near duplicates under several labels and skin types: 11,394 images are left '
        'when they are removed (Abhishek et al. 2025, Scientific Data 12:196, Fitzpatrick17k-C)',
    ),
    paper_train_images=5809,
    near_duplicates_together=True,  # a fifth of it are
    subgroups=SKIN,
)


def _variant(name: str, words: str, task: str, counts: dict[str, int]) -> DataCard:
    changes = {'classes': tuple(counts), 'counts': counts, 'paper_train_images': None, 'task': task}
    return dataclasses.replace(CARD, name=f'{CARD.name}_{name}', label=f'{CARD.label} ({words})', **changes)


_NINE = LABELS.groupby('nine')['images'].sum().to_dict()
_ALL = dict(zip(LABELS['label'], LABELS['images'].tolist(), strict=True))
_TYPES_1_2 = {'benign': 1115, 'malignant': 1195, 'non-neoplastic': 5445}
_NINE_TASK = 'nine kinds of skin condition (the middle of its three label levels)'
_ALL_TASK = '114 skin conditions (the finest of its three label levels)'
_TYPES_TASK = 'benign, malignant or non-neoplastic condition of skin of types I and II'
# name: card, column of the label, skin types by Scale AI that are kept (all where empty)
LEVELS: dict[str, tuple[DataCard, str, tuple[str, ...]]] = {
    card.name: (card, column, types)
    for card, column, types in (
        (CARD, 'three_partition_label', ()),
        (_variant('nine', '9 labels', _NINE_TASK, _NINE), 'nine_partition_label', ()),
        (_variant('114', '114 labels', _ALL_TASK, _ALL), 'label', ()),
        (_variant('types_1_2', 'types I-II', _TYPES_TASK, _TYPES_1_2), 'three_partition_label', ('1', '2')),
    )
}


def _listed(path: Path) -> list[list[str]]:
    """The first eight digits of the md5hash of every image that a line of a published list names; [] without a file.

    Abhishek et al. name an image CONDITION_TYPE_NUMBER_DIGITS, such as 'sq-ce-ca_f0_168_35547617'.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding='utf-8').splitlines()
    names = [line.replace('[', '').replace(']', '').replace("'", '').replace(',', ' ').split() for line in lines]
    return [[name.rpartition('_')[2].removesuffix('.jpg') for name in line] for line in names if line]


def _clusters(path: Path) -> dict[str, str]:
    """Eight digits to the name of the cluster of near duplicates, clusters that share an image made one."""
    cluster_of: dict[str, str] = {}
    for line in _listed(path):
        joined = {cluster_of[digits] for digits in line if digits in cluster_of}
        name = min({f'near duplicates of {line[0]}', *joined})
        cluster_of.update({digits: name for digits, known in cluster_of.items() if known in joined})
        cluster_of.update(dict.fromkeys(line, name))
    return cluster_of


def _with_images(table: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The rows that have an image file, with its path in `image`. Raises BadInput where most have none."""
    stems = {name.rpartition('/')[2].rpartition('.')[0].lower(): name for name in images_below(root)}
    image = table['md5hash'].str.lower().map(stems)
    if 'url_alphanum' in table:
        image = image.fillna(table['url_alphanum'].str.removesuffix('.jpg').str.lower().map(stems))
    missing = table['md5hash'][image.isna()]
    if len(missing) > len(table) / 2:
        raise BadInput(
            f'{root / TABLE}: lists {missing.iloc[0]} and {len(missing) - 1:,} more of {len(table):,} images that are '
            f'not below {root}; {CARD.how_to_obtain}'
        )
    return table.assign(image=image)[image.notna()]


def read(root: Path, name: str) -> pd.DataFrame:
    """One row an image that is there; what was left out is counted in the table's `attrs['notes']`."""
    _, level, types = LEVELS[name]
    table = read_table(root / TABLE)
    require_columns(table, COLUMNS, root / TABLE)
    for beside in (CLUSTERS, OUTLIERS):
        named = [digits for line in _listed(root / beside) for digits in line]
        require_known(named, table['md5hash'].str.lower().str[:8], root / beside)
    notes = {}
    if types:
        outside = ~table['fitzpatrick_scale'].isin(types)
        notes[f'rows left out whose fitzpatrick_scale is not {" or ".join(types)}'] = int(outside.sum())
        table = table[~outside]
    rejected = table['qc'].str[:1].isin(REJECTED)
    notes['rows left out that dermatologists found wrongly labelled or off topic (column qc)'] = int(rejected.sum())
    table = table[~rejected]
    found = _with_images(table, root)
    notes['rows left out that have no image file (dead links)'] = len(table) - len(found)
    digits = found['md5hash'].str.lower().str[:8]
    outliers = digits.isin([name for line in _listed(root / OUTLIERS) for name in line])
    if outliers.any():
        notes[f'rows left out that {OUTLIERS} lists as erroneous'] = int(outliers.sum())
        found, digits = found[~outliers], digits[~outliers]
    cluster_of = _clusters(root / CLUSTERS)
    group = digits.map(lambda name: cluster_of.get(name, ''))
    known = 'each cluster in one split' if (root / CLUSTERS).is_file() else f'no {CLUSTERS} beside the table'
    notes[f'images in known clusters of near duplicates ({known})'] = int((group != '').sum())
    columns = [column for column in COLUMNS if column != 'label']
    manifest = found[['image', *columns]].assign(label=found[level], condition=found['label'], group=group, split='')
    manifest.attrs['notes'] = notes
    return manifest.reset_index(drop=True)


def _register(card: DataCard) -> None:
    add = register(card, lambda folder: locate(folder, TABLE, CARD), with_stand_in=card is CARD)
    add(lambda root: read(root, card.name))


for _card, *_ in LEVELS.values():
    _register(_card)
