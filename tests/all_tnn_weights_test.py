"""Weights of an All-TNN that Keras 2 trained and wrote: the same activations in every layer."""

import functools
import re
import shutil

import jax
import numpy as np
import pytest
from tiny_runs import ROOT

from experiments.configs import all_tnn_small
from lcn_jax import convert
from lcn_jax.errors import UsageError
from lcn_jax.networks.all_tnn import AllTNN
from lcn_jax.trained.activations import activations

KERAS = ROOT / 'tests/keras'
RECORDED = np.load(KERAS / 'all_tnn.npz')
SHAPE = dict(kernel_sizes=(3, 2, 2), strides=(2, 1, 1), pooled=(1, 3), num_classes=10)
OF_CONFIG = ('kernel_sizes', 'strides', 'pooled')
NORMS = {'LN': 'layer', 'BN': 'shared'}


def tiny(norm, **fields):
    """The network, and the shapes of its variables."""
    model = AllTNN(norm=norm, dropout=0.2, **dict(features=(4, 9, 6)) | SHAPE | fields)
    init = functools.partial(model.init, train=False)
    return model, jax.eval_shape(init, jax.random.key(0), RECORDED['x'])


@pytest.mark.parametrize('norm', NORMS)
def test_activations_of_every_layer_are_those_of_keras(norm):
    model, shapes = tiny(NORMS[norm])
    weights = convert.keras_weights(KERAS / f'all_tnn_{norm}.h5')
    variables = convert.all_tnn_from_keras(weights, shapes)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, dict(shapes))
    names = ('layer1', 'layer2', 'layer3', 'logits')
    found = activations(variables, RECORDED['x'], model=model, layers=names)
    for name in names:
        expected = RECORDED[f'{norm}/{name}']
        assert expected.std() > 1e-2
        np.testing.assert_allclose(found[name], expected, atol=1e-5)


def test_the_page_makes_a_trained_network_of_a_file():
    config = all_tnn_small.get_config()
    config.image_size, config.model.features = 20, (4, 9, 6)
    config.update_from_flattened_dict({f'model.{name}': SHAPE[name] for name in OF_CONFIG})
    page = (ROOT / 'docs/all_tnn.md').read_text()
    (block,) = re.findall(r'^```python\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    exec(compile(block, 'all_tnn.md', 'exec'), after := {})
    network = after['of_keras'](KERAS / 'all_tnn_LN.h5', config)
    logits = network.logits((RECORDED['x'] + 1) / 2)  # of pixels from 0 to 1
    np.testing.assert_allclose(logits, RECORDED['LN/logits'], atol=1e-5)


@pytest.mark.parametrize(
    'norm, fields, message',
    [
        (
            'none',
            {},
            'weights of sheet_0, LN_0, .* but the network has conv1, conv2, conv3, logits',
        ),
        ('layer', {'features': (4, 9, 4)}, 'sheet_2 does not fit: .*has weights'),
        (
            'layer',
            {'num_classes': 6},
            r"ReadoutDense of Keras has \{'kernel': \(6, 10\), .*\(6, 6\)",
        ),
        ('shared', {}, r'LN_0 of Keras has \{\}, norm1 of the network .*mean'),
    ],
    ids=['no norm', 'features', 'classes', 'another norm'],
)
def test_weights_that_do_not_fit_are_named(norm, fields, message):
    weights = convert.keras_weights(KERAS / 'all_tnn_LN.h5')
    with pytest.raises(UsageError, match=message):
        convert.all_tnn_from_keras(weights, tiny(norm, **fields)[1])


def test_a_file_without_weights_is_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / 'other.h5', 'w') as file:
        file['x'] = 1
    with pytest.raises(UsageError, match=r'other\.h5 has no layers of Keras 2'):
        convert.keras_weights(tmp_path / 'other.h5')
    shutil.copy(__file__, tmp_path / 'text.h5')
    with pytest.raises(UsageError, match=r'cannot read .*text\.h5'):
        convert.keras_weights(tmp_path / 'text.h5')
