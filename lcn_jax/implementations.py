"""Which implementation computes a layer."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lcn_jax import bilinear, native, patches
from lcn_jax.grid import Grid

IMPLEMENTATIONS = (*bilinear.IMPLEMENTATIONS, 'lax')


# Of a position, from which on one product is faster than a sum of one for each tap, and its copies
# of x are small beside the kernels.
MANY_WEIGHTS = 16384


def default_implementation(weights: tuple[int, ...], dtype: Any = jnp.float32) -> str:
    """The implementation that None stands for, on the default backend.

    It is 'patches', except on CPU: there it is 'native'. If that is not available or does not
    compute in the dtype, it is the faster of the others: 'patches' for kernels of size 1 and where
    a position has MANY_WEIGHTS or more (measured with `experiments.benchmark`), else 'direct'.

    Args:
      weights: the shape (*kernel, C // groups, O) of the weights of a position.
      dtype: of the computation.
    """
    if jax.default_backend() != 'cpu':
        return 'patches'
    if native.computes(dtype):
        return 'native'
    one_tap = math.prod(weights[:-2]) == 1
    return 'patches' if one_tap or math.prod(weights) >= MANY_WEIGHTS else 'direct'


def implementations(dtype: Any = jnp.float32) -> tuple[str, ...]:
    """Those of IMPLEMENTATIONS that work here in this dtype."""
    return tuple(name for name in IMPLEMENTATIONS if name != 'native' or native.computes(dtype))


def compute(
    x: jax.Array,
    kernel: jax.Array,
    grid: Grid,
    groups: int,
    precision: Any,
    implementation: str | None,
) -> jax.Array:
    """The layer without circular padding, of arrays as in `bilinear.py`."""
    weights = kernel.shape[grid.dimensions :]
    implementation = implementation or default_implementation(weights, x.dtype)
    if implementation == 'lax':
        return patches.reference(x, kernel, grid, groups, precision)
    if _is_partitioned(x, kernel):
        return patches.recomputed(x, kernel, grid, groups, precision)
    return bilinear.apply(
        x, kernel, grid=grid, groups=groups, precision=precision, implementation=implementation
    )


def _is_partitioned(*arrays: jax.Array) -> bool:
    """On a mesh where the types of arrays say how they are split, operations must be plain JAX."""
    explicit = jax.sharding.AxisType.Explicit
    return any(explicit in jax.typeof(array).sharding.mesh.axis_types for array in arrays)
