"""Receptive-field geometry: which input pixels an output position sees, and which positions share.

This is the one definition of receptive fields, borders and pools, for one, two or three spatial
dimensions. The layer, the sleep rules and the weight SNR all take it from here.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lcn_jax.arguments import MOST_DIMENSIONS, Edges, Padding, Sizes, edges_of, sizes

BORDERS = ('include', 'exclude')


class _AxisPools(NamedTuple):
    """The pools along one axis, in the order in which they occur; some may have no positions.

    number: (positions,) the pool of each. values, on_pixel: (pools, k), as in `Grid.seen_values`.
    """

    number: np.ndarray
    values: np.ndarray
    on_pixel: np.ndarray


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Grid:
    """The output positions of a layer over its input; make one with `Grid.create`.

    All fields but `circular` are tuples with one entry for each spatial dimension, in pixels. With
    `input_dilation` d, d - 1 zeros lie between neighbouring pixels of the input; padding and
    positions are counted in pixels of this dilated input. `circular`: the padding repeats the input
    from its other side. `joined`: all positions are one pool, which `sleep.py` explains.
    `values_of`: if this is the grid of one value per neuron, that of their layer (`for_values`).
    `create` sets neither. A grid is hashable, and as a pytree it has no leaves.
    """

    input_size: Sizes
    kernel_size: Sizes
    stride: Sizes
    padding: tuple[Edges, ...]
    kernel_dilation: Sizes
    input_dilation: Sizes
    circular: bool
    joined: bool = False
    values_of: 'Grid | None' = None

    @classmethod
    def create(
        cls,
        input_size: int | Sequence[int],
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Padding = 'SAME',
        kernel_dilation: int | Sequence[int] = 1,
        input_dilation: int | Sequence[int] = 1,
    ) -> 'Grid':
        """A single number counts for all dimensions, of which there are two if no tuple is given.

        Raises:
          ValueError: an argument is malformed, or the output would be empty.
        """
        given = (input_size, kernel_size, stride, kernel_dilation, input_dilation)
        dimensions = next((len(v) for v in given if isinstance(v, Sequence)), 2)
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise ValueError(f'there must be 1, 2 or 3 spatial dimensions, got {dimensions}.')
        size, kernel, strides, dilation, between = (
            sizes(value, dimensions, name)
            for value, name in zip(
                given, ('input_size', 'kernel_size', 'stride', 'kernel_dilation', 'input_dilation')
            )
        )
        pads = tuple(
            edges_of(padding, axis, dimensions, (n - 1) * gap + 1, (k - 1) * d + 1, s, gap)
            for axis, (n, gap, k, d, s) in enumerate(zip(size, between, kernel, dilation, strides))
        )
        grid = cls(size, kernel, strides, pads, dilation, between, padding == 'CIRCULAR')
        if min(grid.output_size) < 1:
            dilated = f' dilated by {dilation}' if max(dilation) > 1 else ''
            raise ValueError(
                f'a kernel of size {kernel}{dilated} does not fit into an input of size {size} '
                f'padded by {pads}.'
            )
        return grid

    def joined_pools(self) -> 'Grid':
        """The same geometry, but all positions are one pool."""
        return dataclasses.replace(self, joined=True)

    def for_values(self) -> 'Grid':
        """For one value per neuron, such as a bias or the scale of a norm: (*output, O).

        They are treated as kernels of one tap and one channel, (*output, 1, ..., 1, O), in the
        pools of this grid: as weights onto an input that a pattern shows to all neurons.
        """
        one = Grid.create(self.output_size, (1,) * self.dimensions)
        return dataclasses.replace(one, joined=self.joined, values_of=self)

    @property
    def dimensions(self) -> int:
        return len(self.input_size)

    @property
    def dilated_size(self) -> Sizes:
        """The size of the input with the zeros of the input dilation, but without padding."""
        return tuple((n - 1) * d + 1 for n, d in zip(self.input_size, self.input_dilation))

    @property
    def output_size(self) -> Sizes:
        """The numbers of positions, which are `stride` pixels apart."""
        return tuple(
            (n + low + high - (k - 1) * d - 1) // s + 1
            for n, (low, high), k, d, s in zip(
                self.dilated_size, self.padding, self.kernel_size, self.kernel_dilation, self.stride
            )
        )

    @property
    def seen_size(self) -> Sizes:
        """The size of the padded input from its first pixel to the last that a position sees."""
        return tuple(
            (n - 1) * s + (k - 1) * d + 1
            for n, s, k, d in zip(
                self.output_size, self.stride, self.kernel_size, self.kernel_dilation
            )
        )

    def starts(self, axis: int) -> np.ndarray:
        """The first pixel along an axis of each position's receptive field."""
        return np.arange(self.output_size[axis]) * self.stride[axis] - self.padding[axis][0]

    def touches_border(self) -> np.ndarray:
        """`output_size` bool: the receptive field reaches into the zero padding."""
        if self.values_of is not None:
            return self.values_of.touches_border()
        outside = np.zeros((), bool)
        for a in range(self.dimensions):
            first = self.starts(a)
            last = first + (self.kernel_size[a] - 1) * self.kernel_dilation[a]
            beyond = (first < 0) | (last >= self.dilated_size[a])
            outside = outside[..., None] | (beyond & (not self.circular))
        return outside

    # ---- Pools: the positions that see the same patch of every pattern that tiles the plane. ----
    #
    # Along an axis with kernel size k and kernel dilation d, the pattern has k values, each of
    # them b pixels wide: pixel p shows value floor(p / b) mod k. Here b is the smallest divisor of
    # d such that d / b and k have no common factor (1 without dilation, or if d and k have none).
    # Then tap a of a receptive field that starts at pixel q sees value
    #
    #     (floor(q / b) + a·d / b) mod k,
    #
    # so the taps see each of the k values once, and a start counts through its phase, floor(q / b)
    # mod k. With input dilation the pattern tiles the dilated input, whose inserted zeros stay
    # zero: positions are in one pool only if the same of their taps fall on inserted zeros.
    #
    # If pools are joined, the pattern moves, and every position sees it from the same start in a
    # moment of its own: then only the inserted zeros keep positions apart.

    def _blocks(self, axis: int) -> int:
        """The width b, in pixels, of a value of the pattern."""
        k, d = self.kernel_size[axis], self.kernel_dilation[axis]
        return next(b for b in range(1, d + 1) if d % b == 0 and math.gcd(d // b, k) == 1)

    def _axis_pools(self, axis: int) -> '_AxisPools':
        k, d, s = self.kernel_size[axis], self.kernel_dilation[axis], self.stride[axis]
        block, between = self._blocks(axis), self.input_dilation[axis]
        period = math.lcm(k * block, between)
        period //= math.gcd(period, s)
        taps = np.arange(period)[:, None] * s - self.padding[axis][0] + np.arange(k) * d
        values = (taps[:, :1] // block + np.arange(k) * (d // block)) % k
        if self.joined:
            values = np.broadcast_to(np.arange(k) * (d // block) % k, values.shape)
        on_pixel = taps % between == 0
        both = np.concatenate([values, on_pixel], axis=1)
        _, first, number = np.unique(both, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        pool_of = np.argsort(order)[number.ravel()]
        first = first[order]
        number_of = pool_of[np.arange(self.output_size[axis]) % period]
        return _AxisPools(number_of, values[first], on_pixel[first])

    @functools.cached_property
    def _pools(self) -> list['_AxisPools']:
        if self.values_of is not None:
            of_layer = dataclasses.replace(self.values_of, joined=self.joined)._pools
            one = (slice(None), slice(1))
            return [
                _AxisPools(axis.number, 0 * axis.values[one], axis.on_pixel[one] | True)
                for axis in of_layer
            ]
        return [self._axis_pools(axis) for axis in range(self.dimensions)]

    @property
    def num_pools(self) -> int:
        """The product of the kernel size at stride 1, or 1 if joined (more if input is dilated)."""
        return math.prod(len(axis.values) for axis in self._pools)

    def seen_values(self) -> tuple[np.ndarray, np.ndarray]:
        """What the T taps of each pool see, as two arrays (num_pools, T): of int and of bool.

        The number of a value in the flat pattern, which has the size of the kernel, and whether the
        tap is on a pixel of the input: with input dilation it may be on an inserted zero.
        """
        values, on_pixel = np.zeros((1, 1), int), np.ones((1, 1), bool)
        for k, axis in zip(self.kernel_size, self._pools):
            shape = len(values) * len(axis.values), -1
            values = (values[:, None, :, None] * k + axis.values[:, None, :]).reshape(shape)
            on_pixel = (on_pixel[:, None, :, None] & axis.on_pixel[:, None, :]).reshape(shape)
        return values, on_pixel

    def pools(self, border: str = 'include') -> np.ndarray:
        """`output_size` int: the pool of each position, in [0, num_pools), or -1 if left out.

        Neurons of one pool receive the same input from every pattern that tiles the plane with the
        period of the kernel (docs/method.md). `border='exclude'` leaves out the neurons whose
        receptive field reaches into the zero padding.

        Raises:
          ValueError: `border` is not in BORDERS.
        """
        if border not in BORDERS:
            raise ValueError(f'border must be one of {BORDERS}, got {border!r}.')
        pools = np.zeros((), int)
        for axis in self._pools:
            pools = pools[..., None] * len(axis.values) + axis.number
        return np.where(self.touches_border(), -1, pools) if border == 'exclude' else pools

    def in_pool(self, border: str) -> np.ndarray:
        """(*output, 1, ..., 1) bool, for kernels: whether the position is in a pool."""
        axes_of_weights = (1,) * (self.dimensions + 2)
        return (self.pools(border) >= 0).reshape(*self.output_size, *axes_of_weights)

    def windows(self) -> list[tuple[slice, ...]]:
        """For each tap, the pixels that the positions see at it, counted with the padding."""
        axes = [
            [slice(a * d, a * d + (n - 1) * s + 1, s) for a in range(k)]
            for k, d, n, s in zip(
                self.kernel_size, self.kernel_dilation, self.output_size, self.stride
            )
        ]
        return list(itertools.product(*axes))


@dataclasses.dataclass(frozen=True)
class Pools:
    """The pools of a grid as index arrays, which split a kernel by pool and join it again.

    index: (num_pools, members) flat output positions; smaller pools are padded with position 0.
    members: (num_pools, members) bool, False for the padding.
    slot: (positions,) each position's place in the flattened `index`; -1 if it is left out.
    """

    index: np.ndarray
    members: np.ndarray
    slot: np.ndarray

    @classmethod
    def of(cls, grid: Grid, border: str = 'include') -> 'Pools':
        """The pools that `grid.pools(border)` numbers."""
        pool_of = grid.pools(border).ravel()
        positions = [np.flatnonzero(pool_of == pool) for pool in range(grid.num_pools)]
        width = max(1, *map(len, positions))
        index = np.stack([np.pad(p, (0, width - len(p))) for p in positions])
        members = np.stack([np.arange(width) < len(p) for p in positions])
        slot = np.full(pool_of.shape, -1)
        slot[index[members]] = np.flatnonzero(members)
        return cls(index, members, slot)

    @property
    def size(self) -> np.ndarray:
        """(positions,) int: the number of members of the position's pool, 1 if it is in none."""
        of_pool = self.members.sum(1)[self.slot // self.index.shape[1]]
        return np.where(self.slot >= 0, of_pool, 1)

    def split(self, kernel: jax.Array) -> jax.Array:
        """(*output, *kernel, C // groups, O) -> (num_pools, members, K, O), K weights a neuron."""
        features = kernel.shape[-1]
        return kernel.reshape(len(self.slot), -1, features)[self.index]

    def averaged(self, kernel: jax.Array) -> jax.Array:
        """`kernel` (*output, ...) with the mean of its pool at each position.

        Sums are taken in float32 at least. Positions that are in no pool keep their own values. A
        value that is not finite makes the same value of all positions NaN.
        """
        rows_NR = kernel.reshape(len(self.slot), -1)
        wide = jnp.promote_types(kernel.dtype, jnp.float32)
        in_pool_N, pool_N = self.slot >= 0, self.slot // self.index.shape[1]
        # As a product with zeros and ones: a sum over gathered rows takes XLA twice as long.
        belongs_PN = in_pool_N & (pool_N == np.arange(len(self.index))[:, None])
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
