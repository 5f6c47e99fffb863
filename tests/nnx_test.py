"""The layer for NNX: the numbers of the one for Linen, training, and a sleep."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny_runs import ROOT

import lcn_jax.nnx
from lcn_jax import sleep
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.linen import LocalConv
from lcn_jax.layer.local_parameters import LocalParameter


def random(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


CASES = {
    '1-D': ((2, 9, 4), dict(kernel_size=3, strides=2, kernel_dilation=2, padding='CAUSAL')),
    '2-D': ((5, 6, 4), dict(kernel_size=(3, 2), padding='CIRCULAR', local_bias=True)),
    '3-D': ((2, 3, 4, 3, 4), dict(kernel_size=(2, 1, 3), feature_group_count=2, use_bias=False)),
    'HWNC': ((5, 6, 2, 4), dict(kernel_size=(3, 3), layout='HWNC', local_bias=True, strides=None)),
}


def random_init(key, shape, dtype):
    """Much faster than compiling `jax.random.normal` for every shape."""
    return random(*shape).astype(dtype)


@pytest.mark.parametrize('name', CASES)
def test_the_numbers_are_those_of_linen(name):
    shape, arguments = CASES[name]
    x, dimensions = random(*shape, seed=1), {'1-D': 1, '3-D': 3}.get(name, 2)
    size = shape[:2] if name == 'HWNC' else shape[-dimensions - 1 : -1]
    if name == '1-D':
        arguments = arguments | {'mask': np.random.RandomState(2).randint(2, size=(5, 3, 4, 6))}
    inits = dict(kernel_init=random_init, bias_init=random_init)
    ours = lcn_jax.nnx.LocalConv(4, 6, input_size=size, rngs=nnx.Rngs(0), **arguments, **inits)
    params = nnx.to_pure_dict(nnx.state(ours, nnx.Param))
    assert params.keys() == {'kernel', 'bias'} - ({'bias'} if name == '3-D' else set())

    @nnx.jit
    def both(ours, params, x):
        return ours(x), LocalConv(6, **arguments).apply({'params': params}, x)

    y, expected = both(ours, params, x)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    assert y.std() > 0.5


class Net(nnx.Module):
    def __init__(self, rngs):
        layer = partial(lcn_jax.nnx.LocalConv, input_size=(7,), kernel_init=random_init, rngs=rngs)
        self.blocks = nnx.List([layer(2, 3, 3), layer(3, 3, 2)])
        self.logits = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = nnx.relu(block(x))
        return self.logits(x.mean(-2))


def test_a_model_learns_and_sleeps():
    model, x = Net(nnx.Rngs(0)), random(4, 7, 2)
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    grids = lcn_jax.nnx.grids(model)
    kernels = [{'kernel': LocalParameter(Grid.create((7,), size))} for size in (3, 2)]
    assert grids == {'blocks': dict(enumerate(kernels))}

    @nnx.jit
    def learn(model, optimizer):
        grads = nnx.grad(lambda model: optax.l2_loss(model(x), jnp.ones((4, 2))).mean())(model)
        optimizer.update(model, grads)

    @nnx.jit
    def fall_asleep(model, key):
        rule = sleep.resolve('mean', {'border': 'include'})
        state = nnx.state(model, nnx.Param)
        nnx.update(model, lcn_jax.nnx.share(state, grids, rule, key))

    def params():
        return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))

    initial = params()
    learn(model, optimizer)
    awake = params()
    assert all((new != old).any() for new, old in zip(*map(jax.tree.leaves, (awake, initial))))
    fall_asleep(model, jax.random.key(0))
    asleep = params()
    for number, period in enumerate((3, 2)):
        kernel, before = (p['blocks'][number].pop('kernel') for p in (asleep, awake))
        for pool in range(period):
            np.testing.assert_allclose(
                kernel[pool::period], np.broadcast_to(
                    before[pool::period].mean(0), kernel[pool::period].shape
                ), atol=1e-6,
            )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, asleep, awake)  # all else


@pytest.mark.parametrize('bias', [{}, {'local_bias': True}, {'use_bias': False}], ids=str)
def test_local_biases_sleep(bias):
    layer = lcn_jax.nnx.LocalConv(
        1, 2, (2,), input_size=4, bias_init=random_init, rngs=nnx.Rngs(0), **bias
    )
    grids = lcn_jax.nnx.grids(layer)
    assert set(grids) == ({'kernel', 'bias'} if 'local_bias' in bias else {'kernel'})
    if 'bias' not in grids:
        return
    rule = sleep.resolve('mean', {'border': 'include'})
    new = lcn_jax.nnx.share(nnx.state(layer), grids, rule, jax.random.key(0))
    before = layer.bias[...]
    np.testing.assert_allclose(new['bias'][...][0], (before[0] + before[2]) / 2, atol=1e-6)


def test_the_page_does_as_it_says():
    page = (ROOT / 'docs/models.md').read_text()
    block = re.search(r'^```python\n([^`]*?YourNNXNet.*?)^```$', page, re.MULTILINE | re.DOTALL)[1]
    after = {'key': jax.random.key(0)}
    exec(compile(block, 'docs/models.md', 'exec'), after)
    kernel = after['model'].conv.kernel[...]
    np.testing.assert_allclose(kernel[1, 2], kernel[28, 29], atol=1e-6)  # 27 apart: one pool
    assert (kernel[1, 2] != kernel[2, 2]).any()
    assert after['model'](jnp.ones((2, 32, 32, 3))).shape == (2, 10)


def test_a_sleep_returns_a_new_state():
    model = Net(nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(state))
    rule = sleep.resolve('mean', {'border': 'include'})
    new = lcn_jax.nnx.share(state, lcn_jax.nnx.grids(model), rule, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(state), before)
    assert (new['blocks'][0]['kernel'][...] != before['blocks'][0]['kernel']).any()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(in_features=0), 'in_features must be a positive integer, got 0'),
        (dict(out_features=-1), 'out_features must be a positive integer, got -1'),
        (
            dict(feature_group_count=None),
            'feature_group_count must be a positive integer, got None',
        ),
        (dict(layout='x'), "layout must be one of .* got 'x'"),
        (
            dict(kernel_init=lambda *_: jnp.ones((4, 3, 2))),
            r'the result of kernel_init must .* \(4, 3, 1, 2\), got \(4, 3, 2\)',
        ),
        (dict(bias_init=lambda *_: jnp.ones(3)), r'the result of bias_init .* \(2,\), got \(3,\)'),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments, message):
    given = dict(in_features=1, out_features=2, kernel_size=(3,), input_size=4)
    given |= dict(kernel_init=random_init, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message) as error:
        lcn_jax.nnx.LocalConv(**given | arguments)
    assert '\n' not in str(error.value)


def test_lists_are_no_inputs_as_in_flax():
    layer = lcn_jax.nnx.LocalConv(
        1, 2, (3,), input_size=2, kernel_init=random_init, rngs=nnx.Rngs(0)
    )
    with pytest.raises(ValueError, match='x must be an array, got list: convert it'):
        layer([[1.0], [2.0]])
