"""A network in the shape of the All-TNN (Lu et al., "End-to-end topographic networks ..."), 150 px.

In Linen and in NNX: the same step of training, and the cost of the full size by hand.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lcn_jax.nnx
from experiments.describe import describe
from lcn_jax import LocalConv
from lcn_jax.training import config as configs
from lcn_jax.training import cost
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.network import Network

FEATURES = (64, 81, 81, 256, 256)
KERNELS = (7, 3, 3, 3, 3)
STRIDES = (3, 1, 1, 1, 1)
POOLED = (True, False, True, False, True)  # by 2×2
max_pool = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))


class LinenTNN(nn.Module):
    features: tuple[int, ...] = FEATURES
    num_classes: int = 565
    conv: Callable = LocalConv

    @nn.compact
    def __call__(self, images, train):  # (N, H, W, C)
        x = images
        for features, kernel, stride, pooled in zip(self.features, KERNELS, STRIDES, POOLED):
            x = self.conv(features, (kernel, kernel), strides=stride, local_bias=True)(x)
            x = nn.relu(x)
            x = max_pool(x) if pooled else x
        return nn.Dense(self.num_classes, name='logits')(x.reshape(len(x), -1))


class NNXTNN(nnx.Module):
    def __init__(self, size, features, num_classes, rngs):
        self.layers, channels = nnx.List(), 3
        for number, kernel, stride, pooled in zip(features, KERNELS, STRIDES, POOLED):
            layer = lcn_jax.nnx.LocalConv(
                channels, number, (kernel, kernel), stride, input_size=(size, size),
                local_bias=True, rngs=rngs,
            )  # fmt: skip
            self.layers.append(layer)
            channels, size = number, -(-size // stride) // (1 + pooled)
        self.logits = nnx.Linear(size**2 * channels, num_classes, rngs=rngs)

    def __call__(self, images):
        x = images
        for layer, pooled in zip(self.layers, POOLED):
            x = nnx.relu(layer(x))
            x = max_pool(x) if pooled else x
        return self.logits(x.reshape(len(x), -1))


@pytest.mark.slow
def test_a_step_of_training_in_linen_and_in_nnx_is_the_same():
    """With fewer pixels and features; in Linen with the reference implementation."""
    rng = np.random.RandomState(0)
    images, labels = rng.randn(2, 33, 33, 3).astype(np.float32), np.array([3, 1])
    features, optimizer = (4, 3, 3, 4, 4), optax.sgd(0.1)

    def loss(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    graph, shapes = nnx.split(
        nnx.eval_shape(lambda: NNXTNN(33, features, 5, nnx.Rngs(0))), nnx.Param
    )
    state = jax.tree.map(lambda leaf: 0.2 * rng.randn(*leaf.shape).astype(np.float32), shapes)
    params = nnx.to_pure_dict(state)

    @jax.jit
    def nnx_step(state):
        model = nnx.merge(graph, state)
        learner = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
        learner.update(model, nnx.grad(lambda model: loss(model(images)))(model))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    @jax.jit
    def linen_step(params):
        linen = LinenTNN(features, 5, partial(LocalConv, implementation='lax'))
        grads = jax.grad(lambda p: loss(linen.apply({'params': p}, images, train=True)))(params)
        return optax.apply_updates(params, optimizer.update(grads, optimizer.init(params))[0])

    def linen_names(params):
        layers = {f'LocalConv_{i}': layer for i, layer in params['layers'].items()}
        return layers | {'logits': params['logits']}

    after, expected = linen_names(nnx_step(state)), linen_step(linen_names(params))
    for new, old, want in zip(*map(jax.tree.leaves, (after, linen_names(params), expected))):
        assert np.abs(new - old).max() > 1e-6
        np.testing.assert_allclose(new, want, atol=1e-6)


def test_the_cost_of_the_full_size_by_hand():
    # 150 pixels; stride 3: 50; pool: 25, 25, 25; pool: 12, 12, 12; pool: 6.
    sizes, channels = (50, 25, 25, 12, 12), (3, 64, 81, 81, 256)
    products = [
        n * n * k * k * c * o for n, k, c, o in zip(sizes, KERNELS, channels, FEATURES)
    ]  # also the number of local weights
    dense, biases = 6 * 6 * 256 * 565, sum(n * n * o for n, o in zip(sizes, FEATURES)) + 565
    layers = cost.layers(LinenTNN(), (150, 150, 3))
    assert [layer.parameters for layer in layers] == [*products, dense]
    assert [layer.flops for layer in layers] == [2 * p for p in [*products, dense]]

    config = configs.default()
    config.batch_size, config.connectivity = 8, 'lc'
    experiment = Experiment(config, Network(LinenTNN(), (150, 150, 3)))
    parameters = sum(products) + dense + biases
    assert experiment.network.parameters == parameters
    memory = cost.memory(experiment.shapes, layers, 8, jnp.dtype('float32'))
    assert memory['parameters'] == 4 * parameters
    assert memory['optimizer'] == 8 * parameters + 2 * 4  # Adam and the rate count the steps
    outputs = sum(n * n * o for n, o in zip(sizes, FEATURES)) + 565
    assert memory['activations'] == 4 * 3 * 8 * outputs
    report = describe(experiment)
    assert f'{parameters:,}, including {sum(products):,} in 5 locally connected kernels' in report
