"""One image file to one square of 8-bit RGB.

The whole image is resized to the square, without crop and without padding. Lesions and opacities often touch the rim,
where a crop would cut them. Padding would spend a quarter of a 4:3 image's pixels on nothing, and its bars would show
the aspect ratio, which is not independent of the class (a tenth of BreastUS's malignant images are narrower than 0.93,
of its benign ones than 1.12). The price is a stretch by the aspect ratio, alike in training and test; it is 4:3 in all
of HAM10000.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from medpeft_utils.errors import BadInput

DEEP_MODES = ('I', 'F', 'I;16', 'I;16L', 'I;16B', 'I;16N')
ALPHA_MODES = ('RGBA', 'LA', 'PA', 'La', 'RGBa')
# What Pillow raises for damaged files, by format
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def _stretched(image: Image.Image, path: Path) -> Image.Image:
    """16-bit and floating-point grey to 8-bit: its own darkest to brightest value to 0..255.

    Nothing in such a file says how many of its bits are used (12 of 16 in many radiographs), so that a fixed factor
    would leave most of them black.
    """
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise BadInput(f'{path}: holds pixels that are no number (NaN or infinite); mend or remove it')
    low, high = values.min(), values.max()
    grey = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(grey.round().astype(np.uint8))


def to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Any Pillow mode to RGB: transparent parts on black (the background of medical images), grey in all channels."""
    if image.mode in DEEP_MODES:
        image = _stretched(image, path)
    if image.mode in ALPHA_MODES or 'transparency' in image.info:
        image = image.convert('RGBA')
        return Image.alpha_composite(Image.new('RGBA', image.size, 'black'), image).convert('RGB')
    return image if image.mode == 'RGB' else image.convert('RGB')


def _damage(path: Path, error: Exception) -> BadInput:
    """What is wrong with a file that does not decode, in words."""
    if not path.is_file():
        return BadInput(f'{path}: no such image; it was there when the dataset was listed')
    if isinstance(error, PermissionError):
        return BadInput(f'{path}: may not be read ({error.strerror}); mend its permissions or remove it')
    with path.open('rb') as file:
        start = file.read(16)
    if not start:
        said = 'is empty'
    elif isinstance(error, Image.UnidentifiedImageError):
        said = f'is not an image (it begins with {start!r})'
    elif 'truncated' in str(error).lower() or isinstance(error, EOFError):
        said = f'is cut off ({error})'
    else:
        said = f'cannot be decoded ({type(error).__name__}: {error})'
    return BadInput(f'{path}: {said}; fetch it again, or remove it (medpeft data check lists every such file)')


def read_image(path: Path, size: int) -> np.ndarray:
    """Decode a file and resize the whole image to a square.

    JPEG files are decoded at the smallest of 1, 1/2, 1/4, 1/8 that still has twice the asked size (draft mode).

    Args:
        path: an image file of any format and mode that Pillow knows.
        size: side of the square in pixels.
    Returns:
        [size, size, 3] uint8.
    Raises:
        BadInput: not an image, cut off or damaged; the message names the file.
    """
    try:
        with Image.open(path) as image:
            image.draft(None, (2 * size, 2 * size))
            upright = ImageOps.exif_transpose(image)
            rgb = to_rgb(upright, path)
    except BadInput:
        raise
    except DAMAGED as error:
        raise _damage(path, error) from error
    return np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC))


def inspect_image(path: Path) -> tuple[str, tuple[int, int]]:
    """Decode a file in full and return its mode and (width, height). Raises BadInput as `read_image` does."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.mode, image.size
    except DAMAGED as error:
        raise _damage(path, error) from error
