"""The layer against plain numpy and against convolution, and what its module and models hold."""

import functools
import re

import chex
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from agreement import assert_same
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from reference import layer_in_numpy, per_axis

import lcn_jax
from lcn_jax import sleep
from lcn_jax.layer.arguments import LAYOUTS
from lcn_jax.layer.backends import bilinear
from lcn_jax.layer.backends.native import library
from lcn_jax.layer.functional import conv_local
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.linen import LocalConv
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.layer.parameters import he_normal, tile_kernel
from lcn_jax.sleep.pools import num_pools, pool_numbers

TOLERANCES = {'float32': 1e-5, 'float64': 1e-12, 'bfloat16': 2e-2, 'float16': 3e-3}
PLAIN = dict(
    size=(6, 5), kernel_size=(3, 2), stride=1, padding='SAME', kernel_dilation=1, input_dilation=1,
    groups=1, channels=2, batch=(3,), dtype='float32', masked=False, layout='NHWC',
)  # fmt: skip


def apply(case, x, kernel, mask=None, implementation=None):
    """conv_local in the layout of the case; x and y are (*batch, *spatial, C)."""
    arguments = {
        name: case[name]
        for name in ('stride', 'padding', 'kernel_dilation', 'input_dilation', 'groups', 'layout')
    }
    if case['layout'] == 'HWNC':
        x = jnp.moveaxis(x, 0, -2)
    y = conv_local(x, kernel, mask=mask, implementation=implementation, **arguments)
    return jnp.moveaxis(y, -2, 0) if case['layout'] == 'HWNC' else y


def operands(case, features=6):
    """x, its tangent, kernel, its tangent, dy and mask, rounded to the dtype."""
    rng = np.random.default_rng(0)
    dimensions = len(case['size'])
    grid = Grid.create(
        case['size'], per_axis(case['kernel_size'], dimensions), case['stride'], case['padding'],
        case['kernel_dilation'], case['input_dilation'],
    )  # fmt: skip

    def normal(*shape):
        return rng.normal(size=shape).astype(jnp.dtype(case['dtype']))

    x_shape = (*case['batch'], *case['size'], case['groups'] * case['channels'])
    kernel_shape = (*grid.output_size, *grid.kernel_size, case['channels'], features)
    mask = rng.random(kernel_shape) < 0.7 if case['masked'] else None
    return (
        normal(*x_shape), normal(*x_shape), normal(*kernel_shape), normal(*kernel_shape),
        normal(*case['batch'], *grid.output_size, features), mask,
    )  # fmt: skip


@st.composite
def cases(draw):
    dimensions = draw(st.integers(1, 3))

    def each(low, high):
        return st.tuples(*[st.integers(low, high)] * dimensions)

    paddings = [
        'SAME',
        'VALID',
        'CIRCULAR',
        1,
        draw(each(0, 2)),
        ((2, 0), (1, 3), (0, 1))[:dimensions],
    ]
    case = PLAIN | dict(
        size=draw(each(3, 7 - dimensions)),
        kernel_size=draw(each(1, 3)),
        stride=draw(st.one_of(st.integers(1, 3), each(1, 3))),
        padding=draw(st.sampled_from(paddings + ['CAUSAL'] * (dimensions == 1))),
        kernel_dilation=draw(each(1, 2)),
        input_dilation=draw(st.one_of(st.just(1), each(1, 3))),
        groups=draw(st.sampled_from([1, 2, 3])),
        channels=draw(st.sampled_from([1, 2])),  # of a group
        batch=draw(st.sampled_from([(), (1,), (3,), (2, 3), (17,)])),
        dtype=draw(st.sampled_from(list(TOLERANCES))),
        masked=draw(st.booleans()),
    )
    if len(case['batch']) == 1:
        case['layout'] = draw(st.sampled_from(LAYOUTS))
    return case


def fits(case):
    try:
        operands(case)
    except ValueError:
        return False
    return True


