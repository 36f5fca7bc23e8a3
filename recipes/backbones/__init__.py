"""Pre-training of the small backbones that the package ships."""
