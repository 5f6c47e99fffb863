"""Batches made on the device from uint8 images on it: gather, crop, flip, normalise.

Everything follows from a key and the step, so there is no state to store: a run that resumes, or
one on another number of devices, sees the same batches.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lcn_jax.data.shards import MISSING, places_in_epoch, positions

Array = jax.Array | np.ndarray


@flax.struct.dataclass
class Pixels:
    """Images on the device: a split, a device's part of it, or one batch.

    images: (N, H, W, C) uint8; labels: (N,) int32, MISSING where there is no example; mean, std:
    (C,) float32 of the training pixels scaled to [0, 1].
    """

    images: Array
    labels: Array
    mean: Array
    std: Array


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """What is in a training batch: batch_size / repetitions images, each `repetitions` times.

    Each copy is a random size×size crop, at most `padding` from the centre; if `flips`, it is
    mirrored half of the time.
    """

    batch_size: int
    size: int
    padding: int = 0
    repetitions: int = 1
    flips: bool = False


def epoch_order(key: jax.Array, epoch: jax.Array, examples: int) -> jax.Array:
    """(examples,) int32: the order of the images in an epoch."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), examples)


def crop(images: jax.Array, offsets: jax.Array, size: int) -> jax.Array:
    """Windows of size×size whose top left corners are at `offsets`; zero outside the image.

    images: (N, H, W, C); offsets: (N, 2) int, may be negative. Returns (N, size, size, C).
    """
    height, width = images.shape[1:3]

    def inside(offset, length):
        index = offset[:, None] + jnp.arange(size)
        return jnp.clip(index, 0, length - 1), (index >= 0) & (index < length)

    rows, row_inside = inside(offsets[:, 0], height)
    columns, column_inside = inside(offsets[:, 1], width)
    windows = jax.vmap(lambda image, r, c: image[r][:, c])(images, rows, columns)
    mask = row_inside[:, :, None] & column_inside[:, None, :]
    return jnp.where(mask[..., None], windows, 0)


def normalise(images: Array, pixels: Pixels) -> jax.Array:
    """uint8 -> float32 with mean 0 and standard deviation 1 over the training pixels."""
    return (jnp.asarray(images, jnp.float32) / 255 - pixels.mean) / pixels.std


def centre_offset(pixels: Pixels, size: int) -> jax.Array:
    """(2,) offset of the centre crop."""
    height, width = pixels.images.shape[1:3]
    return jnp.array([(height - size) // 2, (width - size) // 2])


def train_batch(
    pixels: Pixels,
    order: jax.Array | None,
    key: jax.Array,
    step: jax.Array,
    spec: BatchSpec,
    shard: tuple[jax.Array | int, int] = (0, 1),
) -> tuple[jax.Array, jax.Array]:
    """Part `shard` = (index, count) of the training batch of a step, from the epoch's `order`.

    images (batch_size / count, size, size, C) float32 and labels (batch_size / count,).
    Normalisation comes before the crop, so the padding is the mean colour. Without an `order`,
    `pixels` are this part already, copies included.
    """
    batch_size, padding = spec.batch_size, spec.padding
    mine = positions(batch_size, shard)
    if order is None:
        chosen = jnp.arange(len(mine))
    else:
        chosen = order[places_in_epoch(step, len(order), batch_size, spec.repetitions, shard)]
    offset_key, flip_key = jax.random.split(jax.random.fold_in(key, step))
    offsets = jax.random.randint(offset_key, (batch_size, 2), -padding, padding + 1)
    images = normalise(pixels.images[chosen], pixels)
    images = crop(images, centre_offset(pixels, spec.size) + offsets[mine], spec.size)
    if spec.flips:
        flipped = jax.random.bernoulli(flip_key, shape=(batch_size,))[mine]
        images = jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    return images, pixels.labels[chosen]


def eval_batch(
    pixels: Pixels, start: jax.Array, *, batch_size: int, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Examples start, start + 1, ...: centre crops, labels, and which of them exist.

    The mask (batch_size,) is False for missing examples, those beyond the end of `pixels` included.
    """
    examples = start + jnp.arange(batch_size)
    chosen = jnp.minimum(examples, len(pixels.labels) - 1)
    labels = pixels.labels[chosen]
    offsets = jnp.broadcast_to(centre_offset(pixels, size), (batch_size, 2))
    images = crop(normalise(pixels.images[chosen], pixels), offsets, size)
    return images, labels, (examples < len(pixels.labels)) & (labels != MISSING)
