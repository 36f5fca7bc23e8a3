"""Check and pack SMDG: `python data_prep/smdg.py --source downloads/smdg`."""

from medpeft_utils.data.commands import script

if __name__ == '__main__':
    script('smdg', 'smdg_subset')()
