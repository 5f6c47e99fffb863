"""Weights of Keras 2's LocallyConnected1D and 2D -> those of `LocalConv` (docs/from_keras.md).

`config` is the `get_config()` of the layer, of which the fields 'filters', 'kernel_size',
'strides', 'padding', 'data_format', 'use_bias' and 'implementation' are read. `input_shape` is that
of the layer, with an axis for the examples. Parameters are those of one layer: {'kernel':
(*output, *kernel, C, O), 'bias': (*output, O)} of a `LocalConv` with `local_bias=True`, without
'bias' where there is none. Arrays may be NumPy's or JAX's; dtypes stay.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcn_jax.convert.convlocal import kernel_of, local_bias
from lcn_jax.errors import UsageError
from lcn_jax.files import reading
from lcn_jax.layer import arguments
from lcn_jax.layer.grid import Grid

KERAS_CHOICES = {
    'data_format': ('channels_first', 'channels_last'),
    'padding': ('valid', 'same'),
    'implementation': (1, 2, 3),
}


def keras_arguments(config: Mapping[str, Any], input_shape: Sequence[Any]) -> dict[str, Any]:
    """The arguments of the `LocalConv` that computes what a layer of Keras does before activation.

    The padding is in numbers: with 'same' Keras pads even kernels on another side than Flax.
    """
    grid = _KerasLayer.of(config, input_shape).grid
    return {
        'features': config['filters'],
        'kernel_size': grid.kernel_size,
        'strides': grid.stride,
        'padding': grid.padding,
        'use_bias': config['use_bias'],
        'local_bias': True,
    }


def from_keras(
    config: Mapping[str, Any], weights: Sequence[Any], input_shape: Sequence[Any]
) -> dict[str, np.ndarray]:
    """The weights of a LocallyConnected1D or 2D -> the parameters of a `LocalConv`.

    Args:
      weights: `layer.get_weights()`: the kernel and, with `use_bias`, the bias.

    Returns:
      The parameters for inputs with the channels last, whatever the data format. Weights for the
      padding, which Keras does not have, are 0.

    Raises:
      ValueError: weights do not have the shapes that the config and the input shape need.
    """
    layer = _KerasLayer.of(config, input_shape)
    shapes = layer.shapes if config['use_bias'] else layer.shapes[:1]
    given = [np.shape(w) for w in weights]
    if given != shapes:
        raise ValueError(
            f'a layer of Keras with {config["filters"]} filters {config["kernel_size"]}, '
            f'implementation={config["implementation"]}, use_bias={config["use_bias"]} and '
            f'{config["data_format"]!r} inputs {input_shape} has weights {shapes}, got {given}.'
        )
    of_keras = np.asarray(weights[0])
    kernel = np.zeros(layer.kernel_shape, of_keras.dtype)
    in_kernel, in_keras = layer.order()
    kernel.reshape(-1)[in_kernel] = of_keras.reshape(-1)[in_keras]
    if len(weights) == 1:
        return {'kernel': kernel}
    bias = np.asarray(weights[1])
    if layer.channels_first:  # Keras reads these numbers as (O, *output)
        bias = np.moveaxis(bias.reshape(-1, *layer.grid.output_size), 0, -1)
    return {'kernel': kernel, 'bias': bias}


def to_keras(
    config: Mapping[str, Any], params: Mapping[str, Any], input_shape: Sequence[Any]
) -> list[np.ndarray]:
    """The inverse of `from_keras`, for `layer.set_weights`; a bias (O,) is repeated.

    Raises:
      ValueError: the kernel or the bias does not fit the config and the input shape.
    """
    layer = _KerasLayer.of(config, input_shape)
    kernel = np.asarray(kernel_of(params))
    arguments.check_shape(kernel, layer.kernel_shape, 'kernel', 'kernel of this layer of Keras')
    if ('bias' in params) != bool(config['use_bias']):
        raise ValueError(
            f'the layer of Keras has use_bias={config["use_bias"]}, but the parameters are '
            f'{sorted(params)}: change use_bias, or add or remove the bias.'
        )
    of_keras = np.zeros(layer.shapes[0], kernel.dtype)
    in_kernel, in_keras = layer.order()
    of_keras.reshape(-1)[in_keras] = kernel.reshape(-1)[in_kernel]
    if 'bias' not in params:
        return [of_keras]
    bias = np.asarray(local_bias(params, kernel)['bias'])
    if layer.channels_first:
        bias = np.moveaxis(bias, -1, 0).reshape(bias.shape)
    return [of_keras, bias]


def keras_weights(path: Any) -> dict[str, list[np.ndarray]]:
    """The weights of each layer that has some, by name, in the order of the layers; needs h5py.

    path: of an h5 file that `model.save` or `model.save_weights` of Keras 2 wrote. UsageError for
    another.
    """
    import h5py

    with reading(path), h5py.File(path) as file:
        layers: Any = file.get('model_weights', file)
        if 'layer_names' not in layers.attrs:
            raise UsageError(f'{path} has no layers of Keras 2: write it with model.save_weights.')
        groups = {_text(name): layers[_text(name)] for name in layers.attrs['layer_names']}
        return {
            name: [group[_text(key)][()] for key in group.attrs['weight_names']]
            for name, group in groups.items()
            if len(group.attrs['weight_names'])
        }


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


@dataclasses.dataclass(frozen=True)
class _KerasLayer:
    """How a layer of Keras stores its weights."""

    grid: Grid
    channels: int
    features: int
    channels_first: bool
    implementation: int

    @classmethod
    def of(cls, config: Mapping[str, Any], input_shape: Sequence[Any]) -> '_KerasLayer':
        for name, choices in KERAS_CHOICES.items():
            arguments.check_choice(config[name], choices, f'{name} of Keras')
        arguments.check_positive(config['filters'], 'filters')
        arguments.check_choice(np.size(input_shape), (3, 4), 'the number of axes of input_shape')
        first = config['data_format'] == 'channels_first'
        shape = arguments.sizes(input_shape[1:], len(input_shape) - 1, 'input_shape[1:]')
        channels, *size = shape if first else (shape[-1], *shape[:-1])
        kernel, strides = (
            arguments.sizes(config[name], len(size), name) for name in ('kernel_size', 'strides')
        )
        padding = 'VALID'
        if config['padding'] == 'same':
            lows = [k // 2 for k in kernel]
            reach = [(math.ceil(n / s) - 1) * s + k for n, s, k in zip(size, strides, kernel)]
            padding = [(low, max(r - low - n, 0)) for low, r, n in zip(lows, reach, size)]
        grid = Grid.create(size, kernel, strides, padding)
        return cls(grid, channels, config['filters'], first, config['implementation'])

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Of `LocalConv`."""
        grid = self.grid
        return (*grid.output_size, *grid.kernel_size, self.channels, self.features)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the kernel and the bias in Keras."""
        size, output, kernel = self.grid.input_size, self.grid.output_size, self.grid.kernel_size
        kernels = {
            1: (math.prod(output), math.prod(kernel) * self.channels, self.features),
            2: (*self._in_order(size, self.channels), *self._in_order(output, self.features)),
            3: (len(self.order()[0]),),
        }
        return [kernels[self.implementation], (*output, self.features)]

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices of all weights that see the input: in `LocalConv`'s kernel, and in Keras's.

        Of a position's patch (1), of the matrix from all inputs to all outputs (2), or of the list
        of that matrix's entries, ordered by output, then by input (3).
        """
        grid, rank = self.grid, len(self.grid.input_size)
        *spatial, channel, feature = np.indices(self.kernel_shape, sparse=True)
        positions, taps = spatial[:rank], spatial[rank:]
        pixels = [
            position * stride - low + tap
            for position, tap, stride, (low, _) in zip(positions, taps, grid.stride, grid.padding)
        ]
        inside = np.ones(self.kernel_shape, bool)
        for pixel, size in zip(pixels, grid.input_size):
            inside &= (pixel >= 0) & (pixel < size)

        def flat(spatial, spatial_size, last, last_size) -> Any:
            index = self._in_order(spatial, last)
            shape = self._in_order(spatial_size, last_size)
            return np.ravel_multi_index(index, shape, mode='clip')

        patch = flat(taps, grid.kernel_size, channel, self.channels)
        source = flat(pixels, grid.input_size, channel, self.channels)
        target = flat(positions, grid.output_size, feature, self.features)
        if self.implementation == 1:
            position = np.ravel_multi_index(positions, grid.output_size)
            weights = math.prod(grid.kernel_size) * self.channels
            in_keras = ((position * weights + patch) * self.features + feature)[inside]
        elif self.implementation == 2:
            in_keras = (source * math.prod(grid.output_size) * self.features + target)[inside]
        else:
            entries = (target * math.prod(grid.input_size) * self.channels + source)[inside]
            in_keras = np.unique(entries, return_inverse=True)[1]
        return np.flatnonzero(inside), in_keras

    def _in_order(self, spatial: Sequence[Any], last: Any) -> tuple:
        """Spatial axes and that of channels or features, as the data format orders them."""
        return (last, *spatial) if self.channels_first else (*spatial, last)
