"""A tiny set of pairs whose one finding is plain to see, and invented records of text-to-image runs (no run behind)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils.data import DataCard, Dataset
from medpeft_utils.report import source
from medpeft_utils.report import text_image_scores as ti
from medpeft_utils.study import records
from medpeft_utils.study.identity import code_version
from medpeft_utils.study.paths import experiments_folder
from medpeft_utils.text_image.plots import write_strip

CARD = DataCard('spots', 'Spots (synthetic)', 'text to image', 'noise', texts='what is there', synthetic=True)
SPLITS = {'train': 160, 'validation': 10, 'test': 60}


def spots(hot: np.ndarray, seed: int, size: int = 32) -> np.ndarray:
    """[N, S, S, 3] grey noise, with a bright square on the left where `hot` is 1."""
    images = np.random.default_rng(seed).normal(100, 12, (len(hot), size, size, 1))
    images[hot == 1, 8:20, 4:14] += 70
    return np.repeat(images.clip(0, 255).astype(np.uint8), 3, axis=-1)


def make_pairs(findings: bool = True) -> Dataset:
    """230 pairs, two of a patient; every third has the finding 'spot', of every tenth it is not known."""
    split = [name for name, count in SPLITS.items() for _ in range(count)]
    hot = (np.arange(len(split)) % 3 == 0).astype(int)
    texts = ['A bright spot.' if one else 'Nothing but noise.' for one in hot]
    group = [f'patient {row // 2}' for row in range(len(split))]
    frame = pd.DataFrame({'image': [f'{row}.png' for row in range(len(split))], 'text': texts, 'group': group})
    frame['split'] = split
    if findings:
        frame['finding:spot'] = np.where(np.arange(len(split)) % 10 == 9, -1, hot)
    return Dataset(CARD, spots(hot, 0), frame)


def sample(fid: float, seed: int = 0) -> dict:
    """What an evaluator says of one set of images, invented."""
    label = {'auroc': 0.9, 'accuracy': 0.8, 'positives': 20, 'images': 60}
    return {
        **{
            'seed': seed,
            'images': 200,
            'real_images': 1000,
            'fid': fid,
            'kid': fid / 100,
        },
        **{
            'kid_low': fid / 100 - 0.02,
            'kid_high': fid / 100 + 0.02,
        },
        **{'similarity': 0.3, 'nearest': 4.0, 'nearest_real': 4.2, 'nearest_ratio': 4 / 4.2, 'copies': 0.01},
        'kid_resamples': [fid / 100 + shift for shift in (-0.01, 0.0, 0.02)],
        'adherence': {'auroc': 0.9, 'accuracy': 0.8, 'by_label': {'spot': label}},
    }


REAL = {
    'images': 1000,
    'floor': {'fid': 3.1, 'fid_sd': 0.4, 'kid': 0.001, 'kid_sd': 0.001, 'images': 200, 'draws': 5},
    'similarity': 0.35,
    'similarity_measure': 'ssim',
    'adherence': {'auroc': 0.99, 'accuracy': 0.97, 'by_label': {'spot': sample(0)['adherence']['by_label']['spot']}},
    'encoder': {'hash': 'e' * 16, 'features': 112, 'labels': ['spot'], 'kind': 'findings'},
}
TRAINED = {'Full FT': 5_000_000, 'Bias': 9_000, 'LoRA': 40_000, 'SV-Diff': 6_000}
BASE_FID = 400.0


def record(method: str, pairs: int, fids: list[float], synthetic: bool = True, seed: int = 0, **more) -> dict:
    """A whole record of a run of `method` on so many pairs, with a FID for each sampling seed."""
    label = 'Chest radiographs' + ' (synthetic)' * synthetic
    metrics = {'validation_loss': 0.2, 'samples': [sample(fid, number) for number, fid in enumerate(fids)]}
    metrics |= {'base': [sample(BASE_FID + number, number) for number in range(len(fids))], 'real': REAL}
    if method == 'LoRA':
        metrics['controls'] = {'untrained': [sample(600.0)], 'not_applied': metrics['base']}
        metrics['checks'] = {'gradient_norm': 0.12, 'output_change': 0.3, 'merged_difference': 1e-6}
    run = f'{abs(hash((method, pairs, seed, synthetic))):016x}'[:16]
    return {
        **{'run': run, 'status': 'done', 'profile': 'invented', 'experiment': ti.EXPERIMENT, 'code_version': 'c'},
        'parameters': {
            'dataset': 'x',
            'seed': seed,
            'training_pairs': pairs,
            'weights': 'pretrained',
            'steps': pairs // 10,
        },
        'data': {
            'name': 'x',
            'label': label,
            'synthetic': synthetic,
            'counts': {'train': 4000},
            'used': {'train': pairs},
        },
        'backbone': {
            'name': 'mini',
            'label': 'Stable Diffusion (mini)',
            'role': 'Stable Diffusion v1.5',
            'family': 'unet',
        },
        'method': {
            **{'key': method.lower(), 'label': method, 'config': {}, 'head_parameters': 0},
            **{'trainable_parameters': TRAINED.get(method, 20_000), 'total_parameters': 5_100_000},
        },
        **{'learning_rate': {'value': 1e-3}, 'metrics': metrics, 'time': {}, 'environment': {}, 'schema': 1},
        'sampling': {'guidance': 4.0, 'steps': 20, 'images': 200, 'seeds': list(range(len(fids)))},
        'pictures': {'prompt': 'No acute cardiopulmonary process.', 'images': 4, 'seed': 0},
        **more,
    }


def paper_like(synthetic: bool = True, seeds: int = 4, lora: float | None = None) -> list[dict]:
    """Records of all methods with the paper's FIDs at 4,000, 2,000 and 400 pairs, with noise over sampling seeds."""
    draw, own = np.random.default_rng(0), dict(zip(ti.PAPER_PAIRS.values(), (4000, 2000, 400), strict=True))
    rows = []
    for cell in ti.published().itertuples():
        fid = cell.fid if lora is None or cell.method != 'LoRA' else lora
        rows.append(record(cell.method, own[cell.pairs], list(fid + draw.normal(0, 0.2, seeds)), synthetic))
    return rows


def study(folder: Path, rows: list[dict], pictures: bool = True) -> pd.DataFrame:
    """The records as the report reads them, from results in a folder, with strips of grey pictures beside them."""
    results, notebook = folder / 'results', experiments_folder() / f'{ti.EXPERIMENT}.ipynb'
    version = code_version(notebook, rows[0]['parameters'])  # today's: no record is left out as stale
    for number, row in enumerate(rows):
        place = records.write(row | {'code_version': version}, results / 'runs' / row['run']).parent
        if pictures:
            grey = np.full((4, 16, 16, 3), 40 + 5 * number, dtype=np.uint8)
            write_strip(grey, place / 'samples.png')
            if row['data']['synthetic']:
                write_strip(grey + 3, place / 'ground_truth.png')
    return source.load('invented', results, folder / 'figures')
