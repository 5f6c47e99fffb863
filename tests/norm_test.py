"""Parameters with one value per neuron: norms and biases by hand, their pools, their sleep."""

import dataclasses
import functools
from functools import partial

import flax.traverse_util
import jax
import numpy as np
import optax
import pytest
import tiny_config
from reference import CIRCUIT, pool_means

from lcn_jax import sleep
from lcn_jax.errors import UsageError
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.grids import grids
from lcn_jax.layer.linen import LocalConv
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.layer.norm import LocalNorm
from lcn_jax.sleep.pools import num_pools, pool_numbers
from lcn_jax.training import config as configs
from lcn_jax.training.experiment import Experiment

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
GRIDS = [
    LocalParameter(Grid.create((7, 6), 3, 1, 1)),
    LocalParameter(Grid.create((7, 6), (3, 2), (2, 1), 1), joined=True),
    LocalParameter(Grid.create((9,), (4,), padding='CAUSAL')),
    LocalParameter(Grid.create((4, 5), 2, input_dilation=2)),
    LocalParameter(Grid.create((6, 6), 3, padding='CIRCULAR')),
]
HEBBIAN = {
    'gamma': 0.0,
    'learning_rate': 0.3,
    'steps': 20,
    'patterns_per_step': 50,
    'momentum': 0.0,
}


@pytest.mark.parametrize('grid', GRIDS, ids=lambda grid: f'{grid.kernel_size}')
def test_values_are_in_the_pools_of_their_layer(grid):
    values = dataclasses.replace(grid, per_neuron=True)
    assert values.output_size == grid.output_size
    assert num_pools(values) == num_pools(grid)
    for border in ('include', 'exclude'):
        np.testing.assert_array_equal(pool_numbers(values, border), pool_numbers(grid, border))
    joined = pool_numbers(grid.joined_pools())
    np.testing.assert_array_equal(pool_numbers(values.joined_pools()), joined)


RULES = {'mean': {}, 'exact': {'gamma': 0.25}, 'low_rank': {'rank': 1}, 'hebbian': HEBBIAN}


def slept(bias, of_bias, rule, **options):
    rule = sleep.resolve(rule, options)
    return sleep.share({'bias': bias}, {'bias': of_bias}, rule, KEY)['bias']


@functools.cache
def slept_by_rules(grid, border):
    """A bias, and by rule what a sleep makes of it."""
    bias = RANDOM.standard_normal((*grid.output_size, 3)).astype(np.float32)
    of_bias = dataclasses.replace(grid, per_neuron=True)

    @jax.jit
    def program(bias):
        return {
            rule: slept(bias, of_bias, rule, border=border, **options)
            for rule, options in RULES.items()
        }

    return bias, jax.device_get(program(bias))


