"""The locally connected layer: `conv_local`, a pure function, and `LocalConv`, its Flax module.

    y[n, i, j, o] = sum_{a, b, c} kernel[i, j, a, b, c, o] · x[n, i·s + a - pad, j·s + b - pad, c]

A convolution with its own kernel at every output position: kernels have shape
`(Ho, Wo, kh, kw, C // groups, O)`, a Flax kernel (HWIO) with the output position in front.

Shape suffixes: H, W input height and width (padded where the name says so); I, J output height and
width; T, U rows and columns of a tile, P its positions; C channels; K = kh·kw·C patch elements;
O features; N examples.
"""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lcn_jax.grid import Grid, Padding, Pair, pair

LAYOUTS = ('NHWC', 'HWCN')
IMPLEMENTATIONS = ('tiled', 'lax')

# A tile's patches should stay in the cache while they are used (bytes, per backend).
TILE_BYTES = {'cpu': 5 << 18}


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
      x: (N, H, W, C), or (H, W, C, N) with `layout='HWCN'`, which is faster: every position is one
        matrix product with the examples contiguous, and nothing is transposed.
      kernel: (Ho, Wo, kh, kw, C // groups, O), same dtype as x.
      stride: pixels between receptive fields, one number or (height, width).
      padding: 'SAME' or 'VALID' as in XLA, a number, or a number or (low, high) per axis.
      groups: channels and features fall into this many groups that do not see each other.
      implementation: 'tiled' (the default), or 'lax', the slow reference
        `jax.lax.conv_general_dilated_local`. The tiled form has its own reverse-mode derivative;
        for forward mode take 'lax'.

    Returns:
      (N, Ho, Wo, O), or (Ho, Wo, O, N), in the dtype of x.

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
    x_HWCN = x if layout == 'HWCN' else x.transpose(1, 2, 3, 0)
    grid = Grid.create(x_HWCN.shape[:2], kernel.shape[2:4], stride, padding)
    channels, features = x_HWCN.shape[2], kernel.shape[-1]
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

    one_group = _lax if implementation == 'lax' else _tiled
    if groups == 1:
        y_IJON = one_group(x_HWCN, kernel, grid)
    else:
        x_groups = x_HWCN.reshape(*x_HWCN.shape[:2], groups, channels // groups, -1)
        kernel_groups = kernel.reshape(*kernel.shape[:-1], groups, features // groups)
        y_groups = jax.vmap(one_group, in_axes=(2, 5, None), out_axes=2)(
            x_groups, kernel_groups, grid
        )
        y_IJON = y_groups.reshape(*y_groups.shape[:2], features, -1)
    return y_IJON if layout == 'HWCN' else y_IJON.transpose(3, 0, 1, 2)


def _lax(x_HWCN: jax.Array, kernel: jax.Array, grid: Grid) -> jax.Array:
    """The reference; it wants patch elements channel-major."""
    rows, columns, kh, kw, channels, features = kernel.shape
    return lax.conv_general_dilated_local(
        x_HWCN,
        kernel.transpose(0, 1, 4, 2, 3, 5).reshape(rows, columns, channels * kh * kw, features),
        window_strides=grid.stride,
        padding=grid.padding,
        filter_shape=grid.kernel_size,
        dimension_numbers=('HWCN', 'HWIO', 'HWCN'),
    )


# ---- The tiled form: a scan over tiles of output positions. --------------------------------------
#
# A tile's patches are gathered, used and forgotten, forward and backward, so the kh·kw-fold
# activations are never stored, and what is gathered stays in the cache for its matrix products. A
# tile is some whole rows, or a part of one: either way its kernels lie together in memory.


def _tiled(x_HWCN: jax.Array, kernel: jax.Array, grid: Grid) -> jax.Array:
    rows, columns, kh, kw, channels, features = kernel.shape
    kernel_IJKO = kernel.reshape(rows, columns, kh * kw * channels, features)
    return _tiled_product(x_HWCN, kernel_IJKO, grid)


def _edges(grid: Grid) -> tuple[Pair, Pair]:
    """Rows and columns to pad at both ends; negative where no receptive field reaches."""
    reach = _reach(grid.output_size, grid)
    lows = [low for low, _ in grid.padding]
    return tuple((low, r - low - size) for low, r, size in zip(lows, reach, grid.input_size))


def _pad(x_HWCN: jax.Array, edges: tuple[Pair, Pair], between: Pair = (0, 0)) -> jax.Array:
    config = [(low, high, inner) for (low, high), inner in zip(edges, between)]
    return lax.pad(x_HWCN, jnp.zeros((), x_HWCN.dtype), (*config, (0, 0, 0), (0, 0, 0)))


def _tile_size(x_HWCN: jax.Array, grid: Grid) -> Pair:
    """Output rows and columns of a tile: the most that divide the image and fit into the cache."""
    rows, columns = grid.output_size
    bytes_each = math.prod(grid.kernel_size) * math.prod(x_HWCN.shape[2:]) * x_HWCN.dtype.itemsize
    fitting = TILE_BYTES.get(jax.default_backend(), math.inf) / bytes_each

    def largest_divisor(size, limit):
        return max(d for d in range(1, size + 1) if size % d == 0 and (d == 1 or d <= limit))

    if columns > fitting:
        return 1, largest_divisor(columns, fitting)
    return largest_divisor(rows, fitting / columns), columns


def _split_tiles(array: jax.Array, tile: Pair) -> jax.Array:
    """(I, J, ...) -> (tiles, P, ...)."""
    return array.reshape(-1, math.prod(tile), *array.shape[2:])


def _reach(positions: Pair, grid: Grid) -> Pair:
    """Rows and columns of the input that so many output rows and columns see."""
    return tuple((p - 1) * s + k for p, s, k in zip(positions, grid.stride, grid.kernel_size))


def _tile_input(padded: jax.Array, tile: Pair, number: jax.Array, grid: Grid) -> tuple:
    """Where the input of a tile begins in the padded image, and its shape (H, W, C, N)."""
    tiles_in_row = grid.output_size[1] // tile[1]
    row, column = number // tiles_in_row * tile[0], number % tiles_in_row * tile[1]
    start = row * grid.stride[0], column * grid.stride[1], 0, 0
    return start, (*_reach(tile, grid), *padded.shape[2:])


def _windows(tile: Pair, grid: Grid) -> list[tuple[tuple[int, int, int], ...]]:
    """The kh·kw shifted and strided windows of a tile's input that make up its patches.

    (begin, end, stride) by axis.
    """
    spans = [(p - 1) * s + 1 for p, s in zip(tile, grid.stride)]
    return [
        tuple((b, b + span, s) for b, span, s in zip(begin, spans, grid.stride))
        for begin in np.ndindex(*grid.kernel_size)
    ]


def _patches(tile_HWCN: jax.Array, windows: list) -> jax.Array:
    """(P, K, N) patches of a tile's input."""
    parts = [tile_HWCN[tuple(slice(*axis) for axis in window)] for window in windows]
    patches_TUKN = jnp.concatenate(parts, axis=2)
    return patches_TUKN.reshape(-1, *patches_TUKN.shape[2:])


def _sum_of_patches(
    patches_PKN: jax.Array, tile: Pair, windows: list, shape: Sequence[int]
) -> jax.Array:
    """The transpose of `_patches`: (H, W, C, N), added up where receptive fields overlap.

    A sum of padded arrays is one pass over memory; in-place additions would be kh·kw.
    """
    patches_TUKN = patches_PKN.reshape(*tile, *patches_PKN.shape[1:])
    total = 0
    for window, part in zip(windows, jnp.split(patches_TUKN, len(windows), axis=2)):
        edges = [(begin, size - end) for (begin, end, _), size in zip(window, shape)]
        total += _pad(part, edges, between=[stride - 1 for _, _, stride in window])
    return total


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _tiled_product(x_HWCN: jax.Array, kernel_IJKO: jax.Array, grid: Grid) -> jax.Array:
    """(I, J, O, N)."""
    padded = _pad(x_HWCN, _edges(grid))
    tile = _tile_size(x_HWCN, grid)
    windows = _windows(tile, grid)

    def body(number, kernel_PKO):
        tile_HWCN = lax.dynamic_slice(padded, *_tile_input(padded, tile, number, grid))
        y_PON = jnp.einsum('pkn,pko->pon', _patches(tile_HWCN, windows), kernel_PKO)
        return number + 1, y_PON

    tiles = lax.scan(body, 0, _split_tiles(kernel_IJKO, tile))[1]
    return tiles.reshape(*grid.output_size, *tiles.shape[2:])


def _tiled_forward(x_HWCN, kernel_IJKO, grid):
    # x is kept, and padded again later: somebody else keeps it anyway, but not its padded copy.
    return _tiled_product(x_HWCN, kernel_IJKO, grid), (x_HWCN, kernel_IJKO)


def _tiled_backward(grid, residuals, dy_IJON):
    """Both gradients in one pass over the tiles; dx adds up where receptive fields overlap."""
    x_HWCN, kernel_IJKO = residuals
    edges = _edges(grid)
    padded = _pad(x_HWCN, edges)
    tile = _tile_size(x_HWCN, grid)
    windows = _windows(tile, grid)
    kernels, dy_tiles = _split_tiles(kernel_IJKO, tile), _split_tiles(dy_IJON, tile)

    # XLA makes one array of zeros for all layers at the start of a program and copies it for each.
    # Zeros that depend on dy are made in place when they are needed: half of the memory in a step.
    zero = 0 * dy_IJON[0, 0, 0, 0]

    def body(carry, tiles):
        number, dpadded, dkernels = carry
        kernel_PKO, dy_PON = tiles
        start, shape = _tile_input(padded, tile, number, grid)
        patches_PKN = _patches(lax.dynamic_slice(padded, start, shape), windows)
        dkernel_PKO = jnp.einsum('pkn,pon->pko', patches_PKN, dy_PON)
        dkernels = lax.dynamic_update_index_in_dim(dkernels, dkernel_PKO, number, 0)
        dpatches_PKN = jnp.einsum('pko,pon->pkn', kernel_PKO, dy_PON)
        dtile_HWCN = _sum_of_patches(dpatches_PKN, tile, windows, shape)
        dtile_HWCN += lax.dynamic_slice(dpadded, start, shape)
        dpadded = lax.dynamic_update_slice(dpadded, dtile_HWCN, start)
        return (number + 1, dpadded, dkernels), None

    start = 0, jnp.broadcast_to(zero, padded.shape), jnp.broadcast_to(zero, kernels.shape)
    (_, dpadded, dkernels), _ = lax.scan(body, start, (kernels, dy_tiles))
    dx_HWCN = _pad(dpadded, [(-low, -high) for low, high in edges])
    return dx_HWCN, dkernels.reshape(kernel_IJKO.shape)


_tiled_product.defvjp(_tiled_forward, _tiled_backward)


# ---- Initialisers and the Flax module. -----------------------------------------------------------


def he_normal(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
    """Normal with std sqrt(2 / (O·kh·kw)): He's fan-out over the receptive field of one position.

    `shape` is (kh, kw, C // groups, O), with (Ho, Wo) in front if the kernel is locally connected.
    (Flax's own initialisers would count Ho·Wo as part of the receptive field.)
    """
    kh, kw, _, features = shape[-4:]
    # The same numbers drawn in their full shape would take XLA a second more to compile, each time.
    normal = jax.random.normal(key, (math.prod(shape[:-4]), math.prod(shape[-4:])), dtype)
    return math.sqrt(2 / (features * kh * kw)) * normal.reshape(shape)


def tile_kernel(kernel: jax.Array, output_size: Pair) -> jax.Array:
    """A convolution kernel (kh, kw, C // groups, O) at every position: (Ho, Wo, kh, kw, ..., O)."""
    return jnp.broadcast_to(kernel, (*output_size, *kernel.shape))


def shared_normal(noise: float = 0.0) -> Callable:
    """Initialiser: one `he_normal` kernel for all positions, plus `noise` times one of their own.

    With noise 0 the layer starts out convolutional.
    """

    def init(key, shape, dtype=jnp.float32):
        common_key, own_key = jax.random.split(key)
        common = he_normal(common_key, (1, 1, *shape[2:]), dtype)
        return common + noise * he_normal(own_key, shape, dtype)

    return init


class LocalConv(nn.Module):
    """Locally connected layer with the arguments of `flax.linen.Conv`, where both have them.

    Parameters: `kernel` (Ho, Wo, kh, kw, C // groups, O) and, with `use_bias`, `bias` (O,), shared
    by the positions. At initialisation it leaves its `Grid` in the collection 'grids' under the
    kernel's path: that is how the sleep finds the kernels and their pools.
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
        size, channel_axis = ((1, 2), 3) if self.layout == 'NHWC' else ((0, 1), 2)
        grid = Grid.create(
            [x.shape[a] for a in size], pair(self.kernel_size, 'kernel_size'), self.strides,
            self.padding,
        )  # fmt: skip
        self.sow('grids', 'kernel', grid, reduce_fn=lambda _, new: new, init_fn=lambda: None)
        channels = x.shape[channel_axis] // self.feature_group_count
        shape = (*grid.output_size, *grid.kernel_size, channels, self.features)
        kernel = self.param('kernel', self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param('bias', self.bias_init, (self.features,), self.param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = conv_local(
            x,
            kernel,
            stride=grid.stride,
            padding=grid.padding,
            groups=self.feature_group_count,
            layout=self.layout,
            implementation=self.implementation,
        )
        if bias is None:
            return y
        return y + (bias if self.layout == 'NHWC' else bias[:, None])
