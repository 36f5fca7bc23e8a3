"""MIMIC-CXR 2.0.0: frontal radiographs with the impression of their reports.

The images are MIMIC-CXR-JPG's, the reports MIMIC-CXR's. Both are credentialed and read where they lie: nothing is
written but the packed cache, which holds images and impressions and must be kept as the download is.
"""

from __future__ import annotations

import difflib
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data.cache import threads
from medpeft_utils.data.cards import DataCard
from medpeft_utils.data.files import require_columns, require_known
from medpeft_utils.data.sources import register
from medpeft_utils.data.texts import FINDING

METADATA, SPLIT, LABELS = (f'mimic-cxr-2.0.0-{name}.csv' for name in ('metadata', 'split', 'chexpert'))
FRONTAL = ('AP', 'PA')
ARCHIVE = 'mimic-cxr-reports.zip'
PROBES = 50  # studies that are looked for, to know a folder by
SPLITS = {'train': 'train', 'validate': 'validation', 'test': 'test'}

CARD = DataCard(
    name='mimic_cxr',
    label='MIMIC-CXR',
    subgroups=('view',),
    task='text to image',
    group='patient',
    modality='frontal chest radiographs',
    texts='the impression section of the report',
    splits='the official ones of MIMIC-CXR-JPG',
    source=(
        'Johnson et al. 2019, MIMIC-CXR, Scientific Data 6:317, and MIMIC-CXR-JPG, arXiv:1901.07042; version 2.0.0, '
        'Beth Israel Deaconess Medical Center 2011 to 2016'
    ),
    how_to_obtain=(
        'with credentials, from https://physionet.org/content/mimic-cxr-jpg/2.0.0/ the folder files/ '
        f'(files/p10/p10000032/s50414267/*.jpg), {METADATA}.gz and {SPLIT}.gz ({LABELS}.gz too, for findings), and '
        'from https://physionet.org/content/mimic-cxr/2.0.0/ mimic-cxr-reports.zip, as it is or unpacked, in the same '
        'folder or beside it'
    ),
    licence='PhysioNet Credentialed Health Data License 1.5.0',
    known_faults=(
        'which 110K pairs the paper trains on is not stated: here a number of training pairs is whole patients in an '
        'order drawn from a seed',
        'two frontal views of one study are two pairs of one text',
        'what was taken out of a report reads ___; impressions speak of earlier studies that no image shows',
        'findings are labels that CheXpert read from the reports, not from the images; uncertain and unmentioned ones '
        'stand as unknown, unless the report finds nothing',
    ),
    paper_train_pairs=(110_000, 55_000, 11_000),
    credentialed=True,
)


# ---- the impression of a report
#
# A heading stands at the start of a line in capitals with a colon. The impression is what follows a heading that names
# it, up to the next heading. After the section parser of the MIMIC code repository (Johnson et al. 2019, github.com/
# MIT-LCP/mimic-cxr), which lists the misspellings one by one and has hand-made rules for some hundred reports; here a
# word near enough to "impression" counts, a conclusion is one too, and the hand-made rules are left out.

HEADING = re.compile(
    r"""(?mx)
    ^[ \t]*(?P<line>[A-Z][A-Z ()/,&'-]{2,60}?)[ \t]*:                # IMPRESSION: at the start of a line
    |^[ \t]*(?P<word>[Ii]mpressions?|[Cc]onclusions?)[ \t]*:         # Impression:
    |^[ \t]*(?P<alone>IMPRESSIONS?|CONCLUSIONS?)[ \t]*[.;-]?[ \t]*$  # alone on its line, no colon
    |(?<=[.\s])(?P<inside>IMPRESSIONS?)[ \t]*:                       # in the middle of a line
    |^[ \t]*_{6,}[ \t]*$                                             # a rule ends a section
    """
)
NAMES = ('impression', 'impressions', 'conclusion', 'conclusions')
NOT_FINAL = ('provisional', 'preliminary', 'pfi', 'wet')  # read before the report; another section holds what stands


def is_impression(heading: str) -> bool:
    """Whether a heading names the impression: alone or with others, misspelt or not, but not a provisional one."""
    words = re.findall(r'[a-z]+', heading.lower())
    if any(word in NOT_FINAL for word in words):
        return False
    return any(difflib.get_close_matches(word, NAMES, n=1, cutoff=0.88) for word in words if len(word) > 7)


