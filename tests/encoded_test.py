import functools
import io
import struct

import numpy as np
import pytest
import tiny_archives
from PIL import Image

from lcn_jax.data.builders import encoded
from lcn_jax.errors import UsageError

COLOUR = tiny_archives.pictures(1, (20, 30))[0]
READERS = (
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


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize(
    ('file_format', 'mode'),
    [('JPEG', 'RGB'), ('PNG', 'P'), ('BMP', 'P'), ('PPM', 'L'), ('WEBP', 'RGB')],
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


def test_more_than_eight_bits_are_refused():
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(file, 'PNG')
    with pytest.raises(UsageError, match='image has more than 8 bits a channel'):
        encoded.stored(file.getvalue(), 'image', 1)
