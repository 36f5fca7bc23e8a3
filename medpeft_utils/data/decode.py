"""One image file to one square of 8-bit RGB.

The whole image is resized to the square, without crop and without padding. Lesions and opacities often touch the rim,
where a crop would cut them. Padding would spend a quarter of a 4:3 image's pixels on nothing, and its bars would show
the aspect ratio, which is not independent of the class (a tenth of BreastUS's malignant images are narrower than 0.93,
of its benign ones than 1.12). The price is a stretch by the aspect ratio, alike in training and test; it is 4:3 in all
of HAM10000.

A pixel means the same in every format. Up to 8 bits are taken as they are. Nothing in a deeper file says how many of
its bits are used (12 of 16 in many radiographs): its darkest to its brightest value become 0 to 255, over all channels
of a colour picture alike, pixels without data apart. A file holds one picture; several pages or frames are refused.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import arrays, dicom

VERSION = '3'  # another wherever pixels, or what is a near duplicate, come out otherwise: packs are made again
DEEP_MODES = ('I', 'F', 'I;16', 'I;16L', 'I;16B', 'I;16N')
ALPHA_MODES = ('RGBA', 'LA', 'PA', 'La', 'RGBa')
ORIENTATION = 0x0112  # EXIF's tag, and how to turn by its values
TURNS = dict(
    zip(
        range(2, 9),
        (
            *(Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM),
            *(Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE),
            Image.Transpose.ROTATE_90,
        ),
        strict=True,
    )
)
NO_DATA_TAG = 42113  # of TIFF: what GDAL writes for pixels without data
NO_DATA = (-9999.0, -99999.0, float(np.finfo(np.float32).min))  # what others write, who do not say so
PHOTOMETRIC_TAG, WHITE_IS_ZERO = 262, 0  # which Pillow turns for up to 8 bits only
FORMAT_TAG, SIGNED = 339, 2
SUBFILE_TAG, PREVIEW_OR_MASK = 254, 0b101
MOST_PAGES = 32  # of a TIFF that are looked at
ODD_TIFF = 'a TIFF that is damaged, or of a kind that is not read (float of 16 or 64 bits, bands)', 'save it as PNG'
# How a file begins that Pillow does not know, what it is, and the way out
OTHERS = {
    **dict.fromkeys((b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'), ODD_TIFF),
    b'version https:': ('a pointer of Git LFS in place of the image', 'run `git lfs pull` in its repository'),
    b'<svg': ('a drawing (SVG)', 'save it as PNG'),
    b'%PDF': ('a PDF', 'save its image as PNG'),
    b'PK': ('an archive (ZIP)', 'unpack it'),
    b'\x1f\x8b': ('compressed (gzip)', 'unpack it'),
    b'<': ('a web page or other text in place of an image', 'fetch it again, or remove it'),
    b'\x93NUMPY': ('a NumPy array', 'save it as PNG'),
    b'\x89HDF': ('an HDF5 or MATLAB file', 'save its image as PNG'),
}


def stretched(values: np.ndarray, path: Path, empty: np.ndarray | None = None) -> np.ndarray:
    """Values of more than 8 bits to bytes: the darkest to the brightest become 0 to 255, `empty` ones 0.

    Args:
        values: [H, W] or [H, W, 3] numbers.
        path: to name in messages.
        empty: [H, W] pixels that hold no data and do not count; those of `NO_DATA` where None.
    """
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise BadInput(f'{path}: holds pixels that are no number (NaN or infinite); mend or remove it')
    if empty is None:
        empty = np.isin(values, NO_DATA)
    shown = values[~empty]
    low, high = (shown.min(), shown.max()) if shown.size else (0.0, 0.0)
    shares = (values - low) / (high - low) if high > low else np.zeros_like(values)
    shares[empty] = 0
    return (shares * 255).round().astype(np.uint8)


def _deep_grey(image: Image.Image, path: Path) -> Image.Image:
    values, tags = np.asarray(image), getattr(image, 'tag_v2', {})
    said = tags.get(NO_DATA_TAG, image.info.get('transparency'))
    try:
        number = float(str(said).strip(' \0')) if said is not None else math.nan
    except ValueError:
        number = math.nan
    empty = np.isin(values, NO_DATA) if math.isnan(number) else values == np.asarray(number).astype(values.dtype)
    if tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        values = -values.astype(np.float64)
    return Image.fromarray(stretched(values, path, empty))


def _raw(path: Path, mode: str, raw: str) -> np.ndarray:
    """The pixels of a file, read as if it stored them in another of Pillow's raw modes."""
    with Image.open(path) as image:
        image._mode = mode
        image.tile = [
            tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:])) for tile in image.tile
        ]
        return np.asarray(image).astype(np.uint16)


