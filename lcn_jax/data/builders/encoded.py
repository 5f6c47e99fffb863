"""Encoded images: what tfds stores when there is no tensorflow to encode arrays."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np

from lcn_jax.errors import UsageError

MODES = {1: 'L', 3: 'RGB'}  # number of channels -> Pillow's name


def png(image: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint8 as a PNG file."""
    from PIL import Image

    return _png(Image.fromarray(image))


def stored(file: bytes, name: str, channels: int = 3) -> bytes:
    """An image as datasets keep it: a JPEG of as many channels as it is, anything else as a PNG.

    Transparency is dropped.

    Raises:
      UsageError: it is truncated, not an image, or of more than 8 bits a channel; the message
        starts with `name`.
    """
    from PIL import Image

    with decoding(name), Image.open(io.BytesIO(file)) as image:
        if (image.format, image.mode) == ('JPEG', MODES[channels]):
            image.draft(image.mode, (1, 1))  # reads all of it, at an eighth of its resolution
            image.load()
            return file
        image.load()
    if image.mode[0] in 'IF':
        raise UsageError(f'{name} has more than 8 bits a channel: convert it to 8.')
    return _png(with_channels(image, channels))


def shape(file: bytes, name: str) -> tuple[int, int, int]:
    """(height, width, channels) of an image by its header: 1 channel if grey, 3 if anything else.

    Raises:
      UsageError: it is not an image; the message starts with `name`.
    """
    from PIL import Image

    with decoding(name), Image.open(io.BytesIO(file)) as image:
        return image.height, image.width, 1 if image.mode in ('1', 'L', 'LA') else 3


def decode(file: bytes, channels: int, name: str) -> np.ndarray:
    """(H, W, channels) uint8, in grey or in colour.

    Raises:
      UsageError: it is truncated, or no image; the message starts with `name`.
    """
    from PIL import Image

    with decoding(name), Image.open(io.BytesIO(file)) as image:
        pixels = np.asarray(with_channels(image, channels))
    return pixels.reshape(*pixels.shape[:2], channels)


def with_channels(image, channels: int):
    """A Pillow image in grey or in colour."""
    mode = MODES[channels]
    return image if image.mode == mode else image.convert(mode)


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turns Pillow's errors inside into a UsageError whose message starts with `name`."""
    from PIL import Image

    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f'{name} is not a whole image: {error}.') from error


def _png(image) -> bytes:
    file = io.BytesIO()
    image.save(file, 'PNG')
    return file.getvalue()
