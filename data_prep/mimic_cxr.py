"""Check and pack MIMIC-CXR: `python data_prep/mimic_cxr.py --source physionet.org/files`."""

from medpeft_utils.data.commands import script

if __name__ == '__main__':
    script('mimic_cxr')()
