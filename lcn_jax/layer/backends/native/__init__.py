"""The three sums of a local layer on CPU, in C++: `local.cc`.

The functions here are an implementation of `bilinear.py`, which gives them derivatives and a rule
for vmap. If the positions of the layer share one kernel, it is (*kernel, C, O), and the sums are
those of a convolution.
"""

import functools

import jax
import numpy as np

from lcn_jax.layer.backends.native import library
from lcn_jax.layer.backends.native.library import available as available
from lcn_jax.layer.backends.native.library import computes as computes
from lcn_jax.layer.backends.native.library import describe as describe
from lcn_jax.layer.grid import Grid


def forward(x: jax.Array, kernel: jax.Array, grid: Grid, groups: int) -> jax.Array:
    """y[p, n, o] = sum_{t, c} x[pixel(p, t), n, c] · kernel[p, t, c, o].

    p is an output position and t a tap; channels and features lie group by group.

    Args:
      x: (*input, N, groups · C), float32 or bfloat16.
      kernel: (*output, *kernel, C, O), or (*kernel, C, O), with the dtype of x.

    Returns:
      (*output, N, O), with the dtype of x. Sums are taken in float32.

    Raises:
      RuntimeError: the library is not available.
    """
    layer = _layer(grid, x.shape[-2], groups, kernel.shape[-2:], _is_shared(kernel, grid))
    y = jax.ShapeDtypeStruct((*grid.output_size, x.shape[-2], kernel.shape[-1]), x.dtype)
    return library.call('lcn_forward', y, x, kernel, layer=layer)


def input_gradient(dy: jax.Array, kernel: jax.Array, grid: Grid, groups: int) -> jax.Array:
    """The derivative of sum(dy · y) by x, which has its shape; 0 where no neuron looks."""
    layer = _layer(grid, dy.shape[-2], groups, kernel.shape[-2:], _is_shared(kernel, grid))
    channels = groups * kernel.shape[-2]
    dx = jax.ShapeDtypeStruct((*grid.input_size, dy.shape[-2], channels), dy.dtype)
    return library.call('lcn_input_gradient', dx, dy, kernel, layer=layer)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, grid: Grid, groups: int, shared: bool = False
) -> jax.Array:
    """The derivative of sum(dy · y) by the kernel, which has its shape."""
    weights = x.shape[-1] // groups, dy.shape[-1]
    layer = _layer(grid, x.shape[-2], groups, weights, shared)
    positions = () if shared else grid.output_size
    dkernel = jax.ShapeDtypeStruct((*positions, *grid.kernel_size, *weights), x.dtype)
    return library.call('lcn_kernel_gradient', dkernel, x, dy, layer=layer)


class Convolution:
    """The sums of a layer whose positions share one kernel."""

    forward = staticmethod(forward)
    input_gradient = staticmethod(input_gradient)
    kernel_gradient = staticmethod(functools.partial(kernel_gradient, shared=True))


def _is_shared(kernel: jax.Array, grid: Grid) -> bool:
    return kernel.ndim == grid.dimensions + 2


def _layer(
    grid: Grid, examples: int, groups: int, weights: tuple[int, ...], shared: bool
) -> np.ndarray:
    """The numbers of `Layer` in local.cc; `weights` are the last axes of a kernel (C, O)."""
    axes = [
        (1,) * (3 - grid.dimensions) + numbers
        for numbers in (
            grid.input_size, grid.output_size, grid.kernel_size, grid.stride, grid.kernel_dilation
        )
    ]  # fmt: skip
    low = (0,) * (3 - grid.dimensions) + tuple(low for low, _ in grid.padding)
    between = (1,) * (3 - grid.dimensions) + grid.input_dilation
    channels, features = weights
    sizes = examples, groups, channels, features // groups, shared
    return np.array([*np.ravel([*axes, low, between]), *sizes], np.int64)
