"""`medpeft artefact`: a study as one archive, for a place that gives it a DOI. The same study gives the same bytes."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import medpeft_utils
from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.files import plain, write_bytes
from medpeft_utils.core.hashing import digest, file_digest
from medpeft_utils.study import records
from medpeft_utils.study.commands import FIGURES, RESULTS
from medpeft_utils.study.paths import notebooks_folder, project_root

EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in a zip archive that does not tell when it was made
DRAWN = '.csv', '.md', '.tex', '.svg'  # pictures of images stay out: those of patients may not be passed on
PICTURE = re.compile(r'<image\b|data:image/', re.IGNORECASE)
BESIDE = 'requirements.lock', 'CITATION.cff', 'LICENSE', 'pyproject.toml'


def parts(profile: str, results: Path, figures: Path) -> dict[str, bytes]:
    """Name in the archive to content. Raises BadInput where the study has no records."""
    root, folder, target = project_root(), results / profile, figures / profile
    if (folder / 'runs').is_dir():
        records.collect(folder, target / 'records.jsonl')
    if not (target / 'records.jsonl').is_file():
        raise BadInput(f'no records of {profile!r}, neither in {folder} nor in {target}; medpeft run {profile}')
    kept = sorted(records.read_all(target / 'records.jsonl'), key=lambda record: record['run'])
    content = {'records.jsonl': ''.join(json.dumps(record, ensure_ascii=False) + '\n' for record in kept).encode()}
    content |= {f'figures/{name}': text for name, text in _drawn(target)}
    content |= {name: (root / name).read_bytes() for name in BESIDE if (root / name).is_file()}
    notebooks = notebooks_folder()
    for path in [*sorted((notebooks / 'experiments').glob('*.ipynb')), notebooks / f'grids/{profile}.yaml']:
        if path.is_file():
            content[f'notebooks/{path.relative_to(notebooks).as_posix()}'] = path.read_bytes()
    content |= {f'cards/{name}.json': _json(card) for name, card in _cards(kept)}
    content['README.md'] = _about(profile, kept).encode()
    sums = ''.join(f'{digest(text, length=64)}  {name}\n' for name, text in sorted(content.items()))
    return {**content, 'SHA256SUMS': sums.encode()}


def _drawn(target: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(target.iterdir()):
        if path.suffix in DRAWN and not (path.suffix == '.svg' and PICTURE.search(path.read_text(errors='replace'))):
            text = path.read_bytes()
            yield path.name, re.sub(rb'!\[[^]]*\]\([^)]*\.png\)', b'', text) if path.suffix == '.md' else text


def _cards(kept: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Cards of the datasets and of the weights that the records name, as far as there are any."""
    from medpeft_utils.backbones.cards import read_card
    from medpeft_utils.backbones.published import published
    from medpeft_utils.data import CARDS

    for name in sorted({str(record['parameters'].get('dataset')) for record in kept}):
        if name in CARDS:
            yield f'data/{name}', dataclasses.asdict(CARDS[name])
    for name in sorted({str(record['parameters'].get('backbone')) for record in kept}):
        card = read_card(name) or published(name)
        if card:
            yield f'backbones/{name.replace(":", "_")}', card if isinstance(card, dict) else dataclasses.asdict(card)


def _json(content: Any) -> bytes:
    return (json.dumps(plain(content), indent=1, ensure_ascii=False, sort_keys=True) + '\n').encode()


def _about(profile: str, kept: list[dict[str, Any]]) -> str:
    """What the archive holds, and how to check it."""

    def counted(values: Any) -> str:
        return ', '.join(f'{value} ({count})' for value, count in sorted(Counter(map(str, values)).items()))

    environments = [record.get('environment') or {} for record in kept]
    lines = [
        f'# {profile}: records of a study of parameter-efficient fine-tuning on medical images',
        '',
        f'{len(kept)} runs, made with medpeft {medpeft_utils.__version__}.',
        '',
        f'- status: {counted(record["status"] for record in kept)}',
        f'- datasets: {counted(record["parameters"].get("dataset") for record in kept)}',
        f'- backbones: {counted(record["parameters"].get("backbone") for record in kept)}',
        f'- methods: {counted(record["parameters"].get("method") for record in kept)}',
        f'- devices: {counted(environment.get("device") for environment in environments)}',
        f'- commits: {counted(environment.get("commit") for environment in environments)}',
        '',
        '`records.jsonl` holds a line a run: parameters, versions, scores, and the predictions of every row. `cards/`',
        'describes data and weights, `figures/` is drawn from the records alone, `requirements.lock` names versions.',
        'There is no image and no weight in this archive. `sha256sum --check SHA256SUMS` checks the files;',
        '`medpeft verify records.jsonl --sample 5`, in a checkout of the project, runs five of the records again.',
        '',
    ]
    return '\n'.join(lines)


def write(content: dict[str, bytes], path: Path) -> None:
    """Write the archive whole or not at all; the same content gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(content):
            about = zipfile.ZipInfo(name, EPOCH)
            about.compress_type, about.external_attr, about.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(about, content[name])
    write_bytes(path, buffer.getvalue())


@click.command()
@click.argument('profile')
@click.option('--out', type=click.Path(path_type=Path, dir_okay=False), help='The archive  [default: PROFILE.zip].')
@RESULTS
@FIGURES
def artefact(profile: str, out: Path | None, results: Path, figures: Path) -> None:
    """Pack PROFILE for an archive with a DOI: records, figures, cards, lock and hashes, but no images."""
    content, path = parts(profile, results, figures), out or Path(f'{profile}.zip')
    write(content, path)
    click.echo(f'{path}: {len(content)} files, {path.stat().st_size / 1e6:.1f} MB, sha256 {file_digest(path)}')
