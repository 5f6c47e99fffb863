"""Weights of other libraries' locally connected layers: the same outputs, and back."""

import json
import re

import jax
import numpy as np
import pytest
from reference import over_cases
from tiny_runs import ROOT

from lcn_jax import convert
from lcn_jax.layer.linen import LocalConv
from lcn_jax.layer.parameters import kernel_from_convlocal

KERAS = ROOT / 'tests/keras'
LAYERS = dict(np.load(KERAS / 'layers.npz'))
NAMES = sorted({key.split('/')[0] for key in LAYERS})
each_layer = pytest.mark.parametrize('name', NAMES)


def random(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


def keras_layer(name):
    """Its config and its weights."""
    weights = [LAYERS[f'{name}/weights/{i}'] for i in (0, 1)]
    return json.loads(str(LAYERS[f'{name}/config'])), weights


def channels_last(name, array):
    first = keras_layer(name)[0]['data_format'] == 'channels_first'
    return np.moveaxis(array, 1, -1) if first else array


def converted(name):
    """The parameters and an input."""
    config, weights = keras_layer(name)
    x = LAYERS[f'{name}/x']
    return convert.from_keras(config, weights, x.shape), channels_last(name, x)


def applied(name, params, x):
    arguments = convert.keras_arguments(keras_layer(name)[0], LAYERS[f'{name}/x'].shape)
    return LocalConv(**arguments).apply({'params': params}, x)


outputs = over_cases(applied, NAMES, converted)


@each_layer
def test_a_layer_of_keras_gives_the_same(name):
    _, y = outputs(name)
    np.testing.assert_allclose(y, channels_last(name, LAYERS[f'{name}/y']), atol=1e-5)


@each_layer
def test_weights_for_keras_are_those_it_had(name):
    config, weights = keras_layer(name)
    shape = LAYERS[f'{name}/x'].shape
    params = convert.from_keras(config, weights, shape)
    back = convert.to_keras(config, params, shape)
    assert [w.shape for w in back] == [w.shape for w in weights]
    np.testing.assert_array_equal(back[1], weights[1])
    again = convert.from_keras(config, back, shape)
    np.testing.assert_array_equal(again['kernel'], params['kernel'])
    if config['implementation'] != 2:  # whose matrix has values, never used, outside the patches
        np.testing.assert_array_equal(back[0], weights[0])


def run_page(name, **given):
    """The variables after the Python of docs/NAME, with the given ones at its start."""
    page = (ROOT / 'docs' / name).read_text()
    (block,) = re.findall(r'^```python\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    exec(compile(block, name, 'exec'), given)
    return given


def test_a_trained_model_of_keras_gives_the_same_as_written(monkeypatch):
    monkeypatch.chdir(KERAS)
    recorded = np.load('model.npz')
    after = run_page('from_keras.md', images=recorded['x'])
    np.testing.assert_allclose(after['logits'], recorded['y'], atol=1e-5)
    for name in after['shapes']:
        assert np.abs(after['params'][name]['bias']).max() > 1e-2  # zeros before it was trained
    inits = jax.eval_shape(after['Converted']().init, jax.random.key(0), recorded['x'])
    assert jax.tree.map(np.shape, inits['params']) == jax.tree.map(np.shape, after['params'])


def test_convlocal_as_written():
    params = {'kernel': random(3, 3, 27, 8), 'bias': random(3, 3, 8, seed=1)}
    after = run_page('from_convlocal.md', images=random(2, 6, 5, 3, seed=2), params=params)
    np.testing.assert_allclose(after['same_y'], after['y'], atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after['back'], params)


def test_an_integer_kernel_size_counts_for_all_dimensions():
    params = {'kernel': random(3, 4, 18, 5)}
    expected = convert.from_convlocal(params, (3, 3))
    np.testing.assert_array_equal(convert.from_convlocal(params, 3)['kernel'], expected['kernel'])


def test_a_shared_bias_is_repeated():
    params = {'kernel': random(5, 3, 2, 4), 'bias': random(4)}
    theirs = convert.to_convlocal(params)
    assert theirs['kernel'].shape == (5, 6, 4) and theirs['bias'].shape == (5, 4)
    assert (theirs['bias'] == params['bias']).all()


def test_weights_for_unfolded_patches_as_written():
    """Patches as `torch.nn.functional.unfold` documents them: (N, C·kh·kw, positions)."""
    weight, bias, images = random(30, 4, 2 * 9), random(4, 30, seed=1), random(2, 2, 6, 5, seed=2)
    after = run_page(
        'from_pytorch.md', weight=weight, bias=bias, images=images.transpose(0, 2, 3, 1)
    )
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.stack(
        [padded[:, :, i : i + 3, j : j + 3].reshape(2, -1) for i in range(6) for j in range(5)], -1
    )
    expected = np.einsum('pok,nkp->nop', weight, patches) + bias
    y = np.moveaxis(after['y'], -1, 1).reshape(2, 4, 30)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_array_equal(after['weight'], weight)


KERAS_LAYER = dict(
    filters=3, kernel_size=(2,), strides=(1,), padding='valid', data_format='channels_last',
    use_bias=False, implementation=1,
)  # fmt: skip
SHAPE, KERAS_KERNEL, KERNEL = (None, 5, 2), np.ones((4, 4, 3)), np.ones((4, 2, 2, 3))


@pytest.mark.parametrize(
    'function, arguments, message',
    [
        (kernel_from_convlocal, (np.ones((4, 9, 2)), (2,)), r'C·2, O\).*\(4, 9, 2\)'),
        (kernel_from_convlocal, (np.ones((4, 9, 2)), (3, 3)), r'C·9, O\).*\(4, 9, 2\)'),
        (convert.from_unfold, (np.ones((5, 3, 4)), (2, 3), (2, 2)), r'\(6, O, C·4\).*\(5, 3, 4\)'),
        (
            convert.from_keras,
            (KERAS_LAYER, [np.ones((4, 6, 3))], (None, 5, 2)),
            r'3 filters.*\(None, 5, 2\).*\(4, 4, 3\).*got \[\(4, 6, 3\)\]',
        ),
        (
            convert.to_keras,
            (KERAS_LAYER, {'kernel': np.ones((5, 2, 2, 3))}, (None, 5, 2)),
            r'\(4, 2, 2, 3\).*\(5, 2, 2, 3\)',
        ),
        (convert.from_keras, (KERAS_LAYER, [], SHAPE), r'has weights \[\(4, 4, 3\)\], got \[\]'),
        (
            convert.from_keras,
            (KERAS_LAYER | {'use_bias': True}, [KERAS_KERNEL], SHAPE),
            r'use_bias=True .*weights \[\(4, 4, 3\), \(4, 3\)\], got \[\(4, 4, 3\)\]',
        ),
        (
            convert.from_keras,
            (KERAS_LAYER, [KERAS_KERNEL, np.ones((4, 3))], SHAPE),
            r'use_bias=False .*weights \[\(4, 4, 3\)\], got \[\(4, 4, 3\), \(4, 3\)\]',
        ),
        (
            convert.from_keras,
            (KERAS_LAYER | {'implementation': 4}, [KERAS_KERNEL], SHAPE),
            r'implementation of Keras must be one of \(1, 2, 3\), got 4',
        ),
        (convert.keras_arguments, (KERAS_LAYER, (5,)), r'axes of input_shape .* \(3, 4\), got 1'),
        (
            convert.to_keras,
            (KERAS_LAYER, {'kernel': KERNEL, 'bias': np.ones(3)}, SHAPE),
            "use_bias=False, but the parameters are .*'bias', 'kernel'",
        ),
        (
            convert.to_keras,
            (KERAS_LAYER | {'use_bias': True}, {'kernel': KERNEL}, SHAPE),
            r"use_bias=True, but the parameters are \['kernel'\]",
        ),
        (
            convert.to_keras,
            (KERAS_LAYER | {'use_bias': True}, {'kernel': KERNEL, 'bias': np.ones(1)}, SHAPE),
            r'bias must have shape \(4, 3\) or \(3,\), got \(1,\)',
        ),
        (
            convert.to_convlocal,
            ({'kernel': np.ones((4, 9, 2))},),
            r'kernel must have 4.*\(4, 9, 2\)',
        ),
        (convert.to_convlocal, ({'bias': np.ones(3)},), r"with a 'kernel'; got \['bias'\]"),
        (convert.from_convlocal, ({'kernel': np.ones((4, 9, 2))}, 2), r'C·2, O\).*\(4, 9, 2\)'),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(function, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        function(*arguments)
    assert '\n' not in str(error.value)
