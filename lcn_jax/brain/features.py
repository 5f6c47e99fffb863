"""Layer activations of a trained network.

A model names its activations by sowing them in 'intermediates' (docs/models.md).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from lcn_jax.data import sources
from lcn_jax.data.batches import Pixels, normalise
from lcn_jax.data.builders.encoded import MODES
from lcn_jax.data.shards import MISSING
from lcn_jax.errors import UsageError
from lcn_jax.training import checkpoint
from lcn_jax.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network and the format of its images.

    variables: 'params' and 'batch_stats'; image_shape: (H, W, C); mean, std: (C,) float32 of the
    training pixels scaled to [0, 1]; step: number of training steps.
    """

    model: nn.Module
    variables: Any
    image_shape: tuple[int, int, int]
    mean: np.ndarray
    std: np.ndarray
    step: int


def load(workdir: str, which: str = 'latest', data_dir: str | None = None) -> Network:
    """The network of a run at a checkpoint: 'latest', 'best' or the number of a step.

    If the config has no mean and std, they are computed from the training images in `data_dir`, by
    default config.data_dir. UsageError if there is no run, no such checkpoint, or no such images.
    """
    config = checkpoint.read_config(workdir)
    if data_dir is not None:
        config.data_dir = data_dir
    experiment = Experiment.create(config)
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.find(which)
        trained = checkpoints.restore(step, experiment.shapes).state
    mean, std = sources.normalisation(config, sources.Source(config.dataset, config.data_dir))
    network, variables = experiment.network, jax.device_put(trained.variables)
    return Network(network.model, variables, network.image_shape, mean, std, step)


def main_layers(network: Network) -> tuple[str, ...]:
    """The blocks and the layers after them: 'pooled', if the model sows it, and 'logits'."""
    names = []

    def trace(variables, images):
        _, state = network.model.apply(variables, images, train=False, mutable=['intermediates'])
        names.extend(_by_name(dict(state).get('intermediates', {})))  # dicts leave a trace sorted

    jax.eval_shape(trace, network.variables, jnp.zeros((1, *network.image_shape)))
    return (*(name for name in names if name != 'stem'), 'logits')


def blocks(network: Network) -> tuple[str, ...]:
    """The sown activations between 'stem' and 'pooled', in the order of computation."""
    return tuple(name for name in main_layers(network) if name not in ('pooled', 'logits'))


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
    network: Network,
    images: Sequence[np.ndarray] | np.ndarray,
    layers: Sequence[str],
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """The activations of some layers for images, which are `resized`; all held in memory.

    Layers are the activations that the model sows, 'logits' (the output of the model), and the
    outputs of all modules, named by their paths ('stage1_block1_conv1', or 'encoder/conv' if
    modules are nested). If a module is called several times, this is its last output. UsageError,
    which lists all layers, if there is no such layer.

    Returns:
      float32 by layer: (N, C, H, W), or (N, ...) as the model has it for layers without positions.
    """
    pixels = resized(images, network.image_shape)
    batch_size = min(batch_size, len(pixels))
    unlabelled = np.full(batch_size, MISSING, np.int32)
    # Padded, so that all batches run the same program.
    padded = np.pad(pixels, [(0, -len(pixels) % batch_size)] + [(0, 0)] * 3)
    parts = []
    for batch in padded.reshape(-1, batch_size, *network.image_shape):
        batch = Pixels(batch, unlabelled, network.mean, network.std)
        part = _activations(network.variables, batch, model=network.model, layers=tuple(layers))
        parts.append(jax.device_get(part))
    return {name: np.concatenate([part[name] for part in parts])[: len(pixels)] for name in layers}


@functools.partial(jax.jit, static_argnames=('model', 'layers'))
def _activations(variables, pixels, *, model, layers):
    logits, state = model.apply(
        variables, normalise(pixels.images, pixels), train=False, capture_intermediates=True
    )
    found = _by_name(state['intermediates']) | {'logits': logits}
    unknown = [name for name in layers if name not in found]
    if unknown:
        raise UsageError(f'unknown layer {unknown[0]!r}; known: {", ".join(found)}.')
    order = [getattr(model, 'layout', 'NHWC').index(axis) for axis in 'NCHW']

    def channels_first(values):
        return (values.transpose(order) if values.ndim == 4 else values).astype(np.float32)

    return {name: channels_first(found[name]) for name in layers}


def _by_name(intermediates: Mapping) -> dict[str, jax.Array]:
    """Activations that a model sowed, as 'path/of/module/name', or Flax captured, 'path/of/module'.

    The last of several values under a name; without scalars and what is not an array.
    """
    found = {}
    for path, values in flax.traverse_util.flatten_dict(intermediates).items():
        last = values[-1] if isinstance(values, tuple) else values
        name = '/'.join(part for part in path if part != '__call__')
        if name and isinstance(last, jax.Array) and last.ndim > 1:
            found[name] = last
    return found
