"""The card of the synthetic chest radiographs with captions; they are drawn where they are used and have no reader."""

from __future__ import annotations

from medpeft_utils.data.cards import CARDS, DataCard

CARD = DataCard(
    name='synthetic_chest_pairs',
    label='Chest radiographs (synthetic)',
    task='text to image',
    modality='synthetic, drawn to look like frontal chest radiographs',
    group='patient',
    texts='captions in the wording of impressions, of what is drawn',
    splits='4,000 train, 400 validation, 1,000 test, by patient',
    published_images=5400,
    source='drawn and written from a seed by medpeft_utils.data.synthetic.chest_pairs',
    how_to_obtain='nothing to obtain: it is generated where it is used',
    licence='Apache-2.0, as the code that draws it',
    known_faults=('no patient is in it: what is measured on it says nothing about patients',),
    synthetic=True,
)
CARDS.register(CARD.name, CARD)
