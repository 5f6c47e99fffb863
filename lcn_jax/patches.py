"""The layer in plain JAX: as one matrix product at each position, and as JAX's own reference.

Both take x (*input, N, C), a kernel (*output, *kernel, C // groups, O) and a grid without circular
padding, and return y (*output, N, O) in their dtype. Sums are at least float32.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from lcn_jax.grid import Grid


def padded(x: jax.Array, grid: Grid) -> jax.Array:
    """x with padding and dilation, up to the last pixel that a position sees."""
    config = [
        (low, seen - low - size, between - 1)
        for (low, _), seen, size, between in zip(
            grid.padding, grid.seen_size, grid.dilated_size, grid.input_dilation
        )
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0), (0, 0, 0)])


def by_group(compute: Callable, a: jax.Array, b: jax.Array, groups: int) -> jax.Array:
    """`compute` of each group; groups are the outer part of the last axis of every array."""
    if groups == 1:
        return compute(a, b)
    grouped = (array.reshape(*array.shape[:-1], groups, -1) for array in (a, b))
    result = jax.vmap(compute, in_axes=-2, out_axes=-2)(*grouped)
    return result.reshape(*result.shape[:-2], -1)


def product(x: jax.Array, kernel: jax.Array, grid: Grid, groups: int, precision=None) -> jax.Array:
    """The patches, the K numbers that a position sees, times the kernel."""

    def one_group(x, kernel):
        seen = padded(x, grid)
        patches_NK = jnp.concatenate([seen[window] for window in grid.windows()], axis=-1)
        kernel_KO = kernel.reshape(*grid.output_size, -1, kernel.shape[-1])
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.einsum(
            '...nk,...ko->...no', patches_NK, kernel_KO, precision=precision,
            preferred_element_type=dtype,
        ).astype(x.dtype)  # fmt: skip

    return by_group(one_group, x, kernel, groups)


@functools.partial(jax.checkpoint, static_argnums=(2, 3, 4))  # the T-fold patches are not kept
def patches(x: jax.Array, kernel: jax.Array, grid: Grid, groups: int, precision=None) -> jax.Array:
    """`product`, whose derivative gathers the patches again."""
    return product(x, kernel, grid, groups, precision)


def reference(
    x: jax.Array, kernel: jax.Array, grid: Grid, groups: int, precision=None
) -> jax.Array:
    """`jax.lax.conv_general_dilated_local`, which takes the elements of a patch channel-major."""
    spatial = 'XYZ'[: grid.dimensions]

    def one_group(x, kernel):
        channels, features = kernel.shape[-2:]
        kernel = jnp.moveaxis(kernel, -2, grid.dimensions)
        return lax.conv_general_dilated_local(
            x,
            kernel.reshape(*grid.output_size, channels * math.prod(grid.kernel_size), features),
            window_strides=grid.stride,
            padding=grid.padding,
            filter_shape=grid.kernel_size,
            lhs_dilation=grid.input_dilation,
            rhs_dilation=grid.kernel_dilation,
            dimension_numbers=(spatial + 'NC', spatial + 'IO', spatial + 'NC'),
            precision=precision,
        )

    return by_group(one_group, x, kernel, groups)
