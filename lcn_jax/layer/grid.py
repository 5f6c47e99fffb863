"""Receptive fields: which pixels of the input each output position of a layer sees.

This is the one definition of them, for one, two or three spatial dimensions.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import numpy as np

from lcn_jax.layer.arguments import MOST_DIMENSIONS, Edges, Padding, Sizes, edges_of, sizes


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Grid:
    """The output positions of a layer over its input; make one with `Grid.create`.

    All fields but `circular` are tuples with one entry for each spatial dimension, in pixels. With
    `input_dilation` d, d - 1 zeros lie between neighbouring pixels of the input; padding and
    positions are counted in pixels of this dilated input. `circular`: the padding repeats the input
    from its other side. A grid is hashable, and as a pytree it has no leaves.
    """

    input_size: Sizes
    kernel_size: Sizes
    stride: Sizes
    padding: tuple[Edges, ...]
    kernel_dilation: Sizes
    input_dilation: Sizes
    circular: bool

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
        outside = np.zeros((), bool)
        for a in range(self.dimensions):
            first = self.starts(a)
            last = first + (self.kernel_size[a] - 1) * self.kernel_dilation[a]
            beyond = (first < 0) | (last >= self.dilated_size[a])
            outside = outside[..., None] | (beyond & (not self.circular))
        return outside

    def windows(self) -> list[tuple[slice, ...]]:
        """For each tap, the pixels that the positions see at it, counted with the padding."""
        axes = [
            [slice(a * d, a * d + (n - 1) * s + 1, s) for a in range(k)]
            for k, d, n, s in zip(
                self.kernel_size, self.kernel_dilation, self.output_size, self.stride
            )
        ]
        return list(itertools.product(*axes))
