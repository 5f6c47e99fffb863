"""The sharing rules: what they keep, where they end, and that the fast forms are the plain ones."""

from functools import cache, partial

import chex
import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from reference import CIRCUIT, compiled, over_cases, over_grids, pool_means, random_kernel

import lcn_jax
from lcn_jax import sleep
from lcn_jax.errors import UsageError
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.grids import grids
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.networks.resnet import ResNet
from lcn_jax.sleep import infrequent, lateral
from lcn_jax.sleep import patterns as sleep_patterns
from lcn_jax.sleep.pools import num_pools, pool_numbers
from lcn_jax.training import parallel, sleep_step
from lcn_jax.training.state import TrainState, of_variables

KEY = jax.random.key(0)
OPTIMIZER = optax.adamw(1e-3)

# Odd, even and non-square kernels and inputs, strides, and a 1×1 kernel.
GRIDS = [
    Grid.create((9, 7), 3, 1, 1),
    Grid.create((8, 8), (2, 3), (1, 2), 'SAME'),
    Grid.create((12, 10), 4, 2, 1),
    Grid.create((19, 17), 5, 2, 2),
    Grid.create((6, 5), 1, 2, 0),
    LocalParameter(Grid.create((8, 8), (2, 3), (1, 2), 'SAME'), joined=True),
]
each_grid = pytest.mark.parametrize('grid', GRIDS, ids=str)
each_border = pytest.mark.parametrize('border', ['include', 'exclude'])

mean = compiled(sleep.mean, static_argnums=1, static_argnames='border')
hebbian_for = sleep_patterns.hebbian_for
HEBBIAN = dict(gamma=0.1, learning_rate=0.05, steps=20, patterns_per_step=16, momentum=0.0)
OPTIONS = {'mean': {}, 'exact': {'gamma': 0.1}, 'hebbian': HEBBIAN, 'circuit': CIRCUIT}


def apply_rules(kernel, grid, border):
    resolved = {
        rule: sleep.resolve(rule, OPTIONS[rule] | {'border': border})
        for rule in ('mean', 'exact', 'hebbian')
    }
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
@pytest.mark.parametrize('rule', ['mean', 'exact', 'hebbian'])
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


def hebbian_both_ways(kernel, grid, border):
    patterns = jax.random.normal(KEY, (6, 8, *kernel.shape[2:5]))
    options = dict(border=border, gamma=0.1, learning_rate=0.05)
    return {
        momentum: [
            rule(kernel, grid, patterns, momentum=momentum, **options)
            for rule in (hebbian_for, reference.hebbian_stepwise)
        ]
        for momentum in (0.0, 0.5)
    }


hebbian_applied = over_grids(hebbian_both_ways, GRIDS)


@each_border
@pytest.mark.parametrize('momentum', [0.0, 0.5])
@each_grid
def test_hebbian_as_one_matrix_is_the_iterated_rule(grid, momentum, border):
    kernel, by_momentum = hebbian_applied(grid, border)
    fast, plain = by_momentum[momentum]
    np.testing.assert_allclose(fast, plain, atol=2e-5)
    assert np.abs(plain - kernel).max() > 0.1


def test_stepwise_rule_is_gradient_descent_on_differences_within_pools():
    """One step, by automatic differentiation of Σ_i (z_i - z̄)² / 2 + gamma |w - w_init|² / 2."""
    grid = GRIDS[0]
    kernel = random_kernel(grid)

    def energy(kernel, pattern):
        total = 0.0
        for pool in range(num_pools(grid)):
            members = pool_numbers(grid) == pool
            down, right = np.argwhere(members)[0] - 1  # where a member's patch begins
            x = jnp.roll(pattern[0, 0], (-down, -right), (0, 1))
            z = jnp.tensordot(kernel[members], x, [[1, 2, 3], [0, 1, 2]])
            total += ((z - z.mean(0)) ** 2).sum() / 2
        return total

    @compiled
    def stepped_and_gradient(kernel):
        pattern = jax.random.normal(KEY, (1, 1, *kernel.shape[2:5]))
        options = dict(border='include', gamma=0.3, learning_rate=0.01)
        stepped = reference.hebbian_stepwise(kernel, grid, pattern, **options)
        return stepped, jax.grad(energy)(kernel, pattern)

    stepped, gradient = stepped_and_gradient(kernel)
    np.testing.assert_allclose(stepped, kernel - 0.01 * gradient, atol=1e-5)


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


