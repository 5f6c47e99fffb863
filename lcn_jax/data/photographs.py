"""Crops of encoded photographs of any size, decoded at the lowest sufficient resolution."""

from collections.abc import Callable

import numpy as np

from lcn_jax.data.builders import encoded

AREA, LOG_ASPECT = (0.08, 1.0), np.log(4 / 3)  # ranges for random boxes: part of the area, shape
RESIZE = 256 / 224  # shorter side of an evaluated image over its centre crop
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def crop(
    file: bytes, name: str, size: int, channels: int, choose_box: Callable[[int, int], Box]
) -> np.ndarray:
    """(size, size, channels) uint8: the part of the image in `choose_box(width, height)`, resized.

    UsageError, with the `name`, if the file is not a whole image.
    """
    from PIL import Image

    mode = encoded.MODES[channels]
    with encoded.opened(file, name) as image:
        width, height = image.size
        left, top, right, bottom = choose_box(width, height)
        # A JPEG can be decoded at 1/2, 1/4 or 1/8: the least with `size` pixels in the box.
        image.draft(mode, (int(width * size / (right - left)), int(height * size / (bottom - top))))
        across, down = image.size[0] / width, image.size[1] / height
        box = left * across, top * down, right * across, bottom * down
        resized = image.convert(mode).resize((size, size), Image.Resampling.BILINEAR, box)
    return np.asarray(resized).reshape(size, size, channels)


def centre_box(width: int, height: int) -> Box:
    """The centre crop of size 224, if the shorter side of the image were resized to 256."""
    side = min(width, height) / RESIZE
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """A box to train on: 8 to 100 % of the area and 3:4 to 4:3 in shape, where it fits."""
    for _ in range(10):
        area = width * height * rng.uniform(*AREA)
        aspect = np.exp(rng.uniform(-LOG_ASPECT, LOG_ASPECT))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    # The image is very long: as much of its middle as the shape allows.
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
