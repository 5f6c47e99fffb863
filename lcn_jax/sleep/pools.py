"""Pools: the neurons of a layer that see the same patch of every pattern that tiles the plane.

This is the one definition of them. Along an axis with kernel size k and kernel dilation d, the
pattern has k values, each of them b pixels wide: pixel p shows value floor(p / b) mod k. Here b is
the smallest divisor of d such that d / b and k have no common factor (1 without dilation, or if d
and k have none). Then tap a of a receptive field that starts at pixel q sees value

    (floor(q / b) + a·d / b) mod k,

so the taps see each of the k values once, and a start counts through its phase, floor(q / b) mod k.
With input dilation the pattern tiles the dilated input, whose inserted zeros stay zero: positions
are in one pool only if the same of their taps fall on inserted zeros.

If pools are joined, the pattern moves, and every position sees it from the same start in a moment
of its own (`rules.py`): then only the inserted zeros keep positions apart.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lcn_jax.layer.arguments import check_choice
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter

BORDERS = ('include', 'exclude')

# What has pools: a local parameter, or a grid, which stands for its kernel in tiled pools.
Neurons = LocalParameter | Grid


class _Axis(NamedTuple):
    """The pools along one axis, in the order in which they occur; some may have no positions.

    number: (positions,) the pool of each. values, on_pixel: (pools, k), as in `seen_values`.
    """

    number: np.ndarray
    values: np.ndarray
    on_pixel: np.ndarray


def _axes(neurons: Neurons) -> list[_Axis]:
    local = LocalParameter(neurons) if isinstance(neurons, Grid) else neurons
    axes = [_axis(local.grid, number, local.joined) for number in range(local.dimensions)]
    if not local.per_neuron:
        return axes
    # The single tap sees the same in all pools.
    return [
        _Axis(axis.number, 0 * axis.values[:, :1], axis.on_pixel[:, :1] | True) for axis in axes
    ]


def _axis(grid: Grid, axis: int, joined: bool) -> _Axis:
    k, d, s = grid.kernel_size[axis], grid.kernel_dilation[axis], grid.stride[axis]
    block = next(b for b in range(1, d + 1) if d % b == 0 and math.gcd(d // b, k) == 1)
    between = grid.input_dilation[axis]
    period = math.lcm(k * block, between)
    period //= math.gcd(period, s)
    taps = np.arange(period)[:, None] * s - grid.padding[axis][0] + np.arange(k) * d
    values = (taps[:, :1] // block + np.arange(k) * (d // block)) % k
    if joined:
        values = np.broadcast_to(np.arange(k) * (d // block) % k, values.shape)
    on_pixel = taps % between == 0
    both = np.concatenate([values, on_pixel], axis=1)
    _, first, number = np.unique(both, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    pool_of = np.argsort(order)[number.ravel()]
    first = first[order]
    number_of = pool_of[np.arange(grid.output_size[axis]) % period]
    return _Axis(number_of, values[first], on_pixel[first])


def num_pools(neurons: Neurons) -> int:
    """At stride 1 the number of taps, or 1 if joined; more if the input is dilated."""
    return math.prod(len(axis.values) for axis in _axes(neurons))


def seen_values(neurons: Neurons) -> tuple[np.ndarray, np.ndarray]:
    """What the T taps of each pool see, as two arrays (num_pools, T): of int and of bool.

    The number of a value in the flat pattern, which has the size of the kernel, and whether the tap
    is on a pixel of the input: with input dilation it may be on an inserted zero.
    """
    values, on_pixel = np.zeros((1, 1), int), np.ones((1, 1), bool)
    for axis in _axes(neurons):
        shape = len(values) * len(axis.values), -1
        k = axis.values.shape[1]
        values = (values[:, None, :, None] * k + axis.values[:, None, :]).reshape(shape)
        on_pixel = (on_pixel[:, None, :, None] & axis.on_pixel[:, None, :]).reshape(shape)
    return values, on_pixel


def pool_numbers(neurons: Neurons, border: str = 'include') -> np.ndarray:
    """`output_size` int: the pool of each position, in [0, num_pools), or -1 if left out.

    Neurons of one pool receive the same input from every pattern that tiles the plane with the
    period of the kernel (docs/method.md). `border='exclude'` leaves out the neurons whose receptive
    field reaches into the zero padding.

    Raises:
      ValueError: `border` is not in BORDERS.
    """
    check_choice(border, BORDERS, 'border')
    numbers = np.zeros((), int)
    for axis in _axes(neurons):
        numbers = numbers[..., None] * len(axis.values) + axis.number
    grid = neurons if isinstance(neurons, Grid) else neurons.grid
    return np.where(grid.touches_border(), -1, numbers) if border == 'exclude' else numbers


@dataclasses.dataclass(frozen=True)
class Pools:
    """The pools of a layer as index arrays, which split a kernel by pool and join it again.

    index: (num_pools, members) flat output positions; smaller pools are padded with position 0.
    members: (num_pools, members) bool, False for the padding.
    slot: (positions,) each position's place in the flattened `index`; -1 if it is left out.
    """

    index: np.ndarray
    members: np.ndarray
    slot: np.ndarray

    @classmethod
    def of(cls, neurons: Neurons, border: str = 'include') -> 'Pools':
        """The pools that `pool_numbers` numbers."""
        pool_of = pool_numbers(neurons, border).ravel()
        positions = [np.flatnonzero(pool_of == pool) for pool in range(num_pools(neurons))]
        width = max(1, *map(len, positions))
        index = np.stack([np.pad(p, (0, width - len(p))) for p in positions])
        members = np.stack([np.arange(width) < len(p) for p in positions])
        slot = np.full(pool_of.shape, -1)
        slot[index[members]] = np.flatnonzero(members)
        return cls(index, members, slot)

    def split(self, kernel: jax.Array) -> jax.Array:
        """(*output, *kernel, C // groups, O) -> (num_pools, members, K, O), K weights a neuron."""
        features = kernel.shape[-1]
        return kernel.reshape(len(self.slot), -1, features)[self.index]

    def averaged(self, kernel: jax.Array) -> jax.Array:
        """`kernel` (*output, ...) with the mean of its pool at each position.

        Sums are taken in float32 at least. Positions that are in no pool keep their own values. A
        weight that is not finite makes that weight not finite at every position in a pool.
        """
        rows_NR = kernel.reshape(len(self.slot), -1)
        wide = jnp.promote_types(kernel.dtype, jnp.float32)
        in_pool_N, pool_N = self.slot >= 0, self.slot // self.index.shape[1]
        belongs_PN = in_pool_N & (pool_N == np.arange(len(self.index))[:, None])
        if belongs_PN.all():
            sums_PR = rows_NR.sum(0, dtype=wide, keepdims=True)
        else:  # a sum over gathered rows takes XLA twice as long
            sums_PR = jnp.matmul(
                belongs_PN.astype(kernel.dtype),
                rows_NR,
                precision='highest',
                preferred_element_type=wide,
            )
        members_P1 = np.maximum(belongs_PN.sum(1, keepdims=True), 1).astype(wide)
        means_NR = (sums_PR / members_P1).astype(kernel.dtype)[np.maximum(pool_N, 0)]
        if not in_pool_N.all():
            means_NR = jnp.where(in_pool_N[:, None], means_NR, rows_NR)
        return means_NR.reshape(kernel.shape)

    def join(self, pooled: jax.Array, kernel: jax.Array) -> jax.Array:
        """The inverse of `split`; positions that are in no pool keep the values of `kernel`."""
        rows = kernel.reshape(len(self.slot), -1)
        values = pooled.reshape(self.index.size, -1)[np.maximum(self.slot, 0)]
        in_pool = (self.slot >= 0)[:, None]
        joined = values if in_pool.all() else jnp.where(in_pool, values, rows)
        return joined.reshape(kernel.shape)


def in_pool(neurons: Neurons, border: str) -> np.ndarray:
    """(*output, 1, ..., 1) bool, for kernels: whether the position is in a pool."""
    return _for_kernels(pool_numbers(neurons, border) >= 0)


def pool_sizes(neurons: Neurons, border: str) -> np.ndarray:
    """(*output, 1, ..., 1) int, for kernels: the neurons in the position's pool, 1 outside."""
    numbers = pool_numbers(neurons, border)
    counts = np.bincount(numbers[numbers >= 0], minlength=num_pools(neurons))
    return _for_kernels(np.where(numbers >= 0, counts[numbers], 1))


def _for_kernels(of_positions: np.ndarray) -> np.ndarray:
    return of_positions.reshape(*of_positions.shape, *(1,) * (of_positions.ndim + 2))