def test_taps_on_inserted_zeros_learn_nothing():
    """With input dilation: against the gradient of the energy for a pattern with these zeros."""
    grid = Grid.create((6,), 3, 1, 'SAME', 1, 2)
    kernel = random_kernel(grid)
    pattern = np.random.RandomState(1).randn(1, 1, 3, 2).astype(np.float32)
    plane = np.tile(pattern[0, 0], (9, 1))  # from pixel -9 on
    plane[np.arange(-9, 18) % 2 == 1] = 0
    starts = 9 + grid.starts(0)
    inputs = np.stack([plane[start : start + 3] for start in starts])

    def energy(kernel):
        total = 0.0
        for pool in np.unique(pool_numbers(grid)):
            members = pool_numbers(grid) == pool
            z = jnp.einsum('ikco,ikc->io', kernel[members], inputs[members])
            total += ((z - z.mean(0)) ** 2).sum() / 2
        return total

    @compiled
    def gradient_and_slept(kernel):
        options = dict(border='include', gamma=0.3, learning_rate=0.01)
        rules = hebbian_for, reference.hebbian_stepwise
        return jax.grad(energy)(kernel), [rule(kernel, grid, pattern, **options) for rule in rules]

    gradient, by_rule = gradient_and_slept(kernel)
    expected = kernel - 0.01 * gradient
    for slept in by_rule:
        np.testing.assert_allclose(slept, expected, atol=1e-5)
    assert np.abs(expected - kernel).max() > 1e-3


@pytest.mark.slow
def test_groups_are_shared_apart():
    grid = GRIDS[0]
    kernel = random_kernel(grid, channels=2, features=6)

    def both_rules(kernel, patterns):
        options = dict(border='include', gamma=0.1)
        return (
            hebbian_for(kernel, grid, patterns, **options, learning_rate=0.05),
            reference.exact_for(kernel, grid, patterns, **options),
        )

    @compiled
    def together_and_alone(kernel):
        patterns = jax.random.normal(KEY, (4, 8, 3, 3, 6))  # three groups of two channels
        parts = [np.s_[..., 2 * group : 2 * group + 2] for group in range(3)]
        together = both_rules(kernel, patterns)
        return together, [both_rules(kernel[part], patterns[part]) for part in parts]

    together, alone = together_and_alone(kernel)
    for group, of_group in enumerate(alone):
        for rule, found in zip(together, of_group, strict=True):
            features = rule[..., 2 * group : 2 * group + 2]
            np.testing.assert_allclose(features, found, atol=1e-5)


def fixed_and_iterated(kernel, grid, border):
    patterns = jax.random.normal(KEY, (1, 200, *kernel.shape[2:5]))
    repeated = jnp.broadcast_to(patterns, (400, *patterns.shape[1:]))
    return (
        reference.exact_for(kernel, grid, patterns, border=border, gamma=0.2),
        hebbian_for(kernel, grid, repeated, border=border, gamma=0.2, learning_rate=0.2),
    )


converged = over_grids(fixed_and_iterated, GRIDS, ['include'])


@each_grid
@pytest.mark.slow
def test_hebbian_converges_to_exact_for_the_same_patterns(grid):
    kernel, (fixed, iterated) = converged(grid, 'include')
    np.testing.assert_allclose(iterated, fixed, atol=1e-4)
    assert np.abs(kernel - fixed).max() > 0.1


def test_gaussian_patterns_shrink_deviations_to_gamma_over_one_plus_gamma():
    grid, gamma = GRIDS[0], 0.5
    kernel = random_kernel(grid)
    means = pool_means(kernel, grid, 'include')
    expected = means + gamma / (1 + gamma) * (kernel - means)
    options = dict(learning_rate=0.05, steps=200, patterns_per_step=500, momentum=0.0)
    rule = sleep.resolve('hebbian', options | {'border': 'include', 'gamma': gamma})

    @compiled
    def three_ways(kernel, patterns):
        return (
            sleep.exact(kernel, grid, KEY, border='include', gamma=gamma),
            reference.exact_for(kernel, grid, patterns, border='include', gamma=gamma),
            rule(kernel, grid, KEY),
        )

    patterns = np.random.default_rng(0).standard_normal((1, 100_000, *kernel.shape[2:5]), 'float32')
    exact, sampled, iterated = three_ways(kernel, patterns)
    np.testing.assert_allclose(exact, expected, atol=1e-5)
    # The covariance of n patterns is the identity up to sqrt(K / n).
    np.testing.assert_allclose(sampled, expected, atol=0.03)
    np.testing.assert_allclose(iterated, expected, atol=0.05)


