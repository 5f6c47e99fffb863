"""The layers of a network, against each other and the whole network."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_runs
from tiny_networks import LAYERS, SHORTCUT

from lcn_jax import local
from lcn_jax.brain import features
from lcn_jax.errors import UsageError

rng = np.random.default_rng


class TestFeatures:
    @pytest.mark.parametrize('kind', ['conv', 'lc'])
    def test_blocks_are_what_the_network_computes(self, networks, found, images, kind):
        """From each block, what comes after it follows."""
        network, found = networks[kind], found[kind]
        assert features.blocks(network) == LAYERS[1:3]
        assert [x.shape[1:] for x in found.values()] == [
            *((4, 8, 8), (4, 8, 8), (8, 4, 4)), (8,), (10,), (8, 4, 4),
        ]  # fmt: skip
        params = network.variables['params']
        kernel = params[SHORTCUT]['kernel']
        if kind == 'conv':
            kernel = local.tile_kernel(kernel, (4, 4))
        shortcut = local.conv_local(
            found['stage1_block1'].transpose(0, 2, 3, 1), kernel, stride=2, padding=0
        ).transpose(0, 3, 1, 2)
        pooled = found['stage2_block1'].mean((2, 3))
        logits = found['pooled'] @ params['logits']['kernel'] + params['logits']['bias']
        expected = {SHORTCUT: shortcut, 'pooled': pooled, 'logits': logits}
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
        whole = jax.jit(lambda x: network.model.apply(network.variables, x, train=False))
        plain = whole((np.array(images) / 255 - network.mean) / network.std)
        np.testing.assert_allclose(found['logits'], plain, rtol=1e-5, atol=1e-5)

    def test_every_image_is_there_once_whatever_the_batch(self, networks, found, images):
        for name, values in features.extract(networks['conv'], images, LAYERS, 3).items():
            np.testing.assert_allclose(values, found['conv'][name], rtol=1e-5, atol=1e-6)

    def test_images_are_resized_whole(self):
        wide = np.zeros((30, 50, 3), np.uint8)
        wide[:, 25:] = 200, 100, 0
        (small,) = features.resized([wide], (4, 4, 3))
        np.testing.assert_array_equal(small[:, 0], np.zeros((4, 3)))
        np.testing.assert_array_equal(small[:, 3], np.tile([200, 100, 0], (4, 1)))

    def test_fine_stripes_become_grey(self):
        """As without aliasing; a few grey levels are left of 255 at the border."""
        stripes = np.zeros((64, 64), np.uint8)
        stripes[:, ::2] = 255
        (small,) = features.resized([stripes], (8, 8, 3))
        assert np.abs(small.astype(float) - 127.5).max() < 12

    def test_grey_and_colour(self):
        grey = rng(0).integers(0, 256, (9, 9), np.uint8)
        colour = np.repeat(grey[..., None], 3, -1)
        for channels in (1, 3):
            of_all = features.resized([grey, grey[..., None], colour], (9, 9, channels))
            expected = np.repeat(grey[..., None], channels, -1)
            for image in of_all:
                np.testing.assert_array_equal(image, expected)

    @pytest.mark.parametrize('image', [np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8)])
    def test_what_is_no_image_is_refused(self, image):
        with pytest.raises(ValueError, match=r'must be uint8 of shape \(H, W\)'):
            features.resized([image], (8, 8, 3))

    def test_unknown_layers_are_refused_with_those_there_are(self, networks, images):
        with pytest.raises(
            ValueError, match=r"'block7'; known: stem_conv, .*stage2_block1, pooled"
        ):
            features.extract(networks['conv'], images, ['block7'])

    def test_a_run_that_is_not_there(self, tmp_path):
        with pytest.raises(UsageError, match='holds no run'):
            features.load(str(tmp_path))


def test_the_core_needs_no_scikit_learn():
    code = 'import lcn_jax.brain.features, lcn_jax.brain.predictivity, lcn_jax.brain.scores, sys'
    subprocess.run(
        [sys.executable, '-c', f'{code}; sys.exit("sklearn" in sys.modules)'],
        check=True,
        cwd=tiny_runs.ROOT,
    )
