"""The All-TNN: its cost by hand, against a network in NNX and one of shared layers, and trained."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lcn_jax.nnx
from experiments.configs import all_tnn as published
from experiments.configs import all_tnn_small
from experiments.describe import describe
from lcn_jax import LocalConv
from lcn_jax.errors import UsageError
from lcn_jax.networks.all_tnn import AllTNN
from lcn_jax.training import cost, optimizer, parallel, sharding, wake
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.network import Network

# 16 pixels; stride 2: 7; pool: 3; 1 position, or 2 × 2 if the kernel is 2.
TINY = dict(features=(4, 9), kernel_sizes=(3, 2), strides=(2, 1), pooled=(1,), num_classes=5)
RANDOM = np.random.RandomState(0)
IMAGES, LABELS = RANDOM.randn(2, 16, 16, 3).astype(np.float32), np.array([3, 1])


class NNXTNN(nnx.Module):
    def __init__(self, rngs):
        first = lcn_jax.nnx.LocalConv(
            3, 4, (3, 3), 2, padding='VALID', input_size=(16, 16), local_bias=True, rngs=rngs
        )
        second = lcn_jax.nnx.LocalConv(
            4, 9, (2, 2), padding='VALID', input_size=(3, 3), local_bias=True, rngs=rngs
        )
        self.layers = nnx.List([first, second])
        self.logits = nnx.Linear(2 * 2 * 9, 5, rngs=rngs)

    def __call__(self, images):
        first, second = self.layers
        x = nn.max_pool(nnx.relu(first(images)), (2, 2), (2, 2))
        return self.logits(nnx.relu(second(x)).reshape(len(images), -1))


@pytest.mark.slow
def test_a_step_of_training_in_linen_and_in_nnx_is_the_same():
    """In Linen with the reference implementation."""
    sgd = optax.sgd(0.1)

    def loss(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    graph, shapes = nnx.split(nnx.eval_shape(lambda: NNXTNN(nnx.Rngs(0))), nnx.Param)
    state = jax.tree.map(lambda leaf: 0.2 * RANDOM.randn(*leaf.shape).astype(np.float32), shapes)
    params = nnx.to_pure_dict(state)

    @jax.jit
    def nnx_step(state):
        model = nnx.merge(graph, state)
        learner = nnx.Optimizer(model, sgd, wrt=nnx.Param)
        learner.update(model, nnx.grad(lambda model: loss(model(IMAGES)))(model))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    @jax.jit
    def linen_step(params):
        linen = AllTNN(local_conv=partial(LocalConv, implementation='lax'), **TINY)
        grads = jax.grad(lambda p: loss(linen.apply({'params': p}, IMAGES, train=True)))(params)
        return optax.apply_updates(params, sgd.update(grads, sgd.init(params))[0])

    def linen_names(params):
        layers = {f'conv{i + 1}': layer for i, layer in params['layers'].items()}
        return layers | {'logits': params['logits']}

    after, expected = linen_names(nnx_step(state)), linen_step(linen_names(params))
    for new, old, want in zip(*map(jax.tree.leaves, (after, linen_names(params), expected))):
        assert np.abs(new - old).max() > 1e-6
        np.testing.assert_allclose(new, want, atol=1e-6)


@pytest.mark.parametrize('norm', ['none', 'shared', 'layer'])
def test_with_equal_weights_everywhere_it_is_the_convolutional_network(norm):
    shared, local = (AllTNN(norm=norm, dropout=0.5, local=of, **TINY) for of in (False, True))
    shapes = jax.eval_shape(partial(shared.init, train=False), jax.random.key(0), IMAGES)
    variables = jax.tree.map(lambda leaf: RANDOM.rand(*leaf.shape).astype(np.float32), shapes)
    of_positions = {}
    for name, size in (('conv1', 7), ('conv2', 2)):
        of_positions[name] = {
            key: np.broadcast_to(value, (size, size, *value.shape))
            for key, value in variables['params'][name].items()
        }
    everywhere = {**variables, 'params': variables['params'] | of_positions}
    expected, found = (
        jax.jit(partial(model.apply, train=False, mutable=['intermediates']))(weights, IMAGES)
        for model, weights in ((shared, variables), (local, everywhere))
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-4)
    for name in ('layer1', 'layer2'):
        of_shared, of_local = (of[1]['intermediates'][name][0] for of in (expected, found))
        of_local = np.asarray(of_local).transpose(2, 0, 1, 3)
        np.testing.assert_allclose(of_local, of_shared, rtol=2e-4, atol=1e-5)


def test_the_cost_of_the_published_network_by_hand():
    # 150 pixels; stride 3: 48; pool: 24, 22, 20; pool: 10, 8, 6; pool: 3, 1.
    sizes, kernels = (48, 22, 20, 8, 6, 1), (7, 3, 3, 3, 3, 3)
    channels = (3, 64, 81, 81, 256, 256, 2500)
    products = [
        n * n * k * k * c * o for n, k, c, o in zip(sizes, kernels, channels, channels[1:])
    ]  # also the number of local weights
    neurons = [n * n * o for n, o in zip(sizes, channels[1:])]
    layers = cost.layers(AllTNN(565), (150, 150, 3))
    assert [layer.parameters for layer in layers] == [*products, 2500 * 565]
    assert [layer.flops for layer in layers] == [2 * p for p in [*products, 2500 * 565]]

    config = published.get_config()
    config.batch_size = 8
    experiment = Experiment(config, Network(AllTNN(565), (150, 150, 3)))
    parameters = sum(products) + sum(neurons) + 2500 * 565 + 565
    assert experiment.network.parameters == parameters == 108_474_961
    memory = cost.memory(experiment.shapes, layers, 8, jnp.dtype('float32'))
    assert memory['parameters'] == 4 * parameters
    assert memory['optimizer'] == 8 * parameters + 2 * 4  # Adam and the rate count the steps
    assert memory['activations'] == 4 * 3 * 8 * (sum(neurons) + 565)
    report = describe(experiment)
    assert f'{parameters:,}, including {sum(products):,} in 6 locally connected kernels' in report
    of_config = Experiment.create(published.get_config('lc_mean_joined')).network
    norms = 2 * sum(channels[1:])
    assert of_config.parameters == parameters + norms + 2501 * (1000 - 565)


def tiny_config(**changes):
    config = all_tnn_small.get_config('lc_mean_joined')
    config.dataset, config.image_size, config.mean, config.std = 'digits', 16, (), ()
    fields = {f'model.{name}': value for name, value in TINY.items() if name != 'num_classes'}
    config.update_from_flattened_dict({**fields, 'model.norm': 'shared', **changes})
    return config


def test_it_trains_a_step_and_sleeps():
    of = Experiment.create(tiny_config())
    state = jax.device_get(jax.jit(of.initial_state)(jax.random.key(0)))
    step = partial(wake.update, learner=of.learner(total_steps=1))
    one_device = partial(jax.pmap, axis_name=parallel.AXIS, devices=jax.devices()[:1])
    batch = IMAGES[:, :, :, :1], LABELS, None
    learn = one_device(lambda key: step(state, *batch, key))
    after, sums = jax.device_get(learn(jax.random.split(jax.random.key(1), 1)))
    assert np.isfinite(sums.loss).all()
    after = jax.tree.map(lambda leaf: leaf[0], after)
    limit = np.sqrt(6 / (7 * 7 * (9 + 4)))
    for name, before in state.params['conv1'].items():
        moved = np.asarray(after.params['conv1'][name])
        assert np.abs(before).max() < limit if name == 'kernel' else (before == 0).all()
        assert np.abs(moved - before).max() == pytest.approx(1e-3, rel=1e-2)  # Adam's first step
        assert np.ptp(moved, axis=(0, 1)).max() > 1e-4
    slept = parallel.first(of.sleep(sharding.place(after, of.owners), jax.random.key(2)))
    for values in slept.params['conv1'].values():
        np.testing.assert_allclose(np.ptp(values, axis=(0, 1)), 0, atol=1e-7)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'model.norm': 'local'}, 'model.name=all_tnn needs .* none, shared, layer'),
        ({'model.name': 'resnet', 'model.norm': 'layer'}, 'norm=layer needs .*all_tnn'),
        ({'model.strides': (1,)}, 'there are 2, 2, 1'),
        ({'model.pooled': (3,)}, r'pooled \(3,\) are numbers of layers'),
        ({'image_size': 3}, 'image_size=3 leaves no position behind layer 1'),
        (
            {'image_size': 16, 'model.kernel_sizes': (7, 10), 'model.strides': (1, 1)}
            | {'model.pooled': (2,)},
            'leaves no position behind layer 2',  # which has one, and its pool none
        ),
        (
            {f'model.{name}': () for name in ('features', 'kernel_sizes', 'strides', 'pooled')},
            'there are 0, 0, 0',
        ),
        ({'shard_kernels': True}, 'config.clip needs the gradients of whole kernels'),
        ({'model.name': 'tnn'}, "unknown model 'tnn'.*resnet, all_tnn"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(changes, message):
    with pytest.raises(UsageError, match=message):
        Experiment.create(tiny_config(**changes))


def test_steps_of_adam_as_keras_takes_them():
    """With L2 for kernels and clipped gradients, by hand."""
    config = tiny_config(**{'weight_decay': 0.5, 'clip': 2.0, 'learning_rate': 0.1})
    made = optimizer.make(config, {}, total_steps=10)
    params = {'kernel': np.float32([1.0, -2.0]), 'bias': np.float32([3.0])}
    gradients = [
        {'kernel': np.float32([3.0, 4.0]), 'bias': np.float32([-1.0])},  # norms 5 and 1
        {'kernel': np.float32([0.1, 0.0]), 'bias': np.float32([7.0])},
    ]
    clipped = [{'kernel': [1.2, 1.6], 'bias': [-1.0]}, {'kernel': [0.1, 0.0], 'bias': [2.0]}]
    expected = {name: np.float64(value) for name, value in params.items()}
    m, v = ({name: np.zeros_like(value) for name, value in params.items()} for _ in range(2))
    state, update = jax.jit(made.init)(params), jax.jit(made.update)
    for step, gradient in enumerate(gradients, 1):
        updates, state = update(gradient, state, params)
        params = jax.tree.map(lambda p, u: p + np.asarray(u), params, updates)
        for name, p in expected.items():
            g = np.float64(clipped[step - 1][name]) + (0.5 * p if name == 'kernel' else 0)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            scaled = m[name] / (1 - 0.9**step) / (np.sqrt(v[name] / (1 - 0.999**step)) + 1e-7)
            expected[name] = p - 0.1 * scaled
    for name, value in expected.items():
        np.testing.assert_allclose(params[name], value, rtol=1e-4)
