"""What the neurons of a trained network respond to: gratings, and the images of each class."""

import functools
import itertools
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from lcn_jax.brain.features import resized
from lcn_jax.errors import UsageError
from lcn_jax.trained import maps
from lcn_jax.trained.activations import activations
from lcn_jax.trained.load import Trained


def layers_with_rows(network: Trained) -> list[str]:
    """Those of `network.layers` whose activations have rows and columns of neurons."""
    images = jax.ShapeDtypeStruct((1, *network.image_shape), np.float32)
    program = functools.partial(activations, model=network.model, layers=network.layers)
    shapes = jax.eval_shape(program, network.variables, images)
    return [name for name in network.layers if len(shapes[name].shape) == 4]


def orientations(
    network: Trained, layers: Sequence[str], wavelengths: Sequence[float], angles: int, phases: int
) -> dict[str, dict[str, np.ndarray]]:
    """By layer 'preference', 'strength' and 'wavelength', as `maps.orientation` has them.

    wavelengths: of the gratings, in pixels. angles, phases: how many.
    """
    at = np.pi * np.arange(angles) / angles
    size, _, channels = network.image_shape

    def batches():
        for wavelength, angle in itertools.product(wavelengths, at):
            shown = maps.gratings(size, wavelength, angle, phases, channels)
            (by_layer,) = network.batches(shown, layers, batch_size=len(shown))
            check_rows_and_columns(by_layer)
            yield by_layer

    shape = len(wavelengths), len(at)
    return {
        layer: maps.orientation(responses.reshape(*shape, *responses.shape[1:]), at)
        for layer, responses in maps.best_phases(batches()).items()
    }


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


def check_rows_and_columns(by_layer: Mapping[str, np.ndarray]) -> None:
    """UsageError if the activations of a layer are not (N, H, W, O)."""
    for name, values in by_layer.items():
        if values.ndim != 4:
            raise UsageError(f'{name} cannot be mapped: it has no rows and columns of neurons.')
