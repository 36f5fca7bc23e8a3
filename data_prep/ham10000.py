"""Check and pack HAM10000: `python data_prep/ham10000.py --source downloads/ham10000`."""

from medpeft_utils.data.commands import script

if __name__ == '__main__':
    script('ham10000')()
