"""The COVID-19 image data collection (Cohen et al. 2020): frontal radiographs, and prompts made of what is known.

The rule of the prompt, see `prompt`:
1. the view: "PA", "AP" or "Supine AP chest radiograph";
2. the finding in words after "with": "COVID-19 pneumonia", "ARDS"; left out where it is not labelled ("todo"); for "No
   Finding" the sentence "No acute cardiopulmonary process." follows;
3. of the clinical notes the sentences that name a sign (opacity, effusion, ...) or say that a radiograph is normal or
   has changed, and that speak of no CT or laboratory, in order, as many whole ones as fit into 35 words, so that a text
   encoder of 77 tokens takes the prompt whole.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.files import read_table, require_columns
from medpeft_utils.data.sources import locate, register
from medpeft_utils.data.texts import FINDING

TABLE = 'metadata.csv'
VIEWS = {'PA': 'PA', 'AP': 'AP', 'AP Supine': 'Supine AP'}
UNLABELLED, NORMAL = ('todo', 'Unknown', ''), 'No Finding'
WORDS = 35  # of the notes
# What a label is in words, where that is not "<label> pneumonia"
IN_WORDS = {
    'ARDS': 'ARDS',
    'Pneumonia': 'pneumonia',
    'Mycoplasma Bacterial Pneumonia': 'mycoplasma pneumonia',
    'E.Coli': 'E. coli pneumonia',
    'Lipoid': 'lipoid pneumonia',
    'Bacterial': 'bacterial pneumonia',
}
FINDINGS = (NORMAL, 'COVID-19', 'SARS', 'ARDS', 'Pneumocystis', 'Streptococcus', 'Other pneumonia')
# A sentence of the notes is taken for its signs, or where it says of a radiograph how it changed or that it is normal
SIGN = re.compile(
    r'opaci|consolidat|infiltrat|effusion|pneumothorax|ground.?glass|\bGGO|cardiomegal|atelecta|interstiti|thickening|'
    r'shadow|\b(ET|NG|endotracheal|nasogastric) ?tube',
    re.IGNORECASE,
)
IMAGE = re.compile(r'radiograph|radiogram|radiolog|x-?ray|\bCXR|chest film|\blungs?\b', re.IGNORECASE)
STATE = re.compile(r'worsen|improv|regress|progress|resol|stabil|unremarkable|normal|clear|changes', re.IGNORECASE)
NOT_OF_IT = re.compile(
    r'\bCTs?\b|\bTC\b|\bMRI\b|tomogra|ultraso|echocard|auscult|breath sounds|crackles|serum|protein|white cell|'
    r'request|selected',
    re.IGNORECASE,
)
REFERENCE = re.compile(
    r'\s*[(\[](?:see )?(?:fig(?:ure)?s?\b[^)\]]*|[a-f]|(?:\w+ )?arrows?|\d+)[)\]]|^[A-F][,:]\s|^\([a-f]\)\s',
    re.IGNORECASE,
)
LEAD = re.compile(
    r'^(imaging notes|impression|findings|conclusion|radiological report|chest x-?ray)\s*:\s*', re.IGNORECASE
)

CARD = DataCard(
    name='covid_chestxray',
    label='COVID-19 chest X-rays',
    subgroups=('sex', 'age', 'view'),
    task='text to image',
    group='patient',
    modality='frontal chest radiographs from publications and teaching files',
    texts='a prompt made from view, finding and clinical notes',
    source='Cohen et al. 2020, COVID-19 Image Data Collection: Prospective Predictions Are the Future'
    ', arXiv:2006.11988',
    how_to_obtain=(
        'clone https://github.com/ieee8023/covid-chestxray-dataset: images/ beside metadata.csv; lateral views and CT '
        'are left out'
    ),
    licence='that of each image, in its row (column license): mostly Creative Commons, some none stated',
    known_faults=(
        'four images are listed twice, each under two patients; such two are taken for one, and the image once',
        'ids that differ in a letter only (350a, 350b) are taken for one patient',
        'all images of a patient share one note, which may speak of another of them',
        'some images are published twice with small differences, under two patients: near duplicates stay in one split',
        'three in four are COVID-19; images from many scanners and journals, often with letters and arrows in them',
    ),
    near_duplicates_together=True,
)


def _in_words(label: str) -> str:
    return IN_WORDS.get(label, f'{label} pneumonia')


def labels_of(finding: str) -> list[str]:
    """'COVID-19, ARDS' and 'Pneumonia/Viral/COVID-19' to their most special labels; [] where there is none."""
    labels = [part.strip().rpartition('/')[2] for part in finding.split(',')]
    return [label for label in labels if label not in UNLABELLED]


def notes_on_radiograph(notes: str) -> str:
    """The sentences of clinical notes that speak of the radiograph, in order, as whole ones as fit into 35 words."""
    said, words = [], 0
    for sentence in re.split(r'(?<=[.!?])\s+(?=[A-Z(])|\.{2,}', ' '.join(notes.split())):
        sentence = LEAD.sub('', REFERENCE.sub('', sentence).strip(' "')).rstrip('. ')
        length = len(sentence.split())
        seen = SIGN.search(sentence) or (IMAGE.search(sentence) and STATE.search(sentence))
        if seen and not NOT_OF_IT.search(sentence) and 2 <= length <= WORDS - words:
            said.append(f'{sentence[0].upper()}{sentence[1:]}.')
            words += length
    return ' '.join(said)


def prompt(view: str, finding: str, notes: str) -> str:
    """The text of a pair, by the rule of this module; '' where neither finding nor notes say anything."""
    labels, said = labels_of(finding), notes_on_radiograph(notes)
    if not labels and not said:
        return ''
    start = f'{VIEWS[view]} chest radiograph'
    ill = ' and '.join(_in_words(label) for label in labels if label != NORMAL)
    start = f'{start} with {ill}.' if ill else f'{start}.'
    normal = 'No acute cardiopulmonary process.' if labels == [NORMAL] else ''
    return ' '.join(part for part in (start, normal, said) if part)


def _hot(finding: str) -> list[int]:
    labels = labels_of(finding)
    if not labels:
        return [-1] * len(FINDINGS)
    known = {label if label in FINDINGS else FINDINGS[-1] for label in labels}
    return [int(name in known) for name in FINDINGS]


def _stratum(finding: str) -> str:
    """What is spread evenly over the splits: no finding, COVID-19, another disease, unlabelled."""
    labels = labels_of(finding)
    return 'unlabelled' if not labels else labels[0] if labels[0] in (NORMAL, 'COVID-19') else 'other'


def _patients(table: pd.DataFrame) -> list[str]:
    """The patient of every row: the id's number, and ids that share an image made one."""
    ids = table['patientid'].str.replace(r'\D+$', '', regex=True)
    one = {patient: patient for patient in ids}
    for _, shared in ids.groupby(table['filename']):
        names = sorted({one[patient] for patient in shared})
        one = {patient: names[0] if name in names[1:] else name for patient, name in one.items()}
    return [one[patient] for patient in ids]


