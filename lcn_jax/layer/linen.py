"""`LocalConv`, the locally connected layer for Flax Linen."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from lcn_jax.layer import arguments, parameters
from lcn_jax.layer.arguments import Padding
from lcn_jax.layer.backends import divided
from lcn_jax.layer.functional import Layer
from lcn_jax.layer.grid import Grid


class LocalConv(nn.Module):
    """Locally connected layer for Linen: takes the place of `flax.linen.Conv` and `ConvLocal`.

    Inputs are (*batch, *spatial, C) with any number of batch axes, also none, or (*spatial, N, C)
    with `layout='HWNC'`. The parameters are `kernel` (*output, *kernel, C // groups, O) and, with
    `use_bias`, `bias`: (O,), shared by the positions as in Conv, or (*output, O) with
    `local_bias=True`, as in ConvLocal; a sleep makes these alike as it does kernels. `grid(x)` is
    the geometry: through it `grids` finds the kernels of a model and their pools.

    The other arguments are those of `flax.linen.Conv`, except:

      kernel_size: one number for each spatial dimension. An integer applies to all of them, for an
        input with one batch axis (in Flax, to a single dimension).
      padding: as in `conv_local`; 'REFLECT' is not taken: pools have no meaning in it.
      mask, kernel_init: of the shape of the kernel, or in the layout of ConvLocal's, (*output,
        C·prod(kernel), O), which is converted.
      implementation: as in `conv_local`.
      shard_axis: the axis of devices (of `jax.pmap` or `jax.shard_map`) that divide the examples
        and the positions among them. `init` makes the whole kernel; `apply` takes the kernels of
        this device's positions (`backends/divided.py`) and uses them for all examples. Outside of
        programs over this axis the layer is whole.

    Not taken: conv_general_dilated and conv_general_dilated_cls, which replace the function that
    computes a convolution; preferred_element_type (of NNX), since sums are float32 or more already.

    Raises:
      ValueError: one line, if shapes or arguments do not fit together.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: parameters.Steps = 1
    padding: Padding = 'SAME'
    input_dilation: parameters.Steps = 1
    kernel_dilation: parameters.Steps = 1
    feature_group_count: int = 1
    use_bias: bool = True
    mask: Any = None
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Callable = parameters.local_he_normal
    bias_init: Callable = nn.initializers.zeros_init()
    promote_dtype: Callable = promote_dtype
    local_bias: bool = False
    layout: str = 'NHWC'
    implementation: str | None = None
    shard_axis: str | None = None

    def grid(self, x: jax.Array) -> Grid:
        """The geometry of the layer for an input like x."""
        return parameters.make_grid(
            parameters.spatial_size(x, self.kernel_size, self.layout),
            self.kernel_size,
            self.strides,
            self.padding,
            self.kernel_dilation,
            self.input_dilation,
        )

    def value_grids(self, x: jax.Array) -> dict[str, Grid]:
        """The grid of the layer for each parameter with one value per neuron: a local bias."""
        return {'bias': self.grid(x)} if self.use_bias and self.local_bias else {}

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        arguments.check_positive(self.features, 'features')
        grid = self.grid(x)
        layer = Layer(
            grid, self.feature_group_count, self.precision, self.layout, self.implementation
        )
        shape = layer.kernel_shape(x.shape[-1], self.features, 'feature_group_count')
        shard_axis = None if self.is_initializing() else divided.bound(self.shard_axis)
        positions = divided.positions_of_part(grid, shard_axis)
        kernel_init = functools.partial(parameters.initial_kernel, self.kernel_init)
        own_shape = (*positions, *shape[grid.dimensions :])
        kernel = self.param('kernel', kernel_init, own_shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias_init = functools.partial(parameters.initial_bias, self.bias_init)
            bias_shape = parameters.bias_shape(grid, self.features, self.local_bias)
            bias = self.param('bias', bias_init, bias_shape, self.param_dtype)
        mask = None if self.mask is None else parameters.as_kernel(self.mask, shape, 'mask')
        x, kernel, bias = self.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return parameters.add_bias(layer(x, kernel, mask, shard_axis), bias, self.layout)
