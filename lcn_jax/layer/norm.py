"""BatchNorm that shares nothing: each neuron has its own statistics, scale and bias.

    y[n, p, o] = scale[p, o] · (x[n, p, o] - mean[p, o]) / sqrt(var[p, o] + ε) + bias[p, o]

for the feature o at position p. Mean and variance are over the examples n of a batch, or running
averages of them. The BatchNorm of convolutional networks takes them over the positions, too, and
has one scale and bias for all of them, which is weight sharing.
"""

import flax.linen as nn
import jax

from lcn_jax.layer.grid import Grid


class LocalNorm(nn.BatchNorm, kw_only=True):
    """`flax.linen.BatchNorm` for the outputs of a locally connected layer.

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
