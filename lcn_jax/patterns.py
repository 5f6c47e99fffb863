"""What the pools of a layer see of a pattern, and the Hebbian rule for given patterns.

A pattern (*kernel, C) tiles the plane (`grid.py`). Shape suffixes as in `sleep.py`: P pools, M
members of a pool (padded), K weights of a neuron, O features, G groups, B patterns in a step, S
steps; V sets of weights that are not on inserted zeros.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lcn_jax.grid import Grid, Pools


def hebbian_for(
    kernel: jax.Array,
    grid: Grid,
    patterns: jax.Array,
    *,
    border: str,
    gamma: float,
    learning_rate: float,
    momentum: float = 0.0,
    axis_name: str | None = None,
) -> jax.Array:
    """`hebbian` for given patterns (S, B, *kernel, C), or C // groups channels for all groups.

    With `axis_name` they are a device's part of the patterns of all devices along that axis.

    The rule keeps the mean of a pool and is linear in a neuron's deviation from it, and all pools
    of a layer see the values of the same patterns, in other orders. So a whole sleep is one K×K
    matrix, the rule applied to the identity, which multiplies every deviation.
    """
    inputs_GSBK = by_group(patterns, kernel, grid)

    def sleep_map(inputs_SBK):
        identity = jnp.eye(inputs_SBK.shape[-1], dtype=kernel.dtype)

        def step(carry, x_BK):
            deviation, velocity = carry
            hebb = x_BK.T @ (x_BK @ deviation) / len(x_BK)
            if axis_name is not None:
                hebb = lax.pmean(hebb, axis_name)
            gradient = hebb + gamma * (deviation - identity)
            velocity = momentum * velocity + learning_rate * gradient
            return (deviation - velocity, velocity), None

        return lax.scan(step, (identity, jnp.zeros_like(identity)), inputs_SBK)[0][0]

    return map_deviations(kernel, grid, border, sleep_map, inputs_GSBK)


def patches_of_pools(grid: Grid, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(P, K) int and bool: the value of a flat pattern (*kernel, C) at each weight of a pool.

    False where the weight does not see it, because input dilation inserts a zero there.
    """
    values_PT, on_pixel_PT = grid.patches()
    order_PTC = values_PT[:, :, None] * channels + np.arange(channels)
    on_pixel_PK = np.repeat(on_pixel_PT, channels, axis=1)
    return order_PTC.reshape(len(order_PTC), -1), on_pixel_PK


def by_group(patterns: jax.Array, kernel: jax.Array, grid: Grid) -> jax.Array:
    """(S, B, *kernel, C) -> (groups, S, B, K)."""
    channels = kernel.shape[-2]
    fits = patterns.ndim == grid.dimensions + 3 and patterns.shape[2:-1] == grid.kernel_size
    if not fits or patterns.shape[-1] % channels:
        size = ', '.join(map(str, grid.kernel_size))
        raise ValueError(
            f'patterns must have shape (steps, patterns, {size}, C) with C a multiple of the '
            f"kernel's {channels} channels, got {patterns.shape}."
        )
    grouped = patterns.reshape(*patterns.shape[:-1], -1, channels)
    return jnp.moveaxis(grouped, -2, 0).reshape(
        -1, *patterns.shape[:2], math.prod(grid.kernel_size) * channels
    )


def map_deviations(
    kernel: jax.Array, grid: Grid, border: str, sleep_map: Callable, inputs_GSBK: jax.Array
) -> jax.Array:
    """Multiplies each neuron's deviation from its pool's mean by a matrix.

    `sleep_map(inputs_SBK)` is that matrix (K, K) for what the values of the pattern are, which each
    pool sees in an order of its own. With input dilation it sees only some of them.
    """
    order_PK, on_pixel_PK = patches_of_pools(grid, kernel.shape[-2])
    seen_PK = np.zeros_like(on_pixel_PK)  # by number in the pattern
    np.put_along_axis(seen_PK, order_PK, on_pixel_PK, axis=1)
    seen_VK, which_P = np.unique(seen_PK, axis=0, return_inverse=True)
    maps_GVKK = jax.vmap(
        lambda inputs: jax.vmap(lambda seen: sleep_map(jnp.where(seen, inputs, 0)))(seen_VK)
    )(inputs_GSBK)
    maps_GPKK = maps_GVKK[:, which_P.reshape(-1, 1, 1), order_PK[:, :, None], order_PK[:, None, :]]
    pools = Pools.of(grid, border)
    weights_PMKO = pools.split(kernel)
    means = pools.means(weights_PMKO)
    deviations = weights_PMKO - means
    grouped = deviations.reshape(*deviations.shape[:3], len(maps_GPKK), -1)
    mapped = jnp.einsum('gpjk,pmkgo->pmjgo', maps_GPKK, grouped)
    return pools.join(means + mapped.reshape(deviations.shape), kernel)
