"""`LocalConv` and the local parameters of a model, for Flax NNX."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from flax.traverse_util import unflatten_dict

from lcn_jax.layer.arguments import (
    LAYOUTS,
    Padding,
    check_array,
    check_choice,
    check_positive,
    check_shape,
)
from lcn_jax.layer.functional import Layer
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter, in_pools, name_of
from lcn_jax.layer.parameters import Steps, add_bias, bias_shape, local_he_normal, make_grid


class LocalConv(nnx.Module):
    """Locally connected layer: takes the place of `flax.nnx.Conv`, and is told its input size.

    `kernel` is (*output, *kernel, C // groups, O); `bias` is (O,), or (*output, O) with
    `local_bias=True`, or None without `use_bias`. Inputs are (*batch, *spatial, C) with any number
    of batch axes, or (*spatial, N, C) with `layout='HWNC'`.

    The arguments are those of `flax.nnx.Conv`, with the differences that `lcn_jax.LocalConv` names
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
        grid = make_grid(input_size, kernel_size, strides, padding, kernel_dilation, input_dilation)
        self.in_features, self.out_features = in_features, out_features
        self.layer = Layer(grid, feature_group_count, precision, layout, implementation)
        shape = self.layer.kernel_shape(in_features, out_features, 'feature_group_count')
        kernel = kernel_init(rngs.params(), shape, param_dtype)
        self.kernel = nnx.Param(kernel, **kernel_metadata)
        check_shape(self.kernel.get_value(), shape, 'the result of kernel_init', 'kernel')
        self.bias: nnx.Param[jax.Array] | None = nnx.data(None)
        self.local_bias = use_bias and local_bias
        if use_bias:
            shape = bias_shape(grid, out_features, local_bias)
            bias = bias_init(rngs.params(), shape, param_dtype)
            self.bias = nnx.Param(bias, **bias_metadata)
            check_shape(self.bias.get_value(), shape, 'the result of bias_init', 'bias')
        self.mask = mask
        self.dtype = dtype
        self.promote_dtype = promote_dtype

    @property
    def grid(self) -> Grid:
        """The geometry of the layer."""
        return self.layer.grid

    def __call__(self, x: jax.Array) -> jax.Array:
        check_array(x, 'x')
        kernel, bias = self.kernel[...], None if self.bias is None else self.bias[...]
        x, kernel, bias = self.promote_dtype((x, kernel, bias), dtype=self.dtype)
        return add_bias(self.layer(x, kernel, self.mask), bias, self.layer.layout)


def grids(model: nnx.Module, pools: str = 'tiled') -> dict[str, Any]:
    """The `LocalParameter` of everything local, at its path in `nnx.state(model)`.

    `pools` is 'tiled', for the paper's, or 'joined': all positions of a layer are one pool.

    Raises:
      ValueError: the shapes of an ensemble, made by `nnx.vmap`, do not tell its axes; or a locally
        connected layer of Flax Linen is in an `nnx.bridge.ToNNX`, where its size is not known.
    """
    found = {}
    for path, module in nnx.iter_graph(model):
        if isinstance(module, nnx.bridge.ToNNX) and _has_local_layers(module):
            raise ValueError(
                f'the nnx.bridge.ToNNX {name_of(path)!r} has a locally connected layer of Flax '
                'Linen: use lcn_jax.nnx.LocalConv, or lcn_jax.grids with the Linen module and its '
                'params.'
            )
        if isinstance(module, LocalConv):
            axes = _ensemble(module, name_of(path))
            found[(*path, 'kernel')] = LocalParameter(module.grid, ensemble=axes['kernel'])
            if module.local_bias:
                found[(*path, 'bias')] = LocalParameter(module.grid, True, axes['bias'])
    return in_pools(unflatten_dict(found), pools)


def _has_local_layers(bridge: nnx.bridge.ToNNX) -> bool:
    """Whether the Linen module is a local layer, or has kernels with more axes than shared ones."""
    arrays = jax.tree.leaves(nnx.state(bridge, nnx.Param))
    return callable(getattr(bridge, 'grid', None)) or any(jnp.ndim(array) > 5 for array in arrays)


def _ensemble(module: LocalConv, name: str) -> dict[str, tuple[int, ...]]:
    """For kernel and bias, the axes over which `nnx.vmap` stacks copies.

    NNX keeps no record of them, so the shapes must tell: the axes are at one place of all arrays,
    counted from the front or from the back, and without them each has the shape of one copy.

    Raises:
      ValueError: they fit nowhere, or in several places.
    """
    of_one = {
        'kernel': module.layer.kernel_shape(module.in_features, module.out_features),
        'bias': bias_shape(module.grid, module.out_features, module.local_bias),
    }
    arrays = {of: getattr(module, of) for of in of_one}
    shapes = {of: array.get_value().shape for of, array in arrays.items() if array is not None}
    rank, kernel = len(of_one['kernel']), shapes['kernel']
    copies = len(kernel) - rank
    found = set()
    for start in range(-rank - 1, rank + 1):
        axes = {}
        for parameter, shape in shapes.items():
            first = start if start >= 0 else len(shape) - copies + 1 + start
            axes[parameter] = tuple(range(first, first + copies))
        if all(_without(shape, axes[of]) == of_one[of] for of, shape in shapes.items()):
            found.add(tuple(axes.items()))
    if len(found) == 1:
        return dict(found.pop())
    places = sorted(dict(axes)['kernel'] for axes in found)
    raise ValueError(
        f'the kernel {kernel} of {name or "the layer"} '
        + (
            f'may have its copies along axes {" or ".join(map(str, places))}, for sizes are equal: '
            'make another number of them, or lcn_jax.LocalParameter(layer.grid, ensemble=axes).'
            if places
            else f'is not that of copies of one layer, {of_one["kernel"]}, all along one axis.'
        )
    )


def _without(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape without these axes; None if it does not have them."""
    if axes and not 0 <= axes[0] <= axes[-1] < len(shape):
        return None
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)
