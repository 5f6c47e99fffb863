"""The layer and its gradients in plain JAX: one matrix product at each position; and the reference.

Arrays as in `bilinear.py`. Products take operands of the dtype of the layer; sums are at least
float32.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from lcn_jax.layer.arguments import Edges
from lcn_jax.layer.grid import Grid


def pad(array: jax.Array, edges: Sequence[Edges], between: Sequence[int] = ()) -> jax.Array:
    """Zeros around the first axes, and `between` their elements; negative edges crop."""
    config = [(low, high, inner) for (low, high), inner in zip(edges, between or [0] * len(edges))]
    rest = [(0, 0, 0)] * (array.ndim - len(config))
    return lax.pad(array, jnp.zeros((), array.dtype), config + rest)


def padded(x: jax.Array, grid: Grid) -> jax.Array:
    """x with padding and dilation, up to the last pixel that a position sees."""
    edges = [
        (low, seen - low - size)
        for (low, _), seen, size in zip(grid.padding, grid.seen_size, grid.dilated_size)
    ]
    return pad(x, edges, [between - 1 for between in grid.input_dilation])


def unpadded(dx: jax.Array, grid: Grid) -> jax.Array:
    """The transpose of `padded`: the gradient of its argument from that of its result."""
    edges = [
        (-low, size + low - seen)
        for (low, _), seen, size in zip(grid.padding, grid.seen_size, grid.dilated_size)
    ]
    between = tuple(slice(None, None, between) for between in grid.input_dilation)
    return pad(dx, edges)[between]


def by_group(compute: Callable, a: jax.Array, b: jax.Array, groups: int) -> jax.Array:
    """`compute` of each group; groups are the outer part of the last axis of every array."""
    if groups == 1:
        return compute(a, b)
    grouped = (array.reshape(*array.shape[:-1], groups, -1) for array in (a, b))
    result = jax.vmap(compute, in_axes=-2, out_axes=-2)(*grouped)
    return result.reshape(*result.shape[:-2], -1)


def forward(x: jax.Array, kernel: jax.Array, grid: Grid, groups: int, precision=None) -> jax.Array:
    """y: the patches, the K numbers that a position sees, times the kernel."""

    def one_group(x, kernel):
        return _product('...nk,...ko->...no', _gather(x, grid), _flat(kernel, grid), precision)

    return by_group(one_group, x, kernel, groups)


def input_gradient(
    dy: jax.Array, kernel: jax.Array, grid: Grid, groups: int, precision=None
) -> jax.Array:
    """dx: the gradient of the patches, summed where they overlap."""

    def one_group(dy, kernel):
        dpatches_NK = _product('...no,...ko->...nk', dy, _flat(kernel, grid), precision)
        wide = jnp.promote_types(dy.dtype, jnp.float32)
        return _spread(dpatches_NK.astype(wide), grid).astype(dy.dtype)

    return by_group(one_group, dy, kernel, groups)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, grid: Grid, groups: int, precision=None
) -> jax.Array:
    """dkernel: the patches times dy."""

    def one_group(x, dy):
        dkernel_KO = _product('...nk,...no->...ko', _gather(x, grid), dy, precision)
        return dkernel_KO.reshape(*grid.output_size, *grid.kernel_size, x.shape[-1], dy.shape[-1])

    return by_group(one_group, x, dy, groups)


# The T-fold patches are not kept for the derivative, which gathers them again.
recomputed = functools.partial(jax.checkpoint, static_argnums=(2, 3, 4))(forward)


def _gather(x: jax.Array, grid: Grid) -> jax.Array:
    """The patches (*output, N, K)."""
    seen = padded(x, grid)
    return jnp.concatenate([seen[window] for window in grid.windows()], axis=-1)


def _spread(dpatches_NK: jax.Array, grid: Grid) -> jax.Array:
    """The transpose of `_gather`: at each pixel the sum over the patches that it is in."""
    windows, total = grid.windows(), jnp.zeros((), dpatches_NK.dtype)
    for window, dtap in zip(windows, jnp.split(dpatches_NK, len(windows), axis=-1)):
        edges = [(pixels.start, seen - pixels.stop) for pixels, seen in zip(window, grid.seen_size)]
        total += pad(dtap, edges, [stride - 1 for stride in grid.stride])
    return unpadded(total, grid)


def _flat(kernel: jax.Array, grid: Grid) -> jax.Array:
    """(*output, *kernel, C, O) -> (*output, K, O)."""
    return kernel.reshape(*grid.output_size, -1, kernel.shape[-1])


def _product(axes: str, a: jax.Array, b: jax.Array, precision) -> jax.Array:
    """Operands and result have one dtype, sums are float32 or wider."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    product = jnp.einsum(axes, a, b, precision=precision, preferred_element_type=wide)
    return product.astype(a.dtype)


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
