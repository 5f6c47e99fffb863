"""Parameters, FLOPs and memory against counting by hand and against XLA."""

import functools
import math

import jax
import jax.numpy as jnp
import optax
import pytest
import tiny_runs
from reference import initial_state

from lcn_jax.layer.backends import native
from lcn_jax.layer.functional import conv_local
from lcn_jax.layer.linen import LocalConv
from lcn_jax.networks.resnet import ResNet
from lcn_jax.training import cost, parallel, wake

pytestmark = pytest.mark.optimised  # XLA counts FLOPs and plans memory


def resnet(local, stage_sizes=(1,), width=4, **fields):
    return ResNet(
        stage_sizes=stage_sizes, width=width, stem='cifar', num_classes=10, local=local, **fields
    )


def shapes(model, optimizer, size):
    """Of the training state of one replica, for images size×size×3."""
    create = functools.partial(initial_state, model, optimizer, (size, size, 3))
    return jax.eval_shape(create, jax.random.key(0))


def test_a_convolutional_network_by_hand():
    layers = cost.layers(resnet(local=False, stage_sizes=(1, 1)), (8, 8, 3))
    expected = [  # kernel, output pixels
        ('stem_conv', (3, 3, 3, 4), 64),
        ('stage1_block1_conv1', (3, 3, 4, 4), 64),
        ('stage1_block1_conv2', (3, 3, 4, 4), 64),
        ('stage2_block1_conv1', (3, 3, 4, 8), 16),
        ('stage2_block1_shortcut', (1, 1, 4, 8), 16),
        ('stage2_block1_conv2', (3, 3, 8, 8), 16),
        ('logits', (8, 10), 1),
    ]
    assert [(layer.name, layer.kernel) for layer in layers] == [e[:2] for e in expected]
    for layer, (_, kernel, pixels) in zip(layers, expected):
        assert layer.grid is None
        assert layer.parameters == math.prod(kernel)
        assert layer.flops == 2 * pixels * math.prod(kernel)
    # Forward, gradients of kernels, and gradients of inputs but those of the stem.
    products = [pixels * math.prod(kernel) for _, kernel, pixels in expected]
    assert cost.step_flops(layers) == 2 * (3 * sum(products) - products[0])


def test_local_layers_take_the_flops_of_shared_ones_and_a_kernel_for_each_position():
    shared = cost.layers(resnet(local=False, stage_sizes=(1, 1)), (8, 8, 3))
    mixed = cost.layers(resnet(local=True, stage_sizes=(1, 1), n_first_conv=2), (8, 8, 3))
    assert [layer.flops for layer in mixed] == [layer.flops for layer in shared]
    positions = [m.parameters / s.parameters for m, s in zip(mixed, shared)]
    assert positions == [1, 1, 64, 16, 16, 16, 1]
    assert [layer.grid is not None for layer in mixed] == [p > 1 for p in positions]


def test_flops_of_a_local_layer_are_those_xla_counts():
    layer = cost.layers(resnet(local=True, width=16), (8, 8, 3))[1]
    x = jax.ShapeDtypeStruct((32, 8, 8, 16), jnp.float32)
    kernel = jax.ShapeDtypeStruct(layer.kernel, jnp.float32)
    # It counts the FLOPs of a loop, as there is one in 'direct', once.
    forward = functools.partial(conv_local, implementation='patches')
    forward = jax.jit(forward).lower(x, kernel).compile()
    assert 32 * layer.flops == pytest.approx(forward.cost_analysis()['flops'], rel=0.01)


@pytest.mark.parametrize('local, width, size', [(False, 8, 16), (True, 32, 8)])
@pytest.mark.slow
def test_a_compiled_step_takes_about_the_estimated_memory_and_flops(
    local, width, size, monkeypatch
):
    images, model, optimizer = 64, resnet(local, width=width), optax.adamw(1e-3)
    replica = shapes(model, optimizer, size)

    def compiled(model):
        update = functools.partial(wake.update, learner=wake.Learner(model, optimizer))
        states = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), replica
        )
        pixels = jax.ShapeDtypeStruct((1, images, size, size, 3), jnp.float32)
        labels = jax.ShapeDtypeStruct((1, images), jnp.int32)
        step = parallel.per_device(update, (0, 0, 0), donate=[0])
        return step.lower(states, pixels, labels).compile()

    layers = cost.layers(model, (size, size, 3))
    planned = compiled(model).memory_analysis()
    planned = planned.argument_size_in_bytes + planned.temp_size_in_bytes
    estimated = sum(cost.memory(replica, layers, images, jnp.dtype('float32')).values())
    assert 0.7 < estimated / planned < 1.3
    # XLA counts the FLOPs of its own operations only.
    monkeypatch.setattr(native, 'computes', lambda dtype: False)
    without_loops = model.clone(local_conv=functools.partial(LocalConv, implementation='patches'))
    flops = compiled(without_loops).cost_analysis()['flops']
    assert 0.8 < images * cost.step_flops(layers) / flops < 1.2


def test_memory_by_hand():
    model, optimizer = resnet(local=True), optax.adamw(1e-3)
    layers = cost.layers(model, (8, 8, 3))
    kernels = 64 * 9 * (3 * 4 + 2 * 4 * 4)
    others = 4 * 10 + 10 + 3 * 2 * 4  # the dense layer, and BatchNorm's scales and biases
    memory = cost.memory(shapes(model, optimizer, 8), layers, 5, jnp.dtype('bfloat16'))
    assert memory == {
        'parameters': 4 * (kernels + others + 3 * 2 * 4),
        'optimizer': 2 * 4 * (kernels + others) + 4,
        'gradients and updates': 2 * 4 * (kernels + others),
        'copies of the parameters': 2 * (kernels + others),
        'activations': 2 * 3 * 5 * (3 * 64 * 4 + 10),
    }


def test_describe_needs_no_dataset():
    config = '--config=experiments/configs/imagenet.py:lc_hebbian'
    done = tiny_runs.call('describe', config, '--config.data_dir=/no/such', devices=4)
    assert done.returncode == 0, done.stderr
    assert '483,155,624, including 482,893,824 in 20 locally connected kernels' in done.stdout
    assert 'on each of 4 device(s), with 64 images' in done.stdout


@pytest.mark.slow
def test_describe_compiles_for_a_number_of_devices():
    config = f'--config={tiny_runs.ROOT}/tests/tiny_config.py'
    done = tiny_runs.call('describe', f'{config}:lc', '--devices=3')
    assert done.returncode == 0, done.stderr
    whole, divided = done.stdout.splitlines()[-2:]
    assert whole.startswith('whole kernels') and 'by all-reduce' in whole
    assert divided.startswith('divided kernels') and 'by all-to-all' in divided
    done = tiny_runs.call('describe', f'{config}:conv', '--devices=1')
    assert 'divided' not in done.stdout and done.stdout.endswith('sends nothing\n')
    done = tiny_runs.call('describe', f'{config}:lc', '--devices=7')
    assert done.stderr.splitlines()[-1].startswith('error: batch_size 48 cannot be split over 7')
