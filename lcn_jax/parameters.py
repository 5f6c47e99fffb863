"""Shapes and initial values of the parameters of a layer, for Linen and for NNX."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lcn_jax.arguments import (
    LAYOUTS,
    Padding,
    Sizes,
    check_array,
    check_choice,
    check_groups,
    check_shape,
)  # fmt: skip
from lcn_jax.grid import Grid
from lcn_jax.interop import kernel_from_convlocal

Steps = int | Sequence[int] | None  # of every spatial dimension; None, as in Flax, is 1


def spatial_size(x: Any, kernel_size: int | Sequence[int], layout: str) -> tuple[int, ...]:
    """Of an input like x, of which an integer kernel size says that it has one batch axis.

    Raises:
      ValueError: x is no array, or has too few axes, or too many in layout 'HWNC'.
    """
    check_choice(layout, LAYOUTS, 'layout')
    check_array(x, 'x')
    shape = x.shape
    rank = len(kernel_size) if isinstance(kernel_size, Sequence) else max(len(shape) - 2, 1)
    size = shape[-rank - 1 : -1] if layout == 'NHWC' else shape[:-2]
    if len(size) != rank:
        raise ValueError(
            f'x of shape {shape} ({layout}) does not have the {rank} spatial dimensions of '
            f'kernel_size={kernel_size}.'
        )
    return tuple(size)


def make_grid(
    input_size: int | Sequence[int],
    kernel_size: int | Sequence[int],
    strides: Steps,
    padding: Padding,
    kernel_dilation: Steps,
    input_dilation: Steps,
) -> Grid:
    """The geometry of a layer with the arguments of Flax."""
    strides, kernel_dilation, input_dilation = (
        1 if steps is None else steps for steps in (strides, kernel_dilation, input_dilation)
    )
    return Grid.create(input_size, kernel_size, strides, padding, kernel_dilation, input_dilation)


def parameter_shapes(
    grid: Grid, channels: int, features: int, groups: int, local_bias: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the kernel and of the bias.

    Raises:
      ValueError: groups do not divide channels and features.
    """
    check_groups(groups, channels, features, 'feature_group_count')
    kernel = (*grid.output_size, *grid.kernel_size, channels // groups, features)
    return kernel, (*grid.output_size, features) if local_bias else (features,)


def he_normal(
    key: jax.Array, shape: Sequence[int], dtype=jnp.float32, dimensions: int = 2
) -> jax.Array:
    """Normal with std sqrt(2 / (O·T)): He's fan-out over the T taps of one position.

    `shape` is (*kernel, C // groups, O) with this many spatial dimensions, and (*output) in front
    if the kernel is locally connected.
    (Flax's own initialisers would count the positions as part of the receptive field.)
    """
    *taps, _, features = shape[-dimensions - 2 :]
    # Drawing the same numbers in their full shape would take XLA one more second to compile.
    two_axes = (math.prod(shape[: -dimensions - 2]), math.prod(shape[-dimensions - 2 :]))
    normal = jax.random.normal(key, two_axes, dtype)
    return math.sqrt(2 / (features * math.prod(taps))) * normal.reshape(shape)


def local_he_normal(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
    """`he_normal` of a kernel (*output, *kernel, C // groups, O)."""
    return he_normal(key, shape, dtype, dimensions=len(shape) // 2 - 1)


def initial_kernel(kernel_init: Callable, key: jax.Array, shape: Sizes, dtype: Any) -> jax.Array:
    """`kernel_init(key, shape, dtype)`, which may give the layout of `flax.linen.ConvLocal`.

    It may also put the array into a box, as `flax.linen.with_partitioning` does.

    Raises:
      ValueError: it gives no array of one of the two shapes.
    """

    def converted(kernel):
        kernel = as_kernel(kernel, shape, 'the result of kernel_init')
        check_shape(kernel, shape, 'the result of kernel_init', 'kernel')
        return kernel

    return jax.tree.map(converted, kernel_init(key, shape, dtype))


def initial_bias(bias_init: Callable, key: jax.Array, shape: Sizes, dtype: Any) -> jax.Array:
    """`bias_init(key, shape, dtype)`; ValueError if it gives another shape."""
    bias = bias_init(key, shape, dtype)
    for array in jax.tree.leaves(bias):  # it may be in a box
        check_shape(array, shape, 'the result of bias_init', 'bias')
    return bias


def tile_kernel(kernel: jax.Array, output_size: Sequence[int]) -> jax.Array:
    """A convolution kernel (*kernel, C // groups, O) at every position: (*output, *kernel, ..., O).

    A kernel (kh, kw, C // groups, O) becomes (Ho, Wo, kh, kw, C // groups, O).
    """
    return jnp.broadcast_to(kernel, (*output_size, *kernel.shape))


def as_kernel(array: Any, shape: Sequence[int], name: str) -> Any:
    """An array like a kernel, or like one of ConvLocal -> (*output, *kernel, C, O).

    Raises:
      ValueError: with `name`, if it is no array.
    """
    check_array(array, name)
    rank = len(shape) // 2 - 1
    if array.ndim == rank + 2:
        return kernel_from_convlocal(array, shape[rank : 2 * rank])
    return array


def add_bias(y: jax.Array, bias: jax.Array | None, layout: str) -> jax.Array:
    """y plus a bias (O,) or (*output, O)."""
    if bias is None:
        return y
    if layout == 'HWNC' and bias.ndim > 1:
        bias = bias[..., None, :]
    return y + bias
