"""Receptive-field geometry: which input pixels an output position sees, and which positions share.

This is the one definition of receptive fields, borders and pools. The layer, the sleep rules and
the weight SNR all take it from here.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

Pair = tuple[int, int]
Padding = str | int | Sequence[int | Sequence[int]]

BORDERS = ('include', 'exclude')


def pair(value: int | Sequence[int], name: str) -> Pair:
    """`3` or `(3, 5)` -> (height, width); ValueError, with `name` in it, unless both are >= 1."""
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) != 2 or not all(isinstance(v, (int, np.integer)) and v > 0 for v in values):
        raise ValueError(f'{name} must be a positive integer or a pair of them, got {value!r}.')
    return int(values[0]), int(values[1])


def _pad_axis(padding: Padding, axis: int, size: int, kernel: int, stride: int) -> Pair:
    """(low, high) zeros of one axis; 'SAME' and 'VALID' as XLA and Flax mean them."""
    if padding == 'VALID':
        return 0, 0
    if padding == 'SAME':
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2
    try:
        if isinstance(padding, str):
            raise ValueError
        value = padding if isinstance(padding, int) else padding[axis]
        low, high = (value, value) if isinstance(value, int) else value
        if low < 0 or high < 0:
            raise ValueError
        return int(low), int(high)
    except (TypeError, ValueError, IndexError):
        raise ValueError(
            f"padding must be 'SAME', 'VALID', an integer, or an integer or (low, high) for each "
            f'axis, not negative; got {padding!r}.'
        ) from None


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Grid:
    """The output positions of a layer over its input; make one with `Grid.create`.

    All fields are (height, width) pairs in pixels. A grid is hashable, and as a pytree it has no
    leaves, so it passes through `jax.eval_shape` and can be part of a tree of variables.
    """

    input_size: Pair
    kernel_size: Pair
    stride: Pair
    padding: tuple[Pair, Pair]

    @classmethod
    def create(
        cls,
        input_size: int | Sequence[int],
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Padding = 'SAME',
    ) -> 'Grid':
        """Checks its arguments: ValueError if one is malformed or the output would be empty."""
        size = pair(input_size, 'input_size')
        kernel = pair(kernel_size, 'kernel_size')
        strides = pair(stride, 'stride')
        rows, columns = (_pad_axis(padding, a, size[a], kernel[a], strides[a]) for a in (0, 1))
        pads = rows, columns
        grid = cls(size, kernel, strides, pads)
        if min(grid.output_size) < 1:
            raise ValueError(
                f'a {kernel[0]}x{kernel[1]} kernel does not fit into a {size[0]}x{size[1]} input '
                f'padded by {pads}.'
            )
        return grid

    @property
    def output_size(self) -> Pair:
        """(Ho, Wo): the numbers of positions, which are `stride` pixels apart."""
        rows, columns = (
            (n + low + high - k) // s + 1
            for n, k, s, (low, high) in zip(
                self.input_size, self.kernel_size, self.stride, self.padding
            )
        )
        return rows, columns

    @property
    def period(self) -> Pair:
        """Distance, in output positions, between neighbours of one pool: k / gcd(k, s) per axis.

        A pattern that tiles the input with period k looks the same to output o and o' when
        o·s = o'·s (mod k).
        """
        rows, columns = (k // math.gcd(k, s) for k, s in zip(self.kernel_size, self.stride))
        return rows, columns

    @property
    def num_pools(self) -> int:
        """The number of pools: kh·kw at stride 1, one for 1×1 kernels."""
        return math.prod(self.period)

    def starts(self, axis: int) -> np.ndarray:
        """First input row (axis 0) or column (axis 1) of each position's receptive field."""
        return np.arange(self.output_size[axis]) * self.stride[axis] - self.padding[axis][0]

    def phases(self) -> np.ndarray:
        """(num_pools, 2): where in the tiled k×k pattern the receptive fields of a pool begin."""
        per_axis = [
            (np.arange(self.period[a]) * self.stride[a] - self.padding[a][0]) % self.kernel_size[a]
            for a in (0, 1)
        ]
        return np.stack(np.meshgrid(*per_axis, indexing='ij'), -1).reshape(-1, 2)

    def touches_border(self) -> np.ndarray:
        """(Ho, Wo) bool: the receptive field reaches into the zero padding."""
        outside = [
            (self.starts(a) < 0) | (self.starts(a) + self.kernel_size[a] > self.input_size[a])
            for a in (0, 1)
        ]
        return outside[0][:, None] | outside[1][None, :]

    def pools(self, border: str = 'include') -> np.ndarray:
        """(Ho, Wo) int: the pool of each position, in [0, num_pools), or -1 if it is left out.

        Neurons of one pool receive the same input from every pattern that tiles the plane with the
        period of the kernel (docs/method.md). `border='exclude'` leaves out the neurons whose
        receptive field reaches into the padding.

        Raises:
          ValueError: `border` is not in BORDERS.
        """
        if border not in BORDERS:
            raise ValueError(f'border must be one of {BORDERS}, got {border!r}.')
        rows, columns = (np.arange(n) % p for n, p in zip(self.output_size, self.period))
        pools = rows[:, None] * self.period[1] + columns[None, :]
        return np.where(self.touches_border(), -1, pools) if border == 'exclude' else pools


@dataclasses.dataclass(frozen=True)
class Pools:
    """The pools of a grid as index arrays, which split a kernel by pool and join it again.

    index: (num_pools, members) flat output positions; smaller pools are padded with position 0.
    members: (num_pools, members) bool, False for the padding.
    slot: (Ho·Wo,) each position's place in the flattened `index`; -1 if it is left out.
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

    def split(self, kernel: jax.Array) -> jax.Array:
        """(Ho, Wo, kh, kw, C // groups, O) -> (num_pools, members, K, O), K weights of a neuron."""
        features = kernel.shape[-1]
        return kernel.reshape(len(self.slot), -1, features)[self.index]

    def means(self, values: jax.Array) -> jax.Array:
        """(num_pools, members, ...) -> (num_pools, 1, ...): means over the members, no padding."""
        members = self.members.reshape(*self.members.shape, *[1] * (values.ndim - 2))
        total = jnp.where(members, values, 0).sum(1, keepdims=True)
        return total / np.maximum(members.sum(1, keepdims=True), 1).astype(values.dtype)

    def join(self, pooled: jax.Array, kernel: jax.Array) -> jax.Array:
        """The inverse of `split`; positions that are in no pool keep the values of `kernel`."""
        values = pooled.reshape(-1, *kernel.shape[2:])[np.maximum(self.slot, 0)]
        values = values.reshape(kernel.shape)
        if (self.slot >= 0).all():
            return values
        in_pool = (self.slot >= 0).reshape(*kernel.shape[:2], *[1] * (kernel.ndim - 2))
        return jnp.where(in_pool, values, kernel)


def by_path(grids: Mapping) -> list[tuple[tuple[str, ...], Grid]]:
    """The (path of a kernel in the params, grid) pairs of a tree of grids, in a fixed order."""
    return sorted(flax.traverse_util.flatten_dict(grids).items())
