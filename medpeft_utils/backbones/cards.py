"""The model card of every shipped backbone: a JSON beside its weights, and the page that shows them all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from medpeft_utils.backbones.small import SMALL_BACKBONES, WEIGHTS_FOLDER

PAGE = 'README.md'


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_card(name: str) -> dict[str, Any] | None:
    """The card of a shipped backbone, or None where it has not been published."""
    path = WEIGHTS_FOLDER / f'{name}.json'
    return json.loads(path.read_text()) if path.exists() else None


def _begun_from(card: dict[str, Any]) -> str:
    """The pre-trainings before the last one, in words."""
    return ', which began from '.join(
        f'{before["name"]} after {before["recipe"].get("passes", "?")} passes' for before in card.get('begun_from', ())
    )


def _note(card: dict[str, Any]) -> str:
    return f' ({card["score_note"]})' if card.get('score_note') else ''


def _section(name: str, card: dict[str, Any]) -> list[str]:
    small = SMALL_BACKBONES[name]
    recipe = ', '.join(f'{key} {value}' for key, value in card['recipe'].items() if value not in ('', None))
    return [
        f'## {name}',
        '',
        f'{card["summary"]} Stands for `{small.stands_for}`: its depth and layout, '
        f'{card["parameters"]:,} parameters, {small.image_size}×{small.image_size} px.',
        '',
        '| | |',
        '| --- | --- |',
        f'| {card["score_name"]} | {card["score"]:.3f}{_note(card)} |',
        f'| data | {card["data"]} |',
        f'| licence of the data | {card["data_licence"]} |',
        f'| command | `{card["command"]}` |',
        f'| recipe | {recipe} |',
        *([f'| begun from | {_begun_from(card)} |'] if card.get('begun_from') else []),
        *([f'| calibration | {card["calibration"]} |'] if card.get('calibration') else []),
        f'| time | {card["hours"]:.2f} h on {card["device"]} |',
        f'| SHA-256 | `{card["sha256"]}` ({card["bytes"] / 1e6:.1f} MB, half precision) |',
        '',
    ]


def write_page(folder: Path = WEIGHTS_FOLDER) -> Path:
    """Write the page of all cards beside the weights; its path."""
    lines = [
        '# The shipped backbones',
        '',
        'Small networks that this project trained itself by `notebooks/pretrain_backbones.ipynb` and',
        '`medpeft pretrain`, so that the study runs with no download. They are for showing and testing transfer on a',
        'laptop, not for clinical use; their features are far weaker than those of the published networks that they',
        'stand for.',
        '',
    ]
    for name in SMALL_BACKBONES:
        card = read_card(name)
        if card:
            lines += _section(name, card)
    path = folder / PAGE
    path.write_text('\n'.join(lines))
    return path
