"""Low-rank layers against local ones with their kernels made in full, and the rule against SVD."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
from reference import compiled, over_grids, pool_means, random_kernel

from lcn_jax import sleep
from lcn_jax.errors import UsageError
from lcn_jax.layer import functional, low_rank
from lcn_jax.layer.backends import native
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.layer.low_rank import LowRankConv
from lcn_jax.sleep.pools import num_pools, pool_numbers
from lcn_jax.training import cost, parallel, wake
from lcn_jax.training.experiment import Experiment

KEY = jax.random.key(0)
OPTIONS = 'stride', 'padding', 'layout'
conv_low_rank = jax.jit(low_rank.conv_low_rank, static_argnames=OPTIONS)
conv_local = jax.jit(functional.conv_local, static_argnames=OPTIONS)
SIZE, CHANNELS, FEATURES = (7, 6), 3, 4


def operands(grid, rank, layout='NHWC', seed=0):
    random = np.random.RandomState(seed)
    x = random.randn(*((2, *SIZE) if layout == 'NHWC' else (*SIZE, 2)), CHANNELS)
    kernels = random.randn(rank, *grid.kernel_size, CHANNELS, FEATURES)
    mixing = random.randn(*grid.output_size, rank)
    return tuple(array.astype(np.float32) for array in (x, kernels, mixing))


# ---- The layer. ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'kernel_size, stride, padding, rank, layout',
    [(3, 1, 1, 3, 'HWNC'), (3, 2, 1, 2, 'NHWC'), (1, 2, 0, 4, 'HWNC'), (4, 3, 2, 1, 'NHWC')],
)
def test_values_and_gradients_are_those_of_the_local_layer_with_these_kernels(
    kernel_size, stride, padding, rank, layout
):
    grid = Grid.create(SIZE, kernel_size, stride, padding)
    arrays = operands(grid, rank, layout)
    options = dict(stride=stride, padding=padding, layout=layout)

    def mixed(x, kernels, mixing):
        return conv_low_rank(x, kernels, mixing, **options)

    def local(x, kernels, mixing):
        kernel = sum(
            mixing[:, :, k, None, None, None, None] * kernels[k] for k in range(len(kernels))
        )
        return conv_local(x, kernel, **options)

    def value_and_gradients(layer, *arrays):
        y, backwards = jax.vjp(layer, *arrays)
        return y, backwards(jnp.cos(jnp.arange(y.size)).reshape(y.shape))

    both = compiled(
        lambda *arrays: [value_and_gradients(layer, *arrays) for layer in (mixed, local)]
    )
    chex.assert_trees_all_close(*both(*arrays), atol=1e-3)


def test_one_kernel_at_each_position_is_any_local_layer():
    """K = positions: rows and columns that choose kernel (i, j) at position (i, j)."""
    grid = Grid.create((3, 4), 3, 1, 1)
    kernel = random_kernel(grid)
    x = np.random.RandomState(1).randn(2, 3, 4, 2).astype(np.float32)
    layer = LowRankConv(3, 3, rank=12, padding=1, use_bias=False)
    chosen = 200 * np.eye(12, dtype=np.float32).reshape(3, 4, 12)
    params = {
        'kernel': kernel.reshape(12, *kernel.shape[2:]),
        'rows': chosen.sum(1),
        'columns': chosen.sum(0),
    }
    y = jax.jit(layer.apply)({'params': params}, x)
    np.testing.assert_allclose(y, conv_local(x, kernel, padding=1), atol=1e-5)


def test_mixing_weights_are_a_softmax_of_rows_plus_columns():
    layer = LowRankConv(FEATURES, 3, rank=2, strides=2, padding=1, layout='HWNC')
    x = operands(Grid.create(SIZE, 3, 2, 1), 2, 'HWNC')[0]
    params = jax.device_get(jax.jit(layer.init)(KEY, x))['params']
    apply = jax.jit(layer.apply)
    assert not params['rows'].any() and not params['columns'].any()
    start = conv_low_rank(x, params['kernel'], np.full((4, 3, 2), 0.5, np.float32),
                          stride=2, padding=1, layout='HWNC')  # fmt: skip
    np.testing.assert_allclose(apply({'params': params}, x), start, atol=1e-5)

    random = np.random.RandomState(0)
    for name in ('rows', 'columns'):
        params[name] = random.randn(*params[name].shape).astype(np.float32)
    params['bias'] = np.arange(4, dtype=np.float32)
    powers = np.exp(params['rows'])[:, None] * np.exp(params['columns'])
    mixing = powers / powers.sum(-1, keepdims=True)
    expected = conv_low_rank(x, params['kernel'], mixing, stride=2, padding=1, layout='HWNC')
    np.testing.assert_allclose(apply({'params': params}, x), expected + np.arange(4), atol=1e-5)


def test_bfloat16_is_float32_rounded():
    grid = Grid.create(SIZE, 3, 1, 1)
    arrays = operands(grid, 3)
    rounded = [array.astype(jnp.bfloat16) for array in arrays]
    y = conv_low_rank(*rounded, padding=1)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(y), conv_low_rank(*arrays, padding=1), atol=0.4)
    layer = LowRankConv(FEATURES, 3, rank=3, padding=1, dtype=jnp.bfloat16)
    y, variables = jax.eval_shape(layer.init_with_output, KEY, arrays[0])
    assert y.dtype == jnp.bfloat16 and variables['params']['kernel'].dtype == jnp.float32


@pytest.mark.parametrize(
    'rank, positions, layout, message',
    [
        (0, 7, 'NHWC', 'rank must be a positive integer, got 0'),
        (2, 7, 'NCHW', "layout must be one of .*'NCHW'"),
        (2, 5, 'NHWC', r'mixing must have the shape .* \(7, 6, 2\), got \(5, 6, 2\)'),
    ],
)
def test_arguments_that_do_not_fit_are_refused(rank, positions, layout, message):
    x, kernels, _ = operands(Grid.create(SIZE, 3, 1, 1), 2)
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(LowRankConv(4, 3, rank=rank, padding=1, layout=layout).init, KEY, x)
        conv_low_rank(x, kernels, np.ones((positions, 6, 2), np.float32), padding=1)
    assert '\n' not in str(error.value)


# ---- The network. --------------------------------------------------------------------------------


def experiment(**changes):
    config = tiny_config.get_config('conv')
    config.update_from_flattened_dict(changes)
    return Experiment.create(config)


LOW_RANK = {'connectivity': 'low_rank'}


def learned(of, images, labels, steps):
    """The parameters before and after these steps of backprop on one device."""
    learner = wake.Learner(of.network.model, of.optimizer(10))
    step = jax.jit(
        jax.vmap(lambda *batch: wake.update(*batch, learner=learner)[0], axis_name=parallel.AXIS)
    )
    start = jax.device_get(jax.jit(of.initial_state)(KEY))
    start = jax.tree.map(lambda leaf: np.asarray(leaf)[None], start)
    state = start
    for _ in range(steps):
        state = step(state, images, labels)
    return (jax.tree.map(lambda leaf: leaf[0], s.params) for s in jax.device_get((start, state)))


@pytest.mark.slow
def test_a_network_of_rank_one_learns_as_the_convolutional_one():
    random = np.random.default_rng(0)
    images = random.normal(size=(1, 16, 8, 8, 1)).astype(np.float32)
    labels = random.integers(10, size=(1, 16))
    conv_start, conv = learned(experiment(), images, labels, 4)
    start, low_rank = learned(experiment(**LOW_RANK | {'model.rank': 1}), images, labels, 4)
    for params in (start, low_rank):
        layer = params['stem_conv']
        assert not layer.pop('rows').any() and not layer.pop('columns').any()
        layer['kernel'] = layer['kernel'][0]
    chex.assert_trees_all_equal(start, conv_start)
    chex.assert_trees_all_close(low_rank, conv, atol=2e-5)
    assert np.abs(conv['stem_conv']['kernel'] - conv_start['stem_conv']['kernel']).max() > 0.01


def test_rows_and_columns_learn_in_bfloat16():
    images = np.random.default_rng(0).normal(size=(1, 16, 8, 8, 1)).astype(np.float32)
    of = experiment(**LOW_RANK, **{'model.dtype': 'bfloat16'})
    start, after = learned(of, images, np.arange(16)[None] % 10, 4)
    for name in ('kernel', 'rows', 'columns'):
        before, learned_ones = start['stem_conv'][name], after['stem_conv'][name]
        assert learned_ones.dtype == jnp.float32
        assert 1e-3 < np.abs(learned_ones - before).max() < 0.1


@pytest.mark.optimised
def test_cost_counts_all_kernels(monkeypatch):
    """Against XLA's count of the FLOPs of a layer, and by hand."""
    of = experiment(**LOW_RANK, **{'model.rank': 4, 'model.width': 16, 'model.stage_sizes': (1,)})
    layer = cost.layers(of.network.model, of.network.image_shape)[1]
    assert layer.grid is None and layer.kernel == (4, 3, 3, 16, 16)
    assert layer.parameters == 4 * 9 * 16 * 16 and layer.mixed == 4 * layer.outputs == 4 * 64 * 16
    x = jax.ShapeDtypeStruct((8, 8, 32, 16), jnp.float32)
    kernels = jax.ShapeDtypeStruct(layer.kernel, jnp.float32)
    mixing = jax.ShapeDtypeStruct((8, 8, 4), jnp.float32)

    def forward(x, kernels, mixing):
        return conv_low_rank(x, kernels, mixing, padding=1, layout='HWNC')

    # XLA counts the FLOPs of its own operations only.
    monkeypatch.setattr(native, 'computes', lambda dtype: False)
    counted = jax.jit(forward).lower(x, kernels, mixing).compile().cost_analysis()['flops']
    # XLA leaves out products with the padding; ours leaves out the mixing.
    assert 0.8 < counted / (32 * layer.flops) < 1.05

    layers = cost.layers(of.network.model, of.network.image_shape)
    kept = cost.memory(of.shapes, layers, 5, jnp.dtype('float32'))['activations']
    outputs = [layer.outputs for layer in layers]
    assert kept == 4 * 5 * (3 * sum(outputs) + 4 * sum(outputs[:-1]))


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            {'sleep.rule': 'mean'},
            'rule=mean acts on local kernels, .*connectivity=low_rank',
        ),
        ({'model.init': 'common'}, 'config.model.init=common acts on local kernels'),
        ({'shard_kernels': True}, 'config.shard_kernels=True acts on local kernels'),
        ({'model.rank': 0}, 'config.model.rank is 0; it must be an integer, 1 or more'),
        ({'model.n_first_conv': 99}, 'no layer of the network is locally connected'),
        ({'model.shared': 'stem'}, 'does not match the whole name of any of the .* stem_conv'),
    ],
)
def test_what_does_not_go_with_low_rank_is_one_line(changes, message):
    with pytest.raises(UsageError, match=message) as error:
        experiment(**LOW_RANK | changes)
    assert '\n' not in str(error.value)


