"""The optimizers, and the network that sleeps after every step and is a convolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_config
from reference import compiled

from lcn_jax import convert
from lcn_jax.errors import UsageError
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.sleep.pools import pool_numbers
from lcn_jax.training import optimizer, parallel, wake
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.schedule import Schedule
from lcn_jax.training.state import of_variables

KEY = jax.random.key(0)
EPOCH, STEPS = 5, 10
SLEEP = {
    'sleep.rule': 'mean',
    'sleep.every': 1,
    'pools.kind': 'joined',
    'model.init': 'common',
    'epochs': 2,
}


@functools.cache
def experiment(kind, **changes):
    """Of a stem and a readout, if no stages are given."""
    config = tiny_config.get_config(kind)
    config.model.width = 3
    config.optimizer, config.learning_rate = 'sgd', 0.1
    config.update_from_flattened_dict(changes)
    return Experiment.create(config)


@functools.cache
def programs(of, learner):
    """The start, a step, and a sleep if there are any."""
    learn = functools.partial(wake.update, learner=wake.Learner(of.network.model, learner))

    def step(state, images, labels):
        state, _ = jax.vmap(learn, axis_name=parallel.AXIS)(
            *jax.tree.map(lambda leaf: leaf[None], (state, images, labels))
        )
        return jax.tree.map(lambda leaf: leaf[0], state)

    asleep = of.sleep_step(of.network.grids) if of.config.sleep.rule != 'none' else None
    return jax.jit(of.initial_state), jax.jit(step), asleep and jax.jit(asleep)


@functools.cache
def own_learner(of):
    return of.optimizer(STEPS)


def initial(of):
    return programs(of, own_learner(of))[0](KEY)


def trained(of, steps, state=None, learner=None):
    """The states after each of the next steps, with the sleeps that the config has."""
    state = initial(of) if state is None else state
    _, step, sleep = programs(of, learner or own_learner(of))
    schedule = Schedule.of(of.config, EPOCH)
    after = []
    for number in range(int(state.step), int(state.step) + steps):
        random = np.random.default_rng(number)
        images = random.normal(size=(16, *of.network.image_shape)).astype(np.float32)
        state = step(state, images, random.integers(10, size=16))
        if schedule.sleep_every and schedule.events(number + 1).sleep:
            state = sleep(state, KEY)
        state = jax.device_get(state)
        after.append(state)
    return after


def from_local(conv, state, grids):
    """The first state of a convolutional network that starts as this local one does."""

    @compiled
    def first(variables):
        shared = convert.to_shared(variables['params'], grids)
        return of_variables(variables | {'params': shared}, conv.optimizer(STEPS), {})

    return first(state.variables)


def assert_near(one, other, atol):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize('norm', ['shared', 'none'])
def test_sleeping_after_every_step_in_joined_pools_is_a_convolution(norm):
    """SGD with momentum, rates times the pool's size, one initial kernel: step by step.

    Without BatchNorm nothing is shared awake, and the biases of positions sleep, too.
    """
    norm = {'model.norm': norm, 'model.stage_sizes': (1,)}
    local, conv = experiment('lc', **SLEEP | norm), experiment('conv', **norm)
    start = initial(local)
    convolutional = trained(conv, 8, from_local(conv, start, local.network.grids))
    to_local = compiled(lambda params: convert.to_local(params, local.network.grids))
    for one, other in zip(trained(local, 8), convolutional):
        assert_near(one.params, to_local(other.params), atol=2e-5)
    moved = jax.tree.map(np.subtract, start.params, one.params)
    assert max(map(np.ptp, jax.tree.leaves(moved))) > 0.1


@pytest.mark.slow
def test_the_last_sleep_relaxes_a_convolution_as_tiling_it_with_its_moments_does():
    """To the end of epoch 1 a convolution, then a locally connected network: plain gradients."""
    local = experiment('lc', **SLEEP, **{'sleep.share_moments': True, 'sleep.until': 1})
    conv, free = experiment('conv'), experiment('lc', **{'pools.kind': 'joined'})
    start = initial(local)
    *_, tiled = trained(conv, EPOCH, from_local(conv, start, local.network.grids))
    params, trace = compiled(
        lambda *trees: [convert.to_local(tree, local.network.grids) for tree in trees]
    )(tiled.params, optax.tree_utils.tree_get(tiled.opt_state, 'trace'))
    tiled = tiled.replace(
        params=params, opt_state=optax.tree_utils.tree_set(tiled.opt_state, trace=trace)
    )
    *_, relaxed, later, last = trained(local, EPOCH + 2)
    plain = optimizer.make(free.config, {}, STEPS)  # without grids no gradient is multiplied
    for one, other in zip((relaxed, later, last), (tiled, *trained(free, 2, tiled, plain))):
        assert_near(one.variables, other.variables, atol=2e-5)
        traces = (optax.tree_utils.tree_get(state.opt_state, 'trace') for state in (one, other))
        assert_near(*traces, atol=2e-5)
    kernel = last.params['stem_conv']['kernel']
    deviation = kernel - kernel.mean((0, 1))
    assert np.abs(deviation).max() > 2e-4  # ten times the tolerance


@pytest.mark.parametrize(
    ('change', 'of_conv'), [({'pools.kind': 'tiled'}, {}), 2 * ({'optimizer': 'adamw'},)], ids=str
)
@pytest.mark.slow
def test_other_sleeps_are_not(change, of_conv):
    local, conv = experiment('lc', **SLEEP | change), experiment('conv', **of_conv)
    start = initial(local)
    (*_, one) = trained(local, 3)
    (*_, other) = trained(conv, 3, from_local(conv, start, local.network.grids))
    difference = one.params['stem_conv']['kernel'] - other.params['stem_conv']['kernel']
    assert np.abs(difference).max() > 1e-2


@pytest.mark.parametrize('border', ['include', 'exclude'])
@pytest.mark.parametrize('joined', [False, True])
def test_gradients_are_multiplied_by_the_size_of_the_pool(joined, border):
    grid = Grid.create((5, 4), (2, 3), padding=1)
    grid = LocalParameter(grid, joined=True) if joined else grid
    grids = {'layer': {'kernel': grid}}
    updates = {'layer': {'kernel': np.ones((6, 4, 2, 3, 1, 2)), 'bias': np.ones(2)}}
    scale = optimizer.times_pool_size(grids, border)
    scaled, _ = scale.update(updates, scale.init(updates))
    np.testing.assert_array_equal(scaled['layer']['bias'], 1)
    pools = pool_numbers(grid, border)
    for position in np.ndindex(6, 4):
        size = (pools == pools[position]).sum() if pools[position] >= 0 else 1
        np.testing.assert_array_equal(scaled['layer']['kernel'][position], size)


def test_gradients_are_multiplied_only_if_the_config_says_so():
    def step(**changes):
        of = experiment('lc', drops_at=(), weight_decay=0.0, **changes)
        params = of.network.variables['params']
        learner = of.optimizer(STEPS)

        @jax.jit
        def updates():
            ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
            return learner.update(ones, learner.init(ones), ones)[0]

        return jax.device_get(updates())

    times, plain = (step(times_pool_size=multiplied) for multiplied in (True, False))
    # An 8×8 layer of 3×3 kernels: nine tiled pools, of two or three positions along each axis.
    ratio = times['stem_conv']['kernel'] / plain['stem_conv']['kernel']
    assert set(np.unique(np.round(ratio, 4))) == {4, 6, 9}
    assert_near(times['logits'], plain['logits'], atol=0)
    for leaf in jax.tree.leaves(plain):
        np.testing.assert_allclose(leaf, -0.1, rtol=1e-6)


@pytest.mark.slow
def test_kernels_that_start_alike_have_the_noise_of_the_config():
    def kernels(**changes):
        of = experiment('lc', **changes, **{'model.stage_sizes': (1,)})
        return np.asarray(initial(of).params['stage1_block1_conv1']['kernel'])

    alike = kernels(**{'model.init': 'common'})
    assert (alike == alike[0, 0]).all() and np.std(alike) > 0
    noisy = kernels(**{'model.init': 'common', 'model.init_noise': 0.5})
    np.testing.assert_allclose(np.std(noisy - alike), 0.5 * np.std(alike[0, 0]), rtol=0.1)
    independent = kernels()
    np.testing.assert_array_equal(independent[0, 0], alike[0, 0])
    assert np.std(independent.mean((0, 1))) < 0.3 * np.std(independent)


@pytest.mark.parametrize(
    ('name', 'theirs'),
    [
        # Weights decay beside the momentum, as in AdamW: by rate times decay at each step.
        ('sgd', optax.chain(optax.sgd(0.1, momentum=0.8), optax.add_decayed_weights(-0.1 * 0.2))),
        ('adamw', optax.adamw(0.1, b1=0.8, weight_decay=0.2)),
    ],
)
def test_optimizers_are_those_of_optax_where_nothing_is_local(name, theirs):
    config = tiny_config.get_config('conv')
    config.optimizer, config.momentum = name, 0.8
    config.learning_rate, config.weight_decay, config.drops_at = 0.1, 0.2, ()
    ours = optimizer.make(config, {}, 10)
    params = {'w': np.arange(3, dtype=np.float32)}

    def updates(learner):
        state, made = learner.init(params), []
        for gradient in (params, {'w': np.ones(3, np.float32)}):
            update, state = learner.update(gradient, state, params)
            made.append(update['w'])
        return made

    np.testing.assert_allclose(*(jax.jit(updates, static_argnums=0)(of) for of in (ours, theirs)),
                               rtol=1e-6)  # fmt: skip


def test_steps_of_beta_lasso_by_hand():
    """Rate 0.5, halved at the second step, λ = 0.2, β = 2: kernels below 0.4 become 0."""
    config = tiny_config.get_config('conv')
    config.optimizer, config.momentum, config.weight_decay = 'beta_lasso', 0.5, 0.0
    config.learning_rate, config.drop, config.drops_at = 0.5, 0.5, (0.5,)
    config.lasso, config.beta = 0.2, 2.0
    learner = optimizer.make(config, {}, 2)
    others = {'bias': np.float32([0.1]), 'scale': np.float32([0.1])}
    params = {'layer': {'kernel': np.float32([1.0, -1.0, 0.55, 0.0, 0.0]), **others}}
    state = compiled(learner.init)(params)
    grads = {
        'layer': {'kernel': np.float32([0.0, 0.4, 0.2, 0.4, -2.0])} | dict.fromkeys(others, 0.2)
    }

    @compiled
    def step(params, state):
        updates, state = learner.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    # v = g: 1 - 0.1; -1 - 0.2 + 0.1; 0.55 - 0.1 - 0.1 = 0.35 and -0.2, below 0.4; 1.
    # v = 1.5 g: 0.9 - 0.05; -1.1 - 0.15 + 0.05; -0.075, below; -0.15, below; 1 + 0.75 - 0.05.
    for kernel, other in (
        ([0.9, -1.1, 0, 0, 1], 0.1 - 0.1),
        ([0.85, -1.2, 0, 0, 1.7], 0.1 - 0.1 - 0.075),
    ):
        params, state = step(params, state)
        np.testing.assert_allclose(params['layer']['kernel'], kernel, rtol=1e-6)
        assert ((params['layer']['kernel'] == 0) == (np.array(kernel) == 0)).all()
        for name in others:
            np.testing.assert_allclose(params['layer'][name], other, atol=1e-6)


def test_every_drop_counts_also_those_that_fall_on_one_step():
    config = tiny_config.get_config('conv')
    config.learning_rate, config.drop, config.drops_at = 1.0, 0.5, (0.5, 0.5, 0.55, 0.8)
    rate = optimizer.learning_rate(config, 10)
    found = compiled(lambda steps: [rate(step) for step in steps])([0, 4, 5, 7, 8, 9])
    np.testing.assert_allclose(found, [1, 1, 1 / 8, 1 / 8, 1 / 16, 1 / 16])


def test_noise_without_a_common_kernel_is_refused():
    with pytest.raises(UsageError, match=r'config\.model\.init_noise has no meaning'):
        experiment('lc', **{'model.init_noise': 0.1})
