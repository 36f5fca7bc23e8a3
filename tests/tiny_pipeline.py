"""A text-to-image pipeline of random weights and a handful of pairs, small enough for tests of seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

SIZE, TOKENS, WIDTH = 16, 12, 8
CAPTIONS = ('No acute cardiopulmonary process.', 'Small left pleural effusion.', 'Mild cardiomegaly.')


def parts(prediction: str = 'epsilon', seed: int = 0) -> dict:
    """Components by name: 16-px images, latents [4, 8, 8], texts [12, 8], a U-Net of two levels."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from recipes.text_image import mini
    from recipes.text_image.captions import learn_tokenizer

    tokenizer = learn_tokenizer(['cat'], length=TOKENS)
    text = {'hidden_size': WIDTH, 'intermediate_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2}
    text |= {'max_position_embeddings': TOKENS, 'vocab_size': len(tokenizer), 'projection_dim': WIDTH}
    ends = {'bos_token_id': 0, 'eos_token_id': 1, 'pad_token_id': 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {
            'tokenizer': tokenizer,
            'text_encoder': CLIPTextModel(CLIPTextConfig(**text, **ends)),
            'vae': AutoencoderKL(
                down_block_types=('DownEncoderBlock2D',) * 2,
                up_block_types=('UpDecoderBlock2D',) * 2,
                block_out_channels=(8, 8),
                norm_num_groups=4,
                sample_size=SIZE,
                scaling_factor=0.5,
            ),
            'unet': UNet2DConditionModel(
                sample_size=SIZE // 2,
                down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
                up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
                block_out_channels=(8, 16),
                layers_per_block=1,
                norm_num_groups=4,
                cross_attention_dim=WIDTH,
                attention_head_dim=2,
            ),
            'scheduler': DDIMScheduler(**mini.SCHEDULER | {'prediction_type': prediction}),
        }


def diffusers_pipeline(**changed):
    """The same as diffusers' own pipeline."""
    from diffusers import StableDiffusionPipeline

    extra = {'safety_checker': None, 'feature_extractor': None, 'requires_safety_checker': False}
    return StableDiffusionPipeline(**(parts() | changed), **extra)


def write_pairs(folder: Path, count: int = 16) -> Path:
    """A CSV of pictures and captions: 16 patients of one picture, with splits; its path."""
    generator, lines = np.random.default_rng(0), ['image,text,group,split']
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = generator.integers(0, 256, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{i}.png')
        split = 'validation' if i % 4 == 2 else 'test' if i % 4 == 3 else 'train'
        lines.append(f'{i}.png,{CAPTIONS[i % 3]},p{i},{split}')
    path = folder / 'pairs.csv'
    path.write_text('\n'.join(lines) + '\n')
    return path
