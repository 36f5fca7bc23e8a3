"""The images of a finished training and what is measured on them: sampling seeds, the untuned pipeline, and controls.

`text_image.evaluation` computes the numbers; this module decides what is sampled and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from medpeft_utils.core.code import Code
from medpeft_utils.core.hashing import digest
from medpeft_utils.core.shared import once
from medpeft_utils.methods.adapted import seeded
from medpeft_utils.text_image.adaptation import TextToImage

CHECK_SEED = 1_000_003
SHOWN = ['kid', 'kid_low', 'kid_high', 'fid', 'similarity', 'nearest', 'copies']


def samples(run: TextToImage, evaluator, rows: np.ndarray, unet: nn.Module, seeds: int) -> list[dict]:
    """The evaluator's measures of the images of a U-Net, a dict for each sampling seed.

    Args:
        run: trained.
        evaluator: of `evaluation.evaluator`.
        rows: test rows; image i is made from the text of row i.
        unet: tuned and merged (`run.sampler()`), or `run.base`.
        seeds: how many sampling seeds; the first is 0.
    """
    prompts, train = [run.data.texts[row] for row in rows], run.rows('train')
    by_seed = []
    for seed in range(seeds):
        images = run.generate(prompts, seed=seed, unet=unet)
        by_seed.append({'seed': seed} | evaluator.evaluate(images, rows, train))
    return by_seed


def _key(run: TextToImage, rows: np.ndarray, seeds: int) -> str:
    s = run.settings
    how = [run.pipeline.hash, run.data.split_hash, run.image_size, s.guidance_scale, s.sampling_steps, seeds]
    how += [str(run.precision)]
    untuned = asdict(s) | {'method': None}  # it runs no method's code
    code = Code.now().version(untuned, [__name__, 'medpeft_utils.text_image.evaluation'])
    return digest(repr([*how, code]), rows.tobytes(), run.rows('train').tobytes())


def base_samples(run: TextToImage, evaluator, rows: np.ndarray, seeds: int, folder: Path) -> list[dict]:
    """`samples` of the untuned pipeline, which are the same for every method: computed once and kept in `folder`."""
    path = Path(folder) / f'untuned-{_key(run, rows, seeds)}.json'
    return once(path, lambda: {'samples': samples(run, evaluator, rows, run.base, seeds)})['samples']


def checks(run: TextToImage) -> dict[str, float]:
    """Whether adapters are trained and applied, on one batch of validation pairs.

    Returns:
        gradient_norm: of the loss, over the trained parameters; 0 if nothing can learn.
        output_change: largest difference between the predictions of the tuned and the untuned U-Net; 0 if the trained
            adapters are not applied.
        merged_difference: largest difference between the predictions of the merged and the tuned U-Net.
    """
    pairs, adapted, denoising = run.pairs('validation'), run.adapted, run.denoising
    latents, texts = pairs.fetch(np.arange(min(8, len(pairs))))
    generator = torch.Generator().manual_seed(CHECK_SEED)
    noise = torch.randn(latents.shape, generator=generator).to(run.device)
    times = torch.randint(0, run.pipeline.noising.config.num_train_timesteps, (len(latents),), generator=generator)
    times = times.to(run.device)
    adapted.eval()
    denoising.loss(adapted.model, latents, texts, noise, times).mean().backward()
    parameters = list(adapted.trainable().values())
    gradient = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm().item()
    adapted.model.zero_grad()
    with torch.no_grad():
        outputs = [unet(noise, times, texts).sample for unet in (adapted.model, run.base.eval(), run.sampler())]
    changes = [(output - outputs[0]).abs().max().item() for output in outputs]
    return {'gradient_norm': gradient, 'output_change': changes[1], 'merged_difference': changes[2]}


def untrained(run: TextToImage) -> nn.Module:
    """A U-Net with LoRA whose factors are both random: what adapters draw that were never trained.

    As with peft's `init_lora_weights=False`, the second factor is random like the first. A proper start has zeros there
    and changes nothing.
    """
    adapted = run._apply(run._load().unet, run.settings.seed)
    with seeded(run.settings.seed), torch.no_grad():
        for name, parameter in adapted.trainable().items():
            if '.lora_B.' in name:
                nn.init.kaiming_uniform_(parameter, a=5**0.5)
    return adapted.merge().eval()


def controls(run: TextToImage, evaluator, rows: np.ndarray, seeds: int, base: Sequence[dict]) -> dict[str, list[dict]]:
    """Samples of LoRA's two ways to fail: adapters never trained, and trained ones not applied (the untuned pipeline).

    They have no resamples, since nothing is compared with them.
    """

    def without_resamples(sample: dict) -> dict:
        kept = {name: value for name, value in sample.items() if not name.endswith('resamples')}
        return {name: without_resamples(value) if name == 'adherence' else value for name, value in kept.items()}

    by_kind = {'untrained': samples(run, evaluator, rows, untrained(run), seeds), 'not_applied': base}
    return {name: [*map(without_resamples, each)] for name, each in by_kind.items()}


def summary(metrics: dict) -> pd.DataFrame:
    """A table of the main numbers of tuned, untuned and real images, means over the sampling seeds.

    KID comes first, with its interval. KID and FID of real images are the floor, at as many images.
    """
    given = {'tuned': metrics['samples'], 'untuned': metrics['base']}
    if 'controls' in metrics:
        given['untrained LoRA'] = metrics['controls']['untrained']
    given['real'] = [metrics['real'] | {name: metrics['real']['floor'][name] for name in ('kid', 'fid')}]
    columns = {}
    for column, by_seed in given.items():
        table = pd.DataFrame(by_seed).reindex(columns=SHOWN)
        areas = [sample['adherence']['auroc'] for sample in by_seed]
        columns[column] = table.assign(**{'prompt adherence, AUROC': areas}).astype(float).mean()
    return pd.DataFrame(columns).round(3)
