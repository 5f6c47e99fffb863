"""A sleep of a network in training: what it moves, and what it does to moments and steps."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import HEBBIAN, compiled, each_border, pool_means, random_kernel

import lcn_jax
from lcn_jax import sleep
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.grids import grids
from lcn_jax.networks.resnet import ResNet
from lcn_jax.sleep import infrequent
from lcn_jax.sleep.pools import pool_numbers
from lcn_jax.training import parallel, sleep_step
from lcn_jax.training.state import TrainState, of_variables

KEY = jax.random.key(0)
OPTIMIZER = optax.adamw(1e-3)
GRID = Grid.create((9, 7), 3, 1, 1)
OPTIONS = {'mean': {}, 'exact': {'gamma': 0.1}, 'hebbian': HEBBIAN}

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


def shared_by_mean(kernel, border):
    """Of GRID: with the mean of its pool at every position that is in one."""
    means = pool_means(kernel, GRID, border)
    return np.where(np.isnan(means), kernel, means).astype(np.float32)


@each_border
def test_full_steps_go_as_far_as_the_members_of_a_pool_went(border):
    """By brute force; neurons that are in no pool keep their own weights."""
    own, pools = random_kernel(GRID, seed=1), pool_numbers(GRID, border)
    before, shared = (shared_by_mean(kernel, border) for kernel in (random_kernel(GRID), own))

    @compiled
    def full_step(own, shared, last):
        trees = ({'a': {'kernel': kernel}} for kernel in (shared, own, last))
        return lcn_jax.full_step(*trees, {'a': {'kernel': GRID}}, border)['a']['kernel']

    rescaled = partial(full_step, last=before)
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
    partly = compiled(exact, static_argnums=1)(own, GRID, KEY)
    np.testing.assert_allclose(rescaled(own, partly) - partly, found - shared, atol=1e-5)
    # Kernels that start apart, before the first sleep: only what has moved counts.
    start = own - 0.1
    np.testing.assert_allclose(full_step(own, shared, last=start), shared, atol=1e-5)


def test_full_steps_start_where_the_last_sleep_ended():
    """Two sleeps of a state: the second rescales what changed since the first."""
    grid, rule = GRID, sleep.resolve('mean', {'border': 'include'})
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
    grids, params = {'a': {'kernel': GRID}}, {'a': {'kernel': random_kernel(GRID)}}
    state = of_variables({'params': params}, OPTIMIZER, grids)
    moments = {'a': {'kernel': random_kernel(GRID, seed=1)}}
    state = state.replace(opt_state=optax.tree_utils.tree_set(state.opt_state, mu=moments))
    rule = sleep.resolve('exact', {'border': 'include', 'gamma': 0.5})
    options = dict(share_moments=True, full_step=True)
    after = compiled(partial(sleep_step.step, grids=grids, rule=rule, **options))(state, KEY)
    kernel = after.params['a']['kernel']
    assert np.abs(kernel - pool_means(kernel, GRID, 'include')).max() > 0.1
    np.testing.assert_array_equal(after.last_sleep['a']['kernel'], kernel)
    averaged = pool_means(moments['a']['kernel'], GRID, 'include')
    np.testing.assert_allclose(after.opt_state[0].mu['a']['kernel'], averaged, atol=1e-6)


@pytest.mark.parametrize('optimizer', [OPTIMIZER, optax.sgd(0.1, 0.9)], ids=['adamw', 'sgd'])
def test_momentum_is_equalised_by_the_patterns_of_the_weights(optimizer):
    grids, params = {'a': {'kernel': GRID}}, {'a': {'kernel': random_kernel(GRID)}}
    rule = sleep.resolve('noise', {'border': 'include', 'patterns': 4, 'rate': 0.5})

    @compiled
    def before_and_after(params):
        _, opt_state = optimizer.update(params, optimizer.init(params), params)
        return opt_state, infrequent.equalise_momentum(opt_state, grids, rule, KEY)

    opt_state, found = before_and_after(params)
    (momentum, *rest), (before, *kept) = (
        [leaf for leaf in jax.tree.leaves(state) if leaf.shape == params['a']['kernel'].shape]
        for state in (found, opt_state)
    )
    share = compiled(lambda kernel: lcn_jax.share({'a': {'kernel': kernel}}, grids, rule, KEY))
    np.testing.assert_allclose(momentum, share(before)['a']['kernel'], atol=1e-6)
    assert not np.allclose(momentum, before)
    for now, then in zip(rest, kept):  # the second moments of AdamW
        np.testing.assert_array_equal(now, then)
