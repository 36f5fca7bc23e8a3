"""Check and pack CheXpert: `python data_prep/chexpert.py --source downloads/chexpert`."""

from medpeft_utils.data.commands import script
from medpeft_utils.data.sources.chexpert import POLICIES

if __name__ == '__main__':
    script(*POLICIES)()
