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


def rgb(file: bytes, name: str) -> bytes:
    """`file` itself if it is a whole RGB image; greyscale, CMYK and the like become an RGB PNG.

    Raises:
      UsageError: it is truncated, or no image; the message starts with `name`.
    """
    from PIL import Image

    with decoding(name), Image.open(io.BytesIO(file)) as image:
        if image.mode == 'RGB':
            image.draft('RGB', (1, 1))  # reads all of a JPEG, at an eighth of its resolution
            image.load()
            return file
        return _png(image.convert('RGB'))


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
    try:
        yield
    except (OSError, SyntaxError) as error:  # Pillow's broken PNGs are SyntaxErrors
        raise UsageError(f'{name} is not a whole image: {error}.') from error


def _png(image) -> bytes:
    file = io.BytesIO()
    image.save(file, 'PNG')
    return file.getvalue()
