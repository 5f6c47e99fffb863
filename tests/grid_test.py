"""Receptive fields, borders and pools, by brute force."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.sleep.pools import Pools, num_pools, pool_numbers, seen_values

# (input size, kernel, stride, padding, kernel dilation, input dilation): odd and even kernels,
# strides, non-square, uneven padding; dilations with and without a factor in common with the
# kernel; one to three dimensions.
PLAIN = [
    ((size, size + 2), kernel, stride, padding, 1, 1)
    for size, kernel, stride, padding in itertools.product(
        (5, 8), ((3, 3), (2, 4), (1, 1), (5, 3)), ((1, 1), (2, 2), (3, 2)), ('SAME', 'VALID', 1)
    )
]
CASES = [
    *PLAIN,
    ((23,), (4,), (1,), 'SAME', 1, 1),
    ((23,), (4,), (3,), 'CAUSAL', (6,), 1),
    ((40,), (6,), (2,), 'VALID', (4,), 1),
    ((15,), (3,), (1,), 'CAUSAL', 1, (2,)),
    ((15,), (4,), (2,), ((1, 3),), (3,), (4,)),
    ((18,), (3,), (2,), 'CIRCULAR', (2,), (3,)),
    ((9, 12), (2, 3), (1, 2), ((2, 0), (1, 3)), (2, 2), 1),
    ((12, 11), (4, 3), (1, 1), 'SAME', (2, 3), 1),
    ((5, 4), (3, 2), (1, 1), (1, 2), (1, 2), (2, 1)),
    ((6, 9), 3, 1, 'CIRCULAR', 1, 1),
    ((4, 5, 6), (2, 3, 2), (1, 2, 1), 'SAME', 1, 1),
    ((5, 4, 6), 2, 1, 1, (1, 2, 3), (2, 1, 1)),
]
each_case = pytest.mark.parametrize('case', CASES, ids=str)


def value_width(kernel, dilation):
    """The least width, in pixels, at which the taps of a field see each value of a pattern once."""
    for width in range(1, dilation + 1):
        seen = (np.arange(dilation * kernel)[:, None] + np.arange(kernel) * dilation) // width
        if (np.sort(seen % kernel) == np.arange(kernel)).all():
            return width
    raise AssertionError('no width')


def seen_patches(grid: Grid, pattern: np.ndarray) -> np.ndarray:
    """(positions, taps): what each position sees of a pattern that tiles the whole plane.

    0 where a tap falls between the pixels of the input.
    """
    patches = []
    for position in np.ndindex(grid.output_size):
        patch = []
        for tap in np.ndindex(grid.kernel_size):
            value, between = [], False
            for a in range(grid.dimensions):
                pixel = position[a] * grid.stride[a] - grid.padding[a][0]
                pixel += tap[a] * grid.kernel_dilation[a]
                between |= pixel % grid.input_dilation[a] != 0
                width = value_width(grid.kernel_size[a], grid.kernel_dilation[a])
                value.append(pixel // width % grid.kernel_size[a])
            patch.append(0 if between else pattern[tuple(value)])
        patches.append(patch)
    return np.array(patches)


def pattern_of(grid: Grid) -> np.ndarray:
    """Values that all differ, none of them 0."""
    numbers = 1 + np.random.RandomState(0).permutation(math.prod(grid.kernel_size))
    return numbers.reshape(grid.kernel_size)


@each_case
def test_pools_are_the_positions_that_see_the_same_of_a_tiled_pattern(case):
    grid = Grid.create(*case)
    patches, pools = seen_patches(grid, pattern_of(grid)), pool_numbers(grid)
    assert pools.shape == grid.output_size
    alike = (patches[:, None] == patches[None]).all(-1)
    np.testing.assert_array_equal(pools.ravel()[:, None] == pools.ravel(), alike)
    assert pools.min() >= 0 and pools.max() < num_pools(grid)


@each_case
def test_seen_values_are_what_a_pool_sees(case):
    grid = Grid.create(*case)
    pattern = pattern_of(grid)
    values, on_pixel = seen_values(grid)
    assert len(values) == len(on_pixel) == num_pools(grid)
    assert (np.sort(values) == np.arange(pattern.size)).all()  # each value once
    of_pools = pattern.ravel()[values] * on_pixel
    np.testing.assert_array_equal(of_pools[pool_numbers(grid).ravel()], seen_patches(grid, pattern))


@each_case
@pytest.mark.slow
def test_joined_pools_see_the_same_when_the_pattern_moves(case):
    """Every position sees one and the same patch for one of the shifts of the pattern."""
    grid = Grid.create(*case)
    joined, pattern = LocalParameter(grid, joined=True), pattern_of(grid)
    values, on_pixel = seen_values(joined)
    seen = pattern.ravel()[values]
    assert (seen == seen[0]).all()  # of one patch, pools see different parts
    assert len({tuple(row) for row in on_pixel}) == len(on_pixel) == num_pools(joined)
    pools, missing = pool_numbers(joined).ravel(), np.ones(grid.output_size, bool).ravel()
    for shift in np.ndindex(grid.kernel_size):
        moved = np.roll(pattern, shift, range(grid.dimensions))
        missing &= (seen_patches(grid, moved) != (seen * on_pixel)[pools]).any(-1)
    assert not missing.any()
    assert joined.output_size == grid.output_size


@each_case
def test_positions_are_those_of_a_convolution(case):
    """Flax refuses padding by name with input dilation, so there the input is dilated already."""
    size, _, stride, padding, dilation, between = case
    grid = Grid.create(*case)
    if isinstance(padding, str):
        if padding == 'CIRCULAR':  # before the dilation
            reach = (np.array(grid.kernel_size) - 1) * grid.kernel_dilation
            size, padding = size + reach, 'VALID'
        size, between = (np.array(size) - 1) * grid.input_dilation + 1, 1
    layer = nn.Conv(1, grid.kernel_size, stride, padding, between, dilation)
    x = jax.ShapeDtypeStruct((1, *map(int, size), 1), np.float32)
    y, _ = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
    assert grid.output_size == y.shape[1:-1]


@each_case
def test_border_positions_are_those_that_see_the_padding(case):
    grid = Grid.create(*case)
    inside = np.pad(np.ones(grid.dilated_size), grid.padding)
    expected = np.zeros(grid.output_size, bool)
    for position in np.ndindex(grid.output_size):
        field = tuple(
            slice(o * s, o * s + (k - 1) * d + 1, d)
            for o, s, k, d in zip(position, grid.stride, grid.kernel_size, grid.kernel_dilation)
        )
        assert inside[field].shape == grid.kernel_size
        expected[position] = not inside[field].all() and case[3] != 'CIRCULAR'
    np.testing.assert_array_equal(grid.touches_border(), expected)
    np.testing.assert_array_equal(pool_numbers(grid, 'exclude') == -1, expected)
    np.testing.assert_array_equal(
        pool_numbers(grid, 'exclude')[~expected], pool_numbers(grid)[~expected]
    )


@pytest.mark.parametrize('border', ['include', 'exclude'])
@pytest.mark.parametrize('case', CASES[::5], ids=str)
def test_splitting_by_pool_loses_nothing(case, border):
    grid = Grid.create(*case)
    pools = Pools.of(grid, border)
    kernel = np.arange(np.prod(grid.output_size) * 3.0).reshape(*grid.output_size, 3)
    pooled = pools.split(kernel)[:, :, 0]
    for pool in range(num_pools(grid)):
        np.testing.assert_array_equal(
            np.sort(pooled[pool][pools.members[pool]][:, 0]),
            np.sort(kernel[pool_numbers(grid, border) == pool][:, 0]),
        )
    joined = pools.join(pooled + 1, kernel)
    np.testing.assert_array_equal(joined, kernel + (pool_numbers(grid, border) >= 0)[..., None])


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_means_of_large_pools_in_short_formats(dtype):
    grid = Grid.create(70_000, (1,))  # more positions than the largest float16
    kernel = jnp.full((70_000, 1, 1, 1), 1.5, dtype).at[::2].set(0.5)
    means = Pools.of(grid).averaged(kernel)
    assert means.dtype == dtype
    np.testing.assert_array_equal(means.astype(np.float32), 1)


def test_a_grid_is_static():
    grid = Grid.create(8, 3, 2, 1)
    assert jax.tree.leaves(grid) == []
    assert hash(grid) == hash(Grid.create((8, 8), (3, 3), (2, 2), ((1, 1), (1, 1))))
    assert jax.eval_shape(lambda: {'grid': grid})['grid'] == grid


@pytest.mark.parametrize(
    'arguments, message',
    [
        ((8, 0), 'kernel_size must be a positive integer'),
        (((8, 8), (3, 3, 3)), r'kernel_size must be .* or 2 of them'),
        (((8,), 3, (1, 2)), r'stride must be .* or 1 of them'),
        (((8, 8, 8, 8), 3), r'1, 2 or 3 spatial dimensions, got 4'),
        ((8, 3, 1.5), 'stride must be'),
        ((8, 3, 1, 'SAME', 0), 'kernel_dilation must be'),
        ((8, 3, 1, 'SAME', 1, (1, True)), 'input_dilation must be'),
        ((8, 3, 1, 'FULL'), 'padding must be'),
        ((8, 3, 1, 'CAUSAL'), 'padding must be'),
        ((8, 3, 1, -1), 'padding must be'),
        ((8, 3, 1, None), 'padding must be'),
        ((8, 3, 1, ((1, 1),)), 'padding must be'),
        (((8,), 3, 1, (1, 1)), 'padding must be'),
        (((8, 8, 8), 3, 1, (1, 1)), 'padding must be'),
        ((2, 3, 1, 'VALID'), 'does not fit'),
        ((4, 3, 1, 'VALID', 2), 'dilated by .* does not fit'),
    ],
)
def test_bad_geometry_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        Grid.create(*arguments)
    assert '\n' not in str(error.value)


def test_an_unknown_border_is_refused():
    with pytest.raises(ValueError, match=r"border must be one of .*'include', 'exclude'"):
        pool_numbers(Grid.create(8, 3), 'some')
