"""Encoded images: what tfds stores when there is no tensorflow to encode arrays."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np

from lcn_jax.errors import UsageError


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