@given(case=cases().filter(fits), implementation=st.sampled_from(bilinear.IMPLEMENTATIONS))
@example(PLAIN | dict(size=(7, 8), stride=(2, 1), padding=((2, 0), (0, 3)), groups=2), 'native')
@example(PLAIN | dict(size=(9,), kernel_size=(3,), stride=(2,), padding='CAUSAL'), 'lax')
@example(PLAIN | dict(size=(4, 3, 5), kernel_size=(2, 3, 2), groups=2), 'direct')
@example(PLAIN | dict(stride=3, kernel_dilation=(2, 3), input_dilation=(1, 2), batch=(2, 3)), 'lax')
@settings(max_examples=15, deadline=None, derandomize=True)
def test_value_and_derivatives_are_those_of_numpy(case, implementation):
    assume(implementation in bilinear.implementations(case['dtype']))
    x, dx, kernel, dkernel, dy, mask = operands(case)
    with jax.enable_x64(case['dtype'] == 'float64'):

        @jax.jit
        def results(x, dx, kernel, dkernel, dy):
            layer = functools.partial(apply, case, mask=mask, implementation=implementation)
            y, pullback = jax.vjp(layer, x, kernel)
            return y, *pullback(dy), jax.jvp(layer, (x, kernel), (dx, dkernel))[1]

        actual = jax.device_get(results(x, dx, kernel, dkernel, dy))
    assert {str(array.dtype) for array in actual} == {case['dtype']}
    ones = 1 if mask is None else mask
    x, dx, dy = (np.float64(a).reshape(-1, *a.shape[len(case['batch']) :]) for a in (x, dx, dy))
    kernel, dkernel = ones * np.float64(kernel), ones * np.float64(dkernel)
    y, of_x, of_kernel = layer_in_numpy(case, x, kernel, dy)
    tangent = layer_in_numpy(case, dx, kernel, dy)[0] + layer_in_numpy(case, x, dkernel, dy)[0]
    expected = y, of_x, of_kernel * ones, tangent
    expected = tuple(e.reshape(a.shape) for e, a in zip(expected, actual))
    assert_same(actual, expected, TOLERANCES[case['dtype']])


@pytest.mark.parametrize(
    'changes', [{}, {'size': (9,), 'kernel_size': (2,), 'stride': 2, 'kernel_dilation': 2}], ids=str
)
def test_a_tiled_kernel_makes_a_convolution(changes):
    case = PLAIN | {'groups': 2} | changes
    x, _, kernel, _, dy, _ = operands(case)
    dimensions = len(case['size'])
    shared = kernel[(0,) * dimensions]

    def convolution(x, kernel):
        return nn.Conv(
            6, case['kernel_size'], case['stride'], 'SAME', kernel_dilation=case['kernel_dilation'],
            feature_group_count=2, use_bias=False,
        ).apply({'params': {'kernel': kernel}}, x)  # fmt: skip

    def layer(x, kernel):
        return apply(case, x, tile_kernel(kernel, dy.shape[1:-1]))

    def value_and_gradients(layer):
        y, pullback = jax.vjp(layer, x, shared)
        return y, *pullback(dy)

    compiled = jax.jit(value_and_gradients, static_argnums=0)
    assert_same(compiled(layer), compiled(convolution))


@pytest.mark.parametrize('implementation', bilinear.implementations())
def test_what_is_not_finite_stays_where_it_is_seen(implementation):
    """The first pixel of the first example is seen by one neuron, without padding."""
    case = PLAIN | {'padding': 'VALID'}
    x, _, kernel, *_ = operands(case)
    x[0, 0, 0, 0] = np.nan

    @jax.jit
    def value_and_gradients(x, kernel):
        layer = functools.partial(apply, case, implementation=implementation)
        y, gradients = jax.vjp(layer, x, kernel)
        return y, *gradients(jnp.ones_like(y))

    y, dx, dkernel = jax.device_get(value_and_gradients(x, kernel))
    assert np.isnan(y[0, 0, 0]).all() and np.isfinite(y[1:]).all()
    assert np.isnan(y).any(-1).sum() == 1
    assert np.isfinite(dx).all()  # it does not depend on x
    assert np.isnan(dkernel).any((2, 3, 4, 5)).sum() == 1


class Tensor:
    """Like one of PyTorch, which need not be installed."""

    __module__ = 'torch'
    shape, dtype, ndim = (6, 6, 4), np.float32, 3


