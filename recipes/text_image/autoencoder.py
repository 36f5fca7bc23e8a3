"""First stage: the VAE, on crops of natural images, some of them in grey."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from recipes.backbones.source import NaturalImages
from recipes.text_image import mini
from recipes.text_image.stage import Schedule, Stage

GREY_SHARE = 0.25  # of the pictures: a photograph without colour, as radiographs are
CROP = 32  # px; four times as many different pictures for the same work as whole ones of 64 px
KL_WEIGHT = 5e-4
HELD_OUT = 512  # images scored


def to_input(images: torch.Tensor) -> torch.Tensor:
    """[B, S, S, 3] uint8 to [B, 3, S, S] in -1..1, as diffusers' VAEs take them."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def grey(x: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] with the pictures of `which` [B] bool in grey (Rec. 601 luma)."""
    luma = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True).expand_as(x)
    return torch.where(which.view(-1, 1, 1, 1), luma, x)


class Autoencoder(Stage):
    """A VAE (Kingma and Welling 2014, arXiv:1312.6114) as in latent diffusion (Rombach et al. 2022, arXiv:2112.10752).

    Mean absolute error of the pixels and a small divergence from the unit normal. Differs: no perceptual and no
    adversarial loss, so fine texture is smooth.
    """

    score_name = 'held-out reconstruction PSNR (dB)'

    def __init__(self, schedule: Schedule, source: NaturalImages, folder, device='cpu'):
        torch.manual_seed(schedule.seed)
        self.source = source
        rows = source.split(schedule.held_out_share, schedule.seed)
        vae = mini.build_vae().to(memory_format=torch.channels_last)
        super().__init__(schedule, {'vae': vae}, *rows, folder, device)

    @property
    def vae(self):
        return self.networks['vae']

    def _crops(self, rows: np.ndarray) -> torch.Tensor:
        """Random crops of the rows, [B, 3, 32, 32], flipped by a coin, some in grey."""
        images, draw = torch.from_numpy(self.source.images[rows]), self.generator
        top, left = torch.randint(0, images.shape[1] - CROP + 1, (2, len(rows)), generator=draw).tolist()
        crops = torch.stack([x[t : t + CROP, a : a + CROP] for x, t, a in zip(images, top, left, strict=True)])
        flip, in_grey = torch.rand(2, len(rows), generator=draw)
        crops = torch.where((flip < 0.5).view(-1, 1, 1, 1), crops.flip(2), crops)
        return grey(to_input(crops), in_grey < GREY_SHARE).to(self.device, memory_format=torch.channels_last)

    def loss(self, rows: np.ndarray) -> torch.Tensor:
        """Mean absolute error in -1..1 plus the weighted divergence (nats a latent number)."""
        x = self._crops(rows)
        posterior = self.vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=self.generator).to(self.device)
        decoded = self.vae.decode(posterior.mean + posterior.std * noise).sample
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return F.l1_loss(decoded, x) + KL_WEIGHT * divergence

    @torch.no_grad()
    def score(self) -> float:
        """Peak signal-to-noise ratio over whole held-out images, from the mean of the posterior, in dB."""
        self.networks.eval()
        rows, errors = np.sort(self.held_out_rows)[:: max(1, len(self.held_out_rows) // HELD_OUT)], []
        for part in np.array_split(rows, max(1, len(rows) // 64)):
            x = to_input(torch.from_numpy(self.source.images[part])).to(self.device, memory_format=torch.channels_last)
            decoded = self.vae.decode(self.vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
            errors.append((decoded - x).square().mean(dim=(1, 2, 3)).cpu())
        self.networks.train()
        return float(10 * torch.log10(4 / torch.cat(errors).mean()))
