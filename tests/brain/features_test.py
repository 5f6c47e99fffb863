"""The activations of layers, compared with each other and with the output of the network."""

import re
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
import tiny_runs
from reference import compiled
from tiny_networks import LAYERS, SHORTCUT, make_config, make_run, network_of

import lcn_jax
from lcn_jax.brain import features
from lcn_jax.errors import UsageError

rng = np.random.default_rng


class Local(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(lcn_jax.LocalConv(5, 3, name='conv')(x))
        self.sow('intermediates', 'out', x)
        return x


class Foreign(nn.Module):
    """A model of a user: nested, without BatchNorm, with names that are not in sorted order."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.relu(nn.Conv(4, (3, 3), name='first_conv')(images))
        self.sow('intermediates', 'wide', x)
        x = Local(name='deep')(x)
        self.sow('intermediates', 'sparsity', (x == 0).mean())  # not an activation
        x = x.mean((1, 2))
        self.sow('intermediates', 'pooled', x)
        return nn.Dense(10, name='classes')(x)


def make_foreign(config, num_classes):
    return Foreign()


@pytest.fixture(scope='module')
def foreign():
    model = Foreign()
    variables = jax.jit(model.init, static_argnames='train')(
        jax.random.key(0), np.zeros((1, 6, 8, 3), np.float32), train=False
    )
    return network_of(model, {'params': variables['params']}, (6, 8, 3))


class TestForeignModel:
    def test_layers_are_what_it_sows_in_order(self, foreign):
        assert features.blocks(foreign) == ('wide', 'deep/out')
        assert foreign.layers == ('wide', 'deep/out', 'pooled', 'logits')

    def test_activations_are_its_own(self, foreign):
        images = rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)
        names = ('wide', 'deep/conv', 'deep/out', 'pooled', 'classes', 'logits')
        found = features.extract(foreign, list(images), names)

        @compiled
        def expected(params, inputs):
            first = nn.Conv(4, (3, 3)).apply({'params': params['first_conv']}, inputs)
            conv = params['deep']['conv']
            deep = lcn_jax.conv_local(nn.relu(first), conv['kernel'], padding=1) + conv['bias']
            pooled = nn.relu(deep).mean((1, 2))
            logits = pooled @ params['classes']['kernel'] + params['classes']['bias']
            return {
                'wide': nn.relu(first).transpose(0, 3, 1, 2),
                'deep/conv': deep.transpose(0, 3, 1, 2),
                'deep/out': nn.relu(deep).transpose(0, 3, 1, 2),
                'pooled': pooled,
                'classes': logits,
                'logits': logits,
            }

        assert tuple(found) == names
        inputs = images.astype(np.float32) / 255 - 0.5
        for name, value in expected(foreign.variables['params'], inputs).items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)

    def test_a_run_of_it_is_loaded(self, tmp_path):
        config = make_config('lc')
        config.model.name = f'{__name__}:make_foreign'
        network = lcn_jax.load(str(make_run(tmp_path, config)))
        assert (network.model, network.image_shape, network.step) == (Foreign(), (8, 8, 3), 3)
        assert features.blocks(network) == ('wide', 'deep/out')
        image = np.zeros((8, 8, 3), np.uint8)
        assert features.extract(network, [image], ['logits'])['logits'].shape == (1, 10)

    def test_the_example_in_the_docs(self):
        text = (tiny_runs.ROOT / 'docs/models.md').read_text()
        example = {}
        exec(re.search(r'```python\n(.*?)```', text, re.DOTALL)[1], example)
        config = make_config('lc')
        model = example['two_layers'](config, num_classes=10)
        variables = jax.eval_shape(
            lambda key: model.init(key, np.zeros((1, 8, 8, 3), np.float32), train=False),
            jax.random.key(0),
        )
        assert set(lcn_jax.grids(model, (8, 8, 3))) == {'conv1', 'conv2'}
        variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variables)
        network = network_of(model, variables, (8, 8, 3))
        assert features.blocks(network) == ('layer1', 'layer2')
        image = np.zeros((8, 8, 3), np.uint8)
        found = features.extract(network, [image], network.layers)
        width = config.model.width
        assert {name: x.shape for name, x in found.items()} == {
            'layer1': (1, width, 4, 4),
            'layer2': (1, 2 * width, 2, 2),
            'pooled': (1, 2 * width),
            'logits': (1, 10),
        }

    def test_four_channels_are_refused(self):
        with pytest.raises(UsageError, match=r'4 channels; image files give 1 \(grey\) or 3'):
            features.resized([np.zeros((8, 8, 3), np.uint8)], (8, 8, 4))


class TestFeatures:
    @pytest.mark.parametrize('kind', ['conv', 'lc'])
    @pytest.mark.slow
    def test_blocks_are_what_the_network_computes(self, networks, found, images, kind):
        """Each block gives the shortcut, average or logits that are computed from it."""
        network, found = networks[kind], found[kind]
        assert features.blocks(network) == LAYERS[1:3]
        assert [x.shape[1:] for x in found.values()] == [
            *((4, 8, 8), (4, 8, 8), (8, 4, 4)), (8,), (10,), (8, 4, 4),
        ]  # fmt: skip
        params = network.variables['params']
        kernel = np.asarray(params[SHORTCUT]['kernel'])[..., 0, 0, :, :]  # 1×1, perhaps local
        block = found['stage1_block1'][:, :, ::2, ::2]
        product = {'conv': 'nchw,co->nohw', 'lc': 'nchw,hwco->nohw'}[kind]
        shortcut = np.einsum(product, block, kernel)
        pooled = found['stage2_block1'].mean((2, 3))
        logits = found['pooled'] @ params['logits']['kernel'] + params['logits']['bias']
        expected = {SHORTCUT: shortcut, 'pooled': pooled, 'logits': logits}
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
        whole = jax.jit(lambda x: network.model.apply(network.variables, x, train=False))
        plain = whole(network.normalise(np.array(images)))
        np.testing.assert_allclose(found['logits'], plain, rtol=1e-5, atol=1e-5)

    def test_activations_do_not_depend_on_the_batch_size(self, networks, found, images):
        for name, values in features.extract(networks['conv'], images, LAYERS, 3).items():
            np.testing.assert_allclose(values, found['conv'][name], rtol=1e-5, atol=1e-6)

    def test_images_are_resized_whole(self):
        wide = np.zeros((30, 50, 3), np.uint8)
        wide[:, 25:] = 200, 100, 0
        (small,) = features.resized([wide], (4, 4, 3))
        np.testing.assert_array_equal(small[:, 0], np.zeros((4, 3)))
        np.testing.assert_array_equal(small[:, 3], np.tile([200, 100, 0], (4, 1)))

    def test_fine_stripes_become_grey(self):
        """Antialiasing leaves a few of the 255 grey levels at the border."""
        stripes = np.zeros((64, 64), np.uint8)
        stripes[:, ::2] = 255
        (small,) = features.resized([stripes], (8, 8, 3))
        assert np.abs(small.astype(float) - 127.5).max() < 12

    def test_grey_and_colour(self):
        grey = rng(0).integers(0, 256, (9, 9), np.uint8)
        colour = np.repeat(grey[..., None], 3, -1)
        for channels in (1, 3):
            found = features.resized([grey, grey[..., None], colour], (9, 9, channels))
            expected = np.repeat(grey[..., None], channels, -1)
            for image in found:
                np.testing.assert_array_equal(image, expected)

    @pytest.mark.parametrize('image', [np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8)])
    def test_arrays_that_are_not_images_are_refused(self, image):
        with pytest.raises(ValueError, match=r'must be uint8 of shape \(H, W\)'):
            features.resized([image], (8, 8, 3))

    def test_unknown_layers_are_refused_with_a_list(self, networks, images):
        with pytest.raises(
            UsageError, match=r"'block7'; known: stem_conv, .*stage2_block1, pooled, logits"
        ):
            features.extract(networks['conv'], images, ['block7'])

    def test_a_missing_run(self, tmp_path):
        with pytest.raises(UsageError, match='holds no run'):
            lcn_jax.load(str(tmp_path))


@pytest.mark.slow
def test_the_core_needs_no_scikit_learn():
    code = 'import lcn_jax.brain.features, lcn_jax.brain.predictivity, lcn_jax.brain.scores, sys'
    subprocess.run(
        [sys.executable, '-c', f'{code}; sys.exit("sklearn" in sys.modules)'],
        check=True,
        cwd=tiny_runs.ROOT,
    )
