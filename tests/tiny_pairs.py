"""Tiny image-text sets of seeded noise in the published layouts, and reports with the headings that real ones have."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
from tiny_datasets import draw

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough  // eval for infection

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  None.

 FINDINGS:

 The lungs are clear.  The cardiac, mediastinal contours are normal.

 {impression}
"""
CLEAR = 'IMPRESSION: \n \n No acute\n cardiopulmonary process.'


def make_mimic(folder: Path, patients: int = 8, archive: bool = False) -> Path:
    """MIMIC-CXR-JPG and the reports side by side as PhysioNet's mirror lays them; returns the folder of the images.

    Patient i has 1 + i % 3 studies, the first with a lateral view too. The last patient but one has a report without
    impression, the last one no report; one row's folder (p19) is not there.
    """
    root, texts = folder / 'mimic-cxr-jpg' / '2.0.0', {}
    rows, splits = [], ('train', 'train', 'train', 'train', 'validate', 'test', 'train', 'train')
    for patient in range(patients):
        subject = str(10_000_032 + patient)
        for study in range(1 + patient % 3):
            name = str(50_000_000 + 10 * patient + study)
            views = ['PA', 'LATERAL'] if study == 0 else ['AP']
            for view in views:
                dicom = f'{subject}-{name}-{view.lower()}'
                rows.append((dicom, subject, name, view, splits[patient]))
                place = f'files/p10/p{subject}/s{name}'
                draw(root / place / f'{dicom}.jpg', len(rows), size=(30, 36))
            report = REPORT.format(impression='' if patient == patients - 2 else CLEAR)
            if patient < patients - 1:
                texts[f'files/p10/p{subject}/s{name}.txt'] = report
    rows.append(('elsewhere', '19000001', '59000001', 'AP', 'train'))
    table = pd.DataFrame(rows, columns=['dicom_id', 'subject_id', 'study_id', 'ViewPosition', 'split'])
    table.drop(columns='split').to_csv(root / 'mimic-cxr-2.0.0-metadata.csv.gz', index=False)
    table.drop(columns='ViewPosition').to_csv(root / 'mimic-cxr-2.0.0-split.csv.gz', index=False)
    labels = table[['subject_id', 'study_id']].drop_duplicates().assign(**{'Pleural Effusion': '', 'No Finding': '1.0'})
    labels.loc[0, ['Pleural Effusion', 'No Finding']] = ['1.0', '']
    labels.loc[2, ['Pleural Effusion', 'No Finding']] = ['-1.0', '']
    labels.to_csv(root / 'mimic-cxr-2.0.0-chexpert.csv.gz', index=False)
    _write_reports(folder / 'mimic-cxr' / '2.0.0', texts, archive)
    return root


def _write_reports(place: Path, texts: dict[str, str], archive: bool) -> None:
    place.mkdir(parents=True)
    if archive:
        with zipfile.ZipFile(place / 'mimic-cxr-reports.zip', 'w') as packed:
            for name, text in texts.items():
                packed.writestr(name, text)
        return
    for name, text in texts.items():
        path = place / 'mimic-cxr-reports' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


COVID_COLUMNS = ['patientid', 'finding', 'view', 'modality', 'folder', 'filename', 'clinical_notes', 'license']


def make_covid(folder: Path) -> Path:
    """Twelve patients in the layout of the image data collection, with what is odd in the real one."""
    notes = 'Fever for 3 days. Chest X-ray shows consolidation in the left lower lobe (Fig. 1). CT shows nodules.'
    rows = [
        (
            str(i),
            ('COVID-19', 'No Finding', 'SARS')[i % 3],
            ('PA', 'AP', 'AP Supine')[i % 3],
            'X-ray',
            f'{i}.jpg',
            notes,
        )
        for i in range(12)
    ]
    rows += [
        ('12', 'Legionella', 'PA', 'X-ray', '0.jpg', ''),  # patient 12 is patient 0: the same image
        ('3a', 'COVID-19, ARDS', 'AP', 'X-ray', '3a.jpg', ''),  # and 3a is 3
        ('20', 'COVID-19', 'L', 'X-ray', 'lateral.jpg', ''),
        ('21', 'COVID-19', 'Axial', 'CT', 'slice.jpg', ''),
        ('22', 'todo', 'PA', 'X-ray', '22.jpg', 'A man of 30 with cough.'),
    ]
    for seed, row in enumerate(rows):
        draw(folder / 'images' / row[4], seed)
    frame = pd.DataFrame(rows, columns=[c for c in COVID_COLUMNS if c not in ('folder', 'license')])
    frame.assign(folder='images', license='CC BY 4.0')[COVID_COLUMNS].to_csv(folder / 'metadata.csv', index=False)
    return folder


def make_csv(folder: Path, patients: int = 10, per_patient: int = 2) -> Path:
    """A CSV of one's own with columns image, text and group."""
    rows = []
    for patient in range(patients):
        for i in range(per_patient):
            image = f'scans/{patient}_{i}.png'
            draw(folder / image, len(rows))
            rows.append((image, f'Text {i} of {patient}.', f'patient {patient}'))
    pd.DataFrame(rows, columns=['image', 'text', 'group']).to_csv(folder / 'pairs.csv', index=False)
    return folder / 'pairs.csv'
