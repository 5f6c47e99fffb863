"""The Hebbian rule: plain and as one matrix, where it ends, and what it cannot do."""

from functools import partial

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
from lcn_jax.layer.grid import Grid
from lcn_jax.sleep.patterns import hebbian_for
from lcn_jax.sleep.pools import num_pools, pool_numbers
from lcn_jax.sleep.rules import highest_rate
from lcn_jax.training import parallel

KEY = jax.random.key(0)


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
@pytest.mark.slow
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


def test_an_anchor_lowers_the_highest_rate():
    """Without the pull to where they were, deviations take d - lr (C + gamma) d in a step."""
    weights, patterns, gamma = 9, 4, 2.0
    shown = np.random.default_rng(0).normal(size=(4000, patterns, weights))
    covariances = np.einsum('sbi,sbj->sij', shown, shown) / patterns
    highest = highest_rate(weights, patterns, gamma)
    for part in (0.9, 1.1):
        maps = np.eye(weights) - part * highest * (covariances + gamma * np.eye(weights))
        factor = np.square(maps).sum((1, 2)).mean() / weights  # of a deviation in any direction
        assert (factor < 1) == (part < 1)
    with pytest.raises(ValueError, match=r'gamma=30, neurons of 9 weights would diverge'):
        grid = GRIDS[0]
        sleep.hebbian(
            random_kernel(grid, channels=1), grid, KEY, border='include', gamma=30.0,
            learning_rate=0.1, steps=1, patterns_per_step=128, momentum=0.0,
        )  # fmt: skip


def test_noise_is_one_hebbian_step_at_a_fraction_of_the_highest_rate():
    grid, patterns = GRIDS[0], 4
    kernel = random_kernel(grid)
    weights = kernel[0, 0, ..., 0].size
    as_noise = sleep.resolve('noise', {'border': 'include', 'patterns': patterns, 'rate': 0.25})
    one_step = sleep.resolve('hebbian', HEBBIAN | {
        'border': 'include', 'gamma': 0.0, 'steps': 1, 'patterns_per_step': patterns,
        'learning_rate': 0.5 / (1 + (weights + 1) / patterns),
    })  # fmt: skip
    both = compiled(lambda kernel: [rule(kernel, grid, KEY) for rule in (as_noise, one_step)])
    shared, expected = both(kernel)
    np.testing.assert_allclose(shared, expected, atol=1e-6)
    assert np.abs(shared - kernel).max() > 0.1
    with pytest.raises(ValueError, match='rate must be below 1, got 1: deviations would grow'):
        sleep.noise(kernel, grid, KEY, border='include', patterns=patterns, rate=1.0)


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
