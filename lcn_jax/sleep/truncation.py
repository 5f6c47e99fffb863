"""A sharing rule that leaves each pool a few kernels instead of one: `low_rank`.

The kernels of a pool of M neurons, in a matrix M × (weights · features), become its mean plus the
best approximation of rank K - 1 of the deviations from it, in the sense of least squares:

    W -> m + U U^T (W - m),     U the K - 1 leading left singular vectors of W - m.

So they are weighted sums of K kernels, one of them the mean with weight 1. It stays, since the
deviations of a pool sum to 0, and with them the columns of U. Rank 1 is the rule `mean`. The best
approximation of rank K of W itself would have as many kernels, but move the mean, and rank 1 would
not be a convolution. If all positions are one pool, the layer is one of `layer/low_rank.py`, but
the mixing weights of a position are free here. No plasticity that would do this is known: it shows
how much of what neurons learn apart is worth keeping.
"""

import jax
import jax.numpy as jnp

from lcn_jax.layer.arguments import check_positive
from lcn_jax.sleep.pools import Neurons, Pools, in_pool


def low_rank(
    kernel: jax.Array, neurons: Neurons, key: jax.Array | None, *, border: str, rank: int
) -> jax.Array:
    """Each pool of a kernel (*output, *kernel, C // groups, O) truncated to `rank` kernels.

    Not random: `key` is unused. U comes from the eigenvectors of the products of deviations, M × M,
    or of weights if they are fewer: of the order of n³ operations for the smaller number n, and n²
    times the larger. Joined pools have all positions in one: 32×32 of them take about 0.3 s on two
    CPU cores, 56×56 take 4 s. Sums are in float32 at least.

    Raises:
      ValueError: the rank is not a positive integer.
    """
    check_positive(rank, 'rank')
    pools = Pools.of(neurons, border)
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    means = pools.averaged(wide)
    deviations = pools.split(wide - means)  # (P, M, weights, O)
    matrix_PMR = deviations.reshape(*deviations.shape[:2], -1)
    matrix_PMR = jnp.where(pools.members[..., None], matrix_PMR, 0)
    kept_PMR = _truncated(matrix_PMR, rank - 1)
    kept = pools.join(kept_PMR.reshape(deviations.shape), jnp.zeros_like(wide))
    shared = (means + kept).astype(kernel.dtype)
    return jnp.where(in_pool(neurons, border), shared, kernel)


def _truncated(matrix: jax.Array, rank: int) -> jax.Array:
    """The best approximation of matrices (..., M, R) of this rank, which may exceed theirs."""
    if rank == 0:
        return jnp.zeros_like(matrix)
    if matrix.shape[-2] > matrix.shape[-1]:
        return _truncated(matrix.mT, rank).mT
    gram = jnp.matmul(matrix, matrix.mT, precision='highest')
    _, vectors = jnp.linalg.eigh(gram)  # in ascending order of their eigenvalues
    leading = vectors[..., -rank:]
    projected = jnp.matmul(leading.mT, matrix, precision='highest')
    return jnp.matmul(leading, projected, precision='highest')
