"""The text-to-image family: a diffusion pipeline fine-tuned on images with texts, and what its images are worth."""