def test_patterns_split_over_devices_teach_what_they_teach_together():
    kernel = random_kernel(GRIDS[0])

    def asleep(split, patterns=16):
        options = HEBBIAN | {'border': 'include', 'patterns_per_step': patterns}
        rule = sleep.resolve('hebbian', options | {'axis_name': parallel.AXIS if split else None})
        asleep = parallel.per_device(lambda kernel: rule(kernel, GRIDS[0], KEY), [0])
        return jax.device_get(asleep(parallel.replicate(kernel)))

    together, split = asleep(False), asleep(True)
    assert len(split) == 8 and (split == split[:1]).all()
    np.testing.assert_allclose(split, together, atol=1e-5)
    assert np.abs(split - kernel).max() > 0.1
    with pytest.raises(ValueError, match='12 patterns a step cannot be split over 8 devices'):
        asleep(True, patterns=12)


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


def test_patterns_that_do_not_fit_are_refused():
    grid = GRIDS[0]
    with pytest.raises(ValueError, match=r'patterns must have shape .* got \(1, 2, 3, 3, 3\)'):
        hebbian_for(
            random_kernel(grid), grid, np.zeros((1, 2, 3, 3, 3)), border='include', gamma=0.1,
            learning_rate=0.1,
        )  # fmt: skip


@pytest.mark.parametrize(('learning_rate', 'patterns'), [(0.1, 2), (0.5, 4), (0.9, 16)])
@pytest.mark.slow
def test_a_hebbian_sleep_that_would_not_share_is_refused(learning_rate, patterns):
    """What a step does to the mean square of deviations, over many steps, against the bound.

    It is 1 - 2 lr + lr² (1 + (K + 1) / B), and less than 1 up to the bound.
    """
    grid, weights = Grid.create((9, 9), 3, 1, 1), 9
    kernel = random_kernel(grid, channels=1, features=8)
    options = dict(border='include', gamma=0.0, learning_rate=learning_rate)

    def energy(kernel):
        return np.square(kernel - pool_means(kernel, grid, 'include')).sum()

    def one_step(key):
        shown = jax.random.normal(key, (1, patterns, 3, 3, 1))
        return hebbian_for(kernel, grid, shown, **options)

    kernels = compiled(lambda key: jax.vmap(one_step)(jax.random.split(key, 100)))(KEY)
    factors = [energy(kernel_after) / energy(kernel) for kernel_after in kernels]
    second_moment = 1 + (weights + 1) / patterns
    expected = 1 - 2 * learning_rate + learning_rate**2 * second_moment
    assert abs(np.mean(factors) - expected) < 4 * np.std(factors) / 10

    highest = 2 / second_moment
    assert (expected < 1) == (learning_rate < highest)
    asleep = partial(
        sleep.hebbian, kernel, grid, KEY, border='include', gamma=0.0, steps=1,
        patterns_per_step=patterns,
    )  # fmt: skip
    # What is refused is so while JAX traces.
    jax.eval_shape(partial(asleep, learning_rate=0.99 * highest, momentum=0.0))
    # With momentum the bound is another.
    jax.eval_shape(partial(asleep, learning_rate=1.01 * highest, momentum=0.5))
    with pytest.raises(ValueError, match='neurons of 9 weights would diverge'):
        asleep(learning_rate=1.01 * highest, momentum=0.0)


def test_noise_is_one_hebbian_step_at_a_fraction_of_the_highest_rate():
    grid, patterns = GRIDS[0], 4
    kernel = random_kernel(grid)
    weights = kernel[0, 0, ..., 0].size
    as_noise = sleep.resolve('noise', {'border': 'include', 'patterns': patterns, 'rate': 0.25})
    one_step = sleep.resolve('hebbian', HEBBIAN | {
        'border': 'include', 'gamma': 0.0, 'steps': 1, 'patterns_per_step': patterns,
        'learning_rate': 0.5 / (1 + (weights + 1) / patterns),
    })  # fmt: skip
    np.testing.assert_array_equal(as_noise(kernel, grid, KEY), one_step(kernel, grid, KEY))
    with pytest.raises(ValueError, match='rate must be below 1, got 1: deviations would grow'):
        sleep.noise(kernel, grid, KEY, border='include', patterns=patterns, rate=1.0)


