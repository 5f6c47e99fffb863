"""Conversion between shared and local weights: what a network computes, and what is refused."""

import math
from functools import cache, partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import compiled

from lcn_jax import convert, sleep
from lcn_jax.convert.shared import kernel_to_shared
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.grids import grids
from lcn_jax.layer.linen import LocalConv
from lcn_jax.networks.resnet import ResNet

KEY = jax.random.key(0)
NETWORKS = {
    'cifar': dict(stage_sizes=(1, 1), width=4, stem='cifar', num_classes=5),
    'imagenet': dict(stage_sizes=(1, 1), width=4, stem='imagenet', num_classes=5),
    'first two shared': dict(
        stage_sizes=(1, 1), width=4, stem='cifar', num_classes=5, n_first_conv=2
    ),
    'biases': dict(stage_sizes=(1, 1), width=4, stem='cifar', num_classes=5, norm='none'),
    '1×1 shared': dict(
        stage_sizes=(1, 1), width=4, stem='cifar', num_classes=5, shared='.*_shortcut'
    ),
}
SHAPE = (16, 12, 3)
each_network = pytest.mark.parametrize('options', NETWORKS.values(), ids=NETWORKS)


def to_local(params, grids, *noise):
    return compiled(lambda p: convert.to_local(p, grids, *noise))(params)


def to_shared(params, grids):
    return compiled(lambda p: convert.to_shared(p, grids))(params)


def shapes(model):
    variables = jax.eval_shape(partial(model.init, train=False), KEY, jnp.zeros((1, *SHAPE)))
    return {name: variables.get(name, {}) for name in ('params', 'batch_stats')}


def as_if_trained(model):
    """Random variables; local kernels and biases are the same at every position."""
    rng = np.random.RandomState(0)

    def fill(path, leaf):
        if path[-1].key != 'kernel':
            shared = 0.5 + rng.rand(leaf.shape[-1]).astype(np.float32)
            return np.broadcast_to(shared, leaf.shape)
        shared = rng.randn(*leaf.shape[-4:]).astype(np.float32)
        return np.broadcast_to(shared / math.sqrt(math.prod(shared.shape[:-1])), leaf.shape)

    return jax.tree.map_with_path(fill, shapes(model))


@cache
def applied(model):
    return compiled(partial(model.apply, train=False))


def logits(model, variables):
    images = np.random.RandomState(1).randn(4, *SHAPE) * np.arange(1, 5)[:, None, None, None]
    return applied(model)(variables, images.astype(np.float32))


def assert_same_function(model, variables, other, converted):
    expected = logits(model, variables)
    assert expected.std(0).min() > 1e-2  # the images are told apart
    np.testing.assert_allclose(logits(other, converted), expected, atol=1e-5)


@each_network
def test_a_convolutional_network_computes_the_same_when_locally_connected(options):
    shared, local = ResNet(**options, local=False), ResNet(**options, local=True)
    variables = as_if_trained(shared)
    params = to_local(variables['params'], grids(local, SHAPE))
    chex.assert_trees_all_equal_shapes(params, shapes(local)['params'])
    assert_same_function(shared, variables, local, variables | {'params': params})


@each_network
def test_a_fully_shared_network_computes_the_same_when_convolutional(options):
    local = ResNet(**options, local=True)
    shared = ResNet(**options, local=False)
    variables = as_if_trained(local)
    params = to_shared(variables['params'], grids(local, SHAPE))
    chex.assert_trees_all_equal_shapes(params, shapes(shared)['params'])
    assert_same_function(local, variables, shared, variables | {'params': params})


def test_there_and_back_gives_the_same_bits():
    local = ResNet(**NETWORKS['first two shared'], local=True)
    params = as_if_trained(ResNet(**NETWORKS['first two shared'], local=False))['params']
    back = to_shared(to_local(params, grids(local, SHAPE)), grids(local, SHAPE))
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_the_convolution_is_the_mean_over_positions_before_and_after_a_sleep():
    grid = Grid.create((8, 7), 3)  # pools of 9, 6 and 4 positions
    kernel = np.random.RandomState(0).randn(8, 7, 3, 3, 2, 4).astype(np.float32)

    @compiled
    def shared_slept_and_both(kernel):
        slept = sleep.mean(kernel, grid, KEY, border='include')
        return kernel_to_shared(kernel, grid), slept, kernel_to_shared(slept, grid)

    shared, slept, both = shared_slept_and_both(kernel)
    np.testing.assert_allclose(shared, kernel.mean((0, 1)), atol=1e-6)
    assert np.abs(slept - shared).max() > 0.1  # the pools still differ
    np.testing.assert_allclose(both, shared, atol=1e-6)