def sections(report: str) -> list[tuple[str, str]]:
    """(heading, text) of every section in order, blanks folded; what stands before the first heading is left out."""
    marks = list(HEADING.finditer(report))
    ends = [mark.start() for mark in marks[1:]] + [len(report)]
    return [
        (next(filter(None, mark.groups()), ''), ' '.join(report[mark.end() : end].split()))
        for mark, end in zip(marks, ends, strict=True)
    ]


def impression(report: str) -> str:
    """The impression of a report, blanks folded; '' where there is none.

    Where there are several (an addendum stands above the final report), the last one that says something. Blanks of
    de-identification ('___') stay: what stood there is not known, and without them sentences would read wrongly.
    """
    found = [text for heading, text in sections(report) if is_impression(heading)]
    return next((text for text in reversed(found) if re.search('[A-Za-z]', text)), '')


# ---- where the reports lie: a tree of text files, or the archive as published, read where it is


def member(subject: str, study: str) -> str:
    """The published path of a study's report."""
    return f'files/p{subject[:2]}/p{subject}/s{study}.txt'


def _places(root: Path) -> Iterator[Path]:
    """Folders in which the reports may lie: the images' own, beside it, and where PhysioNet's mirror puts them."""
    mirror = root.parent.parent / 'mimic-cxr'
    for base in (root, root.parent, mirror, mirror / '2.0.0'):
        if base.is_dir():
            yield base
            yield from sorted(path for path in base.iterdir() if path.is_dir() and path.name != 'files')


