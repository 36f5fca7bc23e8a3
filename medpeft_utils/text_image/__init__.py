"""The text-to-image family: image-text pairs, from a published download, one's own CSV or a seed.

from medpeft_utils import text_image
pairs = text_image.load_pairs('covid_chestxray', folder='downloads/covid-chestxray-dataset', image_size=128)
pairs.images[pairs.rows('train')], pairs.texts
"""

from __future__ import annotations

from medpeft_utils.text_image.cards import CARDS, PairCard
from medpeft_utils.text_image.loading import load_pairs, open_source, prepare_pairs, prepared_folder
from medpeft_utils.text_image.pairs import Pairs

__all__ = ['CARDS', 'PairCard', 'Pairs', 'load_pairs', 'open_source', 'prepare_pairs', 'prepared_folder']
