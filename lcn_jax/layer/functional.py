"""The locally connected layer as a pure function, `conv_local`, and the convolution like it.

In two dimensions, with stride s and kernel dilation d:

    y[n, i, j, o] = sum over a, b, c of
        kernel[i, j, a, b, c, o] · x[n, i·s + d·a - pad, j·s + d·b - pad, c]

A convolution with its own kernel at every output position: kernels have shape
`(*output, *kernel, C // groups, O)`, a Flax kernel with the output position in front; in two
dimensions, `(Ho, Wo, kh, kw, C // groups, O)`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lcn_jax.layer import arguments
from lcn_jax.layer.arguments import Padding
from lcn_jax.layer.backends import convolution, divided, native
from lcn_jax.layer.backends.bilinear import (
    IMPLEMENTATIONS,
    compute,
    convolve,
    has_native,
    implementations,
)  # fmt: skip
from lcn_jax.layer.grid import Grid


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
      mask: of the same shape as the kernel, and multiplied into it.
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
    dimensions = arguments.kernel_dimensions(kernel)
    size = arguments.spatial_size(x, dimensions, layout)
    kernel_size = kernel.shape[dimensions:-2]
    grid = Grid.create(size, kernel_size, stride, padding, kernel_dilation, input_dilation)
    return Layer(grid, groups, precision, layout, implementation)(x, kernel, mask)


def conv_shared(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 'SAME',
    kernel_dilation: int | Sequence[int] = 1,
    input_dilation: int | Sequence[int] = 1,
    groups: int = 1,
    layout: str = 'NHWC',
) -> jax.Array:
    """A convolution: `conv_local` whose positions share one kernel (*kernel, C // groups, O).

    float32 and bfloat16 are computed on CPU by the C++ kernel of `conv_local` where there is a
    compiler, several times faster than by XLA, and faster still in layout 'HWNC'. Otherwise it is
    `jax.lax.conv_general_dilated`. Arguments, result and errors are those of `conv_local`.
    """
    dimensions = arguments.shared_kernel_dimensions(kernel)
    size = arguments.spatial_size(x, dimensions, layout)
    kernel_size = kernel.shape[:-2]
    grid = Grid.create(size, kernel_size, stride, padding, kernel_dilation, input_dilation)
    arguments.check_operands(x, kernel, size, layout)
    channels, features = x.shape[-1], kernel.shape[-1]
    arguments.check_groups(groups, channels, features, 'groups')
    expected = (*kernel.shape[:-2], channels // groups, features)
    if kernel.shape != expected:
        raise ValueError(
            f'kernel has shape {kernel.shape}, but this x and groups need '
            f'(*kernel, C // groups, O) = {expected}.'
        )
    if layout == 'HWNC' or has_native(x.dtype):
        layer = functools.partial(convolve, groups=groups)
        return _in_layout(layer, x, kernel, grid, layout)
    if grid.circular:
        x, grid = _wrapped(x, grid, layout)
    batch = x.shape[: -dimensions - 1]
    y = convolution.forward(
        x.reshape(math.prod(batch), *x.shape[-dimensions - 1 :]),
        kernel,
        grid,
        groups,
        layout=layout,
    )
    return y.reshape(*batch, *y.shape[1:])


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer without its parameters: geometry, and the options of `conv_local`."""

    grid: Grid
    groups: int = 1
    precision: Any = None
    layout: str = 'NHWC'
    implementation: str | None = None

    def kernel_shape(self, channels: int, features: int, name: str = 'groups') -> tuple[int, ...]:
        """(*output, *kernel, C // groups, O); ValueError, with `name`, if groups do not divide."""
        arguments.check_groups(self.groups, channels, features, name)
        grid = self.grid
        return (*grid.output_size, *grid.kernel_size, channels // self.groups, features)

    def __call__(
        self,
        x: jax.Array,
        kernel: jax.Array,
        mask: jax.Array | None = None,
        shard_axis: str | None = None,
    ) -> jax.Array:
        """`conv_local`; with `shard_axis`, the kernel is a device's part (`backends/divided.py`).

        The mask is always that of the whole kernel.

        Raises:
          ValueError: one line, if shapes, dtypes or options do not fit together.
        """
        arguments.check_operands(x, kernel, self.grid.input_size, self.layout)
        _check_implementation(self.implementation, x.dtype)
        shape = self.kernel_shape(x.shape[-1], kernel.shape[-1])
        positions = divided.positions_of_part(self.grid, shard_axis)
        if kernel.shape != (*positions, *shape[self.grid.dimensions :]):
            raise ValueError(
                f'kernel has shape {kernel.shape}, but this input, stride, padding, dilation and '
                f'groups need (*output, *kernel, C // groups, O) = {shape}.'
            )
        if mask is not None:
            arguments.check_shape(mask, shape, 'mask', 'kernel')
            kernel *= divided.own(jnp.asarray(mask, kernel.dtype), self.grid, shard_axis)
        layer = functools.partial(
            compute,
            groups=self.groups,
            precision=self.precision,
            implementation=self.implementation,
        )
        if shard_axis is not None:
            layer = functools.partial(divided.apply, axis_name=shard_axis, layer=layer)
        return _in_layout(layer, x, kernel, self.grid, self.layout)


def _check_implementation(implementation: str | None, dtype: Any) -> None:
    arguments.check_choice(implementation, (None, *IMPLEMENTATIONS), 'implementation')
    if implementation == 'native' and not native.computes(dtype):
        why = f'it computes in float32 and bfloat16, not in {dtype}'
        raise ValueError(
            f"implementation 'native' is not available: "
            f'{why if native.available() else native.describe()}; choose None or one of '
            f'{implementations(dtype)}.'
        )


def _in_layout(
    layer: Callable, x: jax.Array, kernel: jax.Array, grid: Grid, layout: str
) -> jax.Array:
    """`layer(x, kernel, grid)` in either layout, also for grids with circular padding."""
    if grid.circular:
        x, grid = _wrapped(x, grid, layout)
    x, batch = _positions_first(x, grid.dimensions) if layout == 'NHWC' else (x, ())
    y = layer(x, kernel, grid)
    if layout == 'HWNC':
        return y
    return jnp.moveaxis(y, -2, 0).reshape(*batch, *y.shape[:-2], y.shape[-1])


def _positions_first(x: jax.Array, dimensions: int) -> tuple[jax.Array, tuple[int, ...]]:
    """(*batch, *spatial, C) -> (*spatial, N, C) and batch."""
    batch, rest = x.shape[: -dimensions - 1], x.shape[-dimensions - 1 :]
    return jnp.moveaxis(x.reshape(math.prod(batch), *rest), 0, -2), batch


def _wrapped(x: jax.Array, grid: Grid, layout: str) -> tuple[jax.Array, Grid]:
    """x with its circular padding, and the grid of what results."""
    edges = [
        (low // d, high // d) for (low, high), d in zip(grid.padding, grid.input_dilation)
    ]  # the padding comes before the dilation
    before, after = (x.ndim - grid.dimensions - 1, 1) if layout == 'NHWC' else (0, 2)
    x = jnp.pad(x, [(0, 0)] * before + edges + [(0, 0)] * after, mode='wrap')
    return x, Grid.create(
        arguments.spatial_size(x, grid.dimensions, layout), grid.kernel_size, grid.stride, 'VALID',
        grid.kernel_dilation, grid.input_dilation,
    )  # fmt: skip
