"""Check and pack a set of MedMNIST: `python data_prep/medmnist.py --dataset pathmnist --source pathmnist_64.npz`."""

from medpeft_utils.data.commands import script
from medpeft_utils.data.sources.medmnist import INFO

if __name__ == '__main__':
    script(*INFO.index)()
