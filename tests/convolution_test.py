"""`conv_shared` against `lax.conv_general_dilated`, under every transformation and on meshes.

It is the layer whose positions share one kernel; its sums are tested in native_test.py. There are
eight devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_same, transformed
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from reference import compiled

from lcn_jax.layer.backends.native import library
from lcn_jax.layer.functional import conv_local, conv_shared
from lcn_jax.layer.grid import Grid

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def reference(x, kernel, layout='NHWC', stride=1, padding='SAME', groups=1):
    axes = 'XYZ'[: kernel.ndim - 2]
    order = f'N{axes}C' if layout == 'NHWC' else f'{axes}NC'
    strides = (stride,) * len(axes)
    padding = padding if isinstance(padding, str) else [(padding, padding)] * len(axes)
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=(order, f'{axes}IO', order),
        feature_group_count=groups, precision='highest',
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    size=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    kernel_size=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.sampled_from(['SAME', 'VALID', 0, 2]),
    groups=st.integers(1, 3),
    layout=st.sampled_from(['NHWC', 'HWNC']),
)
def test_values_are_those_of_lax(size, kernel_size, stride, padding, groups, layout):
    if padding in ('VALID', 0):
        size = [n + kernel_size for n in size]
    channels, features = 2 * groups, 5 * groups
    x = normal(*((3, *size) if layout == 'NHWC' else (*size, 3)), channels)
    kernel = normal(*(kernel_size,) * len(size), 2, features)
    options = dict(stride=stride, padding=padding, groups=groups, layout=layout)

    @jax.jit
    def values_and_gradients(x, kernel):
        def of(convolution):
            y, pullback = jax.vjp(functools.partial(convolution, **options), x, kernel)
            return y, *pullback(jnp.cos(y))

        return of(conv_shared), of(reference)

    assert_same(*values_and_gradients(x, kernel))


@pytest.mark.parametrize('layout', ['NHWC', 'HWNC'])
@pytest.mark.parametrize(
    'options',
    [
        dict(padding='CIRCULAR', kernel_dilation=2),
        dict(input_dilation=(2, 3), padding=((1, 2), (0, 3)), stride=2),
        dict(kernel_dilation=(2, 1), groups=2),
    ],
    ids=str,
)
@pytest.mark.parametrize('native', [True, False], ids=['native', 'lax'])
def test_it_is_conv_local_of_the_tiled_kernel(monkeypatch, native, options, layout):
    """With all arguments; the reference is `lax.conv_general_dilated_local`."""
    monkeypatch.setattr(library, 'computes', lambda dtype: native and library.available())
    x = normal(*((2, 3, 6, 7) if layout == 'NHWC' else (6, 7, 4)), 4)
    kernel = normal(3, 2, 4 // options.get('groups', 1), 6)
    arguments = ('padding', 'kernel_dilation', 'input_dilation', 'stride')
    geometry = {name: options[name] for name in options if name in arguments}
    grid = Grid.create((6, 7), (3, 2), **geometry)

    @compiled
    def shared_and_local(x, kernel):
        tiled = jnp.broadcast_to(kernel, (*grid.output_size, *kernel.shape))
        return (
            conv_shared(x, kernel, layout=layout, **options),
            conv_local(x, tiled, layout=layout, implementation='lax', **options),
        )

    assert_same(*shared_and_local(x, kernel))


@pytest.mark.parametrize('dtype', ['float16', 'float64', 'bfloat16', 'float32'])
def test_dtypes(dtype):
    with jax.enable_x64(True):
        x, kernel = (normal(*s).astype(dtype) for s in ((2, 5, 5, 3), (3, 3, 3, 4)))

        @compiled
        def in_both(x, kernel):
            return conv_shared(x, kernel), reference(x.astype('float64'), kernel.astype('float64'))

        y, wide = in_both(x, kernel)
        assert y.dtype == dtype
        assert_same(y, wide, 4 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize(
    'x, kernel, options, message',
    [
        ((2, 5, 5, 3), (3, 3, 2, 4), {}, r'need \(\*kernel, C // groups, O\) = \(3, 3, 3, 4\)'),
        ((2, 5, 5, 3), (3, 3, 1, 4), {'groups': 3}, 'groups must divide channels and features'),
        ((5, 5), (3, 3, 3, 4), {}, r'x must have axes \(\*batch, \*spatial, C\)'),
        ((2, 5, 5, 3), (3, 3), {}, r'kernel must have 3, 4 or 5 axes'),
        ((2, 5, 5, 3), (3, 3, 3, 4), {'stride': 0}, 'stride must be a positive integer'),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(x, kernel, options, message):
    with pytest.raises(ValueError, match=message) as error:
        conv_shared(normal(*x), normal(*kernel), **options)
    assert '\n' not in str(error.value)


# ---- Transformations, in one dimension, which compiles soonest. ----------------------------------

X, KERNEL, GROUPS = normal(8, 5, 2), normal(3, 1, 8), 2
native_only = pytest.mark.skipif(not library.available(), reason=library.describe())


def layer_and_gradients(convolution):
    layer = functools.partial(convolution, stride=2, groups=GROUPS)
    return layer, jax.grad(lambda x, kernel: jnp.sin(layer(x, kernel)).sum(), (0, 1))


@functools.cache
def expected():
    """Value and gradients."""
    layer, gradients = layer_and_gradients(reference)
    return jax.jit(lambda x, kernel: [layer(x, kernel), gradients(x, kernel)])(X, KERNEL)


def test_on_one_device():
    @compiled
    def found_and_wanted(x, kernel):
        both = map(layer_and_gradients, (conv_shared, reference))
        return [transformed(*functions, x, kernel) for functions in both]

    assert_same(*found_and_wanted(X, KERNEL))


@native_only
def test_what_runs_where():
    """Custom calls where the arrays are whole; convolutions of XLA on meshes and in exports."""
    mesh = jax.make_mesh((8,), ('devices',), axis_types=(AxisType.Auto,))
    _, gradients = layer_and_gradients(conv_shared)
    split = jax.device_put(X, NamedSharding(mesh, P('devices')))
    whole, on_mesh = (jax.jit(gradients).lower(x, KERNEL).as_text() for x in (X, split))
    exported = jax.export.export(jax.jit(gradients))(X, KERNEL)
    for text, native in ((whole, True), (on_mesh, False), (exported.mlir_module(), False)):
        assert ('lcn_kernel_gradient' in text) == native
        assert ('stablehlo.convolution' in text) != native
    assert_same(exported.call(X, KERNEL), expected()[1])


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def test_on_a_mesh(kind):
    mesh = jax.make_mesh((8,), ('devices',), axis_types=(kind,))
    layer, gradients = layer_and_gradients(conv_shared)
    wanted = expected()
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, P('devices')))
        kernel = jax.device_put(KERNEL, NamedSharding(mesh, P()))
        assert_same(jax.jit(lambda x, k: [layer(x, k), gradients(x, k)])(x, kernel), wanted)


def test_in_pmap_and_shard_map():
    layer, gradients = layer_and_gradients(conv_shared)
    wanted = expected()

    def on_device(x, kernel):
        dx, dkernel = gradients(x, kernel)
        return layer(x, kernel), dx, jax.lax.psum(dkernel, 'devices')

    on_devices = jax.pmap(on_device, 'devices', in_axes=(0, None))
    y, dx, dkernel = jax.device_get(on_devices(X[:, None], KERNEL))
    assert_same([y[:, 0], (dx[:, 0], dkernel[3])], wanted)

    mesh = jax.make_mesh((8,), ('devices',), axis_types=(AxisType.Auto,))
    specs = P('devices'), P()
    split = functools.partial(jax.shard_map, mesh=mesh, in_specs=specs)
    # JAX itself sums the gradient of what is the same on all devices.
    in_map = jax.jit(split(gradients, out_specs=specs))(X, KERNEL)
    assert_same(in_map, wanted[1])
    outside = jax.grad(lambda k: jnp.sin(split(layer, out_specs=specs[0])(X, k)).sum())
    assert_same(jax.jit(outside)(KERNEL), wanted[1][1])
