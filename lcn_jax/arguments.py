"""The checks of what a layer is called with; numbers and padding as one for each dimension."""

import functools
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
            f'dimension; got {value!r}.'
        )
    return tuple(int(v) for v in values)


def _is_whole(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def edges_of(
    padding: Padding, axis: int, dimensions: int, size: int, reach: int, stride: int, between: int
) -> Edges:
    """(low, high) pixels of one axis, as XLA and Flax mean the names.

    size: of the dilated input. reach: pixels from the first to the last tap. between: the input
    dilation, before which circular padding comes.
    """
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
        f'an integer or (low, high) for each of {dimensions} spatial dimensions, not negative; got '
        f'{padding!r}.'
    )


def check_operands(x: jax.Array, kernel: jax.Array, layout: str) -> int:
    """The number of spatial dimensions; ValueError if the axes or the dtypes do not fit."""
    check_layout(layout)
    dimensions = (kernel.ndim - 2) // 2
    if kernel.ndim % 2 or not 1 <= dimensions <= MOST_DIMENSIONS:
        raise ValueError(
            'kernel must have 4, 6 or 8 axes (*output, *kernel, C // groups, O), for 1, 2 or 3 '
            f'spatial dimensions; got shape {kernel.shape}.'
        )
    if x.ndim <= dimensions or (layout == 'HWNC' and x.ndim != dimensions + 2):
        axes = '(*batch, *spatial, C)' if layout == 'NHWC' else '(*spatial, N, C)'
        raise ValueError(
            f'x must have axes {axes} with {dimensions} spatial ones, as the kernel of shape '
            f'{kernel.shape} has; got shape {x.shape} ({layout}).'
        )
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f'x and kernel must have one floating-point dtype, got {x.dtype} and {kernel.dtype}.'
        )
    return dimensions


def check_layout(layout: str) -> None:
    """ValueError unless it is one of LAYOUTS."""
    if layout not in LAYOUTS:
        raise ValueError(f'layout must be one of {LAYOUTS}, got {layout!r}.')


def check_groups(groups: int, channels: int, features: int, name: str) -> None:
    """ValueError, with the `name` of the argument, unless groups divide channels and features."""
    if groups < 1 or channels % groups or features % groups:
        raise ValueError(
            f'{name} must divide channels and features: {groups} groups, {channels} channels, '
            f'{features} features.'
        )


def check_precision(precision: Any) -> None:
    """ValueError unless `jax.lax.dot_general` takes it."""
    if precision is None:
        return
    try:
        jax.eval_shape(functools.partial(jnp.dot, precision=precision), np.ones(1), np.ones(1))
    except (TypeError, ValueError):
        raise ValueError(
            f"precision must be None, 'default', 'high' or 'highest', or what else "
            f'jax.lax.dot_general takes; got {precision!r}.'
        ) from None
