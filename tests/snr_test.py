"""How alike weights are, against brute force."""

import numpy as np
import pytest
from reference import compiled, inverse_weight_snr

from lcn_jax import sleep
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.sleep import similarity
from lcn_jax.sleep.pools import num_pools, pool_numbers

GRID = Grid.create((8, 7), 3)
TWO = np.array([[1.0, 1.0], [3.0, 5.0]])  # with means 2 and 3, population variances 1 and 4


@compiled
def snr_and_inverse(weights, members=None):
    return similarity.weight_snr(weights, members), inverse_weight_snr(weights, members)


def test_the_snr_by_hand():
    snr, inverse = snr_and_inverse(TWO)
    assert float(snr) == pytest.approx((4 / 1 + 9 / 4) / 2, abs=5e-8)
    assert float(inverse) == pytest.approx((1 / 4 + 4 / 9) / 2, abs=5e-8)


def test_the_snr_of_pools_and_members():
    other, padding = 7 * TWO + 1, np.full((1, 2), 1e6)
    weights = np.stack([np.vstack([padding, pool]) for pool in (TWO, other)])
    found = snr_and_inverse(weights, np.array([0, 1, 1]))
    for snrs, *expected in zip(found, snr_and_inverse(TWO), snr_and_inverse(other), strict=True):
        np.testing.assert_allclose(snrs, expected, rtol=1e-6)


@pytest.mark.parametrize('value', [0.0, 0.1])
def test_equal_weights_have_an_infinite_snr(value):
    snr, inverse = snr_and_inverse(np.full((2, 7, 3), value))
    np.testing.assert_array_equal(snr, [np.inf, np.inf])
    np.testing.assert_array_equal(inverse, [0, 0])


def test_weights_whose_mean_vanishes_have_no_snr():
    assert snr_and_inverse(np.array([[-1.0], [1.0]])) == (0, np.inf)


def test_a_single_neuron_has_no_snr():
    with pytest.raises(ValueError, match=r'^expected weights \(\.\.\., N, K\), got \(3,\)'):
        similarity.weight_snr(np.ones(3))


@pytest.mark.parametrize('border', ['include', 'exclude'])
def test_deviation_is_the_distance_from_the_mean_of_the_pool(border):
    kernel = np.random.RandomState(0).randn(8, 7, 3, 3, 2, 4).astype(np.float32)
    pools = pool_numbers(GRID, border)
    expected = np.full((8, 7, 4), np.nan)
    for i, j in np.ndindex(8, 7):
        if pools[i, j] >= 0:
            off = kernel[i, j] - kernel[pools == pools[i, j]].mean(0)
            expected[i, j] = np.sqrt((off**2).mean((0, 1, 2)))

    @compiled
    def before_and_after(kernel):
        slept = sleep.mean(kernel, GRID, None, border=border)
        return [similarity.deviation(k, GRID, border=border) for k in (kernel, slept)]

    before, after = before_and_after(kernel)
    np.testing.assert_allclose(before, expected, atol=1e-6)
    np.testing.assert_allclose(after, np.where(np.isnan(expected), np.nan, 0), atol=1e-6)


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
    grids = {'layer': {'kernel': GRID}}
    found = compiled(lambda params: similarity.layer_snrs(params, grids, border))(params)
    assert list(found) == ['layer']
    np.testing.assert_allclose(found['layer'], np.median(of_pools), rtol=1e-5)


def test_layers_without_a_pool_of_two_have_no_snr():
    grid = Grid.create(3, 3, 1, 'VALID')  # a single position
    params = {'layer': {'kernel': np.ones((1, 1, 3, 3, 1, 1), np.float32)}}
    assert similarity.layer_snrs(params, {'layer': {'kernel': grid}}, 'include') == {}


def test_members_of_an_ensemble_have_an_snr_each_under_any_names():
    kernels = np.random.RandomState(0).randn(2, 8, 7, 3, 3, 2, 4).astype(np.float32)

    @compiled
    def snrs(kernel):
        params, grids = {'layers': {0: {'kernel': kernel}}}, {'layers': {0: {'kernel': GRID}}}
        return similarity.layer_snrs(params, grids, 'include')

    found = snrs(kernels)
    assert found.keys() == {'layers/0'}
    alone = [snrs(kernel)['layers/0'] for kernel in kernels]
    np.testing.assert_allclose(found['layers/0'], alone, rtol=1e-6)
    with pytest.raises(ValueError, match=r'layers/0/kernel has shape \(7, 8'):
        snrs(kernels[0].swapaxes(0, 1))


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

    @compiled
    def of_layers_and_network(params):
        arguments = params, of_params, border
        return similarity.layer_deviations(*arguments), similarity.network_deviation(*arguments)

    found, network = of_layers_and_network(params)
    for name, (off, all_of_it) in squares.items():
        np.testing.assert_allclose(found[name], np.sqrt(off / all_of_it), rtol=1e-5)
    off, all_of_it = map(sum, zip(*squares.values()))
    np.testing.assert_allclose(network, np.sqrt(off / all_of_it), rtol=1e-5)


def test_the_deviation_is_0_if_all_are_alike_and_about_1_if_none_is():
    random, grids = np.random.RandomState(0), {'layer': {'kernel': GRID}}
    deviations = compiled(lambda params: similarity.layer_deviations(params, grids, 'include'))
    for kernel, expected in [
        (np.ones((8, 7, 3, 3, 2, 4)), 0),
        (np.zeros((8, 7, 3, 3, 2, 4)), 0),
        (random.randn(8, 7, 3, 3, 2, 4), np.sqrt(1 - 9 / 56)),
    ]:
        params = {'layer': {'kernel': kernel.astype(np.float32)}}
        (found,) = deviations(params).values()
        np.testing.assert_allclose(found, expected, atol=0.02)
