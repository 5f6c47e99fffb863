"""Shapes and initial values of the parameters of a layer, for Linen and for NNX."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lcn_jax.layer import arguments
from lcn_jax.layer.arguments import Padding, Sizes, check_array, check_shape
from lcn_jax.layer.grid import Grid

Steps = int | Sequence[int] | None  # of every spatial dimension; None, as in Flax, is 1


def spatial_size(x: Any, kernel_size: int | Sequence[int], layout: str) -> Sizes:
    """As `arguments.spatial_size`; an integer kernel size says that x has one batch axis."""
    check_array(x, 'x')
    rank = len(kernel_size) if isinstance(kernel_size, Sequence) else max(x.ndim - 2, 1)
    return arguments.spatial_size(x, rank, layout)


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


def bias_shape(grid: Grid, features: int, local: bool) -> tuple[int, ...]:
    """(*output, O) if local, else (O,)."""
    return (*grid.output_size, features) if local else (features,)


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


def add_bias(y: jax.Array, bias: jax.Array | None, layout: str) -> jax.Array:
    """y plus a bias (O,) or (*output, O)."""
    if bias is None:
        return y
    if layout == 'HWNC' and bias.ndim > 1:
        bias = bias[..., None, :]
    return y + jnp.expand_dims(bias, range(y.ndim - bias.ndim))  # for jax_numpy_rank_promotion
