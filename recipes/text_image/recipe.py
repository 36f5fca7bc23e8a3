"""The recipe of `stable_diffusion_mini`, from natural images with the words of their classes to a trained pipeline."""

from __future__ import annotations

from pathlib import Path

from recipes.backbones.source import NaturalImages
from recipes.text_image.autoencoder import Autoencoder
from recipes.text_image.diffusion import Captioned, Diffusion, prepare
from recipes.text_image.stage import Schedule

# Small batches: in the same time on a CPU the VAE learns more from four times as many steps.
VAE = Schedule(steps=6000, batch=16, learning_rate=4e-3)
DIFFUSION = Schedule(steps=3600, batch=32, learning_rate=1e-3, warmup=200, cooldown=0.4)


def make(
    source: NaturalImages,
    folder: str | Path,
    vae: Schedule = VAE,
    diffusion: Schedule = DIFFUSION,
    device: str = 'cpu',
) -> tuple[Autoencoder, Captioned, Diffusion]:
    """Train both stages, going on from wherever an earlier call stopped.

    Args:
        source: images of 64 px (`pretraining/source.py`).
        folder: gets `vae`, `prepared` and `diffusion`, each with its checkpoint and curve.
        vae, diffusion: how long and how fast.
    Returns:
        The stages, trained, and what lies between them.
    """
    folder = Path(folder)
    first = Autoencoder(vae, source, folder / 'vae', device)
    first.train()
    data = prepare(source, first.vae.cpu(), folder / 'prepared', vae.seed)
    second = Diffusion(diffusion, data, source, folder / 'diffusion', device)
    second.train()
    return first, data, second
