"""The sharing rules: what they keep, how they are named, and applying one to parameters."""

from functools import partial

import chex
import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import (
    GRIDS,
    HEBBIAN,
    compiled,
    each_border,
    each_grid,
    over_grids,
    pool_means,
    random_kernel,
)

from lcn_jax import sleep
from lcn_jax.errors import UsageError
from lcn_jax.layer.grid import Grid
from lcn_jax.sleep.patterns import hebbian_for

KEY = jax.random.key(0)
OPTIONS = {'mean': {}, 'exact': {'gamma': 0.1}, 'hebbian': HEBBIAN}


def apply_rules(kernel, grid, border):
    resolved = {rule: sleep.resolve(rule, OPTIONS[rule] | {'border': border}) for rule in OPTIONS}
    shared = {name: rule(kernel, grid, KEY) for name, rule in resolved.items()}
    return shared | {'mean twice': resolved['mean'](shared['mean'], grid, KEY)}


rules_applied = over_grids(apply_rules, GRIDS)


@each_border
@each_grid
def test_mean_gives_every_neuron_the_mean_of_its_pool_and_is_idempotent(grid, border):
    kernel, shared = rules_applied(grid, border)
    means = pool_means(kernel, grid, border)
    expected = np.where(np.isnan(means), kernel, means)
    np.testing.assert_allclose(shared['mean'], expected, atol=1e-6)
    np.testing.assert_allclose(shared['mean twice'], shared['mean'], atol=1e-6)


@each_border
@pytest.mark.parametrize('rule', OPTIONS)
@each_grid
def test_rules_keep_pool_means_and_leave_the_border_alone(grid, rule, border):
    kernel, by_rule = rules_applied(grid, border)
    shared, means = by_rule[rule], pool_means(kernel, grid, border)
    np.testing.assert_allclose(pool_means(shared, grid, border), means, atol=1e-5)
    np.testing.assert_array_equal(shared[np.isnan(means)], kernel[np.isnan(means)])
    inside = ~np.isnan(means)
    deviation = np.abs(kernel - means)[inside]
    if deviation.max() > 0:
        assert np.abs(shared - means)[inside].mean() < 0.9 * deviation.mean()


def shared_and_both_ways(kernel, grid, border):
    """What `mean` makes of it, and the Hebbian rule in both forms with all neurons."""
    patterns = np.random.RandomState(1).randn(3, 8, *grid.kernel_size, 2).astype(np.float32)
    options = dict(border='include', gamma=0.1, learning_rate=0.05)
    return (
        sleep.mean(kernel, grid, KEY, border=border),
        hebbian_for(kernel, grid, patterns, **options),
        reference.hebbian_stepwise(kernel, grid, patterns, **options),
    )


OTHER_GRIDS = [
    Grid.create((17,), 4, 1, 'SAME', 2),
    Grid.create((5, 4, 6), (2, 1, 2), 1, 1, (1, 1, 3)),
]
elsewhere = over_grids(shared_and_both_ways, OTHER_GRIDS, ['exclude'])


@pytest.mark.parametrize('grid', OTHER_GRIDS, ids=lambda grid: f'{grid.dimensions} dimensions')
def test_rules_in_other_dimensions_and_for_dilated_kernels(grid):
    kernel, (shared, fast, plain) = elsewhere(grid, 'exclude')
    means = pool_means(kernel, grid, 'exclude')
    np.testing.assert_allclose(shared, np.where(np.isnan(means), kernel, means), atol=1e-6)
    np.testing.assert_allclose(fast, plain, atol=2e-5)
    assert np.abs(plain - kernel).max() > 0.1


# ---- By name. ------------------------------------------------------------------------------------


def half_way(kernel, grid, key, *, border, strength):
    """A rule as a user would write it: part of the way to the mean."""
    return kernel + strength * (sleep.mean(kernel, grid, key, border=border) - kernel)


