"""Medical image datasets: from a published download, one's own images or a seed to checked, split, packed arrays.

from medpeft_utils import data
ham = data.load('ham10000', folder='downloads/ham10000', image_size=64)
ham.images[ham.rows('train')]
"""

from __future__ import annotations

from medpeft_utils.data import sources  # fills CARDS
from medpeft_utils.data.cache import cache_root
from medpeft_utils.data.cards import CARDS, DataCard, names
from medpeft_utils.data.dataset import Dataset
from medpeft_utils.data.loading import load, open_source, prepare, prepared_folder
from medpeft_utils.data.splits import SHARES, SPLITS

__all__ = [
    'CARDS',
    'SHARES',
    'SPLITS',
    'DataCard',
    'Dataset',
    'cache_root',
    'load',
    'names',
    'open_source',
    'prepare',
    'prepared_folder',
    'sources',
]
