"""Check and pack Kermany et al.'s pneumonia: `python data_prep/kermany_pneumonia.py --source downloads/chest_xray`."""

from medpeft_utils.data.commands import script
from medpeft_utils.data.sources.kermany_pneumonia import CARD, PUBLISHED

if __name__ == '__main__':
    script(CARD.name, PUBLISHED.name)()
