"""Weights of other libraries' locally connected layers -> those of `LocalConv`, and back.

    from_convlocal, to_convlocal    flax.linen.ConvLocal              docs/from_convlocal.md
    from_keras, to_keras            Keras 2, LocallyConnected1D, 2D   docs/from_keras.md
    from_unfold, to_unfold          PyTorch, with unfold              docs/from_pytorch.md

Parameters are those of one layer: {'kernel': (*output, *kernel, C, O), 'bias': (*output, O)} of a
`LocalConv` with `local_bias=True`, without 'bias' where there is none. The other libraries have no
groups. Arrays may be NumPy's or JAX's; dtypes stay.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lcn_jax.grid import Grid


def from_convlocal(params: Mapping[str, Any], kernel_size: Sequence[int]) -> dict[str, Any]:
    """The parameters of a `flax.linen.ConvLocal` -> those of a `LocalConv`.

    Raises:
      ValueError: the kernel does not have the shape (*output, C·prod(kernel_size), O).
    """
    return {**params, 'kernel': kernel_from_convlocal(params['kernel'], kernel_size)}


def to_convlocal(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `from_convlocal`; a bias (O,) is repeated at every position."""
    kernel = params['kernel']
    rank = kernel.ndim // 2 - 1
    positions, taps = range(rank), range(rank, 2 * rank)
    by_channel = kernel.transpose(*positions, 2 * rank, *taps, 2 * rank + 1)
    flat = by_channel.reshape(*kernel.shape[:rank], -1, kernel.shape[-1])
    return {**params, 'kernel': flat, **_local_bias(params)}


def kernel_from_convlocal(kernel: Any, kernel_size: Sequence[int]) -> Any:
    """(*output, C·prod(kernel_size), O), the channel first -> (*output, *kernel_size, C, O).

    Raises:
      ValueError: the kernel has another shape.
    """
    rank, taps = len(kernel_size), math.prod(kernel_size)
    if kernel.ndim != rank + 2 or kernel.shape[-2] % taps:
        raise ValueError(
            f'expected a kernel of ConvLocal, ({"output, " * rank}C·{taps}, O) for the kernel size '
            f'{tuple(kernel_size)}, got shape {kernel.shape}.'
        )
    by_channel = kernel.reshape(*kernel.shape[:rank], -1, *kernel_size, kernel.shape[-1])
    return by_channel.transpose(*range(rank), *range(rank + 1, 2 * rank + 1), rank, 2 * rank + 1)


def from_unfold(weight: Any, output_size: Sequence[int], kernel_size: Sequence[int]) -> Any:
    """(positions, O, C·prod(kernel_size)), as `torch.nn.Unfold` orders them -> a kernel.

    Positions are row-major; a patch has the channel first, then the rows and columns.

    Returns:
      (*output_size, *kernel_size, C, O).

    Raises:
      ValueError: the array has another shape.
    """
    positions, taps = math.prod(output_size), math.prod(kernel_size)
    if weight.ndim != 3 or weight.shape[0] != positions or weight.shape[2] % taps:
        raise ValueError(
            f'expected (positions, O, patch) = ({positions}, O, C·{taps}) for the output size '
            f'{tuple(output_size)} and kernel size {tuple(kernel_size)}, got shape {weight.shape}.'
        )
    patch_before_features = weight.transpose(0, 2, 1).reshape(*output_size, -1, weight.shape[1])
    return kernel_from_convlocal(patch_before_features, kernel_size)


def to_unfold(kernel: Any) -> Any:
    """The inverse of `from_unfold`: (positions, O, C·prod(kernel_size))."""
    flat = to_convlocal({'kernel': kernel})['kernel']
    return flat.reshape(-1, *flat.shape[-2:]).transpose(0, 2, 1)


# ---- Keras. --------------------------------------------------------------------------------------
#
# `config` is the `get_config()` of a LocallyConnected1D or 2D, of which the fields 'filters',
# 'kernel_size', 'strides', 'padding', 'data_format', 'use_bias' and 'implementation' are read.
# `input_shape` is that of the layer, with an axis for the examples.


