"""The circuit as a sharing rule: of pools of unequal size, and in one pool for all positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import CIRCUIT, compiled, each_border, over_cases, pool_means, random_kernel

from lcn_jax import sleep
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.sleep import lateral
from lcn_jax.sleep.pools import pool_numbers

KEY = jax.random.key(0)


def circuit(kernel, neurons, border='include', **changes):
    return sleep.circuit(kernel, neurons, KEY, border=border, **CIRCUIT | changes)


UNEQUAL = Grid.create((8, 7), 2, 1, ((1, 0), (1, 0)))  # pools of 4·4, 4·3 ... neurons
POOLS = {'tiled': UNEQUAL, 'joined': LocalParameter(UNEQUAL, joined=True)}
circuits = over_cases(
    lambda case, kernel: circuit(kernel, POOLS[case[0]], case[1]),
    [(pools, border) for pools in POOLS for border in ('include', 'exclude')],
    lambda case: (random_kernel(UNEQUAL, channels=1),),
)


@pytest.mark.parametrize('pools', POOLS)
@each_border
@pytest.mark.slow
def test_circuits_equalise_pools_of_unequal_size(border, pools):
    grid = POOLS[pools]
    (kernel,), shared = circuits((pools, border))
    before, after = pool_means(kernel, grid, border), pool_means(shared, grid, border)
    outside = np.isnan(before)
    assert outside.any() == (border == 'exclude')
    np.testing.assert_array_equal(shared[outside], kernel[outside])
    deviation = (shared - after)[~outside].std() / (kernel - before)[~outside].std()
    mean = (after * before)[~outside].sum() / (before**2)[~outside].sum()
    # Both shrink, the mean at about a seventh of the rate: the inhibition needs time to respond.
    assert deviation < 0.25
    assert deviation < mean**4 < 1


@pytest.mark.slow
def test_circuit_sleeps_towards_the_rule_it_realises():
    """More patterns bring the circuit nearer to the pool means; the anchor holds it off."""
    grid = Grid.create(8, 2, 1, 'VALID')
    changes = [{'patterns_per_weight': 1}, {'patterns_per_weight': 4}, {'gamma': 10.0}]
    asleep = compiled(lambda kernel: [circuit(kernel, grid, **change) for change in changes])
    few, many, held = (
        (shared - pool_means(shared, grid, 'include')).std()
        for shared in asleep(random_kernel(grid, channels=1))
    )
    assert many < 0.5 * few
    assert held > 2 * many


@pytest.mark.slow
def test_a_circuit_of_a_joined_pool_has_its_neurons_in_the_moments_of_the_tiled_pools():
    grid = Grid.create((4, 5), 2, 1, 'VALID')
    kernel = random_kernel(grid, channels=1, features=1)
    joined = LocalParameter(grid, joined=True)
    turns = pool_numbers(grid).ravel()
    order = np.arange(len(turns))  # of one pool, in the order of positions
    parameters = lateral.Circuit(
        steps_per_pattern=60, learning_rate=lambda t: jnp.full(t.shape, 2.5e-4 / 4)
    )
    wave = turns == np.arange(4)[:, None]

    @compiled
    def asleep_and_stepwise(kernel):
        shown = jax.random.normal(KEY, (4, 4), jnp.float32)
        return circuit(kernel, joined, patterns_per_weight=1, steps_per_pattern=60), [
            lateral.simulate_stepwise(
                kernel.reshape(len(order), 4), shown, 1e-3, parameters, excited=excited
            )[0]
            for excited in (wave, None)
        ]

    found, (expected, without_wave) = asleep_and_stepwise(kernel)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)
    assert np.abs(without_wave - expected).max() > 1e-3