# ---- The rule. -----------------------------------------------------------------------------------

# Pools with fewer neurons than weights, with more, of unequal size, and with inserted zeros.
GRIDS = [
    Grid.create((9, 7), 3, 1, 1),
    Grid.create((6, 5), 1, 1, 0),
    LocalParameter(Grid.create((8, 8), (2, 3), (1, 2), 'SAME'), joined=True),
    LocalParameter(Grid.create((9,), 3, 1, 'SAME', 1, 2), joined=True),
]


def truncated(kernel, grid, border, rank):
    """By numpy's SVD of each pool, in float64."""
    kernel, pools = np.float64(kernel), pool_numbers(grid, border)
    result = kernel.copy()
    for pool in range(num_pools(grid)):
        rows = kernel[pools == pool]
        if len(rows):
            mean = rows.mean(0)
            u, s, v = np.linalg.svd((rows - mean).reshape(len(rows), -1), full_matrices=False)
            s[rank - 1 :] = 0
            result[pools == pool] = mean + (u * s @ v).reshape(rows.shape)
    return result


def truncate(kernel, grid, border):
    """By the rule, to each rank: once and twice."""
    results = {}
    for rank in (1, 2, 4):
        rule = sleep.resolve('low_rank', {'border': border, 'rank': rank})
        once = rule(kernel, grid, KEY)
        results[rank] = once, rule(once, grid, KEY)
    return results


