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

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import arrays, dicom

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


def read_image(path: Path, size: int, reduced_to: int = 0) -> np.ndarray:
    """Decode a file and resize the whole image to a square.

    JPEG files are decoded at the smallest of 1, 1/2, 1/4, 1/8 that still has twice the asked size (draft mode).

    Args:
        path: an image file of any format and mode that Pillow knows, a DICOM file (`dicom.py`), or a row of a NumPy
            archive (`arrays.py`).
        size: side of the square in pixels.
        reduced_to: a side to reduce a larger image to before that, so that those of several resolutions look alike.
    Returns:
        [size, size, 3] uint8.
    Raises:
        BadInput: not an image, cut off or damaged; the message names the file.
    """
    _, _, picture = _decoded(path, 2 * max(size, reduced_to))
    if reduced_to and min(picture.size) > reduced_to:
        picture = picture.resize((reduced_to, reduced_to), Image.Resampling.BICUBIC)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture.convert('RGB'))


def _decoded(path: Path, least: int | None = None) -> tuple[str, tuple[int, int], Image.Image]:
    """Mode and (width, height) as stored, and the picture upright, grey or in RGB.

    With `least`, a JPEG file at a fraction of its size that is still so long and wide.
    """
    if dicom.is_dicom(path) or arrays.is_row(path):
        picture = dicom.read_dicom(path) if dicom.is_dicom(path) else arrays.read_row(path)
        return picture.info.get('dicom', picture.mode), picture.size, picture
    try:
        with Image.open(path) as image:
            mode, size = image.mode, image.size
            if least:
                image.draft(None, (least, least))
            return mode, size, to_rgb(ImageOps.exif_transpose(image), path)
    except BadInput:
        raise
    except DAMAGED as error:
        raise _damage(path, error) from error


def examine_image(path: Path, side: int) -> tuple[str, tuple[int, int], np.ndarray]:
    """Decode a file in full, once: its mode, its (width, height), and a small grey picture [side, side] uint8.

    Raises BadInput as `read_image` does.
    """
    mode, size, picture = _decoded(path)
    return mode, size, np.asarray(picture.convert('L').resize((side, side), Image.Resampling.BOX))
