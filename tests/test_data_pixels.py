"""A pixel means the same in every format, and whatever a damaged file does it is one line: on drawn pictures."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from tiny_datasets import make_own
from tiny_sources import write_dicom

from medpeft_utils.core.errors import BadInput
from medpeft_utils.data import decode
from medpeft_utils.data.check import check

FUZZ = int(os.environ.get('MEDPEFT_FUZZ', 600))
RAMP = np.linspace(0, 255, 32 * 32).reshape(32, 32)
DEEP = (RAMP / 255 * 4095).round().astype(np.uint16)  # 12 bits, as radiographs have them
EMPTY = np.zeros((32, 32), dtype=bool)
EMPTY[:4] = True


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def png(values: np.ndarray, filtering: int | None = None) -> bytes:
    """A PNG of [H, W, C] 16-bit values by the standard's own words (ISO 15948), rows filtered in turn where None."""
    height, width, channels = values.shape
    step = 2 * channels
    rows = np.frombuffer(values.astype('>u2').tobytes(), np.uint8).reshape(height, -1).astype(int)
    content = b''
    for y, row in enumerate(rows):
        up = rows[y - 1] if y else np.zeros_like(row)
        left, corner = (np.concatenate([np.zeros(step, int), line[:-step]]) for line in (row, up))
        far = [abs(left + up - corner - one) for one in (left, up, corner)]
        paeth = np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], up, corner))
        kind = y % 5 if filtering is None else filtering
        guess = (0, left, up, (left + up) // 2, paeth)[kind]
        content += bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes()

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))

    header = struct.pack('>IIBBBBB', width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    pixels = zlib.compress(content)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')


def tiff(values: np.ndarray, order: str = '<') -> bytes:
    """An uncompressed TIFF of [H, W, C] 16-bit values in either byte order."""
    height, width, channels = values.shape
    pixels = values.astype(f'{order}u2').tobytes()
    bits = 8 + len(pixels)
    short, long = 3, 4
    entries = [(256, long, 1, width), (257, long, 1, height), (258, short, channels, bits), (259, short, 1, 1),
               (262, short, 1, 2), (273, long, 1, 8), (277, short, 1, channels), (278, long, 1, height),
               (279, long, 1, len(pixels))]  # fmt: skip
    content = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(f'{order}I', bits + 2 * channels) + pixels
    content += struct.pack(f'{order}{channels}H', *[16] * channels) + struct.pack(f'{order}H', len(entries))
    for tag, kind, count, value in entries:
        packed = ('HH', value, 0) if kind == short and count == 1 else ('I', value)
        content += struct.pack(f'{order}HHI', tag, kind, count) + struct.pack(order + packed[0], *packed[1:])
    return content + struct.pack(f'{order}I', 0)


COLOUR = np.stack([DEEP] * 3, axis=2)
OPAQUE = np.full((32, 32, 1), 4095, np.uint16)
FORMATS = {
    'grey PNG, 8 bits': ('.png', encoded(Image.fromarray(RAMP.round().astype(np.uint8)), 'PNG')),
    'grey PNG, 16 bits': ('.png', encoded(Image.fromarray(DEEP), 'PNG')),
    'grey TIFF, 16 bits': ('.tif', encoded(Image.fromarray(DEEP), 'TIFF')),
    'grey TIFF, float': ('.tif', encoded(Image.fromarray((DEEP / 7).astype(np.float32)), 'TIFF')),
    'PGM, 16 bits': ('.pgm', b'P5 32 32 65535\n' + DEEP.astype('>u2').tobytes()),
    'PPM, 16 bits': ('.ppm', b'P6 32 32 65535\n' + COLOUR.astype('>u2').tobytes()),
    'LA PNG, 16 bits': ('.png', png(np.dstack([DEEP, OPAQUE]))),
    'RGB PNG, 16 bits': ('.png', png(COLOUR)),
    'RGBA PNG, 16 bits': ('.png', png(np.dstack([COLOUR, OPAQUE]))),
    'RGB TIFF, 16 bits': ('.tif', tiff(COLOUR)),
    'RGB TIFF, 16 bits, big end first': ('.tif', tiff(COLOUR, '>')),
}


@pytest.mark.parametrize('kind', FORMATS)
def test_twelve_bits_are_the_same_picture_in_every_format(tmp_path, kind):
    suffix, content = FORMATS[kind]
    path = tmp_path / f'a{suffix}'
    path.write_bytes(content)
    picture = decode.read_image(path, 32).astype(int)
    assert np.abs(picture - RAMP[..., None]).max() <= 1.5 and picture.max() == 255
    assert np.abs(decode.examine_image(path, 32)[2] - RAMP).max() <= 1.5


@pytest.mark.parametrize('filtering', range(5))
@pytest.mark.parametrize('channels', [2, 3, 4])
def test_all_sixteen_bits_of_a_png_are_read(tmp_path, channels, filtering):
    values = np.random.default_rng(channels).integers(0, 65536, (9, 11, channels)).astype(np.uint16)
    (tmp_path / 'a.png').write_bytes(png(values, filtering))
    with Image.open(tmp_path / 'a.png') as image:
        assert (decode._deep_channels(image, tmp_path / 'a.png') == values).all()


def test_colours_are_stretched_alike(tmp_path):
    values = np.dstack([DEEP, DEEP // 2, DEEP // 4])
    for name, content in (('a.png', png(values)), ('b.tif', tiff(values))):
        (tmp_path / name).write_bytes(content)
        picture = decode.read_image(tmp_path / name, 32).astype(float)
        assert np.abs(picture - np.dstack([RAMP, RAMP / 2, RAMP / 4])).max() <= 1.5
    path = write_dicom(tmp_path / 'c.dcm', values, photometric='RGB', bits=12)
    assert np.abs(decode.read_image(path, 32) - np.dstack([RAMP, RAMP / 2, RAMP / 4])).max() <= 1.5


def test_transparent_pixels_do_not_stretch_and_are_black(tmp_path):
    values = np.dstack([np.where(EMPTY, 65535, DEEP), np.where(EMPTY, 0, 65535)]).astype(np.uint16)
    (tmp_path / 'a.png').write_bytes(png(values))
    picture = decode.read_image(tmp_path / 'a.png', 32)[..., 0]
    assert (picture[EMPTY] == 0).all() and picture.max() == 255 and picture[4:].min() <= 1


@pytest.mark.parametrize('nothing', [-9999.0, -99999.0, float(np.finfo(np.float32).min)])
def test_pixels_without_data_do_not_stretch_and_are_black(tmp_path, nothing):
    values = np.where(EMPTY, nothing, RAMP / 255).astype(np.float32)
    Image.fromarray(values).save(tmp_path / 'a.tif')
    picture = decode.read_image(tmp_path / 'a.tif', 32)[..., 0].astype(float)
    assert (picture[EMPTY] == 0).all() and picture.max() == 255 and np.ptp(picture[4:]) > 250
    tags = Image.fromarray(np.where(EMPTY, 777, RAMP).astype(np.float32)), {decode.NO_DATA_TAG: '777'}
    tags[0].save(tmp_path / 'b.tif', tiffinfo=tags[1])
    assert (decode.read_image(tmp_path / 'b.tif', 32)[EMPTY] == 0).all()
    assert decode.read_image(tmp_path / 'b.tif', 32).max() == 255


@pytest.mark.parametrize('kind', ['GIF', 'PNG', 'WEBP', 'TIFF'])
def test_several_pages_or_frames_are_refused(tmp_path, kind):
    pages = [Image.fromarray(np.full((32, 32), 80 * i, np.uint8)) for i in range(3)]
    path = tmp_path / f'a.{kind.lower()}'
    pages[0].save(path, kind, save_all=True, append_images=pages[1:])
    with pytest.raises(BadInput, match=r'a\.\w+: holds 3 pages or frames; give one image a file'):
        decode.read_image(path, 16)
    pages[0].save(path, kind)
    assert decode.read_image(path, 16).max() == 0


def test_a_preview_within_a_tiff_is_no_page(tmp_path):
    picture = Image.fromarray(RAMP.astype(np.uint8))
    small = picture.resize((8, 8))
    small.encoderinfo = {'tiffinfo': {decode.SUBFILE_TAG: 1}}
    picture.save(tmp_path / 'a.tif', save_all=True, append_images=[small])
    assert np.abs(decode.read_image(tmp_path / 'a.tif', 32) - RAMP[..., None]).max() <= 1


def test_white_is_zero_and_signed_bytes_of_a_tiff(tmp_path):
    content = encoded(Image.fromarray(4095 - DEEP), 'TIFF')
    entry = struct.pack('<HHIHH', 262, 3, 1, 1, 0)
    assert entry in content
    (tmp_path / 'white.tif').write_bytes(content.replace(entry, struct.pack('<HHIHH', 262, 3, 1, 0, 0)))
    signed = Image.fromarray((RAMP // 2 - 64).astype(np.int8).view(np.uint8))
    (tmp_path / 'signed.tif').write_bytes(encoded(signed, 'TIFF', tiffinfo={339: 2}))
    for name in ('white.tif', 'signed.tif'):
        assert np.abs(decode.read_image(tmp_path / name, 32)[..., 0] - RAMP).max() <= 2.5, name


@pytest.mark.parametrize('channels', [1, 3])
def test_a_colour_without_data_in_sixteen_bits_is_black_and_does_not_stretch(tmp_path, channels):
    values = np.dstack([DEEP] * 3)
    values[EMPTY] = 60000
    content = png(values) if channels == 3 else encoded(Image.fromarray(values[..., 0].copy()), 'PNG')
    said = b'tRNS' + struct.pack(f'>{channels}H', *[60000] * channels)
    start = content.index(b'IDAT') - 4
    chunk = struct.pack('>I', len(said) - 4) + said + struct.pack('>I', zlib.crc32(said))
    (tmp_path / 'a.png').write_bytes(content[:start] + chunk + content[start:])
    picture = decode.read_image(tmp_path / 'a.png', 32)[..., 0]
    assert (picture[EMPTY] == 0).all() and picture.max() == 255 and picture[4, 0] == 0 and 100 < picture.mean() < 130


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:abc\n', 'is a pointer of Git LFS .*git lfs pull'),
        (b'<!DOCTYPE html><html>404</html>', 'is a web page'),
        (b'%PDF-1.7\n', 'is a PDF; save its image as PNG'),
        (b'II*\0\x08\0\0\0\0\0', 'is a TIFF that is damaged, or of a kind that is not read'),
        (b'\x89PNG\r\n\x1a\n', 'is damaged at its beginning'),
        (bytes(100), 'is not an image'),
        (b'P3 1 1 4095\n1 2 3\n', 'a PPM in colour with 16 bits as text is not read'),
    ],
)
def test_what_is_no_image_is_called_what_it_is(tmp_path, content, words):
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(BadInput, match=rf'a\.png: {words}'):
        decode.read_image(tmp_path / 'a.png', 16)


@pytest.mark.parametrize('turn', range(1, 9))
def test_orientation_is_read_alone(tmp_path, turn):
    exif = Image.Exif()
    exif[decode.ORIENTATION] = turn
    Image.fromarray(RAMP.astype(np.uint8)[:, :20]).save(tmp_path / 'a.jpg', exif=exif, quality=95)
    with Image.open(tmp_path / 'a.jpg') as image:
        expected = np.asarray(ImageOps.exif_transpose(image).resize((32, 32), Image.Resampling.BICUBIC))
    assert (decode.read_image(tmp_path / 'a.jpg', 32)[..., 0] == expected).all()
    content = (tmp_path / 'a.jpg').read_bytes()
    harmed = content.replace(b'II*\0\x08\0\0\0\x01\0', b'II*\0\x08\0\0\0\x02\0')  # one entry more than there is
    (tmp_path / 'b.jpg').write_bytes(harmed)
    assert decode.read_image(tmp_path / 'b.jpg', 32).shape == (32, 32, 3)


def test_pictures_of_one_grey_value_are_a_remark(tmp_path):
    make_own(tmp_path)
    Image.new('RGBA', (20, 20), (200, 10, 10, 0)).save(tmp_path / 'class 0' / 'clear.png')
    Image.new('L', (20, 20), 77).save(tmp_path / 'class 1' / 'grey.png')
    assert "2 image(s) are of one grey value all over ('class 0/clear.png')" in ' '.join(check(tmp_path).remarks)


def test_too_large_is_said_to_be_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 300)
    Image.new('L', (40, 40)).save(tmp_path / 'a.png')
    with pytest.raises(BadInput, match=r'a\.png: is too large \(.*make it smaller'):
        decode.read_image(tmp_path / 'a.png', 16)


# ---- DICOM --------------------------------------------------------------------------------------------------------


def test_empty_elements_of_a_dicom_count_as_not_there(tmp_path):
    plain = decode.read_image(write_dicom(tmp_path / 'plain.dcm', DEEP, bits=12), 32)
    empty = {
        'rescale': {'RescaleSlope': None, 'RescaleIntercept': None},
        'window': {'WindowCenter': None, 'WindowWidth': None},
        'tables': {'VOILUTSequence': [], 'ModalityLUTSequence': []},
        'padding': {'PixelPaddingValue': None},
        'frames': {'NumberOfFrames': None},
        'slope': {'RescaleSlope': None, 'RescaleIntercept': -1024},
    }
    for name, elements in empty.items():
        path = write_dicom(tmp_path / f'{name}.dcm', DEEP, bits=12, **elements)
        assert (decode.read_image(path, 32) == plain).all(), name


def test_padding_ranges_do_not_stretch_and_are_black(tmp_path):
    for name, low, high in (('a', 30000, 30005), ('b', 30005, 30000), ('c', 30003, None)):
        values = DEEP.copy()
        values[:4] = 30003
        limit = {} if high is None else {'PixelPaddingRangeLimit': high}
        path = write_dicom(tmp_path / f'{name}.dcm', values, PixelPaddingValue=low, **limit)
        picture = decode.read_image(path, 32)
        assert (picture[:4] == 0).all() and picture.max() == 255, name


@pytest.mark.parametrize(
    ('kind', 'value', 'limit', 'bits'),
    [
        ('SS', -2000, None, 16),
        ('US', 63536, None, 16),  # its 16 bits, written as if it had no sign
        ('SS', -2010, -1500, 16),
        ('US', 64036, 63526, 16),
        ('OB', np.int16(-2000).tobytes(), None, 16),
        ('US', 32768, None, 12),  # outside of the 12 bits that are stored
    ],
)
def test_padding_of_signed_pixels_is_black_and_does_not_stretch(tmp_path, kind, value, limit, bits):
    import pydicom

    values = np.tile(np.linspace(-1000, 1000, 32), (32, 1)).round().astype(np.int16)
    expected = ((values + 1000) / 2000 * 255).round()
    values[:4], expected[:4] = (-2000 if bits == 16 else -32768), 0
    path = write_dicom(tmp_path / 'a.dcm', values, bits=bits, PixelRepresentation=1)
    found = pydicom.dcmread(path)
    found.add_new('PixelPaddingValue', kind, value)
    if limit is not None:
        found.add_new('PixelPaddingRangeLimit', kind, limit)
    found.save_as(path)
    assert (decode.read_image(path, 32)[..., 0] == expected).all()


def test_a_slope_of_zero_is_none_and_what_is_no_number_is_named(tmp_path):
    plain = decode.read_image(write_dicom(tmp_path / 'plain.dcm', DEEP), 32)
    zero = write_dicom(tmp_path / 'zero.dcm', DEEP, RescaleSlope=0, RescaleIntercept=5)
    assert (decode.read_image(zero, 32) == plain).all()
    for number, text in ((1.5, b'1,5 '), (2.5, b'NaN ')):
        path = write_dicom(tmp_path / 'a.dcm', DEEP, RescaleSlope=number, RescaleIntercept=0)
        path.write_bytes(path.read_bytes().replace(f'{number} '.encode(), text))
        with pytest.raises(BadInput, match=r'a\.dcm: its RescaleSlope is .*, no number'):
            decode.read_image(path, 16)
    for name in ('SamplesPerPixel', 'BitsStored', 'PixelRepresentation', 'Rows'):
        path = write_dicom(tmp_path / 'a.dcm', DEEP, **{name: None})
        with pytest.raises(BadInput, match=f'a DICOM file without {name}, so that its pixels cannot be laid out'):
            decode.read_image(path, 16)


def test_eight_bits_of_colour_are_as_they_are_however_stored(tmp_path):
    import pydicom

    dim = np.dstack([RAMP // 2] * 3)
    assert (decode.read_image(write_dicom(tmp_path / 'a.dcm', dim.astype(np.uint16), 'RGB', bits=8), 32) == dim).all()
    path = write_dicom(tmp_path / 'b.dcm', (RAMP // 2).astype(np.uint8), 'PALETTE COLOR')
    found = pydicom.dcmread(path)
    for colour in ('Red', 'Green', 'Blue'):
        found.add_new(f'{colour}PaletteColorLookupTableDescriptor', 'US', [256, 0, 16])
        found.add_new(f'{colour}PaletteColorLookupTableData', 'OW', (np.arange(256) * 257).astype('<u2').tobytes())
    found.save_as(path)
    assert (decode.read_image(path, 32) == dim).all()


def test_a_table_of_twelve_bits_is_followed(tmp_path):
    import pydicom

    item = pydicom.Dataset()
    item.add_new('LUTDescriptor', 'US', [4096, 0, 12])
    item.add_new('ModalityLUTType', 'LO', 'US')
    item.add_new('LUTData', 'OW', (4095 - np.arange(4096)).astype('<u2').tobytes())
    path = write_dicom(tmp_path / 'a.dcm', DEEP, bits=12, ModalityLUTSequence=[item])
    assert np.abs(decode.read_image(path, 32)[..., 0] - (255 - RAMP)).max() <= 1.5


def test_dicom_without_preamble_or_suffix_is_read(tmp_path):
    content = write_dicom(tmp_path / 'a.dcm', DEEP, bits=12).read_bytes()
    plain = decode.read_image(tmp_path / 'a.dcm', 32)
    (tmp_path / 'b.dcm').write_bytes(content[132:])
    (tmp_path / 'IM0001').write_bytes(content)
    assert (decode.read_image(tmp_path / 'b.dcm', 32) == plain).all()
    assert (decode.read_image(tmp_path / 'IM0001', 32) == plain).all()
    for label in 'ab':
        for i in range(4):
            folder = tmp_path / 'pacs' / label
            folder.mkdir(parents=True, exist_ok=True)
            write_dicom(folder / 'x.dcm', np.roll(DEEP, 100 * i + (label == 'b')), bits=12).rename(folder / f'IM{i}')
    assert check(tmp_path / 'pacs').images == 8


def test_odd_dicoms_are_one_line_each(tmp_path):
    private = write_dicom(tmp_path / 'a.dcm', DEEP, bits=12)
    content = private.read_bytes()
    private.write_bytes(content.replace(b'1.2.840.10008.1.2.1\0', b'1.2.840.113619.5.2\0\0'))
    with pytest.raises(BadInput, match=r'private transfer syntax 1\.2\.840\.113619\.5\.2'):
        decode.read_image(private, 16)
    content = write_dicom(tmp_path / 'b.dcm', DEEP, bits=12).read_bytes()
    (tmp_path / 'b.dcm').write_bytes(content.replace(b'\x02\0\0\0UL\4\0', b'\x02\0\0\0UL\3\0', 1))
    with pytest.raises(BadInput, match=r'b\.dcm: .*damaged'):
        decode.read_image(tmp_path / 'b.dcm', 16)
    frames = write_dicom(tmp_path / 'c.dcm', DEEP, NumberOfFrames=3)
    with pytest.raises(BadInput, match='holds 3 frames'):
        decode.read_image(frames, 16)


# ---- damaged files ------------------------------------------------------------------------------------------------


def _harmed(content: bytes, generator: np.random.Generator) -> bytes:
    """Cut off, bytes changed anywhere or in the header, or a stretch put in place of another."""
    harmed, kind = bytearray(content), generator.integers(4)
    if kind == 0:
        return bytes(harmed[: generator.integers(len(harmed))])
    if kind == 3:
        start = generator.integers(len(harmed))
        harmed[start : start + generator.integers(1, 40)] = generator.bytes(generator.integers(40))
        return bytes(harmed)
    for _ in range(generator.integers(1, 6)):
        harmed[generator.integers(len(harmed) if kind == 1 else min(len(harmed), 300))] = generator.integers(256)
    return bytes(harmed)


def test_damaged_files_are_a_line_each_and_never_a_traceback(tmp_path, monkeypatch):
    """MEDPEFT_FUZZ files; 20,000 have been tried."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1_000_000)  # no time for headers that announce a large picture
    generator = np.random.default_rng(int(os.environ.get('MEDPEFT_FUZZ_SEED', 0)))
    noise = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    sound = [(suffix, content) for suffix, content in FORMATS.values()]
    sound += [(f'.{kind.lower()}', encoded(noise, kind)) for kind in ('JPEG', 'BMP', 'WEBP', 'GIF', 'TIFF')]
    sound += [('.tif', encoded(noise, 'TIFF', compression=kind)) for kind in ('tiff_lzw', 'jpeg', 'packbits')]
    sound += [
        ('.dcm', write_dicom(tmp_path / 'a.dcm', DEEP, bits=12, WindowCenter=9, WindowWidth=9, **more).read_bytes())
        for more in ({}, {'RescaleSlope': 1, 'RescaleIntercept': 0}, {'PixelPaddingValue': 0})
    ]
    readable = 0
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for number in range(FUZZ):
            suffix, content = sound[number % len(sound)]
            path = tmp_path / f'f{suffix}'
            path.write_bytes(_harmed(content, generator))
            try:
                picture = decode.read_image(path, 32) if number % 2 else decode.examine_image(path, 32)[2]
                assert picture.shape[:2] == (32, 32) and picture.dtype == np.uint8
                readable += 1
            except BadInput as error:
                assert str(error).startswith(str(path)) and '\n' not in str(error)
    assert 0.1 * FUZZ < readable < 0.9 * FUZZ


def test_one_damaged_file_among_others_is_one_line(tmp_path):
    make_own(tmp_path)
    whole = (tmp_path / 'class 0' / 'image 0.png').read_bytes()
    (tmp_path / 'class 0' / 'image 0.png').write_bytes(whole[:60])
    (tmp_path / 'class 1' / 'image 1.png').write_bytes(b'')
    (tmp_path / 'class 2' / 'scan.dcm').write_bytes(bytes(128) + b'DICM' + whole)
    report = check(tmp_path)
    assert len(report.unreadable) == 3 and report.images == 22 and not report.faults
    assert {Path(line.partition(': ')[0]).name for line in report.unreadable} == {
        'image 0.png',
        'image 1.png',
        'scan.dcm',
    }
