"""How nearly equal the weights of a pool are: the paper's measure, and two of the authors' code."""

import jax
import jax.numpy as jnp

from lcn_jax.grid import Grid


def weight_snr(weights: jax.Array, members: jax.Array | None = None) -> jax.Array:
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


def inverse_weight_snr(weights: jax.Array, members: jax.Array | None = None) -> jax.Array:
    """Mean over weights j of var_i[w_ij] / mean_i[w_ij]^2, which the authors' simulation records.

    The mean of the inverse ratios, so not 1 / `weight_snr`. Arguments as there; a weight that is
    exactly equal in all members counts 0, one that only its mean makes vanish counts inf.
    """
    mean, var = _moments(weights, members)
    return jnp.where(var > 0, var / jnp.where(var > 0, mean, 1) ** 2, 0).mean(-1)


def interior_mean_over_std(kernel: jax.Array, grid: Grid) -> jax.Array:
    """Mean over all weights of |mean| / std over the positions that do not touch the border.

    What the authors' training logs call SNR: it is not squared, takes all positions for one pool,
    and divides the variance by N - 1. kernel: (Ho, Wo, kh, kw, C // groups, O). Returns a scalar,
    NaN if there are fewer than two such positions.
    """
    interior = kernel[~grid.touches_border()]
    return (jnp.abs(interior.mean(0)) / interior.std(0, ddof=1)).mean()


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
