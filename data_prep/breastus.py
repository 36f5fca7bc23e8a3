"""Check and pack BreastUS: `python data_prep/breastus.py --source Dataset_BUSI_with_GT`."""

from medpeft_utils.data.commands import script

if __name__ == '__main__':
    script('breastus')()
