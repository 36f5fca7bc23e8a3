"""Trainable parameters of every method on the paper's backbones, beside what the paper prints."""

from __future__ import annotations

import copy
import csv
import re
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, TextIO

PAPER_COUNTS = Path(__file__).with_name('paper_counts.csv')
UNET = 'stable-diffusion-v1-5'
BACKBONES = ('resnet50', 'vit_base_patch16_224', 'vit_large_patch16_224', 'vit_huge_patch14_224', UNET)
COLUMNS = ('family', 'backbone', 'method', 'trainable_parameters')
HEADS = range(2, 10)  # classes of the heads that the paper may have counted: its datasets have 2 to 9
NEAR = Decimal('0.005')  # a difference that a slip in the printed digits may explain


def count_table(names: tuple[str, ...] = BACKBONES) -> list[dict[str, Any]]:
    """One row for each backbone and method: family, backbone, method, trainable_parameters without the head.

    The networks are built on the meta device, so without weights. Linear probing trains only the head and is left out.
    """
    return [{column: row[column] for column in COLUMNS} for row in _counted(names)]


def verdict_table(names: tuple[str, ...] = BACKBONES) -> list[dict[str, Any]]:
    """The rows of `count_table` with what the paper prints (`paper`, `where`) and whether ours agrees (`verdict`)."""
    with PAPER_COUNTS.open(newline='') as file:
        printed = {(row['backbone'], row['method']): row for row in csv.DictReader(file)}
    rows = []
    for row in _counted(names):
        paper = printed.get((row['backbone'], row['label']), {'printed': '', 'where': ''})
        said = verdict(row['trainable_parameters'], paper['printed'], row['features']) if paper['printed'] else ''
        ours = {column: row[column] for column in COLUMNS}
        rows.append(ours | {'paper': paper['printed'], 'where': paper['where'], 'verdict': said})
    return rows


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """How to recompute a printed count that ours contradicts, if there is a way; for `verdict_table`'s rows.

    Table 4 prints a tenth of what Stable Diffusion v1.5 has for full fine-tuning and for the methods that train its
    attention; its other five counts agree. Either its point is one place off, or those runs trained another network.
    """
    lines = []
    for backbone in dict.fromkeys(row['backbone'] for row in rows):
        own = [row for row in rows if row['backbone'] == backbone]
        tenths = [f'{row["method"]} {row["trainable_parameters"] // 10:,}' for row in own if _is_a_tenth(row)]
        if tenths:
            agree = sum(row['verdict'].startswith('agrees') for row in own)
            lines.append(f'{backbone}: a tenth of ours gives what the paper prints for {", ".join(tenths)}')
            lines.append(f'{backbone}: {agree} of the other {len(own) - len(tenths)} counts agree as they are')
    return lines


def _is_a_tenth(row: dict[str, Any]) -> bool:
    contradicted = row['verdict'].startswith('not reproduced')
    return contradicted and _agreement(row['trainable_parameters'] // 10, *_parse(row['paper'])) != ''


def verdict(count: int, printed: str, features: int) -> str:
    """Whether a count agrees with a printed one such as '10.6M'.

    The verdict is the first that holds: the count rounds to the printed digits; it is truncated to them; it does either
    with a head of 2 to 9 classes; it lies within 0.5 %, with such a head or without. Otherwise the verdict says by what
    factor the two differ.

    Args:
        count: our trainable parameters without the head.
        printed: a number, and K or M.
        features: width of the features that the head takes; 0 where the network has no head.
    """
    value, step = _parse(printed)
    if (agreement := _agreement(count, value, step)) != '':
        return agreement
    heads = {classes: count + classes * (features + 1) for classes in HEADS if features}
    for classes, with_head in heads.items():
        if (agreement := _agreement(with_head, value, step)) != '':
            return f'{agreement} only with a {classes}-class head'
    classes, nearest = min(((0, count), *heads.items()), key=lambda pair: abs(pair[1] - value))
    distance = abs(nearest - value) / value
    if distance <= NEAR:
        return f'within {distance:.1%} ' + (f'with a {classes}-class head' if classes else 'without a head')
    return f'not reproduced: the paper prints {value / count:.3g} times as many'


def params_csv(out: TextIO) -> None:
    """Write `count_table` as CSV."""
    writer = csv.DictWriter(out, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(count_table())


def params_table(out: TextIO) -> None:
    """Write `verdict_table` in columns for reading, and its `notes`."""
    rows = verdict_table()
    widths = {column: max(len(str(row[column])) for row in rows) for column in ('backbone', 'method', 'paper')}
    for row in rows:
        backbone, method, paper = (f'{row[column]:<{width}}' for column, width in widths.items())
        out.write(
            f'{backbone}  {method}  {row["trainable_parameters"]:>11,}  {paper}  {row["verdict"]}'.rstrip() + '\n'
        )
    out.writelines(f'{line}\n' for line in notes(rows))


def _counted(names: tuple[str, ...]) -> list[dict[str, Any]]:
    import torch

    from medpeft_utils import backbones, methods
    from medpeft_utils.methods import unet

    rows = []
    for backbone in names:
        family = 'unet' if backbone == UNET else backbones.family_of(backbone)
        with torch.device('meta'):
            model = unet.build(unet.STABLE_DIFFUSION_V1_5) if family == 'unet' else backbones.build(backbone)
        features = getattr(model, 'num_features', 0)
        for key in methods.names(family):
            if key == 'linear_probing':
                continue
            label = methods.label(key, family)
            for variant, config in (methods.METHODS[key].count_variants or {label: {}}).items():
                count = methods.apply(copy.deepcopy(model), key, family, config).count()
                about = {'family': family, 'backbone': backbone, 'method': variant, 'trainable_parameters': count}
                rows.append(about | {'label': label, 'features': features})
    return rows


def _parse(printed: str) -> tuple[Decimal, Decimal]:
    """The printed number and the worth of its last digit: '10.6M' to 10600000 and 100000."""
    number, unit = re.fullmatch(r'([\d.]+)\s*([KM])', printed).groups()
    factor = {'K': Decimal(1000), 'M': Decimal(1_000_000)}[unit]
    decimals = len(number.partition('.')[2])
    return Decimal(number) * factor, factor / 10**decimals


def _agreement(count: int, value: Decimal, step: Decimal) -> str:
    digits, wanted = Decimal(count) / step, value / step
    if digits.quantize(Decimal(1), ROUND_HALF_UP) == wanted:
        return 'agrees'
    return 'agrees (truncated)' if digits.quantize(Decimal(1), ROUND_DOWN) == wanted else ''