@pytest.mark.parametrize('optimizer', [OPTIMIZER, optax.sgd(0.1, 0.9)], ids=['adamw', 'sgd'])
def test_momentum_is_equalised_by_the_patterns_of_the_weights(optimizer):
    grid = GRIDS[0]
    grids, params = {'a': {'kernel': grid}}, {'a': {'kernel': random_kernel(grid)}}
    _, opt_state = optimizer.update(params, optimizer.init(params), params)
    rule = sleep.resolve('noise', {'border': 'include', 'patterns': 4, 'rate': 0.5})
    found = infrequent.equalise_momentum(opt_state, grids, rule, KEY)
    (momentum, *rest), (before, *kept) = (
        [leaf for leaf in jax.tree.leaves(state) if leaf.shape == params['a']['kernel'].shape]
        for state in (found, opt_state)
    )
    expected = lcn_jax.share({'a': {'kernel': before}}, grids, rule, KEY)
    np.testing.assert_array_equal(momentum, expected['a']['kernel'])
    assert not np.allclose(momentum, before)
    for now, then in zip(rest, kept):  # the second moments of AdamW
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    'option, value, needed',
    [
        ('patterns_per_step', 0, 'a positive integer'),
        ('patterns_per_step', None, 'a positive integer'),
        ('steps', -1, 'a positive integer'),
        ('steps', 2.5, 'a positive integer'),
        ('learning_rate', 0, 'a number, positive'),
        ('learning_rate', 'x', 'a number, positive'),
        ('momentum', float('nan'), 'a number, 0 or more'),
        ('gamma', -1, 'a number, 0 or more'),
    ],
)
def test_options_out_of_range_are_refused(option, value, needed):
    rule = sleep.resolve('hebbian', HEBBIAN | {'border': 'include', option: value})
    with pytest.raises(ValueError, match=f'^{option} must be {needed}, got {value!r}'):
        rule(random_kernel(GRIDS[0]), GRIDS[0], KEY)


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


# ---- A rule applied to a network. ----------------------------------------------------------------

MODEL = ResNet((1, 1), 4, 'cifar', 10, local=True, n_first_conv=1)
OF_MODEL = grids(MODEL, (8, 8, 1))
LAYER = 'stage1_block1_conv2'


@cache
def awake():
    """The state of the network in training."""

    @compiled
    def create():
        variables = MODEL.init(KEY, jnp.zeros((1, 8, 8, 1)), train=False)
        params = variables['params']
        moments = jax.tree.map(jnp.sin, params)
        _, opt_state = OPTIMIZER.update(moments, OPTIMIZER.init(params), params)
        return TrainState(jnp.int32(7), params, variables['batch_stats'], opt_state, {})

    return create()


def slept(state, rule='hebbian', share_moments=False):
    rule = sleep.resolve(rule, OPTIONS[rule] | {'border': 'include'})
    return sleep_step.step(state, KEY, rule=rule, grids=OF_MODEL, share_moments=share_moments)


hebbian_slept = compiled(slept)


def test_a_sleep_moves_local_kernels_and_nothing_else():
    before = awake()
    after = hebbian_slept(before)
    moved = {
        jax.tree_util.keystr(path)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after))
        if not np.array_equal(a, b)
    }
    layers = ['stage1_block1_conv1', 'stage1_block1_conv2', 'stage2_block1_conv1',
              'stage2_block1_conv2', 'stage2_block1_shortcut']  # fmt: skip
    assert moved == {f".params['{layer}']['kernel']" for layer in layers}


def test_every_sleep_shows_other_patterns():
    """Each step has patterns of its own, and always the same ones."""
    state = awake()
    first, again = hebbian_slept(state).params, hebbian_slept(state).params
    later = hebbian_slept(state.replace(step=state.step + 1)).params
    chex.assert_trees_all_equal(first, again)
    assert np.abs(first[LAYER]['kernel'] - later[LAYER]['kernel']).max() > 1e-4


def test_moments_are_shared_if_asked():
    before = awake()
    after = compiled(partial(slept, rule='mean', share_moments=True))(before)
    for moment in ('mu', 'nu'):
        old, new = (getattr(state.opt_state[0], moment) for state in (before, after))
        averaged = pool_means(old[LAYER]['kernel'], OF_MODEL[LAYER]['kernel'], 'include')
        np.testing.assert_allclose(new[LAYER]['kernel'], averaged, atol=1e-6)
        np.testing.assert_array_equal(new['stem_conv']['kernel'], old['stem_conv']['kernel'])
    assert after.opt_state[0].count == before.opt_state[0].count


@pytest.mark.parametrize('rule', ['mean', 'exact', 'hebbian'])
@pytest.mark.slow
def test_eight_devices_sleep_as_one(rule):
    state = awake()
    alone = (
        hebbian_slept(state) if rule == 'hebbian' else compiled(partial(slept, rule=rule))(state)
    )
    on_devices = parallel.per_device(partial(slept, rule=rule), [0])
    together = jax.device_get(on_devices(parallel.replicate(state)))
    for one, all_of_them in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        assert len(all_of_them) == 8
        for replica in all_of_them:
            np.testing.assert_array_equal(replica, one)


