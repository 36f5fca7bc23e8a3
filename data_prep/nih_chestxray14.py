"""Check and pack NIH ChestX-ray14: `python data_prep/nih_chestxray14.py --source downloads/nih_chestxray14`."""

from medpeft_utils.data.commands import script
from medpeft_utils.data.sources.nih_chestxray14 import CARD, SAMPLES, SUBSET

if __name__ == '__main__':
    script(CARD.name, SUBSET.name, SAMPLES.name)()
