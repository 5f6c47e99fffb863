"""Encoded images: what datasets store, made and read without tensorflow."""

import contextlib
import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from lcn_jax.errors import UsageError

MODES = {1: 'L', 3: 'RGB'}  # number of channels -> Pillow's name
ORIENTATION = 0x0112  # EXIF's tag: 1 if the image is stored upright
BITS_PER_SAMPLE = 0x0102  # TIFF's tag
# What Pillow raises for corrupt files.
CORRUPT = OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error
GREY = ('1', 'L', 'LA')  # Pillow's names of modes without colour


@contextlib.contextmanager
def opened(file: bytes, name: str) -> Iterator[Any]:
    """The file as a Pillow image, whose pixels the body of the `with` decodes.

    UsageError if it is truncated, is not an image or not a single one, or has more than 8 bits per
    channel, of which Pillow would drop some; the message starts with `name`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(file)) as image:
            if image.mode[0] in 'IF' or _bits(file, image) > 8:
                raise UsageError(f'{name} has more than 8 bits a channel: convert it to 8.')
            # The other images of an MPO are previews and depths, which cameras add to a JPEG.
            if image.format != 'MPO' and getattr(image, 'n_frames', 1) > 1:
                raise UsageError(f'{name} has several images: make a file of each, or of one.')
            yield image
    except UsageError:
        raise
    except UnidentifiedImageError as error:  # whose message shows an address
        raise UsageError(f'{name} is not a whole image: it is in no known format.') from error
    except (*CORRUPT, Image.DecompressionBombError) as error:
        raise UsageError(f'{name} is not a whole image: {error}.') from error


def decode(file: bytes, name: str, channels: int = 3) -> np.ndarray:
    """(H, W, channels) uint8, grey or RGB; raises as `opened`."""
    with opened(file, name) as image:
        pixels = np.asarray(image.convert(MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def shape(file: bytes, name: str) -> tuple[int, int, int]:
    """(height, width, channels), from the header: 1 channel if grey, else 3; raises as `opened`."""
    with opened(file, name) as image:
        return image.height, image.width, 1 if image.mode in GREY else 3


def upright(file: bytes, name: str) -> bytes:
    """The file, or a PNG turned as its EXIF orientation says; raises as `opened`."""
    from PIL import ImageOps

    with opened(file, name) as image:
        if image.getexif().get(ORIENTATION, 1) == 1:
            return file
        turned = ImageOps.exif_transpose(image)
        return png(np.asarray(turned.convert(MODES[1 if image.mode in GREY else 3])))


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of (H, W) or (H, W, 3) uint8."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    return file.getvalue()


def stored(file: bytes, name: str, channels: int = 3) -> bytes:
    """What a dataset keeps of an image: a JPEG with the right channels as it is, else a PNG.

    Transparency is dropped, and an EXIF orientation ignored. UsageError as `opened`.
    """
    with opened(file, name) as image:
        if (image.format, image.mode) == ('JPEG', MODES[channels]):
            image.draft(image.mode, (1, 1))  # reads all of it, at an eighth of its resolution
            image.load()
            return file
        return png(np.asarray(image.convert(MODES[channels])))


def _bits(file: bytes, image: Any) -> int:
    """Bits per channel of a file, at most, which the mode of Pillow's image does not tell."""
    match image.format:
        case 'PNG':
            return file[24]  # IHDR begins at byte 8: length, name, width, height, depth
        case 'TIFF':
            return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
        case 'PPM':
            arguments = image.tile[0][-1]  # of the decoder: a mode, or that and the highest value
            return 8 if isinstance(arguments, str) else arguments[-1].bit_length()
    return 8
