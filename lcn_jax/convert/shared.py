"""Convolutional weights -> locally connected ones, and back.

The convolutional and the locally connected network of a config have the same parameters under the
same names, except for those that are local: kernels, and biases and scales of every position's own.
`grids` (`lcn_jax.grids` of the latter) says which these are, so both directions need it. All other
parameters are returned as they are, and the collection 'batch_stats' fits both networks, unless
norms are local (`layer/norm.py`):

    model = ResNet(..., local=True)
    grids = lcn_jax.grids(model, image_shape)
    local = {**variables, 'params': to_local(variables['params'], grids)}

A sleep makes the members of a pool (`sleep/pools.py`) alike, but not the pools: a layer of 3×3
kernels is left with nine kernels. A convolution has one, and gets the mean over all positions,
which no rule changes that keeps the means of the pools. Of all convolutions this one has the
nearest weights, in the sense of least squares. It computes the same as the layer only if all
positions already have the same kernel; otherwise it is a network to evaluate, or to train further.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lcn_jax.layer.each_local import map_local
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import arrays_by_path, by_path, kernels, name_of, replaced
from lcn_jax.layer.parameters import tile_kernel


def to_local(
    params: Any, grids: Mapping, noise: float = 0.0, key: jax.Array | None = None
) -> dict[str, Any]:
    """Parameters of a convolutional network -> those of the locally connected network of `grids`.

    Args:
      params: a tree with a kernel (*kernel, C // groups, O) at every path of `grids` to one, and
        (O,) where the local parameter has one value per neuron, such as a local bias.
      grids: the `LocalParameter` of everything local, at its path.
      noise: as in `kernel_to_local`; each kernel gets noise of its own.
      key: for the noise.

    Raises:
      ValueError: the trees do not match, or there is noise but no key.
    """

    def convert(number, local, kernel):
        if local.per_neuron:
            return jnp.broadcast_to(kernel, (*local.output_size, *kernel.shape))
        return kernel_to_local(kernel, local.grid, noise, _own_key(key, number))

    return _convert(convert, params, grids)


def to_shared(params: Any, grids: Mapping) -> dict[str, Any]:
    """Parameters of the locally connected network of `grids` -> those of a convolutional network.

    All that is local becomes its mean over all positions: see the top of this file.

    Raises:
      ValueError: the trees do not match.
    """

    def convert(_, local, array):
        if not local.per_neuron:
            return kernel_to_shared(array, local.grid)
        return _mean_over_positions(array, local.dimensions)

    return _convert(convert, params, grids)


def alike(
    params: Any, grids: Mapping, noise: float = 0.0, key: jax.Array | None = None
) -> dict[str, Any]:
    """Local kernels with that of their first position at all of them, plus noise as in `to_local`.

    Each member of an ensemble, whose axes are in front, has its own, and the same noise.

    Raises:
      ValueError: the trees do not match, or there is noise but no key.
    """

    def common(number, local, kernel):
        first = kernel[(0,) * local.dimensions]
        return kernel_to_local(first, local.grid, noise, _own_key(key, number))

    return map_local(common, kernels(grids), params)


def _own_key(key: jax.Array | None, number: int) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(key, number)


def kernel_to_local(
    kernel: jax.Array, grid: Grid, noise: float = 0.0, key: jax.Array | None = None
) -> jax.Array:
    """(*kernel, C // groups, O) at every position of `grid`: (*output, *kernel, C // groups, O).

    `noise` is the std of Gaussian noise, drawn with `key` for each position, relative to the std of
    the kernel's values.

    Raises:
      ValueError: the kernel does not fit the grid, or there is noise but no key.
    """
    if kernel.shape[:-2] != grid.kernel_size:
        raise ValueError(
            f'expected a shared kernel {(*grid.kernel_size, "C // groups", "O")}, got shape '
            f'{kernel.shape}.'
        )
    tiled = tile_kernel(kernel, grid.output_size)
    if noise == 0:
        return tiled
    if key is None:
        raise ValueError('noise needs a key.')
    return tiled + noise * kernel.std() * jax.random.normal(key, tiled.shape, tiled.dtype)


def kernel_to_shared(kernel: jax.Array, grid: Grid) -> jax.Array:
    """The mean of (*output, *kernel, C // groups, O) over positions: (*kernel, C // groups, O).

    Positions with one and the same kernel give exactly that kernel.

    Raises:
      ValueError: the kernel does not fit the grid.
    """
    leading = (*grid.output_size, *grid.kernel_size)
    if kernel.shape[:-2] != leading:
        raise ValueError(
            f'expected a locally connected kernel {(*leading, "C // groups", "O")}, got shape '
            f'{kernel.shape}.'
        )
    return _mean_over_positions(kernel, grid.dimensions)


def _mean_over_positions(array: jax.Array, dimensions: int) -> jax.Array:
    # Relative to one position, so that equal kernels do not suffer from rounding.
    first, positions = array[(slice(1),) * dimensions], tuple(range(dimensions))
    return (first + (array - first).mean(positions, keepdims=True)).squeeze(positions)


def _convert(convert: Callable, params: Any, grids: Mapping) -> dict[str, Any]:
    """`convert(number, local, array)` for everything in `grids`; errors say where."""
    if not by_path(grids):
        raise ValueError('grids is empty: the network has no locally connected layers.')
    arrays, changed = arrays_by_path(params), {}
    for number, (path, local) in enumerate(by_path(grids).items()):
        name = name_of(path)
        if path not in arrays:
            raise ValueError(f'params have no {name}: they belong to another network than grids.')
        try:
            changed[path] = convert(number, local, arrays[path])
        except ValueError as e:
            raise ValueError(f'{name}: {e}') from None
    return replaced(params, changed)
