"""How local the weights of neurons are that could see far."""

import math
from typing import Any

import numpy as np

from lcn_jax.layer.grid import Grid


def radius(kernel: Any, grid: Grid, shuffled: np.random.Generator | None = None) -> float:
    """The radius of the squared weights of neurons around their own centre, in pixels.

    With e(x) the squared weights of a neuron at pixel x, summed over channels and divided by their
    total, and c = Σ e x, it is the square root of the mean over neurons of Σ e |x - c|². Distances
    are those on the plane of the image, even if the padding is circular. Taps in the padding, and
    neurons whose weights are all 0, do not count.

    With `shuffled`, the shares of each pixel are first shuffled over all neurons that see it. What
    is left is the radius of neurons without fields of their own. It may be smaller than that of
    the image: few weights have a smaller radius, and pixels that never change have no weights.

    Args:
      kernel: (*output, *kernel, C // groups, O), without input dilation.
    """
    shares, pixels, seen = _shares_and_pixels(kernel, grid)
    if shuffled is not None:
        at = np.where(seen, pixels @ np.cumprod((1, *grid.input_size[:-1])), -1)
        for pixel in np.unique(at[seen]):
            shares[at == pixel] = shuffled.permuted(shares[at == pixel].ravel()).reshape(
                -1, shares.shape[-1]
            )
        shares = _divided_by_sum(shares)
    centre = np.einsum('pto,ptd->pod', shares, pixels)
    square = np.einsum('pto,ptd->po', shares, pixels**2.0)
    alive = shares.any(1)
    return float(np.sqrt((square - (centre**2).sum(-1))[alive].mean()))


def _shares_and_pixels(kernel, grid):
    """e (P, T, O) for P positions with T taps, pixels (P, T, D), and which of them exist (P, T)."""
    positions, taps = math.prod(grid.output_size), math.prod(grid.kernel_size)
    squares = np.asarray(kernel, float) ** 2
    squares = squares.reshape(positions, taps, *kernel.shape[-2:]).sum(2)
    of_axes = []
    for axis, (size, dilation) in enumerate(zip(grid.input_size, grid.kernel_dilation)):
        at = grid.starts(axis)[:, None] + np.arange(grid.kernel_size[axis]) * dilation
        of_axes.append(at % size if grid.circular else at)
    places = np.indices(grid.output_size).reshape(grid.dimensions, -1, 1)
    offsets = np.indices(grid.kernel_size).reshape(grid.dimensions, 1, -1)
    pixels = np.stack([at[p, o] for at, p, o in zip(of_axes, places, offsets)], axis=-1)
    seen = np.logical_and.reduce((pixels >= 0) & (pixels < grid.input_size), axis=-1)
    return _divided_by_sum(squares * seen[..., None]), pixels, seen


def _divided_by_sum(squares):
    total = squares.sum(1, keepdims=True)
    return squares / np.where(total > 0, total, 1)
