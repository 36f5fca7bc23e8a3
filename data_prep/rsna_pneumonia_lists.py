"""Check and pack RSNA Pneumonia in the splits of Lian et al. 2024.

`python data_prep/rsna_pneumonia_lists.py --source downloads/rsna_pneumonia`
"""

from medpeft_utils.data.commands import script

if __name__ == '__main__':
    script('rsna_pneumonia_lists')()
