"""The locally connected layer: `conv_local`, a pure function, and `LocalConv`, its Flax module.

In two dimensions, with stride s and kernel dilation d:

    y[n, i, j, o] = sum over a, b, c of
        kernel[i, j, a, b, c, o] · x[n, i·s + d·a - pad, j·s + d·b - pad, c]

A convolution with its own kernel at every output position: kernels have shape
`(*output, *kernel, C // groups, O)`, a Flax kernel with the output position in front; in two
dimensions, `(Ho, Wo, kh, kw, C // groups, O)`.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from lcn_jax import arguments, divided, native, parameters
from lcn_jax.arguments import Padding
from lcn_jax.grid import Grid
from lcn_jax.implementations import IMPLEMENTATIONS, compute, implementations
from lcn_jax.implementations import default_implementation as default_implementation
from lcn_jax.parameters import he_normal as he_normal
from lcn_jax.parameters import tile_kernel as tile_kernel


def conv_local(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 'SAME',
    kernel_dilation: int | Sequence[int] = 1,
    input_dilation: int | Sequence[int] = 1,
    groups: int = 1,
    mask: jax.Array | None = None,
    precision: Any = None,
    layout: str = 'NHWC',
    implementation: str | None = None,
) -> jax.Array:
    """Locally connected layer of one, two or three spatial dimensions, without bias.

    Args:
      x: (*batch, *spatial, C) with any number of batch axes, also none; or, with `layout='HWNC'`,
        (*spatial, N, C), which is faster: the examples lie together at every position, as they do
        in its matrix product, and nothing is transposed.
      kernel: (*output, *kernel, C // groups, O), same dtype as x: float32, bfloat16, float16 or
        float64. Sums are at least float32.
      stride: pixels between receptive fields. This and the dilations are one number, or one for
        each spatial dimension.
      padding: 'SAME' or 'VALID' as in XLA, 'CIRCULAR', 'CAUSAL' (in one dimension), a number, or a
        number or (low, high) for each dimension.
      kernel_dilation: pixels between the taps of a receptive field.
      input_dilation: as in `jax.lax.conv_general_dilated`, this less one zeros lie between pixels.
      groups: channels and features fall into this many groups that do not see each other.
      mask: of the shape of the kernel, which is multiplied by it.
      precision: of matrix products, as in `jax.lax.dot_general`; 'native' and 'direct' always have
        the highest.
      implementation: 'native' is in C++, the default on CPU where there is a compiler, for float32
        and bfloat16; 'direct', the other default on CPU, adds up shifted products; 'patches', the
        default elsewhere, is one batched matrix product; 'lax' is the slow reference,
        `jax.lax.conv_general_dilated_local`. Programs that the compiler partitions over devices
        (GSPMD, on a mesh with Auto axes), exported programs and platforms other than CPU ignore
        'native' and 'direct', and use the products of 'patches'.

    Returns:
      (*batch, *output, O), or (*output, N, O), in the dtype of x.

    Raises:
      ValueError: one line, if shapes, dtypes or options do not fit together.
    """
    arguments.check_precision(precision)
    dimensions = arguments.check_operands(x, kernel, layout)
    arguments.check_choice(implementation, (None, *IMPLEMENTATIONS), 'implementation')
    if implementation == 'native' and not native.computes(x.dtype):
        why = f'it computes in float32 and bfloat16, not in {x.dtype}'
        raise ValueError(
            f"implementation 'native' is not available: "
            f'{why if native.available() else native.describe()}; choose None or one of '
            f'{implementations(x.dtype)}.'
        )
    grid = Grid.create(
        x.shape[-dimensions - 1 : -1] if layout == 'NHWC' else x.shape[:dimensions],
        kernel.shape[dimensions:-2], stride, padding, kernel_dilation, input_dilation,
    )  # fmt: skip
    channels, features = x.shape[-1], kernel.shape[-1]
    arguments.check_groups(groups, channels, features, 'groups')
    expected = (*grid.output_size, *grid.kernel_size, channels // groups, features)
    if kernel.shape != expected:
        raise ValueError(
            f'kernel has shape {kernel.shape}, but this input, stride, padding, dilation and '
            f'groups need (*output, *kernel, C // groups, O) = {expected}.'
        )
    if mask is not None:
        arguments.check_shape(mask, kernel.shape, 'mask', 'kernel')
        kernel = kernel * jnp.asarray(mask, kernel.dtype)
    layer = functools.partial(
        compute, groups=groups, precision=precision, implementation=implementation
    )
    return _in_layout(layer, x, kernel, grid, layout)


def _in_layout(
    layer: Callable, x: jax.Array, kernel: jax.Array, grid: Grid, layout: str
) -> jax.Array:
    """`layer(x, kernel, grid)` in either layout, also for grids with circular padding."""
    x, batch = _positions_first(x, grid.dimensions) if layout == 'NHWC' else (x, ())
    if grid.circular:
        x, grid = _wrapped(x, grid)
    y = layer(x, kernel, grid)
    if layout == 'HWNC':
        return y
    return jnp.moveaxis(y, -2, 0).reshape(*batch, *y.shape[:-2], y.shape[-1])


def _positions_first(x: jax.Array, dimensions: int) -> tuple[jax.Array, tuple[int, ...]]:
    """(*batch, *spatial, C) -> (*spatial, N, C) and batch."""
    batch, rest = x.shape[: -dimensions - 1], x.shape[-dimensions - 1 :]
    return jnp.moveaxis(x.reshape(math.prod(batch), *rest), 0, -2), batch


def _wrapped(x: jax.Array, grid: Grid) -> tuple[jax.Array, Grid]:
    """x with its circular padding, and the grid of what results."""
    edges = [
        (low // d, high // d) for (low, high), d in zip(grid.padding, grid.input_dilation)
    ]  # the padding comes before the dilation
    x = jnp.pad(x, [*edges, (0, 0), (0, 0)], mode='wrap')
    return x, Grid.create(
        x.shape[:-2], grid.kernel_size, grid.stride, 'VALID', grid.kernel_dilation,
        grid.input_dilation,
    )  # fmt: skip


# ---- The Flax module. ----------------------------------------------------------------------------


class LocalConv(nn.Module):
    """Locally connected layer for Linen: takes the place of `flax.linen.Conv` and `ConvLocal`.

    Inputs are (*batch, *spatial, C) with any number of batch axes, also none, or (*spatial, N, C)
    with `layout='HWNC'`. The parameters are `kernel` (*output, *kernel, C // groups, O) and, with
    `use_bias`, `bias`: (O,), shared by the positions as in Conv, or (*output, O) with
    `local_bias=True`, as in ConvLocal; a sleep makes these alike as it does kernels. `grid(x)` is
    the geometry: through it `grids` finds the kernels of a model and their pools.

    The other arguments are those of `flax.linen.Conv`, but for these:

      kernel_size: one number for each spatial dimension. An integer counts for all of an input with
        one batch axis (in Flax, for one dimension).
      padding: as in `conv_local`; 'REFLECT' is not taken: pools have no meaning in it.
      mask, kernel_init: of the shape of the kernel, or in the layout of ConvLocal's, (*output,
        C·prod(kernel), O), which is converted.
      implementation: as in `conv_local`.
      shard_axis: the axis of devices (of `jax.pmap` or `jax.shard_map`) that divide the examples
        and the positions among them. `init` makes the whole kernel; `apply` takes a device's part
        (`divided.py`), which is one for all of its positions and all examples.

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
        """The grids of the parameters with one value per neuron: that of a local bias."""
        return {'bias': self.grid(x).for_values()} if self.use_bias and self.local_bias else {}

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        arguments.check_positive(self.features, 'features')
        grid = self.grid(x)
        kernel_shape, bias_shape = parameters.parameter_shapes(
            grid, x.shape[-1], self.features, self.feature_group_count, self.local_bias
        )
        shard_axis = None if self.is_initializing() else self.shard_axis
        positions = divided.positions_of_part(grid, shard_axis)
        own_shape = (*positions, *kernel_shape[grid.dimensions :])
        kernel_init = functools.partial(parameters.initial_kernel, self.kernel_init)
        kernel = self.param('kernel', kernel_init, own_shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias_init = functools.partial(parameters.initial_bias, self.bias_init)
            bias = self.param('bias', bias_init, bias_shape, self.param_dtype)
        mask = self.mask
        if mask is not None:
            mask = parameters.as_kernel(mask, kernel_shape, 'mask')
        x, kernel, bias = self.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if shard_axis is not None:
            y = self._divided(x, kernel, grid, mask, shard_axis)
            return parameters.add_bias(y, bias, self.layout)
        y = conv_local(
            x,
            kernel,
            stride=grid.stride,
            padding=self.padding,
            kernel_dilation=grid.kernel_dilation,
            input_dilation=grid.input_dilation,
            groups=self.feature_group_count,
            mask=mask,
            precision=self.precision,
            layout=self.layout,
            implementation=self.implementation,
        )
        return parameters.add_bias(y, bias, self.layout)

    def _divided(
        self, x: jax.Array, part: jax.Array, grid: Grid, mask: Any, axis_name: str
    ) -> jax.Array:
        if mask is not None:
            part *= divided.own(jnp.asarray(mask, part.dtype), grid, axis_name)
        of_positions = functools.partial(
            compute,
            groups=self.feature_group_count,
            precision=self.precision,
            implementation=self.implementation,
        )
        layer = functools.partial(divided.apply, axis_name=axis_name, layer=of_positions)
        return _in_layout(layer, x, part, grid, self.layout)


# ---- What a model holds. -------------------------------------------------------------------------


def grids(model: nn.Module, *inputs: Any, **kwargs: Any) -> dict:
    """The `Grid` of all that is local in a model, at its path in the params.

    That is every locally connected kernel, and every parameter with one value per neuron, such as a
    local bias (`Grid.for_values`).

    Nothing is computed, and variables hold no grids, so that they can be stored and differentiated
    as they are. A kernel that `nn.vmap` or `nn.scan` multiplies has the grid of one of its copies.

    Args:
      model: with layers that have a method `grid(x)` and a parameter `kernel`, as LocalConv has, or
        a method `value_grids(x)`, which returns the grids of other local parameters by name.
      inputs: what the model is called with: arrays or `jax.ShapeDtypeStruct`s; or tuples, the shape
        of one example: (H, W, C) for images.
      kwargs: passed on; `train=False` is, if the model takes `train`.

    Returns:
      A tree as `model.init` has it in 'params'; {} if no layer is locally connected.
    """
    return variables_and_grids(model, *inputs, **kwargs)[1]


def variables_and_grids(model: nn.Module, *inputs: Any, **kwargs: Any) -> tuple[dict, dict]:
    """The initial variables, as `jax.ShapeDtypeStruct`s, and the grids; arguments as in `grids`."""
    found = {}

    def note(call, args, call_kwargs, context):
        module = context.module
        if context.method_name == '__call__':
            if callable(getattr(module, 'grid', None)):
                found[(*module.path, 'kernel')] = module.grid(*args, **call_kwargs)
            if callable(getattr(module, 'value_grids', None)):
                for name, grid in module.value_grids(*args, **call_kwargs).items():
                    found[(*module.path, name)] = grid
        return call(*args, **call_kwargs)

    if 'train' in inspect.signature(model.__call__).parameters:
        kwargs = {'train': False} | kwargs
    examples = [
        jax.ShapeDtypeStruct((1, *value), jnp.float32) if isinstance(value, tuple) else value
        for value in inputs
    ]
    with nn.intercept_methods(note):
        variables = jax.eval_shape(
            lambda key, *examples: model.init(key, *examples, **kwargs),
            jax.random.key(0),
            *examples,
        )
    return variables, flax.traverse_util.unflatten_dict(found)