def test_layers_of_other_models_convert_too():
    """nn.Conv with bias, stride and groups."""
    x = np.random.RandomState(0).randn(2, 9, 8, 4).astype(np.float32)
    options = dict(features=6, strides=2, padding=1, feature_group_count=2)
    shared, local = nn.Conv(kernel_size=(3, 3), **options), LocalConv(kernel_size=3, **options)
    params = jax.jit(shared.init)(KEY, x)['params'] | {'bias': np.arange(6, dtype=np.float32)}
    converted = convert.to_local(params, grids(local, x))
    y, expected = (
        jax.jit(layer.apply)({'params': of_layer}, x)
        for layer, of_layer in ((local, converted), (shared, params))
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert converted['bias'] is params['bias']


def test_names_may_be_numbers():
    """As those of a list of layers in Flax NNX are."""
    kernel = np.ones((8, 7, 3, 3, 2, 4), np.float32)
    grid, params = Grid.create((8, 7), 3), {'layers': {0: {'kernel': kernel}}}
    shared = convert.to_shared(params, {'layers': {0: {'kernel': grid}}})
    np.testing.assert_array_equal(shared['layers'][0]['kernel'], kernel[0, 0])
    with pytest.raises(ValueError, match='layers/1/kernel'):
        convert.to_shared(params, {'layers': {1: {'kernel': grid}}})


def test_noise_is_relative_to_each_kernel_and_its_own_at_every_position():
    rng = np.random.RandomState(0)
    params = {name: {'kernel': 3 * rng.randn(3, 3, 4, 8).astype(np.float32)} for name in 'ab'}
    grids = {name: {'kernel': Grid.create(10, 3)} for name in 'ab'}
    plain, noisy = to_local(params, grids), to_local(params, grids, 0.1, KEY)
    added = [noisy[name]['kernel'] - plain[name]['kernel'] for name in 'ab']
    for name, noise in zip('ab', added):
        np.testing.assert_allclose(noise.std(), 0.1 * params[name]['kernel'].std(), rtol=0.02)
        assert abs(np.corrcoef(noise[0, 0].ravel(), noise[0, 1].ravel())[0, 1]) < 0.3
    assert abs(np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1]) < 0.02
    again = to_local(params, grids, 0.1, KEY)
    jax.tree.map(np.testing.assert_array_equal, again, noisy)


GRIDS = {'conv': {'kernel': Grid.create(6, 3)}}
SHARED = {'conv': {'kernel': np.zeros((3, 3, 2, 4), np.float32)}}
LOCAL = {'conv': {'kernel': np.zeros((6, 6, 3, 3, 2, 4), np.float32)}}


@pytest.mark.parametrize(
    'function, arguments, message',
    [
        (convert.to_local, (LOCAL, GRIDS), r"conv/kernel: expected a shared kernel \(3, 3, 'C"),
        (convert.to_shared, (SHARED, GRIDS), r'conv/kernel: expected a loc.* \(6, 6, 3, 3, '),
        (
            convert.to_shared,
            (LOCAL, {'conv': {'kernel': Grid.create(8, 3)}}),
            r'expected .* \(8, 8, 3, 3, .* got shape \(6, 6',
        ),
        (
            convert.to_local,
            (SHARED, {'conv': {'kernel': Grid.create(6, 5)}}),
            r'expected .* \(5, 5, .* got shape \(3, 3',
        ),
        (convert.to_local, ({'other': {}}, GRIDS), 'params have no conv/kernel'),
        (convert.to_local, (SHARED, {}), 'grids is empty'),
        (convert.to_local, (SHARED, GRIDS, 0.1), 'conv/kernel: noise needs a key'),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(function, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        function(*arguments)
    assert '\n' not in str(error.value)
