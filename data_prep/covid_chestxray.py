"""Check and pack the COVID-19 chest X-rays: `python data_prep/covid_chestxray.py --source covid-chestxray-dataset`."""

from medpeft_utils.data.commands import script

if __name__ == '__main__':
    script('covid_chestxray')()