truncations = over_grids(truncate, GRIDS)


@pytest.mark.parametrize('border', ['include', 'exclude'])
@pytest.mark.parametrize('grid', GRIDS, ids=str)
def test_pools_keep_their_mean_and_leading_deviations(grid, border):
    kernel, by_rank = truncations(grid, border)
    outside = pool_numbers(grid, border) < 0
    for rank, (shared, again) in by_rank.items():
        assert shared.dtype == kernel.dtype
        np.testing.assert_allclose(shared, truncated(kernel, grid, border, rank), atol=1e-4)
        np.testing.assert_array_equal(shared[outside], kernel[outside])
        np.testing.assert_allclose(again, shared, atol=1e-4)
    means = pool_means(kernel, grid, border)
    alike = np.where(np.isnan(means), kernel, means)
    np.testing.assert_allclose(by_rank[1][0], alike, atol=1e-5)


@functools.partial(jax.jit, static_argnums=(1, 2))
def apply(kernel, grid, rank):
    return sleep.resolve('low_rank', {'border': 'include', 'rank': rank})(kernel, grid, KEY)


def test_alike_kernels_and_large_ranks_stay_as_they_are():
    grid = LocalParameter(GRIDS[0], joined=True)
    alike = np.broadcast_to(random_kernel(grid)[:1, :1], (9, 7, 3, 3, 2, 3))
    for kernel, rank in ((alike, 3), (random_kernel(grid), 55), (random_kernel(grid), 1000)):
        shared = apply(kernel, grid, rank)
        np.testing.assert_allclose(shared, kernel, atol=1e-4)


