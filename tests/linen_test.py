"""`LocalConv` in the place of `flax.linen.ConvLocal`: the cases of its pages, and others."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import compiled, over_cases

from lcn_jax import convert
from lcn_jax.layer.linen import LocalConv

KEY = jax.random.key(0)


def random(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


CASES = {
    '1-D': (random(2, 8, 3), dict(kernel_size=(3,), padding='VALID')),
    '1-D, single input': (random(8, 3), dict(kernel_size=(3,))),
    '1-D, many batch axes': (random(2, 1, 3, 7, 2), dict(kernel_size=(2,), strides=2)),
    '1-D, circular': (random(2, 8, 3), dict(kernel_size=(4,), padding='CIRCULAR')),
    '1-D, circular, dilated': (
        random(2, 5, 1),
        dict(kernel_size=(3,), kernel_dilation=2, padding='CIRCULAR'),
    ),
    '1-D, circular, a kernel wider than the input': (
        random(2, 2, 3),
        dict(kernel_size=(9,), padding='CIRCULAR'),
    ),
    '1-D, causal': (random(2, 8, 2), dict(kernel_size=(3,), kernel_dilation=2, padding='CAUSAL')),
    '2-D': (random(2, 7, 6, 2), dict(kernel_size=(3, 2), strides=(2, 1))),
    '2-D, single input': (random(5, 4, 3), dict(kernel_size=(3, 3), use_bias=False)),
    '2-D, circular, strides': (
        random(1, 5, 6, 2),
        dict(kernel_size=(2, 3), strides=2, padding='CIRCULAR'),
    ),
    '2-D, everything': (
        random(2, 2, 5, 4, 2),
        dict(
            kernel_size=(2, 3),
            strides=(2, 1),
            padding=[(1, 0), 2],
            input_dilation=(2, 1),
            kernel_dilation=(1, 2),
            precision='highest',
            mask=True,
        ),
    ),
    '3-D': (random(2, 4, 3, 3, 2), dict(kernel_size=(2, 3, 2), strides=(2, 1, 1))),
    'integers': (np.arange(12).reshape(2, 3, 2), dict(kernel_size=(2,), mask=True)),
    'bfloat16': (random(2, 5, 2), dict(kernel_size=(2,), dtype=jnp.bfloat16)),
}


def layers(name):
    """Ours and theirs, an input, and the parameters of theirs."""
    x, arguments = CASES[name]
    theirs = nn.ConvLocal(3, **{key: arguments[key] for key in arguments.keys() - {'mask'}})
    params = jax.tree.map(
        lambda leaf: random(*leaf.shape, seed=1), jax.eval_shape(theirs.init, KEY, x)['params']
    )
    if 'mask' in arguments:
        mask = np.random.RandomState(2).randint(2, size=params['kernel'].shape)
        arguments = arguments | {'mask': mask}
        theirs = theirs.clone(mask=mask)
    return LocalConv(3, **arguments, local_bias=True), theirs, x, params


def by_both(name, x, params, converted):
    ours, theirs, *_ = layers(name)
    return ours.apply({'params': converted}, x), theirs.apply({'params': params}, x)


def operands(name):
    _, theirs, x, params = layers(name)
    return x, params, convert.from_convlocal(params, theirs.kernel_size)


applied = over_cases(by_both, list(CASES), operands)


@pytest.mark.parametrize('name', CASES)
def test_with_the_parameters_of_convlocal_the_outputs_are_its(name):
    (x, _, converted), (y, expected) = applied(name)
    initial = jax.eval_shape(layers(name)[0].init, KEY, x)['params']
    assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, converted)
    assert y.dtype == expected.dtype
    tolerance = 1e-5 if y.dtype == jnp.float32 else 3e-2
    np.testing.assert_allclose(
        np.float32(y), np.float32(expected), rtol=tolerance, atol=tolerance * 10
    )


def test_with_ones_every_output_is_the_size_of_a_patch():
    ones = dict(kernel_init=nn.initializers.ones, bias_init=nn.initializers.ones)
    layer = LocalConv(4, kernel_size=(3,), padding='VALID', local_bias=True, **ones)
    y, variables = compiled(layer.init_with_output)(KEY, np.ones((1, 8, 3), np.float32))
    np.testing.assert_allclose(y, np.full((1, 6, 4), 3 * 3 + 1))
    assert variables['params']['kernel'].shape == (6, 3, 3, 4)
    assert variables['params']['bias'].shape == (6, 4)


def test_an_initialiser_may_give_the_layout_of_convlocal():
    """A kernel of its own at each of five positions on a circle, without channels to order."""
    kernel = np.arange(15).reshape(5, 3, 1)
    layer = LocalConv(1, (3,), padding='CIRCULAR', kernel_init=lambda *_: kernel)
    y, variables = compiled(layer.init_with_output)(KEY, np.arange(1.0, 6.0)[None, :, None])
    assert variables['params']['kernel'].shape == (5, 3, 1, 1)
    circle = [5, 1, 2, 3, 4, 5, 1]
    expected = [np.dot(kernel[i, :, 0], circle[i : i + 3]) for i in range(5)]
    np.testing.assert_allclose(y[0, :, 0], expected)


def test_a_box_around_the_kernel_stays():
    init = nn.with_partitioning(nn.initializers.ones, ('rows', 'taps', None, 'features'))
    variables = jax.eval_shape(LocalConv(2, (3,), kernel_init=init).init, KEY, np.ones((1, 4, 1)))
    assert variables['params']['kernel'].names == ('rows', 'taps', None, 'features')


def test_local_bias_in_the_layout_with_examples_inside():
    x = random(3, 4, 5, 2)
    layer = LocalConv(3, (3, 3), local_bias=True)

    @compiled
    def both_layouts(x, bias):
        variables = {'params': layer.init(KEY, x)['params'] | {'bias': bias}}
        inside = layer.clone(layout='HWNC').apply(variables, x.transpose(1, 2, 0, 3))
        return inside.transpose(2, 0, 1, 3), layer.apply(variables, x)

    np.testing.assert_allclose(*both_layouts(x, random(4, 5, 3, seed=1)), atol=1e-5)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(padding='REFLECT'), "padding must be .*'CIRCULAR'.*got 'REFLECT'"),
        (dict(mask=np.ones((5, 3, 2))), r'mask must .* \(4, 3, 1, 2\), got \(5, 3, 1, 2\)'),
        (dict(kernel_init=lambda *_: np.ones((4, 4, 2))), r'ConvLocal.*\(4, 4, 2\)'),
        (dict(kernel_size=(3, 3)), 'spatial'),
        (dict(features=0), 'features must be a positive integer, got 0'),
        (dict(features='x'), "features must be a positive integer, got 'x'"),
        (dict(feature_group_count=2.0), 'feature_group_count must be a positive integer, got 2.0'),
        (dict(mask=[1.0]), 'mask must be an array'),
        (dict(layout='x'), "layout must be one of .* got 'x'"),
        (
            dict(kernel_init=lambda *_: np.ones((4, 1, 3, 2))),
            r'the result of kernel_init must .* \(4, 3, 1, 2\), got \(4, 1, 3, 2\)',
        ),
        (dict(bias_init=lambda *_: np.ones(3)), r'the result of bias_init .* \(2,\), got \(3,\)'),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError) as error:
        LocalConv(**{'features': 2, 'kernel_size': (3,)} | arguments).init(KEY, np.ones((4, 1)))
    assert '\n' not in str(error.value) and re.search(message, str(error.value))


def test_lists_are_no_inputs_as_in_flax():
    with pytest.raises(ValueError, match='x must be an array, got list: convert it'):
        LocalConv(2, (3,)).init(KEY, [[1.0], [2.0]])
