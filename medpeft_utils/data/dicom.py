"""One DICOM file to one 8-bit picture, as a viewer would show it.

Grey levels of a file with more than 8 bits are not for the eye as they are stored. In this order: the modality's
rescaling (RescaleSlope and RescaleIntercept, or its table); then the first window that the file names (WindowCenter and
WindowWidth, or its table); where it names none, values of up to 8 bits as they are, and deeper ones from the darkest to
the brightest pixel of the image, as for a 16-bit PNG. MONOCHROME1, in which 0 is white, is inverted after that.
Pixels of the padding value become black.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medpeft_utils.core.errors import BadInput

SUFFIXES = ('.dcm', '.dicom')
GREY = ('MONOCHROME1', 'MONOCHROME2')
# What maps stored values to others
MAPPINGS = ('RescaleSlope', 'ModalityLUTSequence', 'WindowCenter', 'VOILUTSequence')
PIXELS = ('PixelData', 'FloatPixelData', 'DoubleFloatPixelData')


def is_dicom(path: Path) -> bool:
    """Whether a file is to be read as DICOM, by its name."""
    return path.suffix.lower() in SUFFIXES


def _damaged(path: Path, error: Exception) -> BadInput:
    said = ' '.join(str(error).split())
    return BadInput(
        f'{path}: its pixels are cut off or damaged ({type(error).__name__}: {said}); fetch it again, or remove it '
        '(medpeft data check lists every such file)'
    )


def _require_decoder(path: Path, syntax) -> None:
    """Raise BadInput where the pixels are compressed in a way that no installed package can undo."""
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise BadInput(
            f'{path}: its pixels are stored as {syntax.name} ({syntax}), which pydicom cannot read'
        ) from error
    if not decoder.is_available:
        needed = decoder.missing_dependencies[-1].partition(' requires ')[2]  # GDCM first, what pip installs last
        raise BadInput(
            f'{path}: its pixels are compressed as {syntax.name}, for which a package is missing: install {needed}, '
            'or decompress the files'
        )


def _opened(path: Path):
    """The file's header with its pixels not yet decoded. Raises BadInput where it is not one picture."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        found = pydicom.dcmread(path)
        missing = [name for name in ('Rows', 'Columns', 'PhotometricInterpretation') if name not in found]
        frames = int(found.get('NumberOfFrames') or 1)
    except InvalidDicomError as error:
        with path.open('rb') as file:
            start = file.read(16)
        said = f'is not a DICOM file (it begins with {start!r})' if start else 'is empty'
        raise BadInput(f'{path}: {said}; fetch it again, or remove it') from error
    except (OSError, EOFError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        if not path.is_file():
            raise BadInput(f'{path}: no such image; it was there when the dataset was listed') from error
        raise _damaged(path, error) from error
    if not any(name in found for name in PIXELS):
        kind = f' ({found.Modality})' if found.get('Modality') else ''
        raise BadInput(f'{path}: a DICOM file without pixels{kind}; it may be cut off, or a report: remove it')
    if missing:
        raise BadInput(f'{path}: a DICOM file without {", ".join(missing)}, so that its pixels cannot be laid out')
    if frames > 1:
        raise BadInput(f'{path}: holds {frames} frames; give one image a file')
    syntax = getattr(getattr(found, 'file_meta', None), 'TransferSyntaxUID', None)
    if syntax is None:
        raise BadInput(f'{path}: a DICOM file that does not tell its transfer syntax; write it again with one')
    if syntax.is_compressed:
        _require_decoder(path, syntax)
    return found


def _first(found, name: str) -> float | None:
    """The first value of an element that may have several, or none."""
    value = found.get(name)
    if value is None or value == '':
        return None
    return float(value) if np.isscalar(value) else float(value[0]) if len(value) else None


def _window(found, values: np.ndarray) -> np.ndarray | None:
    """Values [H, W] to 0..1 by the file's window or table (DICOM PS3.3, C.11.2.1); None where it names none."""
    centre, width = _first(found, 'WindowCenter'), _first(found, 'WindowWidth')
    if centre is not None and width is not None and width >= 1:
        kind = found.get('VOILUTFunction') or 'LINEAR'
        if kind == 'SIGMOID':
            return 1 / (1 + np.exp(-4 * (values - centre) / width))
        if kind == 'LINEAR':
            centre, width = centre - 0.5, max(width - 1, 1e-6)
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if found.get('VOILUTSequence'):
        from pydicom.pixels import apply_voi

        return apply_voi(values.astype(np.int64), found) / (2.0 ** int(found.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    return None


def _grey(found, stored: np.ndarray) -> np.ndarray:
    """[H, W] stored values to 8 bits, before MONOCHROME1 is inverted."""
    from pydicom.pixels import apply_modality_lut

    if stored.dtype == np.uint8 and not any(name in found for name in MAPPINGS) and found.get('BitsStored') == 8:
        return stored  # nothing is to be done, which in float would take three times as long as decoding
    values = np.asarray(apply_modality_lut(stored, found), dtype=np.float64)
    shares = _window(found, values)
    bits = int(found.get('BitsStored') or 16)
    plain = not found.get('PixelRepresentation') and (values == stored).all()
    if shares is None and bits <= 8 and plain:
        shares = stored / (2.0**bits - 1)
    elif shares is None:
        shown = values[stored != found.PixelPaddingValue] if 'PixelPaddingValue' in found else values
        low, high = (shown.min(), shown.max()) if shown.size else (0, 0)
        shares = (values - low) / (high - low) if high > low else np.zeros(values.shape)
    return (np.clip(shares, 0, 1) * 255).round().astype(np.uint8)


def _decoded(found, path: Path) -> Image.Image:
    """The picture of an opened file."""
    stored, photometric = found.pixel_array, found.PhotometricInterpretation
    if photometric not in GREY:
        return _colour(found, stored, path)
    grey = _grey(found, stored)
    if photometric == 'MONOCHROME1':
        grey = 255 - grey
    if 'PixelPaddingValue' in found:
        grey = np.where(stored == found.PixelPaddingValue, 0, grey).astype(np.uint8)
    return Image.fromarray(grey)


def read_dicom(path: Path) -> Image.Image:
    """The picture of a DICOM file: mode L, or RGB where it is in colour; its `info['dicom']` tells how it is stored.

    Raises BadInput: no DICOM, without pixels, several frames, cut off, or compressed in a way that needs a package
    that is not installed; the message names the file and that package.
    """
    found = _opened(path)
    try:
        picture = _decoded(found, path)
    except BadInput:
        raise
    except Exception as error:  # the decoders raise what they like
        raise _damaged(path, error) from error
    picture.info['dicom'] = f'DICOM {found.PhotometricInterpretation} {found.get("BitsStored", "?")} bit'
    return picture


def _colour(found, stored: np.ndarray, path: Path) -> Image.Image:
    """[H, W, 3] stored values of a file in colour, which pydicom gives as RGB."""
    from pydicom.pixels import apply_color_lut

    if found.PhotometricInterpretation == 'PALETTE COLOR':
        stored = apply_color_lut(stored, found)
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise BadInput(f'{path}: pixels in {found.PhotometricInterpretation}, which is neither grey nor RGB')
    depth = int(stored.dtype.itemsize * 8)
    return Image.fromarray((stored >> (depth - 8)).astype(np.uint8) if depth > 8 else stored.astype(np.uint8))
