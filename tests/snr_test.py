"""How alike weights are, against brute force."""

import jax
import numpy as np
import pytest

from lcn_jax import sleep
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.sleep import similarity
from lcn_jax.sleep.pools import num_pools, pool_numbers

GRID = Grid.create((8, 7), 3)


@pytest.mark.parametrize('border', ['include', 'exclude'])
def test_deviation_is_the_distance_from_the_mean_of_the_pool(border):
    kernel = np.random.RandomState(0).randn(8, 7, 3, 3, 2, 4).astype(np.float32)
    pools = pool_numbers(GRID, border)
    expected = np.full((8, 7, 4), np.nan)
    for i, j in np.ndindex(8, 7):
        if pools[i, j] >= 0:
            off = kernel[i, j] - kernel[pools == pools[i, j]].mean(0)
            expected[i, j] = np.sqrt((off**2).mean((0, 1, 2)))
    np.testing.assert_allclose(
        similarity.deviation(kernel, GRID, border=border), expected, atol=1e-6
    )
    slept = sleep.mean(kernel, GRID, jax.random.key(0), border=border)
    left = similarity.deviation(slept, GRID, border=border)
    np.testing.assert_allclose(left, np.where(np.isnan(expected), np.nan, 0), atol=1e-6)


@pytest.mark.parametrize('border', ['include', 'exclude'])
def test_layer_snr_is_the_median_over_pools_and_features(border):
    kernel = np.random.RandomState(0).randn(8, 7, 3, 3, 2, 4).astype(np.float32) + 1
    pools = pool_numbers(GRID, border)
    of_pools = []
    for pool in range(num_pools(GRID)):
        weights = kernel[pools == pool].astype(np.float64)
        if len(weights) > 1:
            of_pools.append((weights.mean(0) ** 2 / weights.var(0)).mean((0, 1, 2)))
    params = {'layer': {'kernel': kernel, 'bias': np.ones(4)}, 'other': {'kernel': np.ones(3)}}
    found = similarity.layer_snrs(params, {'layer': {'kernel': GRID}}, border)
    assert list(found) == ['layer']
    np.testing.assert_allclose(found['layer'], np.median(of_pools), rtol=1e-5)


def test_layers_without_a_pool_of_two_have_no_snr():
    grid = Grid.create(3, 3, 1, 'VALID')  # a single position
    params = {'layer': {'kernel': np.ones((1, 1, 3, 3, 1, 1), np.float32)}}
    assert similarity.layer_snrs(params, {'layer': {'kernel': grid}}, 'include') == {}


def test_members_of_an_ensemble_have_an_snr_each_under_any_names():
    kernels = np.random.RandomState(0).randn(2, 8, 7, 3, 3, 2, 4).astype(np.float32)
    params, grids = {'layers': {0: {'kernel': kernels}}}, {'layers': {0: {'kernel': GRID}}}
    found = similarity.layer_snrs(params, grids, 'include')
    alone = [
        similarity.layer_snrs({'layers': {0: {'kernel': kernel}}}, grids, 'include')['layers/0']
        for kernel in kernels
    ]
    assert found.keys() == {'layers/0'}
    np.testing.assert_allclose(found['layers/0'], alone, rtol=1e-6)
    with pytest.raises(ValueError, match=r'layers/0/kernel has shape \(7, 8'):
        similarity.layer_snrs(
            {'layers': {0: {'kernel': kernels[0].swapaxes(0, 1)}}}, grids, 'include'
        )


@pytest.mark.parametrize('border', ['include', 'exclude'])
def test_relative_deviations_by_brute_force(border):
    random = np.random.RandomState(0)
    kernels = {'a': random.randn(8, 7, 3, 3, 2, 4) + 1, 'b': random.randn(3, 4, 2, 1, 1, 2)}
    grids = {
        'a': GRID,
        'b': LocalParameter(Grid.create((4, 4), (2, 1), padding='VALID'), joined=True),
    }
    kernels['b'] = np.pad(kernels['b'], [(0, 0)] * 5 + [(0, 1)])  # a feature that is dead
    squares = {}
    for name, grid in grids.items():
        pools, off = pool_numbers(grid, border), np.zeros_like(kernels[name])
        for pool in range(num_pools(grid)):
            of_pool = kernels[name][pools == pool]
            off[pools == pool] = of_pool - of_pool.mean(0)
        squares[name] = (off**2).sum(), (kernels[name][pools >= 0] ** 2).sum()
    params = {name: {'kernel': kernel.astype(np.float32)} for name, kernel in kernels.items()}
    of_params = {name: {'kernel': grid} for name, grid in grids.items()}
    found = similarity.layer_deviations(params, of_params, border)
    for name, (off, all_of_it) in squares.items():
        np.testing.assert_allclose(found[name], np.sqrt(off / all_of_it), rtol=1e-5)
    off, all_of_it = map(sum, zip(*squares.values()))
    network = similarity.network_deviation(params, of_params, border)
    np.testing.assert_allclose(network, np.sqrt(off / all_of_it), rtol=1e-5)


def test_the_deviation_is_0_if_all_are_alike_and_about_1_if_none_is():
    random, grids = np.random.RandomState(0), {'layer': {'kernel': GRID}}
    for kernel, expected in [
        (np.ones((8, 7, 3, 3, 2, 4)), 0),
        (np.zeros((8, 7, 3, 3, 2, 4)), 0),
        (random.randn(8, 7, 3, 3, 2, 4), np.sqrt(1 - 9 / 56)),
    ]:
        params = {'layer': {'kernel': kernel.astype(np.float32)}}
        (found,) = similarity.layer_deviations(params, grids, 'include').values()
        np.testing.assert_allclose(found, expected, atol=0.02)