def find_reports(root: Path, studies: list[tuple[str, str]]) -> Path:
    """The folder of reports, or their archive, that belongs to a folder of MIMIC-CXR-JPG.

    Args:
        root: the folder that holds `files/` with the images.
        studies: (subject, study) of all images, of which some are looked for.
    Raises:
        BadInput: neither a tree of reports nor the archive is there.
    """
    probes = [member(*study) for study in studies[:: max(1, len(studies) // PROBES)]]
    for place in _places(root):
        if any((place / probe).is_file() for probe in probes):
            return place
        if (place / ARCHIVE).is_file():
            return place / ARCHIVE
    raise BadInput(
        f'{root}: no reports found ({probes[0] if probes else "files/p10/..."} or {ARCHIVE}) in it, beside it, or '
        'in ../../mimic-cxr; put the archive of MIMIC-CXR 2.0.0 there, or unpack it there'
    )


def read_reports(where: Path, studies: Iterable[tuple[str, str]]) -> list[str | None]:
    """The report of every study in order, None where there is none, from a folder or an archive. Raises BadInput."""
    paths = [member(*study) for study in studies]
    if where.is_dir():

        def read(path: str) -> str | None:
            try:
                return (where / path).read_text(encoding='utf-8', errors='replace')
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(threads()) as pool:
            return list(pool.map(read, paths, chunksize=256))
    try:
        with zipfile.ZipFile(where) as archive:
            there = {name[name.find('files/') :]: name for name in archive.namelist() if name.endswith('.txt')}
            found = [archive.read(there[path]) if path in there else None for path in paths]
    except zipfile.BadZipFile as error:
        raise BadInput(f'{where}: cut off or damaged ({error}); fetch it again') from error
    return [None if text is None else text.decode('utf-8', errors='replace') for text in found]


# ---- tables and images


def _table_path(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f'{name}.gz') if path.is_file()), None)


def _root_of(folder: Path) -> Path:
    """The folder of the tables: the given one, or one or two below (a version's folder)."""
    if not os.path.isdir(folder):
        raise BadInput(f'{folder}: no such folder; {CARD.label}: {CARD.how_to_obtain}')
    below = [path for path in sorted(folder.glob('*')) + sorted(folder.glob('*/*')) if path.name[:1] != 'p']
    for candidate in (folder, *below):
        if _table_path(candidate, METADATA):
            return candidate
    raise BadInput(f'{folder}: neither it nor a folder below holds {METADATA} or {METADATA}.gz; {CARD.how_to_obtain}')


def _read_table(root: Path, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """Columns of a published table as text, gzipped or not. Raises BadInput."""
    path = _table_path(root, name)
    if path is None:
        raise BadInput(f'{root}: holds no {name} and no {name}.gz; {CARD.how_to_obtain}')
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, EOFError, UnicodeDecodeError, pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise BadInput(f'{path}: cannot be read ({error}); fetch it again') from error
    require_columns(table, columns, path)
    return table


def _stamps(root: Path) -> list[Path]:
    """The tables, and the archive of reports or the folder they lie in."""
    tables = [path for name in (METADATA, SPLIT, LABELS) if (path := _table_path(root, name))]
    where = find_reports(root, _studies(_frontal(root)[0]))
    return [*tables, where / 'files' if where.is_dir() else where]


def _frontal(root: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """The frontal views with their official split, of those patients' folders that are there; and what was left out."""
    table = _read_table(root, METADATA, ('dicom_id', 'subject_id', 'study_id', 'ViewPosition'))
    split = _read_table(root, SPLIT, ('dicom_id', 'split'))
    frontal = table[table['ViewPosition'].isin(FRONTAL)]
    folders = [f'p{subject[:2]}' for subject in frontal['subject_id'].tolist()]
    there = {name: (root / 'files' / name).is_dir() for name in set(folders)}
    fetched = frontal[[there[name] for name in folders]]
    merged = fetched.merge(split[['dicom_id', 'split']], on='dicom_id', how='left')
    merged['split'] = merged['split'].map(lambda name: SPLITS.get(name, name), na_action='ignore').fillna('')
    left_out = {
        'not a frontal view': len(table) - len(frontal),
        'a folder (p10, ...) that is not there': len(frontal) - len(fetched),
    }
    return merged, left_out


def _studies(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(subject, study) of every study, in the order in which they come."""
    return list(dict.fromkeys(zip(table['subject_id'].tolist(), table['study_id'].tolist(), strict=True)))


def _findings(root: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Columns `finding:NAME` from CheXpert's labels where the table is there: 1 and 0 as they are, all else -1.

    Where the label is "No Finding", the diseases that are not mentioned are not there: 0. Devices stay unknown.
    """
    if _table_path(root, LABELS) is None:
        return pd.DataFrame(index=table.index)
    labels = _read_table(root, LABELS, ('subject_id', 'study_id', 'No Finding')).set_index('study_id')
    require_known(labels.index, table['study_id'], _table_path(root, LABELS))
    names = [name for name in labels.columns if name != 'subject_id']
    values = labels[names].apply(pd.to_numeric, errors='coerce')
    hot = np.where(values == 1, 1, np.where(values == 0, 0, -1)).astype(np.int8)
    normal = hot[:, names.index('No Finding')] == 1
    diseases = [i for i, name in enumerate(names) if name != 'Support Devices']
    hot[np.ix_(normal, diseases)] = np.maximum(hot[np.ix_(normal, diseases)], 0)
    some = (hot == 1)[:, [i for i in diseases if names[i] != 'No Finding']].any(axis=1)
    hot[some, names.index('No Finding')] = 0
    frame = pd.DataFrame(hot, index=labels.index, columns=[f'{FINDING}{name}' for name in names])
    found = frame[~frame.index.duplicated()].reindex(table['study_id'], fill_value=-1)
    return found.set_axis(table.index)


@register(CARD, root_of=_root_of, stamps=_stamps)
def read(root: Path) -> pd.DataFrame:
    """One row a frontal view whose report has an impression; the group is the patient (subject)."""
    table, left_out = _frontal(root)
    studies = _studies(table)
    reports = dict(zip(studies, read_reports(find_reports(root, studies), studies), strict=True))
    impressions = {study: impression(text) if text else '' for study, text in reports.items()}
    keys = list(zip(table['subject_id'].tolist(), table['study_id'].tolist(), strict=True))
    table['text'] = [impressions[key] for key in keys]
    without = np.array([reports[key] is None for key in keys], dtype=bool)
    left_out['no report'] = int(without.sum())
    left_out['a report without impression'] = int(((table['text'] == '') & ~without).sum())
    kept = table[table['text'] != '']
    paths = zip(*(kept[column].tolist() for column in ('subject_id', 'study_id', 'dicom_id')), strict=True)
    frame = pd.DataFrame(
        {
            'image': [f'files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg' for subject, study, dicom in paths],
            'text': kept['text'],
            'group': kept['subject_id'],
            'split': kept['split'],
            'study': kept['study_id'],
            'view': kept['ViewPosition'],
        }
    )
    frame = pd.concat([frame, _findings(root, kept)], axis=1)
    frame.attrs['notes'] = {f'left out, {reason}': count for reason, count in left_out.items() if count}
    return frame
