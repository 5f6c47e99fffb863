"""`LocalConv` for Flax NNX, and the sleep of a model made of such layers:

    state = share(nnx.state(model, nnx.Param), grids(model), rule, key)
    nnx.update(model, state)

Also inside `nnx.jit`.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from flax.traverse_util import unflatten_dict

from lcn_jax import sleep
from lcn_jax.arguments import (
    LAYOUTS,
    Padding,
    check_array,
    check_choice,
    check_positive,
    check_shape,
)  # fmt: skip
from lcn_jax.local import conv_local
from lcn_jax.parameters import (
    Steps,
    add_bias,
    local_he_normal,
    make_grid,
    parameter_shapes,
)  # fmt: skip


class LocalConv(nnx.Module):
    """Locally connected layer: takes the place of `flax.nnx.Conv`, and is told its input size.

    `kernel` is (*output, *kernel, C // groups, O); `bias` is (O,), or (*output, O) with
    `local_bias=True`, or None without `use_bias`. Inputs are (*batch, *spatial, C) with any number
    of batch axes, or (*spatial, N, C) with `layout='HWNC'`.

    The arguments are those of `flax.nnx.Conv`, with the differences that `local.LocalConv` names
    (but kernels only have our layout: there is no `flax.nnx.ConvLocal`), and

      input_size: of the spatial dimensions, since every position has a kernel. Integers count for
        all dimensions, of which there are two if all sizes are integers.

    `out_sharding` of the call is not taken.

    Raises:
      ValueError: one line, if sizes, padding or shapes do not fit together.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: Steps = 1,
        *,
        input_size: int | Sequence[int],
        padding: Padding = 'SAME',
        input_dilation: Steps = 1,
        kernel_dilation: Steps = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        local_bias: bool = False,
        mask: jax.Array | None = None,
        layout: str = 'NHWC',
        dtype: jnp.dtype | None = None,
        param_dtype: jnp.dtype = jnp.float32,
        precision: Any = None,
        kernel_init: Callable = local_he_normal,
        bias_init: Callable = jax.nn.initializers.zeros,
        promote_dtype: Callable = promote_dtype,
        implementation: str | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        check_positive(in_features, 'in_features')
        check_positive(out_features, 'out_features')
        check_choice(layout, LAYOUTS, 'layout')
        self.grid = make_grid(
            input_size, kernel_size, strides, padding, kernel_dilation, input_dilation
        )
        kernel_shape, bias_shape = parameter_shapes(
            self.grid, in_features, out_features, feature_group_count, local_bias
        )
        kernel = kernel_init(rngs.params(), kernel_shape, param_dtype)
        self.kernel = nnx.Param(kernel, **kernel_metadata)
        check_shape(self.kernel.get_value(), kernel_shape, 'the result of kernel_init', 'kernel')
        self.bias: nnx.Param[jax.Array] | None = nnx.data(None)
        if use_bias:
            bias = bias_init(rngs.params(), bias_shape, param_dtype)
            self.bias = nnx.Param(bias, **bias_metadata)
            check_shape(self.bias.get_value(), bias_shape, 'the result of bias_init', 'bias')
        self.padding = padding
        self.feature_group_count = feature_group_count
        self.mask = mask
        self.layout = layout
        self.dtype = dtype
        self.precision = precision
        self.promote_dtype = promote_dtype
        self.implementation = implementation

    def __call__(self, x: jax.Array) -> jax.Array:
        check_array(x, 'x')
        kernel, bias = self.kernel[...], None if self.bias is None else self.bias[...]
        x, kernel, bias = self.promote_dtype((x, kernel, bias), dtype=self.dtype)
        y = conv_local(
            x,
            kernel,
            stride=self.grid.stride,
            padding=self.padding,
            kernel_dilation=self.grid.kernel_dilation,
            input_dilation=self.grid.input_dilation,
            groups=self.feature_group_count,
            mask=self.mask,
            precision=self.precision,
            layout=self.layout,
            implementation=self.implementation,
        )
        return add_bias(y, bias, self.layout)


def grids(model: nnx.Module) -> dict[str, Any]:
    """The `Grid` of every local kernel and local bias, at its path in `nnx.state(model)`."""
    found = {}
    for path, module in nnx.iter_graph(model):
        if isinstance(module, LocalConv):
            found[(*path, 'kernel')] = module.grid
            if module.bias is not None and module.bias.get_value().ndim > 1:
                found[(*path, 'bias')] = module.grid.for_values()
    return unflatten_dict(found)


def share(state: nnx.State, grids: Mapping, rule: sleep.Rule, key: jax.Array) -> nnx.State:
    """`sleep.share` for the state of a model: a new state with other local parameters.

    Raises:
      UsageError: as `sleep.share`.
    """
    shared = sleep.share(nnx.to_pure_dict(state), grids, rule, key)
    new = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(new, shared)
    return new
