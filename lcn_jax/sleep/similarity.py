"""How alike the weights of a pool are: the paper's weight SNR, and deviations from the mean.

The SNR has no upper bound, and single weights that are equal or nearly 0 dominate it. The relative
deviation, rms(w - mean) / rms(w), is between 0, all alike, and 1, independent around 0.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcn_jax.layer.each_local import each_local
from lcn_jax.layer.local_parameters import kernels, name_of
from lcn_jax.sleep.pools import Neurons, Pools, in_pool, pool_numbers


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


def layer_snrs(params: Any, grids: Mapping, border: str) -> dict[str, jax.Array]:
    """The paper's weight SNR of every locally connected kernel, by module path.

    Each is the median over output features and over the pools of at least two neurons: a few
    weights that happen to be equal to rounding would dominate a mean. Of an ensemble it is an array
    with one for each copy.

    Raises:
      ValueError: params and grids do not fit together.
    """

    def median_snr(_, local, kernel):
        pools = Pools.of(local, border)
        comparable = pools.members.sum(1) > 1
        if not comparable.any():
            return None
        weights, members = pools.split(kernel)[comparable], pools.members[comparable]
        return jnp.median(jax.vmap(weight_snr, in_axes=(-1, None))(weights, members))

    snrs = each_local(median_snr, kernels(grids), params)
    return {name_of(path[:-1]): snr for path, snr in snrs.items() if snr is not None}


def layer_deviations(params: Any, grids: Mapping, border: str) -> dict[str, jax.Array]:
    """rms(w - mean of the pool) / rms(w) of every locally connected kernel, by module path.

    Over all neurons that are in a pool; weights that have decayed to zero contribute nothing, and 0
    if all have. Of an ensemble it is an array with a value for each copy.

    Raises:
      ValueError: params and grids do not fit together.
    """
    squares = _squares(params, grids, border)
    return {name_of(path[:-1]): _ratio(*of_layer) for path, of_layer in squares.items()}


def network_deviation(params: Any, grids: Mapping, border: str) -> jax.Array:
    """The same over the kernels of all layers and members; 0 if none is locally connected."""
    squares = _squares(params, grids, border).values()
    return _ratio(*(sum(jnp.sum(of_layer[i]) for of_layer in squares) for i in (0, 1)))


def _squares(params, grids, border):
    """For each layer, the sums of (w - mean)² and of w²."""

    def sums(_, local, kernel):
        kernel = jnp.where(in_pool(local, border), kernel, 0)
        kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
        from_mean = kernel - Pools.of(local, border).averaged(kernel)
        return (from_mean**2).sum(), (kernel**2).sum()

    return each_local(sums, kernels(grids), params)


def _ratio(of_deviations, of_weights):
    return jnp.sqrt(of_deviations / jnp.where(of_weights > 0, of_weights, 1))


def deviation(kernel: jax.Array, neurons: Neurons, *, border: str) -> jax.Array:
    """How far each neuron's weights are from the mean of its pool.

    The root mean square over the weights of a neuron (taps × C // groups), in their units.

    Args:
      kernel: (*output, *kernel, C // groups, O).
      neurons, border: as in `pool_numbers`.

    Returns:
      (*output, O) in the kernel's dtype; NaN at positions that are in no pool.
    """
    from_mean = kernel - Pools.of(neurons, border).averaged(kernel)
    weights = tuple(range(neurons.dimensions, kernel.ndim - 1))
    rms = jnp.sqrt((from_mean**2).mean(weights))
    return jnp.where((pool_numbers(neurons, border) >= 0)[..., None], rms, jnp.nan)


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