def test_a_rule_of_ones_own_is_named_by_module_and_function():
    rule = sleep.resolve(f'{__name__}:half_way', {'border': 'include', 'strength': 0.5})
    kernel = random_kernel(GRIDS[0])
    means = pool_means(kernel, GRIDS[0], 'include')
    np.testing.assert_allclose(rule(kernel, GRIDS[0], KEY), (kernel + means) / 2, atol=1e-6)


@pytest.mark.parametrize(
    'name, options, message',
    [
        ('dream', {}, "unknown sharing rule 'dream'.* known: mean, exact, hebbian, circuit"),
        ('lcn_jax.sleep:dream', {}, 'unknown sharing rule'),
        ('no.such.module:rule', {}, 'unknown sharing rule'),
        ('mean', {'border': 'include', 'gamma': 1}, "'gamma'"),
        ('exact', {'border': 'include'}, "'gamma'"),
    ],
)
def test_bad_rules_are_refused(name, options, message):
    with pytest.raises(UsageError, match=message) as error:
        sleep.resolve(name, options)
    assert '\n' not in str(error.value)


# ---- Applied to parameters. ----------------------------------------------------------------------


@pytest.mark.parametrize(
    'rule', [lambda kernel, *_, border: kernel[0], lambda kernel, *_, border: jnp.bfloat16(kernel)]
)
def test_a_rule_must_keep_shape_and_dtype(rule):
    params, of_params = ({'a': {'kernel': value}} for value in (random_kernel(GRIDS[0]), GRIDS[0]))
    with pytest.raises(ValueError, match='it must keep shape and dtype'):
        sleep.share(params, of_params, sleep.Rule(rule), KEY)


def test_a_rule_must_be_a_rule():
    params, of_params = ({'a': {'kernel': value}} for value in (random_kernel(GRIDS[0]), GRIDS[0]))
    for bare in (sleep.mean, partial(sleep.mean, border='include')):
        with pytest.raises(ValueError, match=r'must be a Rule, such as lcn_jax\.resolve') as error:
            sleep.share(params, of_params, bare, KEY)
        assert '\n' not in str(error.value)
    shared = sleep.share(params, of_params, sleep.Rule(sleep.mean), KEY)['a']['kernel']
    expected = sleep.mean(params['a']['kernel'], GRIDS[0], None, border='include')
    np.testing.assert_array_equal(shared, expected)


@pytest.mark.parametrize(
    'params, message',
    [
        ({'b': {'kernel': np.zeros(3)}}, 'the parameters have no a/kernel'),
        (
            {'a': {'kernel': random_kernel(GRIDS[1])}},
            r'a/kernel has shape \(8, 4, .* \(9, 7, 3, 3\)',
        ),
        ({'a': {'kernel': np.zeros((3, 3, 2, 4))}}, r'a/kernel has shape \(3, 3, 2, 4\)'),
    ],
)
def test_parameters_of_another_model_are_refused(params, message):
    rule = sleep.resolve('mean', {'border': 'include'})
    with pytest.raises(ValueError, match=message) as error:
        sleep.share(params, {'a': {'kernel': GRIDS[0]}}, rule, KEY)
    assert '\n' not in str(error.value)


def test_members_of_an_ensemble_and_replicas_sleep_by_themselves():
    kernels = np.stack([[random_kernel(GRIDS[1], seed=seed)] * 2 for seed in range(3)])
    rule = sleep.resolve('hebbian', HEBBIAN | {'border': 'include'})

    @compiled
    def together_and_alone(kernels):
        def asleep(kernel):
            params, grids = {'a': {'kernel': kernel}}, {'a': {'kernel': GRIDS[1]}}
            return sleep.share(params, grids, rule, KEY)['a']['kernel']

        return asleep(kernels), [asleep(kernel) for kernel in kernels[:, 0]]

    # Three members with two replicas each.
    for member, alone in zip(*together_and_alone(kernels), strict=True):
        np.testing.assert_array_equal(member[0], member[1])
        np.testing.assert_allclose(member[0], alone, atol=1e-5)