def test_a_joined_layer_after_the_sleep_is_a_low_rank_layer():
    """The truncated kernels, taken apart again, compute the same as `conv_low_rank`."""
    grid = LocalParameter(Grid.create((6, 5), 3, 1, 1), joined=True)
    kernel = random_kernel(grid)
    shared = apply(kernel, grid, 3)
    u, s, v = np.linalg.svd(np.reshape(shared, (30, -1)), full_matrices=False)
    assert s[2] > 1 and s[3] < 1e-3
    mixing, kernels = (u * s)[:, :3].reshape(6, 5, 3), v[:3].reshape(3, *kernel.shape[2:])
    x = np.random.RandomState(1).randn(2, 6, 5, 2).astype(np.float32)
    expected = conv_local(x, shared, padding=1)
    np.testing.assert_allclose(conv_low_rank(x, kernels, mixing, padding=1), expected, atol=1e-3)


@pytest.mark.parametrize('rank', [0, 1.5])
def test_ranks_that_are_none_are_refused(rank):
    rule = sleep.resolve('low_rank', {'border': 'include', 'rank': rank})
    with pytest.raises(ValueError, match=f'^rank must be .*, got {rank}'):
        rule(random_kernel(GRIDS[0]), GRIDS[0], KEY)


def test_a_network_sleeps_by_it():
    of = experiment(
        **{'connectivity': 'lc', 'sleep.rule': 'low_rank', 'sleep.low_rank.rank': 3},
        **{'pools.kind': 'joined', 'sleep.share_moments': True},
    )
    before = jax.jit(of.initial_state)(KEY)
    after = jax.jit(of.sleep_step(of.network.grids))(before, KEY)
    kernel, grid = before.params['stem_conv']['kernel'], of.network.grids['stem_conv']['kernel']
    expected = truncated(kernel, grid, 'include', 3)
    np.testing.assert_allclose(after.params['stem_conv']['kernel'], expected, atol=1e-4)
    assert np.abs(kernel - expected).max() > 0.1