@pytest.mark.parametrize(
    'change, message',
    [
        ({'x': np.zeros((6, 4), np.float32)}, r'x must have axes \(\*batch, \*spatial, C\)'),
        ({'x': np.zeros((6, 6, 4), np.float32), 'layout': 'HWNC'}, r'\(\*spatial, N, C\)'),
        ({'kernel': np.zeros((6, 6, 3, 3, 4), np.float32)}, 'kernel must have 4, 6 or 8 axes'),
        ({'kernel': np.zeros((6, 6, 3, 3, 4, 8), np.float16)}, 'one floating-point dtype'),
        ({'kernel': np.zeros((5, 6, 3, 3, 4, 8), np.float32)}, r'need .* = \(6, 6, 3, 3, 4, 8\)'),
        ({'groups': 3}, 'groups must divide'),
        ({'groups': 0}, 'groups must be a positive integer, got 0'),
        ({'groups': None}, 'groups must be a positive integer, got None'),
        ({'groups': 2.0}, 'groups must be a positive integer, got 2.0'),
        ({'groups': True}, 'groups must be a positive integer, got True'),
        ({'x': [[[[1.0]]]]}, 'x must be an array, got list: convert'),
        ({'kernel': None}, 'kernel must be an array, got NoneType'),
        ({'x': Tensor()}, r'x must be an array, got a tensor of PyTorch: .*\.detach\(\)\.cpu\(\)'),
        ({'mask': [1]}, 'mask must be an array, got list'),
        ({'stride': 0}, 'stride must be'),
        ({'stride': (1, 1, 1)}, r'stride must be .* or 2 of them'),
        ({'padding': 'CAUSAL'}, 'padding must be'),
        ({'padding': np.array([1, 1])}, r'padding must be .* tuple or list .* got array'),
        ({'padding': np.ones((2, 2), int)}, r'padding must be .* tuple or list .* got array'),
        ({'stride': np.ones((2, 2), int)}, 'stride must be .* got array'),
        ({'kernel_dilation': 1.5}, 'kernel_dilation must be'),
        ({'kernel_dilation': 3, 'padding': 'VALID'}, 'dilated by .* does not fit'),
        ({'input_dilation': 0}, 'input_dilation must be'),
        ({'mask': np.ones((3, 3, 4, 8))}, r'mask must have the shape of the kernel, \(6, 6, 3'),
        ({'layout': 'NCHW'}, 'layout must be'),
        ({'implementation': 'magic'}, 'implementation must be'),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {
        'x': np.zeros((3, 6, 6, 4), np.float32),
        'kernel': np.zeros((6, 6, 3, 3, 4, 8), np.float32),
    }
    with pytest.raises(ValueError, match=message) as error:
        conv_local(**(arguments | change))
    assert '\n' not in str(error.value)


def test_why_native_is_not_available(monkeypatch):
    def message(dtype):
        x, kernel = np.zeros((1, 2, 2), dtype), np.zeros((2, 1, 2, 2), dtype)
        with pytest.raises(ValueError) as error:
            conv_local(x, kernel, implementation='native')
        return str(error.value)

    monkeypatch.setattr(library, '_load', lambda: (True, 'built'))
    assert re.search("'native' is not available: .* float32 .* not in float16", message('float16'))
    monkeypatch.setattr(library, '_load', lambda: (False, 'no native kernel: LCN_NATIVE=0'))
    assert message('float32') == (
        "implementation 'native' is not available: no native kernel: LCN_NATIVE=0; choose None or "
        "one of ('direct', 'patches', 'lax')."
    )


# ---- The module, and what models hold. -----------------------------------------------------------


@pytest.mark.parametrize('dimensions', [1, 2, 3])
def test_initial_scale_is_he_fan_out_of_one_position(dimensions):
    shape = (*(8, 8, 2)[:dimensions], *(3, 3, 2)[:dimensions], 16, 32)
    kernel = he_normal(jax.random.key(0), shape, dimensions=dimensions)
    taps = np.prod((3, 3, 2)[:dimensions])
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (32 * taps)), rtol=0.03)


@pytest.mark.parametrize('layout', ['NHWC', 'HWNC'])
def test_module_is_a_drop_in_for_conv(layout):
    arguments = {'features': 8, 'kernel_size': 3, 'strides': 2, 'feature_group_count': 2}
    x = np.random.RandomState(0).randn(3, 8, 8, 4).astype(np.float32)
    shared = nn.Conv(**arguments | {'kernel_size': (3, 3)}, padding=1)
    params = jax.device_get(jax.jit(shared.init)(jax.random.key(0), x))['params']
    params['bias'] = np.arange(8, dtype=np.float32)
    expected = jax.jit(shared.apply)({'params': params}, x)
    x = x if layout == 'NHWC' else x.transpose(1, 2, 0, 3)
    module = LocalConv(**arguments, padding=1, layout=layout)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    assert lcn_jax.grids(module, x) == {'kernel': LocalParameter(Grid.create(8, 3, 2, 1))}
    chex.assert_tree_all_finite(variables)
    tiled = params | {'kernel': np.tile(params['kernel'], (4, 4, 1, 1, 1, 1))}
    chex.assert_trees_all_equal_shapes(variables, {'params': tiled})
    y = np.asarray(jax.jit(module.apply)({'params': tiled}, x))
    assert_same(y if layout == 'NHWC' else y.transpose(2, 0, 1, 3), np.asarray(expected))


