"""Receptive fields, borders and pools, by brute force."""

import itertools

import jax
import numpy as np
import pytest

from lcn_jax.grid import Grid, Pools

# (input size, kernel, stride, padding): odd and even kernels, strides, non-square, uneven padding.
CASES = [
    ((size, size + 2), kernel, stride, padding)
    for size, kernel, stride, padding in itertools.product(
        (5, 8), ((3, 3), (2, 4), (1, 1), (5, 3)), ((1, 1), (2, 2), (3, 2)), ('SAME', 'VALID', 1)
    )
]


def seen_patches(grid: Grid, pattern: np.ndarray) -> np.ndarray:
    """(Ho, Wo, kh, kw): what each position sees of a pattern that tiles the whole plane."""
    (kh, kw), (rows, columns) = grid.kernel_size, grid.output_size
    patches = np.zeros((rows, columns, kh, kw))
    for i, j, a, b in itertools.product(range(rows), range(columns), range(kh), range(kw)):
        row = i * grid.stride[0] - grid.padding[0][0] + a
        column = j * grid.stride[1] - grid.padding[1][0] + b
        patches[i, j, a, b] = pattern[row % kh, column % kw]
    return patches


@pytest.mark.parametrize('case', CASES, ids=str)
def test_pools_are_the_positions_that_see_the_same_of_a_tiled_pattern(case):
    grid = Grid.create(*case)
    pattern = np.random.RandomState(0).permutation(np.prod(grid.kernel_size))
    patches = seen_patches(grid, pattern.reshape(grid.kernel_size)).reshape(-1, pattern.size)
    pools = grid.pools().ravel()
    for p, q in itertools.combinations(range(len(pools)), 2):
        assert (pools[p] == pools[q]) == np.array_equal(patches[p], patches[q]), (p, q)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_phases_say_where_in_the_pattern_a_pool_begins(case):
    grid = Grid.create(*case)
    pattern = np.random.RandomState(0).permutation(np.prod(grid.kernel_size))
    pattern = pattern.reshape(grid.kernel_size)
    patches = seen_patches(grid, pattern)
    for position in np.ndindex(grid.output_size):
        phase = grid.phases()[grid.pools()[position]]
        np.testing.assert_array_equal(patches[position], np.roll(pattern, -phase, (0, 1)))


@pytest.mark.parametrize('case', CASES, ids=str)
def test_border_positions_are_those_that_see_the_padding(case):
    grid = Grid.create(*case)
    inside = np.pad(np.ones(grid.input_size), 20)
    expected = np.zeros(grid.output_size, bool)
    for i, j in np.ndindex(grid.output_size):
        row = 20 + i * grid.stride[0] - grid.padding[0][0]
        column = 20 + j * grid.stride[1] - grid.padding[1][0]
        window = inside[row : row + grid.kernel_size[0], column : column + grid.kernel_size[1]]
        expected[i, j] = not window.all()
    np.testing.assert_array_equal(grid.touches_border(), expected)
    np.testing.assert_array_equal(grid.pools('exclude') == -1, expected)
    np.testing.assert_array_equal(grid.pools('exclude')[~expected], grid.pools()[~expected])


@pytest.mark.parametrize('border', ['include', 'exclude'])
@pytest.mark.parametrize('case', CASES, ids=str)
def test_splitting_by_pool_loses_nothing(case, border):
    grid = Grid.create(*case)
    pools = Pools.of(grid, border)
    kernel = np.arange(np.prod(grid.output_size) * 3.0).reshape(*grid.output_size, 3)
    pooled = pools.split(kernel)[:, :, 0]
    for pool in range(grid.num_pools):
        np.testing.assert_array_equal(
            np.sort(pooled[pool][pools.members[pool]][:, 0]),
            np.sort(kernel[grid.pools(border) == pool][:, 0]),
        )
    joined = pools.join(pooled + 1, kernel)
    np.testing.assert_array_equal(joined, kernel + (grid.pools(border) >= 0)[..., None])


def test_a_grid_is_static():
    grid = Grid.create(8, 3, 2, 1)
    assert jax.tree.leaves(grid) == []
    assert hash(grid) == hash(Grid.create((8, 8), (3, 3), (2, 2), ((1, 1), (1, 1))))
    assert jax.eval_shape(lambda: {'grid': grid})['grid'] == grid


@pytest.mark.parametrize(
    'arguments, message',
    [
        ((8, 0), 'kernel_size must be a positive integer'),
        ((8, (3, 3, 3)), 'kernel_size must be'),
        ((8, 3, 1.5), 'stride must be'),
        ((8, 3, 1, 'FULL'), 'padding must be'),
        ((8, 3, 1, -1), 'padding must be'),
        ((8, 3, 1, ((1, 1),)), 'padding must be'),
        ((2, 3, 1, 'VALID'), 'does not fit'),
    ],
)
def test_bad_geometry_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid.create(*arguments)


def test_an_unknown_border_is_refused():
    with pytest.raises(ValueError, match=r"border must be one of .*'include', 'exclude'"):
        Grid.create(8, 3).pools('some')
