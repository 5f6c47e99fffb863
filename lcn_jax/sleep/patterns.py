"""The input that neurons get from a pattern, and the Hebbian rule for given patterns.

A pattern (*kernel, C) tiles the plane (`pools.py`). Shape suffixes as in `rules.py`: N positions, P
pools, T taps, K weights of a neuron (T × C // groups), O features, G groups, B patterns in a step,
S steps; V sets of values of the pattern that are not on inserted zeros.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lcn_jax.sleep.pools import Neurons, Pools, pool_numbers, seen_values


class Field(NamedTuple):
    """The receptive field of a layer's neurons, as far as patterns are concerned.

    shape: (*kernel, C // groups) of the weights of a neuron.
    dtype: of the weights.
    seen: the sets of values of a pattern that pools see, each as T bools; a single set of all
      values unless the input is dilated.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    seen: tuple[tuple[bool, ...], ...]

    @classmethod
    def of(cls, kernel: jax.Array, neurons: Neurons) -> 'Field':
        """Of a kernel (..., *output, *kernel, C // groups, O)."""
        seen_VT, _ = _seen(neurons)
        shape = kernel.shape[-neurons.dimensions - 2 : -1]
        return cls(shape, kernel.dtype, tuple(map(tuple, seen_VT.tolist())))

    @property
    def weights(self) -> int:
        """K."""
        return math.prod(self.shape)

    @property
    def seen_VK(self) -> np.ndarray:
        return np.repeat(self.seen, self.shape[-1], axis=1)


def hebbian_for(
    kernel: jax.Array,
    neurons: Neurons,
    patterns: jax.Array,
    *,
    border: str,
    gamma: float,
    learning_rate: float,
    momentum: float = 0.0,
) -> jax.Array:
    """`hebbian` for given patterns (S, B, *kernel, C), or C // groups channels for all groups."""

    def maps_of(inputs_SBK):
        return hebbian_maps(
            Field.of(kernel, neurons),
            lambda x_BK: x_BK,
            inputs_SBK,
            gamma=gamma,
            learning_rate=learning_rate,
            momentum=momentum,
        )

    maps_GVKK = jax.vmap(maps_of)(grouped_patterns(patterns, kernel, neurons))
    return map_deviations(kernel, neurons, border, maps_GVKK)


def hebbian_maps(
    field: Field,
    show: Callable[[Any], jax.Array],
    steps: jax.Array,
    *,
    gamma: float,
    learning_rate: float,
    momentum: float,
    axis_name: str | None = None,
) -> jax.Array:
    """A whole Hebbian sleep as matrices (V, K, K): `map_deviations` applies them.

    The patterns (B, K) of a step are `show(s)` for each s of `steps` (S, ...). With `axis_name`
    they are a device's part of the patterns of all devices along that axis.

    The rule keeps the mean of a pool and is linear in a neuron's deviation from it, and all pools
    of a layer see the values of the same patterns, in other orders. So the sleep is the rule
    applied to the identity.
    """
    identity = jnp.eye(field.weights, dtype=field.dtype)

    def sleep_map(seen_K):
        def step(carry, s):
            deviation, velocity = carry
            x_BK = jnp.where(seen_K, show(s), 0)
            if len(x_BK) < field.weights:  # whichever order has fewer products
                hebb = x_BK.T @ (x_BK @ deviation) / len(x_BK)
            else:
                hebb = (x_BK.T @ x_BK / len(x_BK)) @ deviation
            if axis_name is not None:
                hebb = lax.pmean(hebb, axis_name)
            gradient = hebb + gamma * (deviation - identity)
            velocity = momentum * velocity + learning_rate * gradient
            return (deviation - velocity, velocity), None

        return lax.scan(step, (identity, jnp.zeros_like(identity)), steps)[0][0]

    return jax.vmap(sleep_map)(field.seen_VK)


def map_deviations(
    kernel: jax.Array, neurons: Neurons, border: str, maps_GVKK: jax.Array
) -> jax.Array:
    """Multiplies each neuron's deviation from its pool's mean by the matrix of its group.

    The matrices are for weights in the order of the values of the pattern that they see.
    """
    values_PT, _ = seen_values(neurons)
    seen_VT, which_P = _seen(neurons)
    pool_N = pool_numbers(neurons).ravel()
    tap_to_value_NT = values_PT[pool_N]
    value_to_tap_NT = np.argsort(tap_to_value_NT, axis=1)
    position_N1 = np.arange(len(pool_N))[:, None]

    means = Pools.of(neurons, border).averaged(kernel)
    deviations = (kernel - means).reshape(*value_to_tap_NT.shape, -1)
    seen = deviations[position_N1, value_to_tap_NT]
    grouped = seen.reshape(len(pool_N), 1, maps_GVKK.shape[-1], len(maps_GVKK), -1)
    belongs_NV = which_P[pool_N][:, None] == np.arange(len(seen_VT))
    of_set = jnp.where(belongs_NV[:, :, None, None, None], grouped, 0)
    mapped = jnp.einsum('gvjk,nvkgo->njgo', maps_GVKK, of_set).reshape(seen.shape)
    return means + mapped[position_N1, tap_to_value_NT].reshape(kernel.shape)


def seen_weights(neurons: Neurons, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(P, K) int and bool: the value of a flat pattern (*kernel, C) at each weight of a pool.

    False where the weight does not see it, because input dilation inserts a zero there.
    """
    values_PT, on_pixel_PT = seen_values(neurons)
    order_PTC = values_PT[:, :, None] * channels + np.arange(channels)
    on_pixel_PK = np.repeat(on_pixel_PT, channels, axis=1)
    return order_PTC.reshape(len(order_PTC), -1), on_pixel_PK


def grouped_patterns(patterns: jax.Array, kernel: jax.Array, neurons: Neurons) -> jax.Array:
    """(S, B, *kernel, C) -> (groups, S, B, K)."""
    channels = kernel.shape[-2]
    fits = patterns.ndim == neurons.dimensions + 3 and patterns.shape[2:-1] == neurons.kernel_size
    if not fits or patterns.shape[-1] % channels:
        size = ', '.join(map(str, neurons.kernel_size))
        raise ValueError(
            f'patterns must have shape (steps, patterns, {size}, C) with C a multiple of the '
            f"kernel's {channels} channels, got {patterns.shape}."
        )
    grouped = patterns.reshape(*patterns.shape[:-1], -1, channels)
    return jnp.moveaxis(grouped, -2, 0).reshape(
        -1, *patterns.shape[:2], math.prod(neurons.kernel_size) * channels
    )


def _seen(neurons: Neurons) -> tuple[np.ndarray, np.ndarray]:
    """The sets of values that pools see (V, T) bool, and which of them each pool sees (P,)."""
    values_PT, on_pixel_PT = seen_values(neurons)
    seen_PT = np.zeros_like(on_pixel_PT)
    np.put_along_axis(seen_PT, values_PT, on_pixel_PT, axis=1)
    seen_VT, which_P = np.unique(seen_PT, axis=0, return_inverse=True)
    return seen_VT, which_P.ravel()
