"""The layer and its gradients as sums of shifted elementwise products, for CPUs.

There, XLA runs a batched matrix product on one core, and would write and read every patch.
Elementwise loops run on all cores, read shifted pixels in place, and are vectorised over the
features. The three sums have the same form; each is at least float32.

Arrays as in `bilinear.py`. Shape suffixes: P pixels of the padded input; I output positions, both
of one to three axes; T taps, the places of a receptive field; C channels; O features; N examples.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lcn_jax.layer.arguments import Edges
from lcn_jax.layer.backends.patches import by_group, pad, padded
from lcn_jax.layer.grid import Grid

# Products that are summed at a time. XLA slices an operand beforehand only if the slice is used
# more than 15 times; otherwise it slices inside the loop over products, which then takes five
# times as long. Many more than 16 products do not fit into the registers.
FEWEST_TERMS = 16

Slices = tuple[slice, ...]


def forward(x: jax.Array, kernel: jax.Array, grid: Grid, groups: int) -> jax.Array:
    """y."""
    return by_group(functools.partial(_forward, grid=grid), x, kernel, groups)


def input_gradient(dy: jax.Array, kernel: jax.Array, grid: Grid, groups: int) -> jax.Array:
    """dx: at each pixel, the sum over the neurons that see it."""
    return by_group(functools.partial(_input_gradient, grid=grid), dy, kernel, groups)


def kernel_gradient(x: jax.Array, dy: jax.Array, grid: Grid, groups: int) -> jax.Array:
    """dkernel."""
    return by_group(functools.partial(_kernel_gradient, grid=grid), x, dy, groups)


def _forward(x: jax.Array, kernel: jax.Array, grid: Grid) -> jax.Array:
    everywhere = (slice(None),) * grid.dimensions
    taps = [(window, everywhere) for window in grid.windows()]
    y = _sum_over_channels(padded(x, grid), _by_tap(kernel, grid), taps)
    return y.astype(x.dtype)


def _input_gradient(dy: jax.Array, kernel: jax.Array, grid: Grid) -> jax.Array:
    total = jnp.zeros((), jnp.promote_types(dy.dtype, jnp.float32))
    size = (*grid.dilated_size, dy.shape[-2], kernel.shape[-2])
    for phases in itertools.product(*(_phases(grid, a) for a in range(grid.dimensions))):
        seen = kernel[(slice(None),) * grid.dimensions + tuple(phase.taps for phase in phases)]
        kernel_ITOC = _after(dy, _by_tap(seen, grid)).swapaxes(-2, -1)
        edges = [phase.edges for phase in phases]
        taps = [(window, window) for window in itertools.product(*(p.windows for p in phases))]
        part = _sum_over_channels(pad(dy, edges), pad(kernel_ITOC, edges), taps)
        around = [phase.around for phase in phases]
        total += pad(part, around, between=[stride - 1 for stride in grid.stride])
    dx = jnp.broadcast_to(total, size)
    return dx[tuple(slice(None, None, d) for d in grid.input_dilation)].astype(dy.dtype)


def _kernel_gradient(x: jax.Array, dy: jax.Array, grid: Grid) -> jax.Array:
    dkernel_ITCO = _sum_over_examples(padded(_after(dy, x), grid), dy, grid.windows())
    shape = (*grid.output_size, *grid.kernel_size, *dkernel_ITCO.shape[-2:])
    return dkernel_ITCO.reshape(shape).astype(dy.dtype)


def _by_tap(kernel: jax.Array, grid: Grid) -> jax.Array:
    """(*output, *kernel, C, O) -> (I, T, C, O)."""
    return kernel.reshape(*grid.output_size, -1, *kernel.shape[-2:])


def _sum_over_channels(
    x_PNC: jax.Array, kernel_ITCO: jax.Array, taps: list[tuple[Slices, Slices]]
) -> jax.Array:
    """sum_{t, c} kernel[positions_t][..., t, c, None, :] · x[pixels_t][..., :, c, None].

    taps: (pixels, positions) of each. Returns (I, N, O).
    """
    channels, features = kernel_ITCO.shape[-2:]
    at_once = _terms_at_once(len(taps), channels)
    x_PNC = _fill(x_PNC, -1, at_once)
    kernel_ITCO = _fill(kernel_ITCO, -2, at_once)

    def add(number, y):
        x = _part(x_PNC, -1, number, at_once, y.dtype)
        kernel = _part(kernel_ITCO, -2, number, at_once, y.dtype)
        for t, (pixels, positions) in enumerate(taps):
            for c in range(at_once):
                y += kernel[positions][..., t, c, None, :] * x[pixels][..., c, None]
        return y

    size = kernel_ITCO[taps[0][1]].shape[:-3]
    zeros = _zeros((*size, x_PNC.shape[-2], features), x_PNC)
    return _repeat(x_PNC.shape[-1] // at_once, add, zeros)


def _sum_over_examples(x_PNC: jax.Array, dy_INO: jax.Array, windows: list[Slices]) -> jax.Array:
    """(I, T, C, O): sum_n x[windows_t][..., n, :, None] · dy[..., n, None, :]."""
    *size, examples, features = dy_INO.shape
    at_once = _terms_at_once(1, examples)
    x_PNC, dy_INO = _fill(x_PNC, -2, at_once), _fill(dy_INO, -2, at_once)

    def add(number, dkernels):
        x = _part(x_PNC, -2, number, at_once, dkernels[0].dtype)
        dy = _part(dy_INO, -2, number, at_once, dkernels[0].dtype)
        sums = []
        for dkernel, window in zip(dkernels, windows):
            for n in range(at_once):
                dkernel += x[window][..., n, :, None] * dy[..., n, None, :]
            sums.append(dkernel)
        return sums

    zeros = [_zeros((*size, x_PNC.shape[-1], features), dy_INO) for _ in windows]
    dkernels = _repeat(dy_INO.shape[-2] // at_once, add, zeros)
    return jnp.stack(dkernels, axis=-3)


class _Phase(NamedTuple):
    """Along one axis, the pixels u·s + r for one r < s, and the neurons that see them.

    Counted with the padding, pixel u·s + r is at tap a of the neuron at position
    u - (d·a - r) / s, for all a where this is a whole number. d is the kernel dilation.
    """

    taps: slice  # these a
    edges: Edges  # padding (low, high) that the positions need
    windows: list[slice]  # for each tap, the positions, counted with `edges`
    around: Edges  # pixels before the first and after the last


def _phases(grid: Grid, axis: int) -> list[_Phase]:
    pixels, positions = grid.dilated_size[axis], grid.output_size[axis]
    size, dilation = grid.kernel_size[axis], grid.kernel_dilation[axis]
    stride, low = grid.stride[axis], grid.padding[axis][0]
    phases = []
    for r in range(stride):
        first, end = -((r - low) // stride), -((r - low - pixels) // stride)
        count, start = end - first, first * stride + r - low
        taps = [a for a in range(size) if (dilation * a - r) % stride == 0]
        back = [(dilation * a - r) // stride for a in taps]  # from u to the position
        if count > 0 and taps:
            step = taps[1] - taps[0] if len(taps) > 1 else 1
            phases.append(
                _Phase(
                    taps=slice(taps[0], taps[-1] + 1, step),
                    edges=(back[-1] - first, end - back[0] - positions),
                    windows=[slice(back[-1] - b, back[-1] - b + count) for b in back],
                    around=(start, pixels - (start + (count - 1) * stride + 1)),
                )
            )
    return phases


def _repeat(times: int, add: Callable, start: Any) -> Any:
    """A loop over `add(number, sums)`."""
    return add(0, start) if times == 1 else lax.fori_loop(0, times, add, start)


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
