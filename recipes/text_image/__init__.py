"""How `stable_diffusion_mini` is made: a VAE, captions and a tokenizer, then the text encoder with the U-Net."""
