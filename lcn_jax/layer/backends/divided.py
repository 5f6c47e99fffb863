"""Layers whose neurons are divided among devices: activations go to them, weights never move.

No other position uses the weights of a position, so each of D devices keeps the kernels of its own
positions: of all P in a row, device d has those from d·m on, m = ceil(P / D). Its part of a kernel
(*output, *weights), where *weights are *kernel, C // groups, O, is (m, *weights), with zeros after
the last position. Everything else is divided by examples. So a layer sends twice, both times by an
all_to_all, which is its own transpose in the backward pass: what the positions of a device see, of
all examples, goes to this device, and what it computes from that to the devices of the examples.
The device of a position sees all examples, so the gradient of its kernel is complete.

`axis_name` is the axis of the devices, in `jax.pmap` or `jax.shard_map`; with None nothing is
divided, and a part is the whole kernel.

Shape suffixes: D devices, M pixels that a device receives, I positions of a device, T taps of a
position, n examples of a device.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lcn_jax.layer.grid import Grid


def positions_of_part(grid: Grid, axis_name: str | None) -> tuple[int, ...]:
    """The axes of positions in a device's part of a kernel: (m,), or all of them."""
    if axis_name is None:
        return grid.output_size
    return (positions_per_device(grid, lax.axis_size(axis_name)),)


def bound(axis_name: str | None) -> str | None:
    """The axis, or None outside of programs over it."""
    if axis_name is None:
        return None
    try:
        lax.axis_size(axis_name)
    except NameError:
        return None
    return axis_name