def test_module_computes_in_its_dtype_and_keeps_float32_parameters():
    module = LocalConv(4, 3, dtype=jnp.bfloat16)
    x = np.ones((2, 5, 5, 3), np.float32)
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    assert variables['params']['kernel'].dtype == jnp.float32
    assert y.dtype == jnp.bfloat16


class Two(nn.Module):
    """A model of sequences that is called with more than images."""

    @nn.compact
    def __call__(self, x, scale, *, deterministic):
        x = LocalConv(3, (3,), name='first')(scale * x)
        x = nn.Dropout(0.5)(x, deterministic=deterministic)
        return LocalConv(3, (2,), 2, name='second')(x)


TWO = {
    'first': {'kernel': LocalParameter(Grid.create((8,), 3))},
    'second': {'kernel': LocalParameter(Grid.create((8,), 2, 2))},
}


def test_grids_of_any_model():
    x = np.zeros((4, 8, 1), np.float32)
    assert lcn_jax.grids(Two(), x, 2.0, deterministic=True) == TWO
    assert lcn_jax.grids(Two(), (8, 1), np.float32(2), deterministic=False) == TWO
    assert lcn_jax.grids(nn.Dense(3), (8,)) == {}


@functools.partial(jax.jit, static_argnums=1)
def mean(kernel, neurons):
    return sleep.mean(kernel, neurons, None, border='include')


def test_pools_are_joined_by_a_map_over_the_tree():
    grids = lcn_jax.grids(Two(), (8, 1), np.float32(2), deterministic=True)
    assert set(map(num_pools, jax.tree.leaves(grids))) == {3, 1}
    joined = jax.tree.map(lambda local: local.joined_pools(), grids)
    for name, kernel in (('first', (8, 3, 1, 3)), ('second', (4, 2, 3, 3))):
        local = joined[name]['kernel']
        assert num_pools(local) == 1 and not pool_numbers(local).any()
        kernel = np.random.RandomState(0).randn(*kernel).astype(np.float32)
        shared = mean(kernel, local)
        np.testing.assert_allclose(shared, np.broadcast_to(kernel.mean(0), kernel.shape), atol=1e-6)


def sleep_of(params, grids):
    rule = sleep.resolve('mean', {'border': 'include'})
    return jax.jit(lambda params: sleep.share(params, grids, rule, jax.random.key(0)))(params)


def test_variables_can_be_stored_and_then_sleep(tmp_path):
    x = np.zeros((1, 8, 1), np.float32)
    init = jax.jit(functools.partial(Two().init, deterministic=True))
    variables = init(jax.random.key(0), x, 1.0)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(variables))
    stored = flax.serialization.to_bytes(variables)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / 'variables', variables)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / 'variables')
    expected = sleep_of(variables['params'], TWO)
    for again in (flax.serialization.msgpack_restore(stored), restored):
        chex.assert_trees_all_equal(sleep_of(again['params'], TWO), expected)


def test_models_with_lifted_layers_have_grids_and_sleep():
    """By nn.vmap an ensemble, by nn.scan a deep model: kernels with one axis in front."""

    class Ensemble(nn.Module):
        @nn.compact
        def __call__(self, x):
            vmapped = nn.vmap(
                LocalConv, variable_axes={'params': 0}, split_rngs={'params': True}, in_axes=None,
                axis_size=3,
            )  # fmt: skip
            x = vmapped(2, (3,), name='members')(x).mean(0)
            layers = nn.scan(
                Step, variable_axes={'params': 0}, split_rngs={'params': True}, length=3
            )
            return layers(name='layers')(x, None)[0]

    class Step(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return LocalConv(2, (3,), name='conv')(x), None

    x = np.zeros((1, 7, 2), np.float32)
    params = jax.device_get(jax.jit(Ensemble().init)(jax.random.key(0), x))['params']
    grid = Grid.create((7,), 3)
    grids = lcn_jax.grids(Ensemble(), x)
    lifted = LocalParameter(grid, ensemble=(0,))
    assert grids == {'members': {'kernel': lifted}, 'layers': {'conv': {'kernel': lifted}}}
    slept = jax.device_get(sleep_of(params, grids))
    for before, after in (
        (params['members'], slept['members']),
        (params['layers']['conv'], slept['layers']['conv']),
    ):
        for one, its_own in zip(before['kernel'], after['kernel']):
            assert_same(its_own, np.asarray(mean(one, grid)))
        assert np.abs(before['kernel'] - after['kernel']).max() > 1e-3
