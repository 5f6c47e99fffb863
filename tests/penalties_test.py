"""Penalties: by brute force and in closed form, and once in the loss on any number of devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from lcn_jax.errors import UsageError
from lcn_jax.layer.backends import divided
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.learning import penalties
from lcn_jax.sleep.pools import pool_numbers
from lcn_jax.training import parallel, sharding, wake
from lcn_jax.training.experiment import Experiment

GRID = Grid.create((4, 5), (2, 3))
SHAPE = (4, 5, 2, 3, 2, 6)  # six features: a sheet of 2 × 3 at each position
RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.standard_normal(SHAPE).astype(np.float32)
BIASES = [
    None,
    np.float32(RANDOM.standard_normal(6)),
    np.float32(RANDOM.standard_normal((4, 5, 6))),
]
smoothness = jax.jit(functools.partial(penalties.smoothness, border='include'), static_argnums=2)


@pytest.mark.parametrize('bias', BIASES, ids=['no bias', 'shared bias', 'local bias'])
def test_smoothness_is_that_of_a_loop_over_all_pairs_of_neurons(bias):
    neurons = {}
    for i, j, o in np.ndindex(4, 5, 6):
        weights = list(KERNEL[i, j, ..., o].ravel())
        if bias is not None:
            weights.append(np.broadcast_to(bias, (4, 5, 6))[i, j, o])
        neurons[2 * i + o // 3, 3 * j + o % 3] = weights / np.linalg.norm(weights)
    halves = [
        (1 - neurons[one] @ neurons[other]) / 2
        for one in neurons
        for other in neurons
        if (other[0] - one[0], other[1] - one[1]) in [(0, 1), (1, 0)]
    ]
    assert len(halves) == 8 * 14 + 7 * 15
    np.testing.assert_allclose(smoothness(KERNEL, bias, GRID), np.mean(halves), rtol=1e-5)


@pytest.mark.parametrize(
    'circular, neighbours, by_direction',
    [(True, 4, True), (False, 4, True), (True, 8, True), (False, 8, True), (False, 8, False)],
)
def test_the_published_smoothness_is_that_of_a_loop(circular, neighbours, by_direction):
    """The lower and the right neighbour of each neuron, and both diagonal ones of eight."""
    bias, height, width = BIASES[2], 8, 15
    rows = penalties.sheet(np.concatenate([KERNEL.reshape(4, 5, 12, 6), bias[:, :, None]], 2)
                           .transpose(0, 1, 3, 2))  # fmt: skip
    assert rows.shape == (height, width, 13)
    halves = {}
    for direction in [(0, 1), (1, 0), (1, 1), (1, -1)][: neighbours // 2]:
        of_pairs = halves[direction] = []
        for i, j in np.ndindex(height, width):
            down, right = i + direction[0], j + direction[1]
            if circular:
                down, right = down % height, right % width
            if 0 <= down < height and 0 <= right < width:
                one, other = rows[i, j], rows[down, right]
                cosine = one @ other / np.sqrt((one @ one) * (other @ other))
                of_pairs.append((1 - cosine) / 2)
    expected = np.mean([np.mean(of_pairs) for of_pairs in halves.values()])
    if not by_direction:
        expected = np.mean(np.concatenate(list(halves.values())))
    options = dict(circular=circular, neighbours=neighbours, by_direction=by_direction)
    penalty = functools.partial(penalties.smoothness, border='include', **options)
    found = jax.jit(penalty, static_argnums=2)(KERNEL, bias, GRID)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(expected - smoothness(KERNEL, bias, GRID)) > 1e-5  # which is another number


@pytest.mark.parametrize('features, rows', [(1, 1), (5, 1), (8, 2), (9, 3), (12, 3)])
def test_a_sheet_is_as_square_as_the_features_allow(features, rows):
    values = np.arange(2 * 3 * features).reshape(2, 3, features)
    found = penalties.sheet(values)
    columns = features // rows
    assert found.shape == (2 * rows, 3 * columns)
    for i, j, o in np.ndindex(*values.shape):
        assert found[i * rows + o // columns, j * columns + o % columns] == values[i, j, o]


def test_neurons_that_are_alike_cost_nothing_opposite_neighbours_1_and_dead_ones_half():
    one = np.broadcast_to(KERNEL[:1, :1, ..., :1], SHAPE)
    gradient = jax.jit(jax.grad(smoothness), static_argnums=2)
    np.testing.assert_allclose(smoothness(one, None, GRID), 0, atol=1e-6)
    np.testing.assert_allclose(gradient(one, None, GRID), 0, atol=1e-6)
    place = penalties.sheet(np.arange(4 * 5 * 6).reshape(4, 5, 6))
    signs = np.zeros(place.size)
    signs[place.ravel()] = (-1.0) ** np.add(*np.indices(place.shape)).ravel()
    opposite = one * signs.reshape(4, 5, 1, 1, 1, 6)
    np.testing.assert_allclose(smoothness(opposite, None, GRID), 1, rtol=1e-6)
    np.testing.assert_allclose(smoothness(7 * opposite, None, GRID), 1, rtol=1e-6)
    assert smoothness(0 * one, None, GRID) == 0.5
    assert np.isfinite(gradient(0 * one, None, GRID)).all()
    assert smoothness(one[:1, :1, ..., :1], None, Grid.create((2, 3), (2, 3), padding='VALID')) == 0


def test_smoothness_needs_two_dimensions():
    with pytest.raises(ValueError, match='two dimensions, not 1'):
        smoothness(np.zeros((4, 3, 1, 2)), None, Grid.create((4,), (3,)))


@pytest.mark.parametrize('border', ['include', 'exclude'])
@pytest.mark.parametrize('joined', [False, True])
def test_deviation_and_its_gradient_in_closed_form(joined, border):
    grid = LocalParameter(GRID, joined=joined)
    pools = pool_numbers(grid, border)
    expected, gradient = 0.0, np.zeros(SHAPE)
    for pool in set(pools.ravel()) - {-1}:
        from_mean = KERNEL[pools == pool] - KERNEL[pools == pool].mean(0)
        expected += (from_mean**2).sum() / len(from_mean) / 2
        gradient[pools == pool] = from_mean / len(from_mean)
    penalty = functools.partial(penalties.deviation, border=border)
    value, found = jax.jit(jax.value_and_grad(penalty), static_argnums=2)(KERNEL, None, grid)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(found, gradient, atol=1e-6)
    with_bias = jax.jit(penalty, static_argnums=2)(KERNEL, BIASES[1], grid)
    np.testing.assert_allclose(with_bias, value, rtol=1e-6)


# ---- In a network. -------------------------------------------------------------------------------


def experiment(name, weight=1.0, **changes):
    config = tiny_config.get_config('lc')
    config.optimizer, config.learning_rate, config.drops_at = 'sgd', 0.1, ()
    config.momentum = config.weight_decay = 0.0
    config.model.sync_batch_norm = True
    config.penalty.name, config.penalty.weight = name, weight
    config.update_from_flattened_dict(changes)
    return Experiment.create(config)


@functools.cache
def start():
    """The state of all these experiments in the middle of two steps."""
    state = jax.device_get(jax.jit(experiment('none').initial_state)(jax.random.key(0)))
    return dataclasses.replace(state, step=state.step + 1)


def learn(of, devices):
    """Whole parameters after a step on that many devices, and the sum of the losses."""
    random, shape = np.random.default_rng(1), of.network.image_shape
    images = random.standard_normal((devices, 8 // devices, *shape), np.float32)
    labels = random.integers(10, size=images.shape[:2])
    on_devices = functools.partial(
        jax.pmap, axis_name=parallel.AXIS, devices=jax.devices()[:devices]
    )
    state = on_devices(lambda _: sharding.own(start(), of.owners))(np.zeros(devices))
    step = functools.partial(wake.update, learner=of.learner(total_steps=2))
    state, sums = jax.device_get(on_devices(step)(state, images, labels))
    params = jax.tree.map(lambda leaf: leaf[0], state.params)
    if of.network.divided:
        parts = state.params['stem_conv']['kernel']
        kernel = divided.whole(parts, of.shapes.params['stem_conv']['kernel'].shape)
        params = params | {'stem_conv': {'kernel': kernel}}
    return params, sums.loss.sum()


@functools.cache
def learn_without():
    return learn(experiment('none'), 1)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['smoothness', 'deviation'])
def test_a_step_descends_the_weighted_penalty_on_any_number_of_devices(name):
    """The difference to a step without one; SGD multiplies by the size of the pool."""
    before, (without, loss) = start().params, learn_without()
    linear = {'penalty.schedule': 'linear'}  # half of the weight in the middle
    of = experiment(name, 1.0, **linear)
    kernel, grid = before['stem_conv']['kernel'], of.network.grids['stem_conv']['kernel']
    penalty = functools.partial(penalties.PENALTIES[name], border='include')
    pool = np.bincount(pool_numbers(grid).ravel())[pool_numbers(grid)]
    pool = pool.reshape(*pool.shape, 1, 1, 1, 1)
    gradient = jax.jit(jax.grad(penalty), static_argnums=2)(kernel, None, grid)
    expected = -0.1 * 0.5 * pool * np.asarray(gradient)
    assert np.abs(expected).max() > 1e-3
    sharded = experiment(name, 1.0, shard_kernels=True, **linear)
    for network, devices in ((of, 1), (of, 4), (sharded, 4)):
        after, same_loss = learn(network, devices)
        difference = jax.tree.map(np.subtract, after, without)
        np.testing.assert_allclose(difference['stem_conv']['kernel'], expected, atol=1e-5)
        np.testing.assert_allclose(difference['logits']['kernel'], 0, atol=1e-6)
        np.testing.assert_allclose(same_loss, loss, rtol=1e-5)  # the reported one is without


def test_layers_members_and_biases_add_up_in_float32():
    members = np.float32(RANDOM.standard_normal((2, *SHAPE)))
    params = {
        'ensemble': {'kernel': members, 'bias': np.stack([BIASES[2], -BIASES[2]])},
        'half': {'kernel': KERNEL.astype(jnp.bfloat16)},
        'dense': {'kernel': np.ones((3, 2), np.float32)},
    }
    grids = {'ensemble': {'kernel': GRID}, 'half': {'kernel': GRID}}
    rounded = params['half']['kernel'].astype(np.float32)
    layers = (members[0], BIASES[2]), (members[1], -BIASES[2]), (rounded, None)
    expected = sum(float(smoothness(kernel, bias, GRID)) for kernel, bias in layers)
    found = jax.jit(lambda params: penalties.total(params, grids, smoothness))(params)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert penalties.total(params, {}, smoothness) == 0


def test_a_layer_has_its_factor_by_the_order_of_names():
    params = {'b': {'kernel': np.ones(SHAPE)}, 'a': {'kernel': 2 * np.ones((4, 5, 2, 3, 1, 1))}}
    grids = {name: {'kernel': GRID} for name in params}

    def total_weight(kernel, bias, neurons):
        return kernel.sum()

    program = functools.partial(penalties.total, grids=grids, penalty=total_weight)
    found = jax.jit(functools.partial(program, factors=(3, 0.5)))(params)
    assert found == 3 * 2 * 120 + 0.5 * 120 * 12
    with pytest.raises(ValueError, match='there are 3 factors, but the layers are a, b'):
        program(params, factors=(1, 2, 3))


def test_a_schedule_is_a_share_of_the_weight_by_time():
    t = np.linspace(0, 1, 9, dtype=np.float32)
    expected = {
        'constant': np.ones(9),
        'linear': t,
        'sigmoid': 1 / (1 + np.exp(-20 * (t - 0.5))),
        'decreasing_sigmoid': 1 - 1 / (1 + np.exp(-20 * (t - 0.5))),
    }
    schedules = penalties.SCHEDULES
    found = jax.jit(lambda t: {name: of_time(t) for name, of_time in schedules.items()})(t)
    for name in schedules.keys() | expected.keys():
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


def of_ones_own(kernel, bias, grid, *, border, power):
    return (abs(kernel) ** power).sum()


def test_a_penalty_of_ones_own_has_its_options_from_the_config():
    config = tiny_config.get_config('lc')
    config.penalty.name, config.penalty.weight = f'{__name__}:of_ones_own', 2.0
    config.penalty.of_ones_own = {'power': 1}
    of = Experiment.create(config)
    params = {'stem_conv': {'kernel': np.full((8, 8, 3, 3, 1, 2), -1.0, np.float32)}}
    assert jax.jit(of.penalty)(params) == 2 * 8 * 8 * 9 * 2


@pytest.mark.slow
def test_what_is_added_to_the_loss_is_recorded():
    of = experiment('deviation', 3.0)
    state = start()
    found = parallel.first(of.similarity(parallel.replicate(state)))
    kernel, grid = state.params['stem_conv']['kernel'], of.network.grids['stem_conv']['kernel']
    deviation = functools.partial(penalties.deviation, border='include')
    expected = 3 * jax.jit(deviation, static_argnums=2)(kernel, None, grid)
    np.testing.assert_allclose(found['penalty'], expected, rtol=1e-5)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'penalty.name': 'rough'}, "unknown penalty 'rough'.*none, smoothness, deviation"),
        ({'penalty.name': f'{__name__}:of_ones_own'}, "cannot take options \\['border'\\].*power"),
        ({'penalty.name': f'{__name__}:not_a_scalar'}, 'must be a scalar'),
        ({'penalty.weight': -1.0}, r'config\.penalty\.weight is -1'),
        (
            {'penalty.name': 'smoothness', 'penalty.smoothness.neighbours': 6},
            r'config\.penalty\.smoothness: neighbours must be one of \(4, 8\), got 6',
        ),
        (
            {'penalty.name': 'smoothness', 'penalty.factors': (1.0, 2.0)},
            'there are 2 factors, but the layers are stem_conv',
        ),
        ({'penalty.schedule': 'cosine'}, 'schedule is .cosine.; it must be one of constant'),
        (
            {'connectivity': 'conv', 'penalty.name': 'deviation'},
            'name=deviation acts on local kernels',
        ),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(changes, message):
    with pytest.raises(UsageError, match=message):
        of = experiment('none', **changes)
        jax.eval_shape(of.penalty, of.shapes.params)


def not_a_scalar(kernel, bias, grid, *, border):
    return kernel