def positions_per_device(grid: Grid, devices: int) -> int:
    """The positions m of a part."""
    return -(-math.prod(grid.output_size) // devices)


# ---- Whole kernels and their parts, of numpy and of JAX. -----------------------------------------


def parts(kernel: Any, grid: Grid, devices: int) -> Any:
    """(..., *output, *weights) -> (devices, ..., m, *weights)."""
    xp = kernel.__array_namespace__()
    axis = kernel.ndim - 2 * grid.dimensions - 2
    before, weights = kernel.shape[:axis], kernel.shape[axis + grid.dimensions :]
    rows = kernel.reshape(*before, -1, *weights)
    missing = devices * positions_per_device(grid, devices) - rows.shape[axis]
    rows = xp.concat([rows, xp.zeros((*before, missing, *weights), kernel.dtype)], axis=axis)
    return xp.moveaxis(rows.reshape(*before, devices, -1, *weights), axis, 0)


def whole(parts: Any, shape: tuple[int, ...]) -> Any:
    """The inverse of `parts`: the kernel of this shape."""
    xp = parts.__array_namespace__()
    dimensions = len(shape) - parts.ndim + 2
    axis = len(shape) - 2 * dimensions - 2
    weights = shape[axis + dimensions :]
    rows = xp.moveaxis(parts, 0, axis).reshape(*shape[:axis], -1, *weights)
    own = slice(math.prod(shape[axis : axis + dimensions]))
    return rows[(slice(None),) * axis + (own,)].reshape(shape)


def gathered(part: jax.Array, grid: Grid, axis_name: str | None, after: Any = ()) -> jax.Array:
    """The whole kernel, on every device, once the arrays in the tree `after` are there."""
    if axis_name is None:
        return part
    part = _delayed(part, after)
    axis = part.ndim - grid.dimensions - 3
    before, weights = part.shape[:axis], part.shape[axis + 1 :]
    return whole(lax.all_gather(part, axis_name), (*before, *grid.output_size, *weights))


def _delayed(array: jax.Array, after: Any) -> jax.Array:
    """`array`, but not before the arrays in `after`.

    XLA:CPU ignores `lax.optimization_barrier`, so this is a data dependency.
    """
    for value in jax.tree.leaves(after):
        first = value.ravel()[0]
        array += 0 * jnp.where(jnp.isfinite(first), first, 0).astype(array.dtype)
    return array


def own(kernel: Any, grid: Grid, axis_name: str | None) -> Any:
    """This device's part of a whole kernel."""
    if axis_name is None:
        return kernel
    return parts(jnp.asarray(kernel), grid, lax.axis_size(axis_name))[lax.axis_index(axis_name)]


# ---- The layer. ----------------------------------------------------------------------------------


class Routes(NamedTuple):
    """What each device receives of the input, and where its positions see it.

    sent_DM: pixels of the flat input. Devices that see fewer than others receive the first one in
    their place. seen_DIT: indices into the M pixels; M stands for the padding.
    """

    sent_DM: np.ndarray
    seen_DIT: np.ndarray

    @classmethod
    @functools.cache
    def of(cls, grid: Grid, devices: int) -> 'Routes':
        """Of a grid without circular padding."""
        pixels_PT = _seen_pixels(grid)
        missing = devices * positions_per_device(grid, devices) - len(pixels_PT)
        pixels_PT = np.pad(pixels_PT, ((0, missing), (0, 0)), constant_values=-1)
        pixels_DIT = pixels_PT.reshape(devices, -1, pixels_PT.shape[1])
        needed = [np.unique(pixels[pixels >= 0]) for pixels in pixels_DIT]
        most = max(1, *map(len, needed))
        sent_DM = np.stack([np.pad(pixels, (0, most - len(pixels))) for pixels in needed])
        places = [np.searchsorted(of, pixels) for of, pixels in zip(needed, pixels_DIT)]
        return cls(sent_DM, np.where(pixels_DIT >= 0, places, most))


def _seen_pixels(grid: Grid) -> np.ndarray:
    """(positions, taps): pixels of the flat input, -1 outside it and on inserted zeros."""
    seen, nothing = np.zeros((1, 1), int), np.zeros((1, 1), bool)
    for axis, (size, between) in enumerate(zip(grid.input_size, grid.input_dilation)):
        taps = np.arange(grid.kernel_size[axis]) * grid.kernel_dilation[axis]
        at = grid.starts(axis)[:, None] + taps
        none = (at < 0) | (at >= grid.dilated_size[axis]) | (at % between != 0)
        shape = len(seen) * len(at), -1
        seen = (seen[:, None, :, None] * size + (at // between)[:, None, :]).reshape(shape)
        nothing = (nothing[:, None, :, None] | none[:, None, :]).reshape(shape)
    return np.where(nothing, -1, seen)


def apply(
    x: jax.Array, part: jax.Array, grid: Grid, *, axis_name: str, layer: Callable
) -> jax.Array:
    """x (*input, n, C) of a device's examples, its part (m, *weights) -> y (*output, n, O).

    `layer(x, kernel, grid)` computes one (`bilinear.py`). A device's positions are one with a
    single dimension, in which their receptive fields lie side by side.
    """
    devices, device = lax.axis_size(axis_name), lax.axis_index(axis_name)
    examples, features = x.shape[-2], part.shape[-1]
    sent_DM, seen_DIT = Routes.of(grid, devices)
    taps = seen_DIT.shape[-1]
    exchange = functools.partial(
        lax.all_to_all, axis_name=axis_name, split_axis=0, concat_axis=0, tiled=True
    )
    pixels = x.reshape(-1, *x.shape[-2:])
    received_DMnC = exchange(pixels[sent_DM])
    received = received_DMnC.swapaxes(0, 1).reshape(sent_DM.shape[1], -1, x.shape[-1])
    seen_IT = jnp.asarray(seen_DIT)[device].ravel()
    in_a_row = Grid.create(seen_IT.size, (taps,), taps, 'VALID')

    @jax.checkpoint  # or the T-fold receptive fields would be kept for the backward pass
    def positions(received, kernel):
        fields = received.at[seen_IT].get(mode='fill', fill_value=0)
        return layer(fields, kernel, in_a_row)

    y_INO = positions(received, part.reshape(len(part), taps, *part.shape[-2:]))
    y_DInO = y_INO.reshape(-1, devices, examples, features).swapaxes(0, 1)
    y = exchange(y_DInO).reshape(-1, examples, features)
    return y[: math.prod(grid.output_size)].reshape(*grid.output_size, examples, features)