@pytest.mark.parametrize('border', ['include', 'exclude'])
@pytest.mark.parametrize('grid', GRIDS, ids=lambda grid: f'{grid.kernel_size}')
@pytest.mark.parametrize(
    'rule, left', [('mean', 0), ('exact', 0.2), ('low_rank', 0), ('hebbian', None)]
)
def test_a_sleep_shrinks_deviations_of_values_as_those_of_weights(rule, left, grid, border):
    """`mean` and `exact` in closed form; a Hebbian sleep multiplies all deviations alike."""
    bias, by_rule = slept_by_rules(grid, border)
    shared = by_rule[rule]
    assert shared.shape == bias.shape
    means = pool_means(bias, grid, border)
    means = np.where(np.isnan(means), bias, means)
    if left is None:
        before, after = bias - means, shared - means
        left = (before * after).sum() / (before**2).sum()
        assert 0 < left < 0.05
    np.testing.assert_allclose(shared, means + left * (bias - means), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('joined', [False, True])
def test_the_circuit_makes_values_alike_before_their_means_are_gone(joined):
    grid = Grid.create((6, 6), 2, padding='CIRCULAR')
    of_bias = LocalParameter(grid, per_neuron=True, joined=joined)
    bias = RANDOM.standard_normal((6, 6, 2)).astype(np.float32)
    asleep = jax.jit(partial(slept, of_bias=of_bias, rule='circuit', border='include', **CIRCUIT))
    shared = jax.device_get(asleep(bias))

    def means_and_deviations(values):
        means = pool_means(values, of_bias, 'include')
        return np.std(means), np.std(values - means)

    before, after = means_and_deviations(bias), means_and_deviations(shared)
    assert after[1] < 0.2 * before[1] and after[0] > 0.5 * before[0]


@pytest.mark.parametrize('layout', ['NHWC', 'HWNC'])
def test_a_local_norm_is_that_of_each_neuron_alone(layout):
    examples = layout.index('N')
    axes = tuple(axis for axis in range(4) if axis != examples)
    norm = LocalNorm(layer=GRIDS[0].grid, axis=axes, momentum=0.9, use_running_average=False)
    x = np.float32(2 + 3 * RANDOM.standard_normal((8, 7, 6, 3)))
    in_layout = np.moveaxis(x, 0, examples)
    variables = jax.jit(norm.init)(KEY, in_layout)
    shapes = {leaf.shape for leaf in jax.tree.leaves(variables)}
    assert shapes == {(7, 6, 3)} and len(jax.tree.leaves(variables)) == 4
    scale, bias = (np.float32(RANDOM.standard_normal((7, 6, 3))) for _ in range(2))
    variables = variables | {'params': {'scale': scale, 'bias': bias}}
    apply = jax.jit(partial(norm.apply, mutable=['batch_stats']))
    y, updated = jax.device_get(apply(variables, in_layout))
    expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * scale + bias
    np.testing.assert_allclose(np.moveaxis(y, examples, 0), expected, atol=1e-4)
    np.testing.assert_allclose(updated['batch_stats']['mean'], 0.1 * x.mean(0), atol=1e-5)
    still = norm.clone(use_running_average=True)
    expected = (x - 0.1 * x.mean(0)) / np.sqrt(0.9 + 0.1 * x.var(0) + 1e-5) * scale + bias
    y = jax.device_get(jax.jit(still.apply)(variables | updated, in_layout))
    np.testing.assert_allclose(np.moveaxis(y, examples, 0), expected, atol=1e-4)


def test_a_models_local_biases_are_found_and_shared_ones_are_not():
    for local_bias in (False, True):
        layer = LocalConv(4, 3, local_bias=local_bias)
        found = grids(layer, (6, 6, 2))
        assert set(found) == ({'kernel', 'bias'} if local_bias else {'kernel'})
    assert found['bias'] == dataclasses.replace(found['kernel'], per_neuron=True)
    params = jax.jit(layer.init)(KEY, np.zeros((1, 6, 6, 2), np.float32))['params']
    params['bias'] = np.float32(RANDOM.standard_normal((6, 6, 4)))
    rule = sleep.resolve('mean', {'border': 'include'})
    shared = jax.jit(lambda params: sleep.share(params, found, rule, KEY))(params)
    expected = pool_means(params['bias'], found['kernel'], 'include')
    np.testing.assert_allclose(shared['bias'], expected, atol=1e-6)


# ---- In a network. -------------------------------------------------------------------------------


def experiment(kind='lc', **changes):
    config = tiny_config.get_config(kind)
    config.model.stage_sizes, config.model.width = (1, 1), 2
    config.update_from_flattened_dict(changes)
    return Experiment.create(config)


def shapes_of(tree):
    flat = flax.traverse_util.flatten_dict(tree, sep='/')
    return {name: leaf.shape for name, leaf in flat.items()}


def test_what_networks_share():
    shared, local, none = (
        experiment(**{'model.norm': norm}).shapes for norm in ('shared', 'local', 'none')
    )
    norms = {name for name in shapes_of(shared.params) if '_norm' in name}
    assert {shapes_of(shared.params)[name][:-1] for name in norms} == {()}
    sizes = {shapes_of(local.params)[name][:-1] for name in norms}
    assert (
        sizes == {(8, 8), (4, 4)}
        and shapes_of(local.params).keys() == shapes_of(shared.params).keys()
    )
    assert {shape[:-1] for shape in shapes_of(local.batch_stats).values()} == sizes
    assert none.batch_stats == {}
    biases = {name: s for name, s in shapes_of(none.params).items() if name.endswith('_conv1/bias')}
    assert biases == {'stage1_block1_conv1/bias': (8, 8, 2), 'stage2_block1_conv1/bias': (4, 4, 4)}
    of_conv = experiment('conv', **{'model.norm': 'none'}).shapes
    assert shapes_of(of_conv.params)['stem_conv/bias'] == (2,)
    first_shared = experiment(**{'model.norm': 'local', 'model.n_first_conv': 1}).shapes
    assert shapes_of(first_shared.params)['stem_norm/scale'] == (2,)


@pytest.mark.parametrize('norm', ['local', 'none'])
def test_values_sleep_with_their_kernels_and_statistics_do_not(norm):
    of = experiment('lc_mean_joined', **{'model.norm': norm, 'sleep.full_step': False})
    state = jax.jit(of.initial_state)(KEY)
    random = jax.tree.map(
        lambda leaf: np.float32(RANDOM.standard_normal(leaf.shape)),
        {'params': state.params, 'batch_stats': state.batch_stats},
    )
    moments = jax.tree.map(
        lambda leaf: np.float32(RANDOM.standard_normal(leaf.shape)), state.params
    )
    opt_state = optax.tree_utils.tree_set(state.opt_state, mu=moments)
    awake = state.replace(**random, opt_state=opt_state)
    asleep = jax.jit(of.sleep_step(of.network.grids))(awake, KEY)
    after_moments = flax.traverse_util.flatten_dict(
        optax.tree_utils.tree_get(asleep.opt_state, 'mu')
    )
    after = flax.traverse_util.flatten_dict(asleep.params)
    before_moments = flax.traverse_util.flatten_dict(moments)
    values = {path for path in after if path[-1] in ('scale', 'bias') and path[0] != 'logits'}
    assert len(values) == (12 if norm == 'local' else 6)
    for path, before in flax.traverse_util.flatten_dict(random['params']).items():
        if path in values:
            means = np.broadcast_to(before.mean((0, 1)), before.shape)
            np.testing.assert_allclose(after[path], means, atol=1e-5)
            moment = before_moments[path]
            means = np.broadcast_to(moment.mean((0, 1)), moment.shape)
            np.testing.assert_allclose(after_moments[path], means, atol=1e-5)
        elif path[0] == 'logits':
            np.testing.assert_array_equal(after[path], before)
    jax.tree.map(np.testing.assert_array_equal, asleep.batch_stats, random['batch_stats'])


def test_branches_without_norms_do_not_make_activations_grow():
    """Each block adds at most its branch over the square root of their number."""

    def deviation(blocks, norm):
        changes = {'model.norm': norm, 'model.stage_sizes': (blocks,)}
        model = experiment('conv', **changes).network.model
        images = RANDOM.standard_normal((20, 8, 8, 1)).astype(np.float32)

        @jax.jit
        def sow(images):
            variables = model.init(KEY, images, train=False)
            return model.apply(variables, images, train=False, mutable=['intermediates'])[1]

        sown = sow(images)['intermediates']
        return np.std(sown[f'stage1_block{blocks}'][0]) / np.std(sown['stem'][0])

    # Every block multiplies the variance by about 1 + 1 / B: (1 + 1 / B)^B is below e.
    assert deviation(8, 'none') < 3 and deviation(3, 'none') < 3


def test_a_config_from_before_there_were_norms_has_shared_ones():
    values = tiny_config.get_config().to_dict()
    del values['model']['norm']
    assert configs.complete(values).model.norm == 'shared'


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'model.norm': 'group'}, r"config\.model\.norm is 'group'; .* shared, local, none"),
        ({'connectivity': 'conv', 'model.norm': 'local'}, 'norm=local acts on local kernels'),
        (
            {'connectivity': 'low_rank', 'model.norm': 'none'},
            'norm=none needs biases',
        ),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(changes, message):
    with pytest.raises(UsageError, match=message):
        experiment(**changes)
