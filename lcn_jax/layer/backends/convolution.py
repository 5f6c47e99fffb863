"""The layer whose positions share one kernel and its gradients in plain JAX: convolutions of XLA.

Arrays as in `bilinear.py`, with kernels (*kernel, C, O).
"""

import jax
from jax import lax

from lcn_jax.layer.grid import Grid


def forward(
    x: jax.Array, kernel: jax.Array, grid: Grid, groups: int, layout: str = 'HWNC'
) -> jax.Array:
    """y; of x (N, *input, groups·C), if the layout is 'NHWC'."""
    spatial = 'XYZ'[: grid.dimensions]
    axes = f'{spatial}NC' if layout == 'HWNC' else f'N{spatial}C'
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=grid.stride,
        padding=grid.padding,
        lhs_dilation=grid.input_dilation,
        rhs_dilation=grid.kernel_dilation,
        dimension_numbers=(axes, f'{spatial}IO', axes),
        feature_group_count=groups,
    )


def input_gradient(dy: jax.Array, kernel: jax.Array, grid: Grid, groups: int) -> jax.Array:
    """dx."""
    channels = groups * kernel.shape[-2]
    x = jax.ShapeDtypeStruct((*grid.input_size, dy.shape[-2], channels), dy.dtype)
    return jax.linear_transpose(lambda x: forward(x, kernel, grid, groups), x)(dy)[0]


def kernel_gradient(x: jax.Array, dy: jax.Array, grid: Grid, groups: int) -> jax.Array:
    """dkernel, summed over the positions."""
    weights = x.shape[-1] // groups, dy.shape[-1]
    kernel = jax.ShapeDtypeStruct((*grid.kernel_size, *weights), x.dtype)
    return jax.linear_transpose(lambda kernel: forward(x, kernel, grid, groups), kernel)(dy)[0]
