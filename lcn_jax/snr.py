"""How alike the weights of a pool are: the paper's weight SNR, and deviations from the mean.

The SNR has no upper bound, and single weights that are equal or nearly 0 dominate it. The relative
deviation, rms(w - mean) / rms(w), is between 0, all alike, and 1, independent around 0.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcn_jax import divided, sleep
from lcn_jax.grid import Grid, Pools
from lcn_jax.kernels import for_each_member, kernels, name_of


def weight_snr(weights: jax.Array, members: jax.Array | np.ndarray | None = None) -> jax.Array:
    """The paper's weight SNR: mean over weights j of mean_i[w_ij]^2 / var_i[w_ij].

    (Pogodin et al., NeurIPS 2021.) The variance is the population variance (divided by N).

    Args:
      weights: (..., N, K), the K weights of the N neurons of a pool.
      members: of bool or 0/1, broadcastable to (..., N), or None for all: the others are padding.

    Returns:
      (...,) in the dtype of `weights`; inf where some weight is exactly equal in all members.

    Raises:
      ValueError: `weights` has fewer than two axes.
    """
    mean, var = _moments(weights, members)
    ratio = mean**2 / jnp.where(var > 0, var, 1)
    return jnp.where(var > 0, ratio, jnp.inf).mean(-1)


def layer_snrs(
    params: Any, grids: Mapping, border: str, shard_axis: str | None = None
) -> dict[str, jax.Array]:
    """The paper's weight SNR of every locally connected kernel, by module path.

    Each is the median over output features and over the pools of at least two neurons: a few
    weights that happen to be equal to rounding would dominate a mean. Of an ensemble, whose axes
    are in front of a kernel's, it is an array with one for each member. `shard_axis` is as in
    `sleep.share`.

    Raises:
      UsageError: params and grids do not fit together.
    """
    snrs = {}
    for path, part, grid in kernels(params, grids, shard_axis):
        pools = Pools.of(grid, border)
        comparable = pools.members.sum(1) > 1
        if not comparable.any():
            continue

        def median_snr(kernel, pools=pools, comparable=comparable):
            weights, members = pools.split(kernel)[comparable], pools.members[comparable]
            return jnp.median(jax.vmap(weight_snr, in_axes=(-1, None))(weights, members))

        kernel = divided.gathered(part, grid, shard_axis, after=snrs)
        snrs[name_of(path[:-1])] = for_each_member(median_snr, grid, kernel)
    return snrs


def layer_deviations(params: Any, grids: Mapping, border: str) -> dict[str, jax.Array]:
    """rms(w - mean of the pool) / rms(w) of every locally connected kernel, by module path.

    Over the weights of all neurons that are in a pool, so those that have decayed to nothing do not
    count; 0 if all have. Of an ensemble it is an array with one for each member.

    Raises:
      UsageError: params and grids do not fit together.
    """
    squares = _squares(params, grids, border)
    return {name: _ratio(*of_layer) for name, of_layer in squares.items()}


def network_deviation(
    params: Any, grids: Mapping, border: str, shard_axis: str | None = None
) -> jax.Array:
    """The same over the kernels of all layers and members; 0 if none is locally connected.

    `shard_axis` is as in `sleep.share`.
    """
    squares = _squares(params, grids, border, shard_axis).values()
    return _ratio(*(sum(jnp.sum(of_layer[i]) for of_layer in squares) for i in (0, 1)))


def _squares(params, grids, border, shard_axis=None):
    """For each layer, the sums of (w - mean)² and of w²."""
    squares = {}
    for path, part, grid in kernels(params, grids, shard_axis):

        def of_member(kernel, grid=grid):
            kernel = jnp.where(grid.in_pool(border), kernel, 0)
            kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
            from_mean = kernel - sleep.mean(kernel, grid, key=None, border=border)
            return (from_mean**2).sum(), (kernel**2).sum()

        kernel = divided.gathered(part, grid, shard_axis, after=squares)
        squares[name_of(path[:-1])] = for_each_member(of_member, grid, kernel)
    return squares


def _ratio(of_deviations, of_weights):
    return jnp.sqrt(of_deviations / jnp.where(of_weights > 0, of_weights, 1))


def deviation(kernel: jax.Array, grid: Grid, *, border: str) -> jax.Array:
    """How far each neuron's weights are from the mean of its pool.

    The root mean square over the weights of a neuron (taps × C // groups), in their units.

    Args:
      kernel: (*output, *kernel, C // groups, O).
      border: as in `Grid.pools`.

    Returns:
      (*output, O) in the kernel's dtype; NaN at positions that are in no pool.
    """
    from_mean = kernel - sleep.mean(kernel, grid, key=None, border=border)
    weights = tuple(range(grid.dimensions, kernel.ndim - 1))
    rms = jnp.sqrt((from_mean**2).mean(weights))
    return jnp.where((grid.pools(border) >= 0)[..., None], rms, jnp.nan)


def _moments(weights, members):
    """Mean and population variance over the members, (..., K) each."""
    if jnp.ndim(weights) < 2:
        raise ValueError(f'expected weights (..., N, K), got {jnp.shape(weights)}')
    members = True if members is None else jnp.asarray(members, bool)
    counted = jnp.broadcast_to(members, weights.shape[:-1])[..., None]
    # Relative to one of the members, so that equal weights have a variance of exactly 0.
    first = jnp.argmax(counted, axis=-2, keepdims=True)
    origin = jnp.take_along_axis(weights, first, axis=-2)
    offsets = weights - origin
    mean = jnp.mean(offsets, -2, keepdims=True, where=counted)
    var = jnp.mean((offsets - mean) ** 2, -2, where=counted)
    return (origin + mean)[..., 0, :], var
