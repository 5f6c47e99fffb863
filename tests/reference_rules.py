"""Slow forms of the sleep rules, written as they are defined, and the authors' measures of sharing.

The fast forms in `lcn_jax/sleep.py` and `lcn_jax/snr.py` are compared with them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lcn_jax.layer.grid import Grid
from lcn_jax.sleep.patterns import Field, grouped_patterns, map_deviations, seen_weights
from lcn_jax.sleep.pools import Pools
from lcn_jax.sleep.similarity import _moments


def exact_for(
    kernel: jax.Array, grid: Grid, patterns: jax.Array, *, border: str, gamma: float
) -> jax.Array:
    """The fixed point for given patterns (S, B, kh, kw, C or C // groups), shown again and again.

    With C = E[x xᵀ]:  w* = (C + gamma I)⁻¹ (C mean_j w_j + gamma w), so the mean of a pool stays
    and the deviations are multiplied by gamma (C + gamma I)⁻¹. gamma must be positive.
    """

    field = Field.of(kernel, grid)

    def map_of(inputs_SBK, seen_K):
        x = jnp.where(seen_K, inputs_SBK, 0).reshape(-1, field.weights)
        identity = jnp.eye(field.weights, dtype=kernel.dtype)
        covariance = x.T @ x / len(x)
        return gamma * jnp.linalg.solve(covariance + gamma * identity, identity)

    of_sets = jax.vmap(map_of, (None, 0))
    maps_GVKK = jax.vmap(of_sets, (0, None))(
        grouped_patterns(patterns, kernel, grid), field.seen_VK
    )
    return map_deviations(kernel, grid, border, maps_GVKK)


def hebbian_stepwise(
    kernel: jax.Array,
    grid: Grid,
    patterns: jax.Array,
    *,
    border: str,
    gamma: float,
    learning_rate: float,
    momentum: float = 0.0,
) -> jax.Array:
    """`hebbian_for` neuron by neuron, as the rule is written: slow, the reference for tests.

    One group only: patterns (S, B, kh, kw, C).
    """
    pools = Pools.of(grid, border)
    start_PMKO = pools.split(kernel)
    order_PK, on_pixel_PK = seen_weights(grid, kernel.shape[-2])

    def means_BP1O(z_BPMO):
        in_pool_PM1 = pools.members[..., None]
        total_BP1O = jnp.where(in_pool_PM1, z_BPMO, 0).sum(2, keepdims=True)
        return total_BP1O / np.maximum(in_pool_PM1.sum(1, keepdims=True), 1).astype(z_BPMO.dtype)

    def step(carry, pattern):
        weights, velocity = carry
        x_BPK = jnp.where(on_pixel_PK, pattern.reshape(len(pattern), -1)[:, order_PK], 0)
        z_BPMO = jnp.einsum('bpk,pmko->bpmo', x_BPK, weights)
        deviation = z_BPMO - means_BP1O(z_BPMO)
        hebb = jnp.einsum('bpmo,bpk->pmko', deviation, x_BPK) / len(pattern)
        velocity = momentum * velocity + learning_rate * (hebb + gamma * (weights - start_PMKO))
        return (weights - velocity, velocity), None

    (weights, _), _ = lax.scan(step, (start_PMKO, jnp.zeros_like(start_PMKO)), patterns)
    return pools.join(weights, kernel)


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
