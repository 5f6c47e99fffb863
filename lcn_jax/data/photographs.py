"""Crops of encoded photographs of any size, decoded at the lowest sufficient resolution."""

import io

import numpy as np

from lcn_jax.data.builders import encoded

AREAS, LOG_ASPECT = (0.08, 1.0), np.log(4 / 3)  # of random crops: parts of the area, shape
RESIZE = 256 / 224  # shorter side of an evaluated image over its centre crop
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def random_resized_crop(
    file: bytes, size: int, channels: int, rng: np.random.Generator, name: str
) -> np.ndarray:
    """A random part of the image, 8 to 100 % of its area and 3:4 to 4:3 in shape.

    Returns:
      (size, size, channels) uint8.

    Raises:
      UsageError: the file is not a whole image; the message starts with `name`.
    """
    return _crop(file, size, channels, name, lambda width, height: random_box(width, height, rng))


def centre_crop(file: bytes, size: int, channels: int, name: str) -> np.ndarray:
    """The middle of the image after its shorter side became 256/224 of `size`.

    Returns and raises as `random_resized_crop`.
    """

    def box(width, height):
        side = min(width, height) / RESIZE
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    return _crop(file, size, channels, name, box)


def random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """A part of an image to train on, in its pixels: of random area and aspect ratio."""
    for _ in range(10):
        area = width * height * rng.uniform(*AREAS)
        aspect = np.exp(rng.uniform(-LOG_ASPECT, LOG_ASPECT))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    # A very long image: as much of its middle as the shape allows.
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _crop(file: bytes, size: int, channels: int, name: str, box_of) -> np.ndarray:
    from PIL import Image

    with encoded.decoding(name), Image.open(io.BytesIO(file)) as image:
        width, height = image.size
        left, top, right, bottom = box_of(width, height)
        # JPEGs can be decoded at 1/2, 1/4 or 1/8: the least with `size` pixels in the box.
        enough = int(width * size / (right - left)), int(height * size / (bottom - top))
        image.draft(encoded.MODES[channels], enough)
        across, down = image.size[0] / width, image.size[1] / height
        box = left * across, top * down, right * across, bottom * down
        colours = encoded.with_channels(image, channels)
        crop = np.asarray(colours.resize((size, size), Image.Resampling.BILINEAR, box))
    return crop.reshape(size, size, channels)
