"""Encoded images: what datasets store, made and read without tensorflow."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from lcn_jax.errors import UsageError

MODES = {1: 'L', 3: 'RGB'}  # number of channels -> Pillow's name


@contextlib.contextmanager
def opened(file: bytes, name: str) -> Iterator[Any]:
    """The file as a Pillow image, whose pixels the body of the `with` decodes.

    UsageError if it is truncated or not an image; the message starts with `name`.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file)) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f'{name} is not a whole image: {error}.') from error


def decode(file: bytes, name: str, channels: int = 3) -> np.ndarray:
    """(H, W, channels) uint8, grey or RGB; raises as `opened`."""
    with opened(file, name) as image:
        pixels = np.asarray(image.convert(MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def shape(file: bytes, name: str) -> tuple[int, int, int]:
    """(height, width, channels), from the header: 1 channel if grey, else 3; raises as `opened`."""
    with opened(file, name) as image:
        return image.height, image.width, 1 if image.mode in ('1', 'L', 'LA') else 3


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of (H, W) or (H, W, 3) uint8."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    return file.getvalue()


def stored(file: bytes, name: str, channels: int = 3) -> bytes:
    """What a dataset keeps of an image: a JPEG with the right channels as it is, else a PNG.

    Transparency is dropped. UsageError as `opened`, or for more than 8 bits per channel.
    """
    with opened(file, name) as image:
        if (image.format, image.mode) == ('JPEG', MODES[channels]):
            image.draft(image.mode, (1, 1))  # reads all of it, at an eighth of its resolution
            image.load()
            return file
        image.load()
    if image.mode[0] in 'IF':
        raise UsageError(f'{name} has more than 8 bits a channel: convert it to 8.')
    return png(np.asarray(image.convert(MODES[channels])))
