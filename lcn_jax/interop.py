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

from lcn_jax import arguments
from lcn_jax.grid import Grid


def from_convlocal(params: Mapping[str, Any], kernel_size: int | Sequence[int]) -> dict[str, Any]:
    """The parameters of a `flax.linen.ConvLocal` -> those of a `LocalConv`.

    An integer kernel size counts for all dimensions.

    Raises:
      ValueError: the kernel does not have the shape (*output, C·prod(kernel_size), O), or the bias
        neither (*output, O) nor (O,).
    """
    kernel = kernel_from_convlocal(_kernel_of(params), kernel_size)
    return {**params, 'kernel': kernel, **_local_bias(params, kernel)}


def to_convlocal(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `from_convlocal`; a bias (O,) is repeated at every position.

    The layer must have one group, as ConvLocal has: the kernel does not show how many there are.

    Raises:
      ValueError: the kernel does not have the axes (*output, *kernel, C, O), or the bias neither
        (*output, O) nor (O,).
    """
    kernel = _kernel_of(params)
    rank = arguments.kernel_dimensions(kernel)
    positions, taps = range(rank), range(rank, 2 * rank)
    by_channel = kernel.transpose(*positions, 2 * rank, *taps, 2 * rank + 1)
    flat = by_channel.reshape(*kernel.shape[:rank], -1, kernel.shape[-1])
    return {**params, 'kernel': flat, **_local_bias(params, kernel)}


def kernel_from_convlocal(kernel: Any, kernel_size: int | Sequence[int]) -> Any:
    """(*output, C·prod(kernel_size), O), the channel first -> (*output, *kernel_size, C, O).

    Raises:
      ValueError: the kernel has another shape.
    """
    arguments.check_array(kernel, 'kernel')
    rank = len(kernel_size) if isinstance(kernel_size, Sequence) else kernel.ndim - 2
    kernel_size = arguments.sizes(kernel_size, rank, 'kernel_size')
    taps = math.prod(kernel_size)
    if not 1 <= rank == kernel.ndim - 2 <= arguments.MOST_DIMENSIONS or kernel.shape[-2] % taps:
        raise ValueError(
            f'expected a kernel of ConvLocal, ({"output, " * rank}C·{taps}, O) for the kernel size '
            f'{kernel_size}, got shape {kernel.shape}.'
        )
    by_channel = kernel.reshape(*kernel.shape[:rank], -1, *kernel_size, kernel.shape[-1])
    return by_channel.transpose(*range(rank), *range(rank + 1, 2 * rank + 1), rank, 2 * rank + 1)


def from_unfold(weight: Any, output_size: Sequence[int], kernel_size: int | Sequence[int]) -> Any:
    """(positions, O, C·prod(kernel_size)), as `torch.nn.Unfold` orders them -> a kernel.

    Positions are row-major; a patch has the channel first, then the rows and columns.

    Returns:
      (*output_size, *kernel_size, C, O).

    Raises:
      ValueError: the array has another shape.
    """
    arguments.check_array(weight, 'weight')
    output_size = arguments.sizes(output_size, np.size(output_size), 'output_size')
    kernel_size = arguments.sizes(kernel_size, len(output_size), 'kernel_size')
    positions, taps = math.prod(output_size), math.prod(kernel_size)
    if weight.ndim != 3 or weight.shape[0] != positions or weight.shape[2] % taps:
        raise ValueError(
            f'expected (positions, O, patch) = ({positions}, O, C·{taps}) for the output size '
            f'{output_size} and kernel size {kernel_size}, got shape {weight.shape}.'
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
    kernel = np.asarray(_kernel_of(params))
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
    bias = np.asarray(_local_bias(params, kernel)['bias'])
    if layer.channels_first:
        bias = np.moveaxis(bias, -1, 0).reshape(bias.shape)
    return [of_keras, bias]


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


def _kernel_of(params: Mapping[str, Any]) -> Any:
    """The kernel of one layer's parameters; ValueError if there is none."""
    given = list(params) if isinstance(params, Mapping) else type(params).__name__
    if 'kernel' not in given:
        raise ValueError(f"params must be those of one layer, with a 'kernel'; got {given}.")
    return params['kernel']


def _local_bias(params: Mapping[str, Any], kernel: Any) -> dict[str, Any]:
    """{'bias': (*output, O)} for a kernel (*output, *kernel, C, O), {} if there is no bias."""
    if 'bias' not in params:
        return {}
    bias, features = params['bias'], kernel.shape[-1]
    shape = (*kernel.shape[: arguments.kernel_dimensions(kernel)], features)
    arguments.check_array(bias, 'bias')
    if bias.shape not in (shape, (features,)):
        raise ValueError(f'bias must have shape {shape} or {(features,)}, got {bias.shape}.')
    return {'bias': bias if bias.shape == shape else jnp.broadcast_to(bias, shape)}
