"""The benchmark: what it compares is the same, and what it writes is whole."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs

from experiments.configs import cifar10, imagenet
from experiments.measure import layers, steps, timing
from lcn_jax.layer.backends.bilinear import implementations
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.linen import LocalConv

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize('kernel_size, strides, padding', [(3, 1, 1), (1, 2, 0)])
def test_conv_local_of_flax_computes_the_same(kernel_size, strides, padding):
    fields = dict(
        features=5, kernel_size=kernel_size, strides=strides, padding=padding, use_bias=False,
        layout='HWNC', dtype=jnp.float32,
    )  # fmt: skip
    x = jax.random.normal(jax.random.key(0), (6, 6, 4, 3))
    ours, theirs = LocalConv(**fields), steps.ConvLocal(**fields)
    kernel = jax.jit(ours.init)(jax.random.key(1), x)['params']['kernel']
    (name, shapes), *others = jax.eval_shape(theirs.init, jax.random.key(1), x)['params'].items()
    assert not others
    channel_major = kernel.transpose(0, 1, 4, 2, 3, 5).reshape(shapes['kernel'].shape)
    np.testing.assert_allclose(
        jax.jit(theirs.apply)({'params': {name: {'kernel': channel_major}}}, x),
        jax.jit(ours.apply)({'params': {'kernel': kernel}}, x),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    'grid',
    [Grid.create(6, 3, 2, 1), Grid.create((7,), 3, padding=1, kernel_dilation=2)],
    ids=['2-D', '1-D'],
)
def test_candidates_for_a_layer_compute_the_same(grid):
    """The convolution too, if its kernel is at every position."""
    shape = layers.LayerShape(grid, channels=3, features=5)
    candidates = layers.layer_candidates(shape, 2, 'float32')
    conv, (x_NHWC, kernel, dy_NHWC) = candidates.pop('xla_conv')
    expected = jax.jit(layers.with_gradients(conv))(x_NHWC, kernel, dy_NHWC)
    assert candidates.keys() - {'conv'} == set(implementations())
    for name, (layer, (x, kernels, dy)) in candidates.items():
        kernels = jnp.broadcast_to(kernel, kernels.shape)
        y, dx, dkernels = jax.jit(layers.with_gradients(layer))(x, kernels, dy)
        positions = () if name == 'conv' else tuple(range(grid.dimensions))
        actual = jnp.moveaxis(y, -2, 0), jnp.moveaxis(dx, -2, 0), dkernels.sum(positions)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), actual, expected)


def test_layers_are_found_in_the_networks():
    assert [str(s) for s in layers.distinct_layers(cifar10.get_config('lc'))] == [
        '32×32 3→16 3×3', '32×32 16→16 3×3', '32×32 16→32 3×3 /2', '32×32 16→32 1×1 /2',
        '16×16 32→32 3×3', '16×16 32→64 3×3 /2', '16×16 32→64 1×1 /2', '8×8 64→64 3×3',
    ]  # fmt: skip
    of_resnet18 = layers.distinct_layers(imagenet.get_config('lc'))
    assert len(of_resnet18) == 11
    assert str(of_resnet18[0]) == '224×224 3→32 7×7 /2'


def test_slow_candidates_take_fewer_turns_all_over_the_run(monkeypatch):
    cost, calls, now = {'fast': 1.0, 'slow': 30.0}, [], 0.0
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: now)

    def call(name):
        nonlocal now
        calls.append(name)
        now += cost[name]

    candidates = {name: functools.partial(call, name) for name in cost}
    settings = timing.Settings((), '', 1, 1, 'float32', turns=9, fewest_turns=3)
    assert timing.medians(candidates, 100.0, settings) == cost
    warm_up, turns = calls[:2], calls[2:]
    assert warm_up == ['fast', 'slow']
    assert turns[::2] == turns[1::2] == ['fast', 'slow', 'fast', 'fast'] * 3


def test_floor_is_the_larger_of_flops_and_bytes():
    rates = {'float32_flops': 100.0, 'bfloat16_flops': 400.0, 'copy_bytes': 10.0}
    assert layers.floor(200, 10, 'float32', rates) == {'seconds': 2.0, 'bound_by': 'FLOPs'}
    assert layers.floor(200, 10, 'bfloat16', rates) == {'seconds': 1.0, 'bound_by': 'bytes'}


@pytest.mark.slow
def test_a_quick_run_writes_numbers_and_a_chart_of_each_dtype(tmp_path):
    out = tmp_path / 'new' / 'quick.json'
    done = tiny_runs.call('benchmark', '--quick', '--device', f'--out={out}')
    assert done.returncode == 0, done.stderr
    for dtype in ('float32', 'bfloat16'):
        of_dtype = out.with_stem(f'quick_{dtype}')
        report = json.loads(of_dtype.read_text())
        assert report['settings']['dtype'] == dtype
        assert of_dtype.with_suffix('.png').read_bytes().startswith(b'\x89PNG')
        (layer,) = report['layers']['tiny']
        measured = [report['ratios'], report['rates'], report['steps'], report['sleep']]
        measured += [layer[d][what] for d in ('forward', 'forward_backward') for what in layer[d]]
        numbers = [n for n in jax.tree.leaves(measured) if not isinstance(n, str)]
        assert all(np.isfinite(n) and n >= 0 for n in numbers)
        times = [
            report['steps']['seconds'],
            report['sleep']['seconds'],
            layer['forward']['seconds'],
        ]
        assert min(jax.tree.leaves([times, report['ratios'], report['rates']])) > 0
        assert report['ratios']['steps']['lc / conv'] == pytest.approx(
            report['steps']['seconds']['lc'] / report['steps']['seconds']['conv']
        )
    for row in (
        'lax / default',
        'patches / default',
        'conv_local / lc',
        'lc fed / lc',
        'hebbian / wake',
    ):
        assert row in done.stdout


@pytest.mark.slow
def test_an_unknown_network_is_one_line():
    done = tiny_runs.call('benchmark', '--networks=resnet50')
    assert done.returncode == 1
    assert 'resnet20' in done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr


def test_pytorch_that_is_not_installed_is_one_line():
    hidden = "import sys; sys.modules['torch'] = None"
    done = tiny_runs.call('benchmark', '--quick', '--torch', before=hidden)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('error: --torch needs PyTorch')
