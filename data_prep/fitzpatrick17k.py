"""Check and pack FitzPatrick17K: `python data_prep/fitzpatrick17k.py --source downloads/fitzpatrick17k`.

Three labels unless `--dataset fitzpatrick17k_nine`, `fitzpatrick17k_114` or `fitzpatrick17k_types_1_2` is given.
"""

from medpeft_utils.data.commands import script
from medpeft_utils.data.sources.fitzpatrick17k import LEVELS

if __name__ == '__main__':
    script(*LEVELS)()
