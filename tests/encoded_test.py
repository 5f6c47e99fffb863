import functools
import io
import struct
import zlib

import numpy as np
import pytest
import tiny_archives
from PIL import Image

from lcn_jax.data.builders import encoded
from lcn_jax.errors import UsageError

COLOUR = tiny_archives.pictures(1, (20, 30))[0]
READERS = (
    encoded.upright,
    encoded.stored,
    encoded.shape,
    encoded.decode,
    functools.partial(encoded.decode, channels=1),
)


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.mark.parametrize(('mode', 'channels'), [('RGB', 3), ('L', 1)])
def test_a_jpeg_is_stored_as_it_is(mode, channels):
    file = tiny_archives.encode(COLOUR, 'JPEG', mode)
    assert encoded.stored(file, 'image', channels) == file
    assert encoded.shape(file, 'image') == (20, 30, channels)


@pytest.mark.parametrize(
    ('file_format', 'mode', 'channels'),
    [('PNG', 'RGB', 3), ('PNG', 'P', 3), ('TIFF', 'CMYK', 3), ('JPEG', 'L', 3), ('JPEG', 'RGB', 1)],
)
def test_other_images_are_stored_as_png(file_format, mode, channels):
    file = tiny_archives.encode(COLOUR, file_format, mode)
    stored = encoded.stored(file, 'image', channels)
    assert stored.startswith(b'\x89PNG')
    expected = Image.open(io.BytesIO(file)).convert(encoded.MODES[channels])
    np.testing.assert_array_equal(pixels(stored), np.asarray(expected))


@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize(
    ('file_format', 'mode'),
    [
        ('JPEG', 'RGB'),
        ('PNG', 'P'),
        ('BMP', 'P'),
        ('PPM', 'L'),
        ('WEBP', 'RGB'),
        ('TIFF', 'RGB'),
    ],
)
def test_a_damaged_image_is_harmless_or_one_line(file_format, mode):
    whole = tiny_archives.encode(COLOUR, file_format, mode)
    for at in range(min(len(whole), 100)):
        flipped = whole[:at] + bytes([whole[at] ^ 0x31]) + whole[at + 1 :]
        for damaged in (whole[:at], flipped):
            for reader in READERS:
                try:
                    reader(damaged, 'image')
                except UsageError as error:
                    assert str(error).startswith('image ')
                    assert '\n' not in str(error)
    with pytest.raises(UsageError, match='image is not a whole image'):
        encoded.stored(whole[: len(whole) // 2], 'image')


def test_an_impossibly_large_image_is_refused():
    file = bytearray(tiny_archives.encode(COLOUR, 'BMP'))
    file[18:26] = struct.pack('<II', 100_000, 100_000)  # width and height
    for reader in READERS:
        with pytest.raises(UsageError, match='image is not a whole image: Image size'):
            reader(bytes(file), 'image')


def test_what_is_no_image_is_one_line_without_an_address():
    for reader in READERS:
        for file in (b'', b'text'):
            with pytest.raises(UsageError) as error:
                reader(file, 'image')
            assert str(error.value) == 'image is not a whole image: it is in no known format.'


def png(colour: int, channels: int, depth: int) -> bytes:
    """A black PNG of 2×1 pixels, as its specification has it; Pillow writes none of 16-bit RGB."""

    def chunk(name, content):
        checksum = struct.pack('>I', zlib.crc32(name + content))
        return struct.pack('>I', len(content)) + name + content + checksum

    header = struct.pack('>IIBBBBB', 2, 1, depth, colour, 0, 0, 0)
    rows = zlib.compress(bytes(1 + 2 * channels * depth // 8))
    chunks = chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + chunks


def tiff(bits: int) -> bytes:
    """A black RGB TIFF of 2×1 pixels."""
    # Tag, type (3: of 2 bytes) and number of values, value or where they are.
    entries = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 3, 1, 200), (277, 3, 1, 3), (278, 3, 1, 1), (279, 3, 1, 6 * bits // 8)]
    start = b'II*\0' + struct.pack('<IHHHH', 16, bits, bits, bits, 0)
    table = b''.join(struct.pack('<HHII', *entry) for entry in entries)
    file = start + struct.pack('<H', len(entries)) + table + bytes(4)
    return file.ljust(200 + 6 * bits // 8, b'\0')


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('kind', ['RGB', 'RGBA', 'LA', 'L', 'TIFF', 'PPM', 'PGM'])
def test_more_than_eight_bits_are_refused(kind, bits):
    file = {
        'RGB': lambda: png(2, 3, bits),
        'RGBA': lambda: png(6, 4, bits),
        'LA': lambda: png(4, 2, bits),
        'L': lambda: png(0, 1, bits),
        'TIFF': lambda: tiff(bits),
        'PPM': lambda: b'P6 2 1 %d\n' % (2**bits - 1) + bytes(6 * bits // 8),
        'PGM': lambda: b'P5 2 1 %d\n' % (2**bits - 1) + bytes(2 * bits // 8),
    }[kind]()
    for reader in READERS:
        if bits == 8:
            reader(file, 'image')
            continue
        with pytest.raises(UsageError, match='image has more than 8 bits a channel'):
            reader(file, 'image')


@pytest.mark.parametrize(('file_format', 'mode'), [('PNG', 'RGB'), ('TIFF', 'L'), ('GIF', 'L')])
def test_of_several_images_in_a_file_none_is_chosen(file_format, mode):
    file = io.BytesIO()
    first, second = (Image.fromarray(picture).convert(mode) for picture in (COLOUR, 255 - COLOUR))
    first.save(file, file_format, save_all=True, append_images=[second])
    for reader in READERS:
        with pytest.raises(UsageError, match='image has several images'):
            reader(file.getvalue(), 'image')


LOSSLESS = {'JPEG': {'quality': 100, 'subsampling': 0}, 'WEBP': {'lossless': True}}  # nearly


@pytest.mark.parametrize('file_format', ['JPEG', 'PNG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_an_image_is_turned_as_its_exif_data_say(file_format, mode):
    """By the definition of EXIF: where row 0 and column 0 of what is stored belong."""
    stored = np.asarray(Image.fromarray(COLOUR).convert(mode))
    swapped = stored.swapaxes(0, 1)
    upright = {  # top left, top right, bottom right, ...; from 5 on rows are columns
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: swapped,
        6: swapped[:, ::-1],
        7: swapped[::-1, ::-1],
        8: swapped[::-1],
    }
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[encoded.ORIENTATION] = orientation
        file = io.BytesIO()
        Image.fromarray(stored).save(file, file_format, exif=exif, **LOSSLESS.get(file_format, {}))
        turned = encoded.upright(file.getvalue(), 'image')
        found = encoded.decode(turned, 'image', 3 if mode == 'RGB' else 1).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, atol=8 if file_format == 'JPEG' else 0)
        if orientation == 1:
            assert turned == file.getvalue()
