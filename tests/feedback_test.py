"""Learning without weight transport: gradients by hand, and where they are those of backprop."""

import functools
import types

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_config

from lcn_jax import conv_local
from lcn_jax.errors import UsageError
from lcn_jax.layer.linen import LocalConv
from lcn_jax.learning import feedback
from lcn_jax.training import config as configs
from lcn_jax.training import parallel, wake
from lcn_jax.training.experiment import Experiment

KEY = jax.random.key(3)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.standard_normal((6, 5, 4, 2)).astype(np.float32)
LABELS = RANDOM.integers(3, size=6)


class Network(nn.Module):
    """Two locally connected layers, and a readout of the means over positions."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.tanh(LocalConv(4, 3, name='first')(images))
        x = x.transpose(1, 2, 0, 3)
        x = nn.tanh(LocalConv(5, 2, strides=2, layout='HWNC', name='second')(x))
        return nn.Dense(3, name='logits')(x.mean((0, 1)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradients(rule, model, variables, images=IMAGES, labels=LABELS):
    """Logits, the gradients of the mean loss, and the updates of other variables."""
    rule = feedback.RULES.get(rule, rule)

    def loss(params):
        logits, updates = rule(model, variables | {'params': params}, images, KEY)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits, updates)

    grads, (logits, updates) = jax.grad(loss, has_aux=True)(variables['params'])
    return logits, grads, updates


@functools.partial(jax.jit, static_argnums=0)
def by_hand(rule, params):
    """The rules layer by layer, with the derivatives of tanh written out."""
    layers = {
        'first': LocalConv(4, 3, name='first'),
        'second': LocalConv(5, 2, strides=2, layout='HWNC', name='second'),
        'logits': nn.Dense(3, name='logits'),
    }
    crc_32 = {'first': 0x9271EE57, 'second': 0xB61F1169, 'logits': 0xB63E2D7F}
    keys = {name: jax.random.fold_in(KEY, number) for name, number in crc_32.items()}

    def apply(name, own, x):
        return layers[name].apply({'params': own}, x)

    def conv(kernel, bias, x):
        return conv_local(x, kernel, padding='SAME') + bias

    first = jnp.tanh(conv(**params['first'], x=IMAGES)).transpose(1, 2, 0, 3)
    second = jnp.tanh(apply('second', params['second'], first))
    pooled = second.mean((0, 1))
    logits = apply('logits', params['logits'], pooled)
    error = (jax.nn.softmax(logits) - jax.nn.one_hot(LABELS, 3)) / 6

    def sent(name, x, dy, axis):
        """The error at the input x of a layer, of which dy is that at the output."""
        if rule == 'readout':
            return jnp.zeros_like(x)
        if rule == 'direct':
            shape = x.shape[:axis] + x.shape[axis + 1 :]
            weights = jax.random.normal(keys[name], (3, *shape))
            dx = jnp.einsum('nc,c...->n...', error, weights) / 3**0.5 / np.prod(shape[:-1])
            return jnp.moveaxis(dx, 0, axis)
        own = params[name] if rule == 'backprop' else layers[name].init(keys[name], x)['params']
        return jax.vjp(lambda x: apply(name, own, x), x)[1](dy)[0]

    d_pooled = sent('logits', pooled, error, 0)
    d_second = (1 - second**2) * d_pooled / (second.shape[0] * second.shape[1])
    d_first = (1 - first**2) * sent('second', first, d_second, 2)

    def by_parameters(name, x, dy):
        return jax.vjp(lambda own: apply(name, own, x), params[name])[1](dy)[0]

    return logits, {
        'first': by_parameters('first', IMAGES, d_first.transpose(2, 0, 1, 3)),
        'second': by_parameters('second', first, d_second),
        'logits': by_parameters('logits', pooled, error),
    }


@pytest.mark.parametrize('rule', feedback.RULES)
def test_gradients_are_those_by_hand(rule):
    model = Network()
    init = jax.jit(functools.partial(model.init, train=True))
    params = init(jax.random.key(0), IMAGES)['params']
    params['first']['bias'] = np.cos(np.arange(4, dtype=np.float32))
    logits, grads, _ = gradients(rule, model, {'params': params})
    expected_logits, expected = by_hand(rule, params)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-5)
    chex.assert_trees_all_close(grads, expected, atol=1e-6, rtol=1e-3)
    size = np.abs(grads['first']['kernel']).max()
    assert size == 0 if rule == 'readout' else size > 1e-4


def test_layers_of_one_name_in_two_modules_have_feedback_of_their_own():
    layers = (types.SimpleNamespace(path=(module, 'conv')) for module in ('one', 'two'))
    one, two = (jax.random.key_data(feedback.layer_key(KEY, layer)) for layer in layers)
    assert (one != two).any()


# ---- In the networks of the project. -------------------------------------------------------------


def experiment(connectivity='lc', **changes):
    config = tiny_config.get_config('conv')
    config.model.stage_sizes, config.model.width = (1, 1), 3
    config.connectivity = connectivity
    config.update_from_flattened_dict(changes)
    return Experiment.create(config)


def initial(of):
    return jax.jit(of.initial_state)(jax.random.key(0)).variables


def batch(of):
    images = RANDOM.standard_normal((8, *of.network.image_shape)).astype(np.float32)
    return images, RANDOM.integers(10, size=8)


@pytest.mark.slow
@pytest.mark.parametrize('connectivity', ['conv', 'lc', 'lc, asleep', 'low_rank'])
def test_alignment_with_the_weights_of_the_layers_is_backprop(connectivity):
    """Weights that are what each layer's `init` makes of its key are their own feedback."""
    if connectivity == 'lc, asleep':
        asleep = {'sleep.rule': 'exact', 'sleep.feedback': True, 'pools.kind': 'joined'}
        of = experiment('lc', feedback='alignment', **asleep)
    else:
        of = experiment(connectivity, feedback='alignment')
    model, variables, (images, labels) = of.network.model, initial(of), batch(of)

    @jax.jit
    def weights_of_layers():
        weights = {}

        def note(call, args, kwargs, context):
            module = context.module
            if context.method_name == '__call__' and module.has_variable('params', 'kernel'):
                key = feedback.layer_key(KEY, module)
                weights[module.name] = module.clone(parent=None).init(key, *args)['params']
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            model.apply(variables, images, train=False)
        return weights

    feedback_weights = weights_of_layers()
    same = variables | {'params': variables['params'] | feedback_weights}
    assert len(feedback_weights) == 7
    if of.config.sleep.feedback:
        for weights in feedback_weights.values():
            if (kernel := weights['kernel']).ndim == 6:  # the mean over all positions
                weights['kernel'] = np.broadcast_to(kernel.mean((0, 1)), kernel.shape)
    expected = gradients('backprop', model, same, images, labels)
    found = gradients(of.forward, model, same, images, labels)
    chex.assert_trees_all_close(found, expected, atol=1e-5)
    other = gradients(of.forward, model, variables, images, labels)[1]
    expected = gradients('backprop', model, variables, images, labels)[1]
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), other, expected)
    assert difference['stage1_block1_conv1']['kernel'] > 1e-4
    assert max(jax.tree.leaves(difference['logits'])) < 1e-5  # nothing is between it and the loss


