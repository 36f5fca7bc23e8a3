"""Images from prompts: denoising with classifier-free guidance, the same starting noise for every method."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from medpeft_utils.core.errors import BadInput, DoesNotFit
from medpeft_utils.methods.adapted import seeded
from medpeft_utils.training.precision import PLAIN, Precision

if TYPE_CHECKING:
    from medpeft_utils.text_image.pipeline import Pipeline

GUIDANCE, STEPS = 4.0, 75  # the cards of the checkpoints of Dutt et al. 2024


def starting_noise(count: int, shape: tuple[int, ...], seed: int, first: int = 0) -> torch.Tensor:
    """[count, *shape] unit normal noise; that of image i depends only on the seed and on first + i."""
    noise = torch.empty(count, *shape)
    for i in range(count):
        number = int(np.random.SeedSequence([seed, first + i]).generate_state(1)[0])
        noise[i] = torch.randn(shape, generator=torch.Generator().manual_seed(number))
    return noise


def latent_shape(pipe: Pipeline, image_size: int | None = None) -> tuple[int, int, int]:
    """[C, h, w] of an image of `image_size` px, the pipeline's own where None. Raises DoesNotFit."""
    size = image_size or pipe.image_size
    if size % pipe.shrinking:
        nearest = max(1, round(size / pipe.shrinking)) * pipe.shrinking
        raise DoesNotFit(
            f'image size {size} px: {pipe.label} needs a multiple of {pipe.shrinking} px, such as {nearest} px'
        )
    return pipe.unet.config.in_channels, size // pipe.shrinking, size // pipe.shrinking


def sample(
    pipe: Pipeline,
    unet: nn.Module,
    prompts: Sequence[str],
    seed: int = 0,
    guidance_scale: float = GUIDANCE,
    steps: int = STEPS,
    batch_size: int = 16,
    first: int = 0,
    image_size: int | None = None,
    precision: Precision = PLAIN,
    quiet: bool = True,
    negative: str = '',
) -> np.ndarray:
    """An image for every prompt, [N, S, S, 3] uint8, by the pipeline's own scheduler.

    Args:
        pipe: a pipeline; its U-Net is not used.
        unet: on the pipeline's device: `pipe.unet`, `adapted.model`, or `adapted.merge()`.
        prompts: '' for none.
        seed: of the starting noise; image i depends only on it and on `first` + i.
        guidance_scale: weight of the prompt against the empty one (classifier-free guidance, Ho and Salimans 2022,
            arXiv:2207.12598); 1 is no guidance and takes half the time.
        steps: denoising steps.
        batch_size: images at a time; it changes only rounding.
        first: number of the first image, for a set that is made in parts.
        image_size: side in pixels; the pipeline's own where None.
        precision: number format of the U-Net; text encoder, VAE and scheduler stay in theirs.
        quiet: no progress bar.
        negative: what guidance leads away from, in place of the empty prompt.
    Raises:
        BadInput: there is no prompt or no step.
        DoesNotFit: the VAE cannot make images of this size.
    """
    if not prompts or steps < 1 or batch_size < 1:
        raise BadInput(f'{len(prompts)} prompts, steps={steps}, batch_size={batch_size}: each must be 1 or more')
    shape, was_training = latent_shape(pipe, image_size), unet.training
    unet.eval()
    images, starts = [], range(0, len(prompts), batch_size)
    with torch.no_grad(), seeded(seed):
        empty = pipe.encode_texts([negative])
        for start in tqdm(starts, desc='sampling', unit=' batches', disable=quiet, mininterval=1):
            part = list(prompts[start : start + batch_size])
            noise = starting_noise(len(part), shape, seed, first + start).to(pipe.device)
            texts = pipe.encode_texts(part)
            latents = denoise(pipe, unet, noise, texts, empty, guidance_scale, steps, precision)
            images.append(pipe.decode(latents))
    unet.train(was_training)
    return np.concatenate(images)


def denoise(
    pipe: Pipeline,
    unet: nn.Module,
    noise: torch.Tensor,
    texts: torch.Tensor,
    empty: torch.Tensor,
    guidance_scale: float,
    steps: int,
    precision: Precision = PLAIN,
) -> torch.Tensor:
    """Unit normal noise [B, C, h, w] to scaled latents of the same shape.

    Equal to diffusers' StableDiffusionPipeline to the bit (a test compares them). That pipeline accepts no U-Net that
    peft has wrapped, runs guidance and scheduler under autocast too, and has no guidance below 1.

    Args:
        texts: [B, T, D] of the prompts.
        empty: [1, T, D] of the empty prompt.
    Raises BadInput where the latents become NaN or infinite; the VAE would decode them to black pictures.
    """
    scheduler = copy.deepcopy(pipe.scheduler)  # it counts its steps
    scheduler.set_timesteps(steps, device=noise.device)
    latents, guided = noise * scheduler.init_noise_sigma, guidance_scale != 1
    context = torch.cat([empty.expand_as(texts), texts]) if guided else texts  # [2 B, T, D] or [B, T, D]
    deterministic = {'eta': 0.0} if 'eta' in inspect.signature(scheduler.step).parameters else {}
    for time in scheduler.timesteps:
        x = scheduler.scale_model_input(torch.cat([latents, latents]) if guided else latents, time)
        with precision.autocast(noise.device):
            predicted = unet(x, time, encoder_hidden_states=context).sample
        predicted = predicted.float()
        if guided:
            without, with_text = predicted.chunk(2)
            predicted = without + guidance_scale * (with_text - without)
        latents = scheduler.step(predicted, time, latents, **deterministic).prev_sample
    if not torch.isfinite(latents).all():
        raise BadInput(
            f'guidance {guidance_scale:g} and {steps} steps give latents of NaN or infinity; lower the guidance, or '
            'train again at a lower learning rate'
        )
    return latents