@register(CARD, root_of=lambda folder: locate(folder, TABLE, CARD))
def read(root: Path) -> pd.DataFrame:
    """One row a frontal radiograph; the group is the patient."""
    table = read_table(root / TABLE)
    require_columns(table, ('patientid', 'finding', 'view', 'modality', 'filename', 'clinical_notes'), root / TABLE)
    frontal = table[table['view'].isin(VIEWS) & (table['modality'] == 'X-ray')].copy()
    frontal['patient'] = _patients(frontal)
    once = frontal.drop_duplicates('filename')
    columns = (once[name].tolist() for name in ('view', 'finding', 'clinical_notes'))
    texts = np.array([prompt(*row) for row in zip(*columns, strict=True)], dtype=object)
    kept = once[texts != '']
    folders = kept['folder'].tolist() if 'folder' in kept else ['images'] * len(kept)
    frame = pd.DataFrame(
        {
            'image': [f'{at}/{name}' for at, name in zip(folders, kept['filename'].tolist(), strict=True)],
            'text': texts[texts != ''],
            'group': kept['patient'],
            'split': '',
            'stratum': kept['finding'].map(_stratum),
        }
    )
    hot = pd.DataFrame(
        kept['finding'].map(_hot).tolist(), columns=[f'{FINDING}{n}' for n in FINDINGS], index=kept.index
    )
    for column in ('finding', 'view', 'sex', 'age', 'license'):
        frame[column] = kept.get(column, '')
    left_out = {
        'not a frontal radiograph': len(table) - len(frontal),
        'listed twice': len(frontal) - len(once),
        'neither finding nor notes on the radiograph': len(once) - len(kept),
    }
    frame = pd.concat([frame, hot], axis=1)
    frame.attrs['notes'] = {f'left out, {reason}': count for reason, count in left_out.items() if count}
    return frame