@pytest.mark.slow
def test_without_errors_only_the_readout_learns_and_statistics_go_on():
    of = experiment()
    model, variables, (images, labels) = of.network.model, initial(of), batch(of)
    _, expected, updates = gradients('backprop', model, variables, images, labels)
    _, grads, updates_of_readout = gradients('readout', model, variables, images, labels)
    chex.assert_trees_all_close(grads.pop('logits'), expected['logits'], atol=1e-6)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))
    chex.assert_trees_all_close(updates_of_readout, updates, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('rule', ['alignment', 'direct'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_step_has_the_same_feedback_on_all_devices_and_at_all_times(rule, dtype):
    of = experiment(
        'lc',
        **{'feedback': rule, 'optimizer': 'sgd', 'momentum': 0.0, 'learning_rate': 1e-2},
        **{'model.dtype': dtype, 'model.norm': 'none', 'weight_decay': 0.0, 'drops_at': ()},
        **{'model.stage_sizes': (1,)},
    )
    images, labels = batch(of)
    step = functools.partial(wake.update, learner=of.learner(total_steps=1))

    start = jax.device_get(jax.jit(of.initial_state)(jax.random.key(0)))
    programs = {
        devices: jax.pmap(
            step, parallel.AXIS, in_axes=(0, 0, 0, None), devices=jax.devices()[:devices]
        )
        for devices in (1, 4)
    }

    def learn(devices, key, number):
        state = start.replace(step=np.int32(number))
        stacked = jax.tree.map(lambda leaf: np.stack([leaf] * devices), state)
        parts = (array.reshape(devices, -1, *array.shape[1:]) for array in (images, labels))
        after = jax.device_get(programs[devices](stacked, *parts, key)[0].params)
        return jax.tree.map(lambda leaf, start: leaf[0] - start, after, state.params)

    moved = learn(1, KEY, 0)
    tolerance = 1e-6 if dtype == 'float32' else 3e-5
    chex.assert_trees_all_close(learn(4, KEY, 7), moved, atol=tolerance)
    others = learn(1, jax.random.key(4), 0)
    kernels = (moves['stage1_block1_conv1']['kernel'] for moves in (moved, others))
    assert np.abs(np.subtract(*kernels)).max() > 5 * tolerance


def test_a_config_from_before_learns_by_backprop():
    values = tiny_config.get_config().to_dict()
    del values['feedback']
    assert configs.complete(values).feedback == 'backprop'


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            {'feedback': 'none'},
            r"config\.feedback is 'none'; .* backprop, alignment, direct, readout",
        ),
        ({'feedback': 'alignment', 'shard_kernels': True}, 'makes whole kernels in every step'),
        ({'sleep.feedback': True, 'feedback': 'alignment'}, 'feedback kernels that sleep: set'),
        ({'sleep.feedback': True, 'sleep.rule': 'mean'}, 'feedback kernels that sleep: set'),
        (
            {'sleep.share_moments': True, 'sleep.equalise_momentum': True},
            'share_moments averages what .* set one of them to False',
        ),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(changes, message):
    with pytest.raises(UsageError, match=message):
        experiment(**changes)
