"""Text-to-image pipelines: tokenizer, text encoder, VAE, U-Net and noise scheduler, loaded by name or from a folder.

    pipe = pipeline.load('stable_diffusion_mini')
    images = sampling.sample(pipe, pipe.unet, ['a photo of a goldfish'])

`names.py` knows the names and folders. This module reads weights from safetensors only and downloads nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from medpeft_utils.core.errors import BadInput
from medpeft_utils.text_image.names import MINI, PIPELINES, WEIGHTS_FOLDER, family_of, folder_of, image_size_of, known
from medpeft_utils.text_image.pipeline_files import check, config_of, read_parts

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """How many prompts a tokenizer cuts, how many tokens they lose together, and the longest prompt in tokens."""

    prompts: int
    tokens: int
    longest: int


@dataclass(eq=False)
class Pipeline:
    """The parts of a text-to-image pipeline, in evaluation mode and frozen.

    Args:
        name: a known name, or a folder.
        image_size: side in pixels that it was trained at.
        tokenizer: texts to tokens.
        text_encoder: [B, T] tokens to [B, T, D].
        vae: [B, 3, S, S] in -1..1 to latents and back.
        unet: [B, C, h, w] noisy latents, [B] timesteps, [B, T, D] texts to the predicted noise.
        scheduler: the noise schedule and the sampler.
        source: in words, where the weights come from.
    """

    name: str
    image_size: int
    tokenizer: Any
    text_encoder: torch.nn.Module
    vae: torch.nn.Module
    unet: torch.nn.Module
    scheduler: Any
    source: str
    family: str = field(default='unet', init=False)

    def __post_init__(self):
        for module in (self.text_encoder, self.vae, self.unet):
            module.eval().requires_grad_(False)
        self.hash, self.encoder_hash = self._hashes()

    def _hashes(self) -> tuple[str, str]:
        """16 hex digits over everything, and over all but the U-Net: what makes latents and text embeddings."""
        digest = hashlib.sha256(json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode())
        digest.update(json.dumps([self.length, self.scaling, self.scheduler.config.prediction_type]).encode())
        betas = getattr(self.scheduler, 'betas', None)
        digest.update(betas.numpy().tobytes() if betas is not None else b'')
        hashes = []
        for part in ((self.text_encoder, self.vae), (self.unet,)):
            for name, tensor in (item for module in part for item in sorted(module.state_dict().items())):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().data)
            hashes.append(digest.hexdigest()[:16])
        return hashes[1], hashes[0]

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        return known(self.name).label

    @property
    def role(self) -> str:
        """The pipeline of the paper that this one replaces, or its own name."""
        return known(self.name).role

    @property
    def length(self) -> int:
        """Tokens of a text, including its beginning, end and padding."""
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    @property
    def scaling(self) -> float:
        """The factor that gives the VAE's latents a standard deviation of about 1."""
        return self.vae.config.scaling_factor

    @property
    def shrinking(self) -> int:
        """How many pixels of an image, along a side, become one place of its latents."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    def to(self, device: torch.device) -> Pipeline:
        """All parts on a device; itself."""
        for module in (self.text_encoder, self.vae, self.unet):
            module.to(device)
        return self

    @cached_property
    def noising(self):
        """The schedule by which noise is added in training (`DDPMScheduler` with the pipeline's betas)."""
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(self.scheduler.config)

    def tokens(self, texts: list[str]) -> torch.Tensor:
        """[N, T] tokens, padded and cut to T."""
        settings = {'padding': 'max_length', 'truncation': True, 'max_length': self.length, 'return_tensors': 'pt'}
        return self.tokenizer(list(texts), **settings).input_ids

    def cut(self, texts: list[str]) -> Cut:
        """What the tokenizer cuts of these texts, with a warning where it cuts any."""
        counts = [len(ids) for ids in self.tokenizer(list(texts), truncation=False, verbose=False)['input_ids']]
        lost = [count - self.length for count in counts if count > self.length]
        cut = Cut(len(lost), sum(lost), max(counts, default=0))
        if lost:
            log.warning(
                '%s takes %d tokens: %d of %d prompts are cut and lose %d of %d tokens (the longest has %d)',
                *(self.label, self.length, cut.prompts, len(texts), cut.tokens, sum(counts), cut.longest),
            )
        return cut

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """[N, T, D] float32 embeddings on the pipeline's device."""
        import torch

        with torch.no_grad():
            return self.text_encoder(self.tokens(texts).to(self.device))[0].float()

    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        """[N, S, S, 3] uint8 to scaled latents [N, C, h, w] float32, the mean of the VAE's posterior."""
        import torch

        with torch.no_grad():
            x = torch.from_numpy(np.array(images)).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            return self.vae.encode(x.to(self.vae.dtype)).latent_dist.mean.float() * self.scaling

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Scaled latents [N, C, h, w] to images [N, S, S, 3] uint8."""
        import torch

        with torch.no_grad():
            x = self.vae.decode((latents / self.scaling).to(self.vae.dtype)).sample.float()
        x = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        return (x * 255).round().astype(np.uint8)


def load(name: str, weights: str = 'pretrained', seed: int = 0) -> Pipeline:
    """A pipeline with its weights, on the CPU in float32.

    Args:
        name: `stable_diffusion_mini`, `stable_diffusion_v1_5`, or a folder in diffusers' layout.
        weights: 'pretrained', 'random' (a mini of random weights, for tests), or a folder in diffusers' layout.
        seed: of random weights.
    Raises:
        UnknownName: no such pipeline.
        BadInput: it is not on this machine, lacks a component or its weights, or they are not safetensors.
        DoesNotFit: a pipeline of another kind, without a U-Net for instance.
    """
    family_of(name)
    if weights == 'random':
        return _random(name, seed)
    folder, source = folder_of(name, weights)
    check(folder)
    size = image_size_of(name if name in PIPELINES else str(folder))
    return Pipeline(name, size, source=source, **read_parts(folder))


def _random(name: str, seed: int) -> Pipeline:
    """The shipped pipeline's architecture, tokenizer and schedule with random weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from medpeft_utils.methods.adapted import seeded

    if name != MINI:
        raise BadInput(f'weights=random: only {MINI!r} can have random weights, not {name!r}; give weights=pretrained')
    folder = WEIGHTS_FOLDER / name
    with seeded(seed):
        parts = {
            'text_encoder': CLIPTextModel(CLIPTextConfig(**config_of(folder, 'text_encoder'))).float(),
            'vae': AutoencoderKL.from_config(config_of(folder, 'vae')),
            'unet': UNet2DConditionModel.from_config(config_of(folder, 'unet')),
        }
    parts['tokenizer'] = CLIPTokenizer.from_pretrained(folder / 'tokenizer', local_files_only=True)
    parts['scheduler'] = DDIMScheduler.from_config(config_of(folder, 'scheduler'))
    return Pipeline(name, known(name).image_size, source=f'random weights (seed {seed})', **parts)
