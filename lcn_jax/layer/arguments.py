"""The checks of what a layer is called with; numbers and padding as one for each dimension."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Sizes = tuple[int, ...]
Edges = tuple[int, int]
Padding = str | int | Sequence[int | Sequence[int]]

LAYOUTS = ('NHWC', 'HWNC')
MOST_DIMENSIONS = 3


def sizes(value: int | Sequence[int], dimensions: int, name: str) -> Sizes:
    """`3` or `(3, 5)` -> one positive integer per dimension; ValueError, with `name`, otherwise."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dimensions
    if len(values) != dimensions or not all(_is_whole(v) and v > 0 for v in values):
        raise ValueError(
            f'{name} must be a positive integer or {dimensions} of them, one for each spatial '
            f'dimension; got {_shown(value)}.'
        )
    return tuple(int(v) for v in values)


def check_positive(value: Any, name: str) -> None:
    """ValueError, with `name`, unless it is a positive integer."""
    if not _is_whole(value) or value < 1:
        raise ValueError(f'{name} must be a positive integer, got {_shown(value)}.')


def check_number(value: Any, name: str, positive: bool = False) -> None:
    """ValueError, with `name`, unless it is finite and 0 or more; JAX arrays may be traced."""
    if isinstance(value, jax.Array):
        return
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf or (positive and value == 0):
        needed = 'positive' if positive else '0 or more'
        raise ValueError(f'{name} must be a number, {needed}, got {_shown(value)}.')


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """Its repr, which has several lines for some arrays, in one line."""
    return ' '.join(repr(value).split())


def edges_of(
    padding: Padding, axis: int, dimensions: int, size: int, reach: int, stride: int, between: int
) -> Edges:
    """(low, high) pixels of one axis, as XLA and Flax mean the names.

    size: of the dilated input. reach: pixels from the first to the last tap. between: the input
    dilation, before which circular padding comes.
    """
    if isinstance(padding, str):  # to compare an array with a name would compare its numbers
        if padding == 'VALID':
            return 0, 0
        if padding == 'SAME':
            total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
            return total // 2, total - total // 2
        if padding == 'CIRCULAR':
            return (reach - 1) // 2 * between, reach // 2 * between
        if padding == 'CAUSAL' and dimensions == 1:
            return reach - 1, 0
    edges: Any = padding
    if isinstance(padding, Sequence):
        edges = padding[axis] if len(padding) == dimensions else None
    if _is_whole(edges):
        edges = edges, edges
    if isinstance(edges, Sequence) and len(edges) == 2 and all(map(_is_whole, edges)):
        low, high = (int(edge) for edge in edges)
        if low >= 0 and high >= 0:
            return low, high
    raise ValueError(
        f"padding must be 'SAME', 'VALID', 'CIRCULAR', 'CAUSAL' (in one dimension), an integer, or "
        f'a tuple or list with an integer or (low, high) for each of {dimensions} spatial '
        f'dimensions, not negative; got {_shown(padding)}.'
    )


def spatial_size(x: Any, dimensions: int, layout: str) -> Sizes:
    """Of an input (*batch, *spatial, C), or (*spatial, N, C) in layout 'HWNC'.

    Raises:
      ValueError: x is not an array, or does not have these axes.
    """
    check_choice(layout, LAYOUTS, 'layout')
    check_array(x, 'x')
    if x.ndim <= dimensions or (layout == 'HWNC' and x.ndim != dimensions + 2):
        axes = '(*batch, *spatial, C)' if layout == 'NHWC' else '(*spatial, N, C)'
        raise ValueError(
            f'x must have axes {axes} with {dimensions} spatial ones, got shape {x.shape} '
            f'({layout}).'
        )
    return x.shape[-dimensions - 1 : -1] if layout == 'NHWC' else x.shape[:dimensions]


def check_operands(x: jax.Array, kernel: jax.Array, input_size: Sizes, layout: str) -> None:
    """ValueError if x does not have this size, or the dtypes do not fit."""
    size = spatial_size(x, len(input_size), layout)
    if size != input_size:
        raise ValueError(f'x has the spatial size {size}, but the layer is for {input_size}.')
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f'x and kernel must have one floating-point dtype, got {x.dtype} and {kernel.dtype}.'
        )


def kernel_dimensions(kernel: Any) -> int:
    """The number of spatial dimensions; ValueError if the number of axes is that of no kernel."""
    check_array(kernel, 'kernel')
    dimensions = (kernel.ndim - 2) // 2
    if kernel.ndim % 2 or not 1 <= dimensions <= MOST_DIMENSIONS:
        raise ValueError(
            'kernel must have 4, 6 or 8 axes (*output, *kernel, C // groups, O), for 1, 2 or 3 '
            f'spatial dimensions; got shape {kernel.shape}.'
        )
    return dimensions


def shared_kernel_dimensions(kernel: Any) -> int:
    """As `kernel_dimensions`, of a kernel that all positions share."""
    check_array(kernel, 'kernel')
    dimensions = kernel.ndim - 2
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise ValueError(
            'kernel must have 3, 4 or 5 axes (*kernel, C // groups, O), for 1, 2 or 3 spatial '
            f'dimensions; got shape {kernel.shape}.'
        )
    return dimensions


def check_array(value: Any, name: str) -> None:
    """ValueError, with `name`, unless it has a shape and a dtype; Flax takes no lists either.

    Arrays of PyTorch, whose methods have other arguments, are refused, too.
    """
    if type(value).__module__.partition('.')[0] == 'torch':
        raise ValueError(
            f'{name} must be an array, got a tensor of PyTorch: convert it with '
            '.detach().cpu().numpy().'
        )
    if not (hasattr(value, 'shape') and hasattr(value, 'dtype')):
        raise ValueError(
            f'{name} must be an array, got {type(value).__name__}: convert it with jax.numpy.array.'
        )


def check_shape(array: Any, shape: Sizes, name: str, of: str) -> None:
    """ValueError, with `name`, unless it is an array of this shape, that `of` something."""
    check_array(array, name)
    if array.shape != shape:
        raise ValueError(f'{name} must have the shape of the {of}, {shape}, got {array.shape}.')


def check_choice(value: Any, choices: Sequence[Any], name: str) -> None:
    """ValueError, with `name`, unless it is one of the choices."""
    if value not in choices:
        raise ValueError(f'{name} must be one of {tuple(choices)}, got {_shown(value)}.')


def check_groups(groups: int, channels: int, features: int, name: str) -> None:
    """ValueError, with the `name` of the argument, unless groups divide channels and features."""
    check_positive(groups, name)
    if channels % groups or features % groups:
        raise ValueError(
            f'{name} must divide channels and features: {groups} groups, {channels} channels, '
            f'{features} features.'
        )