def test_kernels_stay_in_their_boxes():
    kernel, names = random_kernel(GRIDS[0]), (None,) * 5 + ('features',)
    params = {
        'a': {'kernel': nn.Partitioned(kernel, names)},
        'b': nn.Partitioned(np.ones(2), ('x',)),
    }
    rule = sleep.resolve('mean', {'border': 'include'})
    shared = sleep.share(params, {'a': {'kernel': GRIDS[0]}}, rule, KEY)
    assert shared['a']['kernel'].names == names and shared['b'].names == ('x',)
    assert shared['b'].value is params['b'].value
    expected = sleep.mean(kernel, GRIDS[0], KEY, border='include')
    np.testing.assert_array_equal(shared['a']['kernel'].value, expected)


def test_frozen_parameters_stay_frozen():
    params = {'a': {'kernel': random_kernel(GRIDS[0])}, 'b': {'bias': np.ones(2)}}
    rule, of_params = sleep.resolve('mean', {'border': 'include'}), {'a': {'kernel': GRIDS[0]}}
    frozen = sleep.share(flax.core.freeze(params), of_params, rule, KEY)
    assert isinstance(frozen, flax.core.FrozenDict)
    thawed = sleep.share(params, of_params, rule, KEY)
    assert isinstance(thawed, dict)
    chex.assert_trees_all_equal(frozen.unfreeze(), thawed)


def test_layers_of_one_shape_see_the_same_patterns_drawn_once():
    """Every layer against the plain rule, for the patterns that the documentation names."""
    local = {'a': GRIDS[0], 'b': GRIDS[1], 'c': Grid.create((4, 5), 3, 1, 1)}
    params = {name: {'kernel': random_kernel(grid)} for name, grid in local.items()}
    of_params = {name: {'kernel': grid} for name, grid in local.items()}
    options = dict(border='include', gamma=0.1, learning_rate=0.05, momentum=0.5)
    rule = sleep.resolve('hebbian', options | {'steps': 3, 'patterns_per_step': 4})

    def by_the_plain_rule(params):
        asleep = {}
        for number, (names, shape) in enumerate([('b', (2, 3, 2)), ('ac', (3, 3, 2))]):
            key = jax.random.fold_in(KEY, number)
            steps = [jax.random.fold_in(key, step) for step in range(3)]
            patterns = jnp.stack([jax.random.normal(step, (4, *shape)) for step in steps])
            for name in names:
                kernel = params[name]['kernel']
                asleep[name] = reference.hebbian_stepwise(kernel, local[name], patterns, **options)
        return asleep

    def asleep(params):
        return sleep.share(params, of_params, rule, KEY)

    both = compiled(lambda params: (asleep(params), by_the_plain_rule(params)))
    shared, by_the_rule = both(params)
    for name, plain in by_the_rule.items():
        np.testing.assert_allclose(shared[name]['kernel'], plain, atol=2e-5)
        assert np.abs(plain - params[name]['kernel']).max() > 0.1
    assert str(jax.make_jaxpr(asleep)(params)).count(' scan[') == 2


def test_layers_get_keys_of_their_own_for_a_rule_in_one_part():
    def paint(kernel, grid, key, *, border):
        return jnp.full_like(kernel, jax.random.uniform(key))

    params = {name: {'kernel': random_kernel(GRIDS[0])} for name in 'ab'}
    of_params = {name: {'kernel': GRIDS[0]} for name in 'ab'}

    @compiled
    def painted_and_colours(params):
        colours = [jax.random.uniform(jax.random.fold_in(KEY, number)) for number in range(2)]
        return sleep.share(params, of_params, sleep.Rule(paint), KEY), colours

    painted, colours = painted_and_colours(params)
    for name, colour in zip('ab', colours, strict=True):
        np.testing.assert_allclose(painted[name]['kernel'], colour)