def _deep_channels(image: Image.Image, path: Path) -> np.ndarray | None:
    """[H, W, C] values of a file with more than 8 bits in each of several channels; None for all others.

    Pillow has no mode for them and keeps their upper 8 bits, of which 12-bit values fill four. The lower 8 are got from
    it by reading the file again as if its bytes were in the other order.
    """
    if not image.tile or len(image.getbands()) == 1:
        return None
    codec, _, offset, arguments = image.tile[0]
    if codec == 'ppm_plain' and arguments[-1] > 255:
        raise BadInput(f'{path}: a PPM in colour with 16 bits as text is not read; save it as PNG')
    raw = arguments if isinstance(arguments, str) else str((arguments or ('',))[0])
    width, height = image.size
    if codec == 'ppm' and isinstance(arguments, tuple) and arguments[-1] > 255:
        values = np.fromfile(path, dtype='>u2', count=3 * width * height, offset=offset)
        if len(values) < 3 * width * height:
            raise EOFError('image file is truncated')
        return values.reshape(height, width, 3)
    name, _, order = raw.partition(';16')
    if not order:
        return None
    if name == 'LA':
        pairs = _raw(path, 'RGBA', 'RGBA')  # the four bytes of a pixel
        return (pairs[..., ::2] << 8) + pairs[..., 1::2]
    if name not in ('RGB', 'RGBA') or order not in 'LBN':
        raise BadInput(f'{path}: {image.format} in colour with 16 bits ({raw}) is not read; save it as PNG')
    order = order if order != 'N' else 'L' if sys.byteorder == 'little' else 'B'
    other = 'B' if order == 'L' else 'L'
    return (_raw(path, name, f'{name};16{order}') << 8) + _raw(path, name, f'{name};16{other}')


def _from_channels(values: np.ndarray, path: Path, nothing: tuple[int, ...] | None = None) -> Image.Image:
    """The picture of [H, W, 2 to 4] deep values: grey or colour, and with an even number of channels how opaque.

    `nothing` is a colour that holds no data.
    """
    opaque = values[..., -1].astype(np.float64) if values.shape[2] in (2, 4) else None
    colour = values[..., : 1 if values.shape[2] == 2 else 3]
    empty = (colour == nothing).all(axis=2) if nothing else np.zeros(values.shape[:2], dtype=bool)
    if opaque is not None:
        empty |= opaque == 0
    picture = Image.fromarray(stretched(colour.squeeze(2) if colour.shape[2] == 1 else colour, path, empty))
    if opaque is None or opaque.min() == opaque.max() > 0:
        return picture
    picture.putalpha(Image.fromarray((opaque / max(opaque.max(), 1) * 255).round().astype(np.uint8)))
    return picture


def _require_one_picture(image: Image.Image, path: Path) -> None:
    """Raise BadInput for several pages or frames; previews and masks of a TIFF, and an MPO's second view, are none."""
    if image.format == 'MPO' or not getattr(image, 'is_animated', False):
        return
    count = image.n_frames if image.format != 'TIFF' else 0
    for number in range(MOST_PAGES) if image.format == 'TIFF' else ():
        try:
            image.seek(number)
        except EOFError:
            break
        count += not image.tag_v2.get(SUBFILE_TAG, 0) & PREVIEW_OR_MASK
    image.seek(0)
    if count > 1:
        raise BadInput(f'{path}: holds {count} pages or frames; give one image a file')


