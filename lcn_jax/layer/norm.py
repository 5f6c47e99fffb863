"""BatchNorm, shared by all positions or with nothing shared.

    y[n, p, o] = scale[p, o] · (x[n, p, o] - mean[p, o]) / sqrt(var[p, o] + ε) + bias[p, o]

for the feature o at position p. Mean and variance are over the examples n of a batch, or running
averages of them. The BatchNorm of convolutional networks takes them over the positions, too, and
has one scale and bias for all of them, which is weight sharing.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lcn_jax.layer.backends.sums import scaled, summed
from lcn_jax.layer.grid import Grid


def moments(
    x: jax.Array, axes: tuple[int, ...], axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance over `axes`, which keep size 1, in float32 at least.

    Those of all devices along `axis_name`, if there is one.
    """
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    zeros = jnp.zeros(shape, jnp.promote_types(x.dtype, jnp.float32))
    count = x.size // zeros.size
    square, mean = (of_all / count for of_all in summed(x, zeros, x, axes))
    if axis_name is not None:
        square, mean = lax.pmean((square, mean), axis_name)
    return mean, jnp.maximum(0, square - mean**2)


def normalised(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    axes: tuple[int, ...],
    epsilon: float,
) -> jax.Array:
    """y, in the dtype of x; the other arrays are as in `moments`."""
    scale *= lax.rsqrt(var + epsilon)
    center = lax.stop_gradient(mean)  # through which no gradient goes: its own is added to the bias
    return scaled(x, center, scale, bias + (center - mean) * scale, axes)


class BatchNorm(nn.Module):
    """BatchNorm with the parameters `scale`, `bias` and statistics `mean`, `var` of Flax's.

    On CPU, where there is a compiler, the sums over examples and positions are taken in C++.
    `axis` names the axes of x that have statistics of their own, the last one among them;
    `axis_name` that of devices whose examples are taken together. The other fields are Flax's.
    """

    use_running_average: bool
    axis: int | Sequence[int] = -1
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        own = {axis % x.ndim for axis in jax.tree.leaves(self.axis)}
        over = tuple(axis for axis in range(x.ndim) if axis not in own)
        shape = tuple(x.shape[axis] for axis in sorted(own))
        mean = self.variable('batch_stats', 'mean', jnp.zeros, shape, jnp.float32)
        var = self.variable('batch_stats', 'var', jnp.ones, shape, jnp.float32)
        scale = self.param('scale', nn.initializers.ones, shape)
        bias = self.param('bias', nn.initializers.zeros, shape)
        x = x.astype(self.dtype or x.dtype)
        if self.use_running_average:
            means, variances = (jnp.expand_dims(of.value, over) for of in (mean, var))
        else:
            axis_name = None if self.is_initializing() else self.axis_name
            means, variances = moments(x, over, axis_name)
            if not self.is_initializing():
                for average, new in ((mean, means), (var, variances)):
                    new = (1 - self.momentum) * new.squeeze(over)
                    average.value = self.momentum * average.value + new
        scale, bias = (jnp.expand_dims(values, over) for values in (scale, bias))
        return normalised(x, means, variances, scale, bias, over, self.epsilon)


class LocalNorm(BatchNorm, kw_only=True):
    """BatchNorm for the outputs of a locally connected layer, in which positions share nothing.

    `axis` must name all axes but that of the examples. The parameters are `scale` and `bias`, the
    statistics `mean` and `var`, all (*output, O). A sleep makes scales and biases of a pool alike,
    as it does kernels; `layer` is the grid of the layer, which says what the pools are. Statistics
    are the neuron's own at all times.
    """

    layer: Grid

    def value_grids(self, x: jax.Array) -> dict[str, Grid]:
        """The grid of the layer for each of the parameters, which have one value per neuron."""
        del x
        return dict.fromkeys(('scale', 'bias'), self.layer)
