"""Arrays to look at: positions whose kernels a sleep makes alike, and how far each still is."""

import jax
import jax.numpy as jnp
import numpy as np

from lcn_jax import sleep
from lcn_jax.grid import Grid


def positions_of_a_pool(grid: Grid, count: int, *, border: str) -> np.ndarray:
    """(n, 2) int: rows and columns of n <= `count` positions, spread over the largest pool.

    n < count if the pool has no more. `border` is that of `Grid.pools`.

    Raises:
      ValueError: no position is in a pool, for all reach into the padding and are left out.
    """
    pools = grid.pools(border)
    if (pools < 0).all():
        raise ValueError('all positions reach into the padding and none is in a pool.')
    members = np.argwhere(pools == np.bincount(pools[pools >= 0]).argmax())
    chosen = np.linspace(0, len(members) - 1, min(count, len(members)))
    return members[chosen.round().astype(int)]


def deviation(kernel: jax.Array, grid: Grid, *, border: str) -> jax.Array:
    """How far each neuron's weights are from the mean of its pool.

    The root mean square over the kh·kw·C // groups weights of a neuron, in their units.

    Args:
      kernel: (Ho, Wo, kh, kw, C // groups, O).
      border: that of `Grid.pools`.

    Returns:
      (Ho, Wo, O) in the kernel's dtype; NaN where a position is in no pool.
    """
    from_mean = kernel - sleep.mean(kernel, grid, key=None, border=border)
    in_pool = (grid.pools(border) >= 0)[..., None]
    return jnp.where(in_pool, jnp.sqrt((from_mean**2).mean((2, 3, 4))), jnp.nan)
