"""Check and pack RSNA Pneumonia: `python data_prep/rsna_pneumonia.py --source downloads/rsna_pneumonia`."""

from medpeft_utils.data.commands import script

if __name__ == '__main__':
    script('rsna_pneumonia', 'rsna_pneumonia_subset')()
