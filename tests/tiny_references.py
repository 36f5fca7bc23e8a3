"""Networks in double precision, on which foreign implementations were run and are compared (`reference/`)."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

WIDTH, TEXT = 8, 6


def vit(**more: Any) -> nn.Module:
    size = {'img_size': 16, 'patch_size': 8, 'embed_dim': WIDTH, 'depth': 2, 'num_heads': 2, 'mlp_ratio': 2}
    return VisionTransformer(**size, num_classes=3, **more)


def vit_pooled() -> nn.Module:
    """As MAE's after pre-training: the mean over the patches, normalised."""
    return vit(global_pool='avg', fc_norm=True)


def resnet() -> nn.Module:
    return ResNet(BasicBlock, (1, 1, 1, 1), 3, channels=(4, 4, 6, 6), stem_width=4)


def stack() -> nn.Module:
    """A convolution, two norms and a Linear."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.LayerNorm(64),
        nn.Linear(64, 5),
    )


class Transformer(nn.Module):
    """One transformer block of a diffusion U-Net, [B, N, D] features and [B, T, E] texts."""

    def __init__(self):
        super().__init__()
        from diffusers.models.attention import BasicTransformerBlock

        self.block = BasicTransformerBlock(WIDTH, 2, WIDTH // 2, cross_attention_dim=TEXT)

    def forward(self, x: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        return self.block(x, encoder_hidden_states=texts)


NETWORKS = {'vit': vit, 'vit_pooled': vit_pooled, 'resnet': resnet, 'stack': stack, 'transformer': Transformer}


def build(name: str) -> nn.Module:
    """A network with no weight at a value that hides a mistake, in double precision and evaluation mode."""
    torch.manual_seed(0)
    model = NETWORKS[name]().double().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data += 0.1 * torch.randn_like(tensor).abs()
    return model


def inputs(name: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {'stack': [(2, 3, 4, 4)], 'resnet': [(2, 3, 32, 32)], 'transformer': [(2, 5, WIDTH), (2, 4, TEXT)]}
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes.get(name, [(2, 3, 16, 16)])]


def gradients(model: nn.Module, given: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The output, and of a fixed weighted sum of it the gradient of every parameter that has one."""
    out = model(*given)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    (weights * out).sum().backward()
    return out.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
