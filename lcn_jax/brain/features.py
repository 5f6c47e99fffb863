"""Activations of a trained network for image files of any size, as neurons are predicted from."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from lcn_jax.data.builders.encoded import MODES
from lcn_jax.errors import UsageError
from lcn_jax.trained.load import BATCH_SIZE, Trained


def blocks(network: Trained) -> tuple[str, ...]:
    """The sown activations between 'stem' and 'pooled', in the order of computation."""
    return tuple(name for name in network.layers if name not in ('pooled', 'logits'))


def resized(images: Sequence[np.ndarray] | np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Whole images in RGB (C = 3) or grey (C = 1), scaled to `shape` (H, W, C): (N, H, W, C) uint8.

    Interpolates bilinearly, with antialiasing. images: uint8, each (h, w), (h, w, 1) or (h, w, 3),
    of any sizes; else ValueError. UsageError if C is neither 1 nor 3.
    """
    height, width, channels = shape
    if channels not in MODES:
        raise UsageError(
            f'the network takes images of {channels} channels; image files give 1 (grey) or 3 '
            '(RGB).'
        )
    found = np.empty((len(images), *shape), np.uint8)
    for i, image in enumerate(images):
        if image.dtype != np.uint8 or (image.ndim, *image.shape[2:]) not in ((2,), (3, 1), (3, 3)):
            raise ValueError(
                f'an image is {image.dtype} {image.shape}; it must be uint8 of shape (H, W), '
                '(H, W, 1) or (H, W, 3).'
            )
        pixels = image[..., 0] if image.shape[2:] == (1,) else image
        picture = Image.fromarray(pixels).convert(MODES[channels])
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        found[i] = np.asarray(picture).reshape(shape)
    return found


def extract(
    network: Trained,
    images: Sequence[np.ndarray] | np.ndarray,
    layers: Sequence[str],
    batch_size: int = BATCH_SIZE,
) -> dict[str, np.ndarray]:
    """As `Trained.activations`, for images that are `resized` first, and with channels in front.

    Returns:
      float32 by layer: (N, C, H, W), or (N, ...) as the model has it for layers without positions.
    """
    found = network.activations(resized(images, network.image_shape), layers, batch_size)
    return {
        name: values.transpose(0, 3, 1, 2) if values.ndim == 4 else values
        for name, values in found.items()
    }
