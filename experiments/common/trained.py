"""The flags that name a checkpoint of a run, and what they name."""

import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import flags

from lcn_jax.brain.features import resized
from lcn_jax.errors import UsageError
from lcn_jax.trained import maps
from lcn_jax.trained.activations import activations
from lcn_jax.trained.load import Trained
from lcn_jax.trained.load import load as load_network
from lcn_jax.training.restore import Restored, read_config, restore

WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of a run, a file, or the name of a network.', required=True
)
CHECKPOINT = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
DATA_DIR = flags.DEFINE_string('data_dir', None, "Replaces the run's own config.data_dir.")


def load() -> Trained:
    """The network; UsageError if there is none."""
    return load_network(WORKDIR.value, CHECKPOINT.value, DATA_DIR.value)


def restore_local() -> Restored:
    """The run; UsageError if there is none, or it has no local kernels."""
    if read_config(WORKDIR.value).connectivity != 'lc':
        raise UsageError(
            f'the network in {WORKDIR.value} has no local kernels: choose a run with '
            'config.connectivity=lc.'
        )
    return restore(WORKDIR.value, CHECKPOINT.value, DATA_DIR.value)


def moments(network: Trained, layers: Sequence[str]) -> dict[str, maps.Moments]:
    """The `Moments` of each layer, for `maps`, over the images that the run was evaluated on.

    UsageError if they do not fit into memory, or a layer has no rows and columns.
    """
    config, source = network.config, network.source
    if not source.spec.fits:
        raise UsageError(
            f'maps need all images in memory, and {config.dataset} is too large for that.'
        )
    images = source.train_and_evaluated(config.validation, config.train_images)[1].read()

    def batches():
        start, scaled = 0, resized(images.images, network.image_shape)
        for by_layer in network.batches(scaled, layers):
            check_rows_and_columns(by_layer)
            count = len(by_layer[layers[0]])
            yield by_layer, images.labels[start : start + count]
            start += count

    return maps.moments(batches(), source.spec.num_classes)


def layers_with_rows(network: Trained) -> list[str]:
    """Those of `network.layers` whose activations have rows and columns of neurons."""
    images = jax.ShapeDtypeStruct((1, *network.image_shape), np.float32)
    program = functools.partial(activations, model=network.model, layers=network.layers)
    shapes = jax.eval_shape(program, network.variables, images)
    return [name for name in network.layers if len(shapes[name].shape) == 4]


def check_rows_and_columns(by_layer: Mapping[str, np.ndarray]) -> None:
    """UsageError if the activations of a layer are not (N, H, W, O)."""
    for name, values in by_layer.items():
        if values.ndim != 4:
            raise UsageError(f'{name} cannot be mapped: it has no rows and columns of neurons.')