def _upright(image: Image.Image, picture: Image.Image) -> Image.Image:
    """The picture as EXIF's orientation says, read alone: other entries may be damaged."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # an unreadable EXIF block says nothing
        turn = None
    return picture if turn is None else picture.transpose(turn)


def to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Any Pillow mode to RGB: transparent parts on black (the background of medical images), grey in all channels."""
    if image.mode in DEEP_MODES:
        image = _deep_grey(image, path)
    elif image.mode == 'L' and getattr(image, 'tag_v2', {}).get(FORMAT_TAG, (1,))[0] == SIGNED:
        image = Image.fromarray(stretched(np.asarray(image).view(np.int8), path))
    if image.mode in ALPHA_MODES or 'transparency' in image.info:
        image = image.convert('RGBA')
        return Image.alpha_composite(Image.new('RGBA', image.size, 'black'), image).convert('RGB')
    return image if image.mode == 'RGB' else image.convert('RGB')


def damage(path: Path, error: Exception) -> BadInput:
    """What is wrong with a file that a reader cannot take, in words."""
    if not path.is_file():
        return BadInput(f'{path}: no such image; it was there when the dataset was listed')
    if isinstance(error, PermissionError):
        return BadInput(f'{path}: may not be read ({error.strerror}); mend its permissions or remove it')
    reason = ' '.join(str(error).split())
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return BadInput(
            f'{path}: is too large ({reason or "out of memory"}); make it smaller, or cut it into several images'
        )
    with path.open('rb') as file:
        start = file.read(16)
    if not start:
        fault = 'is empty'
    elif isinstance(error, Image.UnidentifiedImageError):
        for beginning, (kind, way) in OTHERS.items():
            if start.startswith(beginning):
                return BadInput(f'{path}: is {kind}; {way}')
        known = start.startswith((b'\x89PNG', b'\xff\xd8', b'GIF8', b'BM'))
        fault = 'is damaged at its beginning' if known else f'is not an image (it begins with {start!r})'
    elif 'truncated' in reason.lower() or isinstance(error, EOFError):
        fault = f'is cut off ({reason or "the end of the file is missing"})'
    else:
        fault = f'is damaged ({type(error).__name__}: {reason})'
    return BadInput(f'{path}: {fault}; fetch it again, or remove it (medpeft data check lists every such file)')


def read_image(path: Path, size: int, reduced_to: int = 0) -> np.ndarray:
    """Decode a file and resize the whole image to a square.

    JPEG files are decoded at the smallest of 1, 1/2, 1/4, 1/8 that still has twice the asked size (draft mode).

    Args:
        path: an image file of any format and mode that Pillow knows, a DICOM file (`dicom.py`), or a row of a NumPy
            archive (`arrays.py`).
        size: side of the square in pixels.
        reduced_to: a side to which larger images are reduced first; images of several resolutions then look alike.
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
    try:
        if arrays.is_row(path) or dicom.is_dicom(path):
            picture = arrays.read_row(path) if arrays.is_row(path) else dicom.read_dicom(path)
            return picture.info.get('dicom', picture.mode), picture.size, picture
        with Image.open(path) as image:
            _require_one_picture(image, path)
            mode, size = image.mode, image.size
            values = _deep_channels(image, path)
            if values is not None:
                return (
                    f'{mode} 16 bit',
                    size,
                    to_rgb(_upright(image, _from_channels(values, path, image.info.get('transparency'))), path),
                )
            if least:
                image.draft(None, (least, least))
            image.load()
            return mode, size, to_rgb(_upright(image, image), path)
    except BadInput:
        raise
    except Exception as error:  # readers of damaged files raise what they like
        raise damage(path, error) from error


def examine_image(path: Path, side: int) -> tuple[str, tuple[int, int], np.ndarray]:
    """Decode a file in full, once: its mode, its (width, height), and a small grey picture [side, side] uint8.

    Raises BadInput as `read_image` does.
    """
    mode, size, picture = _decoded(path)
    return mode, size, np.asarray(picture.convert('L').resize((side, side), Image.Resampling.BOX))
