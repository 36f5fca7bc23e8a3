"""The architecture of `stable_diffusion_mini`: the classes of Stable Diffusion v1.5, narrow, for 64x64 px.

The text encoder is CLIP's; the VAE has four channels; the U-Net has four levels and no attention in the lowest. Three
things differ: the VAE shrinks an image four times (64 px to 16x16x4), there eight times (512 px to 64x64x4), which
would leave nothing of a small finding; the U-Net's highest level has no attention either, which at this size would
take as long as all the rest; and the velocity is predicted. `recipe.py` trains it; what is shipped holds these
configurations, and the package builds it from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medpeft_utils.text_image.names import MINI, PIPELINES

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

NAME, IMAGE_SIZE, TIMESTEP_SHIFT = MINI, PIPELINES[MINI].image_size, PIPELINES[MINI].timestep_shift
LATENT_SIZE = 16  # places of the latents along a side
TOKENS = 77  # as CLIP's

VAE = {
    'in_channels': 3,
    'out_channels': 3,
    'down_block_types': ('DownEncoderBlock2D',) * 3,
    'up_block_types': ('UpDecoderBlock2D',) * 3,
    'block_out_channels': (16, 32, 32),
    'layers_per_block': 1,
    'latent_channels': 4,
    'norm_num_groups': 4,
    'sample_size': IMAGE_SIZE,
    'mid_block_add_attention': False,
}
TEXT = {
    'hidden_size': 128,
    'intermediate_size': 512,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'max_position_embeddings': TOKENS,
    'projection_dim': 128,
}
UNET = {
    'sample_size': LATENT_SIZE,
    'in_channels': 4,
    'out_channels': 4,
    'down_block_types': ('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'),
    'up_block_types': ('UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
    'block_out_channels': (32, 64, 128, 128),
    'layers_per_block': 1,
    'norm_num_groups': 8,
    'cross_attention_dim': TEXT['hidden_size'],
    'attention_head_dim': 4,
}
# Stable Diffusion's betas, and sampling that ends at the first timestep and not at zero noise. What is predicted is the
# velocity (Salimans and Ho 2022, arXiv:2202.00512), as in Stable Diffusion 2: see `diffusion.py`.
SCHEDULER = {
    'num_train_timesteps': 1000,
    'beta_start': 0.00085,
    'beta_end': 0.012,
    'beta_schedule': 'scaled_linear',
    'clip_sample': False,
    'set_alpha_to_one': False,
    'steps_offset': 1,
    'prediction_type': 'v_prediction',
}


def build_vae() -> AutoencoderKL:
    """A VAE with random weights from the global generator: [B, 3, 64, 64] in -1..1 to [B, 4, 16, 16] and back."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**VAE)


def build_text_encoder(vocabulary: int, end: int) -> CLIPTextModel:
    """A text encoder with random weights: [B, 77] tokens to [B, 77, 128].

    Args:
        vocabulary: number of tokens.
        end: number of the token at a text's end, which is the padding as well.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    tokens: dict[str, Any] = {'vocab_size': vocabulary, 'bos_token_id': end - 1, 'eos_token_id': end}
    return CLIPTextModel(CLIPTextConfig(**TEXT, **tokens, pad_token_id=end))


def build_unet() -> UNet2DConditionModel:
    """A U-Net with random weights: [B, 4, 16, 16] noisy latents, [B] timesteps, [B, 77, 128] texts to the noise."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET)


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion, sampled by DDIM (Song et al. 2021, arXiv:2010.02502)."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**SCHEDULER)
