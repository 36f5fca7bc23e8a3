"""One DICOM file to one 8-bit picture, as a viewer would show it.

Grey levels of a file with more than 8 bits are not for the eye as they are stored. In this order: the modality's
rescaling (RescaleSlope and RescaleIntercept, or its table); then the first window that the file names (WindowCenter and
WindowWidth, or its table); where it names none, values of up to 8 bits as they are, and deeper ones from the darkest to
the brightest pixel of the image, as for a 16-bit PNG. MONOCHROME1, in which 0 is white, is inverted after that.
Pixels of the padding value, or between it and the padding limit, become black. Elements that are there and empty count
as not there, and a slope of 0 as 1, as viewers take them. Files without the preamble of 128 bytes are read where they
hold a picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medpeft_utils.core.errors import BadInput

SUFFIXES = ('.dcm', '.dicom')
PICTURES = ('.png', '.jpg', '.jpeg', '.jfif', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.pgm', '.ppm', '.pnm')
GREY = ('MONOCHROME1', 'MONOCHROME2')
# What maps stored values to others
MAPPINGS = ('RescaleSlope', 'ModalityLUTSequence', 'WindowCenter', 'VOILUTSequence')
OPTIONAL = (*MAPPINGS, 'RescaleIntercept', 'WindowWidth', 'PixelPaddingValue', 'PixelPaddingRangeLimit')
PIXELS = {'PixelData': '', 'FloatPixelData': 'Float', 'DoubleFloatPixelData': 'DoubleFloat'}  # and their padding's name
LAYOUT = ('Rows', 'Columns', 'PhotometricInterpretation', 'SamplesPerPixel', 'BitsAllocated')
DEPTH = ('BitsStored', 'PixelRepresentation')  # of whole numbers


def is_dicom(path: Path) -> bool:
    """Whether a file is to be read as DICOM: by its name, or by its content where its name has no known ending."""
    if path.suffix.lower() in SUFFIXES:
        return True
    return path.suffix.lower() not in PICTURES and holds_dicom(path)


def holds_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM after its preamble; PACS export files without a suffix."""
    try:
        with path.open('rb') as file:
            return file.read(132)[128:] == b'DICM'
    except OSError:
        return False


def _damaged(path: Path, error: Exception) -> BadInput:
    reason = ' '.join(str(error).split())
    return BadInput(
        f'{path}: its pixels are cut off or damaged ({type(error).__name__}: {reason}); fetch it again, or remove it '
        '(medpeft data check lists every such file)'
    )


def _require_decoder(path: Path, syntax) -> None:
    """Raise BadInput where the pixels are stored in a way that no installed package can undo."""
    from pydicom.pixels import get_decoder

    if syntax.is_private:
        raise BadInput(
            f'{path}: its pixels are stored in the private transfer syntax {syntax} of a vendor; export it again as '
            'uncompressed DICOM or PNG'
        )
    if not syntax.is_compressed:
        return
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


def _read(path: Path):
    """The elements of a file, empty ones that describe its grey levels left out. Raises what pydicom raises."""
    import pydicom
    from pydicom.errors import InvalidDicomError
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    try:
        found = pydicom.dcmread(path)
    except InvalidDicomError:  # no preamble; anything may look like elements then, so that it must hold a picture
        found = pydicom.dcmread(path, force=True)
        if 'Rows' not in found or not any(name in found for name in PIXELS):
            raise
    if 'TransferSyntaxUID' not in found.file_meta:
        implicit, little = found.original_encoding
        plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        found.file_meta.TransferSyntaxUID = plain if little else ExplicitVRBigEndian
    slope, intercept = found.get('RescaleSlope'), found.get('RescaleIntercept')
    if _is_empty(slope) != _is_empty(intercept) or slope == 0:
        found.RescaleSlope, found.RescaleIntercept = slope or 1, 0 if _is_empty(intercept) else intercept
    for name in OPTIONAL:
        if name in found and (
            _is_empty(found.get(name)) or (name.endswith('LUTSequence') and not _is_table(found, name))
        ):
            delattr(found, name)
    return found


def _is_empty(value) -> bool:
    return value is None or (hasattr(value, '__len__') and len(value) == 0)


def _is_table(found, name: str) -> bool:
    item = found[name].value[0]
    return not (_is_empty(item.get('LUTDescriptor')) or _is_empty(item.get('LUTData')))