@pytest.mark.parametrize('border', ['include', 'exclude'])
def test_full_steps_go_as_far_as_the_members_of_a_pool_went(border):
    """By brute force; neurons that are in no pool keep their own weights."""
    grid = GRIDS[0]
    before = mean(random_kernel(grid), grid, KEY, border=border)
    own = random_kernel(grid, seed=1)
    shared = mean(own, grid, KEY, border=border)
    pools = pool_numbers(grid, border)

    @compiled
    def rescaled(own, shared, last=before):
        trees = ({'a': {'kernel': kernel}} for kernel in (shared, own, last))
        grids = {'a': {'kernel': grid}}
        return lcn_jax.full_step(*trees, grids, border)['a']['kernel']

    found = rescaled(own, shared)
    sizes = [np.sqrt(((k - before)[pools >= 0] ** 2).mean()) for k in (own, shared)]
    expected = before + (shared - before) * sizes[0] / sizes[1]
    np.testing.assert_allclose(found[pools >= 0], expected[pools >= 0], atol=1e-5)
    np.testing.assert_allclose(found[pools < 0], own[pools < 0], atol=1e-6)
    assert sizes[0] > 1.2 * sizes[1]
    # If all members go the same way, the step is the average; what a rule leaves unshared stays.
    np.testing.assert_allclose(rescaled(before + 1, before + 1), before + 1, rtol=1e-6)
    np.testing.assert_array_equal(rescaled(before, before), before)
    exact = sleep.resolve('exact', {'border': border, 'gamma': 0.5})
    partly = compiled(exact, static_argnums=1)(own, grid, KEY)
    np.testing.assert_allclose(rescaled(own, partly) - partly, found - shared, atol=1e-5)
    # Kernels that start apart, before the first sleep: only what has moved counts.
    start = own - 0.1
    np.testing.assert_allclose(rescaled(own, shared, start), shared, atol=1e-5)


def test_full_steps_start_where_the_last_sleep_ended():
    """Two sleeps of a state: the second rescales what changed since the first."""
    grid, rule = GRIDS[0], sleep.resolve('mean', {'border': 'include'})
    grids, params = {'a': {'kernel': grid}}, {'a': {'kernel': random_kernel(grid)}}
    state = of_variables({'params': params}, OPTIMIZER, grids).replace(step=jnp.int32(1))
    step = partial(
        sleep_step.step, grids=grids, rule=rule, share_moments=True,
        full_step=True,
    )  # fmt: skip
    step = compiled(step)
    state = step(state, KEY)
    slept = state.params['a']['kernel']
    np.testing.assert_allclose(slept, pool_means(params['a']['kernel'], grid, 'include'), atol=1e-6)
    moved = slept + 0.1 * random_kernel(grid, seed=1)
    again = step(state.replace(params={'a': {'kernel': moved}}), KEY).params['a']['kernel']
    change = again - slept
    assert np.sqrt((change**2).mean()) == pytest.approx(
        np.sqrt(((moved - slept) ** 2).mean()), rel=1e-3
    )


def test_where_all_parameters_are_local_the_last_sleep_is_no_moment():
    """It has the structure of the moments then; a rule that leaves some deviations tells them."""
    grids, params = {'a': {'kernel': GRIDS[0]}}, {'a': {'kernel': random_kernel(GRIDS[0])}}
    state = of_variables({'params': params}, OPTIMIZER, grids)
    moments = {'a': {'kernel': random_kernel(GRIDS[0], seed=1)}}
    state = state.replace(opt_state=optax.tree_utils.tree_set(state.opt_state, mu=moments))
    rule = sleep.resolve('exact', {'border': 'include', 'gamma': 0.5})
    options = dict(share_moments=True, full_step=True)
    after = compiled(partial(sleep_step.step, grids=grids, rule=rule, **options))(state, KEY)
    kernel = after.params['a']['kernel']
    assert np.abs(kernel - pool_means(kernel, GRIDS[0], 'include')).max() > 0.1
    np.testing.assert_array_equal(after.last_sleep['a']['kernel'], kernel)
    averaged = pool_means(moments['a']['kernel'], GRIDS[0], 'include')
    np.testing.assert_allclose(after.opt_state[0].mu['a']['kernel'], averaged, atol=1e-6)


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
