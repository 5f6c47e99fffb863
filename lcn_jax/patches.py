"""The layer in plain JAX: as one matrix product at each position, and as JAX's own reference.

Both take x (*input, N, C), a kernel (*output, *kernel, C // groups, O) and a grid without circular
padding, and return y (*output, N, O) in their dtype. Sums are at least float32.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from lcn_jax.grid import Grid


def padded(x: jax.Array, grid: Grid) -> jax.Array:
    """x with padding and dilation, cropped to the pixels that some receptive field reaches."""
    config = [
        (low, (n - 1) * s + (k - 1) * d + 1 - low - size, between - 1)
        for (low, _), n, s, k, d, size, between in zip(
            grid.padding, grid.output_size, grid.stride, grid.kernel_size, grid.kernel_dilation,
            grid.dilated_size, grid.input_dilation,
        )
    ]  # fmt: skip
    return lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0), (0, 0, 0)])


def product(x: jax.Array, kernel: jax.Array, grid: Grid, groups: int, precision=None) -> jax.Array:
    """Gathers the patches: what a position sees of a group are the K numbers of a row."""
    seen = padded(x, grid)
    seen = seen.reshape(*seen.shape[:-1], groups, -1)
    patches_NGK = jnp.concatenate([seen[window] for window in grid.windows()], axis=-1)
    kernel_KGO = kernel.reshape(*grid.output_size, patches_NGK.shape[-1], groups, -1)
    y_NGO = jnp.einsum(
        '...ngk,...kgo->...ngo', patches_NGK, kernel_KGO, precision=precision,
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )  # fmt: skip
    return y_NGO.reshape(*y_NGO.shape[:-2], kernel.shape[-1]).astype(x.dtype)


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
            kernel.reshape(*grid.output_size, channels * len(grid.windows()), features),
            window_strides=grid.stride,
            padding=grid.padding,
            filter_shape=grid.kernel_size,
            lhs_dilation=grid.input_dilation,
            rhs_dilation=grid.kernel_dilation,
            dimension_numbers=(spatial + 'NC', spatial + 'IO', spatial + 'NC'),
            precision=precision,
        )

    if groups == 1:
        return one_group(x, kernel)
    grouped = (array.reshape(*array.shape[:-1], groups, -1) for array in (x, kernel))
    y = jax.vmap(one_group, in_axes=-2, out_axes=-2)(*grouped)
    return y.reshape(*y.shape[:-2], -1)