def _frames(found) -> int:
    value = found.get('NumberOfFrames')
    return int(value if isinstance(value, str | int | float) else next(iter(value or ()), 1) or 1)


def _opened(path: Path):
    """The file's header with its pixels not yet decoded. Raises BadInput where it is not one picture."""
    from pydicom.errors import InvalidDicomError

    try:
        found = _read(path)
        needed = (*LAYOUT, *(DEPTH if 'PixelData' in found else ()))
        missing = [name for name in needed if _is_empty(found.get(name))]
        frames = _frames(found)
    except InvalidDicomError as error:
        with path.open('rb') as file:
            start = file.read(16)
        fault = f'is not a DICOM file (it begins with {start!r})' if start else 'is empty'
        raise BadInput(f'{path}: {fault}; fetch it again, or remove it') from error
    except Exception as error:  # a damaged header raises what it likes
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise _damaged(path, error) from error
    if not any(name in found for name in PIXELS):
        kind = f' ({found.Modality})' if found.get('Modality') else ''
        raise BadInput(f'{path}: a DICOM file without pixels{kind}; it may be cut off, or a report: remove it')
    if missing:
        raise BadInput(f'{path}: a DICOM file without {", ".join(missing)}, so that its pixels cannot be laid out')
    if frames > 1:
        raise BadInput(f'{path}: holds {frames} frames; give one image a file')
    kind = found.PhotometricInterpretation = str(found.PhotometricInterpretation).upper()
    if kind not in (*GREY, 'RGB', 'PALETTE COLOR') and not kind.startswith('YBR'):
        raise BadInput(
            f'{path}: its pixels are in {kind}, which is neither grey nor RGB; export it again as one of them'
        )
    _require_decoder(path, found.file_meta.TransferSyntaxUID)
    return found


def _first(found, name: str) -> float | None:
    """The first value of an element that may have several, or none."""
    value = found.get(name)
    if isinstance(value, bytes):  # of an element whose type is not said
        value = int.from_bytes(value[:2], 'little' if found.original_encoding[1] else 'big')
    if _is_empty(value):
        return None
    try:
        number = float(value if np.isscalar(value) else value[0])
    except ValueError:  # '1,5'
        number = np.nan
    if not np.isfinite(number):
        raise BadInput(f'{found.filename}: its {name} is {value!r}, no number; mend it, or take it out of the file')
    return number


