"""Second stage: text encoder and U-Net together learn to denoise the VAE's latents of captioned natural images."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from medpeft_utils.text_image.training import timesteps
from recipes.backbones.source import NaturalImages
from recipes.text_image import mini
from recipes.text_image.autoencoder import GREY_SHARE, grey, to_input
from recipes.text_image.captions import caption, first_name, learn_tokenizer
from recipes.text_image.stage import Schedule, Stage

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

DROP_TEXT = 0.1  # share of the captions that are left empty, for guidance
HELD_OUT = 512  # images scored
BLOCK = 250


@dataclass
class Captioned:
    """What the second stage learns from: row i of all of them is one picture.

    Args:
        latents: [N, 4, 16, 16] float16, mean of the VAE's posterior, scaled to standard deviation 1.
        tokens: [N, 77] int16.
        empty: [77] int16, the empty text.
        scaling: what the VAE's latents were multiplied by.
        tokenizer: CLIP's, with a learned vocabulary.
    """

    latents: np.ndarray
    tokens: np.ndarray
    empty: np.ndarray
    scaling: float
    tokenizer: CLIPTokenizer


def prepare(source: NaturalImages, vae: AutoencoderKL, folder: Path, seed: int = 0) -> Captioned:
    """Every image once, flipped by a coin, a quarter in grey, with its caption; or what an earlier call made.

    Args:
        source: images of 64 px with the words of their classes.
        vae: trained.
        folder: where latents and tokens are kept.
        seed: of coins.
    """
    folder, names = Path(folder), [first_name(words) for words in source.captions]
    tokenizer = learn_tokenizer(names)
    if not (folder / 'prepared.json').exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(source, vae, tokenizer, names, folder, seed)
    scaling = json.loads((folder / 'prepared.json').read_text())['scaling']
    arrays = (np.load(folder / f'{name}.npy') for name in ('latents', 'tokens'))
    return Captioned(*arrays, tokens_of(tokenizer, [''])[0], scaling, tokenizer)


def tokens_of(tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray:
    """[N, 77] int16."""
    settings = {'padding': 'max_length', 'truncation': True, 'max_length': tokenizer.model_max_length}
    return np.asarray(tokenizer(texts, **settings)['input_ids'], dtype=np.int16)


@torch.no_grad()
def _write(source: NaturalImages, vae, tokenizer, names: list[str], folder: Path, seed: int) -> None:
    draw, count = np.random.default_rng(seed), len(source.labels)
    flip, in_grey = draw.random(count) < 0.5, draw.random(count) < GREY_SHARE
    latents, texts = np.empty((count, 4, mini.LATENT_SIZE, mini.LATENT_SIZE), np.float32), []
    vae = vae.eval().to(memory_format=torch.channels_last)
    for start in range(0, count, BLOCK):
        rows = np.arange(start, min(start + BLOCK, count))
        images = source.images[rows]
        images[flip[rows]] = images[flip[rows], :, ::-1]
        x = grey(to_input(torch.from_numpy(images)), torch.from_numpy(in_grey[rows]))
        latents[rows] = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean.numpy()
        texts += [caption(images[i], names[source.labels[row]], in_grey[row]) for i, row in enumerate(rows)]
    scaling = float(1 / latents.std())
    np.save(folder / 'latents.npy', (latents * scaling).astype(np.float16))
    np.save(folder / 'tokens.npy', tokens_of(tokenizer, texts))
    partial = folder / 'prepared.json.partial'
    partial.write_text(json.dumps({'scaling': scaling, 'seed': seed, 'captions': texts[:: max(1, count // 20)]}))
    os.replace(partial, folder / 'prepared.json')


class Diffusion(Stage):
    """Latent diffusion (Rombach et al. 2022, arXiv:2112.10752): mean squared error of the predicted velocity.

    Differs: the text encoder is trained with the U-Net from random weights, in Stable Diffusion it is CLIP's; and the
    velocity is predicted (Salimans and Ho 2022, arXiv:2202.00512) where Stable Diffusion v1.5 predicts the noise. What
    a text asks for shows in the layout, where there is much noise; there a predicted noise says next to nothing of
    the image, and a network as small as this one had not learned to heed its text. For the same reason timesteps are
    shifted towards much noise (`mini.TIMESTEP_SHIFT`); the held-out loss is over all of them alike.
    """

    score_name = 'held-out velocity-prediction loss'

    def __init__(self, schedule: Schedule, data: Captioned, source: NaturalImages, folder, device='cpu'):
        torch.manual_seed(schedule.seed)
        self.data, self.noising = data, mini.build_scheduler()
        text = mini.build_text_encoder(len(data.tokenizer), data.tokenizer.eos_token_id)
        networks = {'text_encoder': text, 'unet': mini.build_unet()}
        super().__init__(schedule, networks, *source.split(schedule.held_out_share, schedule.seed), folder, device)

    def _velocity_loss(self, rows: np.ndarray, generator: torch.Generator, drop: float, shift: float) -> torch.Tensor:
        tokens = self.data.tokens[rows].astype(np.int64)
        tokens[(torch.rand(len(rows), generator=generator) < drop).numpy()] = self.data.empty
        latents = torch.from_numpy(self.data.latents[rows]).float()
        noise = torch.randn(latents.shape, generator=generator)
        times = timesteps(len(rows), self.noising.config.num_train_timesteps, shift, generator)
        noisy = self.noising.add_noise(latents, noise, times).to(self.device)
        texts = self.networks['text_encoder'](torch.from_numpy(tokens).to(self.device)).last_hidden_state
        predicted = self.networks['unet'](noisy, times.to(self.device), texts).sample
        return F.mse_loss(predicted.float(), self.noising.get_velocity(latents, noise, times).to(self.device))

    def loss(self, rows: np.ndarray) -> torch.Tensor:
        """Mean squared error of the velocity, of variance 1."""
        return self._velocity_loss(rows, self.generator, DROP_TEXT, mini.TIMESTEP_SHIFT)

    @torch.no_grad()
    def score(self) -> float:
        """The loss over held-out images with their captions, always at the same noise and timesteps."""
        self.networks.eval()
        rows, generator = np.sort(self.held_out_rows), torch.Generator().manual_seed(0)
        rows = rows[:: max(1, len(rows) // HELD_OUT)][:HELD_OUT]
        parts = np.array_split(rows, max(1, len(rows) // 128))
        losses = [self._velocity_loss(part, generator, 0.0, 1.0).item() for part in parts]
        self.networks.train()
        return float(np.average(losses, weights=[len(part) for part in parts]))
