"""Which convolutions of a network are shared, and which locally connected, is up to its user."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import pytest

import lcn_jax
from lcn_jax.layer.linen import LocalConv
from lcn_jax.networks.resnet import Conv, ResNet

SHAPE = (8, 8, 3)
CONVOLUTIONS = [
    'stem_conv', 'stage1_block1_conv1', 'stage1_block1_conv2', 'stage2_block1_conv1',
    'stage2_block1_shortcut', 'stage2_block1_conv2',
]  # fmt: skip
AXES = {'shared': 4, 'local': 6}


def local_3x3(kernel_size, use_bias, **kwargs):
    """A connectivity of one's own: as `shared='.*_shortcut'`, written as a function."""
    if kernel_size == 1:
        return Conv(kernel_size=kernel_size, **kwargs)
    return LocalConv(kernel_size=kernel_size, use_bias=use_bias, **kwargs)


@pytest.mark.parametrize(
    'options, shared',
    [
        ({}, []),
        ({'n_first_conv': 1}, CONVOLUTIONS[:1]),
        ({'n_first_conv': 3}, CONVOLUTIONS[:3]),
        ({'n_first_conv': 4}, CONVOLUTIONS[:5]),  # a shortcut goes with the first of its block
        ({'shared': '.*_shortcut'}, ['stage2_block1_shortcut']),
        ({'shared': 'stage1'}, []),  # the whole name, or nothing
        ({'shared': 'stage1_.*', 'n_first_conv': 1}, CONVOLUTIONS[:3]),
        ({'local_conv': local_3x3}, ['stage2_block1_shortcut']),
        ({'local': False}, CONVOLUTIONS),
    ],
    ids=lambda value: '-'.join(value) or 'none',
)
def test_the_convolutions_asked_for_are_shared_and_the_others_local(options, shared):
    model = ResNet((1, 1), 4, 'cifar', 10, **({'local': True} | options))
    variables = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, *SHAPE)), train=False), jax.random.key(0)
    )
    axes = {
        name: len(layer['kernel'].shape)
        for name, layer in variables['params'].items()
        if name in CONVOLUTIONS
    }
    assert axes == {name: AXES['shared' if name in shared else 'local'] for name in CONVOLUTIONS}
    grids = flax.traverse_util.flatten_dict(lcn_jax.grids(model, SHAPE))
    assert {name for name, _ in grids} == set(CONVOLUTIONS) - set(shared)


@pytest.mark.parametrize(
    'stem, seen, rows',  # receptive field of a neuron of the stem, rows of it, rows of stage 1
    [('cifar', (3, 3), (32, 32)), ('strided', (3, 3), (16, 16)), ('imagenet', (7, 7), (16, 8))],
)
def test_stems_see_and_halve_the_image_as_they_say(stem, seen, rows):
    grids = lcn_jax.grids(ResNet((1,), 4, stem, 10, local=True), (32, 32, 3))
    first = grids['stem_conv']['kernel']
    assert first.kernel_size == seen and first.output_size == (rows[0], rows[0])
    stage = grids['stage1_block1_conv1']['kernel']
    assert stage.kernel_size == (3, 3) and stage.output_size == (rows[1], rows[1])