def _window(found, values: np.ndarray) -> np.ndarray | None:
    """Values [H, W] to 0..1 by the file's window or table (DICOM PS3.3, C.11.2.1); None where it names none."""
    centre, width = _first(found, 'WindowCenter'), _first(found, 'WindowWidth')
    kind = found.get('VOILUTFunction') or 'LINEAR'
    if centre is not None and width is not None and width > 0 and (width >= 1 or kind != 'LINEAR'):
        if kind == 'SIGMOID':
            return 1 / (1 + np.exp(-4 * (values - centre) / width))
        if kind == 'LINEAR':
            centre, width = centre - 0.5, max(width - 1, 1e-6)
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if found.get('VOILUTSequence'):
        return _looked_up(values, found.VOILUTSequence[0]) / (2.0 ** int(found.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    return None


def _looked_up(values: np.ndarray, item) -> np.ndarray:
    """Values by a table of the file (DICOM PS3.3, C.11.1.1.1): what lies outside takes its first or last entry."""
    length, first, bits = (int(value) for value in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, dtype='<u2' if bits > 8 or len(data) >= 2 * (length or 65536) else 'u1')
    table = np.atleast_1d(np.asarray(data)).astype(np.float64)[: length or 65536]
    return table[np.clip(values.astype(np.int64) - first, 0, len(table) - 1)]


def _modality(found, stored: np.ndarray) -> np.ndarray:
    """[H, W] what the modality's table or rescaling makes of stored values."""
    if found.get('ModalityLUTSequence'):
        return _looked_up(stored, found.ModalityLUTSequence[0])
    if 'RescaleSlope' in found and 'RescaleIntercept' in found:
        return stored.astype(np.float64) * _first(found, 'RescaleSlope') + _first(found, 'RescaleIntercept')
    return stored.astype(np.float64)


def _padding(found, stored: np.ndarray) -> np.ndarray:
    """[H, W] which pixels hold the padding value, or one between it and the limit (DICOM PS3.3, C.7.5.1.1.2).

    A value of the other sign is meant by its 16 bits, as many programs write it; one of more bits than are stored is
    looked for in all bits that the file holds.
    """
    from pydicom.pixels import pixel_array

    kind = next(name for pixels, name in PIXELS.items() if pixels in found)
    value, limit = (_first(found, f'{kind}PixelPadding{end}') for end in ('Value', 'RangeLimit'))
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    ends = [value, value if limit is None else limit]
    if stored.dtype in (np.int16, np.uint16):
        ends = np.array([int(end) & 0xFFFF for end in ends], dtype=np.uint16).view(stored.dtype).tolist()
        least = -(2 ** (found.BitsStored - 1)) if found.PixelRepresentation else 0
        if not all(least <= end < least + 2**found.BitsStored for end in ends):
            stored = pixel_array(found, correct_unused_bits=False)
    return (stored >= min(ends)) & (stored <= max(ends))


def _grey(found, stored: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """[H, W] stored values to 8 bits, before MONOCHROME1 is inverted."""
    if stored.dtype == np.uint8 and not any(name in found for name in MAPPINGS) and found.get('BitsStored') == 8:
        return stored  # nothing is to be done, which in float would take three times as long as decoding
    values = _modality(found, stored)
    shares = _window(found, values)
    bits = int(found.get('BitsStored') or 16)
    plain = not found.get('PixelRepresentation') and (values == stored).all()
    if shares is None and bits <= 8 and plain:
        shares = stored / (2.0**bits - 1)
    elif shares is None:
        shown = values[~padding]
        low, high = (shown.min(), shown.max()) if shown.size else (0, 0)
        shares = (values - low) / (high - low) if high > low else np.zeros(values.shape)
    return (np.clip(shares, 0, 1) * 255).round().astype(np.uint8)


def _decoded(found, path: Path) -> Image.Image:
    """The picture of an opened file."""
    stored, photometric = found.pixel_array, found.PhotometricInterpretation
    if not np.isfinite(stored).all():
        raise BadInput(f'{path}: holds pixels that are no number (NaN or infinite); mend or remove it')
    if photometric not in GREY:
        return _colour(found, stored, path)
    if stored.ndim > 2:
        raise BadInput(
            f'{path}: its pixels are of shape {stored.shape}, more than {found.Rows} rows; give one image a file'
        )
    padding = _padding(found, stored)
    grey = _grey(found, stored, padding)
    if photometric == 'MONOCHROME1':
        grey = 255 - grey
    return Image.fromarray(np.where(padding, 0, grey).astype(np.uint8))


def read_dicom(path: Path) -> Image.Image:
    """The picture of a DICOM file: mode L, or RGB where it is in colour; its `info['dicom']` tells how it is stored.

    Raises BadInput: no DICOM, without pixels, several frames, cut off, or compressed in a way that needs a package
    that is not installed; the message names the file and that package.
    """
    try:
        found = _opened(path)
        picture = _decoded(found, path)
    except (BadInput, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # the decoders raise what they like
        raise _damaged(path, error) from error
    picture.info['dicom'] = f'DICOM {found.PhotometricInterpretation} {found.get("BitsStored", "?")} bit'
    return picture


def _colour(found, stored: np.ndarray, path: Path) -> Image.Image:
    """[H, W, 3] stored values of a file in colour, which pydicom gives as RGB."""
    from pydicom.pixels import apply_color_lut

    bits = int(found.get('BitsStored') or 16)
    if found.PhotometricInterpretation == 'PALETTE COLOR':
        stored = apply_color_lut(stored, found)
        bits = 16 if stored.max() > 255 else 8  # some write 8 bits into a table of 16
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise BadInput(f'{path}: pixels in {found.PhotometricInterpretation}, which is neither grey nor RGB')
    if stored.dtype.itemsize == 1:
        return Image.fromarray(stored.astype(np.uint8))
    low, high = 0.0, 2.0**bits - 1
    if bits > 8 and found.PhotometricInterpretation != 'PALETTE COLOR':  # as deep grey (`decode.stretched`)
        low, high = float(stored.min()), float(stored.max())
    shares = (stored - low) / max(high - low, 1)
    return Image.fromarray((shares.clip(0, 1) * 255).round().astype(np.uint8))
