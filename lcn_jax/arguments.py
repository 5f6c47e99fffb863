"""The arguments of a layer that are given as one number or as one for each spatial dimension."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Sizes = tuple[int, ...]
Edges = tuple[int, int]
Padding = str | int | Sequence[int | Sequence[int]]


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
    if not _is_whole(padding):
        named = isinstance(padding, str) or not isinstance(padding, Sequence)
        edges = None if named or len(padding) != dimensions else padding[axis]
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