def keras_arguments(config: Mapping[str, Any], input_shape: Sequence[Any]) -> dict[str, Any]:
    """The arguments of the `LocalConv` that computes what a layer of Keras does before activation.

    The padding is in numbers: with 'same' Keras pads even kernels on another side than Flax.
    """
    return {
        'features': config['filters'],
        'kernel_size': tuple(config['kernel_size']),
        'strides': tuple(config['strides']),
        'padding': _KerasLayer.of(config, input_shape).grid.padding,
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
    if [np.shape(w) for w in weights] != layer.shapes[: len(weights)]:
        raise ValueError(
            f'a layer of Keras with {config["filters"]} filters {config["kernel_size"]}, '
            f'implementation={config["implementation"]} and {config["data_format"]!r} inputs '
            f'{tuple(input_shape)} has weights {layer.shapes}, got '
            f'{[np.shape(w) for w in weights]}.'
        )
    theirs = np.asarray(weights[0])
    kernel = np.zeros(layer.kernel_shape, theirs.dtype)
    ours, places = layer.order()
    kernel.reshape(-1)[ours] = theirs.reshape(-1)[places]
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
      ValueError: the kernel does not have the shape that the config and the input shape need.
    """
    layer = _KerasLayer.of(config, input_shape)
    kernel = np.asarray(params['kernel'])
    if kernel.shape != layer.kernel_shape:
        raise ValueError(
            f'this layer of Keras takes the weights of a kernel {layer.kernel_shape}, got shape '
            f'{kernel.shape}.'
        )
    theirs = np.zeros(layer.shapes[0], kernel.dtype)
    ours, places = layer.order()
    theirs.reshape(-1)[places] = kernel.reshape(-1)[ours]
    if 'bias' not in params:
        return [theirs]
    bias = np.asarray(_local_bias(params)['bias'])
    if layer.channels_first:
        bias = np.moveaxis(bias, -1, 0).reshape(bias.shape)
    return [theirs, bias]


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
        first = config['data_format'] == 'channels_first'
        channels, *size = input_shape[1:] if first else (input_shape[-1], *input_shape[1:-1])
        kernel, strides = config['kernel_size'], config['strides']
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
        *places, channel, feature = np.indices(self.kernel_shape, sparse=True)
        positions, taps = places[:rank], places[rank:]
        pixels = [
            position * stride - low + tap
            for position, tap, stride, (low, _) in zip(positions, taps, grid.stride, grid.padding)
        ]
        inside = np.ones(self.kernel_shape, bool)
        for pixel, size in zip(pixels, grid.input_size):
            inside &= (pixel >= 0) & (pixel < size)

        def flat(places, sizes, place, size) -> Any:
            index, shape = self._in_order(places, place), self._in_order(sizes, size)
            return np.ravel_multi_index(index, shape, mode='clip')

        patch = flat(taps, grid.kernel_size, channel, self.channels)
        source = flat(pixels, grid.input_size, channel, self.channels)
        target = flat(positions, grid.output_size, feature, self.features)
        if self.implementation == 1:
            position = np.ravel_multi_index(positions, grid.output_size)
            weights = math.prod(grid.kernel_size) * self.channels
            theirs = ((position * weights + patch) * self.features + feature)[inside]
        elif self.implementation == 2:
            theirs = (source * math.prod(grid.output_size) * self.features + target)[inside]
        else:
            entries = (target * math.prod(grid.input_size) * self.channels + source)[inside]
            theirs = np.unique(entries, return_inverse=True)[1]
        return np.flatnonzero(inside), theirs

    def _in_order(self, places: Sequence[Any], last: Any) -> tuple:
        """Spatial axes and that of channels or features, as the data format orders them."""
        return (last, *places) if self.channels_first else (*places, last)


def _local_bias(params: Mapping[str, Any]) -> dict[str, Any]:
    """{'bias': (*output, O)} of parameters, {} if there is no bias."""
    if 'bias' not in params:
        return {}
    kernel = params['kernel']
    shape = (*kernel.shape[: kernel.ndim // 2 - 1], kernel.shape[-1])
    bias = params['bias']
    return {'bias': bias if bias.shape == shape else jnp.broadcast_to(bias, shape)}
