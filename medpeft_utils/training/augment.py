"""Augmentation of a whole batch at once, on the device it lies on.

One affine grid a batch does crop, flip, rotation and resize together; everything random comes from the generator
that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augmentation:
    """What `augment` may do to an image.

    Args:
        scale: smallest and largest share of the image's area that a crop keeps.
        ratio: largest aspect ratio of a crop (its inverse is the smallest).
        flip: chance of a left-right flip.
        vertical_flip: chance of an upside-down flip.
        rotate: largest rotation in degrees, either way.
        brightness: largest relative change of brightness.
        contrast: largest relative change of contrast.
    """

    scale: tuple[float, float] = (0.7, 1.0)
    ratio: float = 1.2
    flip: float = 0.5
    vertical_flip: float = 0.0
    rotate: float = 0.0
    brightness: float = 0.1
    contrast: float = 0.1


# Values of images that a CPU works on at a time: they and what is made of them stay in its cache.
CACHED = 1 << 19

NONE = Augmentation(scale=(1.0, 1.0), ratio=1.0, flip=0.0, brightness=0.0, contrast=0.0)


def normalise(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """[B, H, W, C] uint8 to [B, C, H, W] float32, channel-wise (x / 255 - mean) / std."""
    x = images.permute(0, 3, 1, 2).float().div_(255)  # [B, C, H, W]
    return x.sub_(mean.view(1, -1, 1, 1)).div_(std.view(1, -1, 1, 1))


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """[B, C, H, W] to [B, C, size, size], antialiased; the input itself where it has that size."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode='bilinear', antialias=True, align_corners=False)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def _affine(n: int, policy: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Random crops, flips and rotations as [n, 2, 3] matrices for `affine_grid` (output to input coordinates)."""
    area = _uniform(n, *policy.scale, generator)
    stretch = torch.exp(_uniform(n, -1, 1, generator) * torch.tensor(policy.ratio).log())
    width, height = (area * stretch).sqrt().clamp(max=1), (area / stretch).sqrt().clamp(max=1)
    x, y = (1 - width) * _uniform(n, -1, 1, generator), (1 - height) * _uniform(n, -1, 1, generator)
    flip = 1 - 2 * (torch.rand(n, generator=generator) < policy.flip).float()
    upside_down = 1 - 2 * (torch.rand(n, generator=generator) < policy.vertical_flip).float()
    angle = torch.deg2rad(_uniform(n, -policy.rotate, policy.rotate, generator))
    cos, sin = angle.cos(), angle.sin()
    rows = [cos * width * flip, -sin * height * upside_down, x, sin * width * flip, cos * height * upside_down, y]
    return torch.stack(rows, dim=1).view(n, 2, 3)


def augment(
    images: torch.Tensor,
    size: int,
    mean: torch.Tensor,
    std: torch.Tensor,
    policy: Augmentation,
    generator: torch.Generator,
) -> torch.Tensor:
    """Crop, flip, rotate, resize and jitter a batch.

    Args:
        images: [B, H, W, C] uint8.
        size: side of the result in pixels.
        mean, std: [C], of pixel values in 0..1.
        generator: on the CPU; the same state gives the same batch on every device.
    Returns:
        [B, C, size, size] float32, normalised.
    """
    n, device, channels = len(images), images.device, images.shape[-1]
    drawn = [_affine(n, policy, generator).view(n, 6)]
    drawn += [1 + _uniform(n, -much, much, generator)[:, None] for much in (policy.brightness, policy.contrast)]
    drawn = torch.cat(drawn, dim=1).to(device, non_blocking=True)  # at once; a GPU is not waited for
    matrix, light, contrast = drawn[:, :6].view(n, 2, 3), drawn[:, 6].view(n, 1, 1, 1), drawn[:, 7].view(n, 1, 1, 1)
    mean, std = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
    out = torch.empty(n, channels, size, size, device=device)
    few = max(1, CACHED // images[0].numel()) if n and device.type == 'cpu' else max(n, 1)
    for start in range(0, n, few):
        part = slice(start, start + few)
        x = images[part].permute(0, 3, 1, 2).float()  # [b, C, H, W], 0..255
        x = _sample(x, matrix[part], size, upright=policy.rotate == 0)
        grey, gain = x.mean(dim=(1, 2, 3), keepdim=True), contrast[part] * light[part] / 255
        # ((x - grey) * contrast + grey) * light, then (x - mean) / std
        x = x.mul_(gain).add_((light[part] / 255 - gain) * grey).clamp_(0, 1)
        torch.mul(x, 1 / std, out=out[part]).sub_(mean / std)
    return out


def _sample(x: torch.Tensor, matrix: torch.Tensor, size: int, upright: bool) -> torch.Tensor:
    """[b, C, H, W] to [b, C, size, size] by [b, 2, 3] matrices.

    Upright crops lie within the image: x does not depend on y, and what is read beyond the outermost pixels' centres,
    half a pixel at most, is the same by reflection and by repetition, which is faster.
    """
    if not upright:
        grid = F.affine_grid(matrix, [len(x), 1, size, size], align_corners=False)
        return F.grid_sample(x, grid, padding_mode='reflection', align_corners=False)
    centres = (torch.arange(size, device=x.device) * 2 + 1) / size - 1  # of pixels, in -1..1
    grid = x.new_empty(len(x), size, size, 2)
    grid[..., 0] = (matrix[:, 0, :1] * centres + matrix[:, 0, 2:])[:, None, :]
    grid[..., 1] = (matrix[:, 1, 1:2] * centres + matrix[:, 1, 2:])[:, :, None]
    return F.grid_sample(x, grid, padding_mode='border', align_corners=False)
