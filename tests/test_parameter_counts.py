"""Trainable parameters on the paper's backbones: exact, from formulas, and beside what the paper prints."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from tiny_unets import unet_counts

from medpeft_utils import methods, report
from medpeft_utils.methods import counts
from medpeft_utils.methods.unet import STABLE_DIFFUSION_V1_5

Rows = dict[tuple[str, str], int]

# (width, depth, tokens with the class token, patch) of Dosovitskiy et al. 2021, Table 1, at 224 px
VITS = {
    'vit_base_patch16_224': (768, 12, 197, 16),
    'vit_large_patch16_224': (1024, 24, 197, 16),
    'vit_huge_patch14_224': (1280, 32, 257, 14),
}
TSA_3X3 = 'TSA (matrix; 3x3 convolutions only as in the original code)'
TSA_EVERY = 'TSA (matrix; every direct convolution of a block)'


@pytest.fixture(scope='module')
def table() -> list[dict[str, Any]]:
    return counts.verdict_table()


@pytest.fixture(scope='module')
def counted(table: list[dict[str, Any]]) -> Rows:
    return {(row['backbone'], row['method']): row['trainable_parameters'] for row in table}


def resnet50() -> dict[str, int]:
    """He et al. 2016, Table 1: bottlenecks of planes 64 to 512, expansion 4, in stages of 3, 4, 6, 3 blocks."""
    channels, weights, every, three = 64, 64 * 3 * 49, 0, 0
    width = 64
    for planes, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
        for block in range(blocks):
            channels += 6 * planes + (4 * planes if block == 0 else 0)
            weights += planes * (width + 9 * planes + 4 * planes) + (4 * planes * width if block == 0 else 0)
            every += planes * (width + planes + 4 * planes)
            three += planes * planes
            width = 4 * planes
    affine = 2 * channels
    return {
        'Full FT': weights + affine,
        'BN Tuning': affine,
        'Bias Tuning': channels,
        'SSF': affine,
        TSA_3X3: three,
        TSA_EVERY: every,
    }


def vit(width: int, depth: int, tokens: int, patch: int) -> dict[str, int]:
    attention = 4 * width**2 + 4 * width
    mlp = 8 * width**2 + 5 * width
    norms = (2 * depth + 1) * 2 * width
    embedding = 3 * patch**2 * width + width
    return {
        'Full FT': depth * (attention + mlp) + norms + embedding + (tokens + 1) * width,
        'Attention Tuning': depth * attention + tokens * width,
        'BitFit': depth * 9 * width + norms // 2 + width,
        'LoRA': depth * (width * 16 + 16 * 3 * width),
        'SSF': 2 * (depth * 9 * width + norms // 2 + width),
        'AdaptFormer': depth * (2 * 6 * width + 6 + width),
        'LayerNorm Tuning': norms,
    }


def unet() -> dict[str, int]:
    """Rombach et al. 2022, from the layers; LoRA of rank 4 on all four projections of every attention."""
    options = methods.METHODS['lora'].configure({}, 'unet')
    return {methods.label(key, 'unet'): n for key, n in unet_counts(STABLE_DIFFUSION_V1_5, options).items()}


def test_counts_are_those_of_the_formulas(counted: Rows):
    expected = {('resnet50', method): count for method, count in resnet50().items()}
    for name, shape in VITS.items():
        expected |= {(name, method): count for method, count in vit(*shape).items()}
    expected |= {(counts.UNET, method): count for method, count in unet().items()}
    assert {row: count for row, count in counted.items() if row in expected} == expected


def test_counts_are_those_of_the_exact_table(counted: Rows):
    """`parameter_counts.csv` was computed by other code, on the published architectures."""
    with (Path(report.__file__).with_name('paper') / 'parameter_counts.csv').open(newline='') as file:
        exact = {(row['backbone'], row['method']): int(row['trainable_parameters']) for row in csv.DictReader(file)}
    assert {row: count for row, count in counted.items() if row in exact} == exact


@pytest.mark.parametrize(
    ('backbone', 'method', 'count'),
    [
        ('resnet50', 'Full FT', 23_508_032),  # torchvision and timm: 25,557,032 minus the head of 2,049,000
        ('vit_base_patch16_224', 'Full FT', 85_798_656),  # timm: 86,567,656 minus the head of 769,000
        ('vit_large_patch16_224', 'Full FT', 303_301_632),
        ('vit_huge_patch14_224', 'Full FT', 630_764_800),
        ('resnet50', TSA_EVERY, 10_616_832),
        ('resnet50', TSA_3X3, 1_257_472),
        ('vit_base_patch16_224', 'LoRA', 589_824),
        ('vit_base_patch16_224', 'AdaptFormer', 119_880),
        ('vit_base_patch16_224', 'VPT (deep)', 92_160),  # Jia et al. 2022: 12 layers, 10 prompts of 768
        ('vit_base_patch16_224', 'VPT (shallow)', 7_680),
        ('vit_base_patch16_224', 'Convpass', 327_552),  # Jie and Deng 2022, Table 1: 0.33 M
        ('vit_base_patch16_224', 'IA³', 55_296),  # 12 * (2 * 768 + 3072)
        (counts.UNET, 'Full FT', 859_520_964),  # the published weights file
    ],
)
def test_counts_known_from_elsewhere(counted: Rows, backbone: str, method: str, count: int):
    assert counted[backbone, method] == count


@pytest.mark.parametrize(
    ('count', 'printed', 'features', 'said'),
    [
        (23_508_032, '23.5M', 2048, 'agrees'),
        (38_400, '0.04M', 768, 'agrees'),
        (1_572_864, '1.5M', 1024, 'agrees (truncated)'),  # rounds to 1.6
        (1_572_864, '1.6 M', 1024, 'agrees'),
        (26_560, '32.7K', 2048, 'agrees only with a 3-class head'),  # 26,560 + 3 * 2,049 = 32,707
        (53_120, '59.1K', 2048, 'within 0.3% with a 3-class head'),  # 59,267
        (53_120, '60.6K', 2048, 'not reproduced: the paper prints 1.14 times as many'),
        (859_520_964, '85.9M', 0, 'not reproduced: the paper prints 0.0999 times as many'),
    ],
)
def test_verdict_follows_its_rule(count: int, printed: str, features: int, said: str):
    assert counts.verdict(count, printed, features) == said


def test_every_count_that_the_paper_prints_gets_a_verdict(table: list[dict[str, Any]]):
    where = {'cnn': 'Table 2', 'vit': 'Table 6', 'unet': 'Table 4'}
    printed = [row for row in table if row['paper']]
    assert {row['method'] for row in printed} >= {*vit(1, 1, 1, 1), *resnet50(), *unet()}
    assert all(row['where'] == where[row['family']] and row['verdict'] for row in printed)
    with counts.PAPER_COUNTS.open() as file:
        assert len(list(csv.DictReader(file))) == 5 + 3 * 7 + 8


def test_a_contradiction_of_the_paper_is_noted_with_the_way_to_recompute_it(table: list[dict[str, Any]]):
    verdicts = {row['method']: row['verdict'] for row in table if row['backbone'] == counts.UNET}
    tenths = [method for method, said in verdicts.items() if said != 'agrees']
    assert tenths == ['Full FT', 'Attention', 'Bias+Norm+Attention']  # Table 4: 85.9M, 26.7M, 26.7M
    note, rest = counts.notes(table)
    assert 'a tenth of ours gives what the paper prints for Full FT 85,952,096, Attention 26,723,936' in note
    assert '5 of the other 5 counts agree as they are' in rest
    assert counts.notes([row for row in table if row['backbone'] != counts.UNET]) == []


def test_csv_has_the_columns(monkeypatch: pytest.MonkeyPatch):
    assert all(tuple(row) == counts.COLUMNS for row in counts.count_table(('resnet50',)))
    monkeypatch.setattr(
        counts, 'count_table', lambda: [dict(zip(counts.COLUMNS, ('vit', 'b', 'LoRA', 3), strict=True))]
    )
    out = io.StringIO()
    counts.params_csv(out)
    assert out.getvalue() == 'family,backbone,method,trainable_parameters\nvit,b,LoRA,3\n'
