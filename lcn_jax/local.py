"""The locally connected layer: `conv_local`, a pure function, and `LocalConv`, its Flax module.

    y[n, i, j, o] = sum_{a, b, c} kernel[i, j, a, b, c, o] · x[n, i·s + a - pad, j·s + b - pad, c]

A convolution with its own kernel at every output position: kernels have shape
`(Ho, Wo, kh, kw, C // groups, O)`, a Flax kernel (HWIO) with the output position in front.

Shape suffixes: H, W input height and width (padded where the name says so); I, J output height and
width; T taps, the kh·kw places of a receptive field; C channels; O features; N examples.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from lcn_jax.grid import Grid, Padding, Pair, pair

LAYOUTS = ('NHWC', 'HWNC')
IMPLEMENTATIONS = ('direct', 'patches', 'lax')

# Products that 'direct' sums at a time. XLA slices an operand beforehand only if the slice is used
# more than 15 times; otherwise it slices inside the loop over products, which then takes five
# times as long. Many more than 16 products do not fit into the registers.
FEWEST_TERMS = 16

Slices = tuple[slice, slice]


def conv_local(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int | Pair = 1,
    padding: Padding = 'SAME',
    groups: int = 1,
    layout: str = 'NHWC',
    implementation: str | None = None,
) -> jax.Array:
    """Locally connected layer without bias.

    Args:
      x: (N, H, W, C), or (H, W, N, C) with `layout='HWNC'`, which is faster: the examples lie
        together at every position, as they do in its matrix product, and nothing is transposed.
      kernel: (Ho, Wo, kh, kw, C // groups, O), same dtype as x.
      stride: pixels between receptive fields, one number or (height, width).
      padding: 'SAME' or 'VALID' as in XLA, a number, or a number or (low, high) per axis.
      groups: channels and features fall into this many groups that do not see each other.
      implementation: 'direct' (the default on CPU) adds up shifted products; 'patches' (the
        default elsewhere) is one batched matrix product; 'lax' is the slow reference,
        `jax.lax.conv_general_dilated_local`. 'direct' has its own reverse-mode derivative; for
        forward mode take one of the others.

    Returns:
      (N, Ho, Wo, O), or (Ho, Wo, N, O), in the dtype of x.

    Raises:
      ValueError: one line, if shapes, dtypes or options do not fit together.
    """
    if layout not in LAYOUTS:
        raise ValueError(f'layout must be one of {LAYOUTS}, got {layout!r}.')
    if x.ndim != 4 or kernel.ndim != 6:
        raise ValueError(
            f'conv_local takes x with 4 axes ({layout}) and a kernel with 6 (Ho, Wo, kh, kw, '
            f'C // groups, O); got shapes {x.shape} and {kernel.shape}.'
        )
    if x.dtype != kernel.dtype:
        raise ValueError(f'x and kernel must have one dtype, got {x.dtype} and {kernel.dtype}.')
    x_HWNC = x if layout == 'HWNC' else x.transpose(1, 2, 0, 3)
    grid = Grid.create(x_HWNC.shape[:2], kernel.shape[2:4], stride, padding)
    channels, features = x_HWNC.shape[3], kernel.shape[-1]
    if groups < 1 or channels % groups or features % groups:
        raise ValueError(
            f'groups must divide channels and features: {groups} groups, {channels} channels, '
            f'{features} features.'
        )
    expected = (*grid.output_size, *grid.kernel_size, channels // groups, features)
    if kernel.shape != expected:
        raise ValueError(
            f'kernel has shape {kernel.shape}, but this input, stride, padding and groups need '
            f'(Ho, Wo, kh, kw, C // groups, O) = {expected}.'
        )
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f'implementation must be None or in {IMPLEMENTATIONS}.')

    one_group = {'direct': _direct, 'patches': _patches, 'lax': _lax}[
        implementation or default_implementation()
    ]
    if groups == 1:
        y_IJNO = one_group(x_HWNC, kernel, grid)
    else:
        x_groups = x_HWNC.reshape(*x_HWNC.shape[:3], groups, channels // groups)
        kernel_groups = kernel.reshape(*kernel.shape[:-1], groups, features // groups)
        y_groups = jax.vmap(one_group, in_axes=(3, 5, None), out_axes=3)(
            x_groups, kernel_groups, grid
        )
        y_IJNO = y_groups.reshape(*y_groups.shape[:3], features)
    return y_IJNO if layout == 'HWNC' else y_IJNO.transpose(2, 0, 1, 3)


def default_implementation() -> str:
    """The fastest implementation on the default backend."""
    return 'direct' if jax.default_backend() == 'cpu' else 'patches'


def _lax(x_HWNC: jax.Array, kernel: jax.Array, grid: Grid) -> jax.Array:
    """The reference, which takes patch elements channel-major."""
    rows, columns, kh, kw, channels, features = kernel.shape
    return lax.conv_general_dilated_local(
        x_HWNC,
        kernel.transpose(0, 1, 4, 2, 3, 5).reshape(rows, columns, channels * kh * kw, features),
        window_strides=grid.stride,
        padding=grid.padding,
        filter_shape=grid.kernel_size,
        dimension_numbers=('HWNC', 'HWIO', 'HWNC'),
    )


def _pad(array: jax.Array, edges: Sequence[Pair], between: Sequence[int] = (0, 0)) -> jax.Array:
    """Zeros around the first two axes, and `between` their elements; negative edges crop."""
    config = [(low, high, inner) for (low, high), inner in zip(edges, between)]
    rest = [(0, 0, 0)] * (array.ndim - 2)
    return lax.pad(array, jnp.zeros((), array.dtype), config + rest)


def _padded(x_HWNC: jax.Array, grid: Grid) -> jax.Array:
    """The padded input, cropped to the pixels that some receptive field reaches."""
    reach = [(p - 1) * s + k for p, s, k in zip(grid.output_size, grid.stride, grid.kernel_size)]
    lows = [low for low, _ in grid.padding]
    return _pad(x_HWNC, [(low, r - low - n) for low, r, n in zip(lows, reach, grid.input_size)])


def _windows(grid: Grid) -> list[Slices]:
    """For each tap, the pixels of the padded input that the positions see at it."""
    (rows, columns), (down, right) = grid.output_size, grid.stride
    return [
        (slice(a, a + (rows - 1) * down + 1, down), slice(b, b + (columns - 1) * right + 1, right))
        for a, b in itertools.product(*map(range, grid.kernel_size))
    ]


def _by_tap(kernel: jax.Array) -> jax.Array:
    """(I, J, kh, kw, C, O) -> (I, J, T, C, O)."""
    return kernel.reshape(*kernel.shape[:2], -1, *kernel.shape[4:])


# ---- 'patches': one matrix product at each position. ---------------------------------------------


@functools.partial(jax.checkpoint, static_argnums=2)  # the kh·kw-fold patches are not kept
def _patches(x_HWNC: jax.Array, kernel: jax.Array, grid: Grid) -> jax.Array:
    padded = _padded(x_HWNC, grid)
    patches_IJNK = jnp.concatenate([padded[window] for window in _windows(grid)], axis=3)
    kernel_IJKO = kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1])
    return jnp.einsum('ijnk,ijko->ijno', patches_IJNK, kernel_IJKO)


# ---- 'direct': sums of shifted elementwise products. ---------------------------------------------
#
# On CPU, XLA runs a batched matrix product on one core, and would write and read every patch.
# Elementwise loops run on all cores, read shifted pixels in place, and are vectorised over the
# features. The three sums of a layer (y, dx, dkernel) have the same form.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _direct(x_HWNC: jax.Array, kernel: jax.Array, grid: Grid) -> jax.Array:
    everywhere = slice(None), slice(None)
    taps = [(window, everywhere) for window in _windows(grid)]
    y = _sum_over_channels(_padded(x_HWNC, grid), _by_tap(kernel), taps)
    return y.astype(x_HWNC.dtype)


def _direct_forward(x_HWNC, kernel, grid):
    return _direct(x_HWNC, kernel, grid), (x_HWNC, kernel)


def _direct_backward(grid, residuals, dy_IJNO):
    x_HWNC, kernel = residuals
    dx_HWNC = _input_gradient(dy_IJNO, kernel, grid)
    dkernel_IJTCO = _sum_over_examples(
        _padded(_after(dy_IJNO, x_HWNC), grid), dy_IJNO, _windows(grid)
    )
    return (
        dx_HWNC.astype(x_HWNC.dtype),
        dkernel_IJTCO.reshape(kernel.shape).astype(kernel.dtype),
    )


_direct.defvjp(_direct_forward, _direct_backward)


def _sum_over_channels(
    x_HWNC: jax.Array, kernel_IJTCO: jax.Array, taps: list[tuple[Slices, Slices]]
) -> jax.Array:
    """sum_{t, c} kernel[positions_t][:, :, t, c, None, :] · x[pixels_t][:, :, :, c, None].

    taps: (pixels, positions) of each. Returns (I, J, N, O), at least float32.
    """
    channels, features = kernel_IJTCO.shape[3:]
    at_once = _terms_at_once(len(taps), channels)
    x_HWNC = _fill(x_HWNC, 3, at_once)
    kernel_IJTCO = _fill(kernel_IJTCO, 3, at_once)

    def add(number, y):
        x = _part(x_HWNC, 3, number, at_once, y.dtype)
        kernel = _part(kernel_IJTCO, 3, number, at_once, y.dtype)
        for t, (pixels, positions) in enumerate(taps):
            for c in range(at_once):
                y += kernel[positions][:, :, t, c, None, :] * x[pixels][:, :, :, c, None]
        return y

    size = kernel_IJTCO[taps[0][1]].shape[:2]
    zeros = _zeros((*size, x_HWNC.shape[2], features), x_HWNC)
    return lax.fori_loop(0, x_HWNC.shape[3] // at_once, add, zeros)


def _sum_over_examples(x_HWNC: jax.Array, dy_IJNO: jax.Array, windows: list[Slices]) -> jax.Array:
    """(I, J, T, C, O): sum_n x[windows_t][:, :, n, :, None] · dy[:, :, n, None, :]."""
    *size, examples, features = dy_IJNO.shape
    at_once = _terms_at_once(1, examples)
    x_HWNC, dy_IJNO = _fill(x_HWNC, 2, at_once), _fill(dy_IJNO, 2, at_once)

    def add(number, dkernels):
        x = _part(x_HWNC, 2, number, at_once, dkernels[0].dtype)
        dy = _part(dy_IJNO, 2, number, at_once, dkernels[0].dtype)
        sums = []
        for dkernel, window in zip(dkernels, windows):
            for n in range(at_once):
                dkernel += x[window][:, :, n, :, None] * dy[:, :, n, None, :]
            sums.append(dkernel)
        return sums

    zeros = [_zeros((*size, x_HWNC.shape[3], features), dy_IJNO) for _ in windows]
    dkernels = lax.fori_loop(0, dy_IJNO.shape[2] // at_once, add, zeros)
    return jnp.stack(dkernels, axis=2)


class _Phase(NamedTuple):
    """Along one axis, the pixels u·s + r for one r < s, and the neurons that see them.

    Counted with the padding, pixel u·s + r is at tap m·s + r of the neuron at position u - m.
    """

    taps: slice  # r, r + s, ...
    edges: Pair  # padding (low, high) that the positions need
    windows: list[slice]  # for each tap, the positions, counted with `edges`
    around: Pair  # pixels before the first and after the last


def _phases(grid: Grid, axis: int) -> list[_Phase]:
    pixels, positions = grid.input_size[axis], grid.output_size[axis]
    size, stride, low = grid.kernel_size[axis], grid.stride[axis], grid.padding[axis][0]
    phases = []
    for r in range(min(size, stride)):
        first, end = -((r - low) // stride), -((r - low - pixels) // stride)
        count, taps = end - first, len(range(r, size, stride))
        start = first * stride + r - low
        if count > 0:
            phases.append(
                _Phase(
                    taps=slice(r, None, stride),
                    edges=(taps - 1 - first, end - positions),
                    windows=[slice(taps - 1 - m, taps - 1 - m + count) for m in range(taps)],
                    around=(start, pixels - (start + (count - 1) * stride + 1)),
                )
            )
    return phases


def _input_gradient(dy_IJNO: jax.Array, kernel: jax.Array, grid: Grid) -> jax.Array:
    """(H, W, N, C): at each pixel, the sum over the neurons that see it."""
    parts = []
    for phases in itertools.product(_phases(grid, 0), _phases(grid, 1)):
        rows, columns = phases
        kernel_IJTCO = _by_tap(kernel[:, :, rows.taps, columns.taps])
        kernel_IJTOC = _after(dy_IJNO, kernel_IJTCO).swapaxes(3, 4)
        edges = [phase.edges for phase in phases]
        taps = [(window, window) for window in itertools.product(rows.windows, columns.windows)]
        part = _sum_over_channels(_pad(dy_IJNO, edges), _pad(kernel_IJTOC, edges), taps)
        around = [phase.around for phase in phases]
        parts.append(_pad(part, around, between=[stride - 1 for stride in grid.stride]))
    if not parts:  # no neuron sees any pixel
        return jnp.zeros((*grid.input_size, dy_IJNO.shape[2], kernel.shape[4]))
    return sum(parts)  # pyright: ignore[reportReturnType]  # 0 only if there are no parts


def _terms_at_once(taps: int, count: int) -> int:
    """The number of `count` channels or examples to sum at a time; it need not divide `count`."""
    wanted = -(-FEWEST_TERMS // taps)
    if count <= wanted:
        return count
    fitting = (n for n in range(wanted, 2 * wanted + 1) if count % n == 0)
    return next(fitting, wanted)


def _fill(array: jax.Array, axis: int, multiple: int) -> jax.Array:
    """Zeros at the end of the axis, up to a multiple."""
    edges = [(0, 0, 0)] * array.ndim
    edges[axis] = (0, -array.shape[axis] % multiple, 0)
    return lax.pad(array, jnp.zeros((), array.dtype), edges)


def _part(array: jax.Array, axis: int, number: jax.Array, size: int, dtype) -> jax.Array:
    return lax.dynamic_slice_in_dim(array, number * size, size, axis).astype(dtype)


def _zeros(shape: Sequence[int], like: jax.Array) -> jax.Array:
    """Zeros in float32, or in the dtype of `like` if that is wider."""
    return _after(like, jnp.zeros(shape, jnp.promote_types(like.dtype, jnp.float32)))


def _after(value: jax.Array, array: jax.Array) -> jax.Array:
    """`array`, computed only after `value`.

    XLA computes arrays that depend on nothing else (zeros, padded images, transposed kernels) at
    the start of a program, for all layers, and keeps them. Computed where they are needed, they
    reuse the memory of other layers, which halves the memory of a step. XLA:CPU ignores
    `lax.optimization_barrier` (the memory is the same without it), so this is a data dependency.
    """
    first = value.ravel()[0]
    return array + 0 * jnp.where(jnp.isfinite(first), first, 0).astype(array.dtype)


# ---- Initialisers and the Flax module. -----------------------------------------------------------


def he_normal(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
    """Normal with std sqrt(2 / (O·kh·kw)): He's fan-out over the receptive field of one position.

    `shape` is (kh, kw, C // groups, O), with (Ho, Wo) in front if the kernel is locally connected.
    (Flax's own initialisers would count Ho·Wo as part of the receptive field.)
    """
    kh, kw, _, features = shape[-4:]
    # Drawing the same numbers in their full shape would take XLA one more second to compile.
    normal = jax.random.normal(key, (math.prod(shape[:-4]), math.prod(shape[-4:])), dtype)
    return math.sqrt(2 / (features * kh * kw)) * normal.reshape(shape)


def tile_kernel(kernel: jax.Array, output_size: Pair) -> jax.Array:
    """A convolution kernel (kh, kw, C // groups, O) at every position: (Ho, Wo, kh, kw, ..., O)."""
    return jnp.broadcast_to(kernel, (*output_size, *kernel.shape))


class LocalConv(nn.Module):
    """Locally connected layer with the arguments of `flax.linen.Conv`, where both have them.

    Parameters: `kernel` (Ho, Wo, kh, kw, C // groups, O) and, with `use_bias`, `bias` (O,), shared
    by the positions. At initialisation it stores its `Grid` in the collection 'grids' under the
    kernel's path: a sleep finds the kernels and their pools there.
    """

    features: int
    kernel_size: int | Pair
    strides: int | Pair = 1
    padding: Padding = 'SAME'
    feature_group_count: int = 1
    use_bias: bool = True
    layout: str = 'NHWC'
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = he_normal
    bias_init: Callable = nn.initializers.zeros_init()
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.layout not in LAYOUTS:
            raise ValueError(f'layout must be one of {LAYOUTS}, got {self.layout!r}.')
        size = (1, 2) if self.layout == 'NHWC' else (0, 1)
        grid = Grid.create(
            [x.shape[a] for a in size], pair(self.kernel_size, 'kernel_size'), self.strides,
            self.padding,
        )  # fmt: skip
        self.sow('grids', 'kernel', grid, reduce_fn=lambda _, new: new, init_fn=lambda: grid)
        channels = x.shape[-1] // self.feature_group_count
        shape = (*grid.output_size, *grid.kernel_size, channels, self.features)
        kernel = self.param('kernel', self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param('bias', self.bias_init, (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = conv_local(
            x,
            kernel,
            stride=grid.stride,
            padding=grid.padding,
            groups=self.feature_group_count,
            layout=self.layout,
            implementation=self.implementation,
        )
        return y if bias is None else y + bias


def grids(model: nn.Module, image_shape: tuple[int, int, int]) -> dict:
    """The `Grid` of every locally connected kernel of a model, at the kernel's path in the params.

    For images (H, W, C), of a model that is called as `model(images, train=False)`. Nothing is
    computed; {} if no layer is locally connected.
    """
    return variable_shapes(model, image_shape).get('grids', {})


def variable_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> dict:
    """The initial variables of a model of images (H, W, C), as `jax.ShapeDtypeStruct`s."""
    return jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, *image_shape)), train=False), jax.random.key(0)
    )
